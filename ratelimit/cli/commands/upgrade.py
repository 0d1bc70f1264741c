"""`ratelimit upgrade`: migrate what an earlier version stored to the schema of this one."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options


@click.command(
    short_help="Migrate stored data to this version's schema.", epilog="Example: ratelimit upgrade --dry-run"
)
@click.option("--dry-run", is_flag=True, help="Show what would be migrated, without changing it.")
@options.json_option
@connection_options
def upgrade(connection: Connection, dry_run: bool, as_json: bool) -> None:
    """Migrate what an earlier version stored to the schema of this version. All counts stay.

    Stop administrators first, and do not run the earlier version afterwards: its gateways answer 503 from the first
    step on. Gateways of this version decide again once the names are changed, within a second. An upgrade that was
    interrupted can be repeated. It needs a Redis user with all permissions on the names of the namespace.
    """
    with output.progress() as progress, connection.catalog() as catalog:
        task = progress.add_task("Upgrading", total=None, note="")
        report = catalog.upgrade(
            dry_run=dry_run,
            progress=lambda done: progress.update(task, completed=done, note=output.count(done, "key value")),
        )
    if as_json:
        data = {"schema": report.schema, "needed": report.is_needed, "renamed": report.renamed, "claims": report.claims}
        output.print_json({**data, "dry_run": dry_run})
        return
    if not report.is_needed:
        output.console().print(f"Nothing to upgrade: the stored data has schema {report.schema}, or there is none.")
        return
    counts = f"{output.count(report.renamed, 'name')} in Redis, {output.count(report.claims, 'key value')}"
    output.console().print(f"To upgrade: {counts}." if dry_run else f"Upgraded to schema {report.schema}: {counts}.")
