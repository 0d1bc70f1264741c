"""What an observer of a limiter is called with. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from ratelimit.decision import Decision


class LimiterState(NamedTuple):
    """How a limiter stands in this process.

    Attributes:
        is_breaker_open: Whether checks are answered without Redis at present, as it does not answer.
        breaker_openings: How often that began.
        unmatched: Checks whose method is configured nowhere and is no template.
        is_degraded: Whether checks were lately decided without Redis, and Redis has answered none since.
        replicas: Among how many processes limits are divided while Redis is away.
        journal_entries: What was admitted without Redis and is still to be charged there: a number for each caller and
            kind of request.
    """

    is_breaker_open: bool
    breaker_openings: int
    unmatched: int
    is_degraded: bool = False
    replicas: int = 1
    journal_entries: int = 0


class Observer(ABC):
    """Is called for each check of a limiter, by any thread that checks. What it raises is logged, once."""

    def attach(self, state: Callable[[], LimiterState]) -> None:  # noqa: B027 - most need no state
        """Begin to observe a limiter, whose state can be read at any time. Does nothing unless overridden."""

    @abstractmethod
    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:
        """Note one check.

        Args:
            decision: What was decided.
            plan: Id of the plan that applied; "" for none.
            stage: The stage, if it is configured; else "*".
            method: The method, if it has limits of its own in this stage; else "*".
            seconds: How long the check took.
        """
