"""Compares two plan files on one log: which requests a change of plans denies, and which it admits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ratelimit.cli.replay.access_log import Log
from ratelimit.cli.replay.run import PlanResult
from ratelimit.errors import ConfigError
from ratelimit.registry.plan_documents import Document


@dataclass(slots=True)
class Comparison:
    """The results of the plans that both files have.

    Attributes:
        file_before: The plan file in force.
        file_after: The plan file to try.
        before: Results under the plans of the file in force.
        after: Results under those of the other file, in the same order.
        left_out: Ids of plans that only one file has, or that do not open the stage in the file in force.
    """

    file_before: str
    file_after: str
    before: list[PlanResult] = field(default_factory=list)
    after: list[PlanResult] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def difference(self) -> str | None:
        """The request on which limiter and reference model differ, if any."""
        return next((result.difference for result in [*self.before, *self.after] if result.difference), None)


@dataclass(slots=True)
class Change:
    """The requests that only one version of a plan admits.

    Attributes:
        denied: Requests that only the version before admits, by client.
        admitted: Requests that only the version after admits, by client.
    """

    denied: Counter[str] = field(default_factory=Counter)
    admitted: Counter[str] = field(default_factory=Counter)

    @property
    def clients(self) -> list[str]:
        """The clients for whom anything changes: most often newly denied first, then most often newly admitted."""
        clients = self.denied.keys() | self.admitted.keys()
        return sorted(clients, key=lambda client: (-self.denied[client], -self.admitted[client], client))


def pair(after: Sequence[PlanResult], before: Document, file_before: str, file_after: str) -> Comparison:
    """Return a comparison, still without results, of the plans that both files have.

    Args:
        after: A result to fill for each plan of the file to try.
        before: The plans in force.
        file_before: The name of their file.
        file_after: The name of the other file.

    Raises:
        ConfigError: The files have no plan in common that opens the same stage.
    """
    comparison = Comparison(file_before, file_after)
    for result in after:
        plan = before.plans.get(result.plan.id)
        if plan is None or plan.stage(result.stage) is None:
            comparison.left_out.append(result.plan.id)
        else:
            comparison.before.append(PlanResult(plan, result.stage))
            comparison.after.append(result)
    ids_after = {result.plan.id for result in after}
    comparison.left_out += [plan_id for plan_id in before.plans if plan_id not in ids_after]
    if not comparison.after:
        raise ConfigError(
            f"has no plan in common with {file_after} that opens the same stage: compare two versions of one file",
            field=file_before,
        )
    return comparison


def change(log: Log, before: PlanResult, after: PlanResult) -> Change:
    """Return the requests that are decided differently."""
    changed = Change()
    for request, was_admitted, is_admitted in zip(log.requests, before.admitted, after.admitted, strict=True):
        if was_admitted and not is_admitted:
            changed.denied[request.client] += 1
        elif is_admitted and not was_admitted:
            changed.admitted[request.client] += 1
    return changed
