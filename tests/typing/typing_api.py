"""Code that must type-check under mypy --strict, as users write it. Never run; test_structure.py runs mypy on it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import assert_type

import redis
import redis.asyncio
import valkey
import valkey.asyncio

from ratelimit import (
    ApiKey,
    ApplyReport,
    AsyncCatalog,
    AsyncLimiter,
    AwsExport,
    AwsReport,
    Capacity,
    CapacityFigure,
    Catalog,
    Ceilings,
    ConfigError,
    Conflict,
    CreatedKey,
    Decision,
    Detail,
    FileSource,
    Identity,
    IdentityUsage,
    ImportReport,
    KeyDetails,
    KeyPage,
    Limiter,
    LimitStatus,
    Method,
    NoPrecondition,
    NotFound,
    PlanChange,
    PlanStage,
    ProgressCallback,
    Quota,
    RateLimited,
    RateLimitError,
    Reason,
    Replication,
    RowWarning,
    ShadowCounts,
    Source,
    Stage,
    StageAccess,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    Throttle,
    ThrottleScope,
    Usage,
    UsagePlan,
)


def model() -> UsagePlan:
    """Everything that a plan can be made of."""
    rates: list[int | float | str | Fraction | Decimal] = [10, 0.5, "1/3", Fraction(1, 3), Decimal("0.1")]
    throttles = [Throttle(rate, 5) for rate in rates]
    assert_type(throttles[0].rate, Fraction)
    assert_type(throttles[0].burst, int)
    assert_type(throttles[0].ratio, tuple[int, int])
    Quota(100, "DAY")
    Quota(limit=100, period="WEEK", offset=1)
    Quota(100, "HOUR")  # type: ignore[arg-type]
    Throttle(10)  # type: ignore[call-arg]
    stage = Stage("petstore/prod", throttles[0], {"GET /pets": Method(key_required=False)})
    assert_type(stage.methods["GET /pets"].throttle, Throttle | None)
    stages: list[PlanStage | str] = [PlanStage("petstore/prod", {"GET /pets": throttles[1]}), "petstore/test"]
    plan = UsagePlan("gold", throttles[0], Quota(1000, "MONTH", 27), stages, throttle_scope="key_method")
    UsagePlan("gold", quota=Quota(1000, "DAY"), alerts=[80, 100], shadow="silver")
    UsagePlan("gold", throttle_scope="method")  # type: ignore[arg-type]
    UsagePlan("gold", stages=["petstore/prod"])
    plan.id = "silver"  # type: ignore[misc]
    assert_type(plan.stages, tuple[PlanStage, ...])
    return plan


def blocking(client: redis.Redis, path: Path) -> None:
    """The limiter and the catalogue."""
    with Limiter.from_url("redis://localhost:6379/0", namespace="api", deadline=0.05, pepper=b"secret") as limiter:
        assert_type(limiter, Limiter)
        assert_type(limiter.check(Identity("user:42", plan="free"), "petstore/prod", "GET /pets"), Decision)
        decision = limiter.check("key", "petstore/prod", "GET /pets", cost=2)
        assert_type(limiter.peek(None, "petstore/prod", "GET /pets"), Decision)
        read(decision)
        administer(limiter.catalog, path)
    Limiter.from_url("redis://localhost", timeout=3)  # type: ignore[call-arg]
    Limiter("redis://localhost")  # type: ignore[arg-type]
    Limiter(valkey.Valkey(), max_age=1)
    Catalog(valkey.Valkey())
    Limiter(valkey.asyncio.Valkey())  # type: ignore[arg-type]
    limiter = Limiter(client, max_age=1, clock=lambda: 1)
    assert_type(limiter.url, str | None)
    limiter.close()
    Limiter.embedded(namespace="demo", pepper=["new", b"old"]).close()
    administer(Catalog(client, pepper="secret", ceilings=Ceilings.aws()), path)
    Catalog(client, ceilings=Ceilings(keys=10, plans=None))
    Catalog(client, ceilings={"keys": 10})  # type: ignore[arg-type]


def administer(catalog: Catalog, path: Path) -> None:
    """Every method of the catalogue."""
    assert_type(catalog.ceilings, Ceilings)
    catalog.ceilings = Ceilings(plans_per_key=10)
    assert_type(catalog.apply(path), ApplyReport)
    assert_type(catalog.apply(str(path), dry_run=True).changes, tuple[PlanChange, ...])
    catalog.put_plan(model())
    catalog.put_plan(model(), expected=None)
    catalog.put_plan(model(), expected=catalog.get_plan("gold"))
    catalog.put_plan(model(), expected="gold")  # type: ignore[arg-type]
    catalog.put_plan(model(), expected=NoPrecondition.NO_PRECONDITION)
    assert_type(catalog.get_plan("gold"), UsagePlan)
    assert_type(catalog.plans(), list[UsagePlan])
    catalog.delete_plan("gold")
    catalog.put_stage(Stage("petstore/prod"))
    assert_type(catalog.stages(), list[Stage])
    catalog.delete_stage("petstore/prod")
    catalog.set_account_throttle(Throttle(10_000, 5000))
    catalog.set_account_throttle(None, expected=Throttle(10_000, 5000))
    assert_type(catalog.get_account_throttle(), Throttle | None)
    assert_type(catalog.capacity(), Capacity)
    assert_type(catalog.capacity().total.rate, CapacityFigure)
    assert_type(catalog.shadow_counts("gold"), list[ShadowCounts])
    catalog.reset_shadow("gold")
    administer_keys(catalog)


def administer_keys(catalog: Catalog) -> None:
    """Those about keys."""
    key = catalog.create_key("me", plans=["gold"], enabled=False, expires_at=1e9)
    assert_type(key, CreatedKey)
    assert_type(key.value, str)
    assert_type(catalog.get_key(key.id), ApiKey)
    assert_type(catalog.get_key(key.id).value, str | None)
    assert_type(catalog.keys("app-"), list[ApiKey])
    page = catalog.list_keys("app-", limit=10, cursor=None)
    assert_type(page, KeyPage)
    assert_type(page.items, list[ApiKey])
    assert_type(page.cursor, str | None)
    assert_type(catalog.rotate_key(key.id, grace_s=3600), CreatedKey)
    assert_type(catalog.rotate_key(key.id, expected=catalog.get_key(key.id)).value, str)
    assert_type(catalog.usage("gold", date(2026, 3, 1), "2026-03-31").items[key.id][0], tuple[int, int | None])
    assert_type(catalog.usage("gold", "2026-03-01", "2026-03-31"), Usage)
    assert_type(catalog.identity_usage(Identity("user:42", "free")), IdentityUsage)
    assert_type(catalog.identity_count("free"), int | None)
    assert_type(catalog.usage("gold", "2026-03-01", "2026-03-31", cursor=None).cursor, str | None)
    assert_type(catalog.key_access(key.id), list[StageAccess])
    catalog.set_remaining("gold", key.id, 100)
    catalog.create_key("me", tags={"team": "a"}, owner="you", description="for the demo")
    catalog.create_key("me", colour="red")  # type: ignore[call-arg]
    details: KeyDetails = {"owner": "you", "expires_at": None}
    assert_type(catalog.update_key(key.id, enabled=True, name="you", **details), ApiKey)
    catalog.update_key(key.id, enabled=True, name="you", expires_at=None)
    catalog.update_key(key.id, colour="red")  # type: ignore[call-arg]
    assert_type(catalog.add_key_to_plan(key.id, "gold"), ApiKey)
    assert_type(catalog.move_key(key.id, "gold", "silver"), ApiKey)
    assert_type(catalog.remove_key_from_plan(key.id, "gold"), ApiKey)
    revoked = catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=2)
    assert_type(revoked.replication, Replication | None)
    assert_type(catalog.rotate_key(key.id, durable=True).replication, Replication | None)
    assert_type(catalog.delete_key(key.id, expected=key, durable=True), Replication | None)
    assert_type(Replication(1, 1, has_min_replicas=True).is_safe, bool)


def transfer(catalog: Catalog, path: Path, source: FileSource, progress: ProgressCallback, export: AwsExport) -> None:
    """Imports, with names for everything in their signatures."""
    assert_type(catalog.import_keys(path), ImportReport)
    assert_type(catalog.export_keys(path), int)
    report = catalog.import_keys(source, progress=progress, max_bytes=1000)
    assert_type(report.warnings, tuple[RowWarning, ...])
    scope: ThrottleScope = "key_method"
    assert_type(catalog.import_aws(export, throttle_scope=scope), AwsReport)


async def awaited(client: redis.asyncio.Redis) -> None:
    """The twins."""
    async with AsyncLimiter(client, namespace="api") as limiter:
        assert_type(limiter, AsyncLimiter)
        assert_type(limiter.catalog, AsyncCatalog)
        assert_type(await limiter.check("key", "petstore/prod", "GET /pets"), Decision)
        assert_type(await limiter.catalog.create_key(), CreatedKey)
        assert_type((await limiter.catalog.list_keys()).cursor, str | None)
    AsyncLimiter(redis.Redis())  # type: ignore[arg-type]
    AsyncLimiter(valkey.asyncio.Valkey())
    limiter = AsyncLimiter.from_url("redis://localhost")
    await limiter.aclose()


def read(decision: Decision) -> None:
    """All of a decision."""
    assert_type(decision.allowed, bool)
    assert_type(decision.reason, Reason)
    assert_type(decision.status, int)
    assert_type(decision.detail, Detail | None)
    assert_type(decision.limited_by, str | None)
    assert_type(decision.retry_after, float | None)
    assert_type(decision.limits, tuple[LimitStatus, ...])
    assert_type(decision.limits[0].reset_after, float | None)
    assert_type(decision.source, Source)
    assert_type(decision.degraded, bool)
    assert_type(decision.headers(), dict[str, str])
    if not decision:
        decision.raise_for_limit()


def errors() -> list[type[RateLimitError]]:
    """What can be caught, and what it carries."""
    try:
        Throttle(-1, 1)
    except RateLimited as error:
        assert_type(error.decision, Decision)
    except ConfigError as error:
        assert_type(error.field, str)
    return [Conflict, NotFound, StoreError, StoreTimeout, StoreUnavailable]
