"""The flow network of limits through which requests pass, and the most that can pass; report.py says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from ratelimit.admin.capacity.maxflow import SINK, SOURCE, FlowGraph, Node
from ratelimit.engine.compile import applicable_limits
from ratelimit.engine.limits import Bucket, Limit, QuotaCount
from ratelimit.model import MICROSECONDS, Throttle, UsagePlan
from ratelimit.registry.redis_keys import OTHERS, RedisKeys
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import DAY_US

_CALLERS = ("callers",)
"""The node where all requests come together, before the account's throttle."""


@dataclass(frozen=True, slots=True)
class BindingLimit:
    """A limit that bounds a figure, as many times as there are buckets (or counts) of it.

    Attributes:
        name: Its name in decisions; where it stands for several methods of a stage alike, that of all of them.
        each: What one bucket or count of it admits; None for what has no limit at all.
        keys: How many keys have one; None for a limit that all callers share.
        methods: How many methods have one.
        stage: The stage, where the name does not say it.
    """

    name: str
    each: Fraction | None
    keys: int | None = None
    methods: int = 1
    stage: str = ""

    @property
    def amount(self) -> Fraction | None:
        """What all of them admit together; None if that is unlimited."""
        return None if self.each is None else self.each * self.methods * (1 if self.keys is None else self.keys)

    def __str__(self) -> str:
        factors = [f"{self.keys} key{'' if self.keys == 1 else 's'}"] if self.keys is not None else []
        factors += [f"{self.methods} methods"] if self.methods > 1 else []
        factors += ["unlimited" if self.each is None else _shown(self.each)]
        return f"{self.name}{f' at {self.stage}' if self.stage else ''}: {' x '.join(factors)}"


@dataclass(frozen=True, slots=True)
class CapacityFigure:
    """A maximum.

    Attributes:
        exact: The maximum as an exact fraction; None if it is unlimited.
        bounds: The limits that it is the sum of; of an unlimited one, what is unlimited.
    """

    exact: Fraction | None
    bounds: tuple[BindingLimit, ...] = ()

    @property
    def value(self) -> float | None:
        """The maximum as a float; None if it is unlimited."""
        return None if self.exact is None else float(self.exact)


class Measure(NamedTuple):
    """How much a bucket and a quota admit, for one of the figures.

    Attributes:
        bucket: Returns what a bucket of this throttle admits.
        quota_times: How many limits of a quota fall into the time span; None: the quota does not bound the figure.
    """

    bucket: Callable[[Throttle], Fraction]
    quota_times: int | None

    def quota(self, count: QuotaCount | None) -> Fraction | None:
        """Return what a quota admits; None for any number. A quota of 0 never admits anything."""
        if count is None or (self.quota_times is None and count.quota.limit):
            return None
        return Fraction(count.quota.limit * (self.quota_times or 0))


