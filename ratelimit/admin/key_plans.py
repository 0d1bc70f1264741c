"""In which plans a key may be."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.admin.ceilings import check_plans_per_key
from ratelimit.admin.commit import existing_plan, two_plans_conflict
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.snapshot import CatalogSnapshot, overlaps


def check_plans(
    ceilings: Ceilings, snapshot: CatalogSnapshot, key_id: str, before: Sequence[str], after: Sequence[str]
) -> None:
    """Raise if a key cannot be in the plans `after`; it is in the plans `before`. `key_id` is "" for a new key."""
    check_plans_per_key(ceilings, key_id, len(before), len(after))
    for one, other, stage in overlaps([existing_plan(snapshot, plan_id) for plan_id in after]):
        raise two_plans_conflict(key_id, one.id, other.id, stage)
