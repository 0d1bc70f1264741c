"""One server that enforces slots behind one address, and a limiter on asyncio: nothing is joined that may not be."""

import asyncio

import pytest
from helpers.cluster import slot_of
from helpers.cluster_calls import count, operation

from ratelimit import AsyncLimiter, Identity, Throttle, UsagePlan
from ratelimit.effects import BatchableReads, KeyLookUps, Primaries
from ratelimit.store.aio.executor import async_executor_for

pytestmark = pytest.mark.asyncio

KEYS = [f"key{number}" for number in range(40)]


def url_of(slots, options=""):
    return f"redis://{slots.address}{options}"


async def check_all(limiter):
    callers = [Identity(f"user{number}", plan="free") for number in range(50)]
    return await asyncio.gather(*(limiter.check(caller, "petstore/prod", "GET /") for caller in callers))


def scripts_called(slots):
    """How many were run, and how many were refused."""
    stats = slots.admin.info("commandstats")["cmdstat_evalsha"]
    return stats["calls"], stats["rejected_calls"]


@pytest.mark.parametrize("options", ["", "?slots=true"])
async def test_checks_of_a_tick_are_sent_one_by_one(slots, options):
    """Also where nobody said so: the first batch that is refused is sent once more, each check by itself."""
    async with AsyncLimiter.from_url(url_of(slots, options), deadline=1.0) as limiter:
        await limiter.catalog.put_plan(UsagePlan("free", Throttle(1, 3), stages=["petstore/prod"]))
        for _ in range(3):
            decisions = await check_all(limiter)
            assert {decision.source for decision in decisions} == {"redis"}
            assert all(decision.allowed for decision in decisions)
        run, refused = scripts_called(slots)
        assert not any(decision.allowed for decision in await check_all(limiter))
        assert scripts_called(slots) == (run + 50, refused)


async def test_reads_of_several_slots_are_divided(slots):
    with slots.client() as client:
        executor = async_executor_for(slots.async_client(), 1.0, "{ns}:catalog")
        for key in KEYS:
            client.set(key, key)
        values = [key.encode() for key in KEYS]
        assert len({slot_of(key) for key in KEYS}) > 1
        look_ups = [KeyLookUps([("MGET", key)]) for key in KEYS]
        assert await asyncio.gather(*(executor.call(each, None) for each in look_ups)) == [
            [[value]] for value in values
        ]
        executor.has_slots = True
        for started_s in (None, asyncio.get_running_loop().time()):
            for request in ([("MGET", *KEYS), ("EXISTS", *KEYS)], BatchableReads([("MGET", *KEYS), ("GET", "none")])):
                reply = await executor.run(operation(request), started_s)
                assert reply[0] == values
        assert await executor.run(operation(Primaries())) == ("",)
        assert await asyncio.gather(*(executor.call(count(f"n{key}"), None) for key in KEYS)) == [1] * len(KEYS)
        await executor.close()
