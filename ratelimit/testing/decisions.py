"""Decisions as a limiter makes them, for stubs: real ones, so that their fields, headers and problems are."""

from __future__ import annotations

from ratelimit.decision import Decision, Detail, LimitStatus, Reason
from ratelimit.errors import Cause

_MINUTE_S, _DAY_S = 60.0, 86_400.0


def allowed(*, limit: str = "plan:test", burst: int = 10, remaining: int = 9) -> Decision:
    """Return a decision that admits, with one limit.

    Args:
        limit: Its name, such as "plan:gold" or "quota:gold".
        burst: What it holds.
        remaining: What is left of it.
    """
    window = _window(limit)
    reset_after = window * (burst - remaining) / burst if burst else None
    return Decision(Reason.ALLOWED, limits=(LimitStatus(limit, burst, remaining, reset_after, 0.0, window),))


def throttled(retry_after: float | None = 1.0, *, limit: str = "plan:test", burst: int = 10) -> Decision:
    """Return a decision by which a token bucket denies.

    Args:
        retry_after: Seconds until it admits; None for never.
        limit: Its name: "plan:gold", "plan:gold:GET /pets", "stage:petstore/prod:GET /pets" or "account".
        burst: What it holds when it is full.
    """
    return _denied(Reason.THROTTLED, limit, burst, retry_after)


def quota_exceeded(retry_after: float | None = 3600.0, *, limit: str = "quota:test", quota: int = 1000) -> Decision:
    """Return a decision by which a quota denies.

    Args:
        retry_after: Seconds until its next window; None where waiting does not help.
        limit: Its name.
        quota: Units of a window.
    """
    return _denied(Reason.QUOTA_EXCEEDED, limit, quota, retry_after)


def invalid_key(detail: Detail = "unknown") -> Decision:
    """Return a decision that denies with 403.

    Args:
        detail: Why: "missing", "unknown", "disabled", "no_plan_for_stage" or "method_not_listed".
    """
    return Decision(Reason.INVALID_KEY, detail=detail)


def unavailable(cause: Cause = "not_sent") -> Decision:
    """Return the decision that is made where Redis gives no answer."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=cause, error="a stub was set to answer this")


def _denied(reason: Reason, limit: str, capacity: int, retry_after: float | None) -> Decision:
    window = _window(limit)
    reset_after = retry_after if reason is Reason.QUOTA_EXCEEDED else window
    status = LimitStatus(limit, capacity, 0, reset_after, retry_after, window)
    return Decision(reason, limit, retry_after, (status,))


def _window(limit: str) -> float:
    return _DAY_S if limit.startswith("quota:") else _MINUTE_S
