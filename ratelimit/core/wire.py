"""The wire contract of lua/check.lua: limits as they are packed, requests as they are sent, replies as decisions.

What a limit says is worked out here from its state, by the arithmetic of lua/lib/token_bucket.lua and quota_window.lua:
for any cost, at the time of the reply or later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
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
NEVER = _NO_QUOTA = -1
_REQUEST = struct.Struct("<4d")
_PLAN = struct.Struct("<7d")
_BUCKET = struct.Struct("<3d")
_ALERT = struct.Struct("<2d")
_NUMBER = struct.Struct("<d")
_STATE = struct.Struct("<7d")
_DAYS = 2**20  # a state's calendar: the quota's window times this, and the day of metering
_LEVEL_AND_LAST = struct.Struct("<2d")

Reply = bytes | list[Any]
"""What check.lua answers: the states as they now stand if nothing was unusual, else status, time and limits."""

State = tuple[int, int]
"""A limit at the time of a reply: of a bucket its level and last_us, of a quota what is left and its window's end."""

StateAt = tuple[int, int, int]
"""A state, and the server's time at which it is asked about: never before the time of its reply."""


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

    def wait_us(self, state: StateAt, cost: int) -> int:
        """Return microseconds until the limit admits a cost: 0 now, NEVER."""
        is_bucket, most, rate, per, _ = self
        level, last_us, now_us = state
        if not is_bucket:
            return 0 if cost <= level else NEVER if cost > most else last_us - now_us
        if rate == 0 or cost > most:
            return NEVER
        missing = cost * per - level
        elapsed = now_us - last_us
        if elapsed > 0:
            missing -= elapsed * rate
            # A full bucket admits whatever it can hold: more than that has been answered above.
            return 0 if missing <= 0 else -(-missing // rate)
        # The clock is behind the state, which holds as it is until that time.
        return 0 if missing <= 0 else -(-missing // rate) - elapsed

    def remaining(self, state: StateAt) -> int:
        """Return whole tokens or units left; none in a bucket that never fills, for it admits nothing."""
        if not self.is_bucket:
            return state[0]
        return self._level(state) // self.per if self.rate else 0

    def reset_us(self, state: StateAt) -> int:
        """Return microseconds until the bucket is full or the quota's window ends; NEVER for a rate of 0."""
        _, last_us, now_us = state
        if not self.is_bucket:
            return last_us - now_us
        if not self.rate:
            return NEVER
        return max(0, last_us - now_us) - (self._level(state) - self.full) // self.rate

    def _level(self, state: StateAt) -> int:
        level, last_us, now_us = state
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
    plan_field  hash field of the plan's state in the key's hash; None for a request without a key
    alerts      percentages of the quota that are told when reached
    stream      Redis key of the stream on which they are told
    """

    __slots__ = (
        "_known_window",
        "_names",
        "_shadow",
        "_states",
        "_tail",
        "_time_at",
        "fields",
        "flags",
        "further",
        "further_packed",
        "layout",
        "limits",
        "own_at",
        "places",
        "plan",
        "rules",
        "shared_keys",
        "shares",
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
        self.windows: tuple[bytes, bytes] | None = None
        self._known_window = (0, 0.0)
        self._states = struct.Struct(f"<{2 * len(self.limits)}d")
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
        now_us = reply[1]
        states = [(*state, now_us) for state in self.states(reply)]
        if reply[0] != DENIED:
            return Decision(_ALLOWED, limits=partial(self.statuses, states), time_us=now_us)
        denial = self.denial(states, cost)
        if denial is None:
            raise StoreError("Redis denied a check that the limits it told admit")
        reason, limited_by, wait_us = denial
        return Decision(reason, limited_by, _seconds(wait_us), partial(self.statuses, states, cost), time_us=now_us)

    def denial(self, states: Sequence[StateAt], cost: int) -> tuple[Reason, str, int] | None:
        """Return why a cost is denied, by which limit first, and how long it has to wait; None if all limits admit."""
        first, longest = None, 0
        for at, (rule, state) in enumerate(zip(self.rules, states, strict=True)):
            wait_us = rule.wait_us(state, cost)
            if wait_us:
                if first is None:
                    first = at
                if longest != NEVER:
                    longest = wait_us if wait_us == NEVER or wait_us > longest else longest
        if first is None:
            return None
        reason = Reason.THROTTLED if self.rules[first].is_bucket else Reason.QUOTA_EXCEEDED
        return reason, self.limits[first].name, longest

    def time_us(self, reply: Reply) -> int:
        """Return the server's time of a reply, in microseconds since 1970."""
        if isinstance(reply, bytes):
            try:
                return int(_NUMBER.unpack_from(reply, self._time_at)[0])
            except (struct.error, ValueError, OverflowError):
                raise StoreError("Redis answered to a check with a time that cannot be read") from None
        now_us: int = reply[1]
        return now_us

    def charged(self, reply: bytes) -> tuple[LimitStatus, ...]:
        """Return what an admitted request left, from the states as they now stand."""
        now_us = self.time_us(reply)
        return self.statuses([(*state, now_us) for state in self.states(reply)])

    def states(self, reply: Reply) -> list[State]:
        """Return what a reply that judged says of each limit."""
        try:
            if not isinstance(reply, bytes):
                numbers = list(map(int, self._states.unpack(reply[2])))
                return list(zip(numbers[::2], numbers[1::2], strict=True))
            calendar, used, granted = map(int, _STATE.unpack_from(reply)[3:6])
            end_us = sum(divmod(calendar // _DAYS, 64)) * DAY_US
            found, at = list[State](), _STATE.size
            for limit in self.limits:
                if isinstance(limit, QuotaCount):
                    found.append((limit.quota.limit + granted - used, end_us))
                    continue
                where, at = (at, at + _BUCKET.size) if limit.place else (0, at)
                level, last_us = _LEVEL_AND_LAST.unpack_from(reply, where + 8)
                found.append((int(level), int(last_us)))
        except (struct.error, TypeError, ValueError, OverflowError, IndexError):
            raise StoreError("Redis answered to a check with states that cannot be read") from None
        return found

    def statuses(self, states: Sequence[StateAt], cost: int = 0) -> tuple[LimitStatus, ...]:
        """Return what each limit says; of a request that was denied with the wait of its `cost`."""
        return tuple(
            self._status(at, rule, state, cost) for at, (rule, state) in enumerate(zip(self.rules, states, strict=True))
        )

    def _status(self, at: int, rule: Rule, state: StateAt, cost: int) -> LimitStatus:
        name, most, window, quota = self._names[at]
        if quota is not None:
            window = self._window_until(quota, state[1])
        wait_us = rule.wait_us(state, cost) if cost else 0
        return LimitStatus(name, most, rule.remaining(state), _seconds(rule.reset_us(state)), _seconds(wait_us), window)

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
