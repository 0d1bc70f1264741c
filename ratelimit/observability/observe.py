"""Puts observers in front of a limiter: one that is not observed pays nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from ratelimit.decision import Decision, Reason
from ratelimit.errors import ConfigError
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.model import Caller
from ratelimit.observability.observer import LimiterState, Observer
from ratelimit.registry.redis_keys import OTHERS

log = logging.getLogger("ratelimit")

Record = Callable[[Decision, Caller, str, str, float], None]
AwaitedDecision = Callable[..., Coroutine[Any, Any, Decision]]


def observe(limiter: Limiter | AsyncLimiter, *observers: Observer) -> None:
    """Have observers called for each check of a limiter, from now on and for as long as it lives.

    It replaces `check` of this one limiter, so call it before `limiter.check` is stored anywhere. Checks that raise,
    and those that are cancelled, made no decision and are left out; so is `peek`.

    Args:
        limiter: Either twin.
        observers: Such as `PrometheusMetrics()` and `DenialLog()`.

    Raises:
        ConfigError: The limiter is none.
    """
    if not isinstance(limiter, Limiter | AsyncLimiter):
        raise ConfigError("must be a Limiter or an AsyncLimiter", field="limiter")
    for observer in observers:
        observer.attach(_state_of(limiter))
    record = _record_to(limiter, observers)
    # Of this one limiter: those of its class stay as they are.
    if isinstance(limiter, AsyncLimiter):
        limiter.check = _awaited_check(limiter, record)  # type: ignore[method-assign]
        limiter._check_shared = _awaited_check_shared(limiter, record)  # type: ignore[method-assign]
    else:
        limiter.check = _check(limiter, record)  # type: ignore[method-assign]
        limiter._check_shared = _check_shared(limiter, record)  # type: ignore[method-assign]


def _check(limiter: Limiter, record: Record) -> Callable[..., Decision]:
    check_unobserved = limiter.check

    def check(key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        started_s = monotonic()
        decision = check_unobserved(key, stage, method, cost)
        record(decision, key, stage, method, monotonic() - started_s)
        return decision

    return check


def _check_shared(limiter: Limiter, record: Record) -> Callable[..., Decision]:
    check_unobserved = limiter._check_shared

    def check(key: Caller, stage: str, cost: int = 1, *, key_required: bool = True) -> Decision:
        started_s = monotonic()
        decision = check_unobserved(key, stage, cost, key_required=key_required)
        record(decision, None, stage, OTHERS, monotonic() - started_s)
        return decision

    return check


def _awaited_check(limiter: AsyncLimiter, record: Record) -> AwaitedDecision:
    check_unobserved = limiter.check

    async def check(key: Caller, stage: str, method: str, cost: int = 1) -> Decision:
        started_s = monotonic()
        decision = await check_unobserved(key, stage, method, cost)
        record(decision, key, stage, method, monotonic() - started_s)
        return decision

    return check


def _awaited_check_shared(limiter: AsyncLimiter, record: Record) -> AwaitedDecision:
    check_unobserved = limiter._check_shared

    async def check(key: Caller, stage: str, cost: int = 1, *, key_required: bool = True) -> Decision:
        started_s = monotonic()
        decision = await check_unobserved(key, stage, cost, key_required=key_required)
        record(decision, None, stage, OTHERS, monotonic() - started_s)
        return decision

    return check


def _record_to(limiter: Limiter | AsyncLimiter, observers: tuple[Observer, ...]) -> Record:
    configured_names = limiter._checker.configured_names
    failed = set[Observer]()

    def record(decision: Decision, key: Caller, stage: str, method: str, seconds: float) -> None:
        plan, stage, method = configured_names(key, stage, method)
        if decision.reason is Reason.INVALID_KEY:
            plan = ""  # also where one is remembered
        for observer in observers:
            try:
                observer.record(decision, plan, stage, method, seconds)
            except Exception:
                if observer not in failed:
                    failed.add(observer)
                    log.exception("an observer of checks failed; its further errors are not logged")

    return record


def _state_of(limiter: Limiter | AsyncLimiter) -> Callable[[], LimiterState]:
    store = limiter._store

    def state() -> LimiterState:
        without_redis = limiter._without_redis
        return LimiterState(
            *store.breaker_state(),
            limiter.unmatched,
            limiter._failing,
            without_redis.replicas.count,
            len(without_redis.journal),
        )

    return state
