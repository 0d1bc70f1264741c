"""Outputs of `aws apigateway get-...`, recognised and validated by their shape.

The shapes are those of service model 2015-07-09, as the AWS CLI prints them and boto3 returns them. Only what concerns
keys and limits is validated. The values of API keys are in here; no error and no repr shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from ratelimit.errors import ConfigError

Record = Mapping[str, Any]
Owned = Mapping[str, tuple[Record, ...]]


class AwsNote(NamedTuple):
    """Something that was not carried over, or not as it was.

    Attributes:
        where: What it is about, such as "plan a1b2c3".
        why: What is different, and why.
    """

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True, slots=True)
class AwsExport:
    """The usage plans of an AWS account, as AWS describes them.

    Attributes:
        plans: The usage plans.
        keys: The API keys.
        members: By plan id, its usage plan keys; without an entry, they were not exported.
        apis: The REST APIs.
        stages: By API id, its stages; without an entry, they were not exported.
        resources: By API id, its resources; without an entry, they were not exported.
        account: The settings of the account; None if they were not exported.
        notes: What is unusual about the files.
    """

    plans: tuple[Mapping[str, Any], ...] = ()
    keys: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    members: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict, repr=False)
    apis: tuple[Mapping[str, Any], ...] = ()
    stages: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    resources: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)
    account: Mapping[str, Any] | None = None
    notes: tuple[AwsNote, ...] = ()


class _MapOf(NamedTuple):
    """The shape of an object whose members have any names, and all the same shape."""

    shape: Any


_NUMBER = (int, float, Decimal)
_ACCEPTED = {str: "text", bool: "true or false", int: "a whole number", _NUMBER: "a number"}
"""What errors call the shapes of single values."""
_TEXTS = _MapOf(str)
_THROTTLE = {"rateLimit": _NUMBER, "burstLimit": int}


class Kind(NamedTuple):
    """The kinds of output.

    Attributes:
        command: The command of the AWS CLI that prints it.
        shape: The shape of one item.
        required: Members that each item must have.
        owner: The argument of the command that says what the output belongs to; it is not part of the output.
    """

    command: str
    shape: Mapping[str, Any]
    required: tuple[str, ...] = ("id",)
    owner: str | None = None


KINDS = {
    "plans": Kind(
        "get-usage-plans",
        {
            "id": str,
            "name": str,
            "description": str,
            "apiStages": [{"apiId": str, "stage": str, "throttle": _MapOf(_THROTTLE)}],
            "throttle": _THROTTLE,
            "quota": {"limit": int, "offset": int, "period": str},
            "productCode": str,
            "tags": _TEXTS,
        },
    ),
    "keys": Kind(
        "get-api-keys",
        {
            "id": str,
            "value": str,
            "name": str,
            "customerId": str,
            "description": str,
            "enabled": bool,
            "stageKeys": [str],
            "tags": _TEXTS,
        },
    ),
    "members": Kind("get-usage-plan-keys", {"id": str, "type": str, "value": str, "name": str}, owner="usagePlanId"),
    "apis": Kind("get-rest-apis", {"id": str, "name": str, "apiKeySource": str, "rootResourceId": str}),
    "stages": Kind(
        "get-stages",
        {
            "stageName": str,
            "methodSettings": _MapOf({"throttlingRateLimit": _NUMBER, "throttlingBurstLimit": int}),
            "webAclArn": str,
        },
        ("stageName",),
        "restApiId",
    ),
    "resources": Kind(
        "get-resources",
        {"id": str, "path": str, "resourceMethods": _MapOf({"apiKeyRequired": bool})},
        ("id", "path"),
        "restApiId",
    ),
    "account": Kind("get-account", {"throttleSettings": _THROTTLE}, ()),
}

_MAX_DEPTH = 32
"""Of what is not validated: AWS nests a handful."""

_MARKS = {
    "stageName": "stages",
    "path": "resources",
    "type": "members",
    "enabled": "keys",
    "apiStages": "plans",
    "throttle": "plans",
    "quota": "plans",
    "createdDate": "apis",
    "apiKeySource": "apis",
    "endpointConfiguration": "apis",
    "id": "plans",
}
"""Members by which an item is recognised; the first that it has decides. A usage plan may have nothing but an id."""


class Output(NamedTuple):
    """The output of one command.

    Attributes:
        kind: A key of `KINDS`; None if it lists nothing.
        items: What it lists.
        where: What errors and notes call it.
        owner: Id of the plan or API it belongs to, if the output says so.
        has_more: Whether it says that more pages follow.
    """

    kind: str | None
    items: tuple[Record, ...]
    where: str
    owner: str | None = None
    has_more: bool = False


def parse(data: bytes, where: str) -> Output:
    """Parse the content of a file. Raises ConfigError, which shows nothing of it."""
    try:
        # Numbers are taken as they are written: 0.1 is one tenth.
        document = json.loads(data, parse_float=Decimal, parse_constant=_refused)
    except (ValueError, ArithmeticError, RecursionError) as error:
        problem = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else type(error).__name__
    else:
        return output_from(document, where)
    # Raised out here, so that it does not carry the text of the file along.
    raise ConfigError(f"is not JSON ({problem}): export it again", field=where)


def _refused(_: str) -> None:
    raise ValueError


def output_from(document: object, where: str, kind: str | None = None, owner: str | None = None) -> Output:
    """Recognise and validate a parsed document.

    Args:
        document: The document.
        where: What errors call it.
        kind: A key of `KINDS`; None to recognise it.
        owner: Id of the plan or API it belongs to, if known.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"must hold an object, not {_json_type(document)}: export it again", field=where)
    if kind == "account" or (kind is None and "throttleSettings" in document):
        return Output("account", (_validated(document, KINDS["account"].shape, where),), where)
    name = "item" if "item" in document else "items"
    items = document.get(name)
    if not isinstance(items, list):
        raise _unknown_output(where)
    kinds = {kind or _recognise(item) for item in items}
    if None in kinds or len(kinds) > 1:
        raise _unknown_output(where)
    kind = kinds.pop() if kinds else kind
    valid = (
        tuple(_valid_item(item, kind, f"{where}: {name}[{index}]") for index, item in enumerate(items)) if kind else ()
    )
    if owner is None:
        owner = next((str(document[each.owner]) for each in KINDS.values() if each.owner in document), None)
    return Output(kind, valid, where, owner, bool(document.get("position") or document.get("NextToken")))


