"""`ratelimit usage`: what keys used, day by day, and what remains of a quota."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import NamedTuple

import click

from ratelimit.admin.csv.format import csv_line, without_formula
from ratelimit.admin.usage import Usage
from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import display_name
from ratelimit.cli.connection import Connection, connection_options, server_day
from ratelimit.decision import Reason
from ratelimit.model import ApiKey, UsagePlan
from ratelimit.registry.windows import DAYS_KEPT

_DEFAULT_DAYS = 14
_FIRST_DAY = date(1970, 1, 1)
_BAR_WIDTH = 32
_CSV_COLUMNS = ("PlanId", "KeyId", "Name", "Owner", "Day", "Used", "Remaining", "Throttled", "QuotaExceeded")


class _GroupWithDefault(click.Group):
    """A group that takes `usage gold` for `usage show gold`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args.insert(0, "show")
        return super().parse_args(ctx, args)


@click.group(
    cls=_GroupWithDefault, short_help="Show what keys used, day by day.", subcommand_metavar="PLAN | COMMAND [ARGS]..."
)
def usage() -> None:
    """Show what the keys of a plan used, day by day: `usage PLAN` is short for `usage show PLAN`."""


@usage.command(
    short_help="Show what the keys of a plan used.", epilog="Example: ratelimit usage show gold --from 2026-11-01"
)
@click.argument("plan_id")
@click.option("--from", "start", type=options.day, metavar="DAY", help="The first day; by default, 14 days are shown.")
@click.option("--to", "end", type=options.day, metavar="DAY", help="The last day; by default, today (UTC).")
@click.option("--key", "key_id", metavar="KEY_ID", help="Show one key only.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a line per key and day as CSV.")
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

    Days are kept for 90 days; a warning says where older ones were asked for. In CSV, cells that a spreadsheet would
    take for a formula get a single quote in front.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other: give one of them")
    with connection.limiter() as limiter:
        catalog = limiter.catalog
        key = None if key_id is None else catalog.get_key(key_id)
        today = server_day(limiter)
        end = end or today
        start = start or max(_FIRST_DAY, end - timedelta(days=_DEFAULT_DAYS - 1))
        pages = _pages(catalog, plan_id, start, end, key_id)
        if as_csv:
            keys = catalog.keys() if key is None else [key]
            print_csv(pages, {each.id: each for each in keys})
        elif as_json:
            _print_json(pages)
        else:
            title = f"Plan {plan_id}" if key is None else f"Key {display_name(key)} in plan {plan_id}"
            _print_days(catalog.get_plan(plan_id), pages, title, of_one_key=key is not None)
    oldest = today - timedelta(days=DAYS_KEPT)
    if start < oldest:
        warning = f"Days before {oldest} are no longer kept: their usage is shown as 0."
        output.console(stderr=True).print(warning, style="yellow")


def _pages(catalog: Catalog, plan_id: str, start: date, end: date, key_id: str | None) -> Iterator[Usage]:
    cursor = None
    while True:
        page = catalog.usage(plan_id, start, end, key_id, cursor=cursor)
        yield page
        cursor = page.cursor
        if cursor is None:
            return


class _KeyDay(NamedTuple):
    """What one key used on one day; `remaining` is None without a quota, `denied` counts requests by reason."""

    key_id: str
    day: date
    used: int
    remaining: int | None
    denied: Mapping[str, int]


def _key_days(page: Usage) -> Iterator[_KeyDay]:
    for key_id, days in page.items.items():
        for day, (used, remaining), denied in zip(page.days(), days, page.denied[key_id], strict=True):
            yield _KeyDay(key_id, day, used, remaining, denied)


