"""What a process decides by while Redis is away: its part of each limit, one of N0 equal ones. No I/O.

Whole numbers only. A bucket of R tokens in P us is here one of R in P * N0 us, and of the same burst: so every cost
that may ever pass can pass. It begins each outage with the Nth part of the level that was last seen, exactly: the same
number, in units N0 times as small. What is left of a quota is divided and rounded down.

So N processes admit at most N / N0 times (burst + rate * T) in a time T, however often Redis goes and comes back in it:
what a process has left from one outage it has in the next, refilled at its own rate meanwhile, or less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from itertools import islice
from threading import RLock
from typing import NamedTuple

from ratelimit.engine.limits import Bucket, CompiledLimits, LimitNumbers, Numbers
from ratelimit.local import fork_safety
from ratelimit.local.local_caller import LocalBucket, LocalCaller, LocalQuota
from ratelimit.registry.windows import window_at

MAX_CALLERS = 100_000


class KnownState(NamedTuple):
    """The last state of a limit that Redis answered with.

    Attributes:
        level: Of a bucket, in units of 1/`per` token; of a quota, what is left.
        last_us: The server's time at which the bucket had this level, or at which the quota's window ends.
        per: Of a bucket, units of a token; 1 for a quota.
        server_us: The server's time of the answer.
        sent_us: This process' time at which the check was sent.
    """

    level: int
    last_us: int
    per: int
    server_us: int
    sent_us: int


class Spending(Enum):
    """What becomes of units that a request is admitted with."""

    NONE = auto()
    """Nothing is consumed."""
    CERTAIN = auto()
    """Redis has not counted them."""
    UNKNOWN = auto()
    """Nobody knows whether Redis has counted them."""


class LocalVerdict(NamedTuple):
    """What this process' part of all limits of a request says.

    Attributes:
        limits: The limits, divided.
        numbers: Two of each limit, as `engine.limits.Numbers`, before the request: whole numbers of any size.
        denial: As of `CompiledLimits.denial`; None if it is admitted.
    """

    limits: CompiledLimits
    numbers: Numbers
    denial: tuple[int, float, float] | None


KnownStates = Callable[[], Mapping[str, KnownState]]
"""Returns the last states that are known, by `state_id`: asked where a limit begins an outage."""


class LocalLimits:
    """What this process has of all limits. Safe between threads, and after a fork.

    A child process goes on with what its parent had at the fork; it owes Redis nothing.

    Attributes:
        callers: By the id of a key or an identity. Never more than `max_callers`: who finds no room is not admitted,
            for what a caller has spent must not be forgotten.
        waiting: Those who have entries in the journal.
        outage: Number of this outage, or of the last one.
        replicas: N0: the number of replicas among which limits are divided, fixed within an outage.
        is_away: Whether Redis is away.
        lock: Held while anything here is read or changed.
    """

    def __init__(self, max_callers: int = MAX_CALLERS) -> None:
        self._max_callers = max_callers
        self.callers: dict[str, LocalCaller] = {}
        self._shared = LocalCaller()
        self.waiting: dict[str, LocalCaller] = {}
        self.outage, self.replicas, self.is_away = 0, 1, False
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew, and owe Redis nothing: the parent's spending is the parent's to charge."""
        self.lock = RLock()
        for caller in [*self.callers.values(), self._shared]:
            caller.entries = []
        self.waiting = {}

    def begin_outage(self, replicas: int) -> None:
        """Divide limits among `replicas` from now on, unless Redis is last to be away already."""
        with self.lock:
            if not self.is_away:
                self.is_away, self.replicas = True, replicas
                self.outage += 1

    def end_outage(self) -> None:
        """Say that Redis has answered."""
        self.is_away = False

    def caller(self, caller_id: str) -> LocalCaller | None:
        """Return what there is of a caller, made now if need be; None if there is no room. With the lock held.

        The id is "" for requests that need no key: these have a place in any case.
        """
        if not caller_id:
            return self._shared
        caller = self.callers.get(caller_id)
        if caller is None and len(self.callers) < self._max_callers:
            caller = self.callers[caller_id] = LocalCaller()
        return caller

    def has_room(self, caller_id: str) -> bool:
        """Return whether a caller has a place here, or finds one."""
        return not caller_id or caller_id in self.callers or len(self.callers) < self._max_callers

    def judge(
        self,
        limits: CompiledLimits,
        caller_id: str,
        cost: int,
        spending: Spending,
        now_us: int,
        server_us: int,
        own_states: KnownStates,
        shared_states: KnownStates,
    ) -> LocalVerdict | None:
        """Judge a request by all of its limits, and spend from all of them if all admit it.

        Args:
            limits: The limits of the request.
            caller_id: Id of the key or identity; "" for a request that needs none.
            cost: Units, at least 1.
            spending: Whether, and how.
            now_us: By this process' clock.
            server_us: The server's time now, as it is estimated.
            own_states: The last states of the caller's own limits.
            shared_states: The last states of the limits that all callers share.

        Returns:
            The verdict; None if there is no room for the caller.
        """
        with self.lock:
            if not self.has_room(caller_id):
                return None
            caller = self.callers.get(caller_id) or LocalCaller()
            divided = limits.divided(self.replicas)
            states: list[LocalBucket | LocalQuota] = []
            numbers: list[int] = []
            for (_, limit, state_id), of in zip(limits.indexed, limits.numbers_of, strict=True):
                place, ask = (self._shared, shared_states) if limit.shared else (caller, own_states)
                own, last = place.states.get(state_id), None
                if own is None or own.outage != self.outage:
                    last = ask().get(state_id)
                if isinstance(limit, Bucket):
                    bucket = self._bucket(own if isinstance(own, LocalBucket) else None, last, of, now_us, server_us)
                    states.append(bucket)
                    numbers += (bucket.level, server_us)
                else:
                    end_us = window_at(limit.quota, server_us)[1]
                    quota = self._quota(
                        own if isinstance(own, LocalQuota) else None, last, of.capacity, caller, end_us, server_us
                    )
                    states.append(quota)
                    numbers += (quota.left, quota.until_us)
            denial = divided.denial(tuple(numbers), server_us, cost)
            if spending is not Spending.NONE:
                self._keep(divided, caller_id, states, 0 if denial else cost, spending)
            return LocalVerdict(divided, tuple(numbers), denial)

    def _keep(
        self,
        divided: CompiledLimits,
        caller_id: str,
        states: list[LocalBucket | LocalQuota],
        cost: int,
        spending: Spending,
    ) -> None:
        """Spend a cost; 0 of a request that was denied: from now on the limits refill from what they were."""
        caller = self.caller(caller_id)
        for (_, limit, state_id), of, state in zip(divided.indexed, divided.numbers_of, states, strict=True):
            place = self._shared if limit.shared else caller
            assert place is not None  # noqa: S101 - there is room: see `judge`
            if isinstance(state, LocalBucket):
                level = state.level - cost * of.per
                full_us = state.at_us - (level - of.full) // of.rate if of.rate else state.at_us
                place.states[state_id] = state._replace(level=level, full_us=full_us)
            else:
                unknown = cost if spending is Spending.UNKNOWN else 0
                place.states[state_id] = state._replace(left=state.left - cost, unknown=state.unknown + unknown)

    def put_back(self, limits: CompiledLimits, cost: int, outage: int) -> None:
        """Give back what a request that was not admitted after all has spent of shared limits, in an outage."""
        with self.lock:
            for _, limit, state_id in limits.indexed:
                state = self._shared.states.get(state_id)
                if limit.shared and isinstance(state, LocalBucket) and state.outage == outage:
                    level = state.level + cost * state.per * state.replicas
                    self._shared.states[state_id] = state._replace(level=level)

    def _bucket(
        self, own: LocalBucket | None, last: KnownState | None, of: LimitNumbers, now_us: int, server_us: int
    ) -> LocalBucket:
        """Return a bucket as it is now; `last` is what it begins an outage by."""
        replicas, full = self.replicas, of.full
        level: int | None = None
        if own is not None:
            level = own.level
            if (own.per, own.replicas) != (of.per, replicas):
                level = level * of.per * replicas // (own.per * own.replicas)
            # Before this outage it refilled as one of as many as then, or as now: of the two, the slower.
            slower = max(own.replicas, replicas)
            level += max(0, now_us - own.at_us) * of.rate * replicas // slower
            level = min(level, full * replicas)
            now_us = max(now_us, own.at_us)
        if own is None or level is None or own.outage != self.outage:
            # A level in units of 1/P token is the Nth part of it in units of 1/(P * N0).
            start = full if last is None else _refilled(last, of, server_us)
            level = start if level is None else min(level, start)
        return LocalBucket(level, now_us, of.per, replicas, self.outage, now_us)

    def _quota(
        self,
        own: LocalQuota | None,
        last: KnownState | None,
        limit: int,
        caller: LocalCaller,
        end_us: int,
        server_us: int,
    ) -> LocalQuota:
        """Return a quota's part as it is now; its window ends at `end_us`, unless a later one was seen."""
        if own is not None and own.until_us > server_us:
            end_us = max(end_us, own.until_us)
        if last is not None and last.last_us > server_us:
            end_us = max(end_us, last.last_us)
        is_same_window = own is not None and own.until_us == end_us
        if own is not None and is_same_window and own.outage == self.outage:
            return own
        is_known = last is not None and last.last_us == end_us
        left = limit if last is None or not is_known else last.level
        share = max(0, left) // self.replicas
        if own is None or not is_same_window:
            return LocalQuota(share, end_us, 0, self.outage)
        is_charged = last is not None and is_known and not caller.entries and last.sent_us > caller.charged_us
        renewed = max(0, share - own.unknown)
        return LocalQuota(renewed if is_charged else min(own.left, share), end_us, own.unknown, self.outage)

    def drop_idle(self, most: int, now_us: int, server_us: int) -> None:
        """Look at so many callers, and forget those whose next outage begins as if there had been none before."""
        with self.lock:
            if self.is_away:
                return
            for caller_id in list(islice(self.callers, most)):
                caller = self.callers.pop(caller_id)
                if caller.entries or not all(_is_as_new(state, now_us, server_us) for state in caller.states.values()):
                    self.callers[caller_id] = caller  # at the end: others are looked at first


