"""How checks of asyncio reach Redis: gathered, on one connection."""

import asyncio
import os
import signal

import pytest
from helpers.batching import batcher_of, echo
from helpers.proxy import Proxy
from helpers.servers import needs_hiredis

from ratelimit import AsyncLimiter, ConfigError, Limiter, Quota, Throttle, UsagePlan
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import Script, ScriptCall
from ratelimit.store import resp
from ratelimit.store.aio import batcher as batcher_module
from ratelimit.store.aio.batcher import CheckBatcher

A = "petstore/prod"
GET = "GET /pets"
FAIL = Script("return redis.call('INCR', KEYS[1])")


def a_key(limiter):
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(10_000, "DAY"), [A]))
    return limiter.catalog.create_key(plans=["gold"]).value


@pytest.fixture(params=[pytest.param("hiredis", marks=needs_hiredis), "python"])
def reading(request, monkeypatch):
    """Both readers of replies."""
    if request.param == "python":
        monkeypatch.setattr(resp, "hiredis", None)


@pytest.fixture
def key(server):
    with server.client() as client, Limiter(client) as limiter:
        yield a_key(limiter)


@pytest.mark.asyncio
async def test_each_caller_gets_its_own_reply_in_batches(server, monkeypatch, reading):
    """Two hundred calls of one tick are answered in order, in batches no longer than allowed, unknown script or not."""
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", 3600.0)  # a busy machine is no network
    sizes = []
    put = CheckBatcher._write

    def counted(batcher, packets, answered):
        sizes.append(len(packets))
        put(batcher, packets, answered)

    monkeypatch.setattr(CheckBatcher, "_write", counted)
    async with server.async_client() as client:
        batcher = batcher_of(client)
        assert await asyncio.gather(*(batcher.call(echo(n)) for n in range(200))) == list(range(200))
        # The first batch is sent twice: the server did not know the script.
        assert sizes == [64, 64, 64, 64, 8]
        await batcher.close()


@pytest.mark.asyncio
async def test_a_call_that_fails_fails_alone(server, reading):
    """An error reply is its caller's; the calls before and after it in the batch are answered."""
    async with server.async_client() as client:
        await client.set("text", "no number")
        batcher = batcher_of(client)
        calls = [batcher.call(echo(1)), batcher.call(ScriptCall(FAIL, ("text",), ())), batcher.call(echo(3))]
        first, failed, third = await asyncio.gather(*calls, return_exceptions=True)
        assert (first, third) == (1, 3)
        assert "not an integer" in str(failed)
        await batcher.close()


@pytest.mark.asyncio
async def test_a_cancelled_caller_drops_its_reply_and_nobody_elses(server, reading):
    """Every third caller gives up before or after sending; all others get their own replies."""
    async with server.async_client() as client:
        batcher = batcher_of(client)
        tasks = [batcher.call(echo(n)) for n in range(150)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        await asyncio.sleep(0)
        for task in tasks[1::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert done[2::3] == list(range(2, 150, 3))
        assert await batcher.call(echo(7)) == 7
        await batcher.close()


@pytest.mark.asyncio
async def test_a_lost_connection_fails_what_was_in_flight_as_unknown(server, key, reading):
    """With the replies swallowed, all checks of the batch are unknown outcomes; later ones are answered."""
    with Proxy(server.socket) as proxy:
        async with AsyncLimiter.from_url(proxy.url, deadline=0.3) as limiter:
            limiter._namespace.before_refresh = lambda: None  # no listener, whose start makes a check look once more
            warm = [
                await limiter.check(key, A, GET),
                *await asyncio.gather(*(limiter.check(key, A, GET) for _ in "ab")),
            ]
            assert all(warm)  # the server knows both scripts
            proxy.fault = "swallow"
            decisions = await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(10)))
            assert {decision.cause for decision in decisions} == {"unknown"}
            proxy.fault = None
            last = await limiter.check(key, A, GET)
    # Each was executed exactly once: 3 + 10 + 1.
    assert last.limits[1].remaining == 10_000 - 14


@pytest.mark.asyncio
async def test_two_batches_on_their_way_are_both_unknown(server, key, reading):
    """A connection that fails with two batches in flight: each of their checks is an unknown outcome, none raises."""
    with Proxy(server.socket) as proxy:
        async with AsyncLimiter.from_url(proxy.url, deadline=0.2) as limiter:
            limiter._namespace.before_refresh = lambda: None
            for fault in ("swallow", "reset", "swallow"):
                proxy.fault = None
                for _ in range(2):  # the second batch leaves nobody out, so that the next may overlap
                    assert all(await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(4))))
                proxy.fault = fault
                decisions = await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(60)))
                assert {decision.cause for decision in decisions} == {"unknown"}


@pytest.mark.asyncio
async def test_a_queue_too_long_is_refused(server, monkeypatch):
    """Beyond a bound, a check is refused at once as not sent, and those that wait are answered."""
    monkeypatch.setattr(batcher_module, "_MAX_WAITING", 5)
    async with server.async_client() as client:
        batcher = batcher_of(client)
        done = await asyncio.gather(*(batcher.call(echo(n)) for n in range(8)), return_exceptions=True)
        assert done[:5] == [0, 1, 2, 3, 4]
        assert [type(error) for error in done[5:]] == [StoreUnavailable] * 3
        await batcher.close()


@pytest.mark.asyncio
async def test_an_idle_connection_that_was_closed_is_replaced(server, key, reading):
    """A server that closes idle connections is not noticed by callers."""
    with server.client() as admin:
        async with AsyncLimiter.from_url(server.url, deadline=5) as limiter:
            for _ in range(3):
                assert (await limiter.check(key, A, GET)).allowed
                admin.client_kill_filter(_type="normal", skipme=True)
                await asyncio.sleep(0.05)  # until the event loop has seen the end of the stream


def test_a_child_that_is_forked_in_the_event_loop_is_refused(server, key):
    """Its parent's loop does not run in it: who goes on as if it did is told so, and charged nothing."""

    def in_child(limiter):
        signal.alarm(5)
        code = 1
        try:
            limiter.check(key, A, GET).send(None)
        except ConfigError:
            code = 0
        finally:
            os._exit(code)

    async def main():
        async with AsyncLimiter.from_url(server.url, deadline=5) as limiter:
            limiter._namespace.before_refresh = lambda: None  # else the child's first check looks at the catalogue
            await limiter.check(key, A, GET)
            child = os.fork() or in_child(limiter)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            return status, (await limiter.check(key, A, GET)).limits[1].remaining

    assert asyncio.run(main()) == (0, 10_000 - 2)


def test_a_child_with_an_event_loop_of_its_own_is_served(server, key):
    """It connects anew, and leaves the parent's connections alone."""

    def in_child(limiter):
        signal.alarm(5)
        code = 1
        try:
            code = 0 if asyncio.run(limiter.check(key, A, GET)).allowed else 2
        finally:
            os._exit(code)

    async def main():
        async with AsyncLimiter.from_url(server.url, deadline=5) as limiter:
            await limiter.check(key, A, GET)
            child = os.fork() or in_child(limiter)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            return status, (await limiter.check(key, A, GET)).limits[1].remaining

    assert asyncio.run(main()) == (0, 10_000 - 3)
