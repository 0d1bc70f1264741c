"""One node for one event loop: callers wait for it within their deadline, and not at all while it does not answer."""

import asyncio
import time

import pytest
import redis.asyncio
from helpers.batching import AMPLE_S, batcher_of, echo, open_batcher, until
from helpers.servers import Server

from ratelimit import AsyncLimiter, ConfigError, Limiter, Quota, Throttle, UsagePlan
from ratelimit.effects import BatchableReads, KeyLookUps, failure_of
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.store.aio import batcher as batcher_module

A, GET = "petstore/prod", "GET /pets"
DEADLINE_S = 0.1
READS = BatchableReads([("GET", "value")]), KeyLookUps([("MGET", "value")])

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def near(monkeypatch):
    """Where all is on one machine, however busy that is, calls wait for those before them."""
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", 3600.0)


@pytest.fixture(scope="module")
def stoppable():
    """A server of this module's own, that may be stopped."""
    server = Server("valkey")
    yield server
    server.stop()


async def causes(batcher, calls):
    """Why each of the calls has no reply, None where it has one."""
    done = await asyncio.gather(*map(batcher.call, calls), return_exceptions=True)
    return [
        failure_of(call, reply).cause if isinstance(reply, StoreError) else None
        for call, reply in zip(calls, done, strict=True)
    ]


async def test_what_was_sent_is_unknown_what_was_not_is_not_sent(stoppable):
    """Of a stopped server: checks that were sent are unknown; those behind them, and reads, were not sent."""
    async with open_batcher(stoppable, DEADLINE_S) as batcher:
        with stoppable.stopped():
            first = asyncio.ensure_future(causes(batcher, [echo(1), *READS]))
            await asyncio.sleep(DEADLINE_S / 2)
            second = causes(batcher, [echo(2)])
            assert await first == ["unknown", "not_sent", "not_sent"]
            assert await second == ["not_sent"]


async def test_while_it_does_not_answer_calls_fail_at_once(stoppable):
    """After a missed deadline and a spare that is silent as well; when it is back, so are the calls."""
    async with open_batcher(stoppable, DEADLINE_S) as batcher:
        with stoppable.stopped():
            assert await causes(batcher, [echo(1)]) == ["unknown"]
            await until(lambda: batcher._breaker.is_open)
            written = batcher._write = []
            futures = [batcher.call(echo(number)) for number in range(1000)]
            assert all(future.done() for future in futures)
            assert {type(future.exception()) for future in futures} == {StoreUnavailable}
            assert "does not answer" in str(futures[0].exception())
            assert written == []
            del batcher._write
        await until(lambda: not batcher._breaker.is_open)
        assert await batcher.call(echo(1)) == 1


async def test_probes_are_few(stoppable):
    """While it does not answer, ten connections a second are attempted, and no more than eight wait at a time."""
    async with open_batcher(stoppable, DEADLINE_S) as batcher:
        begin, begun = batcher.endpoint._begin_attempt, []
        batcher.endpoint._begin_attempt = lambda: begun.append(time.monotonic()) or begin()
        with stoppable.stopped():
            await causes(batcher, [echo(1)])
            await until(lambda: len(begun) == 8)
            assert begun[-1] - begun[0] >= 7 * 0.075
            await asyncio.sleep(0.5)
            assert len(begun) == len(batcher.endpoint._attempts) == 8
        await until(lambda: batcher.endpoint.is_complete and not batcher.endpoint._attempts)
        assert len(batcher.endpoint._pipelines()) <= 3  # one that was left may have replies on the way
        assert await batcher.call(echo(1)) == 1


async def test_a_stuck_connection_is_left_for_the_spare(server):
    """What is in flight on it still gets its replies until their deadlines; then it is closed, and there is a spare."""
    async with open_batcher(server, 0.3) as batcher:
        stuck, spare = batcher.endpoint.pipeline, batcher.endpoint._spare
        receive, held = stuck.data_received, []
        stuck._transport.set_protocol(holding := _Holding(held))
        lost = batcher.call(echo(1))
        with pytest.raises(StoreTimeout):
            await lost
        late = batcher.call(echo(2))
        await until(lambda: batcher.endpoint.pipeline is spare)
        assert await batcher.call(echo(3)) == 3
        assert await late == 2  # had waited behind the first
        assert len(held) == 1
        assert batcher._scripts.left_behind
        receive(b"".join(held))
        assert not batcher._scripts.left_behind
        await batcher.endpoint.wait_complete(AMPLE_S)
        assert batcher.endpoint._spare not in (stuck, spare, None)
        await until(lambda: not stuck.is_usable)
        assert not batcher._breaker.is_open
        del holding


class _Holding(asyncio.Protocol):
    """Holds what comes, as a network would that is stuck."""

    def __init__(self, held):
        self.data_received = held.append


async def test_what_has_arrived_counts_however_late_it_is_read(server):
    """A loop that was busy for longer than the deadline finds the replies, and refuses nobody."""
    async with open_batcher(server, 0.1) as batcher:
        for busy_s in (0.2, 0.3, 0.4):
            calls = [batcher.call(echo(number)) for number in range(3)]
            await asyncio.sleep(0)
            time.sleep(busy_s)  # noqa: ASYNC251 - that is the point
            assert await asyncio.gather(*calls) == [0, 1, 2]


