"""The reference model beside the limiter: `demo` and `replay` compare every decision with it."""

from __future__ import annotations

from typing import Any

from ratelimit.decision import Decision, Reason
from ratelimit.engine.compile import applicable_limits
from ratelimit.engine.reference_model import ExpectedDecision, Reference
from ratelimit.model import MICROSECONDS
from ratelimit.registry.plan_documents import Document
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.registry.snapshot import CatalogSnapshot

ADMITTED = "admitted"
THROTTLED = "throttled"
OVER_QUOTA = "over quota"
NOT_LISTED = "not listed"
_OUTCOMES = {Reason.ALLOWED: ADMITTED, Reason.THROTTLED: THROTTLED, Reason.QUOTA_EXCEEDED: OVER_QUOTA}


class ReferenceLimiter:
    """Computes what a limiter must decide whose catalogue is a plan file."""

    def __init__(self, document: Document) -> None:
        self._snapshot = CatalogSnapshot(plans=document.plans, stages=document.stages, account=document.account)
        self._names = RedisKeys("reference")
        self._reference = Reference()

    def check(self, key_id: str, plan_id: str, stage: str, method: str, cost: int, now_us: int) -> ExpectedDecision:
        """Decide one request of a key. Requests have to come in the order in which the limiter decided them.

        Args:
            key_id: Any id of an API key.
            plan_id: The one plan of the key.
            stage: The stage that is called.
            method: Its method, such as "GET /pets".
            cost: Units to take from each limit.
            now_us: The time of the decision, in microseconds since 1970.

        Returns:
            What the limiter must decide: without any limits if the stage denies the method.
        """
        needs_key = self._snapshot.method(stage, method).key_required
        plan = self._snapshot.plan_for([plan_id], stage) if needs_key else None
        if plan is not None and self._snapshot.denies(plan, stage, method):
            return ExpectedDecision(False, None, None, ())
        limits = tuple(applicable_limits(self._snapshot, plan, stage, method, self._names))
        return self._reference.check(key_id, limits, cost, now_us)


def agree(decision: Decision, expected: ExpectedDecision) -> bool:
    """Return whether a decision equals the expected one: in outcome, limit, waits, and the state of each limit."""
    return _parts(decision) == _expected_parts(expected)


def outcome(decision: Decision) -> str | None:
    """Return ADMITTED, THROTTLED, OVER_QUOTA or NOT_LISTED; None if the request was denied for another reason."""
    if decision.detail == "method_not_listed":
        return NOT_LISTED
    return _OUTCOMES.get(decision.reason)


def expected_outcome(expected: ExpectedDecision) -> str:
    """Return ADMITTED, THROTTLED, OVER_QUOTA or NOT_LISTED."""
    if expected.allowed:
        return ADMITTED
    if not expected.limits:
        return NOT_LISTED
    return OVER_QUOTA if (expected.limited_by or "").startswith("quota:") else THROTTLED


def describe(decision: Decision) -> str:
    """Return a decision in one line, to report a difference."""
    return _line(_parts(decision))


def describe_expected(expected: ExpectedDecision) -> str:
    """Return an expected decision in one line of the same form."""
    return _line(_expected_parts(expected))


def _parts(decision: Decision) -> tuple[Any, ...]:
    limits = tuple((limit.name, limit.remaining, limit.reset_after, limit.retry_after) for limit in decision.limits)
    return outcome(decision), decision.limited_by, decision.retry_after, limits


def _expected_parts(expected: ExpectedDecision) -> tuple[Any, ...]:
    limits = tuple(
        (limit.name, limit.remaining, _seconds(limit.reset_us), _seconds(limit.retry_us)) for limit in expected.limits
    )
    return expected_outcome(expected), expected.limited_by, _seconds(expected.retry_us), limits


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / MICROSECONDS


def _line(parts: tuple[Any, ...]) -> str:
    result, limited_by, retry_after, limits = parts
    states = ", ".join(f"{name}: {remaining} left, reset in {reset} s" for name, remaining, reset, _ in limits)
    return f"{result} (limited by {limited_by}, retry after {retry_after} s; {states})"
