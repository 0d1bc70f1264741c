"""A pipeline that has redis-py read."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping
from ratelimit.store.aio.pipeline.base import Answered, Lost


class FallbackPipeline:
    """The same by redis-py's own reading, one batch at a time: for emulators, and where there is no hiredis."""

    def __init__(self, connection: Any, lost: Lost) -> None:
        self.connection = connection
        self._lost = lost
        self._given_up = False
        self._turn = asyncio.Lock()
        self._tasks = set[asyncio.Task[list[Any]]]()

    @property
    def usable(self) -> bool:
        """As `Pipeline.usable`."""
        reader, writer = (getattr(self.connection, name, None) for name in ("_reader", "_writer"))
        ended = isinstance(reader, asyncio.StreamReader) and reader.at_eof()
        closing = isinstance(writer, asyncio.StreamWriter) and writer.is_closing()
        return bool(self.connection.is_connected) and not (self._given_up or ended or closing)

    def ask(self, packet: bytes, replies: int, answered: Answered) -> None:
        """As `Pipeline.ask`."""
        task = asyncio.create_task(self._answer(packet, replies), name="ratelimit-ask")
        self._tasks.add(task)
        task.add_done_callback(partial(self._answered, answered, replies))

    async def _answer(self, packet: bytes, replies: int) -> list[Any]:
        try:
            async with self._turn:
                found = await self._ask(packet, replies)
        except BaseException:
            self.break_off()
            raise
        if any(map(error_mapping.from_a_replica, found)):
            self.break_off()
        return found

    def _answered(self, answered: Answered, replies: int, task: asyncio.Task[list[Any]]) -> None:
        # A task that is cancelled before it began runs none of its own code.
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        answered(task.result() if error is None else [_told(error)] * replies)

    async def _ask(self, packet: bytes, replies: int) -> list[Any]:
        if self._given_up:
            raise error_mapping.before_sending(RedisConnectionError("it was given up"))
        async with asyncio.timeout(self.connection.socket_timeout):
            await self.connection.send_packed_command(packet, check_health=False)
            return [await self._read() for _ in range(replies)]

    async def _read(self) -> Any:
        try:
            return await self.connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error  # each command fails alone

    def give_back(self) -> bool:
        """As `Pipeline.give_back`."""
        if self._tasks or not self.usable:
            return False
        self._given_up = True
        return True

    def break_off(self) -> None:
        """As `Pipeline.break_off`."""
        if not self._given_up:
            self._given_up = True
            self._lost(self)


def _told(error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, RedisError | OSError):
        return error_mapping.after_sending(error)
    return StoreTimeout(f"the connection was given up before the answer came: {type(error).__name__}")
