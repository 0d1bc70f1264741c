"""`ratelimit top`: the busiest and the most limited keys of today."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from ratelimit.catalog import Catalog
from ratelimit.cli import options, output
from ratelimit.cli.commands.keys import name_of
from ratelimit.cli.connection import Connection, connection_options, server_day
from ratelimit.decision import Reason
from ratelimit.effects import Operation
from ratelimit.errors import NotFound
from ratelimit.limiter import Limiter
from ratelimit.local.denial_counters import denials_of_day
from ratelimit.registry.windows import EPOCH_ORDINAL


@dataclass(frozen=True, slots=True)
class Row:
    """What one key had of one plan today: units used, what is left of the quota, requests that were denied."""

    key_id: str
    plan_id: str
    used: int
    left: int | None
    throttled: int
    over_quota: int

    @property
    def denied(self) -> int:
        """Requests that were denied."""
        return self.throttled + self.over_quota


@dataclass(slots=True)
class Today:
    """A look at the day so far. `strangers` are denied requests whose key is not known, by reason."""

    day: date
    taken_at: float
    rows: list[Row] = field(default_factory=list)
    strangers: Counter[str] = field(default_factory=Counter)

    def first(self, by: str, most: int) -> list[Row]:
        """Return the rows with most of what is asked for."""
        used_first = by == "admitted"

        def order(row: Row) -> tuple[int, int, str, str]:
            figures = (-row.used, -row.denied) if used_first else (-row.denied, -row.used)
            return (*figures, row.key_id, row.plan_id)

        return sorted(self.rows, key=order)[:most]


@click.command(short_help="Watch the busiest and the most limited keys.")
@click.option(
    "--by", type=click.Choice(["admitted", "denied"]), default="admitted", show_default=True, help="What to sort by."
)
@click.option("--limit", type=click.IntRange(1), default=15, show_default=True, help="How many keys to list.")
@click.option(
    "--every",
    type=options.Seconds(0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look. Each look asks about every key: give large catalogues more time.",
)
@click.option("--once", is_flag=True, help="One look, for scripts; also where there is no terminal, and with --json.")
@click.option("--looks", type=click.IntRange(1), help="End after so many looks.")
@options.json_option
@connection_options
def top(
    connection: Connection, by: str, limit: int, every: float, once: bool, looks: int | None, as_json: bool
) -> None:
    """Watch what keys use today (UTC) of their plans, and how often they are denied, until Ctrl-C.

    Replicas report denials about once a second. A key in several plans has a line for each.
    """
    with connection.limiter() as limiter:
        console = output.console()
        if as_json:
            output.print_json(_as_data(_look(limiter), by, limit))
        elif once or not console.is_terminal:
            console.print(_View(limiter.catalog, by, limit, rates=False).of(_look(limiter)))
        else:
            view = _View(limiter.catalog, by, limit)
            try:
                with Live(console=console, auto_refresh=False, transient=False) as live:
                    _repeat(lambda: live.update(view.of(_look(limiter)), refresh=True), every, looks)
            except KeyboardInterrupt:
                return


def _repeat(show: Callable[[], None], every: float, looks: int | None) -> None:
    while looks is None or looks > 0:
        started = time.monotonic()
        show()
        looks = None if looks is None else looks - 1
        if looks != 0:
            time.sleep(max(0.0, started + every - time.monotonic()))


def _look(limiter: Limiter) -> Today:
    today = Today(server_day(limiter), time.monotonic())
    for plan in limiter.catalog.plans():
        try:
            today.rows += _rows(limiter.catalog, plan.id, today.day)
        except NotFound:
            continue  # removed meanwhile
    today.strangers = limiter._store.run(_strangers(limiter._namespace.names.denials(_number(today.day))))
    return today


def _number(day: date) -> int:
    return day.toordinal() - EPOCH_ORDINAL


def _rows(catalog: Catalog, plan_id: str, day: date) -> Iterator[Row]:
    cursor = None
    while True:
        page = catalog.usage(plan_id, day, day, cursor=cursor)
        for key_id, ((used, left),) in page.items.items():
            (denied,) = page.denied[key_id]
            throttled, over = (denied.get(reason.value, 0) for reason in (Reason.THROTTLED, Reason.QUOTA_EXCEEDED))
            if used or throttled or over:
                yield Row(key_id, plan_id, used, left, throttled, over)
        cursor = page.cursor
        if cursor is None:
            return


def _strangers(name: str) -> Operation[Counter[str]]:
    (reply,) = yield [("HGETALL", name)]
    found = Counter[str]()
    for _, key_id, reason, requests in denials_of_day(name, reply):
        if not key_id:
            found[reason] += requests
    return found


class _View:
    """Makes a table of each look; remembers the one before, for the rates, and the names of keys."""

    def __init__(self, catalog: Catalog, by: str, limit: int, *, rates: bool = True) -> None:
        self._catalog, self._by, self._limit, self._rates = catalog, by, limit, rates
        self._names: dict[str, str] = {}
        self._before: Today | None = None

    def of(self, today: Today) -> Group:
        """Return the table of one look."""
        rate = ("used/s",) if self._rates else ()
        numbers = ("used", *rate, "throttled", "over quota", "left")
        table = output.table("key", "name", "plan", *numbers, numbers=numbers)
        before = {(row.key_id, row.plan_id): row.used for row in self._before.rows} if self._before else {}
        for row in today.first(self._by, self._limit):
            speed = (self._rate(row, today, before),) if self._rates else ()
            left = "" if row.left is None else f"{row.left:,}"
            cells = (f"{row.used:,}", *speed, f"{row.throttled:,}", f"{row.over_quota:,}", left)
            style = "red" if row.left == 0 else "yellow" if row.denied else ""
            table.add_row(row.key_id, self._name(row.key_id), row.plan_id, *cells, style=style)
        self._before = today
        output.keep_whole(table, "key")
        return Group(*_summary(today), table if today.rows else Text("No key was used today."))

    def _name(self, key_id: str) -> str:
        if key_id not in self._names:
            self._names[key_id] = name_of(self._catalog, key_id)
        return self._names[key_id]

    def _rate(self, row: Row, today: Today, before: dict[tuple[str, str], int]) -> str:
        if self._before is None or self._before.day != today.day:
            return ""
        used = row.used - before.get((row.key_id, row.plan_id), 0)
        return f"{used / (today.taken_at - self._before.taken_at):,.1f}"


def _summary(today: Today) -> Iterator[Text]:
    used, denied = sum(row.used for row in today.rows), sum(row.denied for row in today.rows)
    keys = len({row.key_id for row in today.rows})
    yield Text(f"{today.day} (UTC): {used:,} used, {denied:,} denied, by {output.count(keys, 'key')}.")
    if today.strangers:
        told = ", ".join(f"{count:,} {reason}" for reason, count in today.strangers.most_common())
        yield Text(output.plain(f"Denied, and not known to whom: {told}."), style="dim")


def _as_data(today: Today, by: str, limit: int) -> dict[str, object]:
    return {
        "day": today.day.isoformat(),
        "used": sum(row.used for row in today.rows),
        "denied": sum(row.denied for row in today.rows),
        "denied_to_unknown": dict(today.strangers),
        "keys": [
            {
                "key": row.key_id,
                "plan": row.plan_id,
                "used": row.used,
                "remaining": row.left,
                "throttled": row.throttled,
                "over_quota": row.over_quota,
            }
            for row in today.first(by, limit)
        ],
    }
