"""Compares the decisions of all replicas, in the order of the server's time, with the reference model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ratelimit.cli import output, reference
from ratelimit.cli.demo.workers import SentRequest
from ratelimit.model import ApiKey
from ratelimit.registry.plan_documents import Document

THROTTLED_BY_ACCOUNT = "throttled by account"
OUTCOMES = (
    reference.ADMITTED,
    "throttled by plan",
    "throttled by stage",
    THROTTLED_BY_ACCOUNT,
    reference.OVER_QUOTA,
)


@dataclass(slots=True)
class Verification:
    """The result of a comparison.

    Attributes:
        decisions: How many decisions there are.
        agreeing: How many of them equal the reference model's.
        span_us: Microseconds of the server's clock from the first decision to the last.
        observed: Decisions by (plan id, outcome).
        exact: The same, as the reference model decides.
        without_time: Descriptions of decisions without a time of the server, which cannot be compared.
        first_difference: Both answers to the first request on which they differ.
    """

    decisions: int
    agreeing: int = 0
    span_us: int = 0
    observed: Counter[tuple[str, str]] = field(default_factory=Counter)
    exact: Counter[tuple[str, str]] = field(default_factory=Counter)
    without_time: list[str] = field(default_factory=list)
    first_difference: str | None = None

    @property
    def passed(self) -> bool:
        """Whether there are decisions, and each of them agrees."""
        return 0 < self.decisions == self.agreeing


def verify(
    document: Document,
    keys: Sequence[ApiKey],
    stage: str,
    requests: Sequence[SentRequest],
    on_decision: Callable[[], None],
) -> Verification:
    """Compare every decision with the reference model, in the order of the server's time.

    Of decisions in the same microsecond the admitted ones come first: a denial changes nothing.

    Args:
        document: The plans in force.
        keys: The API keys, in the order that the requests count in.
        stage: The stage that was called.
        requests: The requests of all replicas, in any order.
        on_decision: Called after each comparison.

    Returns:
        The result.
    """
    result, limiter = Verification(len(requests)), reference.ReferenceLimiter(document)
    in_order = sorted(
        ((sent.decision.time_us, not sent.decision.allowed, sent) for sent in requests if sent.decision.time_us),
        key=lambda item: item[:2],
    )
    for number, (time_us, _, sent) in enumerate(in_order, 1):
        key, decision = keys[sent.key], sent.decision
        plan = key.plans[0]
        expected = limiter.check(key.id, plan, stage, sent.method, sent.cost, time_us)
        result.observed[plan, _outcome(reference.outcome(decision), decision.limited_by)] += 1
        result.exact[plan, _outcome(reference.expected_outcome(expected), expected.limited_by)] += 1
        if reference.agree(decision, expected):
            result.agreeing += 1
        elif result.first_difference is None:
            result.first_difference = (
                f"no. {number}, at {output.timestamp(time_us)} UTC: key {key.name}, {sent.method}, cost {sent.cost}\n"
                f"observed: {reference.describe(decision)}\nexact:    {reference.describe_expected(expected)}"
            )
        on_decision()
    if in_order:
        result.span_us = in_order[-1][0] - in_order[0][0]
    result.without_time = [
        f"{sent.decision.reason.value} by {sent.decision.source}: {sent.decision.error or sent.decision.detail}"
        for sent in requests
        if not sent.decision.time_us
    ]
    return result


def _outcome(outcome: str | None, limited_by: str | None) -> str:
    """Return the outcome, a throttled one with the kind of limit that throttled."""
    if outcome == reference.THROTTLED:
        return f"{outcome} by {(limited_by or '').partition(':')[0]}"
    return str(outcome)
