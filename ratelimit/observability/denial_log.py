"""A log of denials, for who asks for one: sampled, with fields, and without keys."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Lock
from time import monotonic

from ratelimit.decision import Decision
from ratelimit.local import fork_safety
from ratelimit.observability.observer import Observer
from ratelimit.validation import above_zero

LOGGER = "ratelimit.denials"


class DenialLog(Observer):
    """Logs denials, at most so many a second; each line says how many were left out before it.

    A line has the fields `ratelimit_result`, `_status`, `_plan`, `_stage`, `_method`, `_limit`, `_detail`, `_cause`,
    `_source`, `_retry_after` (seconds) and `_skipped`, which handlers find as attributes of the record. Names are those
    that are configured, "*" for any other; there is nothing of a key.

    Args:
        per_second: How many lines to log within a second at most, a whole number above 0.
        level: Of the lines.
        logger: None for "ratelimit.denials".
        clock: Returns seconds, and never goes back.

    Raises:
        ConfigError: `per_second` is no such number.
    """

    def __init__(
        self,
        *,
        per_second: int = 10,
        level: int = logging.INFO,
        logger: logging.Logger | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._per_second = above_zero(per_second, "per_second")
        self._level = level
        self._logger = logger or logging.getLogger(LOGGER)
        self._clock = clock
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew; the parent logs what it left out."""
        self._lock = Lock()
        self._began_s = -1.0
        self._logged = self._skipped = 0

    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:  # noqa: ARG002
        """Log a denial, unless there were enough within this second."""
        if decision.allowed or not self._logger.isEnabledFor(self._level):
            return
        with self._lock:
            now_s = self._clock()
            if now_s - self._began_s >= 1 or self._began_s < 0:
                self._began_s, self._logged = now_s, 0
            if self._logged >= self._per_second:
                self._skipped += 1
                return
            self._logged += 1
            skipped, self._skipped = self._skipped, 0
        why = decision.limited_by or decision.detail or decision.cause or ""
        fields = {
            "result": decision.reason.lower(),
            "status": decision.status,
            "plan": plan,
            "stage": stage,
            "method": method,
            "limit": decision.limited_by,
            "detail": decision.detail,
            "cause": decision.cause,
            "source": decision.source,
            "retry_after": decision.retry_after,
            "skipped": skipped,
        }
        self._logger.log(
            self._level,
            "%d %s: %s %s: %s",
            decision.status,
            decision.reason.value,
            stage,
            method,
            why,
            extra={f"ratelimit_{name}": value for name, value in fields.items()},
        )
