"""Options that several commands have, the values they take, and questions before a change."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from math import inf, isnan
from typing import Any, TypeVar

import click

from ratelimit.cli.output import InputFailure, print_changes
from ratelimit.model import Throttle

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Value = TypeVar("_Value")

_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(\d{1,10}(?:\.\d{1,6})?)(s|m|h|d|)", re.ASCII)
_MAX_STDIN_LINE = 1024
"""Bytes. No key value is longer."""

MAX_SECONDS = 10**6
NEVER = inf
"""The timestamp that "never" stands for."""

NEW_VALUE = "RATELIMIT_NEW_VALUE"
"""The environment variable that `--value-from env` reads."""


# Values


def duration(text: str) -> float:
    """Return the seconds of "90", or of a number with a unit: "90s", "15m", "24h", "7d"."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a duration: write seconds, or a number with a unit: 15m, 24h, 7d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


class Seconds(click.FloatRange):
    """A number of seconds that a clock can wait for. "nan" and "inf" are not."""

    def __init__(self, minimum: float = 0, maximum: float = MAX_SECONDS, *, min_open: bool = False) -> None:
        super().__init__(minimum, maximum, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        seconds = super().convert(value, param, ctx)
        if isnan(seconds):  # no comparison excludes it, so the range did not
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def day(text: str) -> date:
    """Return the day that YYYY-MM-DD names, from 1970 to 2199: on others, nothing can have been used."""
    try:
        parsed = date.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a day: write YYYY-MM-DD") from None
    if not 1970 <= parsed.year < 2200:
        raise click.BadParameter(f"{text!r} is not a day from 1970 to 2199")
    return parsed


def timestamp(text: str) -> float:
    """Return seconds since 1970 of a date or time in ISO 8601, in UTC unless it has an offset; `NEVER` for "never"."""
    if text == "never":
        return NEVER
    try:
        parsed = datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        accepted = "write 2027-01-31, 2027-01-31T12:00 (UTC), or never"
        raise click.BadParameter(f"{text!r} is not a date or time: {accepted}") from None


def tag(text: str) -> tuple[str, str]:
    """Return name and text of NAME=TEXT."""
    name, equals, tag_text = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not a tag: write NAME=TEXT")
    return name, tag_text


def tags(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return tags by name. Each name may occur once."""
    by_name = dict[str, str]()
    for name, text in pairs:
        if name in by_name:
            raise click.UsageError(f"the tag {name!r} is given twice: give it once")
        by_name[name] = text
    return by_name


def throttle(rate: str | None, burst: int | None) -> Throttle | None:
    """Return the throttle that --rate and --burst describe, None without them."""
    if (rate is None) != (burst is None):
        raise click.UsageError("--rate and --burst belong together: give both or neither")
    return None if rate is None or burst is None else Throttle(rate, burst)


def read_stdin_line() -> str:
    """Return the first line of standard input, without its line end. A line too long for a key value is an error."""
    line = sys.stdin.buffer.readline(_MAX_STDIN_LINE + 1)
    if len(line) > _MAX_STDIN_LINE:
        raise click.UsageError(
            f"the first line of standard input is longer than {_MAX_STDIN_LINE:,} bytes: it is not a key's value"
        )
    return line.decode(errors="replace").rstrip("\r\n")


def chosen_value(value_from: str | None) -> str | None:
    """Return the key value that the user supplies as --value-from says, None to have one generated."""
    if value_from is None:
        return None
    if value_from == "env":
        value = os.environ.get(NEW_VALUE, "")
    elif is_terminal():
        value = click.prompt("Value of the key", hide_input=True, err=True)
    else:
        value = read_stdin_line()
    if not value:
        problem = f"{NEW_VALUE} is not set" if value_from == "env" else "standard input is empty"
        raise click.UsageError(f"no value for the key: {problem}")
    return str(value)


# Options


def json_option(command: _Command) -> _Command:
    """Add --json to a command, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def yes_option(command: _Command) -> _Command:
    """Add --yes to a command, for `confirm`."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def on_unavailable_option(command: _Command) -> _Command:
    """Add --on-unavailable to a command."""
    return click.option(
        "--on-unavailable",
        type=click.Choice(["local", "open", "closed"]),
        help="How checks are decided while Redis is away. As gateways say by default.",
    )(command)


def throttle_options(command: _Command) -> _Command:
    """Add --rate and --burst to a command, for `throttle`."""
    command = click.option("--burst", type=int, metavar="TOKENS", help="Size of the bucket: requests at once.")(command)
    rate_help = "Requests per second: 10, 0.5 or 1/3. Unlimited by default."
    return click.option("--rate", metavar="RATE", help=rate_help)(command)


def value_option(command: _Command) -> _Command:
    """Add --value-from to a command, for `chosen_value`. There is no --value: command lines are visible to others."""
    return click.option(
        "--value-from",
        type=click.Choice(["stdin", "env"]),
        help=f"Take the value from the first line of standard input, or from {NEW_VALUE}. Generated by default.",
    )(command)


# Questions


def is_terminal() -> bool:
    """Return whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; end the command if the answer is no.

    Args:
        question: A yes-or-no question.
        yes: The answer is yes: do not ask.

    Raises:
        InputFailure: There is no terminal to ask at.
    """
    if yes:
        return
    if not is_terminal():
        raise InputFailure(f"{question} There is no terminal to ask at: give --yes to confirm.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        click.get_current_context().exit(1)


def confirm_replacement(
    title: str,
    before: _Value | None,
    after: _Value,
    fields: Callable[[_Value], dict[str, str]],
    question: str,
    *,
    verb_if_new: str,
    yes: bool,
) -> str:
    """Show what would change, and ask for confirmation if something would be replaced.

    Args:
        title: What messages call it, such as "plan gold".
        before: What is stored, None if nothing is.
        after: What is to be stored.
        fields: Returns the fields of either, by name, for people.
        question: A yes-or-no question.
        verb_if_new: What was done if nothing was stored, such as "Added".
        yes: The answer is yes: do not ask.

    Returns:
        The message to print once it is done.
    """
    if before is None:
        return f"{verb_if_new} {title}."
    if before == after:
        return f"Nothing changed: {title} is already stored like this."
    print_changes(fields(before), fields(after))
    confirm(question, yes=yes)
    return f"Replaced {title}."
