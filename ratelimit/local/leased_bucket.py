"""What one process has of a bucket that all callers share: units that it prepaid, who waits for some, what it asks.

The rules of `SharedLeases` for one bucket. No I/O, no locks: `SharedLeases` has one, and calls all of this under it.
Times are microseconds of this process' clock, unless they are said to be the server's.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from enum import Enum
from math import exp, gcd
from typing import NamedTuple

from ratelimit.engine.limits import Bucket, LimitNumbers
from ratelimit.engine.shared_lease import EPOCH_US, LeaseReply, LeaseRequest, ReturnedUnits
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS
from ratelimit.registry.snapshot import CatalogSnapshot

TERM_US = 100_000
"""Units are spent at most so long after they were asked for."""

_HEDGE_US = 4_000
"""Who waits so long for a reply asks once more."""
_MOST_PENDING = 2
_MOST_QUIET_US = MICROSECONDS
"""A state that is older denies nobody: others may have given units back, or somebody raised the limit."""
_MEMORY_US = 200_000
"""Time constant of the average of what is demanded."""
_SMALL_BURST = 8
_AHEAD = 0.8
"""Of the demand in a term, as much is held ahead."""
_LEAD_US = 2_500
"""More is asked for when what is held lasts only so long, if not before."""
_IDLE_US = 60 * MICROSECONDS


class SharedState(NamedTuple):
    """How a shared bucket stands, as last seen.

    Attributes:
        level: In units of 1/P token, with what this process holds of it.
        last_us: The bucket's time: from then on it refills.
        server_us: The server's time now, as it is estimated.
    """

    level: int
    last_us: int
    server_us: int


class SharedFigures(NamedTuple):
    """What a process did about a bucket since it first met it.

    Attributes:
        held: Units that it holds now.
        demanded: Units that checks demanded.
        requests: Requests to the bucket.
        waits: Checks that waited for one.
        hedges: Requests that were sent because the one before them was slow.
        late: Replies that came too late to be used.
        granted: Units that it was granted.
        returned: Units that it gave back.
    """

    held: int
    demanded: int
    requests: int
    waits: int
    hedges: int
    late: int
    granted: int
    returned: int


class Batch:
    """Units that were granted together.

    Attributes:
        bucket: Of which bucket.
        units: How many are left.
        charged_us: When they were charged, by the bucket's own time.
        sent_us: When they were asked for.
        ends_us: From when on they are not spent.
        version: The catalogue under which they were charged.
    """

    __slots__ = ("bucket", "charged_us", "ends_us", "sent_us", "units", "version")

    def __init__(self, bucket: LeasedBucket, units: int, charged_us: int, sent_us: int, version: str) -> None:
        self.bucket, self.units, self.charged_us, self.version = bucket, units, charged_us, version
        self.sent_us, self.ends_us = sent_us, sent_us + TERM_US

    def is_live(self, now_us: int) -> bool:
        """Return whether its units may be spent: not once its term is over, nor where the clock was set back."""
        return self.sent_us <= now_us < self.ends_us


Part = tuple[Batch, int]
"""Units of one batch."""


class Waiter:
    """A check that waits for one bucket or several."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future = Future[None]()

    def wake(self) -> None:
        """Have it look at what it waits for."""
        if not self.future.done():
            self.future.set_result(None)

    def renew(self) -> Future[None]:
        """Return what is done with the next `wake`."""
        if self.future.done():
            self.future = Future()
        return self.future


class Outcome(Enum):
    """What became of a claim."""

    WAITS = "waits"
    GRANTED = "granted"
    DENIED = "denied"
    CHANGED = "changed"
    """The catalogue that it was made under is not the newest."""
    FAILED = "failed"
    """The bucket gave no answer."""


class Claim:
    """Units of one bucket that a check claims.

    Attributes:
        bucket: The bucket.
        cost: How many.
        waiter: Who is woken.
        outcome: What became of it.
        parts: What it has; nothing unless it was granted.
        error: Why the bucket gave no answer, if it failed.
    """

    __slots__ = ("bucket", "cost", "error", "outcome", "parts", "waiter")

    def __init__(self, bucket: LeasedBucket, cost: int, waiter: Waiter) -> None:
        self.bucket, self.cost, self.waiter = bucket, cost, waiter
        self.outcome = Outcome.WAITS
        self.parts: list[Part] = []
        self.error: StoreError | None = None


