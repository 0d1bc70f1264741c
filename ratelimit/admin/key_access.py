"""What a key opens, which APIs a plan spans, and which plans a developer portal may offer. Pure."""

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
class OpenMethod:
    """A method of a stage: the limits that requests meet, named as in decisions, and whether it needs the key."""

    limits: tuple[str, ...]
    key_required: bool = True


@dataclass(frozen=True, slots=True)
class OpenStage:
    """A stage that a key opens by one of its plans. `methods` has each configured method, and "*": all others."""

    stage: str
    plan: str
    methods: Mapping[str, OpenMethod]


class KeyOpens:
    """What the keys of one namespace open."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._keys = KeyAdmin(namespace)

    def opens(self, key_id: str) -> Operation[list[OpenStage]]:
        """Return the stages that a key opens; none while it is disabled or expired."""
        key = yield from self._keys.get_key(key_id)
        snapshot = yield from self._namespace.load()
        now = (yield from self._namespace.server_us()) / MICROSECONDS
        if not key.enabled or (key.expires_at is not None and key.expires_at <= now):
            return []
        return list(opened_by(key, snapshot, self._namespace))


def opened_by(key: ApiKey, snapshot: CatalogSnapshot, namespace: Namespace) -> Iterator[OpenStage]:
    """Yield what the plans of a key open, in their order: every stage of each."""
    for plan_id in key.plans:
        plan = snapshot.plans.get(plan_id)
        for opened in plan.stages if plan else ():
            methods = (*sorted(snapshot.methods_by_stage[opened.stage]), OTHERS)
            found = {method: _open_method(plan, opened.stage, method, snapshot, namespace) for method in methods}
            yield OpenStage(opened.stage, plan_id, FrozenMap(found))


def _open_method(
    plan: UsagePlan | None, stage: str, method: str, snapshot: CatalogSnapshot, namespace: Namespace
) -> OpenMethod:
    key_required = snapshot.method(stage, method).key_required
    limits = applicable_limits(snapshot, plan if key_required else None, stage, method, namespace.names)
    return OpenMethod(tuple(limit.name for limit in limits), key_required)


def spans(plan: UsagePlan) -> frozenset[str]:
    """Return the names of the APIs that a plan opens: a key of the plan opens all of them."""
    return frozenset(opened.stage.partition("/")[0] for opened in plan.stages)


class OfferedThrottle(TypedDict):
    """Requests per second, and how many at once."""

    rate: float
    burst: int


class OfferedQuota(TypedDict):
    """So many requests per period, which starts anew `offset` days after the calendar's."""

    limit: int
    period: str
    offset: int


class Offer(TypedDict):
    """A plan as plain data, to be made JSON of."""

    id: str
    name: str
    stages: list[str]
    throttle: OfferedThrottle | None
    quota: OfferedQuota | None


def offers(snapshot: CatalogSnapshot) -> list[Offer]:
    """Return the plans that a developer portal may offer, by id: those that open anything."""
    return [
        Offer(
            id=plan.id,
            name=plan.name,
            stages=[opened.stage for opened in plan.stages],
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
