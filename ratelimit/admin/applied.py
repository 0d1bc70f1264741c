"""What a plan file changed, and what is to be said of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ratelimit.admin.key_access import spans
from ratelimit.model import UsagePlan
from ratelimit.registry.snapshot import CatalogSnapshot


class PlanChange(NamedTuple):
    """One thing that changed: a plan or a stage by its id, or the throttle "account"."""

    change: Literal["added", "changed", "removed"]
    kind: Literal["plan", "stage", "throttle"]
    id: str


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What `apply` changed, or would change. `warnings` are about what the file says, changed or not."""

    changes: tuple[PlanChange, ...]
    warnings: tuple[str, ...] = ()


def report(old: CatalogSnapshot, new: CatalogSnapshot) -> ApplyReport:
    """Return what differs between two snapshots, and what is odd about the new one."""
    return ApplyReport(tuple(_changes(old, new)), tuple(_spanning(new.plans.values())))


def _changes(old: CatalogSnapshot, new: CatalogSnapshot) -> Iterator[PlanChange]:
    before, after = dict(_parts(old)), dict(_parts(new))
    for (kind, name), value in after.items():
        if before.get((kind, name)) != value:
            yield PlanChange("changed" if (kind, name) in before else "added", kind, name)
    for kind, name in before:
        if (kind, name) not in after:
            yield PlanChange("removed", kind, name)


_Part = tuple[Literal["plan", "stage", "throttle"], str]


def _parts(snapshot: CatalogSnapshot) -> Iterator[tuple[_Part, object]]:
    yield from ((("plan", name), plan) for name, plan in snapshot.plans.items())
    yield from ((("stage", name), stage) for name, stage in snapshot.stages.items())
    if snapshot.account is not None:
        yield ("throttle", "account"), snapshot.account


def _spanning(plans: Iterable[UsagePlan]) -> Iterator[str]:
    for plan in plans:
        apis = sorted(spans(plan))
        if len(apis) > 1:
            yield f"plan {plan.id} spans {len(apis)} APIs ({', '.join(apis)}): each of its keys opens all of them"
