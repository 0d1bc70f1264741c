"""What an observer of a limiter is told. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ratelimit.decision import Decision


class LimiterState(NamedTuple):
    """How a limiter stands in this process.

    Attributes:
        is_breaker_open: Whether checks are answered without Redis at present, as it does not answer.
        breaker_openings: How often that began.
        unmatched: Checks whose method is configured nowhere and is no template.
    """

    is_breaker_open: bool
    breaker_openings: int
    unmatched: int


class Observer:
    """Is told of each check of a limiter. Called by any thread that checks; what it raises is logged, once."""

    def attach(self, state: Callable[[], LimiterState]) -> None:
        """Begin to observe a limiter, whose state can be read at any time. Does nothing unless overridden."""

    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:
        """Note one check.

        Args:
            decision: What was decided.
            plan: Id of the plan that applied; "" for none.
            stage: The stage, if it is configured; else "*".
            method: The method, if it has limits of its own in this stage; else "*".
            seconds: How long the check took.
        """
        raise NotImplementedError