async def test_what_waits_while_the_loop_is_busy_is_not_late(server):
    """While it connects, and for the first reply, the loop is busy most of the time: that is not waiting for Redis."""
    async with server.async_client() as client:
        batcher = batcher_of(client, 0.3)
        call = batcher.call(echo(1))
        for _ in range(12):
            time.sleep(0.1)  # noqa: ASYNC251 - as above
            await asyncio.sleep(0)
        assert await call == 1
        await batcher.close()


@pytest.mark.parametrize("deadline_s", [0.05, 0.3])
async def test_a_handshake_that_stalls(deadline_s):
    """A server that accepts and says nothing: nothing was sent, and nobody waits longer than the deadline."""

    async def say_nothing(reader, writer):
        while await reader.read(4096):
            pass
        writer.close()

    listening = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with redis.asyncio.Redis(port=port, socket_timeout=30, socket_connect_timeout=30) as client:
        batcher = batcher_of(client, deadline_s)
        started_s = time.monotonic()
        assert await causes(batcher, [echo(1), *READS]) == ["not_sent"] * 3
        assert deadline_s <= time.monotonic() - started_s < deadline_s + 2  # 10 ms on an idle machine
        await batcher.close()
    listening.close()
    await listening.wait_closed()
    await asyncio.sleep(0.01)  # the other end is closed as well


async def test_all_round_trips_of_a_check_have_one_deadline(server):
    """An operation of several requests that take a part of the deadline each ends within it."""

    def operation():
        for _ in range(10):
            yield BatchableReads([("BLPOP", "nothing", "0.1")])

    async with server.async_client() as client, AsyncLimiter(client, deadline=0.35) as limiter:
        await limiter._store.wait_connected(AMPLE_S)
        started_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await limiter._store.run(operation(), started_s)
        assert 0.35 <= time.monotonic() - started_s < 0.95


async def test_administrators_wait_for_as_long_as_something_comes(server):
    """What they do is bounded by the client's timeout for each reply, whatever the deadline of checks is."""

    def operation():
        return (yield [("BLPOP", "nothing", "0.2")] * 3)

    async with server.async_client(socket_timeout=0.5) as client, AsyncLimiter(client, deadline=0.01) as limiter:
        assert await limiter._store.run(operation()) == [None] * 3
    async with server.async_client(socket_timeout=0.1) as client, AsyncLimiter(client, deadline=5) as limiter:
        with pytest.raises(StoreTimeout):
            await limiter._store.run(operation())


async def test_a_peek_that_times_out_was_not_counted(stoppable):
    """It changes nothing, and so its outcome is not unknown; a check's is."""
    with stoppable.client() as client, Limiter(client, deadline=5) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(10_000, "DAY"), [A]))
        key = limiter.catalog.create_key(plans=["gold"]).value
    async with AsyncLimiter.from_url(stoppable.url, deadline=DEADLINE_S) as limiter:
        await limiter.warm_up()
        assert (await limiter.check(key, A, GET)).allowed
        limiter._store._sender_of_checks().endpoint.miss = lambda: None  # the breaker stays closed
        with stoppable.stopped():
            assert (await limiter.peek(key, A, GET)).cause == "not_sent"
        await until(lambda: not limiter._store._sender_of_checks()._scripts.in_flight)
        with stoppable.stopped():
            assert (await limiter.check(key, A, GET)).cause == "unknown"


# Warming up


async def test_after_warming_up_all_connections_stand(server):
    """The pipeline and the spare, and the catalogue is loaded."""
    async with AsyncLimiter.from_url(server.url, deadline=5) as limiter:
        await limiter.catalog.put_plan(UsagePlan("gold", None, None, [A]))
        await limiter.warm_up()
        assert limiter._store._sender_of_checks().endpoint._spare is not None
        assert limiter._namespace.is_refreshed


async def test_warming_up_says_what_is_wrong(tmp_path):
    """The last failed attempt's reason."""
    async with AsyncLimiter.from_url(f"unix://{tmp_path}/nowhere") as limiter:
        with pytest.raises(StoreUnavailable, match=r"no connection to Redis: .*nowhere"):
            await limiter.warm_up(timeout=0.3)
        with pytest.raises(ConfigError, match="timeout"):
            await limiter.warm_up(timeout=-1)


async def test_a_pool_that_is_too_small_is_refused(server):
    """The error names how many connections are needed."""
    async with server.async_client(max_connections=3) as client:
        with pytest.raises(ConfigError, match="its pool allows 3 connections, and 4 are needed") as caught:
            AsyncLimiter(client)
        assert caught.value.field == "client"
    async with server.async_client(max_connections=4) as client, AsyncLimiter(client, deadline=5) as limiter:
        with server.client() as admin:
            others = {each["id"] for each in admin.client_list()}
            await limiter.catalog.put_plan(UsagePlan("gold", None, None, [A]))
            await limiter.warm_up()
            await until(lambda: len([each for each in admin.client_list() if each["id"] not in others]) == 4)
