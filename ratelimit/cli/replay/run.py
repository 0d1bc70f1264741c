"""Runs a log through the limiter, on the log's own clock, and through the reference model beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratelimit.cli import output, reference
from ratelimit.cli.replay.access_log import Request
from ratelimit.decision import Decision, Reason
from ratelimit.errors import StoreError
from ratelimit.limiter import Limiter, Options
from ratelimit.model import MICROSECONDS, UsagePlan
from ratelimit.registry.plan_documents import Document
from ratelimit.validation import shown

_DEADLINE = 10.0
_MAX_AGE = 1e10
"""Seconds: never re-read the plans. Nobody changes them meanwhile, and the log's clock runs fast."""


@dataclass(slots=True)
class Tally:
    """How the requests of one client were decided."""

    admitted: int = 0
    throttled: int = 0
    over_quota: int = 0
    not_listed: int = 0

    @property
    def denied(self) -> int:
        """Requests that were not admitted."""
        return self.throttled + self.over_quota + self.not_listed

    @property
    def requests(self) -> int:
        """All requests."""
        return self.admitted + self.denied

    def add(self, outcome: str | None) -> None:
        """Count one decision."""
        self.admitted += outcome == reference.ADMITTED
        self.throttled += outcome == reference.THROTTLED
        self.over_quota += outcome == reference.OVER_QUOTA
        self.not_listed += outcome == reference.NOT_LISTED


@dataclass(slots=True)
class PlanResult:
    """How a log was decided under one plan.

    Attributes:
        plan: The plan.
        stage: The stage that is called.
        clients: The tally of each client.
        denied_by: Denials by the name of the limit, or the detail where it was none.
        admitted: One byte for each request, in order: whether it was admitted.
        difference: Both answers to the request on which limiter and reference model differ; the replay ends there.
    """

    plan: UsagePlan
    stage: str
    clients: dict[str, Tally] = field(default_factory=dict)
    denied_by: Counter[str] = field(default_factory=Counter)
    admitted: bytearray = field(default_factory=bytearray)
    difference: str | None = None

    @property
    def total(self) -> Tally:
        """The tally of all clients together."""
        total = Tally()
        for tally in self.clients.values():
            total.admitted += tally.admitted
            total.throttled += tally.throttled
            total.over_quota += tally.over_quota
            total.not_listed += tally.not_listed
        return total

    @property
    def affected(self) -> list[tuple[str, Tally]]:
        """The clients that were denied at least once, most often denied first."""
        denied = [(client, tally) for client, tally in self.clients.items() if tally.denied]
        return sorted(denied, key=lambda item: (-item[1].denied, item[0]))


@dataclass(slots=True)
class _LogClock:
    now_us: int

    def __call__(self) -> int:
        return self.now_us


def replay_log(
    url: str,
    namespace: str,
    plan_file: Path,
    document: Document,
    result: PlanResult,
    requests: Sequence[Request],
    on_request: Callable[[], None],
) -> None:
    """Decide all requests under one plan, each client with a key of its own.

    Args:
        url: The server's URL.
        namespace: A namespace that nothing has used, so that plans do not share the state of limits.
        plan_file: The file with the plan.
        document: Its content.
        result: Filled by this. It names the plan and the stage.
        requests: The requests in order of time.
        on_request: Called after each request.

    Raises:
        StoreError: The server failed.
    """
    plan, stage, model = result.plan, result.stage, reference.ReferenceLimiter(document)
    clock = _LogClock(requests[0].second * MICROSECONDS)
    values: dict[str, str] = {}
    options = Options(
        namespace=namespace,
        clock=clock,
        deadline=_DEADLINE,
        max_age=_MAX_AGE,
        denial_cache=False,
        on_unavailable="closed",
    )
    with Limiter.from_url(url, **options) as limiter:
        limiter.catalog.apply(plan_file)
        for number, (second, client, method) in enumerate(requests, 1):
            clock.now_us = second * MICROSECONDS
            if client not in values:
                values[client] = str(limiter.catalog.create_key(client, plans=[plan.id]).value)
                result.clients[client] = Tally()
            decision = _available(limiter.check(values[client], stage, method))
            expected = model.check(client, plan.id, stage, method, 1, clock.now_us)
            result.clients[client].add(reference.outcome(decision))
            result.admitted.append(decision.allowed)
            if denied_by := decision.limited_by or decision.detail:
                result.denied_by[denied_by] += 1
            if not reference.agree(decision, expected):
                result.difference = (
                    f"request {number} of plan {plan.id}, {output.timestamp(clock.now_us, digits=0)} UTC: "
                    f"client {client}, {shown(method)}\n"
                    f"limiter: {reference.describe(decision)}\nmodel:   {reference.describe_expected(expected)}"
                )
                return
            on_request()


def _available(decision: Decision) -> Decision:
    if decision.reason is Reason.UNAVAILABLE:
        raise StoreError(decision.error or "the server did not answer")
    return decision
