"""`ratelimit apply`: make the catalogue equal to a plan file."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options

_STYLES = {"added": "green", "changed": "yellow", "removed": "red"}


@click.command(
    short_help="Make the catalogue equal to a plan file.", epilog="Example: ratelimit apply plans.toml --dry-run"
)
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Show what would change, without changing it.")
@options.json_option
@connection_options
def apply(connection: Connection, file: str, dry_run: bool, as_json: bool) -> None:
    """Store the plans and stages of FILE (TOML), and remove those that it does not name.

    All or nothing. The change is pushed to replicas, which apply it within 100 ms. Usage of keys is kept. If a plan
    would be removed that still has keys, nothing is changed, and the command says so. A plan that spans several APIs
    draws a warning, as each of its keys opens all of them.
    """
    with connection.catalog() as catalog:
        report = catalog.apply(file, dry_run=dry_run)
    if as_json:
        changes = [change._asdict() for change in report.changes]
        output.print_json({"dry_run": dry_run, "changes": changes, "warnings": list(report.warnings)})
        return
    for warning in report.warnings:
        output.console(stderr=True).print(f"Warning: {warning}", style="yellow", soft_wrap=True)
    would = "would be " if dry_run else ""
    console = output.console()
    if not report.changes:
        console.print(f"Nothing {'would change' if dry_run else 'changed'}: the catalogue equals {file} already.")
        return
    table = output.table("", "what", "id")
    for change, kind, name in report.changes:
        table.add_row(would + change, kind, name, style=_STYLES[change])
    console.print(table)
    console.print(
        f"{output.count(len(report.changes), 'change')}{' (dry run)' if dry_run else ''}, {connection.shown_url}."
    )
