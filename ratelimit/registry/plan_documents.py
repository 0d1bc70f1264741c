"""Plans, stages and throttles as plain data: what a plan file says, and what Redis keeps as JSON. Pure."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeVar

from ratelimit.errors import ConfigError
from ratelimit.model import Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry import unknown_fields
from ratelimit.registry.lazy_documents import DocumentSummary
from ratelimit.registry.unknown_fields import EACH, Table
from ratelimit.validation import shown

_T = TypeVar("_T")

MAX_NAME_PARTS = 8
"""Of a name with dots: `plans.gold.stages."a/b".throttles."GET /".rate` has seven."""
MAX_DEPTH = 16

# Strings and comments, within which nothing counts; and the marks that count outside of them.
_TOML_TOKEN = re.compile(
    r"""
    \"{3} (?: [^"\\]++ | \\. | "{1,2}(?!") )*+ \"{3,5} | '{3} .*? '{3,5} |
    " (?: [^"\\\n]++ | \\. )*+ " | ' [^'\n]*+ ' | \# [^\n]*+ | [.=,\[\]{}\n]
    """,
    re.VERBOSE | re.DOTALL,
)

_THROTTLE: Table = {"rate": None, "burst": None}
_QUOTA: Table = {"limit": None, "period": None, "offset": None}
_PLAN_STAGE: Table = {"throttles": {EACH: _THROTTLE}}
_PLAN: Table = {
    "name": None,
    "throttle": _THROTTLE,
    "quota": _QUOTA,
    "throttle_scope": None,
    "stages": {EACH: _PLAN_STAGE},
    "alerts": None,
    "shadow": None,
    "lease": None,
    "max_identities": None,
    "on_unavailable": None,
}
_METHOD: Table = {"throttle": _THROTTLE, "key_required": None}
_STAGE: Table = {"throttle": _THROTTLE, "methods": {EACH: _METHOD}, "unlisted": None, "on_unavailable": None}
_DENIES = {None: False, "deny": True}
"""Whether a stage denies, by its `unlisted` as `stage_json` writes it."""


@dataclass(frozen=True, slots=True)
class Document:
    """All that a plan file can say."""

    plans: Mapping[str, UsagePlan] = field(default_factory=dict)
    stages: Mapping[str, Stage] = field(default_factory=dict)
    account: Throttle | None = None


def document_from_toml(data: bytes, name: str) -> Document:
    """Return what a plan file says.

    Args:
        data: The content of the file.
        name: What errors call the file.

    Raises:
        ConfigError: With the name of the file, and the path of the field inside it.
    """
    try:
        text = data.decode()
        _check_parsing_cost(text, name)
        # Numbers are taken as they are written: 0.1 is one tenth.
        tables = tomllib.loads(text, parse_float=Decimal)
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot be read: {error}", field=name) from None
    except ConfigError:
        raise
    except ValueError as error:  # also for a number of thousands of digits
        raise ConfigError(f"is not TOML: {error}", field=name) from None
    except ArithmeticError:
        raise ConfigError("holds a number whose exponent is too large", field=name) from None
    try:
        return document_from(tables)
    except ConfigError as error:
        raise type(error)(str(error), field=name) from None


def _check_parsing_cost(text: str, name: str) -> None:
    """Raise ConfigError for text whose parsing would take many times its size in memory."""
    depth = dots = 0
    line = 1
    for match in _TOML_TOKEN.finditer(text):
        mark = match[0]
        if mark == ".":
            dots += 1
        elif mark in "=,[]{}\n":
            dots = 0
            depth += (mark in "[{") - (mark in "]}")
        problem = None
        if dots >= MAX_NAME_PARTS:
            problem = f"a name of more than {MAX_NAME_PARTS} parts"
        elif depth > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} open brackets"
        if problem is not None:
            raise ConfigError(f"line {line} has {problem}: no plan file needs that", field=name)
        line += mark.count("\n")


def document_from(data: Table) -> Document:
    """Return the document that a parsed plan file stands for."""
    _known(data, ("plans", "stages", "account"))
    plans, stages = _table(data.get("plans", {}), "plans"), _table(data.get("stages", {}), "stages")
    account = data.get("account")
    return Document(
        {name: _at(f"plans.{_quoted(name)}", plan_from, name, item) for name, item in plans.items()},
        {name: _at(f"stages.{_quoted(name)}", stage_from, name, item) for name, item in stages.items()},
        None if account is None else _at("account", _throttle_from, account),
    )


def plan_from(plan_id: str, data: object) -> UsagePlan:
    """Return the plan that a table stands for."""
    table = _table(data)
    _known(table, _PLAN)
    stages = table.get("stages", [])
    if isinstance(stages, Mapping):
        opened = [_at(f"stages.{_quoted(name)}", _plan_stage_from, name, item) for name, item in stages.items()]
    else:
        opened = stages
    return UsagePlan(
        plan_id,
        _optional(table, "throttle", _throttle_from),
        _optional(table, "quota", _quota_from),
        opened,
        table.get("name", ""),
        table.get("throttle_scope", "key"),
        table.get("alerts", ()),
        table.get("shadow"),
        table.get("lease", 0),
        table.get("max_identities"),
        table.get("on_unavailable"),
    )


def stage_from(stage_id: str, data: object) -> Stage:
    """Return the stage that a table stands for."""
    table = _table(data)
    _known(table, _STAGE)
    methods = _table(table.get("methods", {}), "methods")
    return Stage(
        stage_id,
        _optional(table, "throttle", _throttle_from),
        {name: _at(f"methods.{_quoted(name)}", _method_from, item) for name, item in methods.items()},
        table.get("unlisted", "limit"),
        table.get("on_unavailable"),
    )


def plan_from_json(plan_id: str, text: str) -> UsagePlan:
    """Return the plan that Redis keeps as JSON."""
    return plan_from(plan_id, unknown_fields.without("a plan", json.loads(text), _PLAN))


def stage_from_json(stage_id: str, text: str) -> Stage:
    """Return the stage that Redis keeps as JSON."""
    return stage_from(stage_id, unknown_fields.without("a stage", json.loads(text), _STAGE))


def plan_summary(plan_id: str, text: str) -> DocumentSummary:
    """Return the summary of the plan that Redis keeps as JSON, without a look at its numbers."""
    data = json.loads(text)
    try:
        listed = {stage: frozenset(table["throttles"]) for stage, table in data["stages"].items()}
        return DocumentSummary(listed, bool(data.get("lease")))
    except (AttributeError, LookupError, TypeError):  # written in another way than `plan_json` does, or wrong
        return DocumentSummary.of_plan(plan_from(plan_id, unknown_fields.without("a plan", data, _PLAN)))


def stage_summary(stage_id: str, text: str) -> DocumentSummary:
    """Return the summary of the stage that Redis keeps as JSON."""
    data = json.loads(text)
    try:
        listed, denies = {stage_id: frozenset(data["methods"])}, _DENIES[data.get("unlisted")]
        return DocumentSummary(listed, denies=denies)
    except (AttributeError, LookupError, TypeError):  # written in another way than `stage_json` does, or wrong
        return DocumentSummary.of_stage(stage_from(stage_id, unknown_fields.without("a stage", data, _STAGE)))


def throttle_from_json(text: str) -> Throttle:
    """Return the throttle that Redis keeps as JSON."""
    return _throttle_from(unknown_fields.without("a throttle", json.loads(text), _THROTTLE))


def _plan_stage_from(stage_id: str, data: object) -> PlanStage:
    table = _table(data)
    _known(table, _PLAN_STAGE)
    throttles = _table(table.get("throttles", {}), "throttles")
    return PlanStage(
        stage_id,
        {name: _at(f"throttles.{_quoted(name)}", _throttle_from, item) for name, item in throttles.items()},
    )


def _method_from(data: object) -> Method:
    table = _table(data)
    _known(table, _METHOD)
    return Method(_optional(table, "throttle", _throttle_from), table.get("key_required", True))


def _throttle_from(data: object) -> Throttle:
    table = _table(data)
    _known(table, _THROTTLE, required=("rate", "burst"))
    return Throttle(table["rate"], table["burst"])


def _quota_from(data: object) -> Quota:
    table = _table(data)
    _known(table, _QUOTA, required=("limit", "period"))
    return Quota(table["limit"], table["period"], table.get("offset", 0))


def plan_json(plan: UsagePlan) -> str:
    """Return a plan as Redis keeps it."""
    stages = {
        opened.stage: {"throttles": {name: _throttle_data(item) for name, item in opened.throttles.items()}}
        for opened in plan.stages
    }
    data: dict[str, object] = {"name": plan.name, "throttle_scope": plan.throttle_scope, "stages": stages}
    if plan.alerts:
        data["alerts"] = plan.alerts
    if plan.shadow is not None:
        data["shadow"] = plan.shadow
    if plan.lease:
        data["lease"] = plan.lease
    if plan.max_identities is not None:
        data["max_identities"] = plan.max_identities
    if plan.on_unavailable is not None:
        data["on_unavailable"] = plan.on_unavailable
    if plan.throttle is not None:
        data["throttle"] = _throttle_data(plan.throttle)
    if plan.quota is not None:
        data["quota"] = {"limit": plan.quota.limit, "period": plan.quota.period, "offset": plan.quota.offset}
    return json.dumps(data)


def stage_json(stage: Stage) -> str:
    """Return a stage as Redis keeps it."""
    data: dict[str, object] = {"methods": {name: _method_data(item) for name, item in stage.methods.items()}}
    if stage.throttle is not None:
        data["throttle"] = _throttle_data(stage.throttle)
    if stage.unlisted != "limit":
        data["unlisted"] = stage.unlisted
    if stage.on_unavailable is not None:
        data["on_unavailable"] = stage.on_unavailable
    return json.dumps(data)


def throttle_json(throttle: Throttle) -> str:
    """Return a throttle as Redis keeps it."""
    return json.dumps(_throttle_data(throttle))


def _throttle_data(throttle: Throttle) -> dict[str, object]:
    return {"rate": str(throttle.rate), "burst": throttle.burst}


def _method_data(method: Method) -> dict[str, object]:
    data: dict[str, object] = {"key_required": method.key_required}
    if method.throttle is not None:
        data["throttle"] = _throttle_data(method.throttle)
    return data


def _optional(table: Table, name: str, make: Callable[[object], _T]) -> _T | None:
    return None if name not in table else _at(name, make, table[name])


def _at(path: str, make: Callable[..., _T], *args: object) -> _T:
    """Make a part, and put `path` in front of what its error names."""
    try:
        return make(*args)
    except ConfigError as error:
        raise error.within(path) from None


def _table(value: object, name: str = "") -> Table:
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a table, not {shown(value)}", field=name)
    return value


def _known(table: Table, fields: Collection[str], *, required: Collection[str] = ()) -> None:
    for name in table:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(fields)}"
            raise ConfigError(f"is not a field here: {remedy}", field=_quoted(name))
    for name in required:
        if name not in table:
            raise ConfigError("is missing: add it", field=name)


def _quoted(name: str) -> str:
    """Return a TOML key as it is written: quoted unless it is bare."""
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isalnum() and bare.isascii() else json.dumps(name)
