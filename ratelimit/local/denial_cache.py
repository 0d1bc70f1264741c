"""Denies callers who are known to be out of limit: by the last states seen, and the script's own arithmetic.

Every reply that judged a check has the state of each limit of the request. A limit refills in a known way, and others
can only consume from it: what could not admit a request then cannot admit it now. Whoever raises a limit publishes it
on the channel of changes, and its states are dropped; without that message they live for `max_age`.

Nobody is denied whom Redis would admit. In one process, under an injected clock, every answer equals the script's.

Nothing is recorded until a first check is denied: processes that deny nobody spend no time here.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

from ratelimit.decision import Decision
from ratelimit.engine.limits import CompiledLimits, Numbers
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.protocol import ADMITTED, ADMITTED_DAY_OVER, DENIED, Reply, status
from ratelimit.errors import StoreError
from ratelimit.local import fork_safety
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

_MAX_KEYS = 100_000
_MAX_RECORDED = 16
_JUDGED = frozenset({DENIED, ADMITTED, ADMITTED_DAY_OVER})


class RecordedReply(NamedTuple):
    """A reply about a key, undecoded.

    Attributes:
        limits: The limits of the request.
        server_us: The server's time of the reply.
        sent_us: This process' clock when the check was sent.
        data: All states after the charge if `has_states`, else two numbers of each limit.
        has_states: See `data`.
        version_token: The catalogue and the record under which the key was judged.
        largest_cost: The largest cost that would still have passed, to see quickly that a request is not denied; -1 if
            it was not computed.
    """

    limits: CompiledLimits
    server_us: int
    sent_us: int
    data: bytes
    has_states: bool
    version_token: bytes
    largest_cost: float

    def numbers(self) -> Numbers:
        """Return two numbers of each limit."""
        limits = self.limits
        numbers: Numbers = limits.numbers_after_charge(self.data) if self.has_states else limits.unpack(self.data)
        return numbers


class LimitState(NamedTuple):
    """The last state seen of one limit: its two numbers, the server's time then, and this process' clock at sending."""

    level: float
    last_us: float
    server_us: int
    sent_us: int


class KeyStates:
    """What is known of one key: the last replies, of different limits. Each shows that the script judged the key."""

    __slots__ = ("replies",)

    def __init__(self) -> None:
        self.replies: tuple[RecordedReply, ...] = ()


class SharedStates:
    """What is known of the limits that all callers share, by `state_id`."""

    __slots__ = ("states",)

    def __init__(self) -> None:
        self.states: dict[str, LimitState] = {}


KnownStates = tuple[KeyStates | None, SharedStates]
"""Where the reply to a check is recorded, taken when it is sent: what is dropped meanwhile is recorded nowhere."""


class Denial(NamedTuple):
    """A denial computed from known states, valid as long as these are the same, for the cost, within the times.

    Attributes:
        replies: The states of the key: replaced, never changed.
        states: The states of the shared limits: replaced, never changed.
        cost: The cost of the request.
        from_us: By this process' clock.
        until_us: By this process' clock.
        ahead_us: How far the server's clock is ahead of it.
        numbers: Two numbers of each limit.
        first: Index of the limit that denies first.
        end_us: The server's time from which on no limit denies.
    """

    replies: tuple[RecordedReply, ...]
    states: dict[str, LimitState]
    cost: int
    from_us: int
    until_us: float
    ahead_us: int
    numbers: Numbers
    first: int
    end_us: float


class DenialCache:
    """The last states seen by a process, for at most 100,000 keys. Safe between threads, and after a fork.

    Attributes:
        is_active: Whether states are recorded: from a first denial on, until there was none for twice `max_age`.
    """

    def __init__(self, namespace: Namespace, max_age: float, *, is_on: bool) -> None:
        self._namespace = namespace
        self._max_age_us = int(max_age * MICROSECONDS)
        self._is_injected = namespace.clock is not None
        self._is_on = is_on
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)
        self.is_active = False
        self._active_until_us = self._latest_us = 0
        self._snapshot: CatalogSnapshot | None = None
        self._drop_all()

    def reset_after_fork(self) -> None:
        """Make the lock anew; the states hold in a child process as well."""
        self._lock = Lock()

    def _drop_all(self) -> None:
        self._by_key: BoundedCache[str, KeyStates] = BoundedCache(_MAX_KEYS)
        self._shared = SharedStates()

    def forget(self, key_id: str | None) -> None:
        """Drop the states of a key that changed; None: of all, for any may have changed."""
        with self._lock:
            if key_id is None:
                self._drop_all()
            else:
                self._by_key.forget(key_id)

    def states_for(self, prepared: PreparedCheck, now_us: int) -> KnownStates | None:
        """Return where the reply to a check that is sent now is recorded; None where nothing is."""
        with self._lock:
            if not self._is_recording(prepared, now_us):
                return None
            key_id = prepared.key_id
            own = self._by_key.get(key_id) if key_id else None
            if own is None and key_id:
                own = KeyStates()
                self._by_key.put(key_id, own)
            return own, self._shared

    def _is_recording(self, prepared: PreparedCheck, now_us: int) -> bool:
        """Return whether states under the check's snapshot are recorded. To be called under the lock."""
        if self._snapshot is not prepared.snapshot:
            self._snapshot = prepared.snapshot
            self._drop_all()
        self._advance(now_us)
        if now_us >= self._active_until_us:
            self.is_active = False
        return self.is_active

    def _advance(self, now_us: int) -> None:
        if now_us < self._latest_us:
            if not self._is_injected:
                return  # a monotonic clock: another thread read it later, and took the lock earlier
            # The clock went back: the states are of the future, and limits may be re-anchored.
            self._drop_all()
            self._active_until_us = now_us + 2 * self._max_age_us
        self._latest_us = now_us

    def invalidate(self, prepared: PreparedCheck) -> None:
        """Drop the states of all limits of a check that may have been charged, and whose reply is not known."""
        with self._lock:
            self._invalidate(prepared, own=True, shared=True)

    def _invalidate(self, prepared: PreparedCheck, *, own: bool, shared: bool) -> None:
        if own and prepared.key_id:
            self._by_key.forget(prepared.key_id)
        if shared and prepared.limits.has_shared:
            self._shared = SharedStates()

    def record(self, prepared: PreparedCheck, states: KnownStates | None, reply: Reply, sent_us: int) -> None:
        """Record the states in the reply to a check that was sent at `sent_us` and was not a peek."""
        try:
            self._record(prepared, states, reply, sent_us)
        except StoreError:  # it cannot be read: nobody knows what was charged
            self.invalidate(prepared)
            raise

    def _record(self, prepared: PreparedCheck, states: KnownStates | None, reply: Reply, sent_us: int) -> None:
        code = status(reply)
        if code not in _JUDGED:
            return
        if not isinstance(reply, bytes):
            prepared.limits.numbers(reply)  # raises for what cannot be read
        now_us = self._namespace.age_us()
        with self._lock:
            if code == DENIED:
                self._activate(now_us)
            if not self.is_active:
                return
            self._advance(now_us)
            own, shared = states or (None, None)
            is_late = not 0 <= now_us - sent_us < self._max_age_us
            is_own_lost = is_late or own is None or self._by_key.get(prepared.key_id) is not own
            is_shared_lost = is_late or self._shared is not shared
            if is_late or code != DENIED:  # a charge that is not recorded would make the other states untrue
                self._invalidate(prepared, own=is_own_lost, shared=is_shared_lost)
            if is_late:
                return
            limits = prepared.limits
            server_us = limits.time_us(reply)
            if own is not None and not is_own_lost:
                has_states = isinstance(reply, bytes)
                data, largest = (reply, limits.largest_cost_left(reply)) if isinstance(reply, bytes) else (reply[2], -1)
                token = prepared.version_token
                self._record_own(
                    own, RecordedReply(limits, server_us, sent_us, data, has_states, token, largest), now_us
                )
            if shared is not None and not is_shared_lost and limits.has_shared:
                self._record_shared(shared, limits, limits.numbers(reply), server_us, sent_us, now_us)

    def _activate(self, now_us: int) -> None:
        if not self._is_on:
            return
        if not self.is_active:
            # Only replies to what is sent from now on: an earlier check may be charged, and answered later.
            self._drop_all()
            self._latest_us = now_us
            self.is_active = True
        self._active_until_us = now_us + 2 * self._max_age_us

    def _is_old(self, sent_us: int, now_us: int) -> bool:
        return not 0 <= now_us - sent_us < self._max_age_us

    def _record_own(self, own: KeyStates, new: RecordedReply, now_us: int) -> None:
        replies = own.replies
        if not replies or (
            len(replies) == 1 and replies[0].limits is new.limits and replies[0].server_us < new.server_us
        ):
            own.replies = (new,)
            return
        others: list[RecordedReply] = []
        for before in replies:
            if self._is_old(before.sent_us, now_us):
                continue
            if before.limits is new.limits:
                is_same = before.server_us == new.server_us
                if before.server_us > new.server_us or (is_same and before.numbers() <= new.numbers()):
                    return  # of the same limits a later state is known, or a lower one
                continue
            others.append(before)
        if len(others) >= _MAX_RECORDED:
            # The oldest go, all of one time: what is left must have the latest state of each limit that it is about.
            oldest_us = min(each.server_us for each in others)
            others = [each for each in others if each.server_us > oldest_us]
            if new.server_us <= oldest_us:
                own.replies = tuple(others)
                return
        own.replies = (new, *others)

    def _record_shared(
        self, shared: SharedStates, limits: CompiledLimits, numbers: Numbers, server_us: int, sent_us: int, now_us: int
    ) -> None:
        states = dict(shared.states)
        for index, limit, state_id in limits.indexed:
            if not limit.shared:
                continue
            before, level = states.get(state_id), numbers[2 * index]
            if before is None or self._is_old(before.sent_us, now_us) or _is_newer(server_us, level, before):
                states[state_id] = LimitState(level, numbers[2 * index + 1], server_us, sent_us)
        shared.states = states

    def deny(self, prepared: PreparedCheck, cost: int, now_us: int) -> tuple[Decision, int] | None:
        """Return the denial of a request and the server's time of it; None if Redis has to decide."""
        if prepared.is_leased or now_us - self._namespace.leases_ended_us < self._max_age_us:
            return None  # units that leases return may admit the key at any time
        if (
            self._snapshot is not prepared.snapshot
            or now_us >= self._active_until_us
            or (self._is_injected and now_us < self._latest_us)
        ):
            return None  # `states_for` sees to that
        own = self._by_key.get(prepared.key_id)
        replies, states = () if own is None else own.replies, self._shared.states
        if len(replies) == 1 and replies[0].limits is prepared.limits and _would_pass(replies[0], states, cost):
            return None
        denial: Denial | None = prepared.denial
        if (
            denial is None
            or denial.replies is not replies
            or denial.states is not states
            or denial.cost != cost
            or not denial.from_us <= now_us < denial.until_us
        ):
            denial = prepared.denial = self._compute_denial(prepared, replies, states, cost, now_us)
            if denial is None:
                return None
        _, _, _, _, _, ahead_us, numbers, first, end_us = denial
        server_us = now_us + ahead_us
        decision = prepared.limits.denied(first, end_us - server_us, numbers, server_us, cost, None, "denial_cache")
        return decision, server_us

    def numbers(self, prepared: PreparedCheck, now_us: int) -> tuple[Numbers, int] | None:
        """Return the last numbers of all limits of a check, and the server's time; None if Redis has to be asked."""
        if (
            self._snapshot is not prepared.snapshot
            or now_us >= self._active_until_us
            or (self._is_injected and now_us < self._latest_us)
        ):
            return None
        own = self._by_key.get(prepared.key_id)
        latest = self._latest_numbers(prepared, () if own is None else own.replies, self._shared.states, now_us)
        if latest is None:
            return None
        numbers, ahead_us, _ = latest
        server_us = now_us + ahead_us
        if prepared.valid_until_us and server_us >= prepared.valid_until_us:
            return None
        if prepared.limits.plan_limits.quota is not None and server_us >= numbers[-1]:
            return None  # the quota's window has ended
        return numbers, server_us

    def _compute_denial(
        self,
        prepared: PreparedCheck,
        replies: tuple[RecordedReply, ...],
        states: dict[str, LimitState],
        cost: int,
        now_us: int,
    ) -> Denial | None:
        latest = self._latest_numbers(prepared, replies, states, now_us)
        if latest is None:
            return None
        limits, (numbers, ahead_us, fresh_until_us) = prepared.limits, latest
        server_us = now_us + ahead_us
        denial = limits.denial(numbers, server_us, cost)
        is_raised_by_others = limits.has_shared and (prepared.snapshot.leased or prepared.spread is not None)
        if denial is None or (is_raised_by_others and not _own_limits_deny(limits, numbers, server_us, cost)):
            return None
        first, first_end_us, end_us = denial
        ends_us = [first_end_us]  # then another limit is the first, or none
        if prepared.valid_until_us:
            ends_us.append(prepared.valid_until_us)
        if limits.plan_limits.quota is not None:
            ends_us.append(numbers[-1])  # the quota's window ends
        until_us = min(*ends_us, fresh_until_us + ahead_us) - ahead_us
        if now_us >= until_us:
            return None
        return Denial(replies, states, cost, now_us, until_us, ahead_us, numbers, first, end_us)

    def _latest_numbers(
        self,
        prepared: PreparedCheck,
        replies: tuple[RecordedReply, ...],
        shared: dict[str, LimitState],
        now_us: int,
    ) -> tuple[Numbers, int, int] | None:
        """Return the numbers of all limits, how far the server's clock is ahead, and until when they are fresh.

        None if anything is missing. Each reply has a time of its own: all are moved to the quota's.
        """
        limits = prepared.limits
        replies = tuple([reply for reply in replies if not self._is_old(reply.sent_us, now_us)])
        judged_us = [reply.sent_us for reply in replies if reply.version_token == prepared.version_token]
        if prepared.key_id and not judged_us:
            return None  # the script did not judge this key as it is now
        states: list[LimitState] = []
        for index, limit, state_id in limits.indexed:
            state = shared.get(state_id) if limit.shared else _latest(limits, index, state_id, replies)
            if state is None or self._is_old(state.sent_us, now_us):
                return None
            states.append(state)
        if not states:
            return None
        aheads_us = [0 if self._is_injected else state.server_us - state.sent_us for state in states]
        ahead_us = aheads_us[-1]  # a quota is the last of the limits
        numbers: list[float] = []
        for state, its_ahead_us in zip(states, aheads_us, strict=True):
            numbers += (state.level, state.last_us + ahead_us - its_ahead_us)
        oldest_us = min([state.sent_us for state in states])
        if judged_us:
            oldest_us = min(oldest_us, max(judged_us))
        return tuple(numbers), ahead_us, oldest_us + self._max_age_us


