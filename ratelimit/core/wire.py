"""The wire contract of lua/check.lua: limits as they are packed, requests as they are sent, replies as decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple, cast

from ratelimit.core.scripts import Script
from ratelimit.core.validate import EXACT
from ratelimit.core.windows import two_windows
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.model import MICROSECONDS, Quota, Throttle

ALLOWED, DENIED, KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = 1, 0, -1, -2, -3, -4
HAS_KEY, CATALOG_FRESH = 1, 2
_OWN_BUCKET, _SHARED_BUCKET, _QUOTA, _METER = 1, 2, 3, 4
_NEVER = -1
_REQUEST = Struct("<4Q8sQ8s")
_LIMIT = Struct("<5Q")
_REPLY_HEAD, _REPLY_LIMIT = 5, 3


class ScriptCall(NamedTuple):
    """A script with its KEYS and ARGV."""

    script: Script
    keys: Sequence[str]
    args: Sequence[str | bytes]


class Bucket(NamedTuple):
    """A throttle bound to where its state is kept: a field of the key's hash, or a shared Redis key."""

    name: str
    throttle: Throttle
    place: str
    shared: bool = False

    def packed(self, _now_us: int) -> bytes:
        """Return the 40 bytes of ARGV[2] for this limit."""
        tokens, per_us = self.throttle.ratio
        return _LIMIT.pack(_SHARED_BUCKET if self.shared else _OWN_BUCKET, self.throttle.burst, tokens, per_us, 0)

    def status(self, _now_us: int, remaining: int, reset_us: int, retry_us: int) -> LimitStatus:
        """Return this limit's part of the decision."""
        rate, burst = self.throttle.rate, self.throttle.burst
        window = float(burst / rate) if rate else None
        return LimitStatus(self.name, burst, remaining, _seconds(reset_us), _seconds(retry_us), window)


class QuotaCount(NamedTuple):
    """A quota bound to the field of the key's hash that counts it."""

    name: str
    quota: Quota
    place: str
    shared: bool = False

    def packed(self, now_us: int) -> bytes:
        """Return the 40 bytes of ARGV[2], with the windows around `now_us`."""
        return _LIMIT.pack(_QUOTA, self.quota.limit, *two_windows(self.quota, now_us))

    def status(self, now_us: int, remaining: int, reset_us: int, retry_us: int) -> LimitStatus:
        """Return this limit's part of the decision."""
        first, second, _ = two_windows(self.quota, now_us)
        window = (second - first) / MICROSECONDS
        return LimitStatus(self.name, self.quota.limit, remaining, _seconds(reset_us), _seconds(retry_us), window)


class Meter(NamedTuple):
    """The count of a plan without a quota: it limits nothing, so decisions do not show it."""

    name: str
    place: str
    shared: bool = False

    def packed(self, _now_us: int) -> bytes:
        """Return the 40 bytes of ARGV[2]."""
        return _LIMIT.pack(_METER, 0, 0, 0, 0)


Limit = Bucket | QuotaCount | Meter


def _seconds(us: int) -> float | None:
    return None if us == _NEVER else us / MICROSECONDS


class Call:
    """The limits of one kind of request, compiled: what is the same for every key and moment is worked out once."""

    __slots__ = ("_packed", "fields", "limits", "shared_keys")

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        self.shared_keys = tuple(limit.place for limit in limits if limit.shared)
        self.fields = tuple(limit.place for limit in limits if not limit.shared)
        self._packed: bytes | None = None

    def packed(self, guess_us: Callable[[], int]) -> bytes:
        """Return ARGV[2]. Quota windows are guessed once, and worked out anew when the server calls them past."""
        if self._packed is None:
            self.move_windows(guess_us())
        return cast("bytes", self._packed)

    def move_windows(self, now_us: int) -> None:
        """Work the quota windows out anew, around the server's time `now_us`."""
        self._packed = b"".join(limit.packed(now_us) for limit in self.limits)


def request(
    *, now_us: int, cost: int, valid_until_us: int = 0, flags: int = 0, epoch: bytes, version: int, stamp: bytes
) -> bytes:
    """Return ARGV[1]. A cost too large to be counted exactly is above every limit, and sent as the largest there is."""
    return _REQUEST.pack(now_us, min(cost, EXACT - 1), valid_until_us, flags, epoch, version, stamp)


def decision(call: Call, reply: Sequence[int]) -> Decision:
    """Return the decision that a reply of the script (ALLOWED or DENIED) stands for."""
    now_us, limited, retry_us = reply[1], reply[2], reply[3]
    statuses = tuple(
        limit.status(now_us, *reply[at : at + _REPLY_LIMIT])
        for limit, at in zip(call.limits, range(_REPLY_HEAD, len(reply), _REPLY_LIMIT), strict=True)
        if not isinstance(limit, Meter)
    )
    if reply[0] == ALLOWED:
        return Decision(Reason.ALLOWED, limits=statuses, time_us=now_us)
    refusing = call.limits[limited - 1]
    reason = Reason.QUOTA_EXCEEDED if isinstance(refusing, QuotaCount) else Reason.THROTTLED
    return Decision(reason, refusing.name, _seconds(retry_us), statuses, time_us=now_us)
