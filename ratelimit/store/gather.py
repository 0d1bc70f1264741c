"""Checks of one event loop, gathered: all that are asked in one tick leave together on one connection.

Checks that stand together become one call of a script. While the answers of one batch are on their way the next one is
sent, so that client and server work at the same time, and meanwhile another comes together. So a hundred tasks cost
a few round trips, no task waits for a connection of its own, and a check that is alone goes out at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ratelimit.core.batch import ASK_ALONE, CheckCall, joined
from ratelimit.core.scripts import ScriptCall
from ratelimit.errors import ConfigError, StoreError, StoreTimeout, StoreUnavailable
from ratelimit.store import faults
from ratelimit.store.lines import packed

_MOST_IN_BATCH = 64
_MOST_IN_FLIGHT = 2
_MANY = 16
"""When as many wait, they do not wait for the batch that is on its way; twice as many are sent in two halves."""
_MOST_WAITING = 10_000

_Waiter = tuple[ScriptCall, "asyncio.Future[Any]"]


class Gatherer:
    """Sends script calls in the order in which they were asked, and answers each with its own reply or error."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._waiting: deque[_Waiter] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0
        self._all_usual = False
        self._sending, self._reading = asyncio.Lock(), asyncio.Lock()
        self._connection: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse any event loop but the first: connections belong to the one in which they were made."""
        if self._loop is not loop:
            if self._loop is not None:
                raise ConfigError("was used in another event loop, to which its connections belong", field="client")
            self._loop = loop

    def call(self, call: ScriptCall) -> asyncio.Future[Any]:
        """Return the reply to a script call, to be awaited. Who is cancelled gives up its own reply, nobody else's."""
        loop = asyncio.get_running_loop()
        self.belong_to(loop)
        future = loop.create_future()
        if len(self._waiting) >= _MOST_WAITING:
            told = f"{_MOST_WAITING} checks are waiting to be sent: Redis is slower than they come"
            future.set_exception(StoreUnavailable(told))
            return future
        self._waiting.append((call, future))
        if not self._working or (len(self._waiting) == _MANY and self._may_overlap()):
            self._start_worker()
        return future

    def _start_worker(self) -> None:
        self._working += 1
        worker = asyncio.create_task(self._work(), name="ratelimit-gather")
        self._workers.add(worker)  # the event loop itself keeps no task alive
        worker.add_done_callback(self._workers.discard)

    async def close(self) -> None:
        """Give the connection back to the client."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await self._pool.release(connection)

    async def _work(self) -> None:
        try:
            while self._waiting:
                waiters = self._next()
                if len(self._waiting) >= _MANY and self._may_overlap():
                    self._start_worker()
                if waiters:
                    await self._answer(waiters)
        finally:
            self._working -= 1

    def _may_overlap(self) -> bool:
        """Tell whether a batch may be sent before the one before it is answered.

        Not after one that left checks out, as happens when keys are new or plans changed: they are asked again first.
        """
        return self._all_usual and self._working < _MOST_IN_FLIGHT

    def _next(self) -> list[_Waiter]:
        """Take the first of those that wait, and who can go with it: checks with checks, everything else with its like.

        So nobody is overtaken, unless by a batch that was on its way already when this one left somebody out.
        """
        together = isinstance(self._waiting[0][0], CheckCall)
        most = len(self._waiting)
        if most >= 2 * _MANY and self._may_overlap():
            most = (most + 1) // 2
        most = min(most, _MOST_IN_BATCH)
        taken: list[_Waiter] = []
        while self._waiting and len(taken) < most and isinstance(self._waiting[0][0], CheckCall) == together:
            waiter = self._waiting.popleft()
            if not waiter[1].done():
                taken.append(waiter)
        return taken

    async def _answer(self, waiters: list[_Waiter]) -> None:
        try:
            replies = await self._answers([call for call, _ in waiters])
        except asyncio.CancelledError:
            for _, future in waiters:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - every waiter has to hear of it, and those that wait still be served
            replies = [error] * len(waiters)
        for (_, future), reply in zip(waiters, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(faults.after_sending(reply) if isinstance(reply, RedisError) else reply)
            else:
                future.set_result(reply)

    async def _answers(self, calls: list[ScriptCall]) -> list[Any]:
        """Return a reply or an error for each call; several checks are asked as one."""
        checks = [call for call in calls if isinstance(call, CheckCall)]
        if len(checks) < 2:
            return await self._ask(calls)
        (found,) = await self._ask([joined(checks)])
        if isinstance(found, Exception):
            return [found] * len(calls)
        alone = [at for at, reply in enumerate(found) if reply == ASK_ALONE]
        self._all_usual = not alone
        if alone:
            for at, reply in zip(alone, await self._ask([calls[at] for at in alone]), strict=True):
                found[at] = reply
        return list(found)

    async def _ask(self, calls: Sequence[ScriptCall]) -> list[Any]:
        replies = await self._replies([call.packet or call.packed(packed) for call in calls])
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # EVAL runs the script and teaches it at once. Whatever becomes of it, the others are answered.
            again = await self._replies([packed([calls[at].by_source()]) for at in unknown])
            for at, reply in zip(unknown, again, strict=True):
                replies[at] = reply
        return replies

    async def _replies(self, packets: list[bytes]) -> list[Any]:
        """Return a reply or an error for each packet."""
        try:
            return await self._send(packets)
        except Exception as error:  # noqa: BLE001 - every waiter has to hear of it
            return [error] * len(packets)

    async def _send(self, packets: Sequence[bytes]) -> list[Any]:
        await self._sending.acquire()
        turn = self._sending
        connection = None
        try:
            try:
                connection = await self._ready()
            except (RedisError, OSError) as error:
                raise faults.before_sending(error) from error
            # One time limit for the whole batch: one for each reply costs more than reading it.
            async with asyncio.timeout(connection.socket_timeout):
                await connection.send_packed_command(b"".join(packets), check_health=False)
                # Who has sent waits for its turn to read before the next may send: replies come in that order.
                await self._reading.acquire()
                turn.release()
                turn = self._reading
                return [await _read(connection) for _ in packets]
        except BaseException as error:
            given_up = connection is not None and connection is not self._connection
            await self._drop(connection)
            if isinstance(error, RedisError | OSError):
                raise faults.after_sending(error) from error
            if given_up and isinstance(error, Exception) and not isinstance(error, StoreError):
                # redis-py says so in ways of its own when somebody else closes what it writes to.
                raise StoreTimeout("the connection was given up with the batch before this one") from error
            raise
        finally:
            turn.release()

    async def _ready(self) -> Any:
        """Return the connection; one that the server closed meanwhile is replaced before anything is sent."""
        connection = self._connection
        if connection is not None:
            reader = getattr(connection, "_reader", None)
            if connection.is_connected and not (reader is not None and reader.at_eof()):
                return connection
            await self._drop(connection)
        self._connection = await self._pool.get_connection()
        return self._connection

    async def _drop(self, connection: Any) -> None:
        if connection is not None and connection is self._connection:
            self._connection = None
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


async def _read(connection: Any) -> Any:
    # redis-py's own read sets a time limit for each reply; the batch has one. Emulators read in a way of their own.
    plain = type(connection).read_response is AbstractConnection.read_response
    try:
        return await (connection._parser if plain else connection).read_response(disable_decoding=True)
    except ResponseError as error:
        return error  # each check fails alone
