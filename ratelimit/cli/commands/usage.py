"""`ratelimit usage`: what keys used, day by day, and what is left of a quota."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import click

from ratelimit.admin.usage import Usage
from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.commands import usage_report
from ratelimit.cli.commands.keys import titled
from ratelimit.cli.connection import Connection, connection_options, server_day
from ratelimit.registry.windows import DAYS_KEPT

_DAYS = 14
_FIRST = date(1970, 1, 1)


class _WithDefault(click.Group):
    """A group that takes `usage gold` for `usage show gold`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args.insert(0, "show")
        return super().parse_args(ctx, args)


@click.group(cls=_WithDefault, short_help="What keys used, day by day.", subcommand_metavar="PLAN | COMMAND [ARGS]...")
def usage() -> None:
    """Show what the keys of a plan used, day by day: `usage PLAN` is short for `usage show PLAN`."""


@usage.command(short_help="What the keys of a plan used.")
@click.argument("plan_id")
@click.option(
    "--from", "start", type=options.day, metavar="DAY", help="The first day; 14 days up to --to unless given."
)
@click.option("--to", "end", type=options.day, metavar="DAY", help="The last day; today (UTC) unless given.")
@click.option("--key", "key_id", metavar="KEY_ID", help="One key alone.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a line for each key and day as CSV.")
@options.json_option
@connection_options
def show(
    connection: Connection,
    plan_id: str,
    start: date | None,
    end: date | None,
    key_id: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Show what the keys of the plan PLAN_ID used on each day (UTC), and how many of their requests were denied.

    Days are kept for 90 days; of older ones a warning is given. In CSV, cells that a spreadsheet would take for a
    formula have a single quote before them.
    """
    if as_csv and as_json:
        raise click.UsageError("give one of --csv and --json")
    with connection.limiter() as limiter:
        catalog = limiter.catalog
        key = None if key_id is None else catalog.get_key(key_id)
        today = server_day(limiter)
        end = end or today
        start = start or max(_FIRST, end - timedelta(days=_DAYS - 1))
        pages = _pages(catalog, plan_id, start, end, key_id)
        if as_csv:
            known = catalog.keys() if key is None else [key]
            usage_report.print_csv(pages, {each.id: each for each in known})
        elif as_json:
            usage_report.print_json(pages)
        else:
            title = f"Plan {plan_id}" if key is None else f"Key {titled(key)} in plan {plan_id}"
            usage_report.show(catalog.get_plan(plan_id), pages, title, of_one_key=key is not None)
    oldest = today - timedelta(days=DAYS_KEPT)
    if start < oldest:
        told = f"Days before {oldest} are no longer kept: what was used then is told as 0."
        output.console(stderr=True).print(told, style="yellow")


def _pages(catalog: Catalog, plan_id: str, start: date, end: date, key_id: str | None) -> Iterator[Usage]:
    cursor = None
    while True:
        page = catalog.usage(plan_id, start, end, key_id, cursor=cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


@usage.command("set-remaining", short_help="Set what is left of a key's quota.")
@click.argument("plan_id")
@click.argument("key_id")
@click.argument("remaining", type=click.IntRange(0))
@options.json_option
@connection_options
def set_remaining(connection: Connection, plan_id: str, key_id: str, remaining: int, as_json: bool) -> None:
    """Set what is left of the quota of the key KEY_ID in the plan PLAN_ID to REMAINING, more or less than it was.

    It holds for the current window; the next one has the plan's limit again.
    """
    with connection.catalog() as catalog:
        catalog.set_remaining(plan_id, key_id, remaining)
        plan = catalog.get_plan(plan_id)
    if as_json:
        output.print_json({"plan": plan_id, "key": key_id, "remaining": remaining})
    else:
        told = f"Key {key_id} has {remaining:,} left of plan {plan_id} ({output.quota(plan.quota)})"
        output.console().print(f"{told}, until this window ends.")
