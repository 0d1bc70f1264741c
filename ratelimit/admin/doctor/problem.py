"""What a check yields: a problem. It returns what to say if there is none."""

from __future__ import annotations

from collections.abc import Generator
from typing import Literal, NamedTuple


class Problem(NamedTuple):
    """Something that is wrong; the fields are those of `Finding`, "" for the place that the check is about."""

    severity: Literal["warning", "error"]
    message: str
    mend: str = ""
    promise: int | None = None
    where: str = ""


Check = Generator[Problem, None, str]


def warning(message: str, mend: str = "", promise: int | None = None, where: str = "") -> Problem:
    """Return a problem that takes a further fault to break something, or is close to it."""
    return Problem("warning", message, mend, promise, where)


def error(message: str, mend: str = "", promise: int | None = None, where: str = "") -> Problem:
    """Return a problem that breaks something now, or at the next usual fault, such as a restart."""
    return Problem("error", message, mend, promise, where)


def megabytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"
