"""`ratelimit apply`: make a plan file hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from ratelimit.admin.opens import spans
from ratelimit.catalog import Catalog
from ratelimit.cli import inputs, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.core import document
from ratelimit.model import UsagePlan

_Parts = Mapping[tuple[str, str], object]
_STYLES = {"added": "green", "changed": "yellow", "removed": "red"}


@click.command(short_help="Make a plan file hold.")
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@inputs.json_option
@connection_options
def apply(connection: Connection, file: str, dry_run: bool, as_json: bool) -> None:
    """Make the plan FILE (TOML) hold: what it says is put, plans and stages that it does not name are removed.

    All or nothing; replicas go by it within a few seconds. Keys keep what they have used. A plan that still has keys
    is not removed: the command then says so and changes nothing (a dry run does not look at keys). Plans that span
    several APIs draw a warning: each of their keys opens all of them.
    """
    wanted = document.read(file)
    with connection.limiter() as limiter:
        before = _stored(limiter.catalog)
        if not dry_run:
            limiter.catalog.apply(file)
    changes = _changes(before, _parts(wanted.plans, wanted.stages, wanted.account))
    warnings = list(_spanning(wanted.plans.values()))
    if as_json:
        told = [{"change": change, "kind": kind, "id": name} for change, kind, name in changes]
        output.print_json({"dry_run": dry_run, "changes": told, "warnings": warnings})
        return
    for warning in warnings:
        output.console(stderr=True).print(f"Warning: {warning}", style="yellow", soft_wrap=True)
    would = "would be " if dry_run else ""
    console = output.console()
    if not changes:
        console.print(f"Nothing {'would change' if dry_run else 'changed'}: {file} holds already.")
        return
    table = output.table("", "what", "id")
    for change, kind, name in changes:
        table.add_row(would + change, kind, name, style=_STYLES[change])
    console.print(table)
    console.print(f"{output.count(len(changes), 'change')}{' (dry run)' if dry_run else ''}, {connection.shown_url}.")


def _spanning(plans: Iterable[UsagePlan]) -> Iterator[str]:
    for plan in plans:
        apis = sorted(spans(plan))
        if len(apis) > 1:
            yield f"plan {plan.id} spans {len(apis)} APIs ({', '.join(apis)}): each of its keys opens all of them"


def _stored(catalog: Catalog) -> _Parts:
    plans = {plan.id: plan for plan in catalog.plans()}
    stages = {stage.id: stage for stage in catalog.stages()}
    return _parts(plans, stages, catalog.get_account_throttle())


def _parts(plans: Mapping[str, Any], stages: Mapping[str, Any], account: object) -> _Parts:
    parts: dict[tuple[str, str], object] = {("plan", name): plan for name, plan in plans.items()}
    parts |= {("stage", name): stage for name, stage in stages.items()}
    if account is not None:
        parts["throttle", "account"] = account
    return parts


def _changes(before: _Parts, after: _Parts) -> list[tuple[str, str, str]]:
    """Return (change, kind, name) of all that differs."""
    found = [
        ("changed" if part in before else "added", *part) for part, value in after.items() if before.get(part) != value
    ]
    return found + [("removed", *part) for part in before if part not in after]
