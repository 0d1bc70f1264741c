"""What a key opens, what a plan spans, what a developer portal may offer."""

import json

import pytest
from helpers.redis_snapshot import snapshot

from ratelimit import (
    AsyncCatalog,
    Catalog,
    Limiter,
    Method,
    NotFound,
    PlanStage,
    Quota,
    Stage,
    Throttle,
    UsagePlan,
)
from ratelimit.admin.key_access import MethodAccess, StageAccess, apis_of_plan, offers
from ratelimit.registry.snapshot import CatalogSnapshot

GOLD = UsagePlan(
    "gold",
    Throttle(10, 5),
    Quota(100, "WEEK", 1),
    [PlanStage("a/prod", {"GET /slow": Throttle(1, 1)}), "b/prod"],
    "Gold",
)
FREE = UsagePlan("free", stages=["c/prod"])
OTHER = UsagePlan("other", Throttle("1/3", 1), stages=["a/test"])
STAGE = Stage(
    "a/prod", Throttle(50, 50), {"GET /open": Method(key_required=False), "GET /pets": Method(Throttle(3, 3))}
)


@pytest.fixture
def catalog(limiter):
    made = limiter.catalog
    for plan in (GOLD, FREE, OTHER):
        made.put_plan(plan)
    made.put_stage(STAGE)
    made.put_stage(Stage("d/prod", Throttle(1, 1)))
    made.set_account_throttle(Throttle(1000, 1000))
    return made


def test_a_key_opens_every_stage_of_its_plans(catalog):
    """Each stage of each plan, with the methods configured there, whoever configured them, and all others as "*"."""
    key = catalog.create_key(plans=["gold", "free"])
    assert catalog.key_access(key.id) == [
        StageAccess(
            "a/prod",
            "gold",
            {
                "GET /open": MethodAccess(("stage:a/prod:GET /open", "account"), key_required=False),
                "GET /pets": MethodAccess(("plan:gold", "stage:a/prod:GET /pets", "account", "quota:gold")),
                "GET /slow": MethodAccess(("plan:gold:GET /slow", "stage:a/prod:GET /slow", "account", "quota:gold")),
                "*": MethodAccess(("plan:gold", "stage:a/prod:*", "account", "quota:gold")),
            },
        ),
        StageAccess("b/prod", "gold", {"*": MethodAccess(("plan:gold", "account", "quota:gold"))}),
        StageAccess("c/prod", "free", {"*": MethodAccess(("account",))}),
    ]


def test_a_stage_that_denies_what_is_not_listed(catalog):
    """Only what it or the key's plan lists is there: neither "*" nor what another plan lists."""
    catalog.put_plan(UsagePlan("more", Throttle(1, 1), None, [PlanStage("a/prod", {"GET /more": Throttle(1, 1)})]))
    catalog.put_stage(Stage("a/prod", None, {"GET /pets": Method()}, unlisted="deny"))
    opened = [catalog.key_access(catalog.create_key(plans=[plan]).id)[0] for plan in ("gold", "more")]
    assert [list(stage.methods) for stage in opened] == [["GET /pets", "GET /slow"], ["GET /more", "GET /pets"]]


def test_what_is_said_to_be_open_is_what_checks_let_through(catalog, limiter):
    """On each stage and method the limits of the decision; on all other stages a refusal."""
    key = catalog.create_key(plans=["gold", "free"])
    opened = {stage.stage: stage.methods for stage in catalog.key_access(key.id)}
    for stage in ("a/prod", "a/test", "b/prod", "c/prod", "d/prod"):
        for method in ("GET /open", "GET /pets", "GET /slow", "GET /else"):
            decision = limiter.peek(key.value, stage, method)
            if stage in opened:
                opened_method = opened[stage].get(method, opened[stage]["*"])
                assert tuple(limit.name for limit in decision.limits) == opened_method.limits
                without_key = limiter.peek(None, stage, method)
                assert (without_key.detail == "missing") is opened_method.key_required
            else:
                assert decision.detail == "no_plan_for_stage"


def test_a_key_that_is_refused_opens_nothing(catalog, clock, backend):
    """Disabled, expired to the microsecond, or without plans; asking changes nothing. An unknown one is NotFound."""
    key = catalog.create_key(plans=["free"], expires_at=clock.now_us / 1_000_000 + 1)
    clock.advance_us(999_999)
    with backend.client() as client:
        before = snapshot(client)
        assert [stage.stage for stage in catalog.key_access(key.id)] == ["c/prod"]
        clock.advance_us(1)
        assert catalog.key_access(key.id) == []
        assert snapshot(client) == before
    off = catalog.create_key(plans=["free"], enabled=False)
    assert catalog.key_access(off.id) == []
    assert catalog.key_access(catalog.create_key().id) == []
    with pytest.raises(NotFound):
        catalog.key_access("nobody")


@pytest.mark.asyncio
async def test_the_twin_says_the_same(backend):
    """What a key opens, blocking and awaited."""
    async with backend.async_client() as async_client:
        with backend.client() as client, Limiter(client, deadline=5) as limiter:
            limiter.catalog.put_plan(GOLD)
            key = limiter.catalog.create_key(plans=["gold"])
            assert await AsyncCatalog(async_client).key_access(key.id) == Catalog(client).key_access(key.id) != []


def test_a_plan_spans_the_apis_of_its_stages():
    """Stages of one API count once."""
    assert apis_of_plan(GOLD) == {"a", "b"}
    assert apis_of_plan(UsagePlan("x", stages=["a/prod", "a/test"])) == {"a"}
    assert apis_of_plan(UsagePlan("x")) == frozenset()


def test_offers_are_plans_as_plain_data():
    """By id, without plans that open nothing; the same after a round trip through JSON."""
    snapshot = CatalogSnapshot(
        plans={plan.id: plan for plan in (OTHER, GOLD, FREE, UsagePlan("hidden", Throttle(1, 1)))}
    )
    expected = [
        {"id": "free", "name": "", "stages": ["c/prod"], "throttle": None, "quota": None},
        {
            "id": "gold",
            "name": "Gold",
            "stages": ["a/prod", "b/prod"],
            "throttle": {"rate": 10, "burst": 5},
            "quota": {"limit": 100, "period": "WEEK", "offset": 1},
        },
        {"id": "other", "name": "", "stages": ["a/test"], "throttle": {"rate": 1 / 3, "burst": 1}, "quota": None},
    ]
    assert offers(snapshot) == expected
    assert json.loads(json.dumps(offers(snapshot))) == expected
