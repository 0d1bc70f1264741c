"""The limits of a request, compiled: requests are packed and replies decoded by what was computed once.

What a limit admits is computed here from its state, by the arithmetic of lua/lib/token_bucket.lua and quota_window.lua:
for any cost, at the time of the reply or later.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from math import inf, isfinite
from typing import NamedTuple

from ratelimit.decision import Decision, LimitStatus, Reason, Source
from ratelimit.engine import protocol
from ratelimit.engine.lazy_decision import LazyAdmission
from ratelimit.engine.protocol import Reply
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS, Quota, Throttle, UsagePlan
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.registry.windows import DAY_US, two_windows
from ratelimit.validation import EXACT

_ALLOWED = Reason.ALLOWED
_COUNTED_ONE_BY_ONE = 4096
KEY_HASH = ""
"""Among Redis keys, stands for that of the key's own hash: where alerts are kept if their stream is in another slot."""
_TOO_MANY_IDENTITIES = "identities"
"""Name of what limits a request, if its plan has as many identities as it may have."""

Numbers = tuple[float, ...]
"""Two of each limit at the time of a reply: a bucket's level and last_us, what is left of a quota and the end of its
window. Whole numbers below 2^53, which floats hold exactly."""


class Bucket(NamedTuple):
    """A throttle bound to where its state is kept: "" in the plan's own state, a hash field, or a shared Redis key."""

    name: str
    throttle: Throttle
    field_or_key: str = ""
    shared: bool = False

    @property
    def capacity(self) -> int:
        """The largest cost that can ever pass."""
        return self.throttle.burst

    @property
    def state_id(self) -> str:
        """Identifies this limit among all others of the same key, or of all callers."""
        return self.field_or_key or self.name

    @property
    def window(self) -> float | None:
        """Seconds in which an empty bucket fills; None if it never does."""
        return float(self.throttle.burst / self.throttle.rate) if self.throttle.rate else None


class QuotaCount(NamedTuple):
    """A quota; its count is part of the plan's own state."""

    name: str
    quota: Quota
    shared: bool = False
    field_or_key: str = ""

    @property
    def capacity(self) -> int:
        """The largest cost that can ever pass."""
        return self.quota.limit

    @property
    def state_id(self) -> str:
        """Identifies this limit among all others of the same key."""
        return self.name


Limit = Bucket | QuotaCount


