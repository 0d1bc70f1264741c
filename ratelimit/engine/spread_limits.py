"""The limits of a request where what callers share lies in other slots than a key: one script judges its own alone.

Its reply and the states of the shared limits are joined to the reply that one script would give that judged them all.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol, final

from ratelimit.decision import Decision, LimitStatus, Source
from ratelimit.engine.limits import Bucket, CompiledLimits, IdentityBound, Limit
from ratelimit.errors import Cause


class BucketState(Protocol):
    """How a shared bucket stood: `level`, in units of 1/P token, at `last_us`; at `server_us` its server said so."""

    @property
    def level(self) -> int:
        """Its level."""

    @property
    def last_us(self) -> int:
        """By the clock of its own server."""

    @property
    def server_us(self) -> int:
        """Now, by that clock."""


@final
class JoinedReply(list[Any]):
    """A reply of the script's form to a request whose limits several slots judged.

    Attributes:
        source: Who made the decision that is in it.
        cause: Why it is a degraded one, as `StoreError.cause`; None if it is not.
        error: The same in words.
        wait_s: For how many seconds a limit denies at least that this process judged by its own part; 0 if none did.
        is_timed: Whether a script ran for it.
        crosses_alert: Whether an alert may be pending in the key's hash because of it.
    """

    __slots__ = ("cause", "crosses_alert", "error", "is_timed", "source", "wait_s")

    def __init__(self, status: int, now_us: int, limits: bytes, source: Source) -> None:
        super().__init__((status, now_us, limits))
        self.source = source
        self.cause: Cause | None = None
        self.error: str | None = None
        self.wait_s = 0.0
        self.is_timed, self.crosses_alert = True, False

    def mark(self, decision: Decision) -> Decision:
        """Note in the decision that was made of this reply how it came about; return it."""
        decision.source = self.source
        if not self.is_timed:
            decision.time_us = None
        if self.cause is not None:
            decision.cause, decision.error = self.cause, self.error
            if decision.retry_after is not None:
                decision.retry_after = max(decision.retry_after, self.wait_s)
        return decision


@final
class SpreadLimits(CompiledLimits):
    """Compiled limits that are spread over slots: to decide by. No one script judges all of them.

    Attributes:
        own: What the script in the key's slot judges; None for a request without a key.
        shared: The buckets that all callers share, each in a slot of its own.
        shared_limits: The same, compiled.
        bound: How many identities the plan may have, if that is bounded.
        alerts: The counts of the quota that are announced when they are reached.
        stage: The stage, as buckets are named after it.
    """

    __slots__ = ("_order", "_pack", "_with_own", "alerts", "bound", "own", "shared", "shared_limits", "stage")

    def __init__(
        self,
        limits: Sequence[Limit],
        own: CompiledLimits | None,
        stage: str,
        plan_field: str | None = None,
        alerts: Sequence[int] = (),
        bound: IdentityBound | None = None,
    ) -> None:
        super().__init__(limits, plan_field)
        self.own = own
        self.shared: tuple[Bucket, ...] = tuple([bucket for bucket in self.further_buckets if bucket.shared])
        self.shared_limits = CompiledLimits(self.shared)
        self.bound = bound
        self.alerts = tuple(alerts)
        self.stage = stage
        counts, order = [0, 0], list[tuple[bool, int]]()
        for limit in limits:
            order.append((limit.shared, counts[limit.shared]))
            counts[limit.shared] += 1
        self._order = tuple(order)
        self._pack = struct.Struct(f"<{2 * len(limits)}d").pack
        self._with_own: tuple[CompiledLimits, SpreadLimits] | None = None

    def script_keys(self, key_hash: str) -> tuple[str, ...]:
        """As of `CompiledLimits`; none without a key."""
        return () if self.own is None else self.own.script_keys(key_hash)

    def joined(
        self, status: int, now_us: int, own_numbers: Sequence[float], states: Sequence[BucketState], source: Source
    ) -> JoinedReply:
        """Return the reply of a script that judged everything.

        Args:
            status: What it says.
            now_us: The time at which it says so: that of the key's server, whose clock may differ from others'.
            own_numbers: Two numbers of each of the key's own limits, in their order.
            states: Of each shared bucket, in their order.
            source: Who made the decision.
        """
        return JoinedReply(status, now_us, self._pack(*self.joined_numbers(now_us, own_numbers, states)), source)

    def joined_numbers(
        self, now_us: int, own_numbers: Sequence[float], states: Sequence[BucketState]
    ) -> tuple[float, ...]:
        """Return the numbers of all limits; see `joined`."""
        numbers = list[float]()
        for is_shared, at in self._order:
            numbers += _at(now_us, states[at]) if is_shared else own_numbers[2 * at : 2 * at + 2]
        return tuple(numbers)

    def with_own(self, own: CompiledLimits) -> SpreadLimits:
        """Return these limits with another form of the key's own ones, to compute with: see `divided`."""
        if own is self.own:
            return self
        last = self._with_own
        if last is not None and last[0] is own:
            return last[1]
        limits = copy(self)
        limits.numbers_of = tuple(
            [
                numbers if is_shared else own.numbers_of[at]
                for (is_shared, at), numbers in zip(self._order, self.numbers_of, strict=True)
            ]
        )
        limits._with_own = None
        self._with_own = own, limits
        return limits

    def with_states(self, numbers: Sequence[float], now_us: int, states: Sequence[BucketState]) -> tuple[float, ...]:
        """Return the numbers of all limits with these states of the shared ones."""
        replaced = list(numbers)
        for index, (is_shared, at) in enumerate(self._order):
            if is_shared:
                replaced[2 * index : 2 * index + 2] = _at(now_us, states[at])
        return tuple(replaced)

    def replaced(self, statuses: Sequence[LimitStatus], states: Sequence[BucketState]) -> tuple[LimitStatus, ...]:
        """Return the statuses of all limits with those of the shared ones by these states."""
        now_us = max([state.server_us for state in states], default=0)
        numbers = tuple([number for state in states for number in _at(now_us, state)])
        shared = self.shared_limits.statuses(numbers, now_us)
        return tuple(
            [shared[at] if is_shared else status for (is_shared, at), status in zip(self._order, statuses, strict=True)]
        )

    def crosses_alert(self, reply: object, cost: int) -> bool:
        """Return whether a charge may have reached a count that is announced, by the reply of the key's script."""
        if not self.alerts or self.own is None:
            return False
        used = self.own.used_after_charge(reply) if isinstance(reply, bytes) else None
        return used is None or any(used - cost < count <= used for count in self.alerts)


def _at(now_us: int, state: BucketState) -> tuple[int, int]:
    """Return the two numbers of a bucket, by a clock that says `now_us` when its server's says `server_us`."""
    return state.level, state.last_us + now_us - state.server_us
