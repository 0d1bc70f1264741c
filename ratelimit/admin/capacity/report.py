"""What a backend must bear: the most that all active keys together can send under the catalogue as it is.

Four figures, for each stage and in total, in units (a request costs 1 unit or more):

rate    requests per second that can go on and on. Quotas do not bound it: they bound for how long.
burst   requests at one moment, all buckets being full, in the worst moment: when one quota window ends and the next
        begins, so that a key has the limits of both.
second  requests within one second, from any microsecond on.
day     requests within one calendar day (UTC): all of a DAY quota, and all of a WEEK or MONTH quota as well, which a
        key may use up in one day.

Reasoning. A bucket admits at most floor(burst + rate * t) in a span whose first and last microsecond are t apart, and
nothing if burst or rate is 0. What a key sends under one plan meets the quota of the plan, then one bucket, then what
all callers share. Buckets of a key add up where they are different buckets:

- scope "key": one of the plan's size for all stages together, and one more for each method entry of each stage, which
  replaces the first for that method;
- scope "key_method": one for each configured method of each stage, and one for all other methods of that stage.

A stage's throttle is one bucket for each configured method and one for all others, whoever calls; the account's is one
for everything. Methods that need no key meet these alone. A key in several plans has the quota and the buckets of each,
so it counts as one key of each.

Limits in a row bound each other, and limits side by side add up, so neither a sum nor a minimum alone is right: one
bucket of a plan may serve a slow stage and a fast one. This is a flow network: from a source through the quotas of a
plan's keys, their buckets, the buckets of stages and that of the account to a sink. The keys of a plan are alike, so n
of them are one edge of n times the capacity. The figure is the maximum flow: no more can pass. By the theorem of Ford
and Fulkerson it is the sum of some limits of which everything has to pass one, the minimum cut: those that bind.

How sharp. `burst` is reached whenever all buckets are full and, where quotas bind, all of their windows change at once.
`rate`, `second` and `day` are never exceeded, and reached but for the rounding to whole requests: where buckets with
a burst of 1 follow each other, their moments need not meet, and a few requests are lost. `burst` + `rate` * t is no
bound for a span of t: one limit may bind the burst and another the rate.

The figures hold while catalogue and keys stay as they are, and for what Redis decides: `set_remaining` grants more, and
replicas that decide without Redis have bounds of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ratelimit.admin.capacity.network import (
    BURST,
    DAY,
    RATE,
    SECOND,
    BindingLimit,
    CapacityFigure,
    FlowNetwork,
    Route,
    routes,
)
from ratelimit.admin.commit import existing_plan
from ratelimit.admin.listing import KeyListing
from ratelimit.effects import Operation
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

__all__ = [
    "AddedCapacity",
    "BindingLimit",
    "Capacity",
    "CapacityAdmin",
    "CapacityFigure",
    "CapacityFigures",
    "capacity_of",
]

_PAGE_SIZE = 400
"""Keys counted together: fewer than a listing reads at once, so that it does not read twice for one page."""


@dataclass(frozen=True, slots=True)
class CapacityFigures:
    """The figures of one stage, or of all together.

    Attributes:
        rate: Requests per second, sustained.
        burst: Requests at one moment.
        second: Requests within one second.
        day: Requests within one calendar day (UTC).
    """

    rate: CapacityFigure
    burst: CapacityFigure
    second: CapacityFigure
    day: CapacityFigure


@dataclass(frozen=True, slots=True)
class AddedCapacity:
    """What one more key of a plan adds to each figure. A figure's `exact` is None where it becomes unlimited.

    Attributes:
        plan: Id of the plan.
        total: What is added to all stages together, with the limits that bind then.
        stages: The same for each stage, by its id.
    """

    plan: str
    total: CapacityFigures
    stages: Mapping[str, CapacityFigures]


@dataclass(frozen=True, slots=True)
class Capacity:
    """The most that all active keys together may send: what a backend must bear.

    Attributes:
        active_keys: By plan id, how many of its keys are enabled and not expired.
        total: All stages together, which may be less than their sum.
        stages: By stage id, what that stage receives if its callers call nothing else.
        addition: What one more key would add; None unless a new plan was given.
    """

    active_keys: Mapping[str, int]
    total: CapacityFigures
    stages: Mapping[str, CapacityFigures]
    addition: AddedCapacity | None = None


class CapacityAdmin:
    """Computes the capacity that one namespace demands."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._keys = KeyListing(namespace)

    def capacity(self, new_plan: str | None = None) -> Operation[Capacity]:
        """Return the most that all active keys may send, and what one more key of `new_plan` would add."""
        snapshot = yield from self._namespace.load()
        if new_plan is not None:
            existing_plan(snapshot, new_plan)
        keys = yield from self._active_keys(snapshot)
        return capacity_of(snapshot, keys, new_plan)

    def _active_keys(self, snapshot: CatalogSnapshot) -> Operation[dict[str, int]]:
        now = (yield from self._namespace.server_us()) / MICROSECONDS
        counts = Counter(dict.fromkeys(snapshot.plans, 0))
        cursor = None
        while True:
            page = yield from self._keys.list_keys(limit=_PAGE_SIZE, cursor=cursor)
            for key in page.items:
                if key.enabled and (key.expires_at is None or key.expires_at > now):
                    counts.update(plan for plan in key.plans if plan in snapshot.plans)
            cursor = page.cursor
            if cursor is None:
                return dict(counts)


def capacity_of(snapshot: CatalogSnapshot, active_keys: Mapping[str, int], new_plan: str | None = None) -> Capacity:
    """Return the capacity for a number of active keys by plan id, and what one more key of `new_plan` adds."""
    total, stages = _figures_of_all(snapshot, active_keys)
    addition = None
    if new_plan is not None:
        keys = {**active_keys, new_plan: active_keys.get(new_plan, 0) + 1}
        new_total, new_stages = _figures_of_all(snapshot, keys)
        added = {stage: _added(figures, new_stages[stage]) for stage, figures in stages.items()}
        addition = AddedCapacity(new_plan, _added(total, new_total), added)
    return Capacity(dict(active_keys), total, stages, addition)


def _figures_of_all(
    snapshot: CatalogSnapshot, keys: Mapping[str, int]
) -> tuple[CapacityFigures, dict[str, CapacityFigures]]:
    """Return the figures of all stages together, and of each stage."""
    all_routes = list(routes(snapshot))
    by_stage: dict[str, list[Route]] = {stage: [] for stage in sorted(snapshot.methods_by_stage)}
    for route in all_routes:
        by_stage[route.stage].append(route)
    stages = {stage: _figures(snapshot, keys, of_stage) for stage, of_stage in by_stage.items()}
    return _figures(snapshot, keys, all_routes), stages


def _figures(snapshot: CatalogSnapshot, keys: Mapping[str, int], some_routes: list[Route]) -> CapacityFigures:
    measures = (RATE, BURST, SECOND, DAY)
    rate, burst, second, day = (FlowNetwork(snapshot, keys, some_routes, each).figure() for each in measures)
    return CapacityFigures(rate, burst, second, day)


def _added(before: CapacityFigures, after: CapacityFigures) -> CapacityFigures:
    def added(old: CapacityFigure, new: CapacityFigure) -> CapacityFigure:
        exact = None if old.exact is None or new.exact is None else new.exact - old.exact
        return CapacityFigure(exact, new.bounds)

    return CapacityFigures(
        added(before.rate, after.rate),
        added(before.burst, after.burst),
        added(before.second, after.second),
        added(before.day, after.day),
    )