def last_numbers(
    limits: CompiledLimits, server_us: int, own_states: KnownStates, shared_states: KnownStates
) -> tuple[int, ...]:
    """Return two numbers of each limit, undivided, as they would be now if nobody had consumed since they were seen."""
    numbers: list[int] = []
    for (_, limit, state_id), of in zip(limits.indexed, limits.numbers_of, strict=True):
        state = (shared_states if limit.shared else own_states)().get(state_id)
        if isinstance(limit, Bucket):
            numbers += (of.full if state is None else _refilled(state, of, server_us), server_us)
        else:
            end_us = window_at(limit.quota, server_us)[1]
            is_known = state is not None and state.last_us >= end_us
            numbers += (state.level, state.last_us) if state is not None and is_known else (of.capacity, end_us)
    return tuple(numbers)


def _refilled(last: KnownState, of: LimitNumbers, server_us: int) -> int:
    """Return the level of a bucket now, in units of 1/P token, by the last that was seen."""
    level = last.level if last.per == of.per else last.level * of.per // last.per
    return min(of.full, level + max(0, server_us - last.last_us) * of.rate)


def _is_as_new(state: LocalBucket | LocalQuota, now_us: int, server_us: int) -> bool:
    """Return whether the next outage begins with nothing less without this state."""
    if isinstance(state, LocalQuota):
        return state.until_us <= server_us
    return state.full_us <= now_us
