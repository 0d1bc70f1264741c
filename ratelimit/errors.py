"""Everything that this package raises on purpose.

::

    RateLimitError
    ├── RateLimited          by Decision.raise_for_limit() alone (defined in decision.py, which knows its type)
    ├── ConfigError          bad input; also a ValueError
    │   ├── Conflict         it exists already, or would break a rule that ties things together
    │   └── NotFound         no such plan, stage or key
    └── StoreError           Redis answered with an error
        ├── StoreUnavailable the command was not carried out
        └── StoreTimeout     the outcome is unknown: it may have been counted
"""

from __future__ import annotations

from typing import Literal, Self

Cause = Literal["not_sent", "refused", "unknown", "lost", "deposed"]
"""Why Redis gave no answer to go by; see `StoreError`."""

OnUnavailable = Literal["local", "open", "closed"]
"""How checks are decided while Redis gives no answer; see `Limiter`."""


class RateLimitError(Exception):
    """Base of every error of this package."""


class ConfigError(RateLimitError, ValueError):
    """Input that cannot be accepted. Names the field, the value and the remedy; nothing was written.

    `field` is the path of the offending field ("plans.gold.throttle.burst"), "" where there is none.
    """

    def __init__(self, problem: str, *, field: str = "") -> None:
        self.problem = problem
        self.field = field
        super().__init__(problem)

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem

    def within(self, parent: str) -> Self:
        """Return the same error, its field inside `parent`."""
        return type(self)(self.problem, field=f"{parent}.{self.field}" if self.field else parent)


class Conflict(ConfigError):  # noqa: N818 - the contract's name
    """It exists already, or the change would break a rule that ties several things together."""


class NotFound(ConfigError):  # noqa: N818 - the contract's name
    """There is no such plan, stage or key."""


class StoreError(RateLimitError):
    """Redis answered with an error, or with something that cannot be understood.

    Attributes:
        cause: Why there is no answer to go by. "not_sent": nothing was sent, or only what changes nothing. "refused":
            the server answered with an error. "unknown": it was sent, and no answer came. "lost": Redis has lost what
            it should hold. "deposed": the server is no primary any more.
        is_outage: Whether the server gave no answer, or refused to: what `on_unavailable` is for. False where it
            answered, and what it holds cannot be judged by: then a check is answered 503 whatever the policy.
    """

    cause: Cause = "refused"
    is_outage = False
    _unanswered: object = None  # of a check that failed after its shared limits were asked: see limiter/slot_checks.py

    def __init__(self, message: str, *, cause: Cause | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.cause = cause


class StoreUnavailable(StoreError):  # noqa: N818 - the contract's name
    """The command was not carried out: nothing was counted."""

    cause: Cause = "not_sent"
    is_outage = True


class StoreTimeout(StoreError):  # noqa: N818 - the contract's name
    """The answer never came: the command may or may not have been counted. It is not sent again."""

    cause: Cause = "unknown"
    is_outage = True
