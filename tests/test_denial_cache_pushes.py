"""The denial cache beside real traffic: no round trip while a key is out, and lifted by whatever changes it."""

import asyncio
from contextlib import contextmanager

import pytest
from promises import METHOD, STAGE, replica
from promises_of_replicas import FOREVER, wait_for

from ratelimit import (
    AsyncLimiter,
    Catalog,
    Limiter,
    PlanStage,
    Quota,
    Throttle,
    UsagePlan,
)

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
