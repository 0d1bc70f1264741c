"""What is replied to a request: the fields of its decision in one of several dialects, and the answer that denies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple, get_args

from ratelimit import validation
from ratelimit.decision import Decision
from ratelimit.headers import Dialect

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

EXPOSE = "Access-Control-Expose-Headers"
"""The field by which a browser lets scripts of other origins read fields."""

_EXPOSED: dict[Dialect, tuple[str, ...]] = {
    "ietf": ("Retry-After", "RateLimit", "RateLimit-Policy"),
    "legacy": ("Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
    "openai": (
        "Retry-After",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
    ),
    "none": ("Retry-After",),
}


class Answer(NamedTuple):
    """A whole response.

    Attributes:
        status: 403, 429 or 503.
        fields: Name and value of each field.
        body: Its body; empty for HEAD.
    """

    status: int
    fields: dict[str, str]
    body: bytes


def denial(decision: Decision, dialect: Dialect = "ietf", *, has_body: bool = True) -> Answer:
    """Return the answer to a request that is denied: application/problem+json, RFC 9457.

    Args:
        decision: One that denies.
        dialect: Of the fields.
        has_body: False for HEAD, whose answers have none.
    """
    body = json.dumps(decision.problem(), separators=(",", ":")).encode()
    fields = {"Content-Type": "application/problem+json", "Content-Length": str(len(body))}
    return Answer(decision.status, fields | decision.headers(dialect), body if has_body else b"")


def exposed(dialect: Dialect, present: str = "") -> str:
    """Return the value of Access-Control-Expose-Headers that names the dialect's fields, and those `present` names."""
    if "*" in names_in(present):
        return present
    missing = [name for name in _EXPOSED[dialect] if name.lower() not in names_in(present)]
    return ", ".join([present, *missing] if present else missing)


def unexposed(dialect: Dialect, names: Iterable[str]) -> list[str]:
    """Return the dialect's fields that are not among `names`, for a warning."""
    lower = {name.lower() for name in names}
    return [] if "*" in lower else [name for name in _EXPOSED[dialect] if name.lower() not in lower]


def names_in(value: str) -> set[str]:
    """Return the names in a field that lists some, in lower case."""
    return {name.strip().lower() for name in value.split(",")} - {""}


def validate_dialect(value: object) -> Dialect:
    """Return a dialect.

    Raises:
        ConfigError: There is none of this name.
    """
    validation.one_of(value, DIALECTS, "headers")
    return value  # type: ignore[return-value]
