"""A pipeline that reads replies itself."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping
from ratelimit.store.aio.pipeline.base import Answered, Lost
from ratelimit.store.blocking.connection import INCOMPLETE, PUSHED, push_handler


class _Asked:
    __slots__ = ("answered", "most", "replies", "timer")

    def __init__(self, most: int, answered: Answered, timer: asyncio.TimerHandle | None) -> None:
        self.most = most
        self.answered = answered
        self.timer = timer
        self.replies: list[Any] = []

    def answer(self, replies: list[Any]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.answered(replies)


class HiredisPipeline(asyncio.Protocol):
    """Reads what comes by itself: a task that waits for it would have to be woken, through three layers.

    The protocol that redis-py gave to the transport hears of everything but data.
    """

    def __init__(self, connection: Any, reader: Any, lost: Lost) -> None:
        self.connection = connection
        self._ended = False
        self._lost = lost
        self._time_limit: float | None = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Asked] = deque()
        self._pushes = set[asyncio.Task[None]]()
        self._reader: Any = reader
        self._transport: Any = connection._writer.transport
        self._under: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """As `Pipeline.usable`."""
        return not self._ended and not self._transport.is_closing()

    def ask(self, packet: bytes, replies: int, answered: Answered) -> None:
        """As `Pipeline.ask`."""
        # One time limit for the whole batch: one for each reply costs more than reading it.
        timer = None if self._time_limit is None else self._loop.call_later(self._time_limit, self._late)
        self._asked.append(_Asked(replies, answered, timer))
        self._transport.write(packet)

    def data_received(self, data: bytes) -> None:
        """Answer who asked first."""
        reader, asked = self._reader, self._asked
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not INCOMPLETE:
                if type(reply) is PUSHED:
                    self._pushed(reply)
                    continue
                if not asked:
                    self._fail(StoreTimeout("the server sent a reply that nobody had asked for"))
                    return
                first = asked[0]
                first.replies.append(reply)
                if len(first.replies) == first.most:
                    del asked[0]
                    first.answer(first.replies)
                    if any(map(error_mapping.from_a_replica, first.replies)):
                        self._fail(error_mapping.after_sending(RedisConnectionError("the server is a replica now")))
                        return
        except RedisError as error:
            self._fail(error_mapping.after_sending(error))

    def _pushed(self, reply: Any) -> None:
        handle = push_handler(self.connection)
        if handle is None:
            return
        push = self._loop.create_task(handle(reply))
        self._pushes.add(push)  # the event loop itself keeps no task alive
        push.add_done_callback(self._pushes.discard)

    def _late(self) -> None:
        self._fail(error_mapping.after_sending(TimeoutError(f"there was none within {self._time_limit} s")))

    def _fail(self, error: StoreError) -> None:
        if self._ended:
            return
        self._ended = True
        self._lost(self)
        while self._asked:
            first = self._asked.popleft()
            first.answer([error] * first.most)

    def eof_received(self) -> None:
        """Fail what was asked; the transport then closes by itself."""
        self._under.eof_received()
        self._fail(error_mapping.after_sending(RedisConnectionError("the server closed the connection")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what was asked."""
        self._under.connection_lost(exc)
        self._fail(error_mapping.after_sending(RedisConnectionError(str(exc or "it was closed"))))

    def pause_writing(self) -> None:
        """Nothing to be done here: few batches are on their way at a time."""
        self._under.pause_writing()

    def resume_writing(self) -> None:
        """The twin of `pause_writing`."""
        self._under.resume_writing()

    def give_back(self) -> bool:
        """As `Pipeline.give_back`."""
        if self._asked or self._reader.has_data() or self._transport.is_closing():
            return False
        self._ended = True
        self._transport.set_protocol(self._under)
        return True

    def break_off(self) -> None:
        """As `Pipeline.break_off`."""
        self._fail(StoreTimeout("the connection was given up before the answer came"))
