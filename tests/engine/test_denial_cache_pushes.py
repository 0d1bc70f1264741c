"""The denial cache beside real traffic: no round trip while a key is out, and lifted by whatever changes it."""

import asyncio
from contextlib import contextmanager

import pytest
from helpers.denial_cache import ABOVE, both, turn_on
from helpers.replica import FOREVER, METHOD, STAGE, caching_replica
from helpers.waiting import wait_for

from ratelimit import (
    AsyncLimiter,
    Catalog,
    Limiter,
    PlanStage,
    Quota,
    Throttle,
    UsagePlan,
)
from ratelimit.scripts import ScriptCall

ELSEWHERE = "admin/prod"
MAX_AGE_US = 5_000_000


@contextmanager
def caching(backend, clock, *plans, **options):
    """A replica that keeps what it is told and hears no pushes, and a key of each plan."""
    with caching_replica(backend, clock, **options) as limiter:
        for plan in plans:
            limiter.catalog.put_plan(plan)
        keys = [limiter.catalog.create_key(plans=[plan.id]) for plan in plans]
        turn_on(limiter, keys[0].value, STAGE, METHOD)
        yield limiter, *keys


def gold(throttle=None, quota=None, entries=None):
    return UsagePlan("gold", throttle, quota, [PlanStage(STAGE, entries or {}), ELSEWHERE])


def ask(limiter, key, cost=1, method=METHOD, stage=STAGE):
    return limiter.check(key.value, stage, method, cost)


def out(limiter, key, costs=(1,), cost=1):
    """Use what is there, as Redis says, and be refused, as is then known."""
    for each in costs:
        assert ask(limiter, key, each).allowed
    if not costs:
        assert not ask(limiter, key, cost).allowed
    refused = ask(limiter, key, cost)
    assert (refused.allowed, refused.source) == (False, "denial_cache")
    return refused


# What is answered


def commands_run(client):
    """How many commands a server has carried out, but for those that ask it this."""
    stats = client.info("commandstats")
    return {
        name: stat["calls"] for name, stat in stats.items() if name not in {"cmdstat_info", "cmdstat_client|setinfo"}
    }


def test_an_abuser_costs_no_round_trip(server, clock):
    """A hundred checks of a key that is out, of any cost, send nothing to the server: both twins.

    Before that Redis is asked three times: what is admitted, what is denied first, and what is kept.
    """
    with caching(server, clock, gold(Throttle("1/1000", 2))) as (limiter, key), server.client() as client:
        assert ask(limiter, key, 2).allowed
        before = commands_run(client)
        assert [ask(limiter, key, 1 + turn % 3).source for turn in range(100)] == ["denial_cache"] * 100
        assert commands_run(client) == before

        async def twin():
            async with server.async_client() as own, AsyncLimiter(own, deadline=5.0, clock=clock) as limiter:
                limiter._namespace.before_refresh = lambda: None
                request = key.value, STAGE, METHOD
                assert [(await limiter.check(*request)).source for _ in range(2)] == ["redis", "redis"]
                before = commands_run(client)
                answers = [await limiter.check(*request, 1 + turn % 3) for turn in range(100)]
                together = await asyncio.gather(*[limiter.check(*request) for _ in range(100)])
                assert [answer.source for answer in answers + together] == ["denial_cache"] * 200
                assert commands_run(client) == before

        asyncio.run(twin())


def test_an_abuser_asks_once_in_max_age(backend, clock):
    """A minute of ten checks a second: Redis is asked every five seconds, and no more often."""
    with both(backend, clock, gold(Throttle("1/1000", 2)), max_age=5.0) as world:
        assert world.check(2).allowed
        sources = []
        for _ in range(600):
            clock.advance_us(100_000)
            sources.append(world.check().source)
        assert sources.count("redis") == 12
        assert sources[:49] == ["denial_cache"] * 49


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
                    turn_on(limiter, *request)
                    assert not (await twin.check(*request, ABOVE)).allowed
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
        CHANGES[change](limiter.catalog, key, tmp_path)
        assert ask(limiter, key).source == "redis"


