"""Queries Sentinels for the primary in an event loop: the twin of `store/blocking/primary.py`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from ratelimit.errors import StoreUnavailable
from ratelimit.store import error_mapping, redis_compat, sentinel
from ratelimit.store.addresses import Address, OnMove
from ratelimit.store.resp import pack


class AsyncPrimaryFinder:
    """Finds the primary of a service, for one event loop. See `PrimaryFinder`."""

    def __init__(self, pool: Any) -> None:
        self._pools = redis_compat.sentinel_pools(pool)
        self._tracker = redis_compat.primary_tracker(pool)
        self._queries = pack(sentinel.queries(pool.service_name))
        self._users: tuple[OnMove, ...] = ()
        self._is_requested = asyncio.Event()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None
        self._connections = [_SentinelConnection(pool, sentinel.WATCH_TIMEOUT_S) for pool in self._pools]
        self._subscription = _Subscription(self._query_now)

    async def find(self) -> Address:
        """Return the address of the primary, as a Sentinel names it that has the configuration of the last failover.

        Raises:
            StoreUnavailable: No Sentinel names one.
        """
        for timeout_s in (sentinel.TIMEOUT_S, sentinel.PATIENCE_S):
            search = sentinel.Round(self._tracker)
            for number in self._tracker.order:
                with contextlib.closing(_SentinelConnection(self._pools[number], timeout_s)) as connection:
                    if await self._query(search, number, connection):
                        break
            if search.is_answered:
                break
        return self._conclude(search)

    def watch(self, on_move: OnMove) -> None:
        """Query the Sentinels each second from now on, and at each failover that one of them publishes.

        Args:
            on_move: Called with the primary's address whenever that is another one than before.
        """
        self._users = (*self._users, on_move)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="ratelimit-sentinel")

    def _query_now(self) -> None:
        """Have the watch query the Sentinels at once."""
        self._is_requested.set()

    async def close(self) -> None:
        """End the watch."""
        self.abandon()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def abandon(self) -> None:
        """End the watch, whose loop ends or has ended."""
        self._is_closed = True  # a cancellation alone can be swallowed where a timeout ends at the same moment
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()
            self._query_now()
        self._subscription.close()
        for connection in self._connections:
            connection.close()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closed:
            began_s = loop.time()
            self._is_requested.clear()
            search = sentinel.Round(self._tracker)
            following = self._subscription.follow(self._pools[self._tracker.order[0]])
            await asyncio.gather(following, *(self._query_again(search, number) for number in self._tracker.order))
            with contextlib.suppress(StoreUnavailable):  # `find` raises it where somebody connects
                self._conclude(search)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(began_s + sentinel.INTERVAL_S):
                    await self._is_requested.wait()
            await asyncio.sleep(began_s + sentinel.PAUSE_S - loop.time())

    async def _query_again(self, search: sentinel.Round, number: int) -> None:
        if await self._query(search, number, self._connections[number]):
            self._conclude(search)  # without waiting for those that are silent

    async def _query(self, search: sentinel.Round, number: int, connection: _SentinelConnection) -> bool:
        """Query one Sentinel; return whether its answer is all that is needed."""
        try:
            return search.answer(number, await connection.send(self._queries))
        except Exception as error:  # noqa: BLE001 - whatever its client's own way of connecting raises
            search.fail(number, error_mapping.message_of(error))
            return False

    def _conclude(self, search: sentinel.Round) -> Address:
        address = search.conclude()
        if search.is_moved:
            for on_move in self._users:
                on_move(address)
        return address


class _SentinelConnection:
    """A connection to a Sentinel, made when it is first needed, and anew after a failure."""

    def __init__(self, pool: Any, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: Any = None

    async def send(self, queries: bytes) -> list[Any]:
        """Return the two replies; raise whatever its client does."""
        if self._connection is not None:
            with contextlib.suppress(*redis_compat.client_errors()):  # it may have ended since
                return await self._exchange(queries)
            self.close()
        self._connection = redis_compat.new_connection(self._pool, self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.connect()
            return await self._exchange(queries)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, queries: bytes) -> list[Any]:
        async with asyncio.timeout(self._timeout_s):
            await self._connection.send_packed_command([queries], check_health=False)
            return [await redis_compat.read_reply(self._connection) for _ in range(2)]

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            redis_compat.forget_transport(self._connection)
            self._connection = None


class _Subscription:
    """Listens to the failovers that one Sentinel publishes. The messages are not read: each has them queried."""

    def __init__(self, on_message: Callable[[], None]) -> None:
        self._on_message = on_message
        self._pool: Any = None
        self._connection: Any = None
        self._reading: asyncio.Task[None] | None = None

    async def follow(self, pool: Any) -> None:
        """Listen to this Sentinel; does nothing if it does so already, or cannot."""
        if self._connection is not None and self._pool is pool:
            return
        self.close()
        connection = redis_compat.new_connection(pool, None)
        try:
            async with asyncio.timeout(sentinel.WATCH_TIMEOUT_S):
                await connection.connect()
                await connection.send_command("SUBSCRIBE", sentinel.SWITCH_CHANNEL, check_health=False)
                await connection.read_response()
        except BaseException as error:
            redis_compat.forget_transport(connection)
            if not isinstance(error, Exception):
                raise
        else:
            self._pool, self._connection = pool, connection
            self._reading = asyncio.create_task(self._read(connection), name="ratelimit-sentinel-subscription")

    async def _read(self, connection: Any) -> None:
        with contextlib.suppress(*redis_compat.client_errors()):
            while True:
                await connection.read_response()
                self._on_message()
        self.close()  # it ended; the next round follows anew
        self._on_message()

    def close(self) -> None:
        """Disconnect."""
        if self._reading is not None and not self._reading.get_loop().is_closed():
            self._reading.cancel()
        if self._connection is not None:
            redis_compat.forget_transport(self._connection)
        self._reading = self._connection = None
