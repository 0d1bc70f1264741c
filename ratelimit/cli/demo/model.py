"""The exact model beside the limiter: `demo` and `replay` hold every decision against it."""

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
_OUTCOMES = {Reason.ALLOWED: ADMITTED, Reason.THROTTLED: THROTTLED, Reason.QUOTA_EXCEEDED: OVER_QUOTA}


class Model:
    """What a limiter has to answer whose catalogue is `document`. Its owners stand for API keys."""

    def __init__(self, document: Document) -> None:
        self._snapshot = CatalogSnapshot(plans=document.plans, stages=document.stages, account=document.account)
        self._names = RedisKeys("model")
        self._reference = Reference()

    def check(self, owner: str, plan_id: str, stage: str, method: str, cost: int, now_us: int) -> ExpectedDecision:
        """Decide one request of a key of this plan at `now_us`, in the order in which the server decided."""
        needs_key = self._snapshot.method(stage, method).key_required
        plan = self._snapshot.plan_for([plan_id], stage) if needs_key else None
        limits = tuple(applicable_limits(self._snapshot, plan, stage, method, self._names))
        return self._reference.check(owner, limits, cost, now_us)


def agree(decision: Decision, verdict: ExpectedDecision) -> bool:
    """Tell whether a decision is the model's in every part: outcome, limit, waits, and the state of each limit."""
    return _decided(decision) == _exact(verdict)


def outcome(decision: Decision) -> str | None:
    """Return ADMITTED, THROTTLED or OVER_QUOTA; None for a refusal that no limit made."""
    return _OUTCOMES.get(decision.reason)


def exact_outcome(verdict: ExpectedDecision) -> str:
    """Return ADMITTED, THROTTLED or OVER_QUOTA."""
    if verdict.allowed:
        return ADMITTED
    return OVER_QUOTA if (verdict.limited_by or "").startswith("quota:") else THROTTLED


def told(decision: Decision) -> str:
    """Return a decision in one line, for a report of a difference."""
    return _line(_decided(decision))


def told_exactly(verdict: ExpectedDecision) -> str:
    """Return the model's verdict in the same line."""
    return _line(_exact(verdict))


def _decided(decision: Decision) -> tuple[Any, ...]:
    limits = tuple((limit.name, limit.remaining, limit.reset_after, limit.retry_after) for limit in decision.limits)
    return outcome(decision), decision.limited_by, decision.retry_after, limits


def _exact(verdict: ExpectedDecision) -> tuple[Any, ...]:
    limits = tuple(
        (limit.name, limit.remaining, _seconds(limit.reset_us), _seconds(limit.retry_us)) for limit in verdict.limits
    )
    return exact_outcome(verdict), verdict.limited_by, _seconds(verdict.retry_us), limits


def _seconds(us: int | None) -> float | None:
    return None if us is None else us / MICROSECONDS


def _line(parts: tuple[Any, ...]) -> str:
    what, limited_by, retry_after, limits = parts
    state = ", ".join(f"{name}: {remaining} left, reset in {reset} s" for name, remaining, reset, _ in limits)
    return f"{what} (limited by {limited_by}, retry after {retry_after} s; {state})"
