"""How every command prints: plain consoles, one style of table and progress bar, errors that carry an exit code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ratelimit.model import MICROSECONDS, Quota, Throttle
from ratelimit.validation import printable

_USUAL = 24
"""Characters of an id that has room in a table of 80 columns beside others."""

_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


plain = printable


def lines(text: str) -> str:
    """Return what `plain` makes of each line."""
    return "\n".join(map(plain, text.split("\n")))


class _Failure(click.ClickException):
    def format_message(self) -> str:
        """Return the message. What a server or a file said may be in it."""
        return lines(super().format_message())


class InputFailure(_Failure):
    """Ends a command whose input cannot be accepted."""

    exit_code = 2


class StoreFailure(_Failure):
    """Ends a command whose server did not do what it was asked."""

    exit_code = 3


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts are those of `lines`."""
        super().print(*(lines(item) if isinstance(item, str) else item for item in objects), **options)


class _Table(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; its texts are those of `lines`."""
        super().add_row(*(lines(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes every text as it is: ids, addresses and paths are no markup, and no commands."""
    return _Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns in `numbers` are aligned to the right."""
    made = _Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        if column in numbers:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def keep_whole(table: Table, *columns: str) -> None:
    """Have lines of these columns stay unbroken, if they are of a usual length: others make room, and are folded."""
    for column in table.columns:
        if column.header in columns:
            lines = [line for cell in column.cells for line in str(cell).splitlines()]
            column.no_wrap = max(map(len, lines), default=0) <= _USUAL


def show_fields(fields: dict[str, str], *, styles: dict[str, str] | None = None) -> None:
    """Print names and texts beside each other; what is empty is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields.items():
        if text:
            grid.add_row(name, Text(lines(text), style=(styles or {}).get(name, "")))
    console().print(grid)


def show_change(now: dict[str, str], then: dict[str, str]) -> None:
    """Print what differs between two sets of names and texts, on standard error: a question follows."""
    made = table("", "now", "then")
    for name, text in now.items():
        if text != then[name]:
            made.add_row(name, text, then[name])
    console(stderr=True).print(made)


def bar(part: float, whole: float, width: int, *, encoding: str) -> str:
    """Return a bar: `part` of `whole`, at most `width` characters; anything above 0 shows."""
    full = "█" if encoding.startswith("utf") else "#"
    return full * ceil(width * part / whole) if whole > 0 else ""


def progress() -> Progress:
    """Return a progress bar on standard error, if that is a terminal: standard output is for the result."""
    stderr = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def print_json(data: object) -> None:
    """Print `data` for machines: one JSON document."""
    click.echo(json.dumps(data, indent=2))


def count(number: int, noun: str) -> str:
    """Return "1 key", "2,000 keys"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds(value: float | None) -> str:
    """Return a duration as people read it, to the microsecond below a minute; "never" for None."""
    if value is None:
        return "never"
    if value < 60:
        return f"{value:.6f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])


def moment(time_us: int, *, digits: int = 6) -> str:
    """Return microseconds since 1970 as a date and time in UTC, with `digits` digits after the second."""
    whole, rest = divmod(time_us, MICROSECONDS)
    text = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%d %H:%M:%S}"
    return f"{text}.{rest:06d}"[: len(text) + 1 + digits] if digits else text


def day(seconds: float | None) -> str:
    """Return seconds since 1970 as a date and, unless it is midnight, a time in UTC; "" for None."""
    if seconds is None:
        return ""
    return moment(round(seconds * MICROSECONDS), digits=0).removesuffix(" 00:00:00")


def throttle(value: Throttle | None) -> str:
    """Return "10/s, burst 5"; a rate that is no short decimal is written as a fraction."""
    if value is None:
        return ""
    shown = f"{float(value.rate):.6f}".rstrip("0").rstrip(".")
    rate = shown if value.rate == Fraction(shown) else str(value.rate)
    return f"{rate}/s, burst {value.burst:,}"


def quota(value: Quota | None) -> str:
    """Return "1,000 a day", "500 a week from Monday", "300 a month from day 15"."""
    if value is None:
        return ""
    start = ""
    if value.offset:
        start = f" from {_WEEKDAYS[value.offset] if value.period == 'WEEK' else f'day {value.offset + 1}'}"
    return f"{value.limit:,} a {value.period.lower()}{start}"
