"""A pipeline that has the client read: for emulators, and where there is no hiredis."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio.pipeline.base import OnLost, OnReplies


class FallbackPipeline:
    """Sends one batch at a time, by a task of its own; the next one waits."""

    def __init__(self, connection: Any, on_lost: OnLost) -> None:
        self.connection = connection
        self._on_lost = on_lost
        self._is_closed = False
        self._one_at_a_time = asyncio.Lock()
        self._tasks = set[asyncio.Task[list[Any]]]()

    @property
    def is_usable(self) -> bool:
        """As `Pipeline.is_usable`."""
        if self._is_closed or not self.connection.is_connected or redis_compat.stream_has_ended(self.connection):
            return False
        # Where nothing is in flight, whatever came must not answer the next command.
        return bool(self._tasks) or not redis_compat.has_unread_data(self.connection)

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """As `Pipeline.send`."""
        task = asyncio.create_task(self._execute(packet, reply_count), name="ratelimit-send")
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_done, on_replies, reply_count))

    async def _execute(self, packet: bytes, reply_count: int) -> list[Any]:
        try:
            async with self._one_at_a_time:
                replies = await self._send_and_read(packet, reply_count)
        except BaseException:
            self.disconnect()
            raise
        if any(map(error_mapping.is_from_replica, replies)):
            self.disconnect()
        return replies

    def _on_done(self, on_replies: OnReplies, reply_count: int, task: asyncio.Task[list[Any]]) -> None:
        # A task that is cancelled before it began runs none of its own code.
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        on_replies(task.result() if error is None else [_store_error(error)] * reply_count)

    async def _send_and_read(self, packet: bytes, reply_count: int) -> list[Any]:
        if self._is_closed:
            raise error_mapping.before_sending(RedisConnectionError("it was given up"))
        async with asyncio.timeout(self.connection.socket_timeout):
            await self.connection.send_packed_command(packet, check_health=False)
            return [await self._read() for _ in range(reply_count)]

    async def _read(self) -> Any:
        try:
            return await self.connection.read_response(disable_decoding=True)
        except redis_compat.errors("ResponseError") as error:
            return error  # each command fails alone

    def detach(self) -> bool:
        """As `Pipeline.detach`."""
        if self._tasks or not self.is_usable:
            return False
        self._is_closed = True
        return True

    def disconnect(self) -> None:
        """As `Pipeline.disconnect`."""
        if not self._is_closed:
            self._is_closed = True
            self._on_lost(self)


def _store_error(error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, redis_compat.client_errors()):
        return error_mapping.after_sending(error)
    return StoreTimeout(f"the connection was given up before the answer came: {type(error).__name__}")
