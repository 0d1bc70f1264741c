"""Compares the routes of an application with what plans and stages list. No I/O, and no framework."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from ratelimit.registry.snapshot import CatalogSnapshot

ANY_VERB = "*"
"""The verb of a route that takes all."""

Route = tuple[str, str]
"""Verb and template, as adapters resolve requests to them: ("GET", "/pets/{id}")."""

_PARAMETER = re.compile(r"\{[^{}]*\}|<[^<>]*>|(?<=/):\w+")
_CUTOFF = 0.8


class UnservedMethod(NamedTuple):
    """A method that is listed, and that no route of the application serves: its limits never apply.

    Attributes:
        method: The method.
        listed_by: Who lists it: "plan gold", "stage petstore/prod".
        similar: What the application serves, and is perhaps meant; None if nothing is like it.
    """

    method: str
    listed_by: tuple[str, ...]
    similar: str | None


class RouteReport(NamedTuple):
    """What an application and a stage have, and the other has not.

    Attributes:
        stage: Id of the stage.
        routes: How many routes were compared.
        unserved: Methods that are listed, and that no route serves.
        unlisted: Methods of routes that nobody lists, HEAD beside its GET and OPTIONS left out.
        denies: Whether the stage denies what is not listed, so that nobody can call those.
    """

    stage: str
    routes: int
    unserved: tuple[UnservedMethod, ...]
    unlisted: tuple[str, ...]
    denies: bool


def compare_routes(snapshot: CatalogSnapshot, stage_id: str, routes: Iterable[Route]) -> RouteReport:
    """Compare what plans and a stage list with the routes of an application that is this stage."""
    served = set(routes)
    listed = _listed_by(snapshot, stage_id)
    unserved = tuple(
        UnservedMethod(method, tuple(names), _similar(method, served))
        for method, names in sorted(listed.items(), key=lambda item: _by_path(item[0]))
        if not _serves(served, method)
    )
    unlisted = tuple(sorted(_unlisted(served, listed), key=_by_path))
    return RouteReport(stage_id, len(served), unserved, unlisted, stage_id in snapshot.denying)


def _listed_by(snapshot: CatalogSnapshot, stage_id: str) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for plan in snapshot.plans.values():
        plan_stage = plan.stage(stage_id)
        for method in plan_stage.throttles if plan_stage else ():
            listed.setdefault(method, []).append(f"plan {plan.id}")
    for method in snapshot.stages[stage_id].methods if stage_id in snapshot.stages else ():
        listed.setdefault(method, []).append(f"stage {stage_id}")
    return listed


def _serves(served: Collection[Route], method: str) -> bool:
    verb, _, template = method.partition(" ")
    return (verb, template) in served or (ANY_VERB, template) in served


def _unlisted(served: Collection[Route], listed: Collection[str]) -> Iterator[str]:
    paths_listed = {method.partition(" ")[2] for method in listed}
    for verb, template in served:
        is_automatic = (verb == "HEAD" and ("GET", template) in served) or verb == "OPTIONS"
        is_listed = template in paths_listed if verb == ANY_VERB else f"{verb} {template}" in listed
        if not is_automatic and not is_listed:
            yield f"{verb} {template}"


def _similar(method: str, served: Iterable[Route]) -> str | None:
    """Return what is served and differs only in names of parameters, a slash or a value in place of a parameter."""
    verb, _, path = method.partition(" ")
    candidates = sorted(template for other, template in served if other in (verb, ANY_VERB))
    for is_alike in (_has_shape_of, _is_path_of):
        for template in candidates:
            if is_alike(path, template):
                return f"{verb} {template}"
    close = difflib.get_close_matches(path, candidates, 1, _CUTOFF)
    return f"{verb} {close[0]}" if close else None


def _has_shape_of(path: str, template: str) -> bool:
    return _shape(path) == _shape(template)


def _shape(path: str) -> str:
    return _PARAMETER.sub("{}", path).rstrip("/")


def _is_path_of(path: str, template: str) -> bool:
    parts = (re.escape(part) for part in _PARAMETER.split(template))
    return re.fullmatch("[^/]+".join(parts), path) is not None


def _by_path(method: str) -> tuple[str, str]:
    verb, _, path = method.partition(" ")
    return path, verb
