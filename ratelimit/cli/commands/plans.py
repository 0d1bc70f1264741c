"""`ratelimit plans`: usage plans, and what they would do if they were in force."""

from __future__ import annotations

import json
from typing import Any

import click

from ratelimit.admin.key_access import offers as offered
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import NotFound
from ratelimit.model import PlanStage, Quota, Throttle, UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.snapshot import CatalogSnapshot

_Methods = tuple[tuple[str, str, str, int], ...]


@click.group(short_help="Make, change and list usage plans.")
def plans() -> None:
    """Make, change and list usage plans. To keep all of them in one file, see `ratelimit apply`."""


def as_data(plan: UsagePlan) -> dict[str, Any]:
    """Return a plan as JSON shows it: as a plan file does, rates as exact texts."""
    data: dict[str, Any] = json.loads(plan_documents.plan_json(plan))
    return {"id": plan.id, **data}


def _fields(plan: UsagePlan) -> dict[str, str]:
    methods = [
        f"{opened.stage} {method}: {output.throttle(throttle)}"
        for opened in plan.stages
        for method, throttle in opened.throttles.items()
    ]
    return {
        "name": output.plain(plan.name),
        "throttle": output.throttle(plan.throttle) or "unlimited",
        "scope": "a bucket for each method" if plan.throttle_scope == "key_method" else "",
        "quota": output.quota(plan.quota) or "unlimited",
        "stages": "\n".join(opened.stage for opened in plan.stages) or "none",
        "methods": "\n".join(methods),
        "alerts": ", ".join(f"{percent}%" for percent in plan.alerts),
        "shadow": plan.shadow or "",
        "lease": f"{plan.lease:g} s" if plan.lease else "",
    }


@plans.command("list", short_help="List all plans.")
@options.json_option
@connection_options
def list_plans(connection: Connection, as_json: bool) -> None:
    """List all plans."""
    with connection.catalog() as catalog:
        found = catalog.plans()
    if as_json:
        output.print_json([as_data(plan) for plan in found])
        return
    if not found:
        output.console().print("No plan.")
        return
    table = output.table("id", "name", "throttle", "quota", "stages")
    for plan in found:
        shown = _fields(plan)
        table.add_row(plan.id, *(shown[name] for name in ("name", "throttle", "quota", "stages")))
    output.keep_whole(table, "id", "stages")
    output.console().print(table)


@plans.command(short_help="Show one plan.")
@click.argument("plan_id")
@options.json_option
@connection_options
def show(connection: Connection, plan_id: str, as_json: bool) -> None:
    """Show all that the plan PLAN_ID says."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
    if as_json:
        output.print_json(as_data(plan))
    else:
        output.show_fields({"id": plan.id, **_fields(plan)})


@plans.command(short_help="Add a plan, or replace it.")
@click.argument("plan_id")
@click.option("--name", default="", help="What it is called.")
@options.throttle_options
@click.option("--quota", type=int, metavar="LIMIT", help="Units per --period. Unlimited unless given.")
@click.option("--period", type=click.Choice(["DAY", "WEEK", "MONTH"], case_sensitive=False), help="Of the quota.")
@click.option("--offset", type=int, default=0, metavar="DAYS", help="By how many days the period starts later.")
@click.option("--stage", "stages", multiple=True, metavar="API/STAGE", help="A stage that it opens; repeat it.")
@click.option(
    "--method",
    "methods",
    type=(str, str, str, int),
    multiple=True,
    metavar="STAGE METHOD RATE BURST",
    help="A method with a bucket that replaces the plan's; opens the stage. Repeat it.",
)
@click.option(
    "--scope",
    type=click.Choice(["key", "key_method"]),
    default="key",
    show_default=True,
    help="What a key has one bucket for: all of the plan, or each method of each stage.",
)
@click.option("--alert", "alerts", type=int, multiple=True, metavar="PERCENT", help="A share of the quota; repeat it.")
@click.option("--shadow", metavar="PLAN", help="A plan that is tried out on what this one admits.")
@click.option("--lease", type=float, default=0, metavar="SECONDS", help="For which replicas prepay units of hot keys.")
@options.yes_option
@options.json_option
@connection_options
def put(
    connection: Connection,
    plan_id: str,
    name: str,
    rate: str | None,
    burst: int | None,
    quota: int | None,
    period: str | None,
    offset: int,
    stages: tuple[str, ...],
    methods: _Methods,
    scope: str,
    alerts: tuple[int, ...],
    shadow: str | None,
    lease: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Add the plan PLAN_ID, or replace the one of this id: what is not given, the plan does not have then.

    Keys keep what they have used. What would change of a plan that exists is shown first, and has to be confirmed.
    """
    if (quota is None) != (period is None):
        raise click.UsageError("give both of --quota and --period, or neither")
    if offset and quota is None:
        raise click.UsageError("--offset is about a quota: give --quota and --period")
    limit = None if quota is None or period is None else Quota(quota, period.upper(), offset)  # type: ignore[arg-type]
    throttle = options.throttle(rate, burst)
    plan = UsagePlan(plan_id, throttle, limit, _stages(stages, methods), name, scope, alerts, shadow, lease)  # type: ignore[arg-type]
    with connection.catalog() as catalog:
        try:
            before = catalog.get_plan(plan_id)
        except NotFound:
            before = None
        what, question = f"plan {plan_id}", f"Replace plan {plan_id}?"
        told = options.replacing(what, before, plan, _fields, question, new="Added", yes=yes)
        catalog.put_plan(plan, expected=before)
    if as_json:
        output.print_json(as_data(plan))
    else:
        output.console().print(told)


def _stages(stages: tuple[str, ...], methods: _Methods) -> list[PlanStage]:
    opened: dict[str, dict[str, Throttle]] = {stage: {} for stage in stages}
    for stage, method, rate, burst in methods:
        opened.setdefault(stage, {})[method] = Throttle(rate, burst)
    return [PlanStage(stage, throttles) for stage, throttles in opened.items()]


@plans.command(short_help="Remove a plan that no key is in.")
@click.argument("plan_id")
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, plan_id: str, yes: bool, as_json: bool) -> None:
    """Remove the plan PLAN_ID. One that still has keys is not removed."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
        options.confirm(f"Remove plan {plan_id}?", yes=yes)
        catalog.delete_plan(plan_id, expected=plan)
    if as_json:
        output.print_json({"deleted": plan_id})
    else:
        output.console().print(f"Removed plan {plan_id}.")


@plans.command(short_help="Print what a developer portal may offer, as JSON.")
@options.json_option
@connection_options
def offers(connection: Connection, as_json: bool) -> None:
    """Print the plans that a developer portal may offer: those that open a stage. Always JSON."""
    del as_json
    with connection.catalog() as catalog:
        snapshot = CatalogSnapshot(plans={plan.id: plan for plan in catalog.plans()})
    output.print_json(offered(snapshot))
