"""Connections of an event loop with several batches of commands on their way: replies come in the order of asking."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from ratelimit.errors import StoreError, StoreTimeout
from ratelimit.store import faults
from ratelimit.store.lines import INCOMPLETE, PUSHED, push_handler, reader_for

Answered = Callable[[list[Any]], None]
"""Takes a reply for each command: texts as bytes, errors in their places."""

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

    def give_back(self) -> None:
        """Leave the connection as redis-py made it. Nothing may be on its way."""

    def break_off(self) -> None:
        """Give the connection up, with all that is on its way."""


def over(connection: Any, lost: Callable[[Pipeline], None]) -> Pipeline:
    """Return a pipeline over a connection; `lost` is called once, before anybody hears of it, if it fails."""
    # Emulators of Redis read in a way of their own.
    reader = reader_for(connection) if type(connection).read_response in _READ_PLAINLY else None
    return ThroughRedisPy(connection, lost) if reader is None else Direct(connection, reader, lost)


class _Asked:
    __slots__ = ("answered", "most", "replies", "timer")

    def __init__(self, most: int, answered: Answered, timer: asyncio.TimerHandle | None) -> None:
        self.most = most
        self.answered = answered
        self.timer = timer
        self.replies: list[Any] = []


class Direct(asyncio.Protocol):
    """Reads what comes by itself: a task that waits for it would have to be woken, through three layers.

    The protocol that redis-py gave to the transport hears of everything but data.
    """

    def __init__(self, connection: Any, reader: Any, lost: Callable[[Pipeline], None]) -> None:
        self.connection = connection
        self.usable = True
        self._lost = lost
        self._time_limit: float | None = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Asked] = deque()
        self._pushes = set[asyncio.Task[None]]()
        self._reader: Any = reader
        self._transport: Any = connection._writer.transport
        self._under: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

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
                    if first.timer is not None:
                        first.timer.cancel()
                    first.answered(first.replies)
                    if any(map(faults.from_a_replica, first.replies)):
                        self._fail(faults.after_sending(RedisConnectionError("the server is a replica now")))
                        return
        except RedisError as error:
            self._fail(faults.after_sending(error))

    def _pushed(self, reply: Any) -> None:
        handle = push_handler(self.connection)
        if handle is None:
            return
        push = self._loop.create_task(handle(reply))
        self._pushes.add(push)  # the event loop itself keeps no task alive
        push.add_done_callback(self._pushes.discard)

    def _late(self) -> None:
        self._fail(faults.after_sending(TimeoutError(f"there was none within {self._time_limit} s")))

    def _fail(self, error: StoreError) -> None:
        if not self.usable:
            return
        self.usable = False
        self._lost(self)
        while self._asked:
            first = self._asked.popleft()
            if first.timer is not None:
                first.timer.cancel()
            first.answered([error] * first.most)

    def eof_received(self) -> None:
        """Fail what was asked; the transport then closes by itself."""
        self._under.eof_received()
        self._fail(faults.after_sending(RedisConnectionError("the server closed the connection")))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what was asked."""
        self._under.connection_lost(exc)
        self._fail(faults.after_sending(RedisConnectionError(str(exc or "it was closed"))))

    def pause_writing(self) -> None:
        """Nothing to be done here: few batches are on their way at a time."""
        self._under.pause_writing()

    def resume_writing(self) -> None:
        """The twin of `pause_writing`."""
        self._under.resume_writing()

    def give_back(self) -> None:
        """As `Pipeline.give_back`."""
        self.usable = False
        self._transport.set_protocol(self._under)

    def break_off(self) -> None:
        """As `Pipeline.break_off`."""
        self._fail(StoreTimeout("the connection was given up before the answer came"))


class ThroughRedisPy:
    """The same by redis-py's own reading, one batch at a time: for emulators, and where there is no hiredis."""

    def __init__(self, connection: Any, lost: Callable[[Pipeline], None]) -> None:
        self.connection = connection
        self._lost = lost
        self._given_up = False
        self._turn = asyncio.Lock()
        self._tasks = set[asyncio.Task[None]]()

    @property
    def usable(self) -> bool:
        """As `Pipeline.usable`."""
        reader = getattr(self.connection, "_reader", None)
        ended = reader is not None and reader.at_eof()
        return not self._given_up and bool(self.connection.is_connected) and not ended

    def ask(self, packet: bytes, replies: int, answered: Answered) -> None:
        """As `Pipeline.ask`."""
        task = asyncio.create_task(self._answer(packet, replies, answered), name="ratelimit-ask")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, packet: bytes, replies: int, answered: Answered) -> None:
        try:
            async with self._turn:
                found = await self._ask(packet, replies)
        except BaseException as error:
            self.break_off()
            answered([_told(error)] * replies)
            if not isinstance(error, Exception):
                raise
        else:
            answered(found)
            if any(map(faults.from_a_replica, found)):
                self.break_off()

    async def _ask(self, packet: bytes, replies: int) -> list[Any]:
        if self._given_up:
            raise faults.before_sending(RedisConnectionError("it was given up"))
        async with asyncio.timeout(self.connection.socket_timeout):
            await self.connection.send_packed_command(packet, check_health=False)
            return [await self._read() for _ in range(replies)]

    async def _read(self) -> Any:
        try:
            return await self.connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error  # each command fails alone

    def give_back(self) -> None:
        """As `Pipeline.give_back`."""
        self._given_up = True

    def break_off(self) -> None:
        """As `Pipeline.break_off`."""
        if not self._given_up:
            self._given_up = True
            self._lost(self)


def _told(error: BaseException) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, RedisError | OSError):
        return faults.after_sending(error)
    return StoreTimeout(f"the connection was given up before the answer came: {type(error).__name__}")
