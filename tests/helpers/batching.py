"""Script calls of no importance, to see how they reach Redis."""

import asyncio
from contextlib import asynccontextmanager

from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.aio.batcher import CheckBatcher

ECHO = Script("return tonumber(ARGV[1])")
AMPLE_S = 10.0
"""A deadline that no call misses unless something is wrong."""


def echo(number):
    """A call that is answered with its number."""
    return ScriptCall(ECHO, (), (str(number),))


def batcher_of(client, deadline_s=AMPLE_S):
    """A batcher of the running loop that connects as a client does."""
    return CheckBatcher(client.connection_pool, deadline_s)


@asynccontextmanager
async def open_batcher(server, deadline_s=AMPLE_S, **options):
    """A batcher on a client of its own, that had one reply and has its spare. Both are closed when all went well."""
    async with server.async_client(**options) as client:
        made = batcher_of(client, deadline_s)
        assert await made.call(echo(0)) == 0
        await made.endpoint.wait_complete(AMPLE_S)
        yield made
        await made.close()


async def until(happened):
    """Wait until something is so; look in each turn of the loop."""
    async with asyncio.timeout(AMPLE_S):
        while not happened():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0)
