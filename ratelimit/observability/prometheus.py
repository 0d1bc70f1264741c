"""Metrics for Prometheus, by prometheus_client: the extra `prometheus`. Also for its multiprocess mode (gunicorn)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric

from ratelimit.decision import Decision
from ratelimit.errors import ConfigError
from ratelimit.observability import instruments
from ratelimit.observability.instruments import Instrument
from ratelimit.observability.metrics import MAX_SERIES, MetricsObserver

_MULTIPROCESS = frozenset({"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"})


class PrometheusMetrics(MetricsObserver):
    """Records checks by the metrics of docs/metrics.md. One for all limiters of a process.

    Args:
        registry: Where the metrics are; two of these cannot share one.
        max_series: See `MetricsObserver`.

    Raises:
        ConfigError: The registry has these metrics already, or `max_series` is no number.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY, *, max_series: int = MAX_SERIES) -> None:
        super().__init__(max_series)
        self._counted = dict.fromkeys(instruments.OF_LIMITERS, 0)
        refresh = _Refresh(self.refresh)
        registry.register(refresh)  # is asked before the metrics, which it brings up to date
        try:
            self._make_metrics(registry)
        except ValueError:
            registry.unregister(refresh)
            raise ConfigError(
                "has these metrics already: observe further limiters with the same PrometheusMetrics, or pass another "
                "registry",
                field="registry",
            ) from None
        # Other processes then read the files of this one, which is not asked.
        self._is_multiprocess = not _MULTIPROCESS.isdisjoint(os.environ)

    def _make_metrics(self, registry: CollectorRegistry) -> None:
        self._counters = {
            each: Counter(each.prometheus_name, each.description, each.labels, registry=registry)
            for each in (*instruments.OF_CHECKS, instruments.UNMATCHED, instruments.BREAKER_OPENINGS)
        }
        duration = instruments.DURATION
        self._duration = Histogram(
            duration.prometheus_name,
            duration.description,
            duration.labels,
            registry=registry,
            buckets=instruments.DURATION_BUCKETS_S,
        )
        self._gauges = {
            each: Gauge(each.prometheus_name, each.description, registry=registry, multiprocess_mode=_mode(each))
            for each in instruments.OF_LIMITERS
            if each.kind == "gauge"
        }

    def reset_after_fork(self) -> None:
        """Make the locks anew, and count what belongs to this process from zero."""
        super().reset_after_fork()
        self._refresh_lock = Lock()
        self._counted = dict.fromkeys(instruments.OF_LIMITERS, 0)

    def counter(self, instrument: Instrument, values: tuple[str, ...]) -> Callable[[], None]:
        """As of `MetricsObserver`."""
        add: Callable[[], None] = self._counters[instrument].labels(*values).inc
        return add

    def timer(self, result: str, source: str) -> Callable[[float], None]:
        """As of `MetricsObserver`."""
        record: Callable[[float], None] = self._duration.labels(result, source).observe
        return record

    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:
        """Count a check, and how long it took."""
        super().record(decision, plan, stage, method, seconds)
        if self._is_multiprocess:
            self.refresh()

    def refresh(self) -> None:
        """Bring the metrics up to date that are of limiters, not of checks."""
        state = self.state()
        with self._refresh_lock:
            for instrument, read in instruments.OF_LIMITERS.items():
                value, before = read(state), self._counted[instrument]
                if value == before:
                    continue
                self._counted[instrument] = value
                if instrument in self._gauges:
                    self._gauges[instrument].set(value)
                else:
                    self._counters[instrument].inc(value - before if value > before else value)


def _mode(gauge: Instrument) -> Literal["livemax", "livesum"]:
    """Return how the values of several processes are one."""
    return "livesum" if gauge is instruments.JOURNAL_ENTRIES else "livemax"


class _Refresh:
    """A collector that has no metrics: a registry asks its collectors in the order in which they registered."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        self._refresh = refresh

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        return ()

    def describe(self) -> Iterable[Metric]:
        return ()
