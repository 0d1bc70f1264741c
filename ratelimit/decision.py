"""What `check` answers."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from ratelimit import headers as _headers
from ratelimit.errors import Cause, RateLimitError
from ratelimit.headers import Dialect

Detail = Literal["missing", "unknown", "disabled", "no_plan_for_stage", "method_not_listed"]
"""Why a key is not accepted."""

Source = Literal["redis", "denial_cache", "lease", "local", "fail_open", "fail_closed"]
"""Who made a decision; see `Decision`."""


class Reason(StrEnum):
    """Why a request was admitted or denied."""

    ALLOWED = "ALLOWED"
    INVALID_KEY = "INVALID_KEY"
    THROTTLED = "THROTTLED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    UNAVAILABLE = "UNAVAILABLE"

    __hash__ = str.__hash__  # that of enumerations is Python's, and decisions are counted by their reason


_STATUS = {
    Reason.ALLOWED: 200,
    Reason.INVALID_KEY: 403,
    Reason.THROTTLED: 429,
    Reason.QUOTA_EXCEEDED: 429,
    Reason.UNAVAILABLE: 503,
}
_WITHOUT_REDIS = ("local", "fail_open", "fail_closed")
_PROBLEMS = "https://iana.org/assignments/http-problem-types#"


class LimitStatus(NamedTuple):
    """One limit of a request, as it stands after the decision.

    Attributes:
        name: "plan:gold", "plan:gold:GET /pets", "stage:petstore/prod:GET /pets", "account" or "quota:gold".
        limit: The bucket's burst in tokens, or the quota's limit in units.
        remaining: Whole tokens or units left.
        reset_after: Seconds until the bucket is full, or the quota's next window starts; None for a bucket that never
            fills.
        retry_after: Seconds until this limit admits the cost of the request; 0.0 if it does now, None if it never will.
        window: Seconds in which an empty bucket fills, or the length of the quota's period; None for a rate of 0.
    """

    name: str
    limit: int
    remaining: int
    reset_after: float | None
    retry_after: float | None = 0.0
    window: float | None = None


class Decision:
    """The answer to one check. True in a condition if the request is allowed. Read only.

    Attributes:
        reason: Why it was admitted or denied; `status` is the HTTP status for it.
        detail: Of INVALID_KEY: "missing", "unknown", "disabled", "no_plan_for_stage" or "method_not_listed" (which
            the stage denies). For logs: the callers of a gateway should all see one and the same 403.
        limited_by: Name of the first limit that denies, in the order plan, stage, account, quota; "identities" if none
            does and the plan has as many identities as it may have; None if it is allowed, or for another reason.
        retry_after: Seconds until the same check would pass if nobody else consumed, exact to the microsecond. None if
            it is allowed, or if waiting cannot help.
        limits: A `LimitStatus` of every limit of the request, wherever the decision was made. On a cluster, those that
            all callers share are as they were last seen.
        source: Who decided: "redis", "denial_cache" (this process, by the last states seen), "lease" (this process,
            from prepaid units; on a cluster also where a script judged the key's own limits, and those that all callers
            share were prepaid: `time_us` is set then), or, as Redis gave no answer to go by, "local" (this process, by
            its part of the limits and what it knows of the key), "fail_open" (nobody: admitted) or "fail_closed"
            (nobody: 503).
        time_us: The server's time of the decision, microseconds since 1970; None if no script ran for it.
        cause: If `degraded`, why Redis gave no answer to go by: "not_sent" (nothing was sent that could be counted),
            "refused" (the server answered with an error), "unknown" (sent, and no answer came: it may have been
            counted), "lost" (Redis has lost what it should hold) or "deposed" (the server is no primary any more).
        error: If `degraded`, what went wrong, as a text for logs.
    """

    __slots__ = ("_limits", "cause", "detail", "error", "limited_by", "reason", "retry_after", "source", "time_us")

    def __init__(
        self,
        reason: Reason,
        limited_by: str | None = None,
        retry_after: float | None = None,
        limits: tuple[LimitStatus, ...] | Callable[[], tuple[LimitStatus, ...]] = (),
        detail: Detail | None = None,
        source: Source = "redis",
        time_us: int | None = None,
        cause: Cause | None = None,
        error: str | None = None,
    ) -> None:
        self.reason = reason
        self.limited_by = limited_by
        self.retry_after = retry_after
        # Computed lazily where it is a function; most callers never read them.
        self._limits = limits
        self.detail = detail
        self.source = source
        self.time_us = time_us
        self.cause: Cause | None = cause
        self.error = error

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """A `LimitStatus` of every limit of the request, in the order plan, stage, account, quota."""
        limits = self._limits
        if not isinstance(limits, tuple):
            limits = self._limits = limits()
        return limits

    def _values(self) -> tuple[object, ...]:
        """The arguments that would make an equal decision."""
        values = (self.reason, self.limited_by, self.retry_after, self.limits)
        return (*values, self.detail, self.source, self.time_us, self.cause, self.error)

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Decision) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        names = ("reason", "limited_by", "retry_after", "limits", "detail", "source", "time_us", "cause", "error")
        pairs = zip(names, self._values(), strict=True)
        return f"Decision({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def __reduce__(self) -> tuple[type[Decision], tuple[object, ...]]:
        return Decision, self._values()

    @property
    def allowed(self) -> bool:
        """Whether the request may go on."""
        return self.reason is Reason.ALLOWED

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def status(self) -> int:
        """The HTTP status for this answer: 200, 403, 429 or 503."""
        return _STATUS[self.reason]

    @property
    def degraded(self) -> bool:
        """Whether the answer was made without Redis because Redis failed."""
        return self.source in _WITHOUT_REDIS

    def headers(self, dialect: Dialect = "ietf") -> dict[str, str]:
        """Return the HTTP fields for this decision.

        Args:
            dialect: "ietf" for RateLimit and RateLimit-Policy, which follow draft-ietf-httpapi-ratelimit-headers-11
                (Structured Fields, RFC 9651); "legacy" for X-RateLimit-Limit, -Remaining and -Reset (seconds from
                now) of one limit; "openai" for the same as x-ratelimit-limit-requests and so on; "none" for neither.

        Returns:
            Those that apply, by name, and Retry-After, in whole seconds, rounded up (RFC 9110).
        """
        return _headers.fields(self, dialect)

    def problem(self) -> dict[str, Any] | None:
        """Return the body of an answer that denies (application/problem+json, RFC 9457).

        Returns:
            A dict of `type`, `title` and `status`, ready for JSON; where limits deny, with `violated-policies`, their
            names as in RateLimit-Policy. The types of 429 and 503 are those of
            draft-ietf-httpapi-ratelimit-headers-11. About a key that is not accepted it says no more than 403: the
            detail is for logs, not for callers. None if the request is allowed.
        """
        if self.allowed:
            return None
        if self.reason is Reason.INVALID_KEY:
            return {"type": "about:blank", "title": "Forbidden", "status": self.status}
        if self.reason is Reason.UNAVAILABLE:
            title = "The request cannot be decided on at present"
            return {"type": f"{_PROBLEMS}temporary-reduced-capacity", "title": title, "status": self.status}
        return {
            "type": f"{_PROBLEMS}quota-exceeded",
            "title": "The request exceeds what its caller may use",
            "status": self.status,
            "violated-policies": [limit.name for limit in self.limits if limit.retry_after != 0],
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the decision for a log.

        Returns:
            All attributes and properties by name, as plain values, ready for JSON. Times are in seconds, `time_us`
            aside.
        """
        return {
            "allowed": self.allowed,
            "reason": self.reason.value,
            "status": self.status,
            "detail": self.detail,
            "limited_by": self.limited_by,
            "retry_after": self.retry_after,
            "limits": [limit._asdict() for limit in self.limits],
            "source": self.source,
            "degraded": self.degraded,
            "time_us": self.time_us,
            "cause": self.cause,
            "error": self.error,
        }

    def raise_for_limit(self) -> None:
        """Do nothing if the request is allowed.

        Raises:
            RateLimited: It is denied. The error carries the decision.
        """
        if not self.allowed:
            raise RateLimited(self)


class RateLimited(RateLimitError):  # noqa: N818 - the contract's name: being limited is no programming error
    """A request was denied. Raised by `Decision.raise_for_limit` alone.

    Attributes:
        decision: The decision that denies it.
    """

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        super().__init__(decision)

    def __str__(self) -> str:
        decision = self.decision
        what = decision.limited_by or decision.detail or decision.error or ""
        wait = "" if decision.retry_after is None else f", retry after {decision.retry_after:g} s"
        return f"{decision.reason.value}{': ' if what else ''}{what}{wait}"
