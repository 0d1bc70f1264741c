"""Calls that tests send to clusters: of a script so simple that what is counted is what was carried out."""

from contextlib import asynccontextmanager

from ratelimit.scripts import Script, ScriptCall
from ratelimit.store import clients
from ratelimit.store.aio.executor import async_executor_for

CATALOG = "{ns}:catalog"
_COUNT = Script("return redis.call('INCR', KEYS[1])")


def count(key):
    """A call that counts, in the value of a key, how often it was carried out."""
    return ScriptCall(_COUNT, [key], [])


def counted(cluster, keys):
    """What the primaries hold for keys, in all."""
    with cluster.client() as client:
        return sum(int(value or 0) for key in keys for value in [client.get(key)])


@asynccontextmanager
async def open_executor(cluster, deadline_s=1.0, client=None):
    """An executor for a cluster, whose connections stand."""
    client = clients.async_client_from_url(cluster.url, deadline_s) if client is None else client
    executor = async_executor_for(client, deadline_s, CATALOG)
    try:
        await executor.wait_connected(10)
        yield executor
    finally:
        await executor.close()


def operation(request):
    """An operation that returns the reply to one request."""
    return (yield request)
