"""Reads of asyncio that leave together: as many keys as are new at once, over one connection."""

import asyncio
from datetime import date

import pytest
import redis
from helpers.batching import batcher_of
from helpers.replica import METHOD, STAGE, remaining

from ratelimit import AsyncCatalog, AsyncLimiter, Limiter, StoreError, Throttle, UsagePlan
from ratelimit.effects import BatchableReads
from ratelimit.registry import namespace

NEW = 300


@pytest.fixture
def keys(server):
    """Keys of one plan; all meet the account's bucket."""
    with server.client() as client, Limiter(client) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 10), None, [STAGE]))
        limiter.catalog.set_account_throttle(Throttle("1/1000", NEW + 100))
        return [limiter.catalog.create_key(plans=["gold"]).value for _ in range(NEW)]


def calls_of(server, command):
    with server.client() as client:
        return client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def small(server):
    """A client that has a connection for checks, a spare one, one for pushes and one for all else."""
    pool = redis.asyncio.ConnectionPool(
        connection_class=redis.asyncio.UnixDomainSocketConnection, path=server.socket, max_connections=4
    )
    return redis.asyncio.Redis.from_pool(pool)


@pytest.mark.asyncio
async def test_many_new_keys_at_once(server, keys, monkeypatch):
    """None waits for a connection of its own, and the catalogue is read a few times and taken in once."""
    taken_in = []
    right = namespace.LazyDocuments
    monkeypatch.setattr(namespace, "LazyDocuments", lambda *given: taken_in.append(1) or right(*given))
    async with small(server) as client, AsyncLimiter(client, deadline=5) as limiter:
        before = calls_of(server, "hgetall")
        decisions = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in keys))
        assert [decision.cause for decision in decisions if not decision.allowed] == []
        left = sorted(remaining(decision)["account"] for decision in decisions)
        assert left == list(range(100, NEW + 100))
        assert len(taken_in) == 2  # plans, and stages
        assert calls_of(server, "hgetall") - before == 1


@pytest.mark.asyncio
async def test_the_same_is_asked_once(server):
    """A hundred who want to know the same, in two batches: two commands, and everybody's reply."""
    async with server.async_client() as client:
        await client.set("here", "value")
        batcher, before = batcher_of(client), calls_of(server, "get")
        wanted = [BatchableReads([("GET", "here"), ("GET", f"gone{number % 2}")]) for number in range(100)]
        assert await asyncio.gather(*map(batcher.call, wanted)) == [[b"value", None]] * 100
        assert calls_of(server, "get") - before == 2 * 3
        await batcher.close()


@pytest.mark.asyncio
async def test_who_reads_what_is_none_fails_alone(server):
    """Others in the same batch have their replies."""
    async with server.async_client(protocol=3) as client:
        await client.hset("hash", "field", "value")
        batcher = batcher_of(client)
        calls = [
            BatchableReads([("HGETALL", "hash")]),
            BatchableReads([("GET", "here"), ("GET", "hash")]),
            BatchableReads([("GET", "here")]),
        ]
        first, second, third = await asyncio.gather(*map(batcher.call, calls), return_exceptions=True)
        assert (first, third) == ([[b"field", b"value"]], [None])
        assert type(second) is StoreError
        assert "WRONGTYPE" in str(second)
        await batcher.close()


@pytest.mark.asyncio
async def test_a_catalogue_keeps_no_connection(server):
    """However many are made: each has one of its own for as long as it is there; also where the client decodes."""
    async with server.async_client(decode_responses=True, max_connections=1) as client:
        for number in range(5):
            catalog = AsyncCatalog(client, namespace=f"n{number}")
            await catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 10), None, [STAGE]))
            key = await catalog.create_key(plans=["gold"])
            assert (await catalog.get_key(key.id)).plans == ("gold",)
            assert [plan.id for plan in await catalog.plans()] == ["gold"]
        assert len(client.connection_pool._in_use_connections) == 0


@pytest.mark.asyncio
async def test_what_administrators_read_holds_no_check_up(server, keys):
    """Reads whose answers may be long have a connection of their own."""
    async with server.async_client() as client, AsyncLimiter(client, deadline=5) as limiter:
        await limiter.check(keys[0], STAGE, METHOD)
        calls = []
        limiter._store.call = lambda *call: calls.append(call)
        await limiter.catalog.usage("gold", date(2026, 3, 1), date(2026, 3, 4))
        assert calls == []
