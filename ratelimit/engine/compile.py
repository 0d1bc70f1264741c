"""From a catalogue's snapshot to the compiled limits of a request."""

from __future__ import annotations

from collections.abc import Iterator

from ratelimit.engine import protocol
from ratelimit.engine.limits import (
    KEY_HASH,
    Bucket,
    CompiledLimits,
    IdentityBound,
    Limit,
    PlanLimits,
    QuotaCount,
    Shadow,
)
from ratelimit.engine.spread_limits import SpreadLimits
from ratelimit.model import Throttle, UsagePlan
from ratelimit.registry.redis_keys import RedisKeys, method_field, plan_field, shadow_field
from ratelimit.registry.snapshot import CatalogSnapshot


def compile_limits(
    snapshot: CatalogSnapshot,
    plan: UsagePlan | None,
    stage_id: str,
    method: str,
    redis_keys: RedisKeys,
    *,
    is_identity: bool = False,
    has_slots: bool = False,
) -> CompiledLimits:
    """Return the limits of a request, in the order in which they are reported: plan, stage, account, quota.

    Args:
        snapshot: The catalogue.
        plan: The key's plan that opens the stage; None for a request that needs no key.
        stage_id: The stage, as the caller named it.
        method: The method, as the caller named it.
        redis_keys: Names of the namespace.
        is_identity: Whether an identity makes the request, and no key: nobody reads shadows and alerts of these.
        has_slots: Whether one script may only touch keys of one slot.
    """
    limits = tuple(applicable_limits(snapshot, plan, stage_id, method, redis_keys))
    if has_slots:
        return _spread(snapshot, plan, stage_id, method, redis_keys, limits, is_identity=is_identity)
    if plan is None:
        return CompiledLimits(limits)
    if is_identity:
        return CompiledLimits(limits, plan_field(plan.id), is_identity=True, bound=IdentityBound.of(plan, redis_keys))
    shadow = _shadow(snapshot, plan, stage_id, method)
    return CompiledLimits(limits, plan_field(plan.id), shadow, plan.alerts, redis_keys.alerts)


def _spread(
    snapshot: CatalogSnapshot,
    plan: UsagePlan | None,
    stage_id: str,
    method: str,
    redis_keys: RedisKeys,
    limits: tuple[Limit, ...],
    *,
    is_identity: bool,
) -> CompiledLimits:
    """Return the limits of a request that are spread over slots; see `compile_limits`."""
    stage = snapshot.bucket_stage(stage_id)
    if plan is None:
        return SpreadLimits(limits, None, stage)
    own_limits = [limit for limit in limits if not limit.shared]
    counts, bound = list[int](), None
    if is_identity:
        own = CompiledLimits(own_limits, plan_field(plan.id), is_identity=True)
        bound = IdentityBound.of(plan, redis_keys)
    else:
        shadow = _shadow(snapshot, plan, stage_id, method)
        own = CompiledLimits(own_limits, plan_field(plan.id), shadow, plan.alerts, KEY_HASH)
        counts = protocol.alert_counts(plan.alerts, plan.quota.limit) if plan.quota else []
    own.layout = None  # the keys of several checks lie in different slots
    if len(own_limits) == len(limits) and not counts and bound is None:
        return own
    return SpreadLimits(limits, own, stage, plan_field(plan.id), counts, bound)


def applicable_limits(
    snapshot: CatalogSnapshot, plan: UsagePlan | None, stage_id: str, method: str, redis_keys: RedisKeys
) -> Iterator[Limit]:
    """Yield the limits of a request, as `compile_limits` compiles them; see there for the arguments."""
    stage_id = snapshot.bucket_stage(stage_id)
    if plan is not None and plan.throttle is not None:
        yield _plan_bucket(plan, plan.throttle, stage_id, snapshot.plan_method(plan, stage_id, method))
    throttle = snapshot.stage_throttle(stage_id, method)
    if throttle is not None:
        shared = snapshot.stage_method(stage_id, method)
        yield Bucket(f"stage:{stage_id}:{shared}", throttle, redis_keys.stage_bucket(stage_id, shared), shared=True)
    if snapshot.account is not None:
        yield Bucket("account", snapshot.account, redis_keys.account, shared=True)
    if plan is not None and plan.quota is not None:
        yield QuotaCount(f"quota:{plan.id}", plan.quota)


def _plan_bucket(plan: UsagePlan, throttle: Throttle, stage_id: str, method: str) -> Bucket:
    """A method entry replaces the plan's bucket; under "key_method" each method has one of the plan's size."""
    plan_stage = plan.stage(stage_id)
    entry = plan_stage.throttles.get(method) if plan_stage else None
    if entry is None and plan.throttle_scope == "key":
        return Bucket(f"plan:{plan.id}", throttle)
    return Bucket(f"plan:{plan.id}:{method}", entry or throttle, method_field(plan.id, stage_id, method))


def _shadow(snapshot: CatalogSnapshot, plan: UsagePlan, stage_id: str, method: str) -> Shadow | None:
    successor = snapshot.plans.get(plan.shadow or "")
    if successor is None or not snapshot.opens(successor.id, stage_id):
        return None
    throttle, method = successor.throttle, snapshot.plan_method(successor, stage_id, method)
    bucket = _plan_bucket(successor, throttle, stage_id, method) if throttle else None
    fields = [plan_field(successor.id)] + ([bucket.field_or_key] if bucket and bucket.field_or_key else [])
    return Shadow(PlanLimits(bucket and bucket.throttle, successor.quota), tuple(map(shadow_field, fields)))
