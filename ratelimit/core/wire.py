"""The wire contract of lua/check.lua: limits as they are packed, requests as they are sent, replies as decisions.

What a limit says is worked out here from its state, by the arithmetic of lua/lib/token_bucket.lua and quota_window.lua:
for any cost, at the time of the reply or later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite
from typing import Any, NamedTuple

from ratelimit.core.admitted import Admitted
from ratelimit.core.validate import EXACT
from ratelimit.core.windows import DAY_US, two_windows
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS, Quota, Throttle

DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
HAS_KEY, NOTHING_NEWER, HAS_SHADOW, HAS_ALERTS, SHADOW_HAS_BUCKET, PEEK = 1, 2, 4, 8, 16, 64
_COUNTED = (ADMITTED, ADMITTED_DAY_OVER)
_ALLOWED = Reason.ALLOWED
_NO_QUOTA = -1
_REQUEST = struct.Struct("<4d")
_PLAN = struct.Struct("<7d")
_BUCKET = struct.Struct("<3d")
_ALERT = struct.Struct("<2d")
_NUMBER = struct.Struct("<d")
_STATE = struct.Struct("<7d")
_DAYS = 2**20  # a state's calendar: the quota's window times this, and the day of metering
_LIMIT = struct.Struct("<2d")

Reply = bytes | list[Any]
"""What check.lua answers: the states as they now stand if nothing was unusual, else status, time and limits."""

Numbers = tuple[float, ...]
"""Two of each limit, as they stand at the time of a reply: a bucket's level and last_us, what is left of a quota and
the end of its window. Whole numbers below 2^53, which floats hold exactly."""


def status(reply: Reply) -> int:
    """Return what a reply says of the request: one of the numbers above."""
    if isinstance(reply, bytes):
        return ADMITTED
    try:
        code, now_us, *_ = reply
    except (TypeError, ValueError):
        code = now_us = None
    if not isinstance(code, int) or not isinstance(now_us, int):
        raise StoreError("Redis answered to a check with something else")
    return code


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


class Rule(NamedTuple):
    """A limit's numbers. Of a bucket: `rate` units of 1/per token a microsecond, `full` when full; of a quota none."""

    is_bucket: bool
    most: int
    rate: int = 0
    per: int = 1
    full: int = 0

    @classmethod
    def of(cls, limit: Limit) -> Rule:
        """Return those of a limit."""
        if not isinstance(limit, Bucket):
            return cls(False, limit.quota.limit)  # noqa: FBT003 - a record
        rate, per = limit.throttle.ratio
        return cls(True, limit.throttle.burst, rate, per, limit.throttle.burst * per)  # noqa: FBT003 - a record

    def remaining(self, level: float, last_us: float, now_us: float) -> int:
        """Return whole tokens or units left; none in a bucket that never fills, for it admits nothing."""
        if not self.is_bucket:
            return int(level)
        return int(self._refilled(level, last_us, now_us) // self.per) if self.rate else 0

    def reset_us(self, level: float, last_us: float, now_us: float) -> float:
        """Return microseconds until the bucket is full or the quota's window ends; inf for a rate of 0."""
        if not self.is_bucket:
            return last_us - now_us
        if not self.rate:
            return inf
        return max(0, last_us - now_us) - (self._refilled(level, last_us, now_us) - self.full) // self.rate

    def _refilled(self, level: float, last_us: float, now_us: float) -> float:
        # A sum too large to be exact is above what fills the bucket.
        return min(self.full, level + max(0, now_us - last_us) * self.rate)


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
    rules       the same, as numbers
    own_at      of those that a key has for itself, the index by `where`
    shares      whether there are others
    shared_pers  of those, P by `where`
    unpack      returns `Numbers` from bytes
    joined_size  how many bytes the states are that say that a request was admitted
    plan_field  hash field of the plan's state in the key's hash; None for a request without a key
    alerts      percentages of the quota that are told when reached
    stream      Redis key of the stream on which they are told
    """

    __slots__ = (
        "_known_window",
        "_names",
        "_reasons",
        "_room_at",
        "_shadow",
        "_tail",
        "_time_at",
        "fields",
        "flags",
        "further",
        "further_packed",
        "joined_size",
        "layout",
        "limits",
        "own_at",
        "places",
        "plan",
        "rules",
        "shared_keys",
        "shared_pers",
        "shares",
        "unpack",
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
        self.own_at = {where: at for at, limit, where in self.places if not limit.shared}
        self.shares = len(self.own_at) < len(self.limits)
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
        self.joined_size = _STATE.size + _BUCKET.size * len(further)
        self.windows: tuple[bytes, bytes] | None = None
        self._known_window = (0, 0.0)
        self.shared_pers = tuple(
            (where, limit.throttle.ratio[1])
            for _, limit, where in self.places
            if isinstance(limit, Bucket) and limit.shared
        )
        places = iter(range(_STATE.size + 8, _STATE.size + 8 + _BUCKET.size * len(further), _BUCKET.size))
        self._room_at = tuple((next(places) if each.place else 8, each.throttle.ratio[1]) for each in buckets)
        self.unpack = struct.Struct(f"<{2 * len(self.limits)}d").unpack
        self._reasons = tuple(
            Reason.THROTTLED if isinstance(limit, Bucket) else Reason.QUOTA_EXCEEDED for limit in limits
        )
        self.rules = tuple(map(Rule.of, self.limits))
        self._names = tuple(
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

    def decision(self, reply: Reply, cost: int) -> Decision:
        """Return the decision that a reply of the script to a request of `cost` stands for."""
        if isinstance(reply, bytes):
            return Admitted(self, reply)
        numbers, now_us = self.numbers(reply), reply[1]
        if reply[0] != DENIED:
            return Decision(_ALLOWED, limits=partial(self.statuses, numbers, now_us), time_us=now_us)
        denial = self.denial(numbers, now_us, cost)
        if denial is None:
            raise StoreError("Redis denied a check that all limits of its answer admit")
        first, _, end_us = denial
        return self.denied(first, end_us - now_us, numbers, now_us, cost, now_us, "redis")

    def admits_us(self, numbers: Numbers, cost: int) -> list[float]:
        """Return the server's time from which on each limit admits a cost: 0 at any time, inf at none.

        At whatever time one asks, it is the same, as long as nobody else takes from the limit.
        """
        found: list[float] = []
        at = 0
        for is_bucket, most, rate, per, _ in self.rules:
            level = numbers[at]
            if cost > most or (is_bucket and not rate):
                found.append(0 if cost <= level and not is_bucket else inf)
            elif not is_bucket:
                found.append(0 if cost <= level else numbers[at + 1])
            else:
                missing = cost * per - level
                found.append(numbers[at + 1] - -missing // rate if missing > 0 else 0)
            at += 2
        return found

    def denial(self, numbers: Numbers, now_us: float, cost: int) -> tuple[int, float, float] | None:
        """Return the first limit that denies, until when it does, and from when on none does; None if all admit."""
        now_us = float(now_us)  # Python compares floats with ints of such a size in a slow way
        admits_us = self.admits_us(numbers, cost)
        for at, us in enumerate(admits_us):
            if us > now_us:
                return at, us, max(admits_us)
        return None

    def denied(
        self, first: int, wait_us: float, numbers: Numbers, now_us: int, cost: int, time_us: int | None, source: str
    ) -> Decision:
        """Return the decision of a request that a limit denies first, and all admit after a wait; inf for never."""
        return Decision(
            self._reasons[first],
            self._names[first][0],
            None if wait_us == inf else wait_us / MICROSECONDS,
            partial(self.statuses, numbers, now_us, cost),
            None,
            source,
            time_us,
        )

    def time_us(self, reply: Reply) -> int:
        """Return the server's time of a reply, in microseconds since 1970."""
        if isinstance(reply, bytes):
            try:
                if len(reply) == self.joined_size:
                    return int(_NUMBER.unpack_from(reply, self._time_at)[0])
            except (ValueError, OverflowError):
                pass
            raise StoreError("Redis answered to a check with states that cannot be read")
        now_us: int = reply[1]
        return now_us

    def charged(self, reply: bytes) -> tuple[LimitStatus, ...]:
        """Return what an admitted request left, from the states as they now stand."""
        return self.statuses(self.numbers(reply), self.time_us(reply))

    def numbers(self, reply: Reply) -> Numbers:
        """Return what a reply that judged says of each limit."""
        if isinstance(reply, bytes):
            return self.unpack(self.packed(reply))
        try:
            numbers: Numbers = self.unpack(reply[2])
        except (struct.error, TypeError, IndexError):
            numbers = (inf,)
        if not isfinite(sum(numbers)):
            raise StoreError("Redis answered to a check with limits that cannot be read")
        return numbers

    def packed(self, reply: bytes) -> bytes:
        """Return what all joined states say of each limit, as the other replies do: 16 bytes for each."""
        parts: list[bytes] = []
        at = _STATE.size
        for limit in self.limits:
            if isinstance(limit, QuotaCount):
                calendar, used, granted = _STATE.unpack_from(reply)[3:6]
                end_us = sum(divmod(calendar // _DAYS, 64)) * DAY_US
                parts.append(_LIMIT.pack(limit.quota.limit + granted - used, end_us))
                continue
            where, at = (at, at + _BUCKET.size) if limit.place else (0, at)
            parts.append(reply[where + 8 : where + 24])
        return b"".join(parts)

    def room(self, reply: bytes) -> float:
        """Return the largest cost that an admitted request left room for, by all joined states."""
        room = inf
        for at, per in self._room_at:
            left = _NUMBER.unpack_from(reply, at)[0] // per
            room = min(room, left)
        if self.plan.quota is not None:
            used, granted = _LIMIT.unpack_from(reply, 32)
            room = min(room, self.plan.quota.limit + granted - used)
        return room

    def statuses(self, numbers: Numbers, now_us: float, cost: int = 0) -> tuple[LimitStatus, ...]:
        """Return what each limit says; of a request that was denied with the wait of its `cost`."""
        admits_us = self.admits_us(numbers, cost) if cost else [0.0] * len(self.rules)
        found: list[LimitStatus] = []
        at = 0
        for rule, admits, (name, most, window, quota) in zip(self.rules, admits_us, self._names, strict=True):
            level, last_us = numbers[at], numbers[at + 1]
            at += 2
            length = window if quota is None else self._window_until(quota, int(last_us))
            left, reset_us = rule.remaining(level, last_us, now_us), rule.reset_us(level, last_us, now_us)
            wait_us = max(0.0, admits - now_us)
            found.append(LimitStatus(name, most, left, _seconds(reset_us), _seconds(wait_us), length))
        return tuple(found)

    def _window_until(self, quota: Quota, stop_us: int) -> float:
        """Return the length in seconds of the quota's window that ends at `stop_us`."""
        known_stop_us, length = self._known_window
        if stop_us != known_stop_us:
            first, second, _ = two_windows(quota, stop_us - 1)
            length = (second - first) * DAY_US / MICROSECONDS
            self._known_window = stop_us, length
        return length


def _seconds(us: float) -> float | None:
    return None if us == inf else us / MICROSECONDS
