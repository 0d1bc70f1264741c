"""The connection of an event loop: what comes unasked, what ends it, and how it is given back."""

import asyncio

import pytest
import pytest_asyncio
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.backoff import NoBackoff

from ratelimit.core.scripts import Script, ScriptCall
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.store import pipeline
from ratelimit.store.gather import Gatherer
from ratelimit.store.lines import push_handler

ECHO = Script("return tonumber(ARGV[1])")
WRITE = Script("return redis.call('INCR', KEYS[1])")
pytestmark = pytest.mark.asyncio


def echo(number):
    return ScriptCall(ECHO, (), (str(number),))


@pytest_asyncio.fixture(params=["direct", "through redis-py"])
async def gatherer(request, server, monkeypatch):
    """One on a pool of a single connection, by either way of reading."""
    if request.param != "direct":
        monkeypatch.setattr(pipeline, "reader_for", lambda _: None)
    async with server.async_client(max_connections=1) as client:
        made = Gatherer(client.connection_pool)
        assert await made.call(echo(1)) == 1
        yield made
        await made.close()
        assert await client.echo("mine") == b"mine"  # the connection came back, and owes nobody a reply


async def test_closing_waits_for_answers(gatherer):
    """What was asked before is answered, sent already or not."""
    sent = [gatherer.call(echo(number)) for number in range(100)]
    await asyncio.sleep(0)
    waiting = [gatherer.call(echo(number)) for number in range(100, 110)]
    await gatherer.close()
    assert [future.result() for future in sent + waiting] == list(range(110))


async def test_closing_after_everybody_has_gone(gatherer):
    """Replies that are still to come go to nobody else."""
    futures = [gatherer.call(echo(number)) for number in range(100)]
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    await gatherer.close()
    assert gatherer._pipeline is None


async def test_closing_while_it_connects(server):
    """The connection that is being made goes back, too."""
    async with server.async_client(max_connections=1) as client:
        gatherer = Gatherer(client.connection_pool)
        gatherer.call(echo(1)).cancel()
        await asyncio.sleep(0)
        await gatherer.close()
        assert await client.echo("mine") == b"mine"


async def test_a_client_that_its_owner_closes(gatherer):
    """What is on its way is an unknown outcome; what comes later has another connection."""
    futures = [gatherer.call(echo(number)) for number in range(3)]
    await asyncio.sleep(0)
    await gatherer._pool.disconnect()
    done = await asyncio.gather(*futures, return_exceptions=True)
    assert {type(error) for error in done} <= {StoreTimeout, int}
    assert await gatherer.call(echo(4)) == 4


async def test_no_connection_to_be_had(server, tmp_path):
    """All that wait are told so at once: nothing was sent. Later ones try again."""
    path = tmp_path / "socket"
    async with redis.asyncio.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
        gatherer = Gatherer(client.connection_pool)
        done = await asyncio.gather(*(gatherer.call(echo(number)) for number in range(100)), return_exceptions=True)
        assert {type(error) for error in done} == {StoreUnavailable}
        path.symlink_to(server.socket)
        assert await gatherer.call(echo(5)) == 5
        await gatherer.close()


async def test_who_connects_is_cancelled(server):
    """As when the event loop ends: who waits is cancelled as well, and does not wait for ever."""
    async with server.async_client() as client:
        gatherer = Gatherer(client.connection_pool)
        future = gatherer.call(echo(1))
        await asyncio.sleep(0)
        gatherer._opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert await gatherer.call(echo(2)) == 2
        await gatherer.close()


async def test_a_server_that_became_a_replica_is_left(gatherer, server):
    """Its refusal is told, and the next check connects anew: to the new primary, if a name or Sentinel leads there."""
    with server.client() as admin:
        admin.replicaof("127.0.0.1", "1")
        try:
            before = gatherer._pipeline
            with pytest.raises(StoreError, match="read only replica"):
                await gatherer.call(ScriptCall(WRITE, ("n",), ()))
            assert await gatherer.call(echo(2)) == 2
            assert gatherer._pipeline is not before
        finally:
            admin.replicaof("NO", "ONE")


async def test_a_reply_that_nobody_asked_for_ends_the_connection(server):
    """Later replies might be taken for others'."""
    async with server.async_client() as client:
        gatherer = Gatherer(client.connection_pool)
        assert await gatherer.call(echo(1)) == 1
        gatherer._pipeline.data_received(b"+surprise\r\n")
        assert gatherer._pipeline is None
        assert await gatherer.call(echo(2)) == 2
        gatherer._pipeline.data_received(b"no protocol\r\n")
        assert await gatherer.call(echo(3)) == 3
        await gatherer.close()


async def test_what_is_pushed_is_no_reply(server):
    """RESP3: redis-py hears of it."""
    async with server.async_client(protocol=3) as client:
        gatherer = Gatherer(client.connection_pool)
        futures = [gatherer.call(echo(1)), gatherer.call(echo(2))]
        await asyncio.sleep(0)
        await gatherer._opening
        heard = []
        direct = gatherer._pipeline

        async def hear(message):
            heard.append(message)

        direct.connection._parser.pubsub_push_handler_func = hear
        direct.data_received(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n")
        assert await asyncio.gather(*futures) == [1, 2]
        assert heard == ([[b"message", b"a", b"b"]] if push_handler(direct.connection) else [])
        await gatherer.close()


async def test_connections_of_sentinel_are_read_directly(server):
    """They differ in what they do with a replica's refusal, which is seen to here."""
    async with server.async_client() as client:
        connection = await client.connection_pool.get_connection()
        connection.__class__ = type(
            "Managed", (type(connection),), {"read_response": SentinelManagedConnection.read_response}
        )
        assert isinstance(pipeline.over(connection, lambda _: None), pipeline.Direct)
        await connection.disconnect()
        await client.connection_pool.release(connection)
