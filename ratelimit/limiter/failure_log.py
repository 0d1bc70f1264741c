"""Which failures of Redis are logged: a line a second for each cause at most, with what it leaves out. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from time import monotonic

from ratelimit.decision import Source
from ratelimit.errors import Cause, StoreError
from ratelimit.local import fork_safety

_INTERVAL_S = 1.0
_LOCALLY = "decided locally"
_ANSWERS: dict[Source, str] = {"fail_closed": "answered 503", "fail_open": "admitted"}


class FailureLog:
    """Counts the decisions that failed, and says what is to be logged. Safe between threads, and after a fork.

    Args:
        clock: Returns seconds, and never goes back.

    Attributes:
        is_failing: Whether checks failed and nobody has said since that they succeed again.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.is_failing = False
        self._counts: dict[Cause, int] = {}
        self._answers: dict[str, None] = {}
        self._unlogged: dict[tuple[Cause, str], int] = {}
        self._logged_s: dict[tuple[Cause, str], float] = {}
        self._began_s = self._recovered_s = self._failed_s = -_INTERVAL_S
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew."""
        self._lock = Lock()

    def failure(self, error: StoreError, source: Source = "fail_closed") -> str | None:
        """Count a decision made without Redis; return the line to log, None if there was one like it just now.

        Args:
            error: Why Redis did not make it.
            source: Who made it instead.
        """
        now_s, cause, answer = self._clock(), error.cause, _ANSWERS.get(source, _LOCALLY)
        with self._lock:
            self._failed_s = now_s
            if not self.is_failing:
                self.is_failing, self._began_s = True, now_s
            self._counts[cause] = self._counts.get(cause, 0) + 1
            self._answers[answer] = None
            logged_s = self._logged_s.get((cause, answer))
            if logged_s is not None and now_s - logged_s < _INTERVAL_S:
                self._unlogged[cause, answer] = self._unlogged.get((cause, answer), 0) + 1
                return None
            self._logged_s[cause, answer] = now_s
            others = self._unlogged.pop((cause, answer), 0)
        more = f"; {others} more since the last such line" if others else ""
        return f"checks are {answer} ({cause}): {type(error).__name__}: {error}{more}"

    def is_lasting(self) -> bool:
        """Return whether a check failed just now: of several servers, one may be away while others answer."""
        return self._clock() - self._failed_s < _INTERVAL_S

    def success(self) -> str | None:
        """Return the line that says that checks succeed again, None if there was one just now or nothing failed."""
        now_s = self._clock()
        with self._lock:
            if not self.is_failing or now_s - self._recovered_s < _INTERVAL_S:
                return None
            self.is_failing, self._recovered_s = False, now_s
            counts, self._counts = self._counts, {}
            answers, self._answers = " or ".join(self._answers), {}
            self._unlogged = {}
            seconds = now_s - self._began_s
        parts = ", ".join(f"{count} {cause}" for cause, count in counts.items())
        return f"Redis answers again; {answers} within {seconds:.1f} s: {sum(counts.values())} ({parts})"
