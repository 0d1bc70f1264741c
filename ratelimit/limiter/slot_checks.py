"""Checks whose limits are spread over slots: what callers share is prepaid, a key's script judges its own limits.

Shared units are taken in memory, or asked for. Then one script is sent to the key's slot. If it denies the check the
units are put back; if nobody knows what it did they stay spent. Together the replies say what one script would say.

If the key's script gives no answer, `WithoutRedis` judges the key's own limits by this process' part, and the check is
paid with the same units. If a shared limit gives none, it judges that one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Literal, NamedTuple, cast

from ratelimit.decision import Decision, Reason, Source
from ratelimit.effects import InBackground, Operation
from ratelimit.engine import protocol
from ratelimit.engine.limits import Bucket, Numbers
from ratelimit.engine.pending_alerts import announce
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.spread_limits import JoinedReply, SpreadLimits
from ratelimit.errors import Cause, StoreError, StoreUnavailable
from ratelimit.local.identity_counts import IdentityCounts
from ratelimit.local.leases import Lease
from ratelimit.local.shared_leases import Held, SharedDenial, SharedLeases, SharedState
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import ScriptCall

_CHARGED = frozenset({protocol.ADMITTED, protocol.ADMITTED_DAY_OVER})
_NOTHING_HELD = Held((), ())


class SharedVerdict(NamedTuple):
    """What the shared limits of a check say.

    Attributes:
        held: Units that were taken of them; none of those of which this process decides by its own part.
        states: How they stand.
        denying: The one that denies the check, None if all admit it.
        source: Who says so.
        cause: Why this process decides by its own part, as `StoreError.cause`; None if it does not.
        error: The same in words.
        wait_s: Then for how many seconds it denies.
        refund: Gives that part back what it spent, and returns how the limits stand then; None if it spent nothing.
        is_peek: Whether the limits were only looked at: no check is paid by that.
    """

    held: Held
    states: Sequence[SharedState]
    denying: Bucket | None = None
    source: Source = "lease"
    cause: Cause | None = None
    error: str | None = None
    wait_s: float = 0.0
    refund: Callable[[], Sequence[SharedState]] | None = None
    is_peek: bool = False


class _Unanswered:
    """What the shared limits said of a check whose key's script gave no answer.

    Attributes:
        spread: The limits.
        verdict: What they said; None once that is settled.
        is_counted: Whether what the check demands of them was counted.
    """

    __slots__ = ("is_counted", "spread", "verdict")

    def __init__(self, spread: SpreadLimits, verdict: SharedVerdict) -> None:
        self.spread, self.is_counted = spread, not verdict.is_peek
        self.verdict: SharedVerdict | None = verdict


JudgeLocally = Callable[[StoreError, PreparedCheck, int, Sequence[Bucket]], SharedVerdict | None]
"""Judges shared limits of a check that cannot be asked; None if the check is then not sent."""


def _closed(_error: StoreError, _prepared: PreparedCheck, _cost: int, _buckets: Sequence[Bucket]) -> None:
    """Judge none."""


class SlotChecks:
    """Sends checks whose limits are spread over slots. Safe between threads, and after a fork.

    Attributes:
        shared: The units of shared limits that this process has prepaid.
        identities: How many identities plans have.
        judge_locally: Used when a shared limit cannot be asked.
        on_answer: Called when one could be asked.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.shared = SharedLeases(namespace)
        self.identities = IdentityCounts(namespace)
        self.judge_locally: JudgeLocally = _closed
        self.on_answer: Callable[[], None] = lambda: None

    def take(self, spread: SpreadLimits, cost: int, now_us: int, *, is_counted: bool = False) -> SharedVerdict | None:
        """Return what shared limits say from memory; None if they have to be asked.

        Args:
            spread: The limits.
            cost: Units.
            now_us: `Namespace.age_us`.
            is_counted: Whether what the check demands was counted before.
        """
        if not spread.shared:
            return SharedVerdict(_NOTHING_HELD, ())
        taken = self.shared.take(spread.shared, cost, now_us, is_counted=is_counted)
        return None if taken is None else _verdict(taken, "denial_cache")

    def put_back(self, verdict: SharedVerdict) -> None:
        """Put back what was taken for a check that was not sent, or was denied."""
        self.shared.settle(verdict.held, "denied")
        if verdict.refund is not None:
            verdict.refund()

    def abandon(self, prepared: PreparedCheck, verdict: SharedVerdict, error: BaseException) -> None:
        """Say that the key's script gave no answer to a check that shared limits judged.

        Its units stay spent, unless whoever catches what is raised here decides the check with `verdict_of`, or settles
        it with `give_up`.

        Raises:
            StoreError: A copy of the error with what the shared limits said. Others may have got the same error.
        """
        spread = prepared.spread
        if spread is None or not spread.shared or not isinstance(error, StoreError):
            return
        unanswered = _Unanswered(spread, verdict)
        if verdict.cause is not None and not verdict.held.parts:
            self.put_back(verdict)  # the same part judges the check again, now with all of its limits
            unanswered.verdict = None
        raise _copy_with(error, unanswered) from error

    def verdict_of(
        self, error: StoreError, spread: SpreadLimits, cost: int, now_us: int, *, peek: bool
    ) -> SharedVerdict | None:
        """Return what shared limits said before a check failed, or say from memory; None if neither is known.

        If the check is denied all the same, `put_back` is due. For a peek nothing is taken from memory.
        """
        unanswered, verdict = error._unanswered, self._unsettled(error, spread)
        if peek:
            return verdict
        if verdict is None or verdict.is_peek:
            is_counted = isinstance(unanswered, _Unanswered) and unanswered.is_counted
            verdict = self.take(spread, cost, now_us, is_counted=is_counted) if spread.shared else None
        return verdict

    def give_up(self, error: StoreError) -> None:
        """Settle a check that failed and is decided otherwise than by `verdict_of`."""
        verdict = self._unsettled(error)
        if verdict is not None:
            self.put_back(verdict)

    @staticmethod
    def _unsettled(error: StoreError, spread: SpreadLimits | None = None) -> SharedVerdict | None:
        """Return what shared limits said before a check failed, once; if they are these."""
        unanswered = error._unanswered
        if not isinstance(unanswered, _Unanswered) or spread not in (None, unanswered.spread):
            return None
        verdict, unanswered.verdict = unanswered.verdict, None
        if verdict is not None and not isinstance(error, StoreUnavailable):
            verdict = verdict._replace(held=_NOTHING_HELD)  # perhaps the key's script admitted it: they stay spent
        return verdict

    def ask(self, prepared: PreparedCheck, cost: int) -> Operation[SharedVerdict | None]:
        """Return what shared limits say that were asked; None if another catalogue is in force, and known by now."""
        spread = cast(SpreadLimits, prepared.spread)
        try:
            taken = yield from self.shared.demand(prepared.snapshot, spread.shared, cost)
        except StoreError as error:
            local = self.judge_locally(error, prepared, cost, spread.shared)
            if local is None:
                raise
            return local
        if isinstance(taken, Held) and taken.error is not None:
            return self._judge_failed(taken.error, prepared, cost, taken)
        if taken is None or isinstance(taken, Held) or taken.is_answered:
            self.on_answer()
        if taken is None:
            return None
        verdict = _verdict(taken, "redis")
        if verdict.denying is not None:  # what the other limits had granted is there again
            verdict = verdict._replace(states=self._states_now(spread, verdict.states))
        return verdict

    def _judge_failed(self, error: StoreError, prepared: PreparedCheck, cost: int, held: Held) -> SharedVerdict:
        """Return what shared limits say of which some gave no answer, and the others granted units.

        Raises:
            StoreError: A copy of the error: the check is not to be sent. The units are put back.
        """
        spread = cast(SpreadLimits, prepared.spread)
        local = self.judge_locally(error, prepared, cost, held.failed)
        if local is None:
            self.shared.settle(held, "denied")
            raise copy(error) from error  # of the error itself, the traceback would lead to `held`, and back to it

        def joined(local_states: Sequence[SharedState]) -> list[SharedState]:
            by_id = {bucket.state_id: state for bucket, state in zip(held.failed, local_states, strict=True)}
            others = self._states_now(spread, held.states)
            return [by_id.get(bucket.state_id, state) for bucket, state in zip(spread.shared, others, strict=True)]

        if local.denying is not None:
            self.shared.settle(held, "denied")
            return local._replace(states=joined(local.states))
        refund = local.refund
        return local._replace(
            held=held,
            states=joined(local.states),
            refund=None if refund is None else lambda: joined(refund()),
        )

    def send(
        self,
        prepared: PreparedCheck,
        cost: int,
        flags: int = 0,
        *,
        call: ScriptCall | None = None,
        shared_cost: int | None = None,
        verdict: SharedVerdict | Literal["unknown"] | None = "unknown",
        is_counted: bool = False,
    ) -> Operation[protocol.Reply]:
        """Send a prepared check to all of its slots; return what one script would reply.

        Args:
            prepared: The check.
            cost: Units.
            flags: Of the key's script.
            call: A call of that script that was made already.
            shared_cost: Units of the shared limits, if these are others.
            verdict: What the shared limits say from memory, if that is known already: None if they have to be asked.
            is_counted: As of `take`.
        """
        spread, units = cast(SpreadLimits, prepared.spread), cost if shared_cost is None else shared_cost
        if verdict == "unknown":
            verdict = self.take(spread, units, self._namespace.age_us(), is_counted=is_counted)
        if verdict is None:
            verdict = yield from self.ask(prepared, units)
        if verdict is None:
            return [protocol.CATALOG_BEHIND, self._namespace.wall_us()]
        if verdict.denying is not None:
            return (yield from self._denied(prepared, cost, flags, verdict))
        if spread.own is None:
            self.shared.settle(verdict.held, "spent")
            return self._joined(spread, protocol.ADMITTED, None, verdict)
        call = call or prepared.to_script_call(self._namespace, cost, flags)
        reply = yield from self._send_own(prepared, call, verdict)
        return self.settle(prepared, reply, cost, verdict)

    def settle(
        self, prepared: PreparedCheck, reply: protocol.Reply, cost: int, verdict: SharedVerdict
    ) -> protocol.Reply:
        """Return the joined reply of a check that shared limits admit and that the key's script replied to."""
        spread = cast(SpreadLimits, prepared.spread)
        try:
            code = protocol.status(reply)
            if code < protocol.DENIED:
                self.put_back(verdict)
                return reply
            joined = self._joined(spread, code, reply, verdict)
        except StoreError as error:  # it cannot be read
            self.abandon(prepared, verdict, error)
            raise
        if code in _CHARGED:
            self.shared.settle(verdict.held, "spent")
            joined.crosses_alert = spread.crosses_alert(reply, cost)
            return joined
        self.shared.settle(verdict.held, "denied")
        if verdict.refund is not None:
            verdict = verdict._replace(states=verdict.refund())
        elif verdict.held.parts:
            verdict = verdict._replace(states=self._states_now(spread, verdict.states))
        return self._joined(spread, code, reply, verdict)

    def known_denial(
        self, prepared: PreparedCheck, verdict: SharedVerdict, numbers: Numbers, server_us: int, cost: int
    ) -> tuple[Decision, int] | None:
        """Return the denial of a check that a shared limit denies from memory, and the server's time of it.

        Args:
            prepared: The check.
            verdict: What shared limits say.
            numbers: Of all limits, as last seen.
            server_us: The server's time now.
            cost: Units.
        """
        spread, limits = cast(SpreadLimits, prepared.spread), prepared.limits
        joined = spread.with_states(numbers, server_us, verdict.states)
        denial = limits.denial(joined, server_us, cost)
        if denial is None:
            return None
        first, _, end_us = denial
        return limits.denied(first, end_us - server_us, joined, server_us, cost, None, "denial_cache"), server_us

    def spend_lease(self, prepared: PreparedCheck, lease: Lease, cost: int) -> Operation[Decision | None]:
        """Admit a request from a key's lease, which holds units of its own limits alone, if shared ones admit it, too.

        What the request demands of shared limits is counted by that, in any case.

        Returns:
            The admission; None if the key's script is to be asked.

        Raises:
            StoreError: A shared limit gave no answer, and the request is not decided without it.
        """
        spread, now_us = cast(SpreadLimits, prepared.spread), self._namespace.age_us()
        if lease.units < cost:
            self.shared.count_demand(spread.shared, cost, now_us)
            return None
        verdict = self.take(spread, cost, now_us) or (yield from self.ask(prepared, cost))
        if verdict is None or verdict.denying is not None:
            return None
        leased = lease.spend(cost, self._namespace.age_us())
        if leased is None:
            self.put_back(verdict)
            return None
        if self.shared.is_due:
            yield InBackground(self.shared.upkeep())
        states = verdict.states
        decision = Decision(Reason.ALLOWED, limits=lambda: spread.replaced(leased.limits, states), source="lease")
        if verdict.cause is not None:
            decision.source, decision.cause, decision.error = verdict.source, verdict.cause, verdict.error
        return decision

    def after(self, prepared: PreparedCheck, reply: protocol.Reply) -> Operation[None]:
        """Do what is due after a check that was judged; nobody waits for it."""
        spread = cast(SpreadLimits, prepared.spread)
        if isinstance(reply, JoinedReply) and reply.crosses_alert:
            yield InBackground(announce(self._namespace.names, prepared.key_id))
        if spread.own is not None and spread.bound is not None and protocol.status(reply) in _CHARGED:
            commands = self.identities.note_admitted(prepared, spread.own, spread.bound)
            if commands:
                yield InBackground(self.identities.count(prepared.key_id, spread.bound, commands))
        if self.shared.is_due:
            yield InBackground(self.shared.upkeep())

    def is_all_done(self, reply: protocol.Reply) -> bool:
        """Return whether a check was admitted, and nothing else is to be done."""
        if not isinstance(reply, JoinedReply) or reply[0] != protocol.ADMITTED:
            return False
        return not (reply.crosses_alert or self.shared.is_due)

    def _denied(
        self, prepared: PreparedCheck, cost: int, flags: int, verdict: SharedVerdict
    ) -> Operation[protocol.Reply]:
        """Return the joined reply of a check that a shared limit denies: the key's script says how its own stand."""
        spread = cast(SpreadLimits, prepared.spread)
        reply: protocol.Reply | None = None
        if spread.own is not None:
            call = prepared.to_script_call(self._namespace, cost, flags | protocol.PEEK)
            reply = yield from self._send_own(prepared, call, verdict)
            if protocol.status(reply) < protocol.DENIED:
                return reply
            if verdict.source != "local":
                verdict = verdict._replace(source="redis")
        verdict = verdict._replace(states=denied_states(spread, verdict, cost))
        return self._joined(spread, protocol.DENIED, reply, verdict)

    def _send_own(self, prepared: PreparedCheck, call: ScriptCall, verdict: SharedVerdict) -> Operation[protocol.Reply]:
        """Send the call of the key's script, for a check or a peek of which shared limits said `verdict`."""
        try:
            reply: protocol.Reply = yield call
        except BaseException as error:
            self.abandon(prepared, verdict, error)
            raise
        return reply

    def peek(self, prepared: PreparedCheck, cost: int, flags: int) -> Operation[protocol.Reply]:
        """Return what one script would reply to a peek."""
        spread = cast(SpreadLimits, prepared.spread)
        states = yield from self.shared.peek(prepared.snapshot, spread.shared)
        verdict = SharedVerdict(_NOTHING_HELD, states, source="redis", is_peek=True)
        reply: protocol.Reply | None = None
        if spread.own is not None:
            call = prepared.to_script_call(self._namespace, cost, flags)
            reply = yield from self._send_own(prepared, call, verdict)
            if protocol.status(reply) < protocol.DENIED:
                return reply
        joined = self._joined(spread, protocol.WOULD_ADMIT, reply, verdict)
        limits = prepared.limits
        if limits.denial(limits.numbers(joined), joined[1], cost) is not None:
            joined[0] = protocol.DENIED
        return joined

    def _joined(
        self, spread: SpreadLimits, code: int, reply: protocol.Reply | None, verdict: SharedVerdict
    ) -> JoinedReply:
        own, states = spread.own, verdict.states
        if own is None or reply is None:
            now_us = max([state.server_us for state in states], default=0) or self._namespace.wall_us()
            joined = spread.joined(code, now_us, (), states, verdict.source)
            joined.is_timed = verdict.source == "redis"
        else:
            joined = spread.joined(code, own.time_us(reply), own.numbers(reply), states, verdict.source)
        joined.cause, joined.error, joined.wait_s = verdict.cause, verdict.error, verdict.wait_s
        return joined

    def _states_now(self, spread: SpreadLimits, before: Sequence[SharedState]) -> Sequence[SharedState]:
        return [self.shared.states(bucket) or state for bucket, state in zip(spread.shared, before, strict=True)]


