"""What a key gives access to, which APIs a plan spans, and which plans a developer portal may offer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from ratelimit.admin.keys import KeyAdmin
from ratelimit.effects import Operation
from ratelimit.engine.compile import applicable_limits
from ratelimit.model import MICROSECONDS, ApiKey, FrozenMap, Quota, Throttle, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.snapshot import CatalogSnapshot


@dataclass(frozen=True, slots=True)
class MethodAccess:
    """A method of a stage that a key may call.

    Attributes:
        limits: Names of the limits that apply to a request, as in `Decision.limits`.
        key_required: Whether the method needs a key at all.
    """

    limits: tuple[str, ...]
    key_required: bool = True


@dataclass(frozen=True, slots=True)
class StageAccess:
    """A stage that a key may call.

    Attributes:
        stage: Id of the stage.
        plan: Id of the key's plan that opens it.
        methods: By name, each method that has limits of its own; "*" stands for all others, unless the stage denies
            them.
    """

    stage: str
    plan: str
    methods: Mapping[str, MethodAccess]


class KeyAccess:
    """What the keys of one namespace give access to."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._keys = KeyAdmin(namespace)

    def key_access(self, key_id: str) -> Operation[list[StageAccess]]:
        """Return the stages that a key opens; none while it is disabled or expired."""
        key = yield from self._keys.get_key(key_id)
        snapshot = yield from self._namespace.load()
        now = (yield from self._namespace.server_us()) / MICROSECONDS
        if not key.enabled or (key.expires_at is not None and key.expires_at <= now):
            return []
        return list(_stages_of_key(key, snapshot, self._namespace))


def _stages_of_key(key: ApiKey, snapshot: CatalogSnapshot, namespace: Namespace) -> Iterator[StageAccess]:
    """Yield every stage that the plans of a key open, in the order of the plans."""
    for plan_id in key.plans:
        plan = snapshot.plans.get(plan_id)
        for plan_stage in plan.stages if plan else ():
            listed = (*sorted(snapshot.methods_by_stage[plan_stage.stage]), OTHERS)
            methods = [method for method in listed if plan and not snapshot.denies(plan, plan_stage.stage, method)]
            access = {method: _method_access(plan, plan_stage.stage, method, snapshot, namespace) for method in methods}
            yield StageAccess(plan_stage.stage, plan_id, FrozenMap(access))


def _method_access(
    plan: UsagePlan | None, stage: str, method: str, snapshot: CatalogSnapshot, namespace: Namespace
) -> MethodAccess:
    key_required = snapshot.method(stage, method).key_required
    limits = applicable_limits(snapshot, plan if key_required else None, stage, method, namespace.names)
    return MethodAccess(tuple(limit.name for limit in limits), key_required)


def apis_of_plan(plan: UsagePlan) -> frozenset[str]:
    """Return the names of the APIs that a plan opens: each of its keys opens all of them."""
    return frozenset(plan_stage.stage.partition("/")[0] for plan_stage in plan.stages)


class OfferedThrottle(TypedDict):
    """A throttle as plain data: requests per second, and how many at once."""

    rate: float
    burst: int


class OfferedQuota(TypedDict):
    """A quota as plain data: so many requests per period, which starts `offset` days after the calendar's."""

    limit: int
    period: str
    offset: int


class Offer(TypedDict):
    """A plan as plain data that can be written as JSON."""

    id: str
    name: str
    stages: list[str]
    throttle: OfferedThrottle | None
    quota: OfferedQuota | None


def offers(snapshot: CatalogSnapshot) -> list[Offer]:
    """Return the plans that a developer portal may offer, sorted by id: those that open a stage."""
    return [
        Offer(
            id=plan.id,
            name=plan.name,
            stages=[plan_stage.stage for plan_stage in plan.stages],
            throttle=_offered_throttle(plan.throttle),
            quota=_offered_quota(plan.quota),
        )
        for _, plan in sorted(snapshot.plans.items())
        if plan.stages
    ]


def _offered_throttle(throttle: Throttle | None) -> OfferedThrottle | None:
    if throttle is None:
        return None
    rate = throttle.rate
    return OfferedThrottle(rate=int(rate) if rate.denominator == 1 else float(rate), burst=throttle.burst)


def _offered_quota(quota: Quota | None) -> OfferedQuota | None:
    return OfferedQuota(limit=quota.limit, period=quota.period, offset=quota.offset) if quota else None
