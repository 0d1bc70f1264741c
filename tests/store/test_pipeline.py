"""The connections of an event loop: what comes unasked, what ends them, and how they are closed."""

import asyncio

import pytest
from helpers.batching import AMPLE_S, batcher_of, echo, until
from helpers.servers import needs_redis_py

from ratelimit.effects import BatchableReads
from ratelimit.errors import StoreError
from ratelimit.scripts import Script, ScriptCall

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
    """Replies that are still to come go to nobody, and no connection is left."""
    futures = [batcher.call(echo(number)) for number in range(100)]
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    await batcher.close()
    assert batcher.endpoint.pipeline is None


async def test_closing_while_it_connects(server):
    """The connection that is being made goes, too, and no task is left."""
    with server.client() as admin:
        before = len(admin.client_list())
        async with server.async_client() as client:
            batcher = batcher_of(client)
            batcher.call(echo(1)).cancel()
            await asyncio.sleep(0)
            await batcher.close()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await until(lambda: len(admin.client_list()) == before)


async def test_a_server_that_became_a_replica_is_left(batcher, server):
    """Its refusal is told, and the next check connects anew: to the new primary, if a name or Sentinel leads there.

    The spare leads to the same server, and is closed as well.
    """
    with server.client() as admin:
        admin.replicaof("127.0.0.1", "1")
        try:
            before = {batcher.endpoint.pipeline, batcher.endpoint._spare}
            with pytest.raises(StoreError, match="read only replica"):
                await batcher.call(ScriptCall(WRITE, ("n",), ()))
            assert await batcher.call(echo(2)) == 2
            await batcher.endpoint.wait_complete(AMPLE_S)
            assert before.isdisjoint({batcher.endpoint.pipeline, batcher.endpoint._spare})
            assert not any(pipeline.is_usable for pipeline in before)
        finally:
            admin.replicaof("NO", "ONE")


async def test_a_reply_that_nobody_asked_for_ends_the_connection(batcher):
    """Later replies might be taken for others'."""
    for data in (b"+surprise\r\n", b"no protocol\r\n"):
        before = batcher.endpoint.pipeline
        before.data_received(data)
        assert not before.is_usable
        assert batcher.endpoint.pipeline is not before
        assert await batcher.call(echo(2)) == 2
        await batcher.endpoint.wait_complete(AMPLE_S)


@needs_redis_py
async def test_a_client_of_resp3_is_read_as_resp2(server):
    """Whatever the client speaks by itself: our connections are our own, and replies are the same."""
    async with server.async_client(protocol=3, decode_responses=True) as client:
        await client.hset("hash", "field", "value")
        batcher = batcher_of(client)
        assert await batcher.call(BatchableReads([("HGETALL", "hash")])) == [[b"field", b"value"]]
        await batcher.close()


async def test_no_connection_of_the_clients_pool_is_used(server):
    """Its timeouts, retries and locks do not matter: it stays as its owner uses it."""
    async with server.async_client() as client:
        batcher = batcher_of(client)
        assert await asyncio.gather(*(batcher.call(echo(number)) for number in range(100))) == list(range(100))
        assert len(client.connection_pool._in_use_connections) == 0
        assert len(client.connection_pool._available_connections) == 0
        await batcher.close()
