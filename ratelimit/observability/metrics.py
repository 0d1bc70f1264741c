"""What is counted of checks, and under which labels: few, whatever callers send. No I/O."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple

from ratelimit.decision import Decision
from ratelimit.local import fork_safety
from ratelimit.observability.instruments import CHECKS, INVALID_KEYS, STORE_ERRORS, Instrument
from ratelimit.observability.observer import LimiterState, Observer
from ratelimit.validation import above_zero

OTHER = "other"
MAX_SERIES = 1000

_Seen = tuple[str | None, ...]
_Record = Callable[[float], None]


class CheckLabels(NamedTuple):
    """The labels of a check: names that are configured, and words of this package. Never a key, nor a part of one.

    Attributes:
        plan: Id of the plan; "" for none.
        stage: The stage; "*" for any that is not configured.
        limit: Name of the first limit that denies, such as "plan:gold"; "" for none.
        result: "allowed", "invalid_key", "throttled", "quota_exceeded" or "unavailable".
        source: Who decided: "redis", "denial_cache", "lease" and so on.
        detail: Of "invalid_key", such as "unknown".
        cause: Of a decision that Redis did not make as it failed, such as "not_sent".
    """

    plan: str
    stage: str
    limit: str
    result: str
    source: str
    detail: str
    cause: str

    def counted(self) -> Iterator[tuple[Instrument, tuple[str, ...]]]:
        """Yield what such a check adds 1 to, each with the values of its labels."""
        yield CHECKS, self[:5]
        if self.detail:
            yield INVALID_KEYS, (self.stage, self.detail)
        if self.cause:
            yield STORE_ERRORS, (self.cause,)


class MetricsObserver(Observer):
    """Records checks, each under its labels. Safe between threads, and after a fork.

    Args:
        max_series: How many sets of labels of `ratelimit.checks` there may be; beyond, plans, stages and limits are
            "other".

    Raises:
        ConfigError: `max_series` is no whole number above 0.
    """

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = above_zero(max_series, "max_series")
        self._states: list[Callable[[], LimiterState]] = []
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew, which a thread may have held, and begin anew: the parent reports what it counted."""
        self._lock = Lock()
        self._series: dict[_Seen | CheckLabels, _Record] = {}

    @abstractmethod
    def counter(self, instrument: Instrument, values: tuple[str, ...]) -> Callable[[], object]:
        """Return what adds 1 to a counter, for values of its labels; asked several times for the same ones at times."""

    @abstractmethod
    def timer(self, result: str, source: str) -> Callable[[float], object]:
        """Return what records how long a check took, in seconds."""

    def attach(self, state: Callable[[], LimiterState]) -> None:
        """Read the state of a limiter whenever metrics are read."""
        self._states.append(state)

    def state(self) -> LimiterState:
        """Return the state of all limiters together."""
        states = [state() for state in self._states]
        return LimiterState(
            any(state.is_breaker_open for state in states),
            sum(state.breaker_openings for state in states),
            sum(state.unmatched for state in states),
            any(state.is_degraded for state in states),
            max((state.replicas for state in states), default=1),
            sum(state.journal_entries for state in states),
        )

    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:  # noqa: ARG002
        """Count a check, and how long it took."""
        reason, source = decision.reason, decision.source
        seen = plan, stage, decision.limited_by, reason, source, decision.detail, decision.cause
        (self._series.get(seen) or self._add(seen))(seconds)

    def _add(self, seen: _Seen) -> _Record:
        plan, stage, limit, result, source, detail, cause = (text or "" for text in seen)
        labels = CheckLabels(plan, stage, limit, result.lower(), source, detail, cause)
        with self._lock:
            key: _Seen | CheckLabels = seen
            if len(self._series) >= self._max_series:
                key = labels = labels._replace(plan=plan and OTHER, stage=OTHER, limit=limit and OTHER)
            record = self._series.get(key)
            if record is None:
                record = self._series[key] = self._record_under(labels)
            return record

    def _record_under(self, labels: CheckLabels) -> _Record:
        count, *further_counts = [self.counter(*each) for each in labels.counted()]
        time = self.timer(labels.result, labels.source)

        def record(seconds: float) -> None:
            count()
            time(seconds)
            for further in further_counts:
                further()

        return record
