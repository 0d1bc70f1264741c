"""Who is known to be out is refused in process: exactly as Redis would, for as long as that is known, and no longer."""

import asyncio
from contextlib import contextmanager

import pytest
from promises import METHOD, OTHER, SLOW, STAGE, replica
from promises_of_replicas import FOREVER, wait_for

from ratelimit import (
    AsyncLimiter,
    Catalog,
    ConfigError,
    Limiter,
    Method,
    PlanStage,
    Quota,
    Stage,
    Throttle,
    UsagePlan,
)
from ratelimit.core import denial_cache

ELSEWHERE = "admin/prod"
MAX_AGE_US = 5_000_000


@contextmanager
def caching(backend, clock, *plans, **options):
    """A replica with a denial cache that hears no pushes, and a key of each plan."""
    with replica(backend, clock=clock, denial_cache=True, **options) as limiter:
        clock.advance_us(-2)  # nothing is kept that is asked for at the moment of a change
        for plan in plans:
            limiter.catalog.put_plan(plan)
        keys = [limiter.catalog.create_key(plans=[plan.id]) for plan in plans]
        clock.advance_us(2)
        yield limiter, *keys


def gold(throttle=None, quota=None, entries=None):
    return UsagePlan("gold", throttle, quota, [PlanStage(STAGE, entries or {}), ELSEWHERE])


def ask(limiter, key, cost=1, method=METHOD, stage=STAGE):
    return limiter.check(key.value, stage, method, cost)


def told(decision):
    """What a caller goes by, and who answered."""
    return decision.source, decision.limited_by, decision.retry_after


def out(limiter, key, costs=(1,), cost=1):
    """Use what is there, and be refused by Redis."""
    for each in costs:
        assert ask(limiter, key, each).allowed
    refused = ask(limiter, key, cost)
    assert (refused.allowed, refused.source) == (False, "redis")
    return refused


# What is answered


def test_equal_and_higher_costs_are_refused_exactly(backend, clock):
    """By what Redis said of a cost of 1, a cost of 1 to 5 waits as long as Redis says, and 6 of 5 for ever."""
    with caching(backend, clock, gold(Throttle(10, 5))) as (limiter, key), replica(backend, clock=clock) as plain:
        out(limiter, key, [5])
        clock.advance_us(40_001)
        for cost in range(1, 7):
            asked, known = ask(plain, key, cost), ask(limiter, key, cost)
            assert (known.source, known.limits) == ("denial_cache", asked.limits)
            assert told(known)[1:] == told(asked)[1:]
        assert ask(limiter, key).retry_after == 0.059999
        assert ask(limiter, key, 6).retry_after is None


def test_what_cannot_be_told_to_the_microsecond_is_asked(backend, clock):
    """At 3 a second another token takes a third of a microsecond more or less: a higher cost is asked again."""
    with caching(backend, clock, gold(Throttle(3, 5))) as (limiter, key):
        out(limiter, key, [5])
        assert told(ask(limiter, key)) == ("denial_cache", "plan:gold", 0.333334)
        assert told(ask(limiter, key, 2)) == ("redis", "plan:gold", 0.666667)


def test_smaller_costs_are_asked(backend, clock):
    """What has no room for 3 may have room for 2."""
    with caching(backend, clock, gold(Throttle(SLOW, 5))) as (limiter, key):
        out(limiter, key, [3], cost=3)
        assert told(ask(limiter, key, 3))[0] == "denial_cache"
        allowed = ask(limiter, key, 2)
        assert (allowed.allowed, allowed.source) == (True, "redis")


