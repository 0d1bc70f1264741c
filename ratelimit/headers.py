"""HTTP fields of a decision, in one of several dialects.

ietf: draft-ietf-httpapi-ratelimit-headers-11, every limit of the request.

    RateLimit-Policy: "plan:gold";q=5;w=1, "quota:gold";q=1000;w=86400
    RateLimit: "plan:gold";r=4;t=1, "quota:gold";r=999;t=3600

legacy and openai: the limit that comes first alone, which is the one that denies for longest, else the one with least
left. The reset of the former is in whole seconds from now, that of the latter a duration such as 6m0s.

    X-RateLimit-Limit: 5                    x-ratelimit-limit-requests: 5
    X-RateLimit-Remaining: 4                x-ratelimit-remaining-requests: 4
    X-RateLimit-Reset: 1                    x-ratelimit-reset-requests: 1s
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, floor, inf, isfinite
from typing import Literal, Protocol, TypeGuard

Dialect = Literal["ietf", "legacy", "openai", "none"]
"""How the fields of a decision are written; none: Retry-After alone."""


class Limit(Protocol):
    """What the fields say of one limit; see `LimitStatus`."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def limit(self) -> int:
        """Burst or quota."""

    @property
    def remaining(self) -> int:
        """Whole tokens or units left."""

    @property
    def reset_after(self) -> float | None:
        """Seconds until it is full again."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until it admits the request."""

    @property
    def window(self) -> float | None:
        """Seconds of its window."""


class LimitedDecision(Protocol):
    """What the fields say of a decision; see `Decision`."""

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait."""

    @property
    def limits(self) -> Sequence[Limit]:
        """Of every limit."""


_LARGEST = 999_999_999_999_999
_CACHED = 4096
"""Limits whose texts that never change are kept."""


def fields(decision: LimitedDecision, dialect: Dialect = "ietf") -> dict[str, str]:
    """Return the fields that apply, by name."""
    headers = {}
    if _is_known(decision.retry_after):
        headers["Retry-After"] = str(_seconds_up(decision.retry_after))
    if dialect == "none" or not decision.limits:
        return headers
    if dialect == "legacy":
        headers |= _legacy(max(decision.limits, key=_urgency))
    elif dialect == "openai":
        headers |= _openai(max(decision.limits, key=_urgency))
    else:
        headers["RateLimit"] = ", ".join(map(_state, decision.limits))
        headers["RateLimit-Policy"] = ", ".join(
            [_policy(limit.name, limit.limit, limit.window) for limit in decision.limits]
        )
    return headers


@lru_cache(_CACHED)
def _policy(name: str, limit: int, window: float | None) -> str:
    seconds = "" if not _is_known(window) else f";w={_integer(max(1, _seconds_up(window)))}"
    return f"{_string(name)};q={_integer(limit)}{seconds}"


def _state(limit: Limit) -> str:
    seconds = _more_after(limit)
    until = "" if seconds is None else f";t={_integer(_seconds_up(seconds))}"
    return f"{_string(limit.name)};r={_integer(limit.remaining)}{until}"


def _urgency(limit: Limit) -> tuple[float, int]:
    """Order limits: the last denies for longest, or has least left if none denies."""
    return inf if limit.retry_after is None else limit.retry_after, -limit.remaining


def _legacy(limit: Limit) -> dict[str, str]:
    headers = {"X-RateLimit-Limit": str(limit.limit), "X-RateLimit-Remaining": str(limit.remaining)}
    seconds = _more_after(limit)
    if _is_known(seconds):
        headers["X-RateLimit-Reset"] = str(_seconds_up(seconds))
    return headers


def _openai(limit: Limit) -> dict[str, str]:
    headers = {
        "x-ratelimit-limit-requests": str(limit.limit),
        "x-ratelimit-remaining-requests": str(limit.remaining),
    }
    if _is_known(limit.reset_after):
        headers["x-ratelimit-reset-requests"] = _duration(limit.reset_after)
    return headers


def _duration(seconds: float) -> str:
    """Write a time as 120ms, 1.5s, 6m0s or 23h0m5s; rounded up, to milliseconds below a minute."""
    milliseconds = ceil(round(seconds * 1e6) / 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g}s"
    minutes, rest = divmod(_seconds_up(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _more_after(limit: Limit) -> float | None:
    """Return the seconds until more than `remaining` can be used; None if that is never.

    Of a quota until its next window, of a bucket until its next token: 0 if it is full.
    """
    capacity, remaining, reset_after, window = limit.limit, limit.remaining, limit.reset_after, limit.window
    if capacity == 0 or not _is_known(reset_after):
        return None
    if limit.name.startswith("quota:") or not _is_known(window) or remaining >= capacity:
        return reset_after
    # In whole microseconds, and not one too early: the tokens after the next take a whole number or a little more.
    others_us = floor(window * 1e6 * (capacity - remaining - 1) / capacity + 1e-4)
    return max(0, round(reset_after * 1e6) - others_us) / 1e6


def _is_known(seconds: float | None) -> TypeGuard[float]:
    """Return whether there is a time to tell: what is never, or no number, makes no field."""
    return seconds is not None and isfinite(seconds)


def _seconds_up(seconds: float) -> int:
    """Round up to whole seconds, by whole microseconds: a float's last bit is not a second."""
    return -(-round(seconds * 1e6) // 1_000_000) if seconds < 2**33 else ceil(seconds)


def _integer(number: int) -> int:
    """Cut a number to the 15 digits that an Integer of Structured Fields may have."""
    return min(number, _LARGEST)


@lru_cache(_CACHED)
def _string(text: str) -> str:
    """Return `text`, printable ASCII, as a String of Structured Fields."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
