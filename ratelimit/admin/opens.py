"""What a key opens, which APIs a plan spans, and which plans a developer portal may offer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

from ratelimit.admin.keys import KeyAdmin
from ratelimit.core.book import PlanBook
from ratelimit.core.flow import Flow
from ratelimit.core.names import OTHERS
from ratelimit.core.state import Namespace
from ratelimit.model import MICROSECONDS, ApiKey, FrozenMap, Quota, Throttle, UsagePlan


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

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self._keys = KeyAdmin(state)

    def opens(self, key_id: str) -> Flow[list[OpenStage]]:
        """Return the stages that a key opens; none while it is disabled or expired."""
        key = yield from self._keys.get_key(key_id)
        book = yield from self._state.load()
        now = (yield from self._state.server_us()) / MICROSECONDS
        if not key.enabled or (key.expires_at is not None and key.expires_at <= now):
            return []
        return list(opened_by(key, book, self._state))


def opened_by(key: ApiKey, book: PlanBook, state: Namespace) -> Iterator[OpenStage]:
    """Yield what the plans of a key open, in their order: every stage of each."""
    for plan_id in key.plans:
        plan = book.plans.get(plan_id)
        for opened in plan.stages if plan else ():
            methods = (*sorted(book.methods_of[opened.stage]), OTHERS)
            found = {method: _open_method(plan, opened.stage, method, book, state) for method in methods}
            yield OpenStage(opened.stage, plan_id, FrozenMap(found))


def _open_method(plan: UsagePlan | None, stage: str, method: str, book: PlanBook, state: Namespace) -> OpenMethod:
    key_required = book.method(stage, method).key_required
    limits = book._limits(plan if key_required else None, stage, method, state.names)
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


def offers(book: PlanBook) -> list[Offer]:
    """Return the plans that a developer portal may offer, by id: those that open anything."""
    return [
        Offer(
            id=plan.id,
            name=plan.name,
            stages=[opened.stage for opened in plan.stages],
            throttle=_offered_throttle(plan.throttle),
            quota=_offered_quota(plan.quota),
        )
        for _, plan in sorted(book.plans.items())
        if plan.stages
    ]


def _offered_throttle(throttle: Throttle | None) -> OfferedThrottle | None:
    if throttle is None:
        return None
    rate = throttle.rate
    return OfferedThrottle(rate=int(rate) if rate.denominator == 1 else float(rate), burst=throttle.burst)


def _offered_quota(quota: Quota | None) -> OfferedQuota | None:
    return OfferedQuota(limit=quota.limit, period=quota.period, offset=quota.offset) if quota else None
