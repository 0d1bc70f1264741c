"""The connection of an event loop: what becomes of those who wait when it fails, or cannot be had."""

import asyncio

import pytest
import redis.asyncio
from helpers.batching import echo, open_batcher
from helpers.proxy import Proxy
from helpers.servers import needs_hiredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ratelimit.errors import StoreTimeout, StoreUnavailable
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.pipeline import factory


@pytest.mark.asyncio
async def test_a_client_that_its_owner_closes(batcher):
    """What is on its way is an unknown outcome; what comes later has another connection."""
    futures = [batcher.call(echo(number)) for number in range(3)]
    await asyncio.sleep(0)
    await batcher._pool.disconnect()
    done = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(error) for error in done} <= {StoreTimeout, int}
    assert await batcher.call(echo(4)) == 4


@pytest.mark.asyncio
async def test_no_connection_to_be_had(server, tmp_path):
    """All that wait are told so at once: nothing was sent. Later ones try again."""
    path = tmp_path / "socket"
    async with redis.asyncio.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
        batcher = CheckBatcher(client.connection_pool)
        done = await asyncio.gather(*(batcher.call(echo(number)) for number in range(100)), return_exceptions=True)
        assert {type(error) for error in done} == {StoreUnavailable}
        path.symlink_to(server.socket)
        assert await batcher.call(echo(5)) == 5
        await batcher.close()


@pytest.mark.asyncio
async def test_who_connects_is_cancelled(server):
    """Even before it began: who waits does not wait for ever."""
    async with server.async_client() as client:
        batcher = CheckBatcher(client.connection_pool)
        future = batcher.call(echo(1))
        await asyncio.sleep(0)
        batcher._connecting.cancel()
        with pytest.raises(StoreUnavailable, match="cancelled"):
            await future
        assert await batcher.call(echo(2)) == 2
        await batcher.close()


@pytest.mark.asyncio
async def test_a_server_that_hangs_up_at_once():
    """After the handshake: whoever waits is told, instead of one attempt after the other."""
    greeted = []

    async def hang_up(reader, writer):
        greeted.append(writer)
        said = b""
        while said.count(b"SETINFO") < 2 and (more := await reader.read(4096)):
            said += more
        writer.write(b"+OK\r\n" * 2)
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, redis.asyncio.Redis(port=port, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        batcher = CheckBatcher(client.connection_pool)
        for _ in range(3):
            with pytest.raises((StoreUnavailable, StoreTimeout)):
                await batcher.call(echo(1))
        await batcher.close()
        assert len(greeted) <= 6


@pytest.mark.asyncio
async def test_an_ended_connection_in_the_pool_is_not_taken(server):
    """redis-py hands it out where it expects to be told of maintenance: over TCP, in RESP3."""
    with Proxy(server.socket) as proxy, server.client() as admin:
        async with redis.asyncio.Redis(port=proxy.port, retry=Retry(NoBackoff(), 0)) as client:
            await client.set("idle", "1")
            admin.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.05)  # until the event loop has seen the end of the stream
            batcher = CheckBatcher(client.connection_pool)
            assert await batcher.call(echo(1)) == 1
            await batcher.close()


@pytest.mark.asyncio
async def test_a_connection_that_redis_py_is_closing_is_not_asked(batcher):
    """What was not sent yet goes to another one: it is no unknown outcome."""
    future = batcher.call(echo(1))
    batcher._pipeline.connection._writer.close()
    assert await future == 1


@pytest.mark.asyncio
async def test_the_end_is_seen_while_a_batch_is_on_its_way(server, monkeypatch):
    """Through redis-py a batch that is due finds the stream ended before the task that reads does: given back once."""
    monkeypatch.setattr(factory, "reader_for", lambda _: None)
    async with server.async_client() as client:
        batcher = CheckBatcher(client.connection_pool)
        assert await batcher.call(echo(0)) == 0
        batcher._left_out = 0
        connection, released, release = batcher._pipeline.connection, [], client.connection_pool.release

        async def count(given_back):
            released.append(given_back)
            await release(given_back)

        monkeypatch.setattr(client.connection_pool, "release", count)
        first = [batcher.call(echo(number)) for number in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = [batcher.call(echo(number)) for number in range(20)]
        connection._writer.transport.get_protocol().eof_received()
        done = await asyncio.gather(*first, *second, return_exceptions=True)
        assert [type(error) for error in done[:3]] == [StoreTimeout] * 3
        assert done[3:] == list(range(20))
        assert released == [connection]
        await batcher.close()


@pytest.mark.asyncio
async def test_who_asks_is_cancelled(server, monkeypatch):
    """Even before it began, as when the event loop ends: who waits does not wait for ever."""
    monkeypatch.setattr(factory, "reader_for", lambda _: None)
    async with open_batcher(server) as batcher:
        future = batcher.call(echo(1))
        await asyncio.sleep(0)
        (asking,) = batcher._pipeline._tasks
        asking.cancel()
        with pytest.raises(StoreTimeout, match="given up"):
            await future
        assert await batcher.call(echo(2)) == 2


@needs_hiredis
@pytest.mark.asyncio
async def test_no_protocol_is_an_unknown_outcome(server):
    """With checks on their way, nobody knows what became of them."""
    async with open_batcher(server) as batcher:
        future = batcher.call(echo(2))
        await asyncio.sleep(0)
        batcher._pipeline.data_received(b"no protocol\r\n")
        with pytest.raises(StoreTimeout):
            await future
        assert await batcher.call(echo(3)) == 3