class PendingRequest:
    """A request to a bucket that is out.

    Attributes:
        bucket: The bucket.
        snapshot: The catalogue under which it is made.
        started_us: When it was decided on.
        sent_us: When it was sent.
        claims: Who waited then.
        request: What is asked.
        returned: What is given back with it.
        is_void: Whether what it is granted is given back: what it was for has ended.
    """

    __slots__ = ("bucket", "claims", "is_void", "request", "returned", "sent_us", "snapshot", "started_us")

    def __init__(self, bucket: LeasedBucket, snapshot: CatalogSnapshot, now_us: int) -> None:
        self.bucket, self.snapshot = bucket, snapshot
        self.started_us = self.sent_us = now_us
        self.claims: list[Claim] = []
        self.request = LeaseRequest()
        self.returned: list[_Unspent] = []
        self.is_void = False


class _Unspent(NamedTuple):
    units: int
    charged_us: int
    sent_us: int
    version: str


class _Seen(NamedTuple):
    level: int
    last_us: int
    server_us: int
    sent_us: int


class LeasedBucket:
    """One bucket.

    Attributes:
        bucket: Its limit.
        snapshot: The catalogue of the last check that waited for it; None before there was one.
        nothing_newer: Whether it was charged under another catalogue, and no newer one was found.
        epoch: The server's, as of the last reply.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.snapshot: CatalogSnapshot | None = None
        self.nothing_newer = False
        self.epoch = 0
        self._numbers = LimitNumbers.of(bucket)
        self._batches: list[Batch] = []  # the oldest first
        self._returned: list[_Unspent] = []
        self._claims: list[Claim] = []  # that wait, in their order
        self._pending: list[PendingRequest] = []
        self._seen: _Seen | None = None
        self._is_low = False  # since units were last taken
        self._paced_until_us = 0  # nothing is asked ahead until then; who waits asks all the same
        self._demand, self._demand_us = 0.0, 0  # units of the last `_MEMORY_US`, roughly, and when it was computed
        self._unreported = 0  # units demanded since the last request
        self._demanded = self._sent = self._waits = self._hedges = self._late = self._granted = self._refunded = 0

    # What is demanded

    def count_demand(self, cost: int, now_us: int) -> None:
        """Note that a check demands units. What can never pass is no demand: nothing is held ahead for it."""
        if self.never_admits(cost):
            return
        self._demand = self._demand_at(now_us) + cost
        self._demand_us = now_us
        self._unreported += cost
        self._demanded += cost

    def _demand_at(self, now_us: int) -> float:
        elapsed_us = now_us - self._demand_us
        return self._demand * exp(-elapsed_us / _MEMORY_US) if elapsed_us > 0 else self._demand

    def _target(self, demand: float) -> int:
        """How many units it is worth to hold."""
        return int(_AHEAD * TERM_US / _MEMORY_US * demand)

    def is_rare(self, now_us: int) -> bool:
        """Return whether less than a unit is demanded in a term: then nothing is kept for the next check."""
        return self._demand_at(now_us) * TERM_US < _MEMORY_US

    # What is held

    def set_limit(self, bucket: Bucket) -> None:
        """Have a limit; if it is another one, nothing that is held or known is true any more."""
        if bucket.throttle != self.bucket.throttle:
            self.change()
        self.bucket, self._numbers = bucket, LimitNumbers.of(bucket)

    def held(self) -> int:
        """Return how many units may be spent, as of the last `drop_over`."""
        return sum([batch.units for batch in self._batches])

    def drop_over(self, now_us: int) -> None:
        """Give back what is left of batches whose term is over."""
        for batch in self._batches:
            if not batch.units or not batch.sent_us <= now_us < batch.ends_us:
                break
        else:
            return
        for batch in self._batches:
            if batch.units and not batch.is_live(now_us):
                self._return(batch, batch.units)
        self._batches = [batch for batch in self._batches if batch.units and batch.is_live(now_us)]

    def spend(self, cost: int, now_us: int) -> list[Part]:
        """Take units for a check that had not to wait, and look whether enough are left for the next ones."""
        parts = self._take(cost)
        self._is_low = self._is_low or self._may_run_out(now_us)
        return parts

    def _take(self, cost: int) -> list[Part]:
        """Take units, of which there are enough; the oldest first."""
        parts = list[Part]()
        for batch in self._batches:
            units = min(cost, batch.units)
            batch.units -= units
            parts.append((batch, units))
            cost -= units
            if not cost:
                break
        return parts

    def put_back(self, parts: Iterable[Part], now_us: int) -> None:
        """Hold units that were taken and not spent, or give them back if nobody here needs them in time."""
        is_rare = self.is_rare(now_us) and not self._claims
        for batch, units in parts:
            if is_rare or not batch.is_live(now_us):
                self._return(batch, units)
            else:
                batch.units += units
                if batch not in self._batches:
                    self._batches.insert(0, batch)
        self._serve(now_us)

    def _return(self, batch: Batch, units: int) -> None:
        self._returned.append(_Unspent(units, batch.charged_us, batch.sent_us, batch.version))

    def end(self, now_us: int) -> None:
        """Spend nothing more of what is held or asked for, and forget what was seen: something changed."""
        for batch in self._batches:
            if batch.units:
                self._return(batch, batch.units)
            batch.ends_us = min(batch.ends_us, now_us)  # also for units that may yet be put back
        self._batches = []
        for pending in self._pending:
            pending.is_void = True
        self._seen = None
        self._is_low = False
        self._paced_until_us = 0

    def change(self) -> None:
        """End all, for good: there is another limit, or a newer catalogue, and who waits has to look at that first."""
        for claim in self._claims:
            claim.outcome = Outcome.CHANGED
            claim.waiter.wake()
        self._claims = []
        self.end(0)
        self._pending = []
        self.snapshot = None

    # What is known

    def never_admits(self, cost: int) -> bool:
        """Return whether so much can never pass."""
        return cost > self._numbers.capacity or not self._numbers.rate

    def denies(self, cost: int, now_us: int) -> bool:
        """Return whether it is certain that so much would be denied now; `drop_over` was called."""
        if self._seen is None:
            return False
        if self.never_admits(cost):
            return True
        age_us = now_us - self._seen.sent_us
        # What goes back with the next request may suffice: after a stall of this process, that is all it was granted.
        if self._returned or self._count_pending(now_us) or not 0 <= age_us < _MOST_QUIET_US:
            return False
        return self._available(age_us) < cost * self._numbers.per

    def _available(self, age_us: int) -> int:
        """How much there is at most, here and in the bucket, in units of 1/P token."""
        if self._seen is None:
            return self._numbers.full
        # The server replied after the request was sent: since then, at most `age_us` have passed.
        level = min(self._numbers.full, self._seen.level + max(0, age_us) * self._numbers.rate)
        return level + self.held() * self._numbers.per

    def state(self, now_us: int) -> SharedState | None:
        """Return how it stands, as last seen; None if it was not."""
        if self._seen is None:
            return None
        level = min(self._numbers.full, self._seen.level + self.held() * self._numbers.per)
        age_us = max(0, now_us - self._seen.sent_us)
        return SharedState(level, self._seen.last_us, self._seen.server_us + age_us)

    def with_held(self, reply: LeaseReply) -> SharedState:
        """Return the state in the reply to a peek."""
        level = min(self._numbers.full, reply.level + self.held() * self._numbers.per)
        return SharedState(level, reply.last_us, reply.server_us)

    def full_state(self, server_us: int) -> SharedState:
        """Return that of a full bucket, for one that was not seen."""
        return SharedState(self._numbers.full, server_us, server_us)

    # Who waits

    def join(self, claim: Claim, now_us: int) -> None:
        """Grant a claim, deny it, or let it wait for the next reply."""
        self.drop_over(now_us)
        claim.outcome = Outcome.WAITS
        self._claims.append(claim)
        self._settle(claim, now_us, is_judged=False)
        if claim.outcome is Outcome.WAITS:
            self._waits += 1

    def leave(self, claim: Claim, now_us: int) -> None:
        """Give up a claim: what it has been granted is there for others."""
        if claim in self._claims:
            self._claims.remove(claim)
        parts, claim.parts = claim.parts, []
        if parts:
            self.put_back(parts, now_us)
        elif self._claims and not self._count_pending(now_us):
            self._claims[0].waiter.wake()  # perhaps it was the one who was to ask

    def fail(self, claim: Claim, error: StoreError, now_us: int) -> None:
        """Give up a claim that still waits, for the bucket gave no answer."""
        if claim.outcome is Outcome.WAITS:
            claim.outcome, claim.error = Outcome.FAILED, error
            self.leave(claim, now_us)

    def _serve(self, now_us: int, judged: Iterable[Claim] = ()) -> None:
        """Grant claims from what is held, in their order; deny the others that the bucket has `judged`."""
        if not self._claims:
            return
        self.drop_over(now_us)
        denied = set(map(id, judged))
        for claim in [*self._claims]:
            self._settle(claim, now_us, is_judged=id(claim) in denied)
        if self._claims and not self._count_pending(now_us):
            self._claims[0].waiter.wake()  # it asks for all of them

    def _settle(self, claim: Claim, now_us: int, *, is_judged: bool) -> None:
        is_granted = self.held() >= claim.cost
        if not (is_granted or is_judged or self.denies(claim.cost, now_us)):
            return
        if claim not in self._claims:
            return  # it was given up meanwhile: collected as garbage
        self._claims.remove(claim)
        claim.outcome = Outcome.GRANTED if is_granted else Outcome.DENIED
        claim.parts = self._take(claim.cost) if is_granted else []
        claim.waiter.wake()

    # What is asked

    def _count_pending(self, now_us: int) -> int:
        if self._pending:
            # Of an operation that was never run, nothing else is heard.
            self._pending = [pending for pending in self._pending if 0 <= now_us - pending.started_us < TERM_US]
        return len(self._pending)

    def _is_quiet(self, now_us: int) -> bool:
        """Whether the bucket has not a single unit."""
        if self._seen is None:
            return False
        age_us = now_us - self._seen.sent_us
        return 0 <= age_us < _MOST_QUIET_US and self._seen.level + age_us * self._numbers.rate < self._numbers.per

    def may_request(self, now_us: int) -> bool:
        """Return whether who waits may ask now: nobody else does, or the one who does has no reply for long."""
        out = self._count_pending(now_us)
        return not out or (out < _MOST_PENDING and now_us - self._pending[0].started_us >= _HEDGE_US)

    def patience_us(self, now_us: int) -> int:
        """Return after how long who waits and may not ask should look again, whatever happens."""
        out = self._count_pending(now_us)
        started_us = self._pending[0].started_us
        return max(1, started_us + (_HEDGE_US if out < _MOST_PENDING else TERM_US) - now_us)

    def is_due(self, now_us: int) -> bool:
        """Return whether there is something to ask for ahead, or to give back."""
        if self.snapshot is None or self._count_pending(now_us):
            return False
        if self._returned:
            self._returned = [unspent for unspent in self._returned if self._is_worth(unspent, now_us)]
        return bool(self._returned) or self._is_low

    def _is_worth(self, unspent: _Unspent, now_us: int) -> bool:
        """Whether a bucket may credit anything for units."""
        if self.snapshot is None or unspent.version != self.snapshot.version_token:
            return False
        waited_us = now_us - unspent.sent_us
        return waited_us <= 2 * EPOCH_US or unspent.units * self._numbers.per > waited_us * self._numbers.rate

    def _may_run_out(self, now_us: int) -> bool:
        """Whether what is held may not last until the reply to the next request."""
        demand = self._demand_at(now_us)
        target = self._target(demand)
        if target < 1 or self._numbers.capacity < _SMALL_BURST or now_us < self._paced_until_us:
            return False
        least = min(target - 1, max(target / 4, demand * _LEAD_US / _MEMORY_US))
        return self.held() <= least and not self._is_quiet(now_us)

    def open_request(self, now_us: int) -> PendingRequest:
        """Decide to ask: nobody else does meanwhile."""
        pending = PendingRequest(self, self.snapshot or CatalogSnapshot(), now_us)
        self._hedges += bool(self._pending)
        self._pending.append(pending)
        return pending

    def fill_request(self, pending: PendingRequest, now_us: int) -> list[ReturnedUnits]:
        """Say what is asked, now that it is sent; return what is given back with it."""
        self.drop_over(now_us)
        pending.sent_us = now_us
        self._is_low = False
        held = self.held()
        pending.claims = [claim for claim in self._claims if not self.never_admits(claim.cost)]
        costs = [claim.cost for claim in pending.claims]
        wanted = sum(costs)
        demand = self._demand_at(now_us)
        ahead = self._target(demand) - max(0, held - wanted)
        pending.request = LeaseRequest(
            waiting=max(0, wanted - held),
            multiple=1 if held or not costs else gcd(*costs),
            ahead=max(0, ahead) if self._numbers.capacity >= _SMALL_BURST else 0,
            demand=max(1, round(demand * EPOCH_US / _MEMORY_US)),
            recent=self._unreported,
            epoch=self.epoch,
        )
        self._unreported = 0
        version = pending.snapshot.version_token
        pending.returned = [unspent for unspent in self._returned if unspent.version == version]
        self._returned = []
        self._sent += 1
        return [
            ReturnedUnits(unspent.units, unspent.charged_us, max(0, now_us - unspent.sent_us))
            for unspent in pending.returned
        ]

    def close_request(self, pending: PendingRequest, now_us: int, *, was_carried_out: bool) -> None:
        """Note that no reply comes to who asked. `was_carried_out`: or nobody knows; nothing is held of it then."""
        if pending in self._pending:
            self._pending.remove(pending)
        if not was_carried_out:
            self._returned += pending.returned
            self._unreported += pending.request.recent
            pending.returned = []
        if self._claims and not self._count_pending(now_us):
            self._claims[0].waiter.wake()

    def received(self, pending: PendingRequest, reply: LeaseReply, now_us: int) -> None:
        """Hold what was granted, and settle the claims that it is for."""
        if pending in self._pending:
            self._pending.remove(pending)
        in_time = not pending.is_void and 0 <= now_us - pending.sent_us < TERM_US
        self._late += not in_time
        self._granted += reply.granted
        self._refunded += sum([unspent.units for unspent in pending.returned])
        if reply.granted:
            batch = Batch(self, reply.granted, reply.last_us, pending.sent_us, pending.snapshot.version_token)
            if in_time:
                self._batches.append(batch)
            else:
                self._return(batch, reply.granted)
        if not pending.is_void:
            self.nothing_newer = False
            self.epoch = reply.epoch
            self._paced_until_us = now_us + reply.pace_us
            self._note(pending, reply)
        is_exhausted = in_time and reply.granted < pending.request.waiting and not self._returned
        self._serve(now_us, pending.claims if is_exhausted else ())

    def _note(self, pending: PendingRequest, reply: LeaseReply) -> None:
        """Keep the state in a reply, unless a later one is known. Replies of a clock that was set back are later."""
        seen = self._seen
        if seen is None or reply.last_us >= seen.last_us or pending.sent_us > seen.sent_us + TERM_US:
            self._seen = _Seen(reply.level, reply.last_us, reply.server_us, pending.sent_us)

    # Figures

    def figures(self) -> SharedFigures:
        """Return what this process did about it."""
        return SharedFigures(
            self.held(),
            self._demanded,
            self._sent,
            self._waits,
            self._hedges,
            self._late,
            self._granted,
            self._refunded,
        )

    def is_idle(self, now_us: int) -> bool:
        """Return whether nothing would be lost with it."""
        is_empty = not (self._claims or self._pending or self.held() or self._returned)
        return is_empty and now_us - self._demand_us > _IDLE_US
