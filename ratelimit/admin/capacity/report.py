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

from ratelimit.admin.capacity.network import BURST, DAY, RATE, SECOND, Bound, Demand, Figure, Route, routes
from ratelimit.admin.commit import existing_plan
from ratelimit.admin.listing import KeyLists
from ratelimit.effects import Operation
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

__all__ = ["Addition", "Bound", "Capacity", "CapacityAdmin", "Figure", "Figures", "capacity_of"]

_PAGE = 400
"""Keys looked at together: fewer than a listing reads at once, so that it does not read twice for one page."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Requests per second for ever, at one moment, within one second, and within one day (UTC)."""

    rate: Figure
    burst: Figure
    second: Figure
    day: Figure


@dataclass(frozen=True, slots=True)
class Addition:
    """What one more key of `plan` adds to each figure, and the limits that bind then. None: unlimited then."""

    plan: str
    total: Figures
    stages: Mapping[str, Figures]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a backend must bear: see the module.

    active_keys  plan id -> its keys that are enabled and not expired
    total        all stages together, which may be less than their sum
    stages       stage id -> what comes to it if its callers call nothing else
    addition     what one more key would add, if that was asked for
    """

    active_keys: Mapping[str, int]
    total: Figures
    stages: Mapping[str, Figures]
    addition: Addition | None = None


class CapacityAdmin:
    """The capacity that one namespace demands."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._keys = KeyLists(namespace)

    def capacity(self, new_plan: str | None = None) -> Operation[Capacity]:
        """Return what all active keys may send, and what one more key of `new_plan` would add."""
        snapshot = yield from self._namespace.load()
        if new_plan is not None:
            existing_plan(snapshot, new_plan)
        keys = yield from self._active_keys(snapshot)
        return capacity_of(snapshot, keys, new_plan)

    def _active_keys(self, snapshot: CatalogSnapshot) -> Operation[dict[str, int]]:
        now = (yield from self._namespace.server_us()) / MICROSECONDS
        counts = Counter(dict.fromkeys(snapshot.plans, 0))
        position = None
        while True:
            page = yield from self._keys.keys_page(limit=_PAGE, position=position)
            for key in page.items:
                if key.enabled and (key.expires_at is None or key.expires_at > now):
                    counts.update(plan for plan in key.plans if plan in snapshot.plans)
            position = page.position
            if position is None:
                return dict(counts)


def capacity_of(snapshot: CatalogSnapshot, active_keys: Mapping[str, int], new_plan: str | None = None) -> Capacity:
    """Return what so many keys of each plan may send."""
    total, stages = _everywhere(snapshot, active_keys)
    found = Capacity(dict(active_keys), total, stages)
    if new_plan is None:
        return found
    then, then_stages = _everywhere(snapshot, {**active_keys, new_plan: active_keys.get(new_plan, 0) + 1})
    more = {stage: _more(figures, then_stages[stage]) for stage, figures in stages.items()}
    return Capacity(found.active_keys, total, stages, Addition(new_plan, _more(total, then), more))


def _everywhere(snapshot: CatalogSnapshot, keys: Mapping[str, int]) -> tuple[Figures, dict[str, Figures]]:
    every = list(routes(snapshot))
    by_stage: dict[str, list[Route]] = {stage: [] for stage in sorted(snapshot.methods_by_stage)}
    for route in every:
        by_stage[route.stage].append(route)
    return _figures(snapshot, keys, every), {stage: _figures(snapshot, keys, some) for stage, some in by_stage.items()}


def _figures(snapshot: CatalogSnapshot, keys: Mapping[str, int], some: list[Route]) -> Figures:
    rate, burst, second, day = (Demand(snapshot, keys, some, each).figure() for each in (RATE, BURST, SECOND, DAY))
    return Figures(rate, burst, second, day)


def _more(before: Figures, after: Figures) -> Figures:
    def more(old: Figure, new: Figure) -> Figure:
        return Figure(None if old.exact is None or new.exact is None else new.exact - old.exact, new.bounds)

    return Figures(
        more(before.rate, after.rate),
        more(before.burst, after.burst),
        more(before.second, after.second),
        more(before.day, after.day),
    )
