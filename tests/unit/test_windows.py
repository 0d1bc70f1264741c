"""Calendar windows, against a second computation by datetime alone, and at their edges to the microsecond."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import Quota
from ratelimit.registry.windows import two_windows, window_at

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_US = 86_400_000_000
QUOTAS = st.one_of(
    st.just(Quota(1, "DAY")),
    st.integers(0, 6).map(lambda offset: Quota(1, "WEEK", offset)),
    st.integers(0, 27).map(lambda offset: Quota(1, "MONTH", offset)),
)
MOMENTS = st.integers(0, 2**53 - 1)
"""Until the year 2255: all moments that the scripts can count."""


def us(moment):
    return (moment - EPOCH) // MICROSECOND


def at(text):
    """Microseconds of a moment in UTC, "2026-03-04" or "2026-03-04T12:00:00.000001"."""
    return us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def starts(quota, midnight):
    """Whether a window starts at this midnight: read off the calendar."""
    if quota.period == "DAY":
        return True
    if quota.period == "WEEK":
        return midnight.strftime("%w") == str(quota.offset)  # %w counts from Sunday, 0
    return midnight.day == quota.offset + 1


def walked(quota, now_us):
    """The window, found by walking from midnight to midnight."""
    day = timedelta(days=1)
    start = (EPOCH + now_us * MICROSECOND).replace(hour=0, minute=0, second=0, microsecond=0)
    while not starts(quota, start):
        start -= day
    stop = start + day
    while not starts(quota, stop):
        stop += day
    return us(start), us(stop)


@given(QUOTAS, MOMENTS)
@settings(deadline=None)
def test_a_window_is_what_the_calendar_says(quota, now_us):
    """Start and stop are those that a walk over midnights finds."""
    assert window_at(quota, now_us) == walked(quota, now_us)


@given(QUOTAS, MOMENTS)
@settings(deadline=None)
def test_the_two_windows_are_neighbours(quota, now_us):
    """[first, second) holds the moment, and [second, third) is the window that starts where it ends; in days."""
    first, second, third = (day * DAY_US for day in two_windows(quota, now_us))
    assert first <= now_us < second
    assert (first, second) == walked(quota, now_us)
    assert (second, third) == walked(quota, second)


@given(QUOTAS, MOMENTS)
@settings(deadline=None)
def test_windows_hold_their_first_and_last_microsecond_and_no_other(quota, now_us):
    """The edges belong to one window each."""
    start, stop = window_at(quota, now_us)
    assert window_at(quota, start) == window_at(quota, stop - 1) == (start, stop)
    assert window_at(quota, start - 1)[1] == start
    assert window_at(quota, stop)[0] == stop


@pytest.mark.parametrize(
    ("quota", "now", "start", "stop"),
    [
        (("DAY", 0), "2026-03-04", "2026-03-04", "2026-03-05"),
        (("DAY", 0), "2026-03-04T23:59:59.999999", "2026-03-04", "2026-03-05"),
        (("DAY", 0), "2024-02-29T12:00:00", "2024-02-29", "2024-03-01"),
        (("DAY", 0), "2026-12-31T23:59:59.999999", "2026-12-31", "2027-01-01"),
        # A leap second is no moment of this count: the day has 86400 s.
        (("DAY", 0), "2016-12-31T23:59:59.999999", "2016-12-31", "2017-01-01"),
        # 2026-03-01 is a Sunday.
        (("WEEK", 0), "2026-03-01", "2026-03-01", "2026-03-08"),
        (("WEEK", 0), "2026-02-28T23:59:59.999999", "2026-02-22", "2026-03-01"),
        (("WEEK", 1), "2026-03-01T23:59:59.999999", "2026-02-23", "2026-03-02"),
        (("WEEK", 1), "2026-03-02", "2026-03-02", "2026-03-09"),
        (("WEEK", 6), "2026-03-06T23:59:59.999999", "2026-02-28", "2026-03-07"),
        (("WEEK", 6), "2026-03-07", "2026-03-07", "2026-03-14"),
        (("WEEK", 0), "2024-02-29T12:00:00", "2024-02-25", "2024-03-03"),
        (("WEEK", 3), "2027-01-01", "2026-12-30", "2027-01-06"),
        (("MONTH", 0), "2026-03-01", "2026-03-01", "2026-04-01"),
        (("MONTH", 0), "2026-03-31T23:59:59.999999", "2026-03-01", "2026-04-01"),
        (("MONTH", 0), "2024-02-29T23:59:59.999999", "2024-02-01", "2024-03-01"),
        (("MONTH", 0), "2100-02-28T23:59:59.999999", "2100-02-01", "2100-03-01"),  # no leap year
        (("MONTH", 0), "2026-12-31T23:59:59.999999", "2026-12-01", "2027-01-01"),
        (("MONTH", 14), "2026-03-14T23:59:59.999999", "2026-02-15", "2026-03-15"),
        (("MONTH", 14), "2026-03-15", "2026-03-15", "2026-04-15"),
        (("MONTH", 27), "2026-02-27T23:59:59.999999", "2026-01-28", "2026-02-28"),
        (("MONTH", 27), "2026-02-28", "2026-02-28", "2026-03-28"),
        (("MONTH", 27), "2024-02-29", "2024-02-28", "2024-03-28"),
        (("MONTH", 1), "2026-01-01T23:59:59.999999", "2025-12-02", "2026-01-02"),
        # The count starts in 1970, but a window may have started before.
        (("MONTH", 27), "1970-01-01", "1969-12-28", "1970-01-28"),
        (("WEEK", 0), "1970-01-01", "1969-12-28", "1970-01-04"),
    ],
)
def test_windows_by_the_calendar(quota, now, start, stop):
    """Days, weeks and months start where a calendar on the wall says."""
    assert window_at(Quota(1, *quota), at(now)) == (at(start), at(stop))


@pytest.mark.parametrize(
    ("quota", "now", "edges"),
    [
        (("DAY", 0), "2024-02-28T12:00:00", ("2024-02-28", "2024-02-29", "2024-03-01")),
        (("WEEK", 2), "2026-03-04", ("2026-03-03", "2026-03-10", "2026-03-17")),
        (("MONTH", 0), "2026-12-04", ("2026-12-01", "2027-01-01", "2027-02-01")),
        (("MONTH", 27), "2026-01-28", ("2026-01-28", "2026-02-28", "2026-03-28")),
    ],
)
def test_two_windows_by_the_calendar(quota, now, edges):
    """The next window has its own length; the three edges are in days since 1970."""
    assert two_windows(Quota(1, *quota), at(now)) == tuple(at(edge) // DAY_US for edge in edges)
