"""Django REST framework: `PlanThrottle` limits views as throttles do, by the same setting RATELIMIT as the middleware.

    REST_FRAMEWORK = {"DEFAULT_THROTTLE_CLASSES": ["ratelimit.integrations.drf.PlanThrottle"]}

`RateLimitMiddleware` alone limits these views too, and all others: it sees what no throttle does, such as 404.
"""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from ratelimit.decision import Decision, Reason
from ratelimit.integrations.answers import EXPOSE
from ratelimit.integrations.django import configuration, route_of
from ratelimit.integrations.marks import cost, exempt

__all__ = ["PlanThrottle", "RateLimitUnavailable", "cost", "exempt"]


class RateLimitUnavailable(APIException):
    """Nobody can say whether the request is within its limits, as Redis does not answer: 503."""

    status_code = 503
    default_detail = "The request cannot be decided on at present."
    default_code = "unavailable"


class PlanThrottle(BaseThrottle):
    """Limits requests to views of Django REST framework by their caller's plan; `request.ratelimit` is the decision.

    It runs after authentication, so a function that is the setting KEY may look at `request.user` and `request.auth`.
    Denials are exceptions of the framework: 403 for a key that is not accepted, 429 with the time to wait, 503 when
    Redis does not answer. The fields are on all responses of the view.

    A request that the middleware has checked is not checked again: with both, the throttle does nothing.
    """

    def __init__(self) -> None:
        self._wait: float | None = None

    def allow_request(self, request: Request, view: Any) -> bool:
        """Return whether the request is within its limits.

        Raises:
            PermissionDenied: Its key is not accepted, or missing.
            RateLimitUnavailable: Redis does not answer.
        """
        if isinstance(getattr(request, "ratelimit", None), Decision):
            return True
        limits = configuration()
        decision = request.ratelimit = limits.decide(request, *route_of(request))
        fields = limits.gate.fields(decision)
        view.headers |= fields
        if fields and "HTTP_ORIGIN" in request.META:
            view.headers[EXPOSE] = limits.gate.exposed()
        if decision.reason is Reason.INVALID_KEY:
            raise PermissionDenied
        if decision.reason is Reason.UNAVAILABLE:
            raise RateLimitUnavailable
        self._wait = decision.retry_after
        return bool(decision.allowed)

    def wait(self) -> float | None:
        """Return the seconds after which the request would be within its limits; None if it never will."""
        return self._wait