def _within(span_us: int) -> Callable[[Throttle], Fraction]:
    def admitted(throttle: Throttle) -> Fraction:
        tokens, per_us = throttle.ratio
        return Fraction(throttle.burst + tokens * (span_us - 1) // per_us)

    return admitted


RATE = Measure(lambda throttle: throttle.rate, None)
BURST = Measure(lambda throttle: Fraction(throttle.burst), 2)
SECOND = Measure(_within(MICROSECONDS), 2)
DAY = Measure(_within(DAY_US), 1)


class Route(NamedTuple):
    """One path of requests through the limits, to methods of a stage that are alike.

    Attributes:
        plan: Id of the plan whose keys send the requests; None for callers without a key.
        stage: Id of the stage.
        methods: The methods.
        quota: The quota that each key has.
        own: The bucket that each key has, of the plan or for each of the methods.
        shared: The bucket that each method has, for all callers.
    """

    plan: str | None
    stage: str
    methods: tuple[str, ...]
    quota: QuotaCount | None
    own: Bucket | None
    shared: Bucket | None


_NAMES = RedisKeys("ratelimit")
"""Of any namespace: names only have to be distinct."""


def routes(snapshot: CatalogSnapshot) -> Iterator[Route]:
    """Yield every route that the snapshot opens, with the limits that checks apply.

    Methods of a stage whose limits have the same sizes, under every plan, share a route: requests can be spread evenly
    over them, so n such buckets admit what one of n times the size does. A HEAD that is listed is like no other: who
    does not list it counts it in the bucket of GET, or in that of all others.
    """
    for stage in sorted(snapshot.methods_by_stage):
        plans = [plan for plan in snapshot.plans.values() if plan.stage(stage)]
        listed = snapshot.methods_by_stage[stage]
        heads = [method for method in listed if method.startswith("HEAD ")]
        unlike = {*heads, *(f"GET{head[4:]}" for head in heads), OTHERS} if heads else set[str]()
        alike: dict[object, list[str]] = {}
        for method in (*sorted(listed), OTHERS):
            senders = _senders(snapshot, plans, stage, method)
            sizes = [
                (
                    plan and plan.id,
                    *(_size(limit) for limit in applicable_limits(snapshot, plan, stage, method, _NAMES)),
                )
                for plan in senders
            ]
            alike.setdefault((method if method in unlike else "", *sizes), []).append(method)
        for methods in alike.values():
            for plan in _senders(snapshot, plans, stage, methods[0]):
                limits = list(applicable_limits(snapshot, plan, stage, methods[0], _NAMES))
                buckets = [
                    limit for limit in limits if isinstance(limit, Bucket) and limit.field_or_key != _NAMES.account
                ]
                yield Route(
                    plan.id if plan else None,
                    stage,
                    tuple(methods),
                    next((limit for limit in limits if isinstance(limit, QuotaCount)), None),
                    next((bucket for bucket in buckets if not bucket.shared), None),
                    next((bucket for bucket in buckets if bucket.shared), None),
                )


def _senders(
    snapshot: CatalogSnapshot, plans: Sequence[UsagePlan], stage: str, method: str
) -> Sequence[UsagePlan | None]:
    """Return the plans whose keys may call a method; None for callers without a key."""
    if not snapshot.method(stage, method).key_required:
        return [None]
    return [plan for plan in plans if not snapshot.denies(plan, stage, method)]


def _size(limit: Limit) -> object:
    """Return what distinguishes limits of different methods, besides the method itself."""
    return limit.quota if isinstance(limit, QuotaCount) else (limit.throttle, limit.shared, bool(limit.field_or_key))


class FlowNetwork:
    """What keys, and callers without a key, can send on some routes, for one figure.

    Args:
        snapshot: The catalogue.
        keys: How many active keys each plan has, by its id.
        routes: The routes.
        measure: Selects the figure.
    """

    def __init__(
        self, snapshot: CatalogSnapshot, keys: Mapping[str, int], routes: Iterable[Route], measure: Measure
    ) -> None:
        self._keys, self._measure = keys, measure
        self._bounds: dict[tuple[Node, Node], BindingLimit] = {}
        self._routes: dict[tuple[Node, Node], Route] = {}
        for route in routes:
            if route.plan is None or keys.get(route.plan, 0):
                self._add(route)
        self._bounds[_CALLERS, SINK] = BindingLimit("account", self._admitted(snapshot.account))

    def _add(self, route: Route) -> None:
        node = SOURCE if route.plan is None else self._through_own_limits(route, route.plan)
        head: Node = _CALLERS
        methods = len(route.methods)
        if route.shared is not None:
            head = ("shared", route.shared.field_or_key)
            name = route.shared.name if methods == 1 else f"stage:{route.stage}"
            self._bounds[head, _CALLERS] = BindingLimit(name, self._admitted(route.shared.throttle), None, methods)
        self._routes.setdefault((node, head), route)

    def _through_own_limits(self, route: Route, plan: str) -> Node:
        node, keys, own = ("plan", plan), self._keys[plan], route.own
        self._bounds[SOURCE, node] = BindingLimit(f"quota:{plan}", self._measure.quota(route.quota), keys)
        if own is None:
            return node
        head, admitted = ("own", own.field_or_key or own.name), self._admitted(own.throttle)
        if not own.field_or_key:
            self._bounds[node, head] = BindingLimit(own.name, admitted, keys)
        else:
            methods = len(route.methods)
            name = own.name if methods == 1 else f"plan:{plan}"
            self._bounds[node, head] = BindingLimit(name, admitted, keys, methods, route.stage)
        return head

    def _admitted(self, throttle: Throttle | None) -> Fraction | None:
        if throttle is None:
            return None
        # A bucket with rate 0 denies, however full it is.
        return self._measure.bucket(throttle) if throttle.rate and throttle.burst else Fraction()

    def figure(self) -> CapacityFigure:
        """Return the maximum flow, and the limits of the minimum cut."""
        graph = FlowGraph()
        amounts = {edge: bound.amount for edge, bound in self._bounds.items()}
        scale = lcm(*(amount.denominator for amount in amounts.values() if amount is not None))
        for (tail, head), amount in amounts.items():
            graph.add(tail, head, None if amount is None else int(amount * scale))
        for tail, head in self._routes:
            graph.add(tail, head, None)
        unlimited = graph.reaching_sink_unlimited()
        if SOURCE in unlimited:
            return CapacityFigure(None, tuple(dict.fromkeys(self._without_limit(unlimited))))
        flow, side = graph.solve()
        binding = [bound for (tail, head), bound in self._bounds.items() if tail in side and head not in side]
        return CapacityFigure(Fraction(flow, scale), tuple(sorted(binding, key=_order)))

    def _without_limit(self, unlimited: set[Node]) -> Iterator[BindingLimit]:
        for (_, head), route in self._routes.items():
            if head not in unlimited:
                continue
            if route.plan is None:
                yield from (BindingLimit(f"stage:{route.stage}:{method}", None) for method in route.methods)
            elif (node := ("plan", route.plan)) in unlimited and self._bounds[SOURCE, node].each is None:
                yield BindingLimit(f"plan:{route.plan}", None, self._keys[route.plan])


def _order(bound: BindingLimit) -> int:
    """Return the rank of a limit: those of keys come first, then stages, then the account, as in decisions."""
    return ("plan", "quota", "stage", "account").index(bound.name.partition(":")[0])


def _shown(number: Fraction) -> str:
    return str(number) if number.denominator == 1 else str(float(number))
