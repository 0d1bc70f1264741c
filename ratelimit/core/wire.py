"""The wire contract of lua/check.lua: limits as they are packed, requests as they are sent, replies as decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from typing import NamedTuple

from ratelimit.core.admitted import Admitted
from ratelimit.core.validate import EXACT
from ratelimit.core.windows import DAY_US, two_windows
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.model import MICROSECONDS, Quota, Throttle

DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
HAS_KEY, NOTHING_NEWER, HAS_SHADOW, HAS_ALERTS, SHADOW_HAS_BUCKET = 1, 2, 4, 8, 16
_COUNTED = (ADMITTED, ADMITTED_DAY_OVER)
_ALLOWED = Reason.ALLOWED
NEVER = _NO_QUOTA = -1
_REQUEST = Struct("<4d")
_PLAN = Struct("<7d")
_BUCKET = Struct("<3d")
_ALERT = Struct("<2d")
_NUMBER = Struct("<d")
_STATE = Struct("<7d")
_DAYS = 2**20  # a state's calendar: the quota's window times this, and the day of metering
_PER_AND_LEVEL = Struct("<2d")

Reply = bytes | Sequence[int]
"""What check.lua answers: the states as they now stand if nothing was unusual, else whole numbers."""


def status(reply: Reply) -> int:
    """Return what a reply says of the request: one of the numbers above."""
    return ADMITTED if isinstance(reply, bytes) else reply[0]


class Bucket(NamedTuple):
    """A throttle bound to where its state is kept: "" in the plan's own state, a hash field, or a shared Redis key."""

    name: str
    throttle: Throttle
    place: str = ""
    shared: bool = False

    @property
    def most(self) -> int:
        """The largest cost that can ever pass."""
        return self.throttle.burst

    @property
    def where(self) -> str:
        """What tells this limit from all others of the same key, or of all callers."""
        return self.place or self.name

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

    @property
    def most(self) -> int:
        """The largest cost that can ever pass."""
        return self.quota.limit

    @property
    def where(self) -> str:
        """What tells this limit from all others of the same key."""
        return self.name


Limit = Bucket | QuotaCount


class PlanPart(NamedTuple):
    """What a plan has in its own state: a bucket, a quota, both or neither."""

    bucket: Throttle | None
    quota: Quota | None

    def packed(self, now_us: int) -> bytes:
        """Return the 7 doubles of the request, with the quota's windows around `now_us`."""
        bucket = (self.bucket.burst, *self.bucket.ratio) if self.bucket else (0, 0, 0)
        quota = (self.quota.limit, *two_windows(self.quota, now_us)) if self.quota else (_NO_QUOTA, 0, 0, 0)
        return _PLAN.pack(*bucket, *quota)


class Shadow(NamedTuple):
    """What a plan's shadow would have a request meet, and the hash fields in which it keeps its own state."""

    plan: PlanPart
    fields: tuple[str, ...]


