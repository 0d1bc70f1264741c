"""Clocks that are moved by hand: the one that users have, and a monotonic one."""

from ratelimit.testing import ManualClock as FakeClock

__all__ = ["FakeClock", "MonotonicClock"]


class MonotonicClock:
    """A clock that begins somewhere, of seconds or microseconds."""

    def __init__(self, now=0):
        self.now = now

    def __call__(self):
        return self.now
