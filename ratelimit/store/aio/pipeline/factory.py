"""From a connection of redis-py's pool to a pipeline, and back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import RedisError

from ratelimit.store.aio.pipeline.base import Lost, Pipeline
from ratelimit.store.aio.pipeline.fallback import FallbackPipeline
from ratelimit.store.aio.pipeline.hiredis import HiredisPipeline
from ratelimit.store.blocking.connection import reader_for

_READ_PLAINLY = (AbstractConnection.read_response, SentinelManagedConnection.read_response)


def over(connection: Any, lost: Lost) -> Pipeline:
    """Return a pipeline over a connection."""
    # Emulators of Redis read in a way of their own.
    reader = reader_for(connection) if type(connection).read_response in _READ_PLAINLY else None
    return FallbackPipeline(connection, lost) if reader is None else HiredisPipeline(connection, reader, lost)


async def taken(pool: Any) -> Any:
    """Return a connection of a pool's, one on which nothing came yet."""
    connection = await pool.get_connection()
    try:
        # redis-py looks as well, but not where it expects to be told of maintenance.
        reader = getattr(connection, "_reader", None)
        if isinstance(reader, asyncio.StreamReader) and (reader.at_eof() or getattr(reader, "_buffer", None)):
            await connection.disconnect(nowait=True)
            await connection.connect()
    except BaseException:
        await pool.release(connection)
        raise
    return connection


async def returned(pool: Any, connection: Any, *, disconnected: bool) -> None:
    """Return a connection to its pool."""
    try:
        if disconnected:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
    finally:
        await pool.release(connection)
