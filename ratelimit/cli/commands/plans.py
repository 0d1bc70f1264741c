"""`ratelimit plans`: create, change and list usage plans, and evaluate their shadows."""

from __future__ import annotations

import json
from typing import Any

import click

from ratelimit.admin import key_access
from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import name_of
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import NotFound, OnUnavailable
from ratelimit.model import PlanStage, Quota, Throttle, UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.validation import printable

_Methods = tuple[tuple[str, str, str, int], ...]


@click.group(short_help="Create, change and list usage plans.")
def plans() -> None:
    """Create, change and list usage plans. To keep all of them in one file, see `ratelimit apply`."""


def as_data(plan: UsagePlan) -> dict[str, Any]:
    """Return a plan for JSON: the fields of a plan file, rates as exact strings."""
    data: dict[str, Any] = json.loads(plan_documents.plan_json(plan))
    return {"id": plan.id, **data}


def _fields(plan: UsagePlan) -> dict[str, str]:
    methods = [
        f"{opened.stage} {method}: {output.throttle(throttle)}"
        for opened in plan.stages
        for method, throttle in opened.throttles.items()
    ]
    return {
        "name": printable(plan.name),
        "throttle": output.throttle(plan.throttle) or "unlimited",
        "scope": "a bucket per method" if plan.throttle_scope == "key_method" else "",
        "quota": output.quota(plan.quota) or "unlimited",
        "stages": "\n".join(opened.stage for opened in plan.stages) or "none",
        "methods": "\n".join(methods),
        "alerts": ", ".join(f"{percent}%" for percent in plan.alerts),
        "shadow": plan.shadow or "",
        "lease": f"{plan.lease:g} s" if plan.lease else "",
        "identities": "" if plan.max_identities is None else f"{plan.max_identities:,} at most",
        "without Redis": plan.on_unavailable or "",
    }


@plans.command("list", short_help="List all plans.", epilog="Example: ratelimit plans list")
@options.json_option
@connection_options
def list_plans(connection: Connection, as_json: bool) -> None:
    """List all plans."""
    with connection.catalog() as catalog:
        all_plans = catalog.plans()
    if as_json:
        output.print_json([as_data(plan) for plan in all_plans])
        return
    if not all_plans:
        output.console().print("No plans.")
        return
    table = output.table("id", "name", "throttle", "quota", "stages")
    for plan in all_plans:
        fields = _fields(plan)
        table.add_row(plan.id, *(fields[name] for name in ("name", "throttle", "quota", "stages")))
    output.avoid_wrapping(table, "id", "stages")
    output.console().print(table)


@plans.command(short_help="Show one plan.", epilog="Example: ratelimit plans show gold")
@click.argument("plan_id")
@options.json_option
@connection_options
def show(connection: Connection, plan_id: str, as_json: bool) -> None:
    """Show all fields of the plan PLAN_ID."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
    if as_json:
        output.print_json(as_data(plan))
    else:
        output.print_fields({"id": plan.id, **_fields(plan)})


@plans.command(
    short_help="Add a plan, or replace it.",
    epilog="Example: ratelimit plans put gold --rate 10 --burst 20 --stage petstore/prod",
)
@click.argument("plan_id")
@click.option("--name", default="", help="Its name.")
@options.throttle_options
@click.option("--quota", type=int, metavar="LIMIT", help="Units per --period. Unlimited by default.")
@click.option(
    "--period", type=click.Choice(["DAY", "WEEK", "MONTH"], case_sensitive=False), help="The period of the quota."
)
@click.option("--offset", type=int, default=0, metavar="DAYS", help="Days by which the period starts later.")
@click.option("--stage", "stages", multiple=True, metavar="API/STAGE", help="A stage that it opens; repeatable.")
@click.option(
    "--method",
    "methods",
    type=(str, str, str, int),
    multiple=True,
    metavar="STAGE METHOD RATE BURST",
    help="A method whose own bucket replaces the plan's; opens the stage. Repeatable.",
)
@click.option(
    "--scope",
    type=click.Choice(["key", "key_method"]),
    default="key",
    show_default=True,
    help="One bucket per key for the whole plan, or one for each method of each stage.",
)
@click.option(
    "--alert",
    "alerts",
    type=int,
    multiple=True,
    metavar="PERCENT",
    help="Alert at this share of the quota; repeatable.",
)
@click.option("--shadow", metavar="PLAN", help="A plan to try out on the requests that this one admits.")
@click.option(
    "--lease", type=float, default=0, metavar="SECONDS", help="How long replicas may prepay units of busy keys."
)
@click.option("--max-identities", type=int, metavar="NUMBER", help="How many identities may have a state at a time.")
@options.on_unavailable_option
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
    max_identities: int | None,
    on_unavailable: OnUnavailable | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Add the plan PLAN_ID, or replace it as a whole: a field that is not given is removed.

    Usage of keys is kept. Before an existing plan is replaced, the changes are shown and have to be confirmed.
    """
    if (quota is None) != (period is None):
        raise click.UsageError("--quota and --period belong together: give both or neither")
    if offset and quota is None:
        raise click.UsageError("--offset needs a quota: give --quota and --period")
    limit = None if quota is None or period is None else Quota(quota, period.upper(), offset)  # type: ignore[arg-type]
    throttle = options.throttle(rate, burst)
    settings: Any = (name, scope, alerts, shadow, lease, max_identities, on_unavailable)
    plan = UsagePlan(plan_id, throttle, limit, _stages(stages, methods), *settings)
    with connection.catalog() as catalog:
        try:
            before = catalog.get_plan(plan_id)
        except NotFound:
            before = None
        title, question = f"plan {plan_id}", f"Replace plan {plan_id}?"
        message = options.confirm_replacement(title, before, plan, _fields, question, verb_if_new="Added", yes=yes)
        catalog.put_plan(plan, expected=before)
    if as_json:
        output.print_json(as_data(plan))
    else:
        output.console().print(message)


