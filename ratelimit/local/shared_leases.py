"""Shared leases: units of the limits that all callers share, prepaid where those limits lie in slots of their own.

A check on slots is one script at its key's slot; the bucket of a stage or of the account lies in another. So each
process prepays units of these buckets (lua/shared_lease.lua) and spends them in memory. What is spent was charged
before, at most a term (0.1 s) ago: over any interval W at most burst + rate * (W + term) pass a bucket. What is not
spent is given back; of what nobody knows, nothing is spent.

One request serves all who wait, and asks ahead for as much as is going to be demanded; a refill leaves in the
background before what is held is used up. Where the bucket has nothing, checks are denied from memory until it has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from threading import RLock
from typing import Any, Literal, NamedTuple

from ratelimit.effects import InBackground, Operation, WaitFor
from ratelimit.engine.limits import Bucket
from ratelimit.engine.shared_lease import lease_call, lease_reply, peek_call
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.local.leased_bucket import (
    Claim,
    LeasedBucket,
    Outcome,
    Part,
    PendingRequest,
    SharedFigures,
    SharedState,
    Waiter,
)
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

__all__ = ["Held", "SharedDenial", "SharedFigures", "SharedLeases", "SharedState"]


class Held(NamedTuple):
    """Units of the shared buckets of a check, taken out of what this process holds.

    Attributes:
        parts: Of which batches.
        states: Of each bucket how it stands after that.
        failed: Buckets that gave no answer: of these there are no units.
        error: Why.
    """

    parts: tuple[Part, ...]
    states: tuple[SharedState, ...]
    failed: tuple[Bucket, ...] = ()
    error: StoreError | None = None


class SharedDenial(NamedTuple):
    """A shared bucket denies a check; nothing was taken of any.

    Attributes:
        bucket: The first that does.
        states: Of each bucket how it stands.
        is_answered: Whether no bucket that was asked failed to answer, or is yet to.
    """

    bucket: Bucket
    states: tuple[SharedState, ...]
    is_answered: bool = True


class SharedLeases:
    """The shared leases of one limiter. Safe between threads; a forked child holds nothing.

    Attributes:
        is_due: Whether `upkeep` has something to do that should not wait: run it in the background, then.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Hold nothing."""
        self._lock = RLock()  # what is collected as garbage meanwhile gives up its claims, perhaps in this thread
        self._buckets: dict[str, LeasedBucket] = {}  # by their name in Redis
        self.is_due = False

    def count_demand(self, buckets: Sequence[Bucket], cost: int, now_us: int) -> None:
        """Note that a check demands units of buckets, which `take` does not note: once for each check."""
        with self._lock:
            for bucket in buckets:
                self._leased(bucket).count_demand(cost, now_us)

    def take(
        self, buckets: Sequence[Bucket], cost: int, now_us: int, *, is_counted: bool = False
    ) -> Held | SharedDenial | None:
        """Take units from memory, of all buckets or of none.

        Args:
            buckets: The shared buckets of a check.
            cost: Units to take of each, at least 1.
            now_us: `Namespace.age_us`.
            is_counted: Whether what the check demands was noted before.

        Returns:
            The units; a denial, if it is certain; None if a bucket has to be asked: see `demand`.
        """
        with self._lock:
            leased = [self._leased(bucket) for bucket in buckets]
            is_missing = False
            for bucket in leased:
                if not is_counted:
                    bucket.count_demand(cost, now_us)
                bucket.drop_over(now_us)
            for bucket in leased:
                if bucket.held() < cost:
                    if bucket.denies(cost, now_us):
                        return self._denial(leased, bucket, now_us)
                    is_missing = True
            if is_missing:
                return None
            parts = tuple([part for bucket in leased for part in bucket.spend(cost, now_us)])
            self._look(leased, now_us)
            return Held(parts, self._states(leased, now_us))

    def demand(
        self, snapshot: CatalogSnapshot, buckets: Sequence[Bucket], cost: int
    ) -> Operation[Held | SharedDenial | None]:
        """Take units of all buckets, after `take` had none: ask for what is missing, or wait for the reply to another.

        Args:
            snapshot: The catalogue that the buckets are of.
            buckets: The shared buckets of a check.
            cost: Units to take of each, at least 1.

        Returns:
            The units, or a denial; None if there is a newer catalogue, which is loaded by then: prepare the check anew.

        Raises:
            StoreError: No bucket gave an answer, or one gave an answer that cannot be judged by. No unit was spent.
        """
        namespace, waiter = self._namespace, Waiter()
        if snapshot is not namespace.snapshot:
            return None
        claims = list[Claim]()
        try:
            with self._lock:
                now_us = namespace.age_us()
                for bucket in buckets:
                    leased = self._leased(bucket)
                    leased.snapshot = snapshot
                    claims.append(Claim(leased, cost, waiter))
                for claim in claims:
                    claim.bucket.join(claim, now_us)
            while True:
                with self._lock:
                    step = self._next_step(claims, waiter, namespace.age_us())
                if not isinstance(step, list | WaitFor):
                    return step
                yield from self._take_step(step, claims)
        finally:
            with self._lock:
                now_us = namespace.age_us()
                for claim in claims:
                    claim.bucket.leave(claim, now_us)
                    claim.error = None  # its traceback leads to the claim
                self._look([claim.bucket for claim in claims], now_us)

    def settle(self, held: Held, outcome: Literal["spent", "denied", "unknown"]) -> None:
        """Say what became of a check for which units were taken: if it was denied they are held again, or given back.

        At most once for each. If nobody knows whether it was admitted, they stay spent.
        """
        if outcome != "denied" or not held.parts:
            return
        with self._lock:
            now_us = self._namespace.age_us()
            for batch, units in held.parts:
                batch.bucket.put_back([(batch, units)], now_us)
            self._look([batch.bucket for batch, _ in held.parts], now_us)

    def end(self) -> None:
        """Spend nothing more of what is held: something about plans or stages changed."""
        with self._lock:
            now_us = self._namespace.age_us()
            for bucket in self._buckets.values():
                bucket.end(now_us)

    def upkeep(self, *, last: bool = False) -> Operation[None]:
        """Ask ahead where little is held, and give back what is over; `last`: all that is held, as the limiter closes.

        A bucket that cannot be asked keeps nobody from asking others.
        """
        if last:
            self.end()
        with self._lock:
            self.is_due = False
            now_us = self._namespace.age_us()
            requests = list[PendingRequest]()
            for key, bucket in [*self._buckets.items()]:
                bucket.drop_over(now_us)
                if bucket.is_due(now_us):
                    requests.append(bucket.open_request(now_us))
                elif bucket.is_idle(now_us):
                    del self._buckets[key]
        for at, pending in enumerate(requests, 1):
            if at < len(requests) and not last:
                yield InBackground(self._send(pending))
            else:
                with contextlib.suppress(StoreError):
                    yield from self._send(pending)

    def states(self, bucket: Bucket) -> SharedState | None:
        """Return how a bucket stands, as last seen; None if it was not."""
        with self._lock:
            leased = self._buckets.get(bucket.field_or_key)
            if leased is None or leased.bucket.throttle != bucket.throttle:
                return None
            now_us = self._namespace.age_us()
            leased.drop_over(now_us)
            return leased.state(now_us)

    def peek(self, snapshot: CatalogSnapshot, buckets: Sequence[Bucket]) -> Operation[list[SharedState]]:
        """Return how buckets stand now, with what this process holds of them.

        Raises:
            StoreError: One of them gave no answer.
        """
        states = list[SharedState]()
        for bucket in buckets:
            now_us = self._namespace.script_us()
            call = peek_call(bucket.field_or_key, bucket.throttle, snapshot.version_token, now_us=now_us)
            reply = lease_reply((yield call))
            if reply is None:
                raise StoreError("Redis answered to a look at a shared limit with something else")
            with self._lock:
                leased = self._leased(bucket)
                leased.drop_over(self._namespace.age_us())
                states.append(leased.with_held(reply))
        return states

    def figures(self) -> dict[str, SharedFigures]:
        """Return what this process did about each bucket, by its name in Redis."""
        with self._lock:
            now_us = self._namespace.age_us()
            for bucket in self._buckets.values():
                bucket.drop_over(now_us)
            return {key: bucket.figures() for key, bucket in self._buckets.items()}

    # All of these are called under the lock.

    def _leased(self, bucket: Bucket) -> LeasedBucket:
        leased = self._buckets.get(bucket.field_or_key)
        if leased is None:
            leased = self._buckets[bucket.field_or_key] = LeasedBucket(bucket)
        elif leased.bucket.throttle is not bucket.throttle:
            leased.set_limit(bucket)
        return leased

    def _next_step(
        self, claims: list[Claim], waiter: Waiter, now_us: int
    ) -> Held | SharedDenial | list[PendingRequest] | WaitFor | None:
        """Return the result of a check that claims units, or what it has to do next.

        Raises:
            StoreError: All claims have failed.
        """
        leased = [claim.bucket for claim in claims]
        for bucket in leased:
            bucket.drop_over(now_us)
        for claim in claims:
            if claim.outcome is Outcome.CHANGED:
                return None
            if claim.outcome is Outcome.DENIED:
                is_answered = all(each.outcome in (Outcome.GRANTED, Outcome.DENIED) for each in claims)
                return self._denial(leased, claim.bucket, now_us, is_answered=is_answered)
            if claim.outcome is Outcome.GRANTED and not all(batch.is_live(now_us) for batch, _ in claim.parts):
                parts, claim.parts = claim.parts, []
                claim.bucket.put_back(parts, now_us)
                claim.bucket.join(claim, now_us)
        waiting = [claim.bucket for claim in claims if claim.outcome is Outcome.WAITS]
        if not waiting:
            if any(claim.outcome in (Outcome.CHANGED, Outcome.DENIED) for claim in claims):
                return self._next_step(claims, waiter, now_us)  # of one that joined again
            return self._held(claims, now_us)
        requests = [bucket.open_request(now_us) for bucket in waiting if bucket.may_request(now_us)]
        if requests:
            return requests
        patience_us = min([bucket.patience_us(now_us) for bucket in waiting])
        return WaitFor(waiter.renew(), patience_us / MICROSECONDS)

    def _held(self, claims: Sequence[Claim], now_us: int) -> Held:
        """Return what claims were granted that wait no more."""
        failed = [claim for claim in claims if claim.error is not None]
        error = failed[0].error if failed else None
        if error is not None and len(failed) == len(claims):
            try:
                raise error
            finally:
                del error  # its traceback leads here
        parts = tuple([part for claim in claims for part in claim.parts])
        for claim in claims:
            claim.parts = []
        states = self._states([claim.bucket for claim in claims], now_us)
        return Held(parts, states, tuple([claim.bucket.bucket for claim in failed]), error)

    def _states(self, leased: Sequence[LeasedBucket], now_us: int) -> tuple[SharedState, ...]:
        """Return how buckets stand; one that was not seen is full, at the time of the others."""
        states = [bucket.state(now_us) for bucket in leased]
        seen = [state.server_us for state in states if state is not None]
        server_us = max(seen, default=0) or self._namespace.wall_us()
        return tuple(
            [state or bucket.full_state(server_us) for bucket, state in zip(leased, states, strict=True)],
        )

    def _denial(
        self, leased: Sequence[LeasedBucket], denying: LeasedBucket, now_us: int, *, is_answered: bool = True
    ) -> SharedDenial:
        return SharedDenial(denying.bucket, self._states(leased, now_us), is_answered)

    def _look(self, leased: Sequence[LeasedBucket], now_us: int) -> None:
        """Note whether any of the buckets needs `upkeep`."""
        for bucket in leased:
            if not self.is_due and bucket.is_due(now_us):
                self.is_due = True

    # What is sent

    def _take_step(self, step: list[PendingRequest] | WaitFor, claims: Sequence[Claim]) -> Operation[None]:
        """Ask, or wait. A claim of a bucket that gives no answer has failed, and all that wait beyond the deadline."""
        failing = claims
        try:
            if isinstance(step, WaitFor):
                yield step
                return
            *others, last = step
            for pending in others:
                yield InBackground(self._send(pending))
            failing = [claim for claim in claims if claim.bucket is last.bucket]
            yield from self._send(last)
        except StoreError as error:
            if not error.is_outage:
                raise
            with self._lock:
                for claim in failing:
                    claim.bucket.fail(claim, error, self._namespace.age_us())

    def _send(self, pending: PendingRequest) -> Operation[None]:
        """Ask a bucket, and settle the claims of all who wait for it.

        Raises:
            StoreError: No answer, or one that cannot be judged by. Who waits asks for itself.
        """
        namespace, bucket = self._namespace, pending.bucket
        with self._lock:
            returned = bucket.fill_request(pending, namespace.age_us())
            call = lease_call(
                bucket.bucket.field_or_key,
                bucket.bucket.throttle,
                pending.snapshot.version_token,
                pending.request,
                returned,
                lambda reply: self._on_late_reply(pending, reply),
                now_us=namespace.script_us(),
                nothing_newer=bucket.nothing_newer,
            )
        try:
            reply = lease_reply((yield call))
            if reply is None:
                yield from self._catch_up(pending)
                return
        except BaseException as error:
            with self._lock:
                was_carried_out = not isinstance(error, StoreUnavailable)
                bucket.close_request(pending, namespace.age_us(), was_carried_out=was_carried_out)
            raise
        with self._lock:
            now_us = namespace.age_us()
            bucket.received(pending, reply, now_us)
            self._look([bucket], now_us)

    def _catch_up(self, pending: PendingRequest) -> Operation[None]:
        """Load the catalogue, as a bucket was charged under a newer one."""
        namespace, bucket = self._namespace, pending.bucket
        if pending.snapshot is namespace.snapshot:
            yield from namespace.load(or_others=True)
        with self._lock:
            bucket.close_request(pending, namespace.age_us(), was_carried_out=False)
            if namespace.snapshot.version_key != pending.snapshot.version_key:
                bucket.change()
            else:
                bucket.nothing_newer = True

    def _on_late_reply(self, pending: PendingRequest, reply: Any) -> None:
        """Hold what was granted to a request whose sender has gone, if it comes in time."""
        if isinstance(reply, Exception):
            return
        try:
            answer = lease_reply(reply)
        except StoreError:
            return
        if answer is not None:
            with self._lock:
                now_us = self._namespace.age_us()
                pending.bucket.received(pending, answer, now_us)
                self._look([pending.bucket], now_us)