def test_never_is_known_for_max_age(backend, clock):
    """A rate of 0 admits nobody: that is asked again every five seconds, and not sooner."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        out(limiter, key, [])
        clock.advance_us(MAX_AGE_US - 1)
        assert told(ask(limiter, key)) == ("denial_cache", "plan:gold", None)
        clock.advance_us(1)
        assert told(ask(limiter, key)) == ("redis", "plan:gold", None)


def test_the_first_limit_is_named_and_the_longest_wait_told(backend, clock):
    """Bucket and quota are out: so says the cache; when the bucket has a token, the quota still refuses."""
    with (
        caching(backend, clock, gold(Throttle(1, 2), Quota(2, "DAY"))) as (limiter, key),
        replica(backend, clock=clock) as plain,
    ):
        assert told(out(limiter, key, [2])) == ("redis", "plan:gold", 43_200.0)
        for step, name in ((999_999, "plan:gold"), (1, "quota:gold")):
            clock.advance_us(step)
            asked, known = ask(plain, key), ask(limiter, key)
            assert known.source == "denial_cache"
            assert known.limited_by == asked.limited_by == name
            assert known.retry_after == asked.retry_after
            assert known.reason is asked.reason
            assert list(known.limits) == [limit for limit in asked.limits if limit.retry_after]


def test_the_moment_is_exact(backend, clock):
    """A microsecond before a limit admits again the cache refuses; then Redis is asked, and admits."""
    with caching(backend, clock, gold(Throttle("1/3", 1))) as (limiter, key):
        out(limiter, key)
        clock.advance_us(2_999_999)
        assert told(ask(limiter, key)) == ("denial_cache", "plan:gold", 0.000001)
        clock.advance_us(1)
        admitted = ask(limiter, key)
        assert (admitted.allowed, admitted.source) == (True, "redis")


def test_a_clock_that_went_back_is_asked(backend, clock):
    """What was learnt later than now is not gone by."""
    with caching(backend, clock, gold(Throttle("1/3", 1))) as (limiter, key):
        out(limiter, key)
        clock.advance_us(-1)
        assert ask(limiter, key).source == "redis"


def test_a_lost_push_is_caught_up(backend, clock):
    """A quota that was extended unheard is refused for `max_age` after it was asked for, and not longer."""
    with caching(backend, clock, gold(quota=Quota(1, "DAY"))) as (limiter, key), backend.client() as client:
        out(limiter, key)
        Catalog(client, clock=clock).set_remaining("gold", key.id, 1)
        clock.advance_us(MAX_AGE_US - 1)
        assert told(ask(limiter, key)) == ("denial_cache", "quota:gold", 43_195.000001)
        clock.advance_us(1)
        assert ask(limiter, key).allowed


def test_what_all_share_is_known_for_all(backend, clock):
    """A key that was told that the account is out spares another key the way; that key's own limits are its own."""
    silver = UsagePlan("silver", None, None, [STAGE])
    with caching(backend, clock, gold(), silver) as (limiter, one, other):
        limiter.catalog.set_account_throttle(Throttle(SLOW, 2))
        clock.advance_us(1)
        assert ask(limiter, one).allowed
        assert ask(limiter, other).allowed
        refused = ask(limiter, other)
        assert told(refused)[:2] == ("redis", "account")
        assert told(ask(limiter, one)) == ("denial_cache", "account", refused.retry_after)
        assert told(ask(limiter, other)) == ("denial_cache", "account", refused.retry_after)


def test_methods_without_a_key_are_refused_as_well(backend, clock):
    """The bucket of a stage holds for those who need no key."""
    with caching(backend, clock) as (limiter,):
        limiter.catalog.put_stage(Stage(STAGE, Throttle(SLOW, 1), {METHOD: Method(key_required=False)}))
        clock.advance_us(1)
        answers = [limiter.check(None, STAGE, METHOD) for _ in range(3)]
        assert [answer.source for answer in answers] == ["redis", "redis", "denial_cache"]
        assert answers[1].limited_by == answers[2].limited_by == f"stage:{STAGE}:{METHOD}"


def test_methods_of_the_same_name_are_told_apart(backend, clock):
    """Two stages may list the same method: what one refuses the other may admit, and so may another method."""
    tight = {METHOD: Throttle(SLOW, 1)}
    plan = UsagePlan("gold", Throttle(1, 9), None, [PlanStage(STAGE, tight), PlanStage(ELSEWHERE, tight)])
    with caching(backend, clock, plan) as (limiter, key):
        out(limiter, key)
        assert ask(limiter, key).source == "denial_cache"
        for stage, method in ((ELSEWHERE, METHOD), (STAGE, OTHER)):
            assert ask(limiter, key, method=method, stage=stage).allowed
            assert ask(limiter, key, method=method, stage=stage).source == "redis"


