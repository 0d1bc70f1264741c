"""The metrics: their names, units, labels and meaning, the same for OpenTelemetry and Prometheus. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ratelimit.observability.observer import LimiterState


class Instrument(NamedTuple):
    """One metric.

    Attributes:
        name: As OpenTelemetry writes it.
        unit: In UCUM; "{check}" is a count of checks.
        kind: "counter", "gauge" or "histogram".
        labels: As Prometheus writes them.
        description: One line.
    """

    name: str
    unit: str
    kind: str
    labels: tuple[str, ...]
    description: str

    @property
    def prometheus_name(self) -> str:
        """Its name for Prometheus: base units, `_total` of counters."""
        base = self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")
        return f"{base}_total" if self.kind == "counter" else base

    def attributes(self, *values: str) -> dict[str, str]:
        """Return values of its labels as attributes of OpenTelemetry; those that do not apply are left out."""
        pairs = zip(self.labels, values, strict=True)
        return {_attribute(label): value for label, value in pairs if value}


def _attribute(label: str) -> str:
    return "error.type" if label == "type" else f"ratelimit.{label}"


CHECKS = Instrument(
    "ratelimit.checks",
    "{check}",
    "counter",
    ("plan", "stage", "limit", "result", "source"),
    "Checks that were decided",
)
DURATION = Instrument(
    "ratelimit.check.duration",
    "s",
    "histogram",
    ("result", "source"),
    "How long checks took",
)
INVALID_KEYS = Instrument(
    "ratelimit.invalid_keys",
    "{check}",
    "counter",
    ("stage", "detail"),
    "Checks that were denied with 403, by why their key is not accepted",
)
STORE_ERRORS = Instrument(
    "ratelimit.store.errors",
    "{check}",
    "counter",
    ("type",),
    "Checks that were answered without Redis as it failed, by cause",
)
UNMATCHED = Instrument(
    "ratelimit.unmatched_methods",
    "{check}",
    "counter",
    (),
    "Checks whose method is configured nowhere and is no template",
)
BREAKER_OPEN = Instrument(
    "ratelimit.breaker.open",
    "1",
    "gauge",
    (),
    "1 while checks are answered without Redis, as it does not answer; else 0",
)
BREAKER_OPENINGS = Instrument(
    "ratelimit.breaker.openings",
    "{opening}",
    "counter",
    (),
    "How often the breaker opened",
)
DEGRADED = Instrument(
    "ratelimit.degraded",
    "1",
    "gauge",
    (),
    "1 while checks are decided without Redis, for whatever cause; else 0",
)
REPLICAS = Instrument(
    "ratelimit.replicas",
    "{process}",
    "gauge",
    (),
    "Processes among which limits are divided while Redis is away",
)
JOURNAL_ENTRIES = Instrument(
    "ratelimit.journal.entries",
    "{entry}",
    "gauge",
    (),
    "What was admitted without Redis and is still to be charged there",
)
OF_CHECKS = (CHECKS, INVALID_KEYS, STORE_ERRORS)
"""Counted at each check."""
OF_LIMITERS: Mapping[Instrument, Callable[[LimiterState], int]] = {
    UNMATCHED: lambda state: state.unmatched,
    BREAKER_OPEN: lambda state: int(state.is_breaker_open),
    BREAKER_OPENINGS: lambda state: state.breaker_openings,
    DEGRADED: lambda state: int(state.is_degraded),
    REPLICAS: lambda state: state.replicas,
    JOURNAL_ENTRIES: lambda state: state.journal_entries,
}
"""Read of limiters."""
INSTRUMENTS = (*OF_CHECKS, DURATION, *OF_LIMITERS)

DURATION_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""As redis-py's own, so that the two can be laid side by side."""
