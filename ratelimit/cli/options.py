"""What several commands take: durations, moments and tags, secrets, confirmations."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from math import inf, isnan
from typing import Any, TypeVar

import click

from ratelimit.cli.output import InputFailure, show_change
from ratelimit.model import Throttle

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,10}(?:\.\d{1,6})?)(s|m|h|d|)", re.ASCII)

_MOST_LINE = 1024

MOST_SECONDS = 10**6
NEVER = inf
"""The moment that never comes."""

NEW_VALUE = "RATELIMIT_NEW_VALUE"
"""The variable that may hold a key value of one's own."""


def duration(text: str) -> float:
    """Return seconds: "90", or a number with a unit, such as "15m", "24h", "7d"."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no duration: write seconds, or 15m, 24h, 7d")
    return float(match[1]) * _UNITS[match[2]]


class Seconds(click.FloatRange):
    """Seconds, at most as many as a clock can wait for; "nan" and "inf" are none."""

    def __init__(self, least: float = 0, most: float = MOST_SECONDS, *, min_open: bool = False) -> None:
        super().__init__(least, most, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a number."""
        seconds = super().convert(value, param, ctx)
        if isnan(seconds):  # which is not out of any range
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


def day(text: str) -> date:
    """Return a day on which something can have been used: YYYY-MM-DD, from 1970 to 2199."""
    try:
        read = date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no day: write YYYY-MM-DD") from None
    if not 1970 <= read.year < 2200:
        raise click.BadParameter(f"{text!r} is no day from 1970 to 2199")
    return read


def moment(text: str) -> float:
    """Return seconds since 1970 of a day or moment in ISO 8601, UTC unless it says otherwise; `NEVER` for "never"."""
    if text == "never":
        return NEVER
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        told = "write 2027-01-31, 2027-01-31T12:00 (UTC), or never"
        raise click.BadParameter(f"{text!r} is no moment: {told}") from None


def tag(text: str) -> tuple[str, str]:
    """Return name and text of NAME=TEXT."""
    name, equals, told = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is no tag: write NAME=TEXT")
    return name, told


def tags(given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return tags by name, each of which may be given once."""
    found = dict[str, str]()
    for name, text in given:
        if name in found:
            raise click.UsageError(f"give the tag {name!r} once")
        found[name] = text
    return found


def json_option(command: _F) -> _F:
    """Add --json to a command, which gets it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def yes_option(command: _F) -> _F:
    """Add --yes to a command, for `confirm`."""
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back. Nobody is asked without a terminal: it is refused then."""
    if yes:
        return
    if not is_terminal():
        raise InputFailure(f"{question} There is no terminal to ask at: give --yes if it is meant.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        click.get_current_context().exit(1)


def replacing(
    what: str,
    before: _T | None,
    then: _T,
    fields: Callable[[_T], dict[str, str]],
    question: str,
    *,
    new: str,
    yes: bool,
) -> str:
    """Show what would change of `what` and ask, if something else holds; return what is to be said when it is done."""
    if before is None:
        return f"{new} {what}."
    if before == then:
        return f"Nothing changed: {what} holds already."
    show_change(fields(before), fields(then))
    confirm(question, yes=yes)
    return f"Replaced {what}."


def is_terminal() -> bool:
    """Tell whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def throttle_options(command: _F) -> _F:
    """Add --rate and --burst to a command, for `throttle`."""
    command = click.option("--burst", type=int, metavar="TOKENS", help="How many requests at once.")(command)
    rate_help = "Requests per second: 10, 0.5 or 1/3. Unlimited unless given."
    return click.option("--rate", metavar="RATE", help=rate_help)(command)


def throttle(rate: str | None, burst: int | None) -> Throttle | None:
    """Return the throttle that --rate and --burst describe, None where they are not given."""
    if (rate is None) != (burst is None):
        raise click.UsageError("give both of --rate and --burst, or neither")
    return None if rate is None or burst is None else Throttle(rate, burst)


def line_of_stdin() -> str:
    """Return the first line of standard input; no more than a key's value may have is read of an endless one."""
    line = sys.stdin.buffer.readline(_MOST_LINE + 1)
    if len(line) > _MOST_LINE:
        raise click.UsageError(
            f"the first line of standard input is longer than {_MOST_LINE:,} bytes: no key's value is"
        )
    return line.decode(errors="replace").rstrip("\r\n")


def value_option(command: _F) -> _F:
    """Add --value-from to a command, for `own_value`. Values are no arguments: command lines can be seen by others."""
    return click.option(
        "--value-from",
        type=click.Choice(["stdin", "env"]),
        help=f"Take a value of your own: the first line of standard input, or {NEW_VALUE}. Generated unless given.",
    )(command)


def own_value(value_from: str | None) -> str | None:
    """Return the value of a key that its owner has chosen, None to have one generated."""
    if value_from is None:
        return None
    if value_from == "env":
        value = os.environ.get(NEW_VALUE, "")
    elif is_terminal():
        value = click.prompt("Value of the key", hide_input=True, err=True)
    else:
        value = line_of_stdin()
    if not value:
        where = f"{NEW_VALUE} is not set" if value_from == "env" else "standard input is empty"
        raise click.UsageError(f"no value for the key: {where}")
    return str(value)
