"""`ratelimit migrate`: move a namespace to another server or cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import click

from ratelimit.admin.migration.migrate import MigrationReport
from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.connection import deadline_option, namespace_option
from ratelimit.cli.output import StoreFailure
from ratelimit.errors import StoreError
from ratelimit.store import clients, urls

_NOTABLE_DIFFERENCE_S = 1
"""Buckets of a server whose clock is that far ahead have tokens that were not due yet, or lack some."""


@click.command(
    short_help="Move all data to another server or cluster.",
    epilog="Example: ratelimit migrate redis://old:6379 'redis://new:7000?cluster=true'",
)
@click.argument("source", metavar="FROM", envvar="RATELIMIT_FROM_URL")
@click.argument("target", metavar="TO", envvar="RATELIMIT_TO_URL")
@click.option("--finish", is_flag=True, help="Stop the gateways of FROM, copy the rest, compare, and let TO decide.")
@click.option("--cancel", is_flag=True, help="Remove the unfinished copy, and let FROM decide again.")
@click.option(
    "--max-age",
    metavar="SECONDS",
    type=options.Seconds(),
    default=5.0,
    show_default=True,
    help="The longest max_age of any gateway: how long --finish waits for them to stop.",
)
@click.option(
    "--stale-catalogue",
    metavar="SECONDS",
    type=options.Seconds(),
    default=300.0,
    show_default=True,
    help="The longest stale_catalogue_s of any gateway: how long --finish waits if FROM is a cluster.",
)
@options.yes_option
@options.json_option
@namespace_option
@deadline_option
def migrate(
    source: str,
    target: str,
    finish: bool,
    cancel: bool,
    max_age: float,
    stale_catalogue: float,
    yes: bool,
    as_json: bool,
    namespace: str,
    deadline: float,
) -> None:
    """Move a namespace from one server or cluster to another. Everything that was counted stays.

    Without --finish, what differs is copied while gateways go on at FROM; run it as often as you like. With --finish,
    gateways answer 503 from now on until they are started with TO; the rest is copied, both sides are counted, and TO
    decides. Interrupted anywhere, the same command goes on. Administrators pause meanwhile.

    URLs with passwords belong into RATELIMIT_FROM_URL and RATELIMIT_TO_URL. Both users need all permissions on the
    names of the namespace.
    """
    if finish and cancel:
        raise click.UsageError("give --finish or --cancel, not both")
    if finish:
        options.confirm("Gateways answer 503 from now on until they are started with TO. Hand over?", yes=yes)
    if cancel:
        options.confirm("Remove the copy at TO, and let FROM decide again?", yes=yes)
    with _catalogs(source, target, namespace, deadline) as (here, there), output.progress() as progress:
        task = progress.add_task("Migrating", total=None, note="")

        def show(what: str, done: int) -> None:
            progress.update(task, description=what, completed=done, note=output.count(done, "name"))

        if cancel:
            report = here.cancel_migration(there)
        else:
            report = here.migrate(
                there, finish=finish, max_age=max_age, stale_catalogue_s=stale_catalogue, progress=show
            )
    if as_json:
        output.print_json(_as_json(report))
    else:
        _print(report, cancelled=cancel)


@contextmanager
def _catalogs(source: str, target: str, namespace: str, deadline: float) -> Iterator[tuple[Catalog, Catalog]]:
    """Open both catalogues for a `with` block."""
    with ExitStack() as stack:
        here, there = (
            Catalog(
                stack.enter_context(closing(clients.client_from_url(url, clients.validate_deadline(deadline)))),
                namespace=namespace,
            )
            for url in (source, target)
        )
        try:
            yield here, there
        except StoreError as error:
            raise StoreFailure(
                f"{type(error).__name__}: {error}\nFROM is {urls.redact_url(source)}, TO is {urls.redact_url(target)}. "
                "Nothing is lost: run the same command again."
            ) from None


def _as_json(report: MigrationReport) -> dict[str, object]:
    counts = report.counts
    return {
        "finished": report.is_finished,
        "paused": report.is_paused,
        "copied": report.copied,
        "counts": None
        if counts is None
        else {"keys": counts.keys, "values": counts.values, "plans": counts.plans, "used": counts.used},
        "clock_difference_s": report.clock_difference_s,
    }


def _print(report: MigrationReport, *, cancelled: bool) -> None:
    console = output.console()
    if cancelled:
        console.print("Cancelled: FROM decides again. Its gateways notice by themselves.")
        return
    if report.counts is not None:
        counts = report.counts
        console.print(
            f"Moved, equal on both sides: {output.count(counts.keys, 'API key')}, "
            f"{output.count(counts.values, 'key value')}, {output.count(counts.plans, 'plan')}, "
            f"{output.count(counts.used, 'unit')} used of quotas."
        )
    if report.is_finished:
        console.print("TO decides from now on: start gateways and administrators with its URL. FROM answers 503.")
    else:
        console.print(f"Copied {output.count(report.copied, 'name')} that differed.")
        console.print(
            "Gateways have been stopped, and TO does not decide yet: run this again with --finish."
            if report.is_paused
            else "Gateways go on at FROM. Run this again with --finish to hand over."
        )
    if abs(report.clock_difference_s) > _NOTABLE_DIFFERENCE_S:
        ahead = f"{abs(report.clock_difference_s):.1f} s {'ahead of' if report.clock_difference_s > 0 else 'behind'}"
        console.print(f"Warning: the clock of TO is {ahead} that of FROM. Synchronize both, or limits jump by as much.")
