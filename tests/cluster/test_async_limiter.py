"""An asyncio limiter and its catalogue on a cluster."""

import asyncio
import time
from collections import Counter

import pytest
from helpers.cluster import slot_of

from ratelimit import AsyncCatalog, AsyncLimiter, Quota, Throttle, UsagePlan

pytestmark = pytest.mark.asyncio

A, GET = "petstore/prod", "GET /pets"
LIMIT = 100


async def in_thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def create(limiter, plan, number):
    await limiter.catalog.put_plan(plan)
    return [await limiter.catalog.create_key(f"key {at}", plans=[plan.id]) for at in range(number)]


def slot_of_key(key):
    return slot_of(f"{{{key.id}}}")


def move(cluster, slot):
    home = cluster.owner_of(slot)
    cluster.migrate_slot(slot, next(node for node in cluster.primaries if node is not home))


@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_totals_are_exact_while_slots_migrate(valkey_cluster, library):
    """Of each key exactly as many checks are admitted as its quota has, and Redis decides each."""
    client = valkey_cluster.async_client(library)
    async with AsyncLimiter(client, deadline=2.0, denial_cache=False) as limiter:
        keys = await create(limiter, UsagePlan("gold", quota=Quota(LIMIT, "DAY"), stages=[A]), 30)
        await limiter.warm_up()
        decisions = []

        async def spend(key):
            for _ in range(LIMIT + 20):
                decisions.append((key.id, await limiter.check(key.value, A, GET)))
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(spend(key)) for key in keys]
        for key in keys[:15]:
            await in_thread(move, valkey_cluster, slot_of_key(key))
        await asyncio.gather(*tasks)
        assert Counter(decision.source for _, decision in decisions) == {"redis": 30 * (LIMIT + 20)}
        admitted = Counter(key_id for key_id, decision in decisions if decision.allowed)
        assert admitted == {key.id: LIMIT for key in keys}
    await client.aclose()
    await in_thread(valkey_cluster.wait_agreed)


async def test_a_stopped_node_is_felt_by_its_keys_alone(own_cluster):
    """Also if it is the catalogue's: keys of the others, met before, are checked as ever."""
    async with AsyncLimiter.from_url(own_cluster.url, deadline=0.1, denial_cache=False) as limiter:
        keys = await create(limiter, UsagePlan("gold", Throttle(10_000, 10_000), stages=[A]), 30)
        await limiter.warm_up()
        for key in keys:
            assert (await limiter.check(key.value, A, GET)).source == "redis"
        victim = own_cluster.node_of("{ratelimit}:catalog")
        well = [key for key in keys if own_cluster.owner_of(slot_of_key(key)) is not victim]
        ill = [key for key in keys if key not in well]
        assert well
        assert ill
        victim.pause()
        try:
            end_s, others = time.monotonic() + 0.8, []
            while time.monotonic() < end_s:
                others += await asyncio.gather(*(limiter.check(key.value, A, GET) for key in well))
                await asyncio.sleep(0.01)
            theirs = await asyncio.gather(*(limiter.check(key.value, A, GET) for key in ill))
        finally:
            victim.resume()
        assert {(decision.allowed, decision.source) for decision in others} == {(True, "redis")}
        assert {decision.source for decision in theirs} <= {"local", "fail_closed"}


async def test_changes_are_heard_of_by_pushes(valkey_cluster):
    """Long before `max_age`: the subscription is at one node, the change is made at another, perhaps."""
    async with AsyncLimiter.from_url(valkey_cluster.url, deadline=1.0, max_age=300.0) as limiter:
        (key,) = await create(limiter, UsagePlan("gold", Throttle(1, 5), stages=[A]), 1)
        assert (await limiter.check(key.value, A, GET)).limits[0].limit == 5
        other = AsyncCatalog(valkey_cluster.async_client())
        await other.put_plan(UsagePlan("gold", Throttle(1, 50), stages=[A]))
        end_s = time.monotonic() + 2
        while (await limiter.check(key.value, A, GET)).limits[0].limit != 50:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.02)
        await other._store.close()
        await other._store._client.aclose()


async def test_a_limiter_of_several_event_loops(valkey_cluster):
    """At once in threads: each key's limit holds for all of them together."""
    limiter = AsyncLimiter.from_url(valkey_cluster.url, deadline=2.0, denial_cache=False)
    keys = await create(limiter, UsagePlan("gold", quota=Quota(LIMIT, "DAY"), stages=[A]), 10)

    async def spend():
        checks = [limiter.check(key.value, A, GET) for key in keys for _ in range(LIMIT // 2)]
        return [decision.allowed for decision in await asyncio.gather(*checks)]

    admitted = await asyncio.gather(*(in_thread(asyncio.run, spend()) for _ in range(4)))
    assert sum(map(sum, admitted)) == 10 * LIMIT
    await limiter.aclose()