class LimitNumbers(NamedTuple):
    """A limit as numbers. Of a bucket: `rate` units of 1/per token a microsecond, `full` when full; of a quota none."""

    is_bucket: bool
    capacity: int
    rate: int = 0
    per: int = 1
    full: int = 0

    @classmethod
    def of(cls, limit: Limit) -> LimitNumbers:
        """Return the numbers of a limit."""
        if not isinstance(limit, Bucket):
            return cls(False, limit.quota.limit)  # noqa: FBT003 - a record
        rate, per = limit.throttle.ratio
        return cls(True, limit.throttle.burst, rate, per, limit.throttle.burst * per)  # noqa: FBT003 - a record

    def divided(self, parts: int) -> LimitNumbers:
        """Return the numbers of one of so many equal parts: a bucket that refills so much slower, of the same size."""
        if not self.is_bucket:
            return self._replace(capacity=self.capacity // parts)
        return self._replace(per=self.per * parts, full=self.full * parts)

    def remaining_and_reset_us(self, level: float, last_us: float, now_us: float) -> tuple[int, float]:
        """Return what is left, and in how many microseconds the bucket is full or the quota's window ends.

        Whole tokens or units; none in a bucket that never fills, for it admits nothing, and inf until it is full.
        """
        if not self.is_bucket:
            return int(level), last_us - now_us
        if not self.rate:
            return 0, inf
        refilled = self._refilled(level, last_us, now_us)
        return max(0, int(refilled // self.per)), max(0, last_us - now_us) - (refilled - self.full) // self.rate

    def _refilled(self, level: float, last_us: float, now_us: float) -> float:
        # A sum too large to be exact is above what fills the bucket.
        return min(self.full, level + max(0, now_us - last_us) * self.rate)


class PlanLimits(NamedTuple):
    """The limits whose state is the plan's own: a bucket, a quota, both or neither."""

    throttle: Throttle | None
    quota: Quota | None

    def packed(self, now_us: int) -> bytes:
        """Return the 7 doubles of the request, with the quota's windows around `now_us`."""
        return protocol.pack_plan(self.throttle, self.quota, now_us)


class Shadow(NamedTuple):
    """The limits of a plan's shadow for a request, and the hash fields in which it keeps its own state."""

    limits: PlanLimits
    fields: tuple[str, ...]


class IdentityBound(NamedTuple):
    """How many identities a plan may have, one of how many is counted, and under which Redis key."""

    most: int
    one_in: int
    redis_key: str

    @classmethod
    def of(cls, plan: UsagePlan, redis_keys: RedisKeys) -> IdentityBound | None:
        """Return the bound of a plan, None if it has none. Up to 4096 are counted one by one, of more a sample."""
        most = plan.max_identities
        if most is None:
            return None
        one_in = 1
        while most > one_in * _COUNTED_ONE_BY_ONE:
            one_in *= 2
        return cls(most, one_in, redis_keys.identities(plan.id, one_in))


class CompiledLimits:
    """The limits of one kind of request: all that is the same for every key and moment, computed once.

    Attributes:
        limits: All that apply, in the order of the reply: the plan's bucket, further buckets, the quota.
        indexed: The same, each with its index and its `state_id`.
        numbers_of: The same, as numbers.
        own_index: The index of each limit that a key has for itself, by `state_id`.
        has_shared: Whether there are limits that all callers share.
        shared_scales: P of each shared bucket, with its `state_id`.
        unpack: Returns `Numbers` from bytes.
        states_size: Length in bytes of the reply that says that a request was admitted.
        shared_keys: Redis keys of the shared buckets, then that of the stream if there are alerts, or that of the
            counted identities if these are bounded.
        fields: Hash fields in the key's hash; none for a request without a key.
        layout: How many further buckets are in the key's hash, and how many are shared: two bytes, None if
            check_many.lua does not take such requests.
        last_reply: The last reply that judged such a request, of whatever key; None if there was none.
        sent_us: When that request was sent, by `Namespace.age_us`.
    """

    __slots__ = (
        "_divided",
        "_known_window",
        "_last_us_at",
        "_levels_at",
        "_names",
        "_reasons",
        "_shadow",
        "_tail",
        "fields",
        "flags",
        "further_buckets",
        "further_packed",
        "has_shared",
        "indexed",
        "last_reply",
        "layout",
        "limits",
        "numbers_of",
        "own_index",
        "plan_limits",
        "sent_us",
        "shared_keys",
        "shared_scales",
        "states_size",
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
        *,
        is_identity: bool = False,
        bound: IdentityBound | None = None,
    ) -> None:
        """Compile limits.

        Args:
            limits: All that apply, in the order in which they are reported.
            plan_field: Hash field of the plan's state in the key's hash; None for a request without a key.
            shadow: The limits of the plan's shadow, if it has one.
            alerts: Percentages of the quota that are announced when they are reached.
            stream: Redis key of the stream on which they are announced, or KEY_HASH.
            is_identity: Whether they are an identity's; then there are neither shadow nor alerts.
            bound: How many identities the plan may have, if that is bounded.
        """
        self.limits = tuple(limits)
        self.indexed = tuple((index, limit, limit.state_id) for index, limit in enumerate(self.limits))
        self.own_index = {state_id: index for index, limit, state_id in self.indexed if not limit.shared}
        self.has_shared = len(self.own_index) < len(self.limits)
        buckets = [limit for limit in limits if isinstance(limit, Bucket)]
        further = sorted((bucket for bucket in buckets if bucket.field_or_key), key=lambda bucket: bucket.shared)
        self.further_buckets = further
        self.plan_limits = PlanLimits(
            next((bucket.throttle for bucket in buckets if not bucket.field_or_key), None),
            next((limit.quota for limit in limits if isinstance(limit, QuotaCount)), None),
        )
        quota = self.plan_limits.quota
        self._shadow = shadow
        self.flags = 0 if plan_field is None else protocol.HAS_KEY
        self.fields: tuple[str, ...] = () if plan_field is None else (plan_field,)
        self.fields += tuple(bucket.field_or_key for bucket in further if not bucket.shared)
        self.shared_keys = tuple(bucket.field_or_key for bucket in further if bucket.shared)
        if shadow is not None:
            self.fields += shadow.fields
            self.flags |= protocol.HAS_SHADOW | (protocol.SHADOW_HAS_BUCKET if len(shadow.fields) > 1 else 0)
        self.layout: bytes | None = None
        if plan_field is not None and shadow is None and not (alerts and quota):
            self.layout = bytes((len(self.fields) - 1, len(self.shared_keys)))
        self._tail = b""
        if alerts and quota is not None:
            self.flags |= protocol.HAS_ALERTS
            self.shared_keys += (stream,)
            self._tail = protocol.pack_alerts(alerts, quota.limit)
        if is_identity:
            self.flags |= protocol.IS_IDENTITY
        if bound is not None:
            self.flags |= protocol.IS_BOUNDED
            self.shared_keys += (bound.redis_key,)
            self._tail = protocol.pack_bound(bound.most, bound.one_in)
        self.further_packed = protocol.pack_buckets(bucket.throttle for bucket in further)
        plan_size, bucket_size = protocol.STATE.size, protocol.BUCKET.size
        self.states_size = plan_size + bucket_size * len(further)
        # Every bucket was last charged now; the plan's state has the time of its last charge where there is none.
        self._last_us_at = self.states_size - 8 if further else 16
        further_levels_at = iter(range(plan_size + 8, self.states_size, bucket_size))
        self._levels_at = tuple(
            (next(further_levels_at) if bucket.field_or_key else 8, bucket.throttle.ratio[1]) for bucket in buckets
        )
        self.windows: tuple[bytes, bytes] | None = None
        self._known_window = (0, 0.0)
        self.shared_scales = tuple((bucket.state_id, bucket.throttle.ratio[1]) for bucket in buckets if bucket.shared)
        self.unpack = struct.Struct(f"<{2 * len(self.limits)}d").unpack
        self._reasons = tuple(
            Reason.THROTTLED if isinstance(limit, Bucket) else Reason.QUOTA_EXCEEDED for limit in limits
        )
        self.numbers_of = tuple(map(LimitNumbers.of, self.limits))
        self._divided: tuple[int, CompiledLimits] | None = None
        self.last_reply: Reply | None = None
        self.sent_us = 0
        self._names = tuple(
            (limit.name, limit.throttle.burst, limit.window, None)
            if isinstance(limit, Bucket)
            else (limit.name, limit.quota.limit, None, limit.quota)
            for limit in limits
        )

    def script_keys(self, key_hash: str) -> tuple[str, ...]:
        """Return KEYS of the script for the key or identity with this hash."""
        return (key_hash, *[name or key_hash for name in self.shared_keys])

    def divided(self, parts: int) -> CompiledLimits:
        """Return one of so many equal parts of these limits, to compute with: see `LimitNumbers.divided`."""
        if parts == 1:
            return self
        if self._divided is None or self._divided[0] != parts:
            divided = copy(self)
            divided.numbers_of = tuple([numbers.divided(parts) for numbers in self.numbers_of])
            self._divided = parts, divided
            return divided
        return self._divided[1]

    def update_windows(self, now_us: int) -> tuple[bytes, bytes]:
        """Compute the quotas' windows anew, around the server's time `now_us`; return the packed limits."""
        shadow = self._shadow.limits.packed(now_us) if self._shadow else b""
        self.windows = self.plan_limits.packed(now_us), b"".join((self.further_packed, shadow, self._tail))
        return self.windows

    def request(
        self,
        *,
        now_us: int,
        cost: int,
        valid_until_us: int,
        flags: int,
        version_token: bytes,
        estimate_us: Callable[[], int],
    ) -> bytes:
        """Return ARGV[1].

        `estimate_us` returns the time around which windows are computed at first; the script says when they are past.
        """
        head = protocol.pack_head(now_us, cost, valid_until_us, self.flags | flags)
        plan, further = self.windows or self.update_windows(estimate_us())
        return b"".join((head, plan, version_token, further))

    def journal_request(
        self, *, now_us: int, cost: int, valid_until_us: int, flags: int, version_token: bytes, spent_us: int
    ) -> bytes:
        """Return ARGV[1] of charge_journal.lua, with the quota's windows around `spent_us`. Shadows do not see it."""
        flags |= self.flags & ~(protocol.HAS_SHADOW | protocol.SHADOW_HAS_BUCKET)
        head = protocol.pack_head(now_us, cost, valid_until_us, flags)
        return b"".join((head, self.plan_limits.packed(spent_us), version_token, self.further_packed, self._tail))

    @property
    def journal_fields(self) -> tuple[str, ...]:
        """Hash fields without those of a shadow."""
        shadow_fields = self._shadow.fields if self._shadow else ()
        return self.fields[: len(self.fields) - len(shadow_fields)]

    def decision(self, reply: Reply, cost: int) -> Decision:
        """Return the decision in a reply of the script to a request of `cost`."""
        if isinstance(reply, bytes):
            return LazyAdmission(self, reply)
        numbers, now_us = self.numbers(reply), reply[1]
        if reply[0] == protocol.TOO_MANY_IDENTITIES:
            limits = partial(self.statuses, numbers, now_us)
            return Decision(Reason.THROTTLED, _TOO_MANY_IDENTITIES, limits=limits, time_us=now_us)
        if reply[0] != protocol.DENIED:
            return Decision(_ALLOWED, limits=partial(self.statuses, numbers, now_us), time_us=now_us)
        denial = self.denial(numbers, now_us, cost)
        if denial is None:
            raise StoreError("Redis denied a check that all limits of its answer admit")
        first, _, end_us = denial
        return self.denied(first, end_us - now_us, numbers, now_us, cost, now_us, "redis")

    def admits_us(self, numbers: Numbers, cost: int) -> list[float]:
        """Return the server's time from which on each limit admits a cost: 0 at any time, inf at none.

        It is the same whenever it is computed, as long as nobody else consumes from the limit.
        """
        times: list[float] = []
        at = 0
        for is_bucket, capacity, rate, per, _ in self.numbers_of:
            level = numbers[at]
            if cost > capacity or (is_bucket and not rate):
                times.append(0 if cost <= level and not is_bucket else inf)
            elif not is_bucket:
                times.append(0 if cost <= level else numbers[at + 1])
            else:
                missing = cost * per - level
                admits_us = numbers[at + 1] - -missing // rate if missing > 0 else 0
                if admits_us >= EXACT:  # centuries from now: floats would round
                    admits_us = int(numbers[at + 1]) - int(-missing // rate)
                times.append(admits_us)
            at += 2
        return times

    def denial(self, numbers: Numbers, now_us: float, cost: int) -> tuple[int, float, float] | None:
        """Return the first limit that denies, until when it does, and from when on none does; None if all admit."""
        now_us = float(now_us)  # Python compares floats with ints of such a size in a slow way
        admits_us = self.admits_us(numbers, cost)
        for index, us in enumerate(admits_us):
            if us > now_us:
                return index, us, max(admits_us)
        return None

    def denied(
        self, first: int, wait_us: float, numbers: Numbers, now_us: int, cost: int, time_us: int | None, source: Source
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
                if len(reply) == self.states_size:
                    return int(protocol.NUMBER.unpack_from(reply, self._last_us_at)[0])
            except (ValueError, OverflowError):
                pass
            raise StoreError("Redis answered to a check with states that cannot be read")
        now_us: int = reply[1]
        return now_us

    def statuses_after_charge(self, reply: bytes) -> tuple[LimitStatus, ...]:
        """Return the status of each limit from the states after the charge of an admitted request."""
        return self.statuses(self.numbers(reply), self.time_us(reply))

    def numbers(self, reply: Reply) -> Numbers:
        """Return the numbers of each limit in a reply that judged."""
        if isinstance(reply, bytes):
            return self.numbers_after_charge(reply)
        try:
            numbers: Numbers = self.unpack(reply[2])
        except (struct.error, TypeError, IndexError):
            numbers = (inf,)
        if not isfinite(sum(numbers)):
            raise StoreError("Redis answered to a check with limits that cannot be read")
        return numbers

    def numbers_after_charge(self, reply: bytes) -> Numbers:
        """Return two numbers of each limit, as the other replies have them, from the states after the charge."""
        _, level, last_us, calendar, used, granted, _ = protocol.STATE.unpack_from(reply)
        numbers: list[float] = []
        further_at = protocol.STATE.size
        for limit in self.limits:
            if isinstance(limit, QuotaCount):
                numbers += (limit.quota.limit + granted - used, protocol.window_end_us(calendar))
            elif limit.field_or_key:
                numbers += protocol.LIMIT.unpack_from(reply, further_at + 8)
                further_at += protocol.BUCKET.size
            else:
                numbers += (level, last_us)
        return tuple(numbers)

    @staticmethod
    def used_after_charge(reply: bytes) -> float:
        """Return what is used of the quota, from the states after the charge."""
        used: float = protocol.STATE.unpack_from(reply)[4]
        return used

    def numbers_after(self, numbers: Numbers, cost: int) -> Numbers:
        """Return the numbers of each limit after a charge; each bucket's `last_us` is now."""
        after = list(numbers)
        for at, limit in enumerate(self.numbers_of):
            after[2 * at] -= cost * limit.per
        return tuple(after)

    def largest_cost_left(self, reply: bytes) -> float:
        """Return the largest cost that would still pass, by the states after the charge of an admitted request."""
        largest = inf
        for at, per in self._levels_at:
            left = protocol.NUMBER.unpack_from(reply, at)[0] // per
            largest = min(largest, left)
        if self.plan_limits.quota is not None:
            used, granted = protocol.LIMIT.unpack_from(reply, 32)
            largest = min(largest, self.plan_limits.quota.limit + granted - used)
        return largest

    def statuses(self, numbers: Numbers, now_us: float, cost: int = 0) -> tuple[LimitStatus, ...]:
        """Return the status of each limit; of a request that was denied with the wait of its `cost`."""
        admits_us = self.admits_us(numbers, cost) if cost else None
        statuses: list[LimitStatus] = []
        at = 0
        for limit, (name, capacity, window, quota) in zip(self.numbers_of, self._names, strict=True):
            level, last_us = numbers[at], numbers[at + 1]
            length = window if quota is None else self._window_until(quota, int(last_us))
            left, reset_us = limit.remaining_and_reset_us(level, last_us, now_us)
            wait_s = 0.0 if admits_us is None else _seconds(max(0.0, admits_us[at // 2] - now_us))
            statuses.append(LimitStatus(name, capacity, left, _seconds(reset_us), wait_s, length))
            at += 2
        return tuple(statuses)

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
