"""`ratelimit apply`: make a plan file hold."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options

_STYLES = {"added": "green", "changed": "yellow", "removed": "red"}


@click.command(short_help="Make a plan file hold.")
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@options.json_option
@connection_options
def apply(connection: Connection, file: str, dry_run: bool, as_json: bool) -> None:
    """Make the plan FILE (TOML) hold: what it says is put, plans and stages that it does not name are removed.

    All or nothing; replicas are told at once, and go by it within 100 ms. Keys keep what they have used. A plan that
    still has keys is not removed: the command then says so and changes nothing. Plans that span several APIs draw a
    warning: each of their keys opens all of them.
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
        console.print(f"Nothing {'would change' if dry_run else 'changed'}: {file} holds already.")
        return
    table = output.table("", "what", "id")
    for change, kind, name in report.changes:
        table.add_row(would + change, kind, name, style=_STYLES[change])
    console.print(table)
    console.print(
        f"{output.count(len(report.changes), 'change')}{' (dry run)' if dry_run else ''}, {connection.shown_url}."
    )
