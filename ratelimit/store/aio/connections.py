"""Connections of an asyncio pool: acquired ready to be used, released."""

from __future__ import annotations

import contextlib
from typing import Any

from ratelimit.store import redis_compat


async def acquire(pool: Any) -> Any:
    """Return a connection of a pool's on which nothing came that nobody reads."""
    connection = await redis_compat.get_connection(pool)
    try:
        # redis-py looks as well, but not where it expects to hear of maintenance.
        if redis_compat.has_unread_data(connection):
            await connection.disconnect(nowait=True)
            await connection.connect()
    except BaseException:
        await pool.release(connection)
        raise
    return connection


async def release(pool: Any, connection: Any, *, disconnect: bool) -> None:
    """Return a connection to its pool, as it is or disconnected: the pool connects it again when it is needed."""
    try:
        if disconnect:
            with contextlib.suppress(*redis_compat.client_errors()):
                await connection.disconnect(nowait=True)
    finally:
        await pool.release(connection)