class Call:
    """The limits of one kind of request, compiled: what is the same for every key and moment is worked out once.

    limits      all that apply, in the order of the reply: the plan's bucket, further buckets, the quota
    places      the same, each with its index and with what tells it from others (`where`)
    plan_field  hash field of the plan's state in the key's hash; None for a request without a key
    alerts      percentages of the quota that are told when reached
    stream      Redis key of the stream on which they are told
    """

    __slots__ = (
        "_known_window",
        "_shadow",
        "_tail",
        "_time_at",
        "_told",
        "fields",
        "flags",
        "further",
        "further_packed",
        "layout",
        "limits",
        "places",
        "plan",
        "shared_keys",
        "windows",
    )

    def __init__(
        self,
        limits: Sequence[Limit],
        plan_field: str | None = None,
        shadow: Shadow | None = None,
        alerts: Sequence[int] = (),
        stream: str = "",
    ) -> None:
        self.limits = tuple(limits)
        self.places = tuple((at, limit, limit.where) for at, limit in enumerate(self.limits))
        buckets = [limit for limit in limits if isinstance(limit, Bucket)]
        further = self.further = sorted((each for each in buckets if each.place), key=lambda each: each.shared)
        self.plan = PlanPart(
            next((bucket.throttle for bucket in buckets if not bucket.place), None),
            next((limit.quota for limit in limits if isinstance(limit, QuotaCount)), None),
        )
        self._shadow = shadow
        self.flags = 0 if plan_field is None else HAS_KEY
        self.fields: tuple[str, ...] = () if plan_field is None else (plan_field,)
        self.fields += tuple(bucket.place for bucket in further if not bucket.shared)
        self.shared_keys = tuple(bucket.place for bucket in further if bucket.shared)
        if shadow is not None:
            self.fields += shadow.fields
            self.flags |= HAS_SHADOW | (SHADOW_HAS_BUCKET if len(shadow.fields) > 1 else 0)
        # Those that check_many.lua takes: how many further buckets are in the key's hash, and how many are shared.
        self.layout: bytes | None = None
        if plan_field is not None and shadow is None and not (alerts and self.plan.quota):
            self.layout = bytes((len(self.fields) - 1, len(self.shared_keys)))
        self._tail = b""
        if alerts and self.plan.quota is not None:
            self.flags |= HAS_ALERTS
            self.shared_keys += (stream,)
            reached = ((percent, -(-self.plan.quota.limit * percent // 100)) for percent in alerts)
            self._tail = b"".join(_ALERT.pack(*pair) for pair in reached)
        self.further_packed = b"".join(_BUCKET.pack(each.throttle.burst, *each.throttle.ratio) for each in further)
        # Every bucket was last charged now; the plan's state tells the time of its last charge where there is none.
        self._time_at = _STATE.size + _BUCKET.size * len(further) - 8 if further else 16
        self.windows: tuple[bytes, bytes] | None = None
        self._known_window = (0, 0.0)
        self._told = tuple(
            (limit.name, limit.throttle.burst, limit.window, None)
            if isinstance(limit, Bucket)
            else (limit.name, limit.quota.limit, None, limit.quota)
            for limit in limits
        )

    def move_windows(self, now_us: int) -> tuple[bytes, bytes]:
        """Work the quotas' windows out anew, around the server's time `now_us`."""
        shadow = self._shadow.plan.packed(now_us) if self._shadow else b""
        self.windows = self.plan.packed(now_us), b"".join((self.further_packed, shadow, self._tail))
        return self.windows

    def request(
        self, *, now_us: int, cost: int, valid_until_us: int, flags: int, identity: bytes, guess: Callable[[], int]
    ) -> bytes:
        """Return ARGV[1].

        A cost too large to be counted exactly is above every limit, and sent as 2^53. `guess` tells
        the time around which windows are worked out at first; the script says when they are past.
        """
        head = _REQUEST.pack(now_us, min(cost, EXACT), valid_until_us, self.flags | flags)
        plan, further = self.windows or self.move_windows(guess())
        return b"".join((head, plan, identity, further))

    def decision(self, reply: Reply) -> Decision:
        """Return the decision that a reply of the script stands for."""
        if isinstance(reply, bytes):
            return Admitted(self, reply)
        if reply[0] in _COUNTED:
            return Decision(_ALLOWED, limits=partial(self._statuses, reply), time_us=reply[1])
        limited_by, longest = None, 0
        for (name, *_), wait_us in zip(self._told, reply[4::3], strict=True):
            if wait_us:
                limited_by = limited_by or name
                longest = NEVER if NEVER in (wait_us, longest) else max(longest, wait_us)
        if limited_by is None:
            return Decision(_ALLOWED, limits=partial(self._statuses, reply), time_us=reply[1])
        reason = Reason.QUOTA_EXCEEDED if limited_by.startswith("quota:") else Reason.THROTTLED
        return Decision(reason, limited_by, _seconds(longest), partial(self._statuses, reply), time_us=reply[1])

    def time_us(self, reply: Reply) -> int:
        """Return the server's time of a reply, in microseconds since 1970."""
        if isinstance(reply, bytes):
            return int(_NUMBER.unpack_from(reply, self._time_at)[0])
        return reply[1]

    def charged(self, reply: bytes) -> tuple[LimitStatus, ...]:
        """Return what an admitted request left, from the states as they now stand."""
        now_us, numbers = self.time_us(reply), list[int]()
        calendar, used, granted = map(int, _STATE.unpack_from(reply)[3:6])
        at = _STATE.size
        for limit in self.limits:
            if isinstance(limit, QuotaCount):
                stop_us = sum(divmod(calendar // _DAYS, 64)) * DAY_US
                numbers += [limit.quota.limit + granted - used, stop_us - now_us]
                continue
            where, at = (at, at + _BUCKET.size) if limit.place else (0, at)
            per, level = map(int, _PER_AND_LEVEL.unpack_from(reply, where))
            rate, _ = limit.throttle.ratio
            numbers += [level // per, -((level - limit.throttle.burst * per) // rate)]
        return self._statuses((ADMITTED, now_us, *numbers))

    def _statuses(self, reply: Sequence[int]) -> tuple[LimitStatus, ...]:
        width = 2 if reply[0] in _COUNTED else 3
        numbers = (reply[at : at + width] for at in range(2, len(reply), width))
        return tuple(self.status(at, reply[1], *told) for at, told in enumerate(numbers))

    def status(self, at: int, now_us: int, remaining: int, reset_us: int, wait_us: int = 0) -> LimitStatus:
        """Return what the limit at place `at` says, from numbers as in replies."""
        name, most, window, quota = self._told[at]
        if quota is not None:
            window = self._window_until(quota, now_us + reset_us)
        return LimitStatus(name, most, remaining, _seconds(reset_us), _seconds(wait_us), window)

    def _window_until(self, quota: Quota, stop_us: int) -> float:
        """Return the length in seconds of the quota's window that ends at `stop_us`."""
        known_stop_us, length = self._known_window
        if stop_us != known_stop_us:
            first, second, _ = two_windows(quota, stop_us - 1)
            length = (second - first) * DAY_US / MICROSECONDS
            self._known_window = stop_us, length
        return length


def _seconds(us: int) -> float | None:
    return None if us == NEVER else us / MICROSECONDS
