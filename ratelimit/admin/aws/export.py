"""An export of AWS, assembled from the outputs of several commands.

The output of three commands does not say what it belongs to, so the name of the file has to: `get-usage-plan-keys`
needs the id of the plan in it, `get-stages` and `get-resources` the id of the API ("stages-a1b2c3d4e5.json").
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ratelimit.admin.aws.shapes import KINDS, AwsExport, AwsNote, Output, Owned, Record, opened_stages
from ratelimit.errors import ConfigError

_Lists = dict[str, dict[str, Record]]


def assemble(outputs: Iterable[Output]) -> AwsExport:
    """Return the export that these outputs are: pages are joined, and each list is assigned to its owner.

    Raises:
        ConfigError: An output does not say what it belongs to, or contradicts another.
    """
    outputs, notes = list(outputs), list[AwsNote]()
    lists: _Lists = {kind: {} for kind in KINDS}
    for each in outputs:
        if each.has_more:
            notes.append(AwsNote(each.where, "says that more pages follow: what they list must be in the other files"))
        if each.kind is not None and KINDS[each.kind].owner is None:
            _join(lists[each.kind], each)
    plans, apis = lists["plans"], set(lists["apis"])
    apis.update(stage["apiId"] for stage in opened_stages(plans.values()))
    roots = {api["rootResourceId"]: str(api["id"]) for api in lists["apis"].values() if "rootResourceId" in api}
    owned: dict[str, _Lists] = {"members": {}, "stages": {}, "resources": {}}
    for each in outputs:
        if each.kind is None:
            # An empty list has no shape: it says something only where it is named after a plan.
            plan_ids = _named_in(each.where, plans)
            if len(plan_ids) == 1:
                owned["members"].setdefault(plan_ids.pop(), {})
            else:
                notes.append(AwsNote(each.where, "lists nothing"))
        elif KINDS[each.kind].owner is not None:
            ids = plans if each.kind == "members" else apis
            of_root = (
                next((roots[item["id"]] for item in each.items if item["id"] in roots), None)
                if each.kind == "resources"
                else None
            )
            _join(owned[each.kind].setdefault(of_root or _owner(each, ids), {}), each)
    return AwsExport(
        tuple(plans.values()),
        tuple(lists["keys"].values()),
        _tuples(owned["members"]),
        tuple(lists["apis"].values()),
        _tuples(owned["stages"]),
        _tuples(owned["resources"]),
        lists["account"].get(""),
        tuple(notes),
    )


def _owner(each: Output, ids: Iterable[str]) -> str:
    if each.owner is not None:
        return each.owner
    named = _named_in(each.where, ids)
    if len(named) == 1:
        return named.pop()
    kind = KINDS[each.kind or ""]
    thing = "usage plan" if kind.owner == "usagePlanId" else "API"
    raise ConfigError(
        f"is an output of {kind.command}, which does not say of which {thing}: put the id of one that the export has "
        f"into the name of the file, and of no other",
        field=each.where,
    )


def _named_in(where: str, ids: Iterable[str]) -> set[str]:
    return set(re.findall(r"[A-Za-z0-9]+", where)).intersection(ids)


def _join(into: dict[str, Record], each: Output) -> None:
    for item in each.items:
        name = str(item.get("id") or item.get("stageName") or "")
        if into.setdefault(name, item) != item:
            raise ConfigError("repeats something of another file differently: export both again", field=each.where)


def _tuples(lists: _Lists) -> Owned:
    return {owner: tuple(items.values()) for owner, items in lists.items()}
