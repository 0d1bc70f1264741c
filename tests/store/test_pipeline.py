"""The connection of an event loop: what comes unasked, what ends it, and how it is given back."""

import asyncio

import pytest
from helpers.batching import echo, open_batcher
from helpers.servers import needs_hiredis, needs_redis_py
from redis.asyncio.sentinel import SentinelManagedConnection

from ratelimit.errors import StoreError
from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.pipeline import factory
from ratelimit.store.redis_compat import get_connection, push_handler

WRITE = Script("return redis.call('INCR', KEYS[1])")
pytestmark = pytest.mark.asyncio


async def test_closing_waits_for_answers(batcher):
    """What was asked before is answered, sent already or not."""
    sent = [batcher.call(echo(number)) for number in range(100)]
    await asyncio.sleep(0)
    waiting = [batcher.call(echo(number)) for number in range(100, 110)]
    await batcher.close()
    assert [future.result() for future in sent + waiting] == list(range(110))


async def test_closing_after_everybody_has_gone(batcher):
    """Replies that are still to come go to nobody else."""
    futures = [batcher.call(echo(number)) for number in range(100)]
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    await batcher.close()
    assert batcher._pipeline is None


async def test_closing_while_it_connects(server):
    """The connection that is being made goes back, too."""
    async with server.async_client(max_connections=1) as client:
        batcher = CheckBatcher(client.connection_pool)
        batcher.call(echo(1)).cancel()
        await asyncio.sleep(0)
        await batcher.close()
        assert await client.echo("mine") == b"mine"


@needs_hiredis
@pytest.mark.parametrize("half", [b">2\r\n$3\r\n", b"*"], ids=["a push", "a reply"])
async def test_half_a_message_is_not_left_to_others(server, half):
    """The connection is closed instead of given back."""
    async with server.async_client(max_connections=1) as client:
        batcher = CheckBatcher(client.connection_pool)
        assert await batcher.call(echo(1)) == 1
        batcher._pipeline.data_received(half)
        await batcher.close()
        assert await client.echo("mine") == b"mine"


@needs_redis_py
@pytest.mark.parametrize("wish", ["to connect anew", "to authenticate anew"])
async def test_redis_py_has_its_connection_when_it_wants_it(batcher, wish):
    """As at a move of the server, or when a token expires: between two batches, nobody notices."""
    connection = batcher._pipeline.connection
    if wish == "to connect anew":
        if not hasattr(connection, "mark_for_reconnect"):
            pytest.skip("redis-py before 7 does not ask for it")
        connection.mark_for_reconnect()
    else:
        connection._re_auth_token = object()
    before, released = batcher._pipeline, []
    release = batcher._pool.release

    async def heed(given_back):
        released.append(given_back)
        given_back._re_auth_token = None
        await release(given_back)

    batcher._pool.release = heed
    answers = await asyncio.gather(*(batcher.call(echo(number)) for number in range(100)))
    batcher._pool.release = release
    assert answers == list(range(100))
    assert released == [connection]
    assert batcher._pipeline is not before


async def test_a_server_that_became_a_replica_is_left(batcher, server):
    """Its refusal is told, and the next check connects anew: to the new primary, if a name or Sentinel leads there."""
    with server.client() as admin:
        admin.replicaof("127.0.0.1", "1")
        try:
            before = batcher._pipeline
            with pytest.raises(StoreError, match="read only replica"):
                await batcher.call(ScriptCall(WRITE, ("n",), ()))
            assert await batcher.call(echo(2)) == 2
            assert batcher._pipeline is not before
        finally:
            admin.replicaof("NO", "ONE")


@needs_hiredis
async def test_a_reply_that_nobody_asked_for_ends_the_connection(server):
    """Later replies might be taken for others'."""
    async with open_batcher(server) as batcher:
        batcher._pipeline.data_received(b"+surprise\r\n")
        assert batcher._pipeline is None
        assert await batcher.call(echo(2)) == 2
        batcher._pipeline.data_received(b"no protocol\r\n")
        assert await batcher.call(echo(3)) == 3


@needs_hiredis
@needs_redis_py
async def test_what_is_pushed_is_no_reply(server):
    """RESP3: redis-py hears of it."""
    async with server.async_client(protocol=3) as client:
        batcher = CheckBatcher(client.connection_pool)
        futures = [batcher.call(echo(1)), batcher.call(echo(2))]
        await asyncio.sleep(0)
        await batcher._connecting
        on_change_message = []
        direct = batcher._pipeline

        async def hear(message):
            on_change_message.append(message)

        direct.connection._parser.pubsub_push_handler_func = hear
        direct.data_received(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n")
        assert await asyncio.gather(*futures) == [1, 2]
        assert on_change_message == ([[b"message", b"a", b"b"]] if push_handler(direct.connection) else [])
        await batcher.close()


@needs_hiredis
async def test_connections_of_sentinel_are_read_directly(server):
    """They differ in what they do with a replica's refusal, which is seen to here."""
    async with server.async_client() as client:
        connection = await get_connection(client.connection_pool)
        connection.__class__ = type(
            "Managed", (type(connection),), {"read_response": SentinelManagedConnection.read_response}
        )
        assert isinstance(factory.pipeline_for(connection, lambda _: None), factory.HiredisPipeline)
        await connection.disconnect()
        await client.connection_pool.release(connection)
