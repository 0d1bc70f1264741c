"""Connections of an event loop with several batches of commands on their way: replies come in the order of asking."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import RedisError

from ratelimit.store.direct import Direct
from ratelimit.store.line import reader_for
from ratelimit.store.through_redis_py import ThroughRedisPy

Answered = Callable[[list[Any]], None]
"""Takes a reply for each command: texts as bytes, errors in their places."""

Lost = Callable[["Pipeline"], None]
"""Told once, before anybody else hears of it, when a pipeline has failed."""

_READ_PLAINLY = (AbstractConnection.read_response, SentinelManagedConnection.read_response)


class Pipeline(Protocol):
    """A connection of redis-py's, and what was asked on it and is not answered yet.

    connection  redis-py's
    """

    connection: Any

    @property
    def usable(self) -> bool:
        """Whether it may be asked, as far as is known."""

    def ask(self, packet: bytes, replies: int, answered: Answered) -> None:
        """Send commands. If the connection fails, all of the replies are the error that says so."""

    def give_back(self) -> bool:
        """Leave the connection as redis-py made it, unless something is on its way; return whether that was done."""

    def break_off(self) -> None:
        """Give the connection up, with all that is on its way."""


def over(connection: Any, lost: Lost) -> Pipeline:
    """Return a pipeline over a connection."""
    # Emulators of Redis read in a way of their own.
    reader = reader_for(connection) if type(connection).read_response in _READ_PLAINLY else None
    return ThroughRedisPy(connection, lost) if reader is None else Direct(connection, reader, lost)


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
