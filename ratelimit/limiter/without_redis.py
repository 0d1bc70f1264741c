"""What becomes of a check that Redis gave no answer to: the policy, what this process knows, and its part of limits.

No I/O. What was admitted here, and was certainly not counted in Redis, is charged there once it answers again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from ratelimit import validation
from ratelimit.decision import Decision, Detail, Reason, Source
from ratelimit.effects import Operation
from ratelimit.engine import protocol
from ratelimit.engine.limits import Bucket, CompiledLimits, Numbers
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.spread_limits import SpreadLimits
from ratelimit.errors import OnUnavailable, StoreError, StoreUnavailable
from ratelimit.limiter.checker import Checker, unavailable
from ratelimit.limiter.slot_checks import SharedVerdict, denied_states, states_before
from ratelimit.local.journal import Journal
from ratelimit.local.known_states import NotedReply, latest_states, time_us
from ratelimit.local.local_caller import JournalEntry
from ratelimit.local.local_limits import (
    MAX_CALLERS,
    KnownState,
    KnownStates,
    LocalLimits,
    LocalVerdict,
    Spending,
    last_numbers,
)
from ratelimit.local.replicas import Replicas
from ratelimit.local.shared_leases import Held, SharedState
from ratelimit.model import MICROSECONDS, Caller, Identity
from ratelimit.registry.key_values import could_be_value
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.windows import day_of

log = logging.getLogger("ratelimit")

_LOOKED_AT = 1000
_BATCHES = 50
_GATHERED_ALWAYS = 64
_SHARED_US = MICROSECONDS
"""Where there are more kinds of requests, how long the last states of shared limits are not gathered anew."""


class WithoutRedis:
    """Decides the checks that Redis gave no answer to. Safe between threads, and after a fork.

    Attributes:
        local: What this process has of all limits.
        journal: What is to be charged in Redis.
        replicas: Among how many processes limits are divided.
    """

    def __init__(
        self,
        namespace: Namespace,
        checker: Checker,
        replicas: Replicas,
        *,
        on_unavailable: OnUnavailable,
        local_max_age: float,
    ) -> None:
        self._namespace = namespace
        self._checker = checker
        self._on_unavailable = on_unavailable
        self._max_age_us = int(local_max_age * MICROSECONDS)
        self.replicas = replicas
        self.local = LocalLimits()
        self.journal = Journal(namespace, self.local, checker.denial_cache.invalidate)
        self._ahead_us: int | None = None  # of the server's clock before that of this process
        self._replied_us = -validation.EXACT
        self._shared: tuple[int, int, Mapping[str, KnownState]] = (-1, 0, {})
        self._has_warned = False

    def judge_shared(
        self, error: StoreError, prepared: PreparedCheck, cost: int, buckets: Sequence[Bucket]
    ) -> SharedVerdict | None:
        """Judge limits that all callers share and that give no answer, of a check whose others Redis still judges.

        What is admitted is spent of this process' part, until the verdict's `refund` gives it back. Nobody charges it
        to Redis later.

        Args:
            error: Why they give no answer.
            prepared: The check.
            cost: Units.
            buckets: The limits; the verdict has a state of each.

        Returns:
            The verdict; None if the check is not to be sent.
        """
        spread, now_us = prepared.spread, self._namespace.age_us()
        policy = self._policy(spread.stage if spread else "", prepared.plan_id)
        is_decided = policy == "open" or (policy == "local" and self._is_trusted(prepared, now_us))
        if spread is None or not error.is_outage or not is_decided:
            return None
        server_us, limits = self._server_us(prepared, now_us), spread.shared_limits
        if len(buckets) < len(spread.shared):
            limits = CompiledLimits(buckets)
        states = _Once(partial(self._shared_states, now_us))
        if policy == "open":
            open_states = _states(last_numbers(limits, server_us, dict, states), server_us)
            return SharedVerdict(Held((), ()), open_states, source="fail_open", cause=error.cause, error=str(error))
        self.local.begin_outage(self.replicas.count)
        outage = self.local.outage
        verdict = self.local.judge(limits, "", cost, Spending.CERTAIN, now_us, server_us, dict, states)
        assert verdict is not None  # noqa: S101 - there is always room for what all callers share
        divided, numbers, denial = verdict
        # Of a part's level, in units N0 times as small, the same number of tokens.
        parts = divided.numbers_of[0].per // limits.numbers_of[0].per

        def states_of(numbers: Numbers) -> list[SharedState]:
            return [state._replace(level=state.level // parts) for state in _states(numbers, server_us)]

        if denial is not None:
            first, _, ends_us = denial
            wait_s = (ends_us - server_us) / MICROSECONDS
            denied = states_of(numbers)
            return SharedVerdict(Held((), ()), denied, buckets[first], "local", error.cause, str(error), wait_s)

        def refund() -> list[SharedState]:
            self.local.put_back(limits, cost, outage)
            return states_of(numbers)

        spent = states_of(divided.numbers_after(numbers, cost))
        return SharedVerdict(Held((), ()), spent, source="local", cause=error.cause, error=str(error), refund=refund)

    def decide(
        self, error: StoreError, key: Caller, stage: str, method: str, cost: int, *, peek: bool = False
    ) -> Decision:
        """Decide a check that failed; its arguments were found to be right before."""
        try:
            if not error.is_outage:
                return unavailable(error)
            return self._decide(error, key, stage, method, cost or 1, peek=peek or not cost)
        except StoreError as unreadable:  # the part of the catalogue that is needed was never read before
            return unavailable(unreadable)
        finally:
            self._checker.slots.give_up(error)

    def decide_shared(self, error: StoreError, key: Caller, stage: str, cost: int, *, key_required: bool) -> Decision:
        """Decide a request that matched no route, as `Checker.check_shared`."""
        if key_required:
            decision = self.decide(error, key, stage, OTHERS, cost, peek=True)
            if decision.detail is not None or decision.reason is Reason.UNAVAILABLE:
                return decision
        if not error.is_outage:
            return unavailable(error)
        try:
            return self._decide_without_key(error, stage, OTHERS, cost or 1, peek=not cost)
        except StoreError as unreadable:
            return unavailable(unreadable)

    def _decide(self, error: StoreError, key: Caller, stage: str, method: str, cost: int, *, peek: bool) -> Decision:
        snapshot, checker = self._namespace.snapshot, self._checker
        if not snapshot.epoch:
            return self._by_policy_alone(error, self._on_unavailable)
        if not snapshot.method(stage, method).key_required:
            return self._decide_without_key(error, stage, method, cost, peek=peek)
        if isinstance(key, Identity):
            prepared = checker.prepare_identity(key, stage, method)
            if prepared is None:
                return self._forbidden(error, checker.identity_detail(key, stage), peek=peek)
            return self._decide_prepared(error, prepared, key, stage, method, cost, peek=peek)
        return self._decide_key(error, key, stage, method, cost, peek=peek)

    def _decide_key(
        self, error: StoreError, key: str | None, stage: str, method: str, cost: int, *, peek: bool
    ) -> Decision:
        checker, now_us = self._checker, self._namespace.age_us()
        if not key:
            return self._forbidden(error, "missing", peek=peek)
        if not could_be_value(key) or checker.keys.is_absent(key, now_us, self._max_age_us):
            return self._forbidden(error, "unknown", peek=peek)
        cached_key = checker.keys.get(key)
        if cached_key is None:
            return self._by_policy_alone(error, self._policy(stage, ""))
        prepared = checker.prepare_key(key, cached_key, stage, method)
        if prepared is None:
            return self._forbidden(error, checker.key_detail(cached_key, stage, method), peek=peek)
        over = self._over(prepared, cached_key.record.expires_us, now_us)
        if over is not None:
            return self._forbidden(error, over, peek=peek)
        # On slots a lease holds nothing of what all callers share: by itself it admits nobody whom that limits.
        if prepared.lease is not None and not (prepared.spread and prepared.spread.shared):
            leased: Decision | None = prepared.lease.spend(cost, now_us, peek=peek)
            if leased is not None:
                return leased
        return self._decide_prepared(error, prepared, key, stage, method, cost, peek=peek)

    def _over(self, prepared: PreparedCheck, expires_us: int, now_us: int) -> Detail | None:
        """Return why a key or its value is valid no more, by the time that it must be at the server."""
        until_us = prepared.valid_until_us
        if not until_us or (server_us := self._server_us(prepared, now_us)) < until_us:
            return None
        return "disabled" if expires_us and server_us >= expires_us else "unknown"

    def _decide_without_key(self, error: StoreError, stage: str, method: str, cost: int, *, peek: bool) -> Decision:
        snapshot = self._namespace.snapshot
        if not snapshot.epoch:
            return self._by_policy_alone(error, self._on_unavailable)
        prepared = self._checker.prepare_without_key(stage, method)
        return self._decide_prepared(error, prepared, None, stage, method, cost, peek=peek)

    def _decide_prepared(
        self, error: StoreError, prepared: PreparedCheck, key: Caller, stage: str, method: str, cost: int, *, peek: bool
    ) -> Decision:
        """Decide a request whose limits are known."""
        policy, now_us = self._policy(stage, prepared.plan_id), self._namespace.age_us()
        if policy == "closed" or (policy == "local" and not self._is_trusted(prepared, now_us)):
            return unavailable(error)
        server_us = self._server_us(prepared, now_us)
        verdict = self._judge(error, prepared, key, cost, now_us, server_us, policy=policy, peek=peek)
        if verdict is None:
            self._warn_of_room()
            return unavailable(error)
        limits, numbers, denial = verdict
        if denial is None:
            if policy == "local" and not peek:
                numbers = limits.numbers_after(numbers, cost)
            source: Source = "fail_open" if policy == "open" else "local"
            decision = Decision(Reason.ALLOWED, limits=partial(limits.statuses, numbers, server_us), source=source)
        else:
            first, _, end_us = denial
            decision = limits.denied(first, end_us - server_us, numbers, server_us, cost, None, "local")
        decision.cause, decision.error = error.cause, str(error)
        if denial is not None and not peek:
            self._checker.denials.add(day_of(server_us), prepared.plan_id, prepared.denied_id, decision.reason)
        elif not peek and isinstance(error, StoreUnavailable):
            window_us = int(numbers[-1]) if limits.plan_limits.quota else 0
            if prepared.spread is None or prepared.spread.own is not None:  # else there is no script to charge it
                self.journal.add(prepared, key, stage, method, cost, server_us, window_us)
        return decision

    def _judge(
        self,
        error: StoreError,
        prepared: PreparedCheck,
        key: Caller,
        cost: int,
        now_us: int,
        server_us: int,
        *,
        policy: OnUnavailable,
        peek: bool,
    ) -> LocalVerdict | None:
        """Judge a request whose policy lets this process do so; None if there is no room for its caller.

        Shared limits whose units are prepaid, or that are known to deny it, are judged by that alone.
        """
        spread, shared, limits = prepared.spread, None, prepared.limits
        if spread is not None and spread.own is not None:
            shared = self._checker.slots.verdict_of(error, spread, cost, now_us, peek=peek)
            limits = limits if shared is None else spread.own
        spending = Spending.NONE
        if not peek and (shared is None or shared.denying is None):
            spending = Spending.CERTAIN if isinstance(error, StoreUnavailable) else Spending.UNKNOWN
        states = _Once(partial(self._own_states, prepared, key)), _Once(partial(self._shared_states, now_us))
        try:
            if policy == "open":
                verdict: LocalVerdict | None = self._judge_by_last_states(limits, cost, server_us, *states)
            else:
                self.local.begin_outage(self.replicas.count)
                verdict = self.local.judge(limits, prepared.key_id, cost, spending, now_us, server_us, *states)
            if spread is not None and shared is not None and verdict is not None:
                verdict = _with_shared(verdict, spread, shared, server_us, cost, peek=peek)
        except BaseException:
            if shared is not None:
                self._checker.slots.put_back(shared)
            raise
        if shared is not None and (verdict is None or verdict.denial is not None):
            self._checker.slots.put_back(shared)
        return verdict

    @staticmethod
    def _judge_by_last_states(
        limits: CompiledLimits, cost: int, server_us: int, own: KnownStates, shared: KnownStates
    ) -> LocalVerdict:
        """Admit all but what the last states that were seen certainly deny."""
        numbers = last_numbers(limits, server_us, own, shared)
        return LocalVerdict(limits, numbers, limits.denial(numbers, server_us, cost))

    def _by_policy_alone(self, error: StoreError, policy: OnUnavailable) -> Decision:
        """Decide about somebody of whom this process knows nothing."""
        if policy != "open":
            return unavailable(error)
        return Decision(Reason.ALLOWED, source="fail_open", cause=error.cause, error=str(error))

    def _forbidden(self, error: StoreError, detail: Detail, *, peek: bool) -> Decision:
        """Deny a key that is not accepted as far as is known: if that is known well enough, or all would be denied."""
        is_known = detail == "missing" or self._is_trusted(None, self._namespace.age_us())
        if not is_known and self._on_unavailable != "open":
            return unavailable(error)
        decision = self._checker.forbidden(detail, peek=peek)
        decision.source, decision.cause, decision.error = "local", error.cause, str(error)
        return decision

    def _policy(self, stage_id: str, plan_id: str) -> OnUnavailable:
        return self._namespace.snapshot.on_unavailable(stage_id, plan_id, self._on_unavailable)

    def _is_trusted(self, prepared: PreparedCheck | None, now_us: int) -> bool:
        """Return whether Redis has answered lately enough to go by what it said then."""
        answers_us = [self._namespace.confirmed_us, self.replicas.answered_us, self._replied_us]
        if prepared is not None:
            answers_us += [noted.sent_us for noted in (prepared, prepared.limits) if noted.last_reply is not None]
        return now_us - max(us for us in answers_us if us is not None) <= self._max_age_us

    def _server_us(self, prepared: PreparedCheck, now_us: int) -> int:
        """Return the server's time, as estimated from the last reply."""
        if self._namespace.clock is not None:
            return self._namespace.script_us()
        for noted, limits in ((prepared, prepared.limits), (prepared.limits, prepared.limits)):
            if noted.last_reply is not None and noted.sent_us > self._replied_us:
                replied_us = time_us(NotedReply(limits, noted.last_reply, noted.sent_us))
                if replied_us is not None:
                    self._replied_us, self._ahead_us = noted.sent_us, replied_us - noted.sent_us
        return self._namespace.wall_us() if self._ahead_us is None else now_us + self._ahead_us

    def _own_states(self, prepared: PreparedCheck, key: Caller) -> Mapping[str, KnownState]:
        """Return the last states of a caller's own limits, whatever methods they were seen with."""
        return latest_states(self._own_replies(prepared, key), shared=False)

    def _own_replies(self, prepared: PreparedCheck, key: Caller) -> Iterator[NotedReply]:
        snapshot, checker = self._namespace.snapshot, self._checker
        plan = snapshot.plans.get(prepared.plan_id)
        callers: Iterable[Caller] = () if plan is None else (checker.keys.values_of(prepared.key_id) or (key,))
        for opened in () if plan is None else plan.stages:
            methods = {OTHERS, *snapshot.bucket_methods[opened.stage].values()}
            for noted in checker.prepared_checks(callers, opened.stage, methods):
                if noted.last_reply is not None:
                    yield NotedReply(noted.limits, noted.last_reply, noted.sent_us)

    def _shared_states(self, now_us: int) -> Mapping[str, KnownState]:
        """Return the last states of the limits that all callers share."""
        kinds = self._checker.limits.all()
        count, gathered_us, states = self._shared
        if len(kinds) <= _GATHERED_ALWAYS or count < 0 or not 0 <= now_us - gathered_us < _SHARED_US:
            replies = [
                NotedReply(limits, limits.last_reply, limits.sent_us)
                for limits in kinds
                if limits.has_shared and limits.last_reply is not None
            ]
            states = latest_states(replies, shared=True)
            self._shared = len(kinds), now_us, states
        return states

    def _warn_of_room(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("while Redis is away, %d callers are served; further ones are answered 503", MAX_CALLERS)

    def answered(self) -> None:
        """Say that Redis has answered a check."""
        self.local.end_outage()

    def upkeep(self, *, last: bool = False) -> Iterator[Operation[None]]:
        """Yield what is due now and then, or at the end: each is to be run for itself, and may fail."""
        if not last and self._namespace.is_refreshed:
            yield self.replicas.renew()
        goes_on = True

        def replay() -> Operation[None]:
            nonlocal goes_on
            goes_on = False
            goes_on = yield from self.journal.replay(self._renew)
            self.local.end_outage()

        batches = 0
        while goes_on and self.local.waiting and (last or batches < _BATCHES):
            batches += 1
            yield replay()
        if last:
            if self.local.waiting:
                log.warning("the limiter ends with %d entries that Redis was not charged with", len(self.journal))
            yield self.replicas.leave()
        else:
            now_us = self._namespace.age_us()
            ahead_us = self._namespace.wall_us() - now_us if self._ahead_us is None else self._ahead_us
            self.local.drop_idle(_LOOKED_AT, now_us, now_us + ahead_us)

    def _renew(self, entry: JournalEntry, status: int) -> Operation[PreparedCheck | None]:
        """Return the check by which an entry is charged after a change of its key or of the catalogue."""
        namespace, checker, prepared = self._namespace, self._checker, entry.prepared
        if status == protocol.CATALOG_BEHIND:
            is_newest = (yield from namespace.load()) is prepared.snapshot
            entry.flags = protocol.NOTHING_NEWER if is_newest else 0
            if is_newest:
                return prepared
        elif status != protocol.KEY_CHANGED:
            raise StoreError(f"Redis answered to an entry of the journal with {status}")
        if isinstance(entry.caller, Identity):
            return checker.prepare_identity(entry.caller, entry.stage, entry.method)
        if not prepared.key_id:
            return checker.prepare_without_key(entry.stage, entry.method)
        cached_key = yield from checker.keys.by_id(prepared.key_id)
        return cached_key and checker.prepare_by_record(cached_key, entry.stage, entry.method)


def _with_shared(
    own: LocalVerdict, spread: SpreadLimits, shared: SharedVerdict, server_us: int, cost: int, *, peek: bool
) -> LocalVerdict:
    """Return the verdict on all limits of a request, by that on its own ones and what the shared ones said."""
    if shared.denying is not None:
        states: Sequence[SharedState] = denied_states(spread, shared, cost)
    else:
        states = shared.states if peek else states_before(spread, shared, cost)
    limits, numbers = spread.with_own(own.limits), spread.joined_numbers(server_us, own.numbers, states)
    return LocalVerdict(limits, numbers, limits.denial(numbers, server_us, cost))


def _states(numbers: Numbers, server_us: int) -> list[SharedState]:
    """Return the states of buckets from two numbers of each."""
    levels, times_us = numbers[::2], numbers[1::2]
    return [SharedState(int(level), int(last_us), server_us) for level, last_us in zip(levels, times_us, strict=True)]


class _Once:
    """States that are gathered when they are first asked for."""

    __slots__ = ("_gather", "_states")

    def __init__(self, gather: Callable[[], Mapping[str, KnownState]]) -> None:
        self._gather = gather
        self._states: Mapping[str, KnownState] | None = None

    def __call__(self) -> Mapping[str, KnownState]:
        if self._states is None:
            self._states = self._gather()
        return self._states
