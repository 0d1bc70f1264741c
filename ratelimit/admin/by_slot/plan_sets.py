"""Sets of the keys of plans where keys lie in slots: never smaller than the records say, perhaps larger."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.admin.reading import records_of
from ratelimit.effects import Operation
from ratelimit.registry.namespace import Namespace

MAX_KEYS = 1000
"""How many keys that are in the way of a change of plans are looked at in one attempt."""


class SetsRepaired(Exception):  # noqa: N818 - no error: what was read of the sets does not hold any more
    """Keys that were in the way of a change of plans were repaired: it is to be computed anew."""


def check_members(
    namespace: Namespace, key_ids: Sequence[str], plans: Collection[str], *, dry_run: bool
) -> Operation[bool]:
    """Return whether one of these keys is truly in all of these plans, as its record says.

    Those that are not are repaired, for somebody who changed them was interrupted, or is about to go on.

    Args:
        namespace: The namespace.
        key_ids: Keys that the sets of all these plans have.
        plans: Ids of the plans.
        dry_run: Repair nothing.

    Raises:
        SetsRepaired: A key was repaired.
    """
    strays = yield from _strays(namespace, key_ids[:MAX_KEYS], plans)
    if strays and not dry_run:
        for key_id in strays:
            yield from repair_key(namespace, key_id)
        raise SetsRepaired
    return len(strays) < len(key_ids)


def _strays(namespace: Namespace, key_ids: Sequence[str], plans: Collection[str]) -> Operation[list[str]]:
    """Return those of the keys whose records do not name all of the plans."""
    records = yield from records_of(namespace, key_ids)
    return [
        key_id
        for key_id, record in zip(key_ids, records, strict=True)
        if record is None or not record.is_live or not set(plans) <= set(record.plans)
    ]
