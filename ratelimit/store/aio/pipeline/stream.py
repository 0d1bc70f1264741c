"""A pipeline that reads replies from the transport itself, plain or TLS."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio.pipeline.base import OnLost, OnReplies
from ratelimit.store.resp import INCOMPLETE, new_reader

_SLOWER_BY = 8
"""A round trip that took longer than those before counts by this part: it may have been the process that was slow."""

_now_s = time.monotonic


class _Batch:
    __slots__ = ("is_alone", "on_replies", "replies", "reply_count", "sent_s")

    def __init__(self, reply_count: int, on_replies: OnReplies, *, is_alone: bool) -> None:
        self.reply_count = reply_count
        self.on_replies = on_replies
        self.replies: list[Any] = []
        self.is_alone = is_alone
        self.sent_s = _now_s()


class StreamPipeline(asyncio.Protocol):
    """Takes the place of the connection's protocol: a task that waits for data would have to be woken by three layers.

    Attributes: as of `Pipeline`.
    """

    is_emulated = False

    def __init__(self, connection: Any, on_lost: OnLost) -> None:
        """Take over a connection that is connected, and what came on it already."""
        self._connection = connection
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._is_closed = self.is_replica = self.has_served = False
        self._batches: deque[_Batch] = deque()
        self._reader: Any = new_reader(redis_compat.parse_error_of(connection))
        self._transport: asyncio.Transport = redis_compat.transport_of(connection)
        self._transport.set_protocol(self)
        self.opened_s = self.last_arrival_s = _now_s()
        self.round_trip_s = 0.0
        self._is_measured = False
        self._unread = redis_compat.unread_data_of(connection)

    @property
    def is_usable(self) -> bool:
        """As `Pipeline.is_usable`."""
        return not self._is_closed and not self._transport.is_closing()

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """As `Pipeline.send`."""
        if not self.is_usable:
            on_replies([error_mapping.before_sending(RedisConnectionError("it was closed"))] * reply_count)
            return
        self._batches.append(_Batch(reply_count, on_replies, is_alone=not self._batches))
        self._transport.write(packet)
        if self._unread:
            unread, self._unread = self._unread, b""
            self.data_received(unread)

    def data_received(self, data: bytes) -> None:
        """Give replies to the batches, in the order in which they were sent."""
        reader, batches = self._reader, self._batches
        arrived_s = _now_s()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not INCOMPLETE:
                self.last_arrival_s = arrived_s  # parts of a reply may drip for ever
                if not batches:
                    self.close(StoreTimeout("the server sent a reply that nobody had asked for"))
                    return
                first = batches[0]
                first.replies.append(reply)
                if len(first.replies) == first.reply_count:
                    del batches[0]
                    self.has_served = self._is_measured  # the first reply only showed that the server is there
                    self._measure(first)
                    first.on_replies(first.replies)
                    if any(map(error_mapping.is_from_replica, first.replies)):
                        self.is_replica = True
                        self.close(error_mapping.after_sending(RedisConnectionError("the server is a replica now")))
                    if self._is_closed:
                        return
        except redis_compat.redis_errors() as error:
            self.close(error_mapping.after_sending(error))

    def _measure(self, batch: _Batch) -> None:
        took_s = self.last_arrival_s - batch.sent_s
        if took_s < self.round_trip_s or not self._is_measured:
            self.round_trip_s, self._is_measured = took_s, True
        elif batch.is_alone:
            self.round_trip_s += (took_s - self.round_trip_s) / _SLOWER_BY

    def eof_received(self) -> None:
        """Fail all batches; the transport then closes by itself."""
        self.close(error_mapping.after_sending(RedisConnectionError("the server closed the connection")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all batches."""
        self.close(error_mapping.after_sending(RedisConnectionError(str(exc or "it was closed"))))

    def close(self, error: StoreError | None = None) -> None:
        """As `Pipeline.close`."""
        if self._is_closed:
            return
        self._is_closed = True
        redis_compat.forget_transport(self._connection)
        self._on_lost(self)
        if self._loop.is_closed():
            return  # nobody can be called back
        error = error or StoreTimeout("the connection was given up before the answer came")
        while self._batches:
            first = self._batches.popleft()
            first.on_replies([error] * first.reply_count)
