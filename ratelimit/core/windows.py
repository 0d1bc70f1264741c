"""Calendar windows of quotas, in microseconds since 1970, UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime

from ratelimit.model import Quota

DAY_US = 86_400 * 1_000_000
_EPOCH = date(1970, 1, 1).toordinal()
_SUNDAY_BEFORE_EPOCH = 4
"""1970-01-01 was a Thursday, four days after a Sunday."""


def window_at(quota: Quota, now_us: int) -> tuple[int, int]:
    """Return [start, stop) of the window that holds `now_us`."""
    day = now_us // DAY_US
    if quota.period == "DAY":
        return day * DAY_US, (day + 1) * DAY_US
    if quota.period == "WEEK":
        start = day - (day + _SUNDAY_BEFORE_EPOCH - quota.offset) % 7
        return start * DAY_US, (start + 7) * DAY_US
    today = datetime.fromtimestamp(day * 86_400, UTC).date()
    months = today.year * 12 + today.month - 1
    if today.day <= quota.offset:
        months -= 1
    return _month_start(months, quota.offset), _month_start(months + 1, quota.offset)


def two_windows(quota: Quota, now_us: int) -> tuple[int, int, int]:
    """Return the ends of the window that holds `now_us` and of the next: [first, second) and [second, third)."""
    first, second = window_at(quota, now_us)
    return first, second, window_at(quota, second)[1]


def _month_start(months: int, offset: int) -> int:
    return (date(months // 12, months % 12 + 1, offset + 1).toordinal() - _EPOCH) * DAY_US