def _copy_with(error: StoreError, unanswered: _Unanswered) -> StoreError:
    failure = copy(error)
    failure._unanswered = unanswered
    return failure


def _verdict(taken: Held | SharedDenial, source: Source) -> SharedVerdict:
    if isinstance(taken, SharedDenial):
        return SharedVerdict(_NOTHING_HELD, taken.states, taken.bucket, source)
    return SharedVerdict(taken, taken.states, source="lease" if source == "denial_cache" else source)


def denied_states(spread: SpreadLimits, verdict: SharedVerdict, cost: int) -> list[SharedState]:
    """Return the states of the shared limits of a check that one of them denies."""
    denying_id = verdict.denying and verdict.denying.state_id
    return [
        _denied_state(bucket, state, cost) if bucket.state_id == denying_id else state
        for bucket, state in zip(spread.shared, verdict.states, strict=True)
    ]


def states_before(spread: SpreadLimits, verdict: SharedVerdict, cost: int) -> list[SharedState]:
    """Return the states of the shared limits of a check that they admit, with the units that were taken for it."""
    return [
        state._replace(level=max(0, state.level) + cost * bucket.throttle.ratio[1])
        for bucket, state in zip(spread.shared, verdict.states, strict=True)
    ]


def _denied_state(bucket: Bucket, state: SharedState, cost: int) -> SharedState:
    """Return the state by which a bucket denies a cost: what others have put back meanwhile came too late for it."""
    rate, per = bucket.throttle.ratio
    if not rate or cost > bucket.capacity:
        return state
    level = state.level + max(0, state.server_us - state.last_us) * rate
    if min(level, bucket.capacity * per) < cost * per:
        return state
    return SharedState(cost * per - 1, state.server_us, state.server_us)
