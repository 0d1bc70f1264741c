"""The connection of an event loop: what comes unasked, what ends it, and how it is given back."""

import asyncio

import pytest
from gathering import echo, gathering
from redis.asyncio.sentinel import SentinelManagedConnection

from ratelimit.core.scripts import Script, ScriptCall
from ratelimit.errors import StoreError
from ratelimit.store import pipeline
from ratelimit.store.gather import Gatherer
from ratelimit.store.line import push_handler

WRITE = Script("return redis.call('INCR', KEYS[1])")
pytestmark = pytest.mark.asyncio


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


@pytest.mark.parametrize("half", [b">2\r\n$3\r\n", b"*"], ids=["a push", "a reply"])
async def test_half_a_message_is_not_left_to_others(server, half):
    """The connection is closed instead of given back."""
    async with server.async_client(max_connections=1) as client:
        gatherer = Gatherer(client.connection_pool)
        assert await gatherer.call(echo(1)) == 1
        gatherer._pipeline.data_received(half)
        await gatherer.close()
        assert await client.echo("mine") == b"mine"


@pytest.mark.parametrize("wish", ["to connect anew", "to authenticate anew"])
async def test_redis_py_has_its_connection_when_it_wants_it(gatherer, wish):
    """As at a move of the server, or when a token expires: between two batches, nobody notices."""
    connection = gatherer._pipeline.connection
    if wish == "to connect anew":
        connection.mark_for_reconnect()
    else:
        connection._re_auth_token = object()
    before, released = gatherer._pipeline, []
    release = gatherer._pool.release

    async def heed(given_back):
        released.append(given_back)
        given_back._re_auth_token = None
        await release(given_back)

    gatherer._pool.release = heed
    answers = await asyncio.gather(*(gatherer.call(echo(number)) for number in range(100)))
    gatherer._pool.release = release
    assert answers == list(range(100))
    assert released == [connection]
    assert gatherer._pipeline is not before


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
    async with gathering(server) as gatherer:
        gatherer._pipeline.data_received(b"+surprise\r\n")
        assert gatherer._pipeline is None
        assert await gatherer.call(echo(2)) == 2
        gatherer._pipeline.data_received(b"no protocol\r\n")
        assert await gatherer.call(echo(3)) == 3


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