def _unknown_output(where: str) -> ConfigError:
    commands = ", ".join(each.command for each in KINDS.values())
    return ConfigError(f"is not an output of {commands}: remove it from the export", field=where)


def _recognise(item: object) -> str | None:
    if not isinstance(item, Mapping):
        return None
    return next((kind for mark, kind in _MARKS.items() if mark in item), None)


def _valid_item(item: object, kind: str, where: str) -> Record:
    valid: Record = _validated(item, KINDS[kind].shape, where)
    for name in KINDS[kind].required:
        if not valid.get(name):
            raise ConfigError(f"has no {name}: export it again", field=where)
    return valid


def _validated(value: object, shape: Any, where: str) -> Any:
    """Return `value` without null members if it has this shape. Members that the shape does not name are kept."""
    if isinstance(shape, Mapping | _MapOf):
        if not isinstance(value, Mapping):
            raise ConfigError(f"must be an object, not {_json_type(value)}: export it again", field=where)
        shapes = {name: shape.shape if isinstance(shape, _MapOf) else shape.get(name, object) for name in value}
        return {
            name: _validated(item, shapes[name], f"{where}.{name}") for name, item in value.items() if item is not None
        }
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise ConfigError(f"must be a list, not {_json_type(value)}: export it again", field=where)
        return tuple(_validated(item, shape[0], f"{where}[{index}]") for index, item in enumerate(value))
    if shape is object and _is_deep(value, _MAX_DEPTH):
        raise ConfigError(f"is nested more than {_MAX_DEPTH} deep: export it again", field=where)
    if not isinstance(value, shape) or (isinstance(value, bool) and shape not in (bool, object)):
        raise ConfigError(f"must be {_ACCEPTED[shape]}, not {_json_type(value)}: export it again", field=where)
    return value


def _is_deep(value: object, max_depth: int) -> bool:
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return not max_depth or any(_is_deep(part, max_depth - 1) for part in parts)


def opened_stages(plans: Iterable[Record]) -> Iterator[Record]:
    """Yield the stages that plans open, except those without an id or a name."""
    for plan in plans:
        yield from (stage for stage in plan.get("apiStages", ()) if stage.get("apiId") and stage.get("stage"))


def _json_type(value: object) -> str:
    names = ((type(None), "null"), (bool, "a boolean"), (Mapping, "an object"), (list, "a list"), (str, "text"))
    return next((name for kind, name in names if isinstance(value, kind)), "a number")