def print_csv(pages: Iterable[Usage], keys: Mapping[str, ApiKey]) -> None:
    """Print a line per key and day.

    Args:
        pages: The usage of one plan.
        keys: Keys by id, for names and owners. Deleted ones may be missing.
    """
    click.echo(csv_line(_CSV_COLUMNS), nl=False)
    for page in pages:
        for key_id, day, used, remaining, denied in _key_days(page):
            key = keys.get(key_id) or ApiKey(key_id)
            texts = (page.plan_id, key_id, key.name, key.owner, day.isoformat())
            denials = (denied.get(reason.value, 0) for reason in (Reason.THROTTLED, Reason.QUOTA_EXCEEDED))
            figures = (used, "" if remaining is None else remaining, *denials)
            click.echo(csv_line([*map(without_formula, texts), *map(str, figures)]), nl=False)


def _print_json(pages: Iterable[Usage]) -> None:
    days_by_key: dict[str, list[dict[str, object]]] = {}
    page = None
    for page in pages:
        for key_id, day, used, remaining, denied in _key_days(page):
            data = {"day": day.isoformat(), "used": used, "remaining": remaining, "denied": dict(denied)}
            days_by_key.setdefault(key_id, []).append(data)
    if page is None:
        raise AssertionError("a listing has at least one page")
    keys = [{"key": key_id, "days": days} for key_id, days in days_by_key.items()]
    output.print_json({"plan": page.plan_id, "from": page.start.isoformat(), "to": page.end.isoformat(), "keys": keys})


def _print_days(plan: UsagePlan, pages: Iterable[Usage], title: str, *, of_one_key: bool) -> None:
    """Print a table of days: all keys together, or one key with what remained of its quota."""
    used: dict[date, int] = {}
    denied: dict[date, int] = {}
    remaining: dict[date, int | None] = {}
    active_keys, keys = set[str](), set[str]()
    for page in pages:
        keys.update(page.items)
        for day in page.days():
            used.setdefault(day, 0)
        for key_day in _key_days(page):
            day, denials = key_day.day, sum(key_day.denied.values())
            used[day] += key_day.used
            denied[day] = denied.get(day, 0) + denials
            remaining[day] = key_day.remaining
            if key_day.used or denials:
                active_keys.add(key_day.key_id)
    console = output.console()
    limits = ", ".join(filter(None, (output.throttle(plan.throttle), output.quota(plan.quota)))) or "unlimited"
    console.print(f"{title} ({limits})")
    shows_remaining = of_one_key and plan.quota is not None
    numbers = ("used", "denied", *(("left",) if shows_remaining else ()))
    table = output.table("day", *numbers, "", numbers=numbers)
    most_used = max(used.values())
    for day, number in used.items():
        figures = [number, denied.get(day, 0)]
        cells = [f"{figure:,}" for figure in figures] + ([f"{remaining[day] or 0:,}"] if shows_remaining else [])
        bar = output.bar(number, most_used, _BAR_WIDTH, encoding=console.encoding)
        table.add_row(f"{day:%a %Y-%m-%d}", *cells, bar)
    console.print(table)
    total = f"{sum(used.values()):,} used, {sum(denied.values()):,} denied"
    of_keys = "" if of_one_key else f", by {output.count(len(active_keys), 'key')} of {len(keys):,}"
    console.print(f"{total}{of_keys}.")


@usage.command(
    "set-remaining",
    short_help="Set what remains of a key's quota.",
    epilog="Example: ratelimit usage set-remaining gold tpcx6e0oyw 5000",
)
@click.argument("plan_id")
@click.argument("key_id")
@click.argument("remaining", type=click.IntRange(0))
@options.json_option
@connection_options
def set_remaining(connection: Connection, plan_id: str, key_id: str, remaining: int, as_json: bool) -> None:
    """Set what remains of the quota of the key KEY_ID in the plan PLAN_ID to REMAINING, more or less than before.

    It applies to the current window only; the next one starts with the plan's limit again.
    """
    with connection.catalog() as catalog:
        catalog.set_remaining(plan_id, key_id, remaining)
        plan = catalog.get_plan(plan_id)
    if as_json:
        output.print_json({"plan": plan_id, "key": key_id, "remaining": remaining})
    else:
        message = f"Key {key_id} has {remaining:,} left of plan {plan_id} ({output.quota(plan.quota)})"
        output.console().print(f"{message}, until this window ends.")
