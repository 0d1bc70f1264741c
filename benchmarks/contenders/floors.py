"""Floors: what a round trip costs without any limiter. The same unix socket as everybody else."""

import socket
from contextlib import asynccontextmanager, contextmanager

import hiredis
import redis
import redis.asyncio

from benchmarks.contenders.contender import Contender

NO_OP = "return 1"


@contextmanager
def raw_round_trip(url):
    """Yield a function from a command to its reply, the least that Python can do. No time-out, no retry.

    A command is packed by hiredis, sent at once, received at once, and parsed by hiredis.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(url.removeprefix("unix://"))
        reader = hiredis.Reader()

        def round_trip(command):
            link.sendall(hiredis.pack_command(command))
            reader.feed(link.recv(65536))
            return reader.gets()

        yield round_trip


@contextmanager
def raw_socket(url, _load):
    with redis.Redis.from_url(url) as client:
        sha = client.script_load(NO_OP)
    with raw_round_trip(url) as round_trip:
        yield lambda _caller, _cost=1: round_trip(("EVALSHA", sha, 0)) == 1


@contextmanager
def connection(url, _load):
    """redis-py's connection, taken from its pool once and used directly."""
    with redis.Redis.from_url(url) as client:
        sha = client.script_load(NO_OP)
        link = client.connection_pool.get_connection()

        def call(_caller, _cost=1):
            link.send_command("EVALSHA", sha, 0)
            return link.read_response() == 1

        yield call
        client.connection_pool.release(link)


@contextmanager
def evalsha(url, _load):
    with redis.Redis.from_url(url) as client:
        sha = client.script_load(NO_OP)
        yield lambda _caller, _cost=1: client.evalsha(sha, 0) == 1


@contextmanager
def incr(url, _load):
    with redis.Redis.from_url(url) as client:
        yield lambda caller, _cost=1: client.incr(f"count:{caller}") > 0


@asynccontextmanager
async def aevalsha(url, _load):
    async with redis.asyncio.Redis.from_url(url) as client:
        sha = await client.script_load(NO_OP)

        async def call(_caller):
            return await client.evalsha(sha, 0) == 1

        yield call


@asynccontextmanager
async def aincr(url, _load):
    async with redis.asyncio.Redis.from_url(url) as client:

        async def call(caller):
            return await client.incr(f"count:{caller}") > 0

        yield call


RAW = Contender("raw socket, no-op EVALSHA", "floor", "nothing", raw_socket)
CONNECTION = Contender("connection, no-op EVALSHA", "floor", "nothing", connection)
EVALSHA = Contender("client, no-op EVALSHA", "floor", "nothing", evalsha, aevalsha)
INCR = Contender("client, INCR", "floor", "nothing", incr, aincr)
ALL = [RAW, CONNECTION, EVALSHA, INCR]