def test_an_upgrade_is_served_at_once(backend, clock):
    """A key that was out and moves to a larger plan, or whose quota is extended, is admitted by the next check."""
    larger = UsagePlan("larger", None, Quota(10, "DAY"), [STAGE])
    with caching(backend, clock, gold(quota=Quota(1, "DAY")), larger) as (limiter, key, _):
        out(limiter, key)
        limiter.catalog.set_remaining("gold", key.id, 1)
        assert ask(limiter, key).allowed
        out(limiter, key, [])
        limiter.catalog.move_key(key.id, "gold", "larger")
        assert ask(limiter, key).allowed


def test_what_is_heard_of_keys_loads_no_plans(backend, clock):
    """ "key:<id>" lifts one key, "keys" all; a version, or a gap, has the snapshot compared as well."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        state, other = limiter._namespace, limiter.catalog.create_key(plans=["gold"])
        for message, reach_redis, looks in (
            (f"key:{key.id}", (True, False), False),
            ("keys", (True, True), False),
            ("17", (True, True), True),
            (None, (True, True), True),
        ):
            for each in (key, other):
                ask(limiter, each)
                assert ask(limiter, each).source == "denial_cache"
            state.on_change_message(message)
            assert state.is_stale(MAX_AGE_US, clock()) is looks
            assert tuple(ask(limiter, each).source == "redis" for each in (key, other)) == reach_redis


def test_a_late_denial_is_not_kept(backend, clock):
    """What was asked before a change was heard of and is answered after it says nothing of what holds now."""
    with caching(backend, clock, gold(Throttle(0, 0))) as (limiter, key):
        out(limiter, key, [])
        right = limiter._store._execute

        def overtaken(request, *wait):
            reply = right(request, *wait)
            if isinstance(request, ScriptCall):
                clock.advance_us(1)
                limiter._namespace.on_change_message(f"key:{key.id}")
            return reply

        limiter._namespace.on_change_message(f"key:{key.id}")
        limiter._store._execute = overtaken
        assert ask(limiter, key).source == "redis"
        limiter._store._execute = right
        assert [ask(limiter, key).source for _ in range(2)] == ["redis", "denial_cache"]


def disabled(catalog, key):
    catalog.update_key(key.id, enabled=False)


def deleted(catalog, key):
    catalog.delete_key(key.id)


def without_a_plan(catalog, key):
    catalog.remove_key_from_plan(key.id, "gold")


@pytest.mark.parametrize(
    ("change", "detail"), [(disabled, "disabled"), (deleted, "unknown"), (without_a_plan, "no_plan_for_stage")]
)
def test_a_key_that_opens_nothing_is_refused_as_such(backend, clock, change, detail):
    """Finding B, trace 6. Its next check says 403, while what all share is out: once the change was heard of."""
    with both(backend, clock, gold(), account=Throttle("1/1000", 2)) as world:
        other = world.catalog.create_key(plans=["gold"])
        assert world.check(2).allowed
        assert [world.source(), world.source(key=other), world.source(key=other)] == [
            "denial_cache",
            "redis",
            "denial_cache",
        ]
        change(world.asks.catalog, world.key)
        assert world.check().status == 429
        world.knows._namespace.on_change_message(f"key:{world.key.id}")
        assert [(each.status, each.detail) for each in (world.check(), world.check())] == [(403, detail)] * 2
        assert world.source(key=other) == "denial_cache"


def test_a_key_is_open_again_at_once(backend, clock):
    """Disabled while its bucket is out, and enabled again: what the script says holds, each time."""
    with both(backend, clock, gold(Throttle("1/10", 1)), account=Throttle("1/1000", 9)) as world:
        assert world.check().allowed
        for _ in range(2):
            assert world.source() == "denial_cache"
            disabled(world.catalog, world.key)
            assert [world.check().detail for _ in range(2)] == ["disabled"] * 2
            world.catalog.update_key(world.key.id, enabled=True)
            assert [world.source(), world.source()] == ["redis", "denial_cache"]