def _stages(stages: tuple[str, ...], methods: _Methods) -> list[PlanStage]:
    throttles: dict[str, dict[str, Throttle]] = {stage: {} for stage in stages}
    for stage, method, rate, burst in methods:
        throttles.setdefault(stage, {})[method] = Throttle(rate, burst)
    return [PlanStage(stage, by_method) for stage, by_method in throttles.items()]


@plans.command(short_help="Remove a plan that has no keys.", epilog="Example: ratelimit plans delete trial")
@click.argument("plan_id")
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, plan_id: str, yes: bool, as_json: bool) -> None:
    """Remove the plan PLAN_ID. A plan that still has keys cannot be removed."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
        options.confirm(f"Remove plan {plan_id}?", yes=yes)
        catalog.delete_plan(plan_id, expected=plan)
    if as_json:
        output.print_json({"deleted": plan_id})
    else:
        output.console().print(f"Removed plan {plan_id}.")


@plans.command(
    short_help="Print the plans a developer portal may offer, as JSON.", epilog="Example: ratelimit plans offers"
)
@options.json_option
@connection_options
def offers(connection: Connection, as_json: bool) -> None:
    """Print the plans that a developer portal may offer: those that open a stage. Always as JSON."""
    del as_json
    with connection.catalog() as catalog:
        snapshot = CatalogSnapshot(plans={plan.id: plan for plan in catalog.plans()})
    output.print_json(key_access.offers(snapshot))


@plans.command(
    short_help="Show whom a plan's shadow would have denied.", epilog="Example: ratelimit plans shadow gold --top 5"
)
@click.argument("plan_id")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="How many keys to list.")
@options.json_option
@connection_options
def shadow(connection: Connection, plan_id: str, top: int, as_json: bool) -> None:
    """Show what the shadow of the plan PLAN_ID would have denied, since it was set or last reset.

    The shadow sees the requests that the plan admits. --json lists all keys.
    """
    with connection.catalog() as catalog:
        plan, counts = catalog.get_plan(plan_id), catalog.shadow_counts(plan_id)
        names = {} if as_json else {of_key.key_id: name_of(catalog, of_key.key_id) for of_key in counts[:top]}
    if as_json:
        keys = [
            {
                "key": of_key.key_id,
                "seen": of_key.seen,
                "denied": of_key.denied,
                "throttled": of_key.throttled,
                "over_quota": of_key.exceeded,
            }
            for of_key in counts
        ]
        output.print_json({"plan": plan_id, "shadow": plan.shadow, "keys": keys})
        return
    console = output.console()
    if not counts:
        console.print(f"The shadow {plan.shadow} of plan {plan_id} has seen no requests.")
        return
    seen, denied = sum(of_key.seen for of_key in counts), sum(of_key.denied for of_key in counts)
    denied_keys = sum(of_key.denied > 0 for of_key in counts)
    console.print(
        f"The shadow {plan.shadow} of plan {plan_id} saw {output.count(seen, 'request')} of "
        f"{output.count(len(counts), 'key')} and would have denied {denied:,}, of {output.count(denied_keys, 'key')}."
    )
    numbers = ("seen", "denied", "throttled", "over quota")
    table = output.table("key", "name", *numbers, "", numbers=(*numbers, ""))
    for of_key in counts[:top]:
        figures = (of_key.seen, of_key.denied, of_key.throttled, of_key.exceeded)
        share = f"{100 * of_key.denied / of_key.seen:.1f}%"
        cells = (of_key.key_id, names[of_key.key_id], *(f"{figure:,}" for figure in figures), share)
        table.add_row(*cells, style="yellow" if of_key.denied else "")
    output.avoid_wrapping(table, "key")
    console.print(table)
    if len(counts) > top:
        console.print(f"{output.count(len(counts) - top, 'more key')} (see --top).", style="dim")


@plans.command("shadow-reset", short_help="Reset a plan's shadow.", epilog="Example: ratelimit plans shadow-reset gold")
@click.argument("plan_id")
@options.yes_option
@options.json_option
@connection_options
def shadow_reset(connection: Connection, plan_id: str, yes: bool, as_json: bool) -> None:
    """Delete the counts and buckets of the shadow of the plan PLAN_ID. The plan itself and its keys stay."""
    with connection.catalog() as catalog:
        plan = catalog.get_plan(plan_id)
        if plan.shadow is not None:
            options.confirm(f"Delete what the shadow {plan.shadow} of plan {plan_id} counted?", yes=yes)
        catalog.reset_shadow(plan_id, expected=plan)
    if as_json:
        output.print_json({"plan": plan_id, "shadow": plan.shadow})
    else:
        output.console().print(f"The shadow {plan.shadow} of plan {plan_id} starts again from zero.")
