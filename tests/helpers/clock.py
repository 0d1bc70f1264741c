"""A clock that is moved by hand: the one that users have."""

from ratelimit.testing import ManualClock as FakeClock

__all__ = ["FakeClock"]