def test_the_cache_is_bounded(backend, clock, monkeypatch):
    """Beyond its bound the key that was refused first is asked again."""
    monkeypatch.setattr(denial_cache, "_MOST_KEYS", 2)
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        keys = [key, *(limiter.catalog.create_key(plans=["gold"]) for _ in range(2))]
        clock.advance_us(1)
        for each in keys:
            out(limiter, each, [])
        assert len(limiter._checker._cache._own) == 2
        assert [ask(limiter, each).source for each in keys[1:]] == ["denial_cache"] * 2
        assert ask(limiter, key).source == "redis"


def test_a_peek_asks(backend, clock):
    """It tells of every limit, and is never answered from the cache."""
    with caching(backend, clock, gold(Throttle(1, 1), Quota(9, "DAY"))) as (limiter, key):
        out(limiter, key)
        peeked = limiter.peek(key.value, STAGE, METHOD)
        assert (peeked.source, len(peeked.limits)) == ("redis", 2)


@pytest.mark.parametrize(("cost", "error"), [(True, TypeError), (1.0, TypeError), ("1", TypeError), (-1, ValueError)])
def test_a_cost_that_is_none_raises_as_ever(backend, clock, cost, error):
    """Also for a key that is known to be out."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        out(limiter, key, [])
        with pytest.raises(error):
            ask(limiter, key, cost)


def test_refusals_are_counted(backend, clock):
    """Those from the cache and those from Redis, in one sum and on their days."""
    with caching(backend, clock, gold(quota=Quota(1, "DAY"))) as (limiter, key):
        out(limiter, key)
        for _ in range(3):
            assert ask(limiter, key).source == "denial_cache"
        clock.set("2026-03-04T23:59:59")
        out(limiter, key, [])
        clock.advance_us(999_999)
        assert ask(limiter, key).source == "denial_cache"
        limiter._tick()
        usage = limiter.catalog.usage("gold", "2026-03-04", "2026-03-05")
        assert usage.denied[key.id] == [{"QUOTA_EXCEEDED": 6}, {}]


def test_it_can_be_switched_off(backend, clock):
    """Then each refusal is Redis' own; the switch takes a truth value alone."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (_, key), replica(backend, clock=clock) as plain:
        assert [ask(plain, key).source for _ in range(3)] == ["redis"] * 3
    with backend.client() as client, pytest.raises(ConfigError, match="denial_cache"):
        Limiter(client, denial_cache=1)


def test_refusals_of_leased_plans_are_not_kept(backend, clock):
    """What another replica gives back may admit the key again at any time, and nobody says so."""
    plan = UsagePlan("gold", Throttle(SLOW, 1), None, [STAGE], lease=1)
    with caching(backend, clock, plan) as (limiter, key):
        assert ask(limiter, key).allowed
        assert [ask(limiter, key).source for _ in range(3)] == ["redis"] * 3


# Round trips


def scripts_run(client):
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha", "get", "hmget"))


def test_no_round_trip_while_out(server, clock):
    """A hundred checks of a key that is out send nothing to the server: both twins."""
    with caching(server, clock, gold(Throttle(0, 0))) as (limiter, key), server.client() as client:
        out(limiter, key, [])
        before = scripts_run(client)
        assert [ask(limiter, key).source for _ in range(100)] == ["denial_cache"] * 100
        assert scripts_run(client) == before

        async def twin():
            async with server.async_client() as own, AsyncLimiter(own, clock=clock) as limiter:
                limiter._state.before_refresh = lambda: None
                assert (await limiter.check(key.value, STAGE, METHOD)).source == "redis"
                before = scripts_run(client)
                answers = [await limiter.check(key.value, STAGE, METHOD) for _ in range(100)]
                assert [answer.source for answer in answers] == ["denial_cache"] * 100
                assert scripts_run(client) == before

        clock.advance_us(1)
        asyncio.run(twin())


# What lifts it


def import_it(catalog, key, folder):
    path = folder / "keys.csv"
    path.write_text(f"key,name,enabled,usageplanIds\n{key.value},renamed,true,gold\n")
    catalog.import_keys(path)


CHANGES = {
    "quota": (lambda catalog, key, _: catalog.set_remaining("gold", key.id, 0)),
    "plan": (lambda catalog, *_: catalog.put_plan(gold(Throttle(0, 0), Quota(8, "DAY")))),
    "key": (lambda catalog, key, _: catalog.update_key(key.id, name="renamed")),
    "rotation": (lambda catalog, key, _: catalog.rotate_key(key.id, grace_s=60)),
    "move": (lambda catalog, key, _: catalog.move_key(key.id, "gold", "silver")),
    "import": import_it,
}
SILVER = UsagePlan("silver", Throttle(0, 0), None, [STAGE])
OUT = gold(Throttle(0, 0), Quota(9, "DAY"))


