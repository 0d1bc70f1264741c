"""The plan book: one version of all plans, stages and the account throttle, and which limits a request meets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from ratelimit.core.bounded import Bounded
from ratelimit.core.names import OTHERS, Names, method_field, plan_field, shadow_field
from ratelimit.core.stored import Outline, Stored
from ratelimit.core.wire import Bucket, Call, Limit, PlanPart, QuotaCount, Shadow
from ratelimit.model import FrozenMap, Method, Stage, Throttle, UsagePlan

_T = TypeVar("_T")
_NO_STAGE = Method()
_MOST_CALLS = 50_000


@dataclass(frozen=True, slots=True)
class PlanBook:
    """Immutable: another version of the catalogue is another book. `epoch` is empty where no catalogue exists.

    methods_of  of each stage that somebody configured, the methods that have buckets of their own in it
    leased      the plans that have leases
    """

    epoch: str = ""
    version: int = 0
    plans: Mapping[str, UsagePlan] = field(default_factory=FrozenMap)
    stages: Mapping[str, Stage] = field(default_factory=FrozenMap)
    account: Throttle | None = None
    stamp: str = ""
    _opened: Mapping[str, Outline] = field(init=False, repr=False, compare=False)
    methods_of: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    leased: frozenset[str] = field(init=False, repr=False, compare=False)
    _calls: Bounded[tuple[str | None, str, str], Call] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        opened = _outlines(self.plans, Outline.of_plan)
        listed: dict[str, set[str]] = {}
        for outline in chain(_outlines(self.stages, Outline.of_stage).values(), opened.values()):
            for stage, methods in outline.listed.items():
                listed.setdefault(stage, set()).update(methods)
        object.__setattr__(self, "_opened", opened)
        object.__setattr__(self, "methods_of", {stage: frozenset(methods) for stage, methods in listed.items()})
        object.__setattr__(self, "leased", frozenset(plan for plan, outline in opened.items() if outline.leases))
        object.__setattr__(self, "_calls", Bounded(_MOST_CALLS))

    @property
    def edition(self) -> tuple[str, str, str]:
        """Epoch, version and stamp: a version that a server lost may be given again, to something else."""
        return self.epoch, str(self.version), self.stamp

    @property
    def identity(self) -> str:
        """Epoch and version as the script compares them: 8 characters and 10 digits."""
        return f"{self.epoch:8}{self.version:010}"

    def method(self, stage_id: str, method: str) -> Method:
        """Return what is configured for a method; one that nobody lists needs a key."""
        if stage_id not in self.stages:  # to ask is quicker than to be told by an exception
            return _NO_STAGE
        return self.stages[stage_id].methods.get(method, _NO_STAGE)

    def listed(self, stage_id: str) -> frozenset[str]:
        """Return the methods that have buckets of their own in a stage."""
        return self.methods_of.get(stage_id, frozenset())

    def placed(self, stage_id: str, method: str) -> str:
        """Return the method by whose limits a request goes: itself, or what stands for all that nobody lists."""
        return method if method in self.listed(stage_id) else OTHERS

    def plan_for(self, plan_ids: Iterable[str], stage_id: str) -> UsagePlan | None:
        """Return the one of a key's plans that opens the stage."""
        for plan_id in plan_ids:
            if plan_id in self._opened and stage_id in self._opened[plan_id].listed:
                return self.plans[plan_id]
        return None

    def call(self, plan: UsagePlan | None, stage_id: str, method: str, names: Names) -> Call:
        """Return the limits of a request, compiled, in the order in which they are reported.

        Nothing is made from a caller's text: a method that nobody lists stands for all such methods of the stage,
        and a stage that nobody configured has no limits of its own.
        """
        method = self.placed(stage_id, method)
        if stage_id not in self.methods_of:
            stage_id = OTHERS
        at = (plan.id if plan else None, stage_id, method)
        found = self._calls.get(at)
        if found is None:
            found = self._compiled(plan, stage_id, method, names)
            self._calls.put(at, found)
        return found

    def _compiled(self, plan: UsagePlan | None, stage_id: str, method: str, names: Names) -> Call:
        limits = tuple(self._limits(plan, stage_id, method, names))
        if plan is None:
            return Call(limits)
        shadow = self._shadow(self.plans.get(plan.shadow or ""), stage_id, method)
        return Call(limits, plan_field(plan.id), shadow, plan.alerts, names.alerts)

    def _shadow(self, plan: UsagePlan | None, stage_id: str, method: str) -> Shadow | None:
        if plan is None or stage_id not in self._opened[plan.id].listed:
            return None
        bucket = _plan_bucket(plan, plan.throttle, stage_id, method) if plan.throttle else None
        places = [plan_field(plan.id)] + ([bucket.place] if bucket and bucket.place else [])
        return Shadow(PlanPart(bucket and bucket.throttle, plan.quota), tuple(map(shadow_field, places)))

    def _limits(self, plan: UsagePlan | None, stage_id: str, method: str, names: Names) -> Iterable[Limit]:
        if plan is not None and plan.throttle is not None:
            yield _plan_bucket(plan, plan.throttle, stage_id, method)
        stage = self.stages.get(stage_id)
        if stage is not None:
            throttle = stage.methods.get(method, _NO_STAGE).throttle or stage.throttle
            if throttle is not None:
                place = names.stage_bucket(stage_id, method)
                yield Bucket(f"stage:{stage_id}:{method}", throttle, place, shared=True)
        if self.account is not None:
            yield Bucket("account", self.account, names.account, shared=True)
        if plan is not None and plan.quota is not None:
            yield QuotaCount(f"quota:{plan.id}", plan.quota)


def _outlines(documents: Mapping[str, _T], outline: Callable[[_T], Outline]) -> Mapping[str, Outline]:
    if isinstance(documents, Stored):
        return documents.outlines
    return {name: outline(document) for name, document in documents.items()}


def _plan_bucket(plan: UsagePlan, throttle: Throttle, stage_id: str, method: str) -> Bucket:
    """A method entry replaces the plan's bucket; under "key_method" each method has one of the plan's size."""
    opened = plan.stage(stage_id)
    entry = opened.throttles.get(method) if opened else None
    if entry is None and plan.throttle_scope == "key":
        return Bucket(f"plan:{plan.id}", throttle)
    place = method_field(plan.id, stage_id, method)
    return Bucket(f"plan:{plan.id}:{method}", entry or throttle, place)


def overlaps(plans: Iterable[UsagePlan]) -> Iterable[tuple[UsagePlan, UsagePlan, str]]:
    """Yield each pair of plans that open the same stage, with that stage: no key may be in both."""
    by_stage: dict[str, list[UsagePlan]] = {}
    for plan in plans:
        for opened in plan.stages:
            for other in by_stage.setdefault(opened.stage, []):
                yield other, plan, opened.stage
            by_stage[opened.stage].append(plan)
