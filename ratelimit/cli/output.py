"""How every command prints: consoles, tables, progress bars, numbers, times, and errors with their exit codes."""

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

_MAX_UNWRAPPED = 24
"""Characters of an id that fit into a table of 80 columns beside other columns."""

_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


def printable_lines(text: str) -> str:
    """Return a text whose lines are printable: no escape sequence of a server or a file reaches the terminal."""
    return "\n".join(map(printable, text.split("\n")))


class _Failure(click.ClickException):
    def format_message(self) -> str:
        """Return the message; it may quote a server or a file."""
        return printable_lines(super().format_message())


class InputFailure(_Failure):
    """Ends a command whose input cannot be accepted."""

    exit_code = 2


class StoreFailure(_Failure):
    """Ends a command because Redis failed, or because the output could not be written."""

    exit_code = 3


class _Console(Console):
    def print(self, *objects: Any, **options: Any) -> None:
        """Print; strings are made printable."""
        super().print(*(printable_lines(item) if isinstance(item, str) else item for item in objects), **options)


class _Table(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; strings are made printable."""
        super().add_row(*(printable_lines(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts literally: ids, addresses and paths are not markup."""
    return _Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """Return an empty table.

    Args:
        columns: The headers.
        numbers: Those of them whose cells are aligned to the right.
    """
    new_table = _Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        if column in numbers:
            new_table.add_column(column, justify="right", no_wrap=True)
        else:
            new_table.add_column(column, overflow="fold")
    return new_table


def avoid_wrapping(table: Table, *columns: str) -> None:
    """Keep the lines of these columns unbroken where they are short enough; other columns give way."""
    for column in table.columns:
        if column.header in columns:
            lines = [line for cell in column.cells for line in str(cell).splitlines()]
            column.no_wrap = max(map(len, lines), default=0) <= _MAX_UNWRAPPED


def print_fields(fields: dict[str, str]) -> None:
    """Print names with their texts beside them; empty texts are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in fields.items():
        if text:
            grid.add_row(name, Text(printable_lines(text)))
    console().print(grid)


def print_changes(before: dict[str, str], after: dict[str, str]) -> None:
    """Print the fields that differ. On standard error, as a question follows."""
    changes = table("", "now", "then")
    for name, text in before.items():
        if text != after[name]:
            changes.add_row(name, text, after[name])
    console(stderr=True).print(changes)


def print_json(data: object) -> None:
    """Print `data` as one JSON document."""
    click.echo(json.dumps(data, indent=2))


def progress() -> Progress:
    """Return a progress bar on standard error, hidden unless that is a terminal. Standard output is for results."""
    stderr = console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def bar(part: float, whole: float, width: int, *, encoding: str) -> str:
    """Return a bar of `part` in `whole`, at most `width` characters long; anything above 0 has at least one."""
    full = "█" if encoding.startswith("utf") else "#"
    return full * ceil(width * part / whole) if whole > 0 else ""


def count(number: int, noun: str) -> str:
    """Return "1 key", "2,000 keys"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds(value: float | None) -> str:
    """Return a duration for people: "0.5 s", "1 d 2 h"; "never" for None. Exact to the microsecond below a minute."""
    if value is None:
        return "never"
    if value < 60:
        return f"{value:.6f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    return " ".join([f"{number} {unit}" for number, unit in parts if number][:2])


def timestamp(time_us: int, *, digits: int = 6) -> str:
    """Return a date and time in UTC.

    Args:
        time_us: Microseconds since 1970.
        digits: Decimal places of the seconds.
    """
    whole, rest = divmod(time_us, MICROSECONDS)
    text = f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%d %H:%M:%S}"
    return f"{text}.{rest:06d}"[: len(text) + 1 + digits] if digits else text


def date_time(seconds: float | None) -> str:
    """Return seconds since 1970 as a date, with the time (UTC) unless it is midnight; "" for None."""
    if seconds is None:
        return ""
    return timestamp(round(seconds * MICROSECONDS), digits=0).removesuffix(" 00:00:00")


def throttle(value: Throttle | None) -> str:
    """Return "10/s, burst 5", "" for None. A rate that is not a short decimal is written as a fraction."""
    if value is None:
        return ""
    decimal = f"{float(value.rate):.6f}".rstrip("0").rstrip(".")
    rate = decimal if value.rate == Fraction(decimal) else str(value.rate)
    return f"{rate}/s, burst {value.burst:,}"


def quota(value: Quota | None) -> str:
    """Return "1,000 a day", "500 a week from Monday", "300 a month from day 15"; "" for None."""
    if value is None:
        return ""
    start = ""
    if value.offset:
        start = f" from {_WEEKDAYS[value.offset] if value.period == 'WEEK' else f'day {value.offset + 1}'}"
    return f"{value.limit:,} a {value.period.lower()}{start}"
