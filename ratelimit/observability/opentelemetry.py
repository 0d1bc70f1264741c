"""Metrics and attributes of spans for OpenTelemetry. Needs its API alone, the extra `otel`; the SDK is yours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from threading import Lock

from opentelemetry import trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from ratelimit.decision import Decision
from ratelimit.observability import instruments
from ratelimit.observability.instruments import Instrument
from ratelimit.observability.metrics import MAX_SERIES, MetricsObserver
from ratelimit.observability.observer import Observer


class _Count:
    """Counts. Safe between threads."""

    __slots__ = ("_lock", "attributes", "value")

    def __init__(self, attributes: dict[str, str]) -> None:
        self.attributes = attributes
        self.value = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self.value += 1


class OpenTelemetryMetrics(MetricsObserver):
    """Records checks by the instruments of docs/metrics.md. One for all limiters of a process.

    Args:
        meter_provider: Yours; None for the global one.
        max_series: See `MetricsObserver`.
    """

    def __init__(self, meter_provider: MeterProvider | None = None, *, max_series: int = MAX_SERIES) -> None:
        super().__init__(max_series)
        meter = get_meter("ratelimit", meter_provider=meter_provider)
        # Counted here and read at each collection: to add to a counter of the SDK takes as long as a check.
        for each in instruments.OF_CHECKS:
            meter.create_observable_counter(each.name, [partial(self._read_counts, each)], each.unit, each.description)
        duration = instruments.DURATION
        self._duration = meter.create_histogram(
            duration.name,
            duration.unit,
            duration.description,
            explicit_bucket_boundaries_advisory=instruments.DURATION_BUCKETS_S,
        )
        for each in instruments.OF_LIMITERS:
            make = meter.create_observable_gauge if each.kind == "gauge" else meter.create_observable_counter
            make(each.name, [partial(self._read, each)], each.unit, each.description)

    def reset_after_fork(self) -> None:
        """Count from zero: the parent reports its own counts."""
        super().reset_after_fork()
        self._counts: dict[Instrument, dict[tuple[str, ...], _Count]] = {each: {} for each in instruments.OF_CHECKS}

    def counter(self, instrument: Instrument, values: tuple[str, ...]) -> Callable[[], None]:
        """As of `MetricsObserver`."""
        counts = self._counts[instrument]
        if values not in counts:
            counts[values] = _Count(instrument.attributes(*values))
        return counts[values].add

    def timer(self, result: str, source: str) -> Callable[[float], None]:
        """As of `MetricsObserver`."""
        record, attributes = self._duration.record, instruments.DURATION.attributes(result, source)
        return lambda seconds: record(seconds, attributes)

    def _read_counts(self, instrument: Instrument, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(count.value, count.attributes) for count in tuple(self._counts[instrument].values())]

    def _read(self, instrument: Instrument, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(instruments.OF_LIMITERS[instrument](self.state()))]


class SpanAttributes(Observer):
    """Sets on the current span, such as the one of the request, how it was decided: `ratelimit.result` and so on.

    Where a request is checked several times, its span keeps what the last check says.
    """

    def record(self, decision: Decision, plan: str, stage: str, method: str, seconds: float) -> None:  # noqa: ARG002
        """Set the attributes, if there is a span that is recorded."""
        span = trace.get_current_span()
        if not span.is_recording():
            return
        span.set_attribute("ratelimit.result", decision.reason.lower())
        for name, value in (
            ("plan", plan),
            ("stage", stage),
            ("limit", decision.limited_by),
            ("source", decision.source),
            ("detail", decision.detail),
            ("cause", decision.cause),
            ("retry_after", decision.retry_after),
        ):
            if value not in (None, ""):
                span.set_attribute(f"ratelimit.{name}", value)