def _is_newer(server_us: int, level: float, before: LimitState) -> bool:
    """Return whether a state supersedes another: the later one does, at equal times the lower."""
    return (server_us, before.level) > (before.server_us, level)


def _would_pass(reply: RecordedReply, states: dict[str, LimitState], cost: int) -> bool:
    """Return whether a cost would pass by a key's last reply and the last states of the shared limits."""
    if cost > reply.largest_cost:
        return False
    for state_id, per in reply.limits.shared_scales:
        state = states.get(state_id)
        if state is None or state.level < cost * per:
            return False
    return True


def _latest(limits: CompiledLimits, index: int, state_id: str, replies: tuple[RecordedReply, ...]) -> LimitState | None:
    """Return the latest state of a key's own limit in its recorded replies, at equal times the lowest."""
    latest: LimitState | None = None
    for reply in replies:
        its_index = index if reply.limits is limits else reply.limits.own_index.get(state_id)
        if its_index is None:
            continue
        level, last_us = reply.numbers()[2 * its_index : 2 * its_index + 2]
        if latest is None or _is_newer(reply.server_us, level, latest):
            latest = LimitState(level, last_us, reply.server_us, reply.sent_us)
    return latest


def _own_limits_deny(limits: CompiledLimits, numbers: Numbers, now_us: int, cost: int) -> bool:
    """Return whether only a key's own limits deny. Units that leases of other keys return may raise a shared one."""
    admits_us = limits.admits_us(numbers, cost)
    return not any(limit.shared and us > now_us for us, limit in zip(admits_us, limits.limits, strict=True))
