"""`ratelimit stages`: configure stages, with the limits that all callers share."""

from __future__ import annotations

import json
from typing import Any

import click

from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import NotFound, OnUnavailable
from ratelimit.model import Method, Stage, Throttle, Unlisted
from ratelimit.registry import plan_documents
from ratelimit.validation import shown


@click.group(short_help="Configure and list stages.")
def stages() -> None:
    """Configure and list stages. To keep all of them in one file, see `ratelimit apply`."""


def as_data(stage: Stage) -> dict[str, Any]:
    """Return a stage for JSON: the fields of a plan file, rates as exact strings."""
    return {"id": stage.id, **json.loads(plan_documents.stage_json(stage))}


def _fields(stage: Stage) -> dict[str, str]:
    methods = [
        f"{name}: {output.throttle(method.throttle) or 'as the stage'}{'' if method.key_required else ', open to all'}"
        for name, method in sorted(stage.methods.items())
    ]
    return {
        "throttle": output.throttle(stage.throttle) or "unlimited",
        "methods": "\n".join(methods),
        "unlisted": "denied" if stage.unlisted == "deny" else "limited",
        "without Redis": stage.on_unavailable or "",
    }


def _find(catalog: Catalog, stage_id: str) -> Stage | None:
    return next((stage for stage in catalog.stages() if stage.id == stage_id), None)


def _get(catalog: Catalog, stage_id: str) -> Stage:
    stage = _find(catalog, stage_id)
    if stage is None:
        raise NotFound(f"no stage {shown(stage_id)} is configured", field="stage_id")
    return stage


@stages.command("list", short_help="List all configured stages.", epilog="Example: ratelimit stages list")
@options.json_option
@connection_options
def list_stages(connection: Connection, as_json: bool) -> None:
    """List all configured stages."""
    with connection.catalog() as catalog:
        all_stages = catalog.stages()
    if as_json:
        output.print_json([as_data(stage) for stage in all_stages])
        return
    if not all_stages:
        output.console().print("No stage is configured.")
        return
    table = output.table("id", "throttle of each method", "methods", "open to all", numbers=("methods", "open to all"))
    for stage in all_stages:
        open_methods = sum(not method.key_required for method in stage.methods.values())
        throttle = output.throttle(stage.throttle) or "unlimited"
        table.add_row(stage.id, throttle, f"{len(stage.methods):,}", f"{open_methods:,}")
    output.console().print(table)


@stages.command(short_help="Show one stage.", epilog="Example: ratelimit stages show petstore/prod")
@click.argument("stage_id")
@options.json_option
@connection_options
def show(connection: Connection, stage_id: str, as_json: bool) -> None:
    """Show the configuration of the stage STAGE_ID ("petstore/prod"). "*" stands for all methods not listed."""
    with connection.catalog() as catalog:
        stage = _get(catalog, stage_id)
    if as_json:
        output.print_json(as_data(stage))
        return
    default = output.throttle(stage.throttle) or "unlimited"
    table = output.table("method", "key", "throttle")
    for name, method in stage.methods.items():
        needs_key = "needed" if method.key_required else "open to all"
        table.add_row(name, needs_key, output.throttle(method.throttle) or default)
    if stage.unlisted == "deny":
        table.add_row("*", "denied, unless the key's plan lists it", "")
    else:
        table.add_row("*", "needed", default)
    output.console().print(f"Stage {stage.id}: buckets that all callers share.")
    if stage.on_unavailable is not None:
        output.console().print(f"Without Redis, checks are decided by the policy {stage.on_unavailable}.")
    output.console().print(table)


@stages.command(
    short_help="Configure a stage, or replace its configuration.",
    epilog="Example: ratelimit stages put petstore/prod --rate 100 --burst 50",
)
@click.argument("stage_id")
@options.throttle_options
@click.option(
    "--method",
    "throttled",
    type=(str, str, int),
    multiple=True,
    metavar="METHOD RATE BURST",
    help="A method with a throttle of its own; repeatable.",
)
@click.option(
    "--list",
    "listed",
    multiple=True,
    metavar="METHOD",
    help="A method with a bucket of its own, of the stage's size; repeatable.",
)
@click.option("--open", "keyless", multiple=True, metavar="METHOD", help="A method that needs no key; repeatable.")
@click.option(
    "--unlisted",
    type=click.Choice(["limit", "deny"]),
    default="limit",
    show_default=True,
    help="Whether methods that neither the stage nor the key's plan lists have limits of their own, or are denied.",
)
@options.on_unavailable_option
@options.yes_option
@options.json_option
@connection_options
def put(
    connection: Connection,
    stage_id: str,
    rate: str | None,
    burst: int | None,
    throttled: tuple[tuple[str, str, int], ...],
    listed: tuple[str, ...],
    keyless: tuple[str, ...],
    unlisted: Unlisted,
    on_unavailable: OnUnavailable | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Configure the stage STAGE_ID, or replace its configuration as a whole: what is not given is removed.

    --rate and --burst are the size of each method's bucket, which all callers share. Before a configuration is
    replaced, the changes are shown and have to be confirmed.
    """
    throttles = {name: Throttle(method_rate, method_burst) for name, method_rate, method_burst in throttled}
    names = dict.fromkeys((*throttles, *listed, *keyless))
    methods = {name: Method(throttles.get(name), key_required=name not in keyless) for name in names}
    stage = Stage(stage_id, options.throttle(rate, burst), methods, unlisted, on_unavailable)
    with connection.catalog() as catalog:
        before = _find(catalog, stage_id)
        title, question = f"stage {stage_id}", f"Replace the configuration of stage {stage_id}?"
        message = options.confirm_replacement(
            title, before, stage, _fields, question, verb_if_new="Configured", yes=yes
        )
        catalog.put_stage(stage, expected=before)
    if as_json:
        output.print_json(as_data(stage))
    else:
        output.console().print(message)


@stages.command(short_help="Remove a stage's configuration.", epilog="Example: ratelimit stages delete petstore/prod")
@click.argument("stage_id")
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, stage_id: str, yes: bool, as_json: bool) -> None:
    """Remove the configuration of the stage STAGE_ID, with its limits. Plans that open the stage still open it."""
    with connection.catalog() as catalog:
        stage = _get(catalog, stage_id)
        options.confirm(f"Remove the limits of stage {stage_id}?", yes=yes)
        catalog.delete_stage(stage_id, expected=stage)
    if as_json:
        output.print_json({"deleted": stage_id})
    else:
        output.console().print(f"Removed the configuration of stage {stage_id}.")
