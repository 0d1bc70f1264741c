"""The wire contract of lua/check.lua: statuses, flags, packed fields and replies. Described in lua/PROTOCOL.md.

All numbers are little-endian doubles that hold whole numbers below 2^53, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from ratelimit.errors import StoreError
from ratelimit.model import Quota, Throttle
from ratelimit.registry.windows import DAY_US, two_windows
from ratelimit.validation import EXACT

DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT, TOO_MANY_IDENTITIES = 0, 1, 2, 3, 4
JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE = 5, 6
KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED, NO_LEASE = -1, -2, -3, -4, -6
HAS_KEY, NOTHING_NEWER, HAS_SHADOW, HAS_ALERTS, SHADOW_HAS_BUCKET, IS_IDENTITY, PEEK, IS_BOUNDED, IS_LEASE = (
    2**bit for bit in range(9)
)

NUMBER = Struct("<d")
BUCKET = Struct("<3d")
"""A bucket's state: P, level in units of 1/P token, last_us. In a request: burst, R, P."""
STATE = Struct("<7d")
"""A plan's state in a key's hash: its bucket, calendar, used, granted, used on the day of metering."""
LIMIT = Struct("<2d")
"""What a reply says of one limit: a bucket's level and last_us, what is left of a quota and the end of its window."""

_REQUEST_HEAD = Struct("<4d")
_PLAN = Struct("<7d")
_ALERT = Struct("<2d")
_BOUND = Struct("<2d")
_ENTRY = Struct("<2d")
_NO_QUOTA = -1
_CALENDAR_DAYS = 2**20
"""A state's calendar is the quota's window times this, and the day of metering."""

Reply = bytes | list[Any]
"""What check.lua answers: the states after the charge as bytes if nothing was unusual, else status, time and limits."""


def status(reply: Reply) -> int:
    """Return the status of a reply: one of the numbers above."""
    if isinstance(reply, bytes):
        return ADMITTED
    try:
        code, now_us, *_ = reply
    except (TypeError, ValueError):
        code = now_us = None
    if not isinstance(code, int) or not isinstance(now_us, int):
        raise StoreError("Redis answered to a check with something else")
    return code


def pack_head(now_us: int, cost: int, valid_until_us: int, flags: int) -> bytes:
    """Return the 4 doubles with which a request begins.

    A cost too large to be counted exactly is above every limit, and sent as 2^53.
    """
    return _REQUEST_HEAD.pack(now_us, min(cost, EXACT), valid_until_us, flags)


def pack_plan(throttle: Throttle | None, quota: Quota | None, now_us: int) -> bytes:
    """Return the 7 doubles for a plan's own limits, with the quota's windows around `now_us`."""
    bucket = (throttle.burst, *throttle.ratio) if throttle else (0, 0, 0)
    count = (quota.limit, *two_windows(quota, now_us)) if quota else (_NO_QUOTA, 0, 0, 0)
    return _PLAN.pack(*bucket, *count)


def pack_buckets(throttles: Iterable[Throttle]) -> bytes:
    """Return 3 doubles for each bucket: burst, R and P."""
    return b"".join(BUCKET.pack(throttle.burst, *throttle.ratio) for throttle in throttles)


def pack_alerts(percentages: Sequence[int], limit: int) -> bytes:
    """Return 2 doubles for each alert: the percentage, and the units of a quota of `limit` that reach it."""
    return b"".join(map(_ALERT.pack, percentages, alert_counts(percentages, limit)))


def alert_counts(percentages: Sequence[int], limit: int) -> list[int]:
    """Return the units of a quota of `limit` that reach each percentage."""
    return [-(-limit * percent // 100) for percent in percentages]


def pack_bound(most: int, one_in: int) -> bytes:
    """Return 2 doubles: how many identities a plan may have, and one of how many is counted."""
    return _BOUND.pack(most, one_in)


def pack_entry(sequence: int, spent_us: int) -> bytes:
    """Return 2 doubles for an entry of a journal: its number, and the server's time at which it was spent."""
    return _ENTRY.pack(sequence, spent_us)


def window_end_us(calendar: float) -> float:
    """Return the end of the quota's window, microseconds since 1970, from a state's calendar."""
    return sum(divmod(calendar // _CALENDAR_DAYS, 64)) * DAY_US
