"""Leases: units of every limit of a request, prepaid in one check and spent in this process.

What is spent was charged before, so no total is ever exceeded. Units can be spent up to the term after their charge:
over any interval W at most burst + rate * (W + term) pass a bucket. Unspent units are refunded, minus what the bucket
has refilled since the charge, so that returning a lease never mints tokens: without the charge the bucket might have
been full by then. They are not refunded to a bucket whose plan may have changed: without the charge it would have been
cut to its new burst.

Each lease has an id of its own, under which Redis notes what it charged. So a lease that was requested and not received
is never lost, and never counted twice: the caller went away, no reply came, or it came too late. Either its reply still
comes to this process, and it is held; or it is returned by its id, as often as it takes, which Redis does once.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from struct import Struct
from threading import Lock
from typing import NamedTuple, Protocol

from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.effects import BatchableReads, Operation
from ratelimit.engine.limits import Bucket
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.protocol import DENIED, NO_LEASE, Reply, status
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import DAY_US
from ratelimit.scripts import ScriptCall, load

_SHARE = 8
"""No lease is larger than this part of what a limit has left: near a limit, checks are exact."""

_LATE_REPLY_US = MICROSECONDS
"""A reply that has not come so long after its caller went away is not waited for any more."""

_MAX_UNSETTLED = 1000
"""Requests for leases of one limiter that are not settled. Of more, the oldest are forgotten: what they were granted
counts as used until the quota's window ends."""

_ALLOWED = Reason.ALLOWED
_HEAD = Struct("<6d")


class Send(Protocol):
    """Sends a prepared check with a cost, or a call of it that was made already."""

    def __call__(self, prepared: PreparedCheck, cost: int, *, call: ScriptCall | None = None) -> Operation[Reply]:
        """Return the reply."""


class UnspentUnits(NamedTuple):
    """Units that a lease had left when it was over.

    Attributes:
        note_field: Hash field of the lease's note, "" if it has none.
        units: How many; 0 if only the note is left.
        requested_us: When the lease was requested, by this process' clock: a server's may have been set back.
    """

    note_field: str
    units: int
    requested_us: int


class _RequestedLease:
    """A lease that was requested, and is not settled yet: it may be granted, and its reply may be lost.

    Attributes:
        prepared: The check that it was requested with.
        lease: Where it is held, if its reply comes.
        unspent: What is to be returned, should it have been granted.
        lost: How many of its units are spent by a check whose outcome is unknown.
        due_us: From when on it is returned, by this process' clock; `inf` while its caller waits for the reply.
    """

    __slots__ = ("due_us", "lease", "lost", "prepared", "unspent")

    def __init__(self, prepared: PreparedCheck, lease: Lease, unspent: UnspentUnits, lost: int, due_us: float) -> None:
        self.prepared, self.lease, self.unspent, self.lost, self.due_us = prepared, lease, unspent, lost, due_us


