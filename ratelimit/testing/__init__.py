"""For tests of applications: a clock that is moved by hand, and limiters with answers of your choice.

docs/testing.md shows these, the fixtures of the pytest plugin, and the tests to run against a server of one's own.
"""

from ratelimit.testing.clock import ManualClock
from ratelimit.testing.decisions import allowed, invalid_key, quota_exceeded, throttled, unavailable
from ratelimit.testing.stub import AsyncStubLimiter, StubCall, StubLimiter

__all__ = [
    "AsyncStubLimiter",
    "ManualClock",
    "StubCall",
    "StubLimiter",
    "allowed",
    "invalid_key",
    "quota_exceeded",
    "throttled",
    "unavailable",
]
