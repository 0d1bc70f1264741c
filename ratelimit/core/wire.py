"""The wire contract of lua/check.lua: limits as they are packed, requests as they are sent, replies as decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from ratelimit.core.scripts import Script
from ratelimit.core.validate import EXACT
from ratelimit.core.windows import DAY_US, two_windows
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.model import MICROSECONDS, Quota, Throttle

DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
HAS_KEY, CATALOG_FRESH = 1, 2
_NEVER = -1
_NO_QUOTA = -1
_REQUEST = Struct("<4d")
_PLAN = Struct("<7d")
_BUCKET = Struct("<3d")


class ScriptCall(NamedTuple):
    """A script with its KEYS and ARGV."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes]


class Bucket(NamedTuple):
    """A throttle bound to where its state is kept: "" in the plan's own state, a hash field, or a shared Redis key."""

    name: str
    throttle: Throttle
    place: str = ""
    shared: bool = False

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Burst, rate and per, as they are packed."""
        return self.throttle.burst, *self.throttle.ratio

    @property
    def window(self) -> float | None:
        """Seconds in which an empty bucket fills; None if it never does."""
        return float(self.throttle.burst / self.throttle.rate) if self.throttle.rate else None


class QuotaCount(NamedTuple):
    """A quota; its count is part of the plan's own state."""

    name: str
    quota: Quota
    shared: bool = False
    place: str = ""


Limit = Bucket | QuotaCount


class Call:
    """The limits of one kind of request, compiled: what is the same for every key and moment is worked out once.

    plan_field  hash field of the plan's state in the key's hash; None for a request without a key
    limits      all that apply, in the order of the reply: the plan's bucket, further buckets, the quota
    """

    __slots__ = ("_further", "_names", "_plan", "_windows", "fields", "limits", "quota", "shared_keys")

    def __init__(self, plan_field: str | None, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        buckets = [limit for limit in limits if isinstance(limit, Bucket)]
        further = sorted((bucket for bucket in buckets if bucket.place), key=lambda bucket: bucket.shared)
        self.shared_keys = tuple(bucket.place for bucket in further if bucket.shared)
        own = () if plan_field is None else (plan_field,)
        self.fields = own + tuple(bucket.place for bucket in further if not bucket.shared)
        self.quota = next((limit.quota for limit in limits if isinstance(limit, QuotaCount)), None)
        self._plan = next((bucket.numbers for bucket in buckets if not bucket.place), (0, 0, 0))
        self._further = b"".join(_BUCKET.pack(*bucket.numbers) for bucket in further)
        self._windows: bytes | None = None
        self._names = tuple(
            (limit.name, limit.throttle.burst, limit.window)
            if isinstance(limit, Bucket)
            else (limit.name, limit.quota.limit, None)
            for limit in limits
        )

    def move_windows(self, now_us: int) -> bytes:
        """Work the quota's windows out anew, around the server's time `now_us`."""
        quota = (_NO_QUOTA, 0, 0, 0) if self.quota is None else (self.quota.limit, *two_windows(self.quota, now_us))
        self._windows = _PLAN.pack(*self._plan, *quota)
        return self._windows

    def request(
        self, *, now_us: int, cost: int, valid_until_us: int, flags: int, identity: bytes, guess: Callable[[], int]
    ) -> bytes:
        """Return ARGV[1].

        A cost too large to be counted exactly is above every limit, and sent as the largest there is. `guess` tells
        the time around which windows are worked out at first; the script says when they are past.
        """
        head = _REQUEST.pack(now_us, min(cost, EXACT - 1), valid_until_us, flags)
        return b"".join((head, self._windows or self.move_windows(guess()), identity, self._further))

    def decision(self, reply: Sequence[int]) -> Decision:
        """Return the decision that a reply of the script stands for."""
        status, now_us = reply[0], reply[1]
        counted = status in (ADMITTED, ADMITTED_DAY_OVER)
        step = 2 if counted else 3
        statuses = []
        limited_by, longest = None, 0
        for (name, most, window), at in zip(self._names, range(2, len(reply), step), strict=True):
            reset_us = reply[at + 1]
            wait_us = 0 if counted else reply[at + 2]
            if wait_us:
                limited_by = limited_by or name
                longest = _NEVER if _NEVER in (wait_us, longest) else max(longest, wait_us)
            if window is None and self.quota is not None:
                window = quota_length(self.quota, now_us + reset_us)  # noqa: PLW2901 - a default
            statuses.append(LimitStatus(name, most, reply[at], _seconds(reset_us), _seconds(wait_us), window))
        if limited_by is None:
            return Decision(Reason.ALLOWED, limits=tuple(statuses), time_us=now_us)
        reason = Reason.QUOTA_EXCEEDED if limited_by.startswith("quota:") else Reason.THROTTLED
        return Decision(reason, limited_by, _seconds(longest), tuple(statuses), time_us=now_us)


def _seconds(us: int) -> float | None:
    return None if us == _NEVER else us / MICROSECONDS


@lru_cache(maxsize=4096)
def quota_length(quota: Quota, stop_us: int) -> float:
    """Return the length in seconds of the window that ends at `stop_us`."""
    first, second, _ = two_windows(quota, stop_us - 1)
    return (second - first) * DAY_US / MICROSECONDS