async def until(twin, request, source):
    for _ in range(2500):
        if (await twin.check(*request)).source == source:
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it never happened")


@pytest.mark.parametrize("change", CHANGES)
def test_a_push_lifts_it(server, tmp_path, change):
    """A key that would be refused for ever is asked about again once its change was pushed: both twins."""
    with server.client() as client:
        catalog = Catalog(client)
        for plan in (OUT, SILVER):
            catalog.put_plan(plan)
        key = catalog.create_key(plans=["gold"])

        def listening():
            return client.pubsub_numsub("ratelimit:changes")[0][1] == 2

        async def both():
            with server.client() as one, Limiter(one, max_age=FOREVER, deadline=5) as limiter:
                async with server.async_client() as two, AsyncLimiter(two, max_age=FOREVER, deadline=5) as twin:
                    request = key.value, STAGE, METHOD
                    limiter.check(*request)
                    await twin.check(*request)
                    await asyncio.to_thread(wait_for, listening)
                    await asyncio.sleep(0.05)  # what the subscription itself has lifted is over
                    await asyncio.to_thread(wait_for, lambda: limiter.check(*request).source == "denial_cache")
                    await until(twin, request, "denial_cache")
                    CHANGES[change](catalog, key, tmp_path)
                    await asyncio.to_thread(wait_for, lambda: limiter.check(*request).source == "redis")
                    await until(twin, request, "redis")

        asyncio.run(both())


@pytest.mark.parametrize("change", CHANGES)
def test_its_own_catalogue_needs_no_push(backend, clock, tmp_path, change):
    """What was changed through a limiter's own catalogue holds at its very next check."""
    with caching(backend, clock, OUT, SILVER) as (limiter, key, _):
        out(limiter, key, [])
        assert ask(limiter, key).source == "denial_cache"
        clock.advance_us(1)
        CHANGES[change](limiter.catalog, key, tmp_path)
        assert ask(limiter, key).source == "redis"


def test_an_upgrade_is_served_at_once(backend, clock):
    """A key that was out and moves to a larger plan, or whose quota is extended, is admitted by the next check."""
    larger = UsagePlan("larger", None, Quota(10, "DAY"), [STAGE])
    with caching(backend, clock, gold(quota=Quota(1, "DAY")), larger) as (limiter, key, _):
        out(limiter, key)
        limiter.catalog.set_remaining("gold", key.id, 1)
        assert ask(limiter, key).allowed
        clock.advance_us(1)
        out(limiter, key, [])
        limiter.catalog.move_key(key.id, "gold", "larger")
        assert ask(limiter, key).allowed


def test_what_is_heard_of_keys_loads_no_plans(backend, clock):
    """ "key:<id>" lifts one key, "keys" all; a version, or a gap, has the book compared as well."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        state, other = limiter._state, limiter.catalog.create_key(plans=["gold"])
        clock.advance_us(1)
        for message, asked, looks in (
            (f"key:{key.id}", (True, False), False),
            ("keys", (True, True), False),
            ("17", (True, True), True),
            (None, (True, True), True),
        ):
            for each in (key, other):
                ask(limiter, each)
                assert ask(limiter, each).source == "denial_cache"
            clock.advance_us(1)
            state.heard(message)
            assert state.needs_look(MAX_AGE_US, clock()) is looks
            clock.advance_us(1)
            assert tuple(ask(limiter, each).source == "redis" for each in (key, other)) == asked


def test_a_late_denial_is_not_kept(backend, clock):
    """What was asked before a change was heard of and is answered after it says nothing of what holds now."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        out(limiter, key, [])
        call = limiter._store.call

        def overtaken(question):
            reply = call(question)
            clock.advance_us(1)
            limiter._state.heard(f"key:{key.id}")
            return reply

        ask(limiter, key)
        limiter._state.heard(f"key:{key.id}")
        clock.advance_us(1)
        limiter._store.call = overtaken
        assert ask(limiter, key).source == "redis"
        limiter._store.call = call
        clock.advance_us(1)
        assert [ask(limiter, key).source for _ in range(2)] == ["redis", "denial_cache"]
