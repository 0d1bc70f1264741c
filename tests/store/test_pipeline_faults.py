"""The connections of an event loop: what becomes of those who wait when one fails, or cannot be had."""

import asyncio
import time

import fakeredis
import pytest
import redis.asyncio
from helpers.batching import AMPLE_S, batcher_of, echo, open_batcher, until
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from ratelimit.errors import StoreTimeout, StoreUnavailable
from ratelimit.store.aio.pipeline.emulator import EmulatorPipeline

pytestmark = pytest.mark.asyncio


async def test_a_client_that_its_owner_closes(batcher):
    """It makes no difference: the connections are not the client's."""
    futures = [batcher.call(echo(number)) for number in range(3)]
    await asyncio.sleep(0)
    await batcher.endpoint._pool.disconnect()
    assert await asyncio.gather(*futures) == [0, 1, 2]
    assert await batcher.call(echo(4)) == 4


async def test_no_connection_to_be_had(tmp_path, server):
    """All that wait are told so at once: nothing was sent. So are later ones, until a probe has connected."""
    path = tmp_path / "socket"
    async with redis.asyncio.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
        batcher = batcher_of(client)
        done = await asyncio.gather(*(batcher.call(echo(number)) for number in range(100)), return_exceptions=True)
        assert {type(error) for error in done} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable, match=r"no connection to Redis: .*socket"):
            await batcher.call(echo(1))
        path.symlink_to(server.socket)
        await until(lambda: not batcher._breaker.is_open)
        assert await batcher.call(echo(5)) == 5
        await batcher.close()


async def test_who_connects_is_cancelled(server):
    """Even before it began: who waits is told so, and the next attempt is made."""
    async with server.async_client() as client:
        batcher = batcher_of(client)
        future = batcher.call(echo(1))
        await until(lambda: batcher.endpoint._attempts)
        for attempt in batcher.endpoint._attempts:
            attempt.cancel()
        with pytest.raises(StoreUnavailable, match="cancelled"):
            await future
        await until(lambda: not batcher._breaker.is_open)
        assert await batcher.call(echo(2)) == 2
        await batcher.close()


async def test_a_server_that_hangs_up_at_once():
    """After the handshake: whoever waits is told, instead of one attempt after the other."""
    greeted = []

    async def hang_up(reader, writer):
        greeted.append(await reader.read(4096))
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, redis.asyncio.Redis(port=port, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        batcher = batcher_of(client)
        for _ in range(300):
            with pytest.raises(StoreUnavailable):
                await batcher.call(echo(1))
        assert len(greeted) <= 2
        await batcher.close()


@pytest.mark.parametrize(
    ("reply", "said"),
    [(b"+PONG\r\n", "connection|sent"), (b"-ERR max number of clients reached\r\n", "max number of clients reached")],
)
async def test_a_server_that_hangs_up_after_the_first_reply(reply, said):
    """Or when it is sent a call, as a proxy without a server: it is not connected to in a tight loop."""
    greeted = []

    async def hang_up(reader, writer):
        greeted.append(await reader.read(4096))
        writer.write(reply)
        if reply.startswith(b"+"):
            await reader.read(4096)
        writer.close()

    listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, redis.asyncio.Redis(port=port, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        batcher = batcher_of(client, 0.35)
        end_s = time.monotonic() + 0.5
        while time.monotonic() < end_s:
            with pytest.raises((StoreUnavailable, StoreTimeout), match=said):
                await batcher.call(echo(1))
        assert len(greeted) <= 12
        await batcher.close()


async def test_a_connection_that_is_closing_is_not_asked(batcher):
    """What was not sent yet goes to another one: it is no unknown outcome."""
    future = batcher.call(echo(1))
    batcher.endpoint.pipeline._transport.close()
    assert await future == 1


async def test_the_end_is_seen_while_a_batch_is_on_its_way(batcher):
    """What was sent is an unknown outcome, what was not is sent on the spare, and each is told once."""
    batcher._left_out = 0
    first = [batcher.call(echo(number)) for number in range(3)]
    await asyncio.sleep(0)
    before = batcher.endpoint.pipeline
    second = [batcher.call(echo(number)) for number in range(10)]
    before.eof_received()
    done = await asyncio.gather(*first, *second, return_exceptions=True)
    assert [type(error) for error in done[:3]] == [StoreTimeout] * 3
    assert done[3:] == list(range(10))
    assert batcher.endpoint.pipeline is not before


async def test_no_protocol_is_an_unknown_outcome(batcher):
    """With checks on their way, nobody knows what became of them."""
    future = batcher.call(echo(2))
    await asyncio.sleep(0)
    batcher.endpoint.pipeline.data_received(b"no protocol\r\n")
    with pytest.raises(StoreTimeout):
        await future
    assert await batcher.call(echo(3)) == 3


async def test_a_late_reply_is_dropped(server):
    """A call that timed out does not cost the connection, whose later replies go to whom they belong."""
    with server.client() as admin:
        async with open_batcher(server, deadline_s=0.1) as batcher:
            pipeline = batcher.endpoint.pipeline
            batcher.endpoint.miss = lambda: None  # nobody moves to the spare
            admin.execute_command("CLIENT", "PAUSE", 140)
            with pytest.raises(StoreTimeout, match="within 100 ms"):
                await batcher.call(echo(1))
            batcher._deadline_s = AMPLE_S
            assert await batcher.call(echo(2)) == 2
            assert pipeline.is_usable


async def test_emulators_are_read_their_own_way():
    """They have no transport, and no deadline; who sends for them being cancelled leaves nobody waiting."""
    client = fakeredis.FakeAsyncRedis()
    batcher = batcher_of(client)
    assert await batcher.call(echo(1)) == 1
    batcher._deadline_s = 0.000001
    assert await batcher.call(echo(1)) == 1
    assert isinstance(batcher.endpoint.pipeline, EmulatorPipeline)
    future = batcher.call(echo(1))
    await asyncio.sleep(0)
    for sending in batcher.endpoint.pipeline._tasks:
        sending.cancel()
    with pytest.raises(StoreTimeout, match="given up"):
        await future
    await until(lambda: batcher.endpoint.pipeline is not None)
    assert await batcher.call(echo(2)) == 2
    await batcher.close()
    await client.aclose()
