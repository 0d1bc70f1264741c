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
from ratelimit.registry.windows import DAY_US, window_at
from ratelimit.validation import EXACT

_TOLERANCE_US = 2_000_000
_IDS_KEPT_US = DAY_US


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
    """A bucket: `level` tokens at `last_us`, in whole units of 1/`per` token."""

    level: Fraction
    last_us: int
    per: int
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
        self._journals: dict[tuple[str, str], tuple[int, int]] = {}

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

    def charge_journal(
        self,
        owner: str,
        limits: Sequence[Limit],
        cost: int,
        now_us: int,
        *,
        spent_us: int,
        life: str,
        sequence: int,
        plan_id: str = "",
    ) -> bool:
        """Charge what a process admitted by itself at `spent_us`; return whether it was not charged before.

        `life` and `sequence` are the entry's, `plan_id` is of an identity whose plan bounds how many there may be.
        """
        highest, _ = self._journals.get((owner, life), (0, 0))
        if sequence <= highest:
            return False
        for limit in limits:
            state_id = _state_id(owner, limit)
            if isinstance(limit, Bucket):
                tokens = self._at(state_id, limit, now_us)
                assert isinstance(tokens, _Tokens)  # noqa: S101 - for the type checker
                lowest = _lowest_level(limit.throttle)
                tokens.level = min(tokens.level, max(lowest, tokens.level - cost))
                self._states[state_id] = tokens
            else:
                window = self._states.get(state_id)
                assert not isinstance(window, _Tokens)  # noqa: S101 - for the type checker
                self._states[state_id] = _window_of_spent(window, limit, cost, spent_us, now_us)
        if plan_id:
            self._identities.setdefault(plan_id, set()).add(owner)
        self._journals = {
            (its_owner, its_life): (number, charged_us)
            for (its_owner, its_life), (number, charged_us) in self._journals.items()
            if its_owner != owner or now_us - charged_us <= _IDS_KEPT_US
        }
        self._journals[owner, life] = sequence, now_us
        return True

    def forget(self, owner: str) -> None:
        """Forget all that was counted for a key, as deleting it does."""
        self._journals = {entry: ids for entry, ids in self._journals.items() if entry[0] != owner}
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
    burst, per = Fraction(throttle.burst), _per_us(throttle).denominator
    if state is None:
        return _Tokens(burst, now_us, per)
    level = state.level
    if per != state.per:
        # A bucket counts in whole units of 1/P token: another P rounds down, and forgives what is too far below 0.
        level = max(_lowest_level(throttle), Fraction(floor(max(level, -burst) * per), per))
    level = min(burst, level)
    elapsed = now_us - state.last_us
    if elapsed < 0:
        far = elapsed < -_TOLERANCE_US
        return _Tokens(level, now_us if far else state.last_us, per, moved=far)
    return _Tokens(min(burst, level + elapsed * _per_us(throttle)), now_us, per)


def _lowest_level(throttle: Throttle) -> Fraction:
    """Return the tokens down to which a journal charges: minus the burst, in numbers that are exact."""
    burst, per = Fraction(throttle.burst), _per_us(throttle).denominator
    return max(-burst, burst - Fraction(EXACT, per))


def _window_at(state: _Window | None, limit: QuotaCount, now_us: int) -> _Window:
    start, stop = window_at(limit.quota, now_us)
    if state is None:
        return _Window(start, stop, 0)
    if now_us < state.start:
        if state.start - now_us <= _TOLERANCE_US:
            return _Window(state.start, state.stop, state.used)
        return _Window(start, stop, state.used, moved=True)
    return _Window(start, stop, state.used if (state.start, state.stop) == (start, stop) else 0)


def _window_of_spent(state: _Window | None, limit: QuotaCount, cost: int, spent_us: int, now_us: int) -> _Window:
    """Return the count after units that were used at `spent_us`: once a later window has begun, they do not count."""
    start, stop = window_at(limit.quota, spent_us)
    if state is None:
        return _Window(start, stop, cost)
    if (state.start, state.stop) == (start, stop):
        return _Window(start, stop, state.used + cost)
    if spent_us < state.start:
        return state
    if start <= now_us:
        return _Window(start, stop, cost)
    return _Window(state.start, state.stop, state.used + cost)  # that window has not begun by the server's clock


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
    return ExpectedLimit(limit.name, max(0, floor(state.level)), state.last_us - now_us + to_full, wait)
