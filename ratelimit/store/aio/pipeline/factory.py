"""Opens pipelines: connects, shakes hands, and waits for a first reply."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.errors import StoreError
from ratelimit.store import redis_compat
from ratelimit.store.aio.finder import AsyncFinder
from ratelimit.store.aio.pipeline.base import OnLost, Pipeline
from ratelimit.store.aio.pipeline.emulator import EmulatorPipeline
from ratelimit.store.aio.pipeline.stream import StreamPipeline
from ratelimit.store.resp import NO_OP

_T = TypeVar("_T")


async def open_pipeline(
    pool: Any, on_lost: OnLost, timeout_s: float | None, primary: AsyncFinder | None = None
) -> Pipeline:
    """Return a pipeline over a new connection, made as the pool makes them, on which the server has answered.

    That a connection is accepted says little: the kernel of a server that is stopped does so as well. Any reply counts,
    also an error: the first call then fails with what is wrong.

    Args:
        pool: The pool of an asyncio client.
        on_lost: Called when the pipeline has ended.
        timeout_s: Seconds that all of it may take; None for any time.
        primary: Finds the server to connect to; None where the pool says it.

    Raises:
        Exception: Whatever a client raises, or its credential provider.
    """
    async with asyncio.timeout(timeout_s):
        address = None if primary is None else await primary.find()
        connection = redis_compat.new_connection(pool, timeout_s, address)
        try:
            await connection.connect()
        except BaseException:
            redis_compat.forget_transport(connection)
            raise
        if not redis_compat.is_stream(connection):
            return EmulatorPipeline(connection, on_lost)
        pipeline = StreamPipeline(connection, on_lost)
        try:
            await _first_reply(pipeline)
        except BaseException:
            pipeline.close()
            raise
        return pipeline


async def _first_reply(pipeline: Pipeline) -> None:
    replied: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    pipeline.send(NO_OP, 1, partial(set_unless_done, replied))
    (reply,) = await replied
    if isinstance(reply, StoreError) or redis_compat.is_without_room(reply):
        raise RedisConnectionError(str(reply))


def set_unless_done(future: asyncio.Future[_T], result: _T) -> None:
    """Set the result of a future for which nobody may wait any more."""
    if not future.done():
        future.set_result(result)
