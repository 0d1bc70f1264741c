"""`ratelimit stages` and `ratelimit account`: limits that all callers share."""

from __future__ import annotations

import json
from typing import Any

import click

from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.errors import NotFound
from ratelimit.model import Stage, Throttle
from ratelimit.registry import plan_documents
from ratelimit.validation import shown


@click.group(short_help="Configure stages, and look at their limits.")
def stages() -> None:
    """Configure stages, and look at them. To keep all of them in one file, see `ratelimit apply`."""


def as_data(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON shows it: as a plan file does, rates as exact texts."""
    return {"id": stage.id, **json.loads(plan_documents.stage_json(stage))}


def _stage(catalog: Catalog, stage_id: str) -> Stage:
    found = next((stage for stage in catalog.stages() if stage.id == stage_id), None)
    if found is None:
        raise NotFound(f"no stage {shown(stage_id)} is configured", field="stage_id")
    return found


@stages.command("list", short_help="List all configured stages.")
@options.json_option
@connection_options
def list_stages(connection: Connection, as_json: bool) -> None:
    """List all configured stages."""
    with connection.catalog() as catalog:
        found = catalog.stages()
    if as_json:
        output.print_json([as_data(stage) for stage in found])
        return
    if not found:
        output.console().print("No stage is configured.")
        return
    table = output.table("id", "throttle of each method", "methods", "open to all", numbers=("methods", "open to all"))
    for stage in found:
        keyless = sum(not method.key_required for method in stage.methods.values())
        shared = output.throttle(stage.throttle) or "unlimited"
        table.add_row(stage.id, shared, f"{len(stage.methods):,}", f"{keyless:,}")
    output.console().print(table)


@stages.command(short_help="Show one stage.")
@click.argument("stage_id")
@options.json_option
@connection_options
def show(connection: Connection, stage_id: str, as_json: bool) -> None:
    """Show what is configured for the stage STAGE_ID ("petstore/prod"). "*" stands for all methods not listed."""
    with connection.catalog() as catalog:
        found = _stage(catalog, stage_id)
    if as_json:
        output.print_json(as_data(found))
        return
    shared = output.throttle(found.throttle) or "unlimited"
    table = output.table("method", "key", "throttle")
    for name, method in found.methods.items():
        needed = "needed" if method.key_required else "open to all"
        table.add_row(name, needed, output.throttle(method.throttle) or shared)
    table.add_row("*", "needed", shared)
    output.console().print(f"Stage {found.id}: buckets that all callers share.")
    output.console().print(table)


@stages.command(short_help="Remove a stage's configuration.")
@click.argument("stage_id")
@options.yes_option
@options.json_option
@connection_options
def delete(connection: Connection, stage_id: str, yes: bool, as_json: bool) -> None:
    """Remove the configuration of the stage STAGE_ID, with its limits. Plans that name it go on opening it."""
    with connection.catalog() as catalog:
        found = _stage(catalog, stage_id)
        options.confirm(f"Remove the limits of stage {stage_id}?", yes=yes)
        catalog.delete_stage(stage_id, expected=found)
    if as_json:
        output.print_json({"deleted": stage_id})
    else:
        output.console().print(f"Removed the configuration of stage {stage_id}.")


@click.group(short_help="The throttle that all requests share.")
def account() -> None:
    """The one throttle that all requests of all callers share."""


@account.command("show", short_help="Show it.")
@options.json_option
@connection_options
def show_account(connection: Connection, as_json: bool) -> None:
    """Show the account's throttle."""
    with connection.catalog() as catalog:
        _show_account(catalog.get_account_throttle(), "Account: {}.", as_json=as_json)


@account.command("set", short_help="Set it.")
@options.throttle_options
@options.json_option
@connection_options
def set_account(connection: Connection, rate: str | None, burst: int | None, as_json: bool) -> None:
    """Set the account's throttle."""
    throttle = options.throttle(rate, burst)
    if throttle is None:
        raise click.UsageError("give --rate and --burst; account unset removes the throttle")
    with connection.catalog() as catalog:
        before = catalog.get_account_throttle()
        catalog.set_account_throttle(throttle)
    told = "Nothing changed, account: {}." if before == throttle else "Account, from now on: {}."
    _show_account(throttle, told, as_json=as_json)


@account.command("unset", short_help="Remove it.")
@options.yes_option
@options.json_option
@connection_options
def unset_account(connection: Connection, yes: bool, as_json: bool) -> None:
    """Remove the account's throttle."""
    with connection.catalog() as catalog:
        before = catalog.get_account_throttle()
        if before is not None:
            options.confirm(f"Remove the account's throttle ({output.throttle(before)})?", yes=yes)
        catalog.set_account_throttle(None, expected=before)
    told = "Nothing changed, account: {}." if before is None else "Account, from now on: {}."
    _show_account(None, told, as_json=as_json)


def _show_account(throttle: Throttle | None, told: str, *, as_json: bool) -> None:
    if as_json:
        output.print_json(
            {"throttle": None if throttle is None else json.loads(plan_documents.throttle_json(throttle))}
        )
    else:
        output.console().print(told.format(output.throttle(throttle) or "unlimited"))
