"""What `ratelimit usage` prints: for people, as CSV, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date

import click

from ratelimit.admin.csv.format import csv_line, without_formula
from ratelimit.admin.usage import Usage
from ratelimit.cli import output
from ratelimit.decision import Reason
from ratelimit.model import ApiKey, UsagePlan

_BAR = 32
_COLUMNS = ("PlanId", "KeyId", "Name", "Owner", "Day", "Used", "Remaining", "Throttled", "QuotaExceeded")
_Line = tuple[str, date, int, int | None, Mapping[str, int]]


def _lines(page: Usage) -> Iterator[_Line]:
    """Yield key id, day, what was used, what was left, and denials by reason: of each key and day."""
    for key_id, days in page.items.items():
        for day, (used, left), denied in zip(page.days(), days, page.denied[key_id], strict=True):
            yield key_id, day, used, left, denied


def print_csv(pages: Iterable[Usage], keys: Mapping[str, ApiKey]) -> None:
    """Print a line for each key and day. `keys` are those whose names are known."""
    click.echo(csv_line(_COLUMNS), nl=False)
    for page in pages:
        for key_id, day, used, left, denied in _lines(page):
            key = keys.get(key_id) or ApiKey(key_id)
            texts = (page.plan_id, key_id, key.name, key.owner, day.isoformat())
            reasons = (denied.get(reason.value, 0) for reason in (Reason.THROTTLED, Reason.QUOTA_EXCEEDED))
            figures = (used, "" if left is None else left, *reasons)
            click.echo(csv_line([*map(without_formula, texts), *map(str, figures)]), nl=False)


def print_json(pages: Iterable[Usage]) -> None:
    """Print all keys with their days."""
    keys: dict[str, list[dict[str, object]]] = {}
    page = None
    for page in pages:
        for key_id, day, used, left, denied in _lines(page):
            told = {"day": day.isoformat(), "used": used, "remaining": left, "denied": dict(denied)}
            keys.setdefault(key_id, []).append(told)
    if page is None:
        raise AssertionError("a listing has at least one page")
    listed = [{"key": key_id, "days": days} for key_id, days in keys.items()]
    output.print_json(
        {"plan": page.plan_id, "from": page.start.isoformat(), "to": page.end.isoformat(), "keys": listed}
    )


def show(plan: UsagePlan, pages: Iterable[Usage], title: str, *, of_one_key: bool) -> None:
    """Print the days of all keys together, or of one key with what was left of its quota."""
    used: dict[date, int] = {}
    denied: dict[date, int] = {}
    left: dict[date, int | None] = {}
    active, keys = set[str](), set[str]()
    for page in pages:
        keys.update(page.items)
        for day in page.days():
            used.setdefault(day, 0)
        for key_id, day, used_then, left_then, denied_then in _lines(page):
            used[day] += used_then
            denied[day] = denied.get(day, 0) + sum(denied_then.values())
            left[day] = left_then
            if used_then or denied_then:
                active.add(key_id)
    console = output.console()
    limits = ", ".join(filter(None, (output.throttle(plan.throttle), output.quota(plan.quota)))) or "unlimited"
    console.print(f"{title} ({limits})")
    shows_left = of_one_key and plan.quota is not None
    numbers = ("used", "denied", *(("left",) if shows_left else ()))
    table = output.table("day", *numbers, "", numbers=numbers)
    most = max(used.values())
    for day, number in used.items():
        figures = [number, denied.get(day, 0)]
        cells = [f"{figure:,}" for figure in figures] + ([f"{left[day] or 0:,}"] if shows_left else [])
        table.add_row(f"{day:%a %Y-%m-%d}", *cells, output.bar(number, most, _BAR, encoding=console.encoding))
    console.print(table)
    total = f"{sum(used.values()):,} used, {sum(denied.values()):,} denied"
    console.print(f"{total}." if of_one_key else f"{total}, by {output.count(len(active), 'key')} of {len(keys):,}.")