class Lease:
    """The units that this process holds for one prepared check. Safe between threads.

    Times are microseconds of this process' clock.

    Attributes:
        units: How many are left to spend.
        note_field: Hash field of the note of the lease that is held, or was spent; "" if there is none.
    """

    __slots__ = (
        "__weakref__",
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
        "note_field",
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
        self.note_field = ""
        self._starts_us = self._ends_us = 0
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

    def grant(
        self,
        prepared: PreparedCheck,
        units: int,
        cost: int,
        reply: Reply,
        sent_us: int,
        note_field: str = "",
        *,
        is_late: bool = False,
    ) -> bool:
        """Hold what was admitted beyond `cost`, and note how much may be requested next time.

        Returns:
            Whether that was done: not if it is late, as its caller went away, and there is another lease by now.
        """
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
            if is_late and (self._is_requested or self.units):
                return False
            self._is_requested = False
            self._headroom = min((each.remaining for each in statuses), default=0) // _SHARE
            self._demand, self._demand_since_us = 0, sent_us
            if units > cost:
                self.units, self._limits, self.note_field = units - cost, statuses, note_field
                self._starts_us, self._ends_us = sent_us, sent_us + min(durations_us)
        return True

    def end(self) -> None:
        """Spend no more of it: something changed, or the limiter closes."""
        with self._lock:
            self._ends_us = 0

    def take_unspent(self, now_us: int, *, also_spent: bool = False) -> UnspentUnits | None:
        """Take out the units of a lease that is over; `also_spent`: of one that has none left its note as well."""
        with self._lock:
            has_note = bool(also_spent and self.note_field and not self._is_requested)
            if not (self.units or has_note) or self._starts_us <= now_us < self._ends_us:
                return None
            unspent = UnspentUnits(self.note_field, self.units, self._starts_us)
            self.units, self.note_field = 0, ""
            return unspent


class Leases:
    """The leases of one limiter.

    Attributes:
        awaits_late_replies: Whether a reply may still come when its caller has gone away: not where the connection is
            closed then.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.awaits_late_replies = False
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Hold no lease."""
        self._lock = Lock()
        self._held: dict[Lease, PreparedCheck] = {}
        self._ended_us: int | None = None
        self._unsettled: dict[str, _RequestedLease] = {}  # by the field of the note
        self._note_fields: Iterator[str] = map(f"l:{secrets.token_urlsafe(6)}{{:x}}".format, itertools.count())

    def check(
        self, prepared: PreparedCheck, lease: Lease, cost: int, send: Send, *, denies_unknown: bool
    ) -> Operation[Reply]:
        """Send a check that the units held cannot pay, and request a lease with it if that pays off.

        Args:
            prepared: The check.
            lease: Where the units are held.
            cost: Units of the check.
            send: Sends it.
            denies_unknown: Whether the check is denied if its outcome is unknown: then its own cost is returned, too.

        Returns:
            The reply: to `cost` alone, or to more where that was admitted.
        """
        namespace = self._namespace
        yield from self._return_unspent(prepared, lease)
        sent_us, note_field = namespace.age_us(), ""
        units, may_hold = lease.plan_request(cost, sent_us)
        may_be_leased = True
        try:
            if units > cost:
                note_field = next(self._note_fields)
                requested = UnspentUnits(note_field, units, sent_us)
                reply = yield from self._request(prepared, lease, requested, 0 if denies_unknown else cost, send)
                if status(reply) in (DENIED, NO_LEASE):
                    # More than there is: what matters is the request.
                    units, sent_us, may_be_leased = cost, namespace.age_us(), status(reply) == DENIED
                    reply = yield from send(prepared, cost)
            else:
                reply = yield from send(prepared, cost)
        except BaseException:
            if may_hold:
                lease.request_failed()
            raise
        if may_hold:
            if status(reply) > DENIED and may_be_leased:
                lease.grant(prepared, units, cost, reply, sent_us, note_field)
            else:
                lease.request_failed()
        if lease.units:
            self._hold(prepared, lease, sent_us)
        return reply

    def _request(
        self, prepared: PreparedCheck, lease: Lease, requested: UnspentUnits, lost: int, send: Send
    ) -> Operation[Reply]:
        """Request a lease; if nobody is there to receive it, or no reply comes, it is received or returned later.

        `lost` are the units of it that stay spent if no reply comes.
        """
        unsettled = _RequestedLease(prepared, lease, requested, lost, inf)
        call = prepared.to_lease_call(
            self._namespace,
            requested.units,
            (requested.note_field, lease.note_field),
            partial(self._on_late_reply, unsettled),
        )
        self._add_unsettled(unsettled)
        try:
            reply = yield from send(prepared, requested.units, call=call)
        except StoreUnavailable:  # it was not carried out
            self._take_unsettled(unsettled)
            raise
        except BaseException as error:
            if not isinstance(error, StoreError):
                unsettled.lost = 0  # the caller went away: its own request is admitted by nobody
            unsettled.due_us = self._namespace.age_us() + (_LATE_REPLY_US if self.awaits_late_replies else 0)
            raise
        self._take_unsettled(unsettled)
        return reply

    def _on_late_reply(self, unsettled: _RequestedLease, reply: Reply | Exception) -> None:
        """Hold a lease whose reply came when its caller had gone away."""
        if isinstance(reply, Exception):
            unsettled.due_us = 0  # nothing else will come
            return
        lease, prepared, (note_field, units, sent_us) = unsettled.lease, unsettled.prepared, unsettled.unspent
        if not self._take_unsettled(unsettled):
            return  # it is being returned
        try:
            if status(reply) <= DENIED:
                return
            if lease.grant(prepared, units, unsettled.lost, reply, sent_us, note_field, is_late=True):
                self._hold(prepared, lease, sent_us)
                return
        except StoreError:
            pass  # it cannot be read
        unsettled.due_us = 0
        self._add_unsettled(unsettled)

    def _hold(self, prepared: PreparedCheck, lease: Lease, sent_us: int) -> None:
        with self._lock:
            self._held[lease] = prepared
            is_overtaken = self._ended_us is not None and sent_us <= self._ended_us
        if is_overtaken:
            lease.end()  # by a change, which may be later than the reply

    def end(self, key_id: str | None) -> None:
        """Spend no more of what is held for a key, or for any if it is None."""
        with self._lock:
            self._ended_us = self._namespace.age_us()
            ended = [lease for lease, prepared in self._held.items() if key_id in (None, prepared.key_id)]
        for lease in ended:
            lease.end()

    def return_unspent(self, *, all_of_them: bool = False) -> Operation[None]:
        """Return leases that are over, and those that nobody received; `all_of_them`: end all leases first.

        If one cannot be returned, the others wait until the next time.
        """
        if all_of_them:
            self.end(None)
        with self._lock:
            held = list(self._held.items())
        for lease, prepared in held:
            if prepared.snapshot is not self._namespace.snapshot:
                lease.end()
            if not (yield from self._return_unspent(prepared, lease, also_spent=True)):
                return
        now_us = self._namespace.age_us()
        with self._lock:
            unsettled = list(self._unsettled.values())
        for each in unsettled:
            is_due = each.due_us <= now_us or (all_of_them and each.due_us < inf)
            if is_due and self._take_unsettled(each) and not (yield from self._return(each)):
                return

    def _return_unspent(self, prepared: PreparedCheck, lease: Lease, *, also_spent: bool = False) -> Operation[bool]:
        unspent = lease.take_unspent(self._namespace.age_us(), also_spent=also_spent)
        with self._lock:
            if not lease.units and not lease.note_field:
                # Looked at under the lock: another thread adds a grant here, once it holds units.
                self._held.pop(lease, None)
        if unspent is None or not unspent.note_field:
            return True
        return (yield from self._return(_RequestedLease(prepared, lease, unspent, 0, 0)))

    def _return(self, unsettled: _RequestedLease) -> Operation[bool]:
        """Return a lease, and whether that was done: if nobody knows, it is done again later."""
        try:
            # Where there are slots, no shared bucket is among what is returned.
            is_current = self._namespace.has_slots
            if not is_current:
                is_current = yield from _is_current(unsettled.prepared.snapshot, self._namespace)
            yield _return_call(unsettled, self._namespace, is_current=is_current)
        except BaseException as error:
            # Another object: what may be returned already is not held any more, should its reply come after all.
            self._add_unsettled(
                _RequestedLease(unsettled.prepared, unsettled.lease, unsettled.unspent, unsettled.lost, 0)
            )
            if not isinstance(error, StoreError):
                raise
            return False
        return True

    def _add_unsettled(self, unsettled: _RequestedLease) -> None:
        with self._lock:
            self._unsettled[unsettled.unspent.note_field] = unsettled
            if len(self._unsettled) > _MAX_UNSETTLED:
                del self._unsettled[next(iter(self._unsettled))]

    def _take_unsettled(self, unsettled: _RequestedLease) -> bool:
        """Return whether a lease was not settled until now; from now on it is the caller's."""
        note_field = unsettled.unspent.note_field
        with self._lock:
            if self._unsettled.get(note_field) is not unsettled:
                return False
            del self._unsettled[note_field]
            return True


def _is_current(snapshot: CatalogSnapshot, namespace: Namespace) -> Operation[bool]:
    """Return whether no other catalogue is known of: others may have charged a shared bucket under it.

    What this key itself was charged under, the script sees.
    """
    if snapshot is not namespace.snapshot or namespace.loaded_us is not None:
        return snapshot is namespace.snapshot
    return namespace.matches_stored_version((yield BatchableReads([namespace.version_query()]))[0])


def _return_call(unsettled: _RequestedLease, namespace: Namespace, *, is_current: bool) -> ScriptCall:
    prepared, (note_field, units, requested_us) = unsettled.prepared, unsettled.unspent
    limits = prepared.script_limits
    own = [bucket for bucket in limits.further_buckets if not bucket.shared]
    shared = [bucket for bucket in limits.further_buckets if bucket.shared]
    throttle = limits.plan_limits[0]
    plan = (throttle.burst, *throttle.ratio) if throttle else (0, 0, 0)
    age_us = max(0, namespace.age_us() - requested_us)
    packed = _HEAD.pack(namespace.script_us(), units - unsettled.lost, age_us, *plan) + limits.further_packed
    fields = (limits.fields[0], note_field, *(bucket.field_or_key for bucket in own))
    names = namespace.names
    keys = (names.key_hash(prepared.key_id), names.key_days(prepared.key_id))
    shared_keys = (bucket.field_or_key for bucket in shared) if is_current else ()
    version_token = prepared.snapshot.version_token
    return ScriptCall(load("return_lease"), (*keys, *shared_keys), (packed, version_token, *fields))


def _plus_units(limits: Sequence[LimitStatus], units: int) -> tuple[LimitStatus, ...]:
    """Return limits as of the grant, with the units still held as part of what remains."""
    return tuple(limit._replace(remaining=limit.remaining + units) for limit in limits)
