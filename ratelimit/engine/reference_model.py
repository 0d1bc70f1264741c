"""The reference model: every limit in `fractions.Fraction`, in memory, one caller at a time.

Slow and simple on purpose. Whatever the Lua script decides must equal this, decision for decision: the tests compare it
with the script, `ratelimit demo` and `ratelimit replay` compare whole runs with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from ratelimit.engine.limits import Bucket, Limit, QuotaCount
from ratelimit.model import MICROSECONDS, Throttle
from ratelimit.registry.windows import window_at

_TOLERANCE_US = 2_000_000


@dataclass(frozen=True, slots=True)
class ExpectedLimit:
    """One limit after the check. Times in microseconds, None for never."""

    name: str
    remaining: int
    reset_us: int | None
    retry_us: int | None


@dataclass(frozen=True, slots=True)
class ExpectedDecision:
    """What the script has to decide."""

    allowed: bool
    limited_by: str | None
    retry_us: int | None
    limits: tuple[ExpectedLimit, ...]


@dataclass(slots=True)
class _Tokens:
    """A bucket: `level` tokens at `last_us`."""

    level: Fraction
    last_us: int
    moved: bool = False


@dataclass(slots=True)
class _Window:
    """A count of `used` units in [start, stop)."""

    start: int
    stop: int
    used: int
    moved: bool = False


_StateId = tuple[str, str]


class Reference:
    """All state of one namespace. `owner` is the id of an API key or identity; shared limits belong to nobody.

    As under an injected clock nothing expires.
    """

    def __init__(self) -> None:
        self._states: dict[_StateId, _Tokens | _Window] = {}
        self._identities: dict[str, set[str]] = {}

    def check(
        self,
        owner: str,
        limits: Sequence[Limit],
        cost: int,
        now_us: int,
        *,
        identity_bound: tuple[str, int] | None = None,
    ) -> ExpectedDecision:
        """Decide one request at `now_us`. A cost of 0 returns what a cost of 1 would get, and consumes nothing.

        `identity_bound` is of an identity whose plan bounds how many there may be: the plan's id, and the number.
        """
        required = cost or 1
        state_ids = [_state_id(owner, limit) for limit in limits]
        states = [self._at(state_id, limit, now_us) for state_id, limit in zip(state_ids, limits, strict=True)]
        waits = [_wait(limit, state, required, now_us) for limit, state in zip(limits, states, strict=True)]
        plan_id, most = identity_bound or ("", 0)
        identities = self._identities.setdefault(plan_id, set())
        is_beyond = identity_bound is not None and owner not in identities and len(identities) >= most
        allowed = all(wait == 0 for wait in waits) and not is_beyond
        if cost and allowed:
            identities.add(owner)
        for state_id, state in zip(state_ids, states, strict=True):
            if cost and allowed:
                _charge(state, cost)
            if cost and (allowed or state.moved):
                self._states[state_id] = state
        verdicts = tuple(
            _verdict(limit, state, wait, now_us) for limit, state, wait in zip(limits, states, waits, strict=True)
        )
        denying = [verdict for verdict in verdicts if verdict.retry_us != 0]
        if not denying:
            return ExpectedDecision(not is_beyond, "identities" if is_beyond else None, None, verdicts)
        every = [verdict.retry_us for verdict in denying]
        longest = None if None in every else max(wait for wait in every if wait is not None)
        return ExpectedDecision(False, denying[0].name, longest, verdicts)  # noqa: FBT003 - a record

    def forget(self, owner: str) -> None:
        """Forget all that was counted for a key, as deleting it does."""
        self._states = {state_id: state for state_id, state in self._states.items() if state_id[0] != owner}

    def _at(self, state_id: _StateId, limit: Limit, now_us: int) -> _Tokens | _Window:
        state = self._states.get(state_id)
        if isinstance(limit, Bucket):
            return _tokens_at(state if isinstance(state, _Tokens) else None, limit.throttle, now_us)
        return _window_at(state if isinstance(state, _Window) else None, limit, now_us)


def _state_id(owner: str, limit: Limit) -> _StateId:
    # A plan's own bucket and count share one field: their names distinguish them.
    return ("" if limit.shared else owner, limit.field_or_key or limit.name)


def _per_us(throttle: Throttle) -> Fraction:
    return throttle.rate / MICROSECONDS


def _tokens_at(state: _Tokens | None, throttle: Throttle, now_us: int) -> _Tokens:
    burst = Fraction(throttle.burst)
    if state is None:
        return _Tokens(burst, now_us)
    # A bucket counts in whole units of 1/P token: another plan's P rounds down.
    per = _per_us(throttle).denominator
    level = min(burst, Fraction(floor(state.level * per), per))
    elapsed = now_us - state.last_us
    if elapsed < 0:
        far = elapsed < -_TOLERANCE_US
        return _Tokens(level, now_us if far else state.last_us, moved=far)
    return _Tokens(min(burst, level + elapsed * _per_us(throttle)), now_us)


def _window_at(state: _Window | None, limit: QuotaCount, now_us: int) -> _Window:
    start, stop = window_at(limit.quota, now_us)
    if state is None:
        return _Window(start, stop, 0)
    if now_us < state.start:
        if state.start - now_us <= _TOLERANCE_US:
            return _Window(state.start, state.stop, state.used)
        return _Window(start, stop, state.used, moved=True)
    return _Window(start, stop, state.used if (state.start, state.stop) == (start, stop) else 0)


def _wait(limit: Limit, state: _Tokens | _Window, required: int, now_us: int) -> int | None:
    """Return microseconds until the limit admits `required`: 0 now, None never."""
    if isinstance(state, _Tokens) and isinstance(limit, Bucket):
        if limit.throttle.rate == 0 or required > limit.throttle.burst:
            return None
        if required <= state.level:
            return 0
        return state.last_us - now_us + ceil((required - state.level) / _per_us(limit.throttle))
    assert isinstance(state, _Window) and isinstance(limit, QuotaCount)  # noqa: S101, PT018 - for the type checker
    if required > limit.quota.limit:
        return None
    return 0 if state.used + required <= limit.quota.limit else state.stop - now_us


def _charge(state: _Tokens | _Window, cost: int) -> None:
    if isinstance(state, _Tokens):
        state.level -= cost
    else:
        state.used += cost


def _verdict(limit: Limit, state: _Tokens | _Window, wait: int | None, now_us: int) -> ExpectedLimit:
    if isinstance(state, _Window):
        assert isinstance(limit, QuotaCount)  # noqa: S101 - for the type checker
        return ExpectedLimit(limit.name, max(0, limit.quota.limit - state.used), state.stop - now_us, wait)
    assert isinstance(limit, Bucket)  # noqa: S101 - for the type checker
    throttle = limit.throttle
    if throttle.rate == 0:
        return ExpectedLimit(limit.name, 0, None, wait)
    to_full = ceil((throttle.burst - state.level) / _per_us(throttle))
    return ExpectedLimit(limit.name, floor(state.level), state.last_us - now_us + to_full, wait)
