"""Clients of valkey-py do for limiters and catalogues what those of redis-py do."""

import asyncio
import subprocess
import sys
from functools import partial

import pytest
import valkey
from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE, remaining
from helpers.requests import reply_to
from helpers.sentinel import NAME, WatchedPrimary
from helpers.servers import make_client
from helpers.waiting import wait_for
from valkey.asyncio.sentinel import Sentinel as AsyncSentinel
from valkey.sentinel import Sentinel

from ratelimit import (
    AsyncCatalog,
    AsyncLimiter,
    Catalog,
    Limiter,
    Quota,
    StoreError,
    StoreUnavailable,
    Throttle,
    UsagePlan,
)
from ratelimit.effects import IndependentCommands

PLAN = UsagePlan("gold", Throttle("1/1000", 1000), Quota(1000, "DAY"), [STAGE])


def left(decision):
    return remaining(decision)["quota:gold"]


@pytest.fixture
def client(server):
    with server.client("valkey") as made:
        yield made


@pytest.fixture
def key(client):
    Catalog(client).put_plan(PLAN)
    return Catalog(client).create_key(plans=["gold"]).value


def listeners(client):
    return list(client.pubsub_numsub("ratelimit:changes")[0])[1]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode_responses", [False, True])
def test_checks_and_changes(server, key, protocol, decode_responses):
    """Checks, also after the server lost its scripts; a change that another made is pushed."""
    options = {"protocol": protocol, "decode_responses": decode_responses}
    with server.client("valkey", **options) as client, Limiter(client, max_age=1e9) as limiter:
        others = listeners(client)
        assert [left(limiter.check(key, STAGE, METHOD)) for _ in range(3)] == [999, 998, 997]
        client.script_flush()
        assert left(limiter.check(key, STAGE, METHOD)) == 996
        wait_for(lambda: listeners(client) > others)
        with server.client("valkey") as other:
            Catalog(other).put_plan(UsagePlan("gold", Throttle("1/1000", 1000), Quota(500, "DAY"), [STAGE]))
        wait_for(lambda: left(limiter.peek(key, STAGE, METHOD)) == 496)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.asyncio
async def test_checks_and_changes_asyncio(server, key, protocol):
    """The same for the twin, with many checks at once."""
    async with (
        server.async_client("valkey", protocol=protocol) as client,
        AsyncLimiter(client, max_age=1e9, deadline=5) as limiter,
    ):
        decisions = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for _ in range(100)))
        assert sorted(map(left, decisions)) == list(range(900, 1000))
        await client.script_flush()
        assert left(await limiter.check(key, STAGE, METHOD)) == 899
        async with server.async_client("valkey") as other:
            await AsyncCatalog(other).put_plan(UsagePlan("gold", Throttle("1/1000", 1000), Quota(500, "DAY"), [STAGE]))
        for _ in range(500):
            if left(decision := await limiter.peek(key, STAGE, METHOD)) == 399:
                break
            await asyncio.sleep(0.01)
        assert left(decision) == 399


def test_errors_are_ours(server, client, key):
    """Of a command that fails, of a server that refuses, of a reply that is lost, of a server that is not there."""
    with Limiter(client) as limiter:
        assert limiter.check(key, STAGE, METHOD).allowed
        run = partial(reply_to, limiter._store)
        with pytest.raises(StoreError, match=r"Redis answered with an error: .*wrong kind of value"):
            run([("SET", "text", "x"), ("LPUSH", "text", "y")])
        (reply,) = run(IndependentCommands([("LPUSH", "text", "y")]))
        assert type(reply) is StoreError
        with pytest.raises(StoreUnavailable, match=r"Redis refused the command: .*unknown command") as caught:
            run([("NO-SUCH-COMMAND", "secret")])
        assert "secret" not in f"{caught.value} {caught.value.__cause__}"
        client.replicaof("127.0.0.1", "1")
        try:
            assert limiter.check(key, STAGE, METHOD).error.startswith("Redis refused the command")
        finally:
            client.replicaof("NO", "ONE")
    with Proxy(server.socket) as proxy:
        through = make_client("valkey", port=proxy.port, socket_timeout=0.3)
        with through, Limiter(through) as limiter:
            assert limiter.check(key, STAGE, METHOD).allowed
            proxy.fault = "swallow"
            assert limiter.check(key, STAGE, METHOD).cause == "unknown"
            proxy.fault = None
            assert limiter.check(key, STAGE, METHOD).allowed
    with make_client("valkey", unix_socket_path="/nowhere") as nowhere, Limiter(nowhere) as limiter:
        assert limiter.check(key, STAGE, METHOD).error.startswith("no connection to Redis")


@pytest.mark.asyncio
async def test_errors_are_ours_asyncio(server, key):
    """The same for the twin."""
    with Proxy(server.socket) as proxy:
        through = make_client("valkey.asyncio", port=proxy.port, socket_timeout=0.3)
        async with through, AsyncLimiter(through, deadline=0.3) as limiter:
            limiter._namespace.before_refresh = lambda: None
            assert (await limiter.check(key, STAGE, METHOD)).allowed
            assert all(await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for _ in range(2))))
            proxy.fault = "swallow"
            decisions = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for _ in range(5)))
            assert {decision.cause for decision in decisions} == {"unknown"}
            proxy.fault = None
            assert left(await limiter.check(key, STAGE, METHOD)) == 1000 - 9
            (reply,) = await limiter._store._send(IndependentCommands([("LPUSH", "ratelimit:{0}", *"x" * 2)]))
            assert reply == 2
            with pytest.raises(StoreError, match=r"Redis answered with an error"):
                await limiter._store._send([("HGET", "ratelimit:{0}", "x")])
    async with (
        make_client("valkey.asyncio", unix_socket_path="/nowhere") as nowhere,
        AsyncLimiter(nowhere) as limiter,
    ):
        decision = await limiter.check(key, STAGE, METHOD)
        assert decision.error.startswith("no connection to Redis")


@pytest.mark.parametrize("name", ["valkey"])
def test_sentinel_leads_to_the_new_primary(name):
    """As of redis-py: after a failover, both twins go on with the same counts."""
    with WatchedPrimary(name) as watched:
        sentinels = Sentinel([watched.sentinel])

        async def check_until_allowed(key):
            theirs = AsyncSentinel([watched.sentinel])
            async with theirs.master_for(NAME) as client, AsyncLimiter(client, deadline=5) as limiter:
                limiter._namespace.before_refresh = lambda: None
                before = await limiter.check(key, STAGE, METHOD)
                await asyncio.to_thread(watched.fail_over)
                for _ in range(100):
                    if (after := await limiter.check(key, STAGE, METHOD)).allowed:
                        break
                    await asyncio.sleep(0.1)
            for each in theirs.sentinels:
                await each.aclose()
            return before, after

        with sentinels.master_for(NAME) as client, Limiter(client, deadline=5) as limiter:
            limiter.catalog.put_plan(PLAN)
            key = limiter.catalog.create_key(plans=["gold"]).value
            assert left(limiter.check(key, STAGE, METHOD)) == 999
            client.wait(1, 5000)
            before, after = asyncio.run(check_until_allowed(key))
            assert left(before) == 998
            assert left(after) in (997, 998)  # nobody waited until the replica had the last check
            answers = [limiter.check(key, STAGE, METHOD) for _ in range(3)]
            assert answers[-1].allowed
        for each in sentinels.sentinels:
            each.close()


def test_it_is_not_imported_for_others():
    """Nor is it required."""
    code = "import sys, ratelimit; assert not [name for name in sys.modules if name.startswith('valkey')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert valkey.Valkey.__module__ == "valkey.client"
