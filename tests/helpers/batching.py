"""Script calls of no importance, to see how they reach Redis."""

from contextlib import asynccontextmanager

from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.aio.batcher import CheckBatcher

ECHO = Script("return tonumber(ARGV[1])")


def echo(number):
    """A call that is answered with its number."""
    return ScriptCall(ECHO, (), (str(number),))


@asynccontextmanager
async def open_batcher(server, **options):
    """A batcher on a client of its own, that had one reply. Both are closed when all went well."""
    async with server.async_client(**options) as client:
        made = CheckBatcher(client.connection_pool)
        assert await made.call(echo(0)) == 0
        yield made
        await made.close()
