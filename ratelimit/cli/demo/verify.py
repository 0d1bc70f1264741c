"""The decisions of `ratelimit demo`, put in the server's order and held against the exact model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ratelimit.cli import output
from ratelimit.cli.demo import model as exact
from ratelimit.cli.demo.workers import Shot
from ratelimit.model import ApiKey
from ratelimit.registry.plan_documents import Document

BY_ACCOUNT = "throttled by account"
OUTCOMES = (exact.ADMITTED, "throttled by plan", "throttled by stage", BY_ACCOUNT, exact.OVER_QUOTA)


@dataclass(slots=True)
class Audit:
    """What was found. The counters are by (plan id, outcome).

    span_us           from the first to the last decision, microseconds of the server's clock
    unknown           decisions that have no time of the server, described
    first_difference  both answers to the first request on which they differ
    """

    decisions: int
    agreeing: int = 0
    span_us: int = 0
    observed: Counter[tuple[str, str]] = field(default_factory=Counter)
    exact: Counter[tuple[str, str]] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)
    first_difference: str | None = None

    @property
    def passed(self) -> bool:
        """Whether there are decisions, and every single one agrees with the model."""
        return 0 < self.decisions == self.agreeing


def audited(
    document: Document, keys: Sequence[ApiKey], stage: str, shots: Sequence[Shot], on_decision: Callable[[], None]
) -> Audit:
    """Hold every shot against the model, in the order of the server's time; calls `on_decision` after each.

    Of decisions in the same microsecond those that were admitted come first: a refusal changes nothing.
    """
    found, model = Audit(len(shots)), exact.Model(document)
    timed = [(shot.decision.time_us, not shot.decision.allowed, shot) for shot in shots if shot.decision.time_us]
    timed.sort(key=lambda item: item[:2])
    for number, (time_us, _, shot) in enumerate(timed, 1):
        key, decision = keys[shot.key], shot.decision
        plan = key.plans[0]
        verdict = model.check(key.id, plan, stage, shot.method, shot.cost, time_us)
        found.observed[plan, _outcome(exact.outcome(decision), decision.limited_by)] += 1
        found.exact[plan, _outcome(exact.exact_outcome(verdict), verdict.limited_by)] += 1
        if exact.agree(decision, verdict):
            found.agreeing += 1
        elif found.first_difference is None:
            found.first_difference = (
                f"no. {number}, at {output.moment(time_us)} UTC: key {key.name}, {shot.method}, cost {shot.cost}\n"
                f"observed: {exact.told(decision)}\nexact:    {exact.told_exactly(verdict)}"
            )
        on_decision()
    if timed:
        found.span_us = timed[-1][0] - timed[0][0]
    found.unknown = [
        f"{shot.decision.reason.value} by {shot.decision.source}: {shot.decision.cause or shot.decision.detail}"
        for shot in shots
        if not shot.decision.time_us
    ]
    return found


def _outcome(what: str | None, limited_by: str | None) -> str:
    if what == exact.THROTTLED:
        return f"{what} by {(limited_by or '').partition(':')[0]}"
    return str(what)
