"""`ratelimit migrate`: move a namespace to another server or cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import click

from ratelimit.admin.migration.migrate import MigrationReport
from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.connection import deadline_option, namespace_option
from ratelimit.cli.output import InputFailure, StoreFailure
from ratelimit.errors import ConfigError, StoreError
from ratelimit.store import clients, urls
from ratelimit.validation import without_values

_CONTINUE = "Nothing is lost: run the same command again to go on."
_CONTINUE_FINISH = f"{_CONTINUE} Gateways may answer 503 until it is done; --cancel leads back to FROM."
_NOTABLE_DIFFERENCE_S = 1
"""Buckets of a server whose clock is that far ahead have tokens that were not due yet, or lack some."""


@click.command(
    short_help="Move all data to another server or cluster.",
    epilog="Example: ratelimit migrate redis://old:6379 'redis://new:7000?cluster=true'",
)
@click.argument("source", metavar="FROM", envvar="RATELIMIT_FROM_URL")
@click.argument("target", metavar="TO", envvar="RATELIMIT_TO_URL")
@click.option(
    "--finish",
    is_flag=True,
    help="Hand over: stop the gateways of FROM, copy the rest, compare both sides, and let TO decide.",
)
@click.option("--cancel", is_flag=True, help="Remove the unfinished copy, and let FROM decide again.")
@click.option(
    "--max-age",
    metavar="SECONDS",
    type=options.Seconds(),
    default=5.0,
    show_default=True,
    help="The longest max_age of any gateway. --finish waits for so long, until all have stopped.",
)
@click.option(
    "--stale-catalogue",
    metavar="SECONDS",
    type=options.Seconds(),
    default=300.0,
    show_default=True,
    help="The longest stale_catalogue_s of any gateway. If FROM is a cluster, --finish waits for so long, if that is "
    "more than --max-age.",
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

    Without --finish, what differs is copied while gateways go on at FROM. Run it as often as you like.

    With --finish, gateways answer 503 until they are started with the URL of TO. Stop administrators first. What
    differs is copied, gateways are stopped, --max-age passes, the rest is copied, both sides are counted, and TO
    decides.

    If it is interrupted, run the same command again. Until --finish is done, --cancel leads back to FROM.

    Put URLs with passwords into RATELIMIT_FROM_URL and RATELIMIT_TO_URL. Both users need all permissions on the names
    of the namespace.
    """
    if finish and cancel:
        raise click.UsageError("give --finish or --cancel, not both")
    if finish:
        options.confirm(
            f"Gateways will answer 503 until they are started with the URL of TO, for at least {max_age:g} s, or "
            f"{max(max_age, stale_catalogue):g} s if FROM is a cluster. Hand over?",
            yes=yes,
        )
    if cancel:
        options.confirm("Remove the copy at TO, and let FROM decide again?", yes=yes)
    how_to_go_on = _CONTINUE_FINISH if finish else _CONTINUE
    with _catalogs(source, target, namespace, deadline, how_to_go_on) as (here, there), output.progress() as progress:
        task = progress.add_task("Migrating", total=None, note="")
        phases = list[str]()

        def show(what: str, done: int) -> None:
            what = what.replace("the source", "FROM").replace("the target", "TO")
            if finish and what not in phases:  # a hand-over takes minutes: whoever waits for it sees how far it is
                phases.append(what)
                progress.console.print(f"{what} ...")
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
def _catalogs(
    source: str, target: str, namespace: str, deadline: float, how_to_go_on: str
) -> Iterator[tuple[Catalog, Catalog]]:
    """Open both catalogues for a `with` block; what ends it early names the sides as the command line does."""
    with ExitStack() as stack:
        here, there = (
            Catalog(stack.enter_context(closing(_client(side, url, deadline))), namespace=namespace)
            for side, url in (("FROM", source), ("TO", target))
        )
        shown = {"source": f"FROM ({urls.redact_url(source)})", "target": f"TO ({urls.redact_url(target)})"}
        try:
            yield here, there
        except ConfigError as error:
            message = f"{shown.get(error.field, error.field)} {error.problem}".lstrip()
            raise InputFailure(without_values(message)) from None
        except StoreError as error:
            lines = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
            lines.append(f"The source is {shown['source']}, the target is {shown['target']}. {how_to_go_on}")
            raise StoreFailure("\n".join(lines)) from None
        except KeyboardInterrupt:
            click.echo(f"\nInterrupted. {how_to_go_on}", err=True)
            raise


def _client(side: str, url: str, deadline: float) -> Any:
    try:
        return clients.client_from_url(url, clients.validate_deadline(deadline))
    except ConfigError as error:
        raise ConfigError(error.problem, field=side if error.field == "url" else error.field) from None


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
        console.print("Cancelled: TO holds no copy, and FROM decides. Gateways notice by themselves.")
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
