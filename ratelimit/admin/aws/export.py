"""An AWS account's usage plans read: from the files that the AWS CLI printed, or live through a client of boto3.

The output of three commands does not say to what it belongs, so the name of the file has to: `get-usage-plan-keys`
wants the id of the plan in it, `get-stages` and `get-resources` the id of the API ("stages-a1b2c3d4e5.json"). What a
file is, is told by its shape::

    aws apigateway get-usage-plans > plans.json
    aws apigateway get-api-keys --include-values > keys.json
    aws apigateway get-usage-plan-keys --usage-plan-id $PLAN > keys-of-$PLAN.json
    aws apigateway get-rest-apis > apis.json
    aws apigateway get-stages --rest-api-id $API > stages-$API.json
    aws apigateway get-resources --rest-api-id $API --embed methods > resources-$API.json
    aws apigateway get-account > account.json
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ratelimit.admin.aws.shapes import KINDS, AwsExport, Note, Output, Owned, Record, opened_stages, output, parsed
from ratelimit.errors import ConfigError
from ratelimit.files import read_whole

_PAGE = 500
"""Things a page: the most that AWS gives, as it answers few calls a second."""

MOST_BYTES = 2**26
"""Size of a file: some 100,000 keys. Longer lists come in pages, which may be files of their own."""
_MOST_FILES = 10_000

_Lists = dict[str, dict[str, Record]]


def read_export(source: str | Path | Iterable[str | Path]) -> AwsExport:
    """Return what the files hold: all `*.json` of a folder and the folders in it, or the files that are named.

    All of them are read and checked before anything is returned. Raises ConfigError, with the file and the place in it.
    """
    return assembled(list(_outputs(source)))


def _outputs(source: str | Path | Iterable[str | Path]) -> Iterator[Output]:
    if isinstance(source, str | Path):
        folder = Path(source)
        named = sorted(islice(folder.rglob("*.json"), _MOST_FILES + 1)) if folder.is_dir() else [folder]
        if not named:
            raise ConfigError(
                "holds no *.json: name the folder with what `aws apigateway get-...` printed", field=str(source)
            )
        if len(named) > _MOST_FILES:
            raise ConfigError(f"holds more than {_MOST_FILES:,} *.json: is it the right folder?", field=str(source))
    else:
        folder, named = Path(), [Path(item) for item in source]
    for path in named:
        where = str(path.relative_to(folder)) if folder.is_dir() and path.is_relative_to(folder) else str(path)
        yield parsed(read_whole(path, MOST_BYTES, name=where), where)


def fetch_live(client: Any) -> AwsExport:
    """Return what an API Gateway client of boto3 finds: all plans and keys, and the APIs that the plans name.

    Raises what the client raises, and ConfigError where AWS answers in an unknown shape.
    """

    def pages(kind: str, owner: str | None = None, **arguments: Any) -> Iterator[Output]:
        method = KINDS[kind].command.replace("-", "_")
        name = f"{method} {owner}" if owner else method
        for page in client.get_paginator(method).paginate(**arguments, PaginationConfig={"PageSize": _PAGE}):
            yield output({"items": page.get("items", [])}, name, kind, owner)

    outputs = [*pages("plans"), *pages("keys", includeValues=True), *pages("apis")]
    outputs.append(output(client.get_account(), "get_account", "account"))
    plans = assembled(outputs).plans
    for plan in plans:
        outputs += pages("members", plan["id"], usagePlanId=plan["id"])
    for api in dict.fromkeys(
        stage["apiId"] for plan in plans for stage in plan.get("apiStages", ()) if "apiId" in stage
    ):
        stages = client.get_stages(restApiId=api)
        outputs.append(output({"items": stages.get("item", [])}, f"get_stages {api}", "stages", api))
        outputs += pages("resources", api, restApiId=api, embed=["methods"])
    return assembled(outputs)


def assembled(outputs: Iterable[Output]) -> AwsExport:
    """Put outputs together: pages of one list become one, and each list comes to what it belongs to."""
    outputs, notes = list(outputs), list[Note]()
    lists: _Lists = {kind: {} for kind in KINDS}
    for each in outputs:
        if each.has_more:
            notes.append(Note(each.where, "says that more pages follow: what they list must be in the other files"))
        if each.kind is not None and KINDS[each.kind].owner is None:
            _join(lists[each.kind], each)
    plans, apis = lists["plans"], set(lists["apis"])
    apis.update(stage["apiId"] for stage in opened_stages(plans.values()))
    roots = {api["rootResourceId"]: str(api["id"]) for api in lists["apis"].values() if "rootResourceId" in api}
    owned: dict[str, _Lists] = {"members": {}, "stages": {}, "resources": {}}
    for each in outputs:
        if each.kind is None:
            # An empty list has no shape: it tells something only where it is named after a plan.
            plan_ids = _named_in(each.where, plans)
            if len(plan_ids) == 1:
                owned["members"].setdefault(plan_ids.pop(), {})
            else:
                notes.append(Note(each.where, "lists nothing"))
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
