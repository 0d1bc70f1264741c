"""`ratelimit upgrade`: what a former version stored, brought to this version's schema."""

from __future__ import annotations

import click

from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.registry.schema import SCHEMA


@click.command(short_help="Bring what a former version stored to this version's schema.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do, and change nothing.")
@options.json_option
@connection_options
def upgrade(connection: Connection, dry_run: bool, as_json: bool) -> None:
    """Bring what a former version stored to this version's schema. All that is counted stays.

    Stop administrators first, and let nobody run the former version afterwards: its gateways answer 503 from the
    first step on. Gateways of this version decide again once the names are changed, within a second. An upgrade that
    was interrupted is simply repeated. It needs a user who may do everything with the names of the namespace.
    """
    with output.progress() as progress, connection.catalog() as catalog:
        task = progress.add_task("Upgrading", total=None, note="")
        report = catalog.upgrade(
            dry_run=dry_run,
            progress=lambda done: progress.update(task, completed=done, note=output.count(done, "key value")),
        )
    if as_json:
        told = {"schema": SCHEMA, "needed": report.is_needed, "renamed": report.renamed, "claims": report.claims}
        output.print_json({**told, "dry_run": dry_run})
        return
    if not report.is_needed:
        output.console().print(f"Nothing to upgrade: what is stored is of schema {SCHEMA}, or there is nothing.")
        return
    done = f"{output.count(report.renamed, 'name')} of Redis, {output.count(report.claims, 'key value')}"
    output.console().print(f"To upgrade: {done}." if dry_run else f"Upgraded to schema {SCHEMA}: {done}.")
