"""Calendar windows of quotas: whole days, UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime

from ratelimit.model import Quota

DAY_US = 86_400 * 1_000_000
EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
DAYS_KEPT = 90
"""Retention of usage, in days."""

_SUNDAY_BEFORE_EPOCH = 4
"""1970-01-01 was a Thursday, four days after a Sunday."""


def day_of(now_us: int) -> int:
    """Return the day of a moment, counted from 1970-01-01."""
    return now_us // DAY_US


def window_at(quota: Quota, now_us: int) -> tuple[int, int]:
    """Return [start, stop) of the window that holds `now_us`, in microseconds."""
    first, second, _ = two_windows(quota, now_us)
    return first * DAY_US, second * DAY_US


def two_windows(quota: Quota, now_us: int) -> tuple[int, int, int]:
    """Return the window that holds `now_us`, [first, second), and the next, [second, third), in days since 1970."""
    day = day_of(now_us)
    if quota.period == "DAY":
        return day, day + 1, day + 2
    if quota.period == "WEEK":
        start = day - (day + _SUNDAY_BEFORE_EPOCH - quota.offset) % 7
        return start, start + 7, start + 14
    today = datetime.fromtimestamp(day * 86_400, UTC).date()
    months = today.year * 12 + today.month - 1
    if today.day <= quota.offset:
        months -= 1
    first, second, third = (_month_start(months + later, quota.offset) for later in range(3))
    return first, second, third


def packed_window(quota: Quota, now_us: int) -> int:
    """Return the window that holds `now_us` as states have it: its first day, and how many days it has."""
    first, second, _ = two_windows(quota, now_us)
    return first * 64 + second - first


def _month_start(months: int, offset: int) -> int:
    return date(months // 12, months % 12 + 1, offset + 1).toordinal() - EPOCH_ORDINAL
