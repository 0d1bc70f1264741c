"""A pipeline for emulators: their connections are no streams, and alone know how to be read."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio.pipeline.base import OnLost, OnReplies


class EmulatorPipeline:
    """Sends one batch at a time, by a task of its own; the next one waits.

    Attributes: as of `Pipeline`.
    """

    is_emulated = True
    has_served = is_replica = False
    round_trip_s = 0.0

    def __init__(self, connection: Any, on_lost: OnLost) -> None:
        self._connection = connection
        self._on_lost = on_lost
        self._is_closed = False
        self._one_at_a_time = asyncio.Lock()
        self._tasks = set[asyncio.Task[list[Any]]]()
        self.opened_s = self.last_arrival_s = time.monotonic()

    @property
    def is_usable(self) -> bool:
        """As `Pipeline.is_usable`."""
        return not self._is_closed and bool(self._connection.is_connected)

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """As `Pipeline.send`."""
        task = asyncio.get_running_loop().create_task(self._execute(packet, reply_count), name="ratelimit-send")
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, on_replies, reply_count))

    async def _execute(self, packet: bytes, reply_count: int) -> list[Any]:
        try:
            async with self._one_at_a_time:
                return await self._send_and_read(packet, reply_count)
        except BaseException:
            self.close()
            raise

    def _on_done(self, on_replies: OnReplies, reply_count: int, task: asyncio.Task[list[Any]]) -> None:
        # A task that is cancelled before it began runs none of its own code.
        self._tasks.discard(task)
        self.last_arrival_s = time.monotonic()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        on_replies(task.result() if error is None else [_store_error(error)] * reply_count)

    async def _send_and_read(self, packet: bytes, reply_count: int) -> list[Any]:
        if self._is_closed:
            raise error_mapping.before_sending(RedisConnectionError("it was given up"))
        await self._connection.send_packed_command(packet, check_health=False)
        return [await redis_compat.read_reply(self._connection) for _ in range(reply_count)]

    def close(self, error: StoreError | None = None) -> None:  # noqa: ARG002 - who waits gets what the emulator says
        """As `Pipeline.close`."""
        if not self._is_closed:
            self._is_closed = True
            for task in self._tasks:
                task.cancel()
            redis_compat.forget_transport(self._connection)
            self._on_lost(self)


def _store_error(error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, redis_compat.client_errors()):
        return error_mapping.after_sending(error)
    return StoreTimeout(f"the connection was given up before the answer came: {type(error).__name__}")
