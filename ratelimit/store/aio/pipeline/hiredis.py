"""A pipeline that reads replies from the transport itself."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio.pipeline.base import OnLost, OnReplies
from ratelimit.store.resp import INCOMPLETE, PUSH


class _Batch:
    __slots__ = ("on_replies", "replies", "reply_count", "timer")

    def __init__(self, reply_count: int, on_replies: OnReplies, timer: asyncio.TimerHandle | None) -> None:
        self.reply_count = reply_count
        self.on_replies = on_replies
        self.timer = timer
        self.replies: list[Any] = []

    def finish(self, replies: list[Any]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.on_replies(replies)


class HiredisPipeline(asyncio.Protocol):
    """Takes the place of the connection's protocol: a task that waits for data would have to be woken by three layers.

    The client's protocol still receives every event but data.
    """

    def __init__(self, connection: Any, reader: Any, on_lost: OnLost) -> None:
        self.connection = connection
        self._is_closed = False
        self._on_lost = on_lost
        self._timeout_s: float | None = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._batches: deque[_Batch] = deque()
        self._pushes = set[asyncio.Task[None]]()
        self._reader: Any = reader
        self._transport: Any = redis_compat.transport_of(connection)
        self._client_protocol: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """As `Pipeline.is_usable`."""
        return not self._is_closed and not self._transport.is_closing()

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """As `Pipeline.send`."""
        # One timer for the whole batch: one for each reply costs more than reading it.
        timer = None if self._timeout_s is None else self._loop.call_later(self._timeout_s, self._on_timeout)
        self._batches.append(_Batch(reply_count, on_replies, timer))
        self._transport.write(packet)

    def data_received(self, data: bytes) -> None:
        """Give replies to the batches, in the order in which they were sent."""
        reader, batches = self._reader, self._batches
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not INCOMPLETE:
                if type(reply) is PUSH:
                    self._on_push(reply)
                    continue
                if not batches:
                    self._fail(StoreTimeout("the server sent a reply that nobody had asked for"))
                    return
                first = batches[0]
                first.replies.append(reply)
                if len(first.replies) == first.reply_count:
                    del batches[0]
                    first.finish(first.replies)
                    if any(map(error_mapping.is_from_replica, first.replies)):
                        self._fail(error_mapping.after_sending(RedisConnectionError("the server is a replica now")))
                        return
        except redis_compat.redis_errors() as error:
            self._fail(error_mapping.after_sending(error))

    def _on_push(self, message: Any) -> None:
        handle = redis_compat.push_handler(self.connection)
        if handle is None:
            return
        task = self._loop.create_task(handle(message))
        self._pushes.add(task)  # the event loop itself keeps no task alive
        task.add_done_callback(self._pushes.discard)

    def _on_timeout(self) -> None:
        self._fail(error_mapping.after_sending(TimeoutError(f"there was none within {self._timeout_s} s")))

    def _fail(self, error: StoreError) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._on_lost(self)
        while self._batches:
            first = self._batches.popleft()
            first.finish([error] * first.reply_count)

    def eof_received(self) -> None:
        """Fail all batches; the transport then closes by itself."""
        self._client_protocol.eof_received()
        self._fail(error_mapping.after_sending(RedisConnectionError("the server closed the connection")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all batches."""
        self._client_protocol.connection_lost(exc)
        self._fail(error_mapping.after_sending(RedisConnectionError(str(exc or "it was closed"))))

    def pause_writing(self) -> None:
        """Write on: few batches are in flight at a time."""
        self._client_protocol.pause_writing()

    def resume_writing(self) -> None:
        """The twin of `pause_writing`."""
        self._client_protocol.resume_writing()

    def detach(self) -> bool:
        """As `Pipeline.detach`."""
        if self._batches or self._reader.has_data() or self._transport.is_closing():
            return False
        self._is_closed = True
        self._transport.set_protocol(self._client_protocol)
        return True

    def disconnect(self) -> None:
        """As `Pipeline.disconnect`."""
        self._fail(StoreTimeout("the connection was given up before the answer came"))
