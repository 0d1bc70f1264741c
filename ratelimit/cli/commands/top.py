"""`ratelimit top`: the keys that were used or denied most today."""

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
from ratelimit.validation import printable


@dataclass(frozen=True, slots=True)
class Row:
    """What one key used of one plan today.

    Attributes:
        key_id: The key.
        plan_id: The plan.
        used: Units.
        remaining: Units left of the quota, None without a quota.
        throttled: Requests denied by a throttle.
        over_quota: Requests denied by the quota.
    """

    key_id: str
    plan_id: str
    used: int
    remaining: int | None
    throttled: int
    over_quota: int

    @property
    def denied(self) -> int:
        """All requests that were denied."""
        return self.throttled + self.over_quota


@dataclass(slots=True)
class Sample:
    """The usage of today so far.

    Attributes:
        day: Today (UTC), by the server's clock.
        taken_at: Seconds of this process' monotonic clock.
        rows: One for each key and plan.
        denied_without_key: Denied requests that belong to no key, by reason.
    """

    day: date
    taken_at: float
    rows: list[Row] = field(default_factory=list)
    denied_without_key: Counter[str] = field(default_factory=Counter)

    def top(self, by: str, limit: int) -> list[Row]:
        """Return the first `limit` rows, sorted by "admitted" or "denied"."""

        def order(row: Row) -> tuple[int, int, str, str]:
            figures = (-row.used, -row.denied) if by == "admitted" else (-row.denied, -row.used)
            return (*figures, row.key_id, row.plan_id)

        return sorted(self.rows, key=order)[:limit]


@click.command(
    short_help="Watch the keys that are used or denied most.",
    epilog="Example: ratelimit top --by denied --every 10",
)
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
    help="How often to refresh. Each refresh reads the usage of every key: raise it for large catalogues.",
)
@click.option("--once", is_flag=True, help="Print once, for scripts. Implied by --json, and without a terminal.")
@click.option("--refreshes", type=click.IntRange(1), help="Stop after this many refreshes.")
@options.json_option
@connection_options
def top(
    connection: Connection, by: str, limit: int, every: float, once: bool, refreshes: int | None, as_json: bool
) -> None:
    """Watch what keys use of their plans today (UTC), and how often they are denied, until Ctrl-C.

    Replicas report denials about once a second. A key in several plans has a line for each of them.
    """
    with connection.limiter() as limiter:
        console = output.console()
        if as_json:
            output.print_json(_as_data(_sample(limiter), by, limit))
        elif once or not console.is_terminal:
            console.print(_TopTable(limiter.catalog, by, limit, rates=False).render(_sample(limiter)))
        else:
            top_table = _TopTable(limiter.catalog, by, limit)
            try:
                with Live(console=console, auto_refresh=False, transient=False) as live:
                    _repeat(lambda: live.update(top_table.render(_sample(limiter)), refresh=True), every, refreshes)
            except KeyboardInterrupt:
                return


def _repeat(show: Callable[[], None], every: float, times: int | None) -> None:
    while times is None or times > 0:
        started = time.monotonic()
        show()
        times = None if times is None else times - 1
        if times != 0:
            time.sleep(max(0.0, started + every - time.monotonic()))


def _sample(limiter: Limiter) -> Sample:
    sample = Sample(server_day(limiter), time.monotonic())
    for plan in limiter.catalog.plans():
        try:
            sample.rows += _rows(limiter.catalog, plan.id, sample.day)
        except NotFound:
            continue  # removed meanwhile
    denials_key = limiter._namespace.names.denials(sample.day.toordinal() - EPOCH_ORDINAL)
    sample.denied_without_key = limiter._store.run(_denied_without_key(denials_key))
    return sample


def _rows(catalog: Catalog, plan_id: str, day: date) -> Iterator[Row]:
    cursor = None
    while True:
        page = catalog.usage(plan_id, day, day, cursor=cursor)
        for key_id, ((used, remaining),) in page.items.items():
            (denied,) = page.denied[key_id]
            throttled, over_quota = (
                denied.get(reason.value, 0) for reason in (Reason.THROTTLED, Reason.QUOTA_EXCEEDED)
            )
            if used or throttled or over_quota:
                yield Row(key_id, plan_id, used, remaining, throttled, over_quota)
        cursor = page.cursor
        if cursor is None:
            return


def _denied_without_key(denials_key: str) -> Operation[Counter[str]]:
    (reply,) = yield [("HGETALL", denials_key)]
    by_reason = Counter[str]()
    for plan_id, key_id, reason, requests in denials_of_day(denials_key, reply):
        if not key_id:  # with a plan: of identities
            by_reason[f"{reason} under {plan_id}" if plan_id else reason] += requests
    return by_reason


class _TopTable:
    """Renders samples as tables. Remembers the last sample, for the rates, and the names of keys."""

    def __init__(self, catalog: Catalog, by: str, limit: int, *, rates: bool = True) -> None:
        self._catalog, self._by, self._limit, self._rates = catalog, by, limit, rates
        self._names: dict[str, str] = {}
        self._last: Sample | None = None

    def render(self, sample: Sample) -> Group:
        """Return the table of a sample, with a summary above it."""
        rate_column = ("used/s",) if self._rates else ()
        numbers = ("used", *rate_column, "throttled", "over quota", "left")
        table = output.table("key", "name", "plan", *numbers, numbers=numbers)
        used_before = {(row.key_id, row.plan_id): row.used for row in self._last.rows} if self._last else {}
        for row in sample.top(self._by, self._limit):
            rate = (self._rate(row, sample, used_before),) if self._rates else ()
            remaining = "" if row.remaining is None else f"{row.remaining:,}"
            cells = (f"{row.used:,}", *rate, f"{row.throttled:,}", f"{row.over_quota:,}", remaining)
            style = "red" if row.remaining == 0 else "yellow" if row.denied else ""
            table.add_row(row.key_id, self._name(row.key_id), row.plan_id, *cells, style=style)
        self._last = sample
        output.avoid_wrapping(table, "key")
        return Group(*_summary(sample), table if sample.rows else Text("No key was used today."))

    def _name(self, key_id: str) -> str:
        if key_id not in self._names:
            self._names[key_id] = name_of(self._catalog, key_id)
        return self._names[key_id]

    def _rate(self, row: Row, sample: Sample, used_before: dict[tuple[str, str], int]) -> str:
        if self._last is None or self._last.day != sample.day:
            return ""
        used = row.used - used_before.get((row.key_id, row.plan_id), 0)
        return f"{used / (sample.taken_at - self._last.taken_at):,.1f}"


def _summary(sample: Sample) -> Iterator[Text]:
    used, denied = sum(row.used for row in sample.rows), sum(row.denied for row in sample.rows)
    keys = len({row.key_id for row in sample.rows})
    yield Text(f"{sample.day} (UTC): {used:,} used, {denied:,} denied, by {output.count(keys, 'key')}.")
    if sample.denied_without_key:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sample.denied_without_key.most_common())
        yield Text(printable(f"Denied without a valid key: {reasons}."), style="dim")


def _as_data(sample: Sample, by: str, limit: int) -> dict[str, object]:
    return {
        "day": sample.day.isoformat(),
        "used": sum(row.used for row in sample.rows),
        "denied": sum(row.denied for row in sample.rows),
        "denied_to_unknown": dict(sample.denied_without_key),
        "keys": [
            {
                "key": row.key_id,
                "plan": row.plan_id,
                "used": row.used,
                "remaining": row.remaining,
                "throttled": row.throttled,
                "over_quota": row.over_quota,
            }
            for row in sample.top(by, limit)
        ],
    }
