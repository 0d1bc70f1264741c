"""One plan of `ratelimit replay`: a log through the limiter on the log's own clock, and beside it the exact model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratelimit.cli import output
from ratelimit.cli.demo import model as exact
from ratelimit.cli.replay.access_log import Request
from ratelimit.decision import Decision, Reason
from ratelimit.errors import StoreError
from ratelimit.limiter import Limiter, Options
from ratelimit.model import MICROSECONDS, UsagePlan
from ratelimit.registry.plan_documents import Document
from ratelimit.validation import shown

_DEADLINE = 10.0
_NEVER_LOOK_AGAIN = 1e10
"""Seconds: nobody else changes the plans meanwhile, and the log's clock runs fast."""


@dataclass(slots=True)
class Tally:
    """What one client got."""

    admitted: int = 0
    throttled: int = 0
    over_quota: int = 0

    @property
    def refused(self) -> int:
        """Requests that were not admitted."""
        return self.throttled + self.over_quota

    @property
    def requests(self) -> int:
        """All requests."""
        return self.admitted + self.refused

    def add(self, outcome: str | None) -> None:
        """Count one decision."""
        self.admitted += outcome == exact.ADMITTED
        self.throttled += outcome == exact.THROTTLED
        self.over_quota += outcome == exact.OVER_QUOTA


@dataclass(slots=True)
class Report:
    """What a plan would have done.

    clients     what each client got
    refused_by  refusals by the name of the limit
    admitted    one byte for each request, in order: whether it was admitted
    difference  both answers to the request on which limiter and model differ; the replay ends there
    """

    plan: UsagePlan
    stage: str
    clients: dict[str, Tally] = field(default_factory=dict)
    refused_by: Counter[str] = field(default_factory=Counter)
    admitted: bytearray = field(default_factory=bytearray)
    difference: str | None = None

    @property
    def total(self) -> Tally:
        """What all clients got together."""
        total = Tally()
        for one in self.clients.values():
            total.admitted += one.admitted
            total.throttled += one.throttled
            total.over_quota += one.over_quota
        return total

    @property
    def affected(self) -> list[tuple[str, Tally]]:
        """The clients that were refused at least once, most often first."""
        found = [item for item in self.clients.items() if item[1].refused]
        return sorted(found, key=lambda item: (-item[1].refused, item[0]))


@dataclass(slots=True)
class _LogClock:
    now_us: int

    def __call__(self) -> int:
        return self.now_us


def replayed(
    url: str,
    namespace: str,
    plan_file: Path,
    document: Document,
    report: Report,
    requests: Sequence[Request],
    on_request: Callable[[], None],
) -> None:
    """Fill `report`: all requests, in order of time, each client under a key of its own of the report's plan.

    `namespace` must be new: plans do not meet each other's traffic. `document` is what the plan file says. Calls
    `on_request` after each request. Raises StoreError if the server fails.
    """
    plan, stage, model = report.plan, report.stage, exact.Model(document)
    clock = _LogClock(requests[0].second * MICROSECONDS)
    values: dict[str, str] = {}
    options = Options(
        namespace=namespace, clock=clock, deadline=_DEADLINE, max_age=_NEVER_LOOK_AGAIN, denial_cache=False
    )
    with Limiter.from_url(url, **options) as limiter:
        limiter.catalog.apply(plan_file)
        for number, (second, client, method) in enumerate(requests, 1):
            clock.now_us = second * MICROSECONDS
            if client not in values:
                values[client] = str(limiter.catalog.create_key(client, plans=[plan.id]).value)
                report.clients[client] = Tally()
            decision = _decided(limiter.check(values[client], stage, method))
            verdict = model.check(client, plan.id, stage, method, 1, clock.now_us)
            report.clients[client].add(exact.outcome(decision))
            report.admitted.append(decision.allowed)
            if decision.limited_by:
                report.refused_by[decision.limited_by] += 1
            if not exact.agree(decision, verdict):
                report.difference = (
                    f"request {number} of plan {plan.id}, {output.moment(clock.now_us, digits=0)} UTC: "
                    f"client {client}, {shown(method)}\n"
                    f"limiter: {exact.told(decision)}\nmodel:   {exact.told_exactly(verdict)}"
                )
                return
            on_request()


def _decided(decision: Decision) -> Decision:
    if decision.reason is Reason.UNAVAILABLE:
        raise StoreError(decision.cause or "the server did not answer")
    return decision
