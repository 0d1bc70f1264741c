"""Leases: units of every limit of a request, prepaid in one check and spent in this process.

What is spent was charged before, so no total is ever exceeded. Units can be spent up to the term after their charge:
over any interval W at most burst + rate * (W + term) pass a bucket. Unspent units are refunded, minus what the bucket
has refilled since the charge, so that returning a lease never mints tokens: without the charge the bucket might have
been full by then. They are not refunded to a bucket whose plan may have changed: without the charge it would have been
cut to its new burst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from threading import Lock
from typing import NamedTuple

from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.effects import BatchableReads, Operation
from ratelimit.engine.limits import Bucket
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.protocol import DENIED, Reply, status
from ratelimit.errors import StoreError
from ratelimit.local import fork_safety
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import closed_day_field
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import DAY_US, day_of, packed_window
from ratelimit.scripts import ScriptCall, load

_SHARE = 8
"""No lease is larger than this part of what a limit has left: near a limit, checks are exact."""

_ALLOWED = Reason.ALLOWED
_NO_WINDOW = -1
_HEAD = Struct("<9d")

Send = Callable[[PreparedCheck, int], Operation[Reply]]
"""Sends a prepared check with a cost."""


class UnspentUnits(NamedTuple):
    """Units that a lease had left when it was over.

    Attributes:
        units: How many.
        charged_us: The server's time at which they were charged.
        age_us: Time since the request for them, by this process' clock: holds also where the server's was set back.
    """

    units: int
    charged_us: int
    age_us: int


class Lease:
    """The units that this process holds for one prepared check. Safe between threads.

    Times are microseconds of this process' clock.

    Attributes:
        units: How many are left to spend.
    """

    __slots__ = (
        "__weakref__",
        "_charged_us",
        "_demand",
        "_demand_since_us",
        "_ends_us",
        "_headroom",
        "_is_requested",
        "_limits",
        "_lock",
        "_size",
        "_starts_us",
        "_term_us",
        "units",
    )

    def __init__(self, term: float) -> None:
        self._term_us = round(term * MICROSECONDS)
        self._size = 1
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Hold nothing: the parent spends its units, and returns them."""
        self._lock = Lock()
        self._is_requested = False
        self.units = 0
        self._starts_us = self._ends_us = self._charged_us = 0
        self._limits: tuple[LimitStatus, ...] = ()
        self._headroom = 0
        # Units that were demanded since the last grant, from which the rate is estimated.
        self._demand, self._demand_since_us = 0, 0

    def spend(self, cost: int, now_us: int, *, peek: bool = False) -> Decision | None:
        """Admit a request from the units held, and spend them unless it is a peek; None if there are not enough."""
        with self._lock:
            left = self.units - cost
            if left < 0 or not self._starts_us <= now_us < self._ends_us:
                return None
            if peek:
                left = self.units
            else:
                self.units = left
                self._demand += cost
            limits = self._limits
        return Decision(_ALLOWED, None, None, partial(_plus_units, limits, left), None, "lease")

    def plan_request(self, cost: int, now_us: int) -> tuple[int, bool]:
        """Return how many units to request, and whether this caller is the one who may request more than its cost."""
        with self._lock:
            self._demand += cost
            if self._is_requested or self.units:
                return cost, False
            elapsed_us = max(1, now_us - self._demand_since_us)
            self._size = max(1, min(2 * self._size, self._demand * self._term_us // elapsed_us))
            self._is_requested = True
            return max(cost, min(self._size, self._headroom)), True

    def request_failed(self) -> None:
        """Let others request: the units were denied, or nobody knows."""
        with self._lock:
            self._is_requested, self._headroom, self._size = False, 0, 1

    def grant(self, prepared: PreparedCheck, units: int, cost: int, reply: Reply, sent_us: int) -> None:
        """Hold what was admitted beyond `cost`, and note how much may be requested next time."""
        limits = prepared.limits
        server_us, statuses = limits.time_us(reply), limits.decision(reply, units).limits
        # The server judged after `sent_us`: counted from there, all of these end rather too early than too late.
        durations_us = [self._term_us, DAY_US - server_us % DAY_US]
        durations_us += [prepared.valid_until_us - server_us] if prepared.valid_until_us else []
        durations_us += [
            round((limit_status.reset_after or 0) * MICROSECONDS)
            for limit, limit_status in zip(limits.limits, statuses, strict=True)
            if not isinstance(limit, Bucket)
        ]
        with self._lock:
            self._is_requested = False
            self._headroom = min((each.remaining for each in statuses), default=0) // _SHARE
            self._demand, self._demand_since_us = 0, sent_us
            if units > cost:
                self.units, self._limits, self._charged_us = units - cost, statuses, server_us
                self._starts_us, self._ends_us = sent_us, sent_us + min(durations_us)

    def end(self) -> None:
        """Spend no more of it: something changed, or the limiter closes."""
        with self._lock:
            self._ends_us = 0

    def take_unspent(self, now_us: int) -> UnspentUnits | None:
        """Take out the units of a lease that is over."""
        with self._lock:
            if not self.units or self._starts_us <= now_us < self._ends_us:
                return None
            units, self.units = self.units, 0
            return UnspentUnits(units, self._charged_us, max(0, now_us - self._starts_us))


class Leases:
    """The leases of one limiter."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Hold no lease."""
        self._lock = Lock()
        self._held: dict[Lease, PreparedCheck] = {}
        self._ended_us: int | None = None

    def check(self, prepared: PreparedCheck, lease: Lease, cost: int, send: Send) -> Operation[Reply]:
        """Send a check that the units held cannot pay, and request a lease with it if that pays off.

        Returns:
            The reply: to `cost` alone, or to more where that was admitted.
        """
        namespace = self._namespace
        yield from self._return_unspent(prepared, lease)
        sent_us = namespace.age_us()
        units, may_hold = lease.plan_request(cost, sent_us)
        try:
            reply = yield from send(prepared, units)
            if units > cost and status(reply) == DENIED:
                # More than there is: what matters is the request.
                units, sent_us = cost, namespace.age_us()
                reply = yield from send(prepared, units)
        except BaseException:
            if may_hold:
                lease.request_failed()
            raise
        if may_hold:
            if status(reply) > DENIED:
                lease.grant(prepared, units, cost, reply, sent_us)
            else:
                lease.request_failed()
        if lease.units:
            with self._lock:
                self._held[lease] = prepared
                is_overtaken = self._ended_us is not None and sent_us <= self._ended_us
            if is_overtaken:
                lease.end()  # by a change, which may be later than the reply
        return reply

    def end(self, key_id: str | None) -> None:
        """Spend no more of what is held for a key, or for any if it is None."""
        with self._lock:
            self._ended_us = self._namespace.age_us()
            ended = [lease for lease, prepared in self._held.items() if key_id in (None, prepared.key_id)]
        for lease in ended:
            lease.end()

    def return_unspent(self, *, all_of_them: bool = False) -> Operation[None]:
        """Return the units of leases that are over; `all_of_them`: end all leases first."""
        if all_of_them:
            self.end(None)
        with self._lock:
            held = list(self._held.items())
        for lease, prepared in held:
            if prepared.snapshot is not self._namespace.snapshot:
                lease.end()
            yield from self._return_unspent(prepared, lease)

    def _return_unspent(self, prepared: PreparedCheck, lease: Lease) -> Operation[None]:
        unspent = lease.take_unspent(self._namespace.age_us())
        with self._lock:
            if not lease.units:  # looked at under the lock: another thread adds a grant here, once it holds units
                self._held.pop(lease, None)
        if unspent is not None:
            with contextlib.suppress(StoreError):  # sent once: what was lost on the way is lost
                is_current = yield from _is_current(prepared.snapshot, self._namespace)
                yield _return_call(prepared, unspent, self._namespace, is_current=is_current)


def _is_current(snapshot: CatalogSnapshot, namespace: Namespace) -> Operation[bool]:
    """Return whether no other catalogue is known of: others may have charged a shared bucket under it.

    What this key itself was charged under, the script sees.
    """
    if snapshot is not namespace.snapshot or namespace.loaded_us is not None:
        return snapshot is namespace.snapshot
    return namespace.matches_stored_version((yield BatchableReads([namespace.version_query()]))[0])


def _return_call(
    prepared: PreparedCheck, unspent: UnspentUnits, namespace: Namespace, *, is_current: bool
) -> ScriptCall:
    limits, snapshot, (units, charged_us, age_us) = prepared.limits, prepared.snapshot, unspent
    own = [bucket for bucket in limits.further_buckets if not bucket.shared]
    shared = [bucket for bucket in limits.further_buckets if bucket.shared]
    throttle, quota = limits.plan_limits
    window = packed_window(quota, charged_us) if quota else _NO_WINDOW
    plan = (throttle.burst, *throttle.ratio) if throttle else (0, 0, 0)
    day = day_of(charged_us)
    packed = _HEAD.pack(namespace.script_us(), units, charged_us, age_us, *plan, window, day)
    packed += limits.further_packed
    plan_field = limits.fields[0]
    fields = (plan_field, closed_day_field(plan_field, day), *(bucket.field_or_key for bucket in own))
    names = namespace.names
    keys = (names.key_hash(prepared.key_id), names.key_days(prepared.key_id))
    shared_keys = (bucket.field_or_key for bucket in shared) if is_current else ()
    return ScriptCall(load("return_lease"), (*keys, *shared_keys), (packed, snapshot.version_token, *fields))


def _plus_units(limits: Sequence[LimitStatus], units: int) -> tuple[LimitStatus, ...]:
    """Return limits as of the grant, with the units still held as part of what remains."""
    return tuple(limit._replace(remaining=limit.remaining + units) for limit in limits)
