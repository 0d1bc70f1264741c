"""Queries Sentinels for the primary, over blocking sockets: before connecting, and each second, to notice a failover.

The connections are made as the client's own to its Sentinels are, with its users, passwords and certificates.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from typing import Any
from weakref import WeakMethod

from ratelimit.errors import StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat, sentinel
from ratelimit.store.addresses import Address, OnMove
from ratelimit.store.blocking.connection import Connection, open_connection
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.resp import pack

_READ_SIZE = 4096


class PrimaryFinder:
    """Finds the primary of a service, for one process. Safe between threads; after a fork, a child has its own watch.

    Args:
        pool: Of a client that `Sentinel(...).master_for(...)` made.
    """

    def __init__(self, pool: Any) -> None:
        self._pools = redis_compat.sentinel_pools(pool)
        self._tracker = redis_compat.primary_tracker(pool)
        self._queries = pack(sentinel.queries(pool.service_name))
        self._users: tuple[WeakMethod[OnMove], ...] = ()
        self._wake_up: tuple[socket.socket, socket.socket] | None = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew, and leave the parent its thread: the child's starts with `watch`."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._close_wake_up()

    def find(self) -> Address:
        """Return the address of the primary, as a Sentinel names it that has the configuration of the last failover.

        Raises:
            StoreUnavailable: No Sentinel names one.
        """
        for timeout_s in (sentinel.TIMEOUT_S, sentinel.PATIENCE_S):
            search = sentinel.Round(self._tracker)
            for number in self._tracker.order:
                with contextlib.closing(_SentinelConnection(self._pools[number], timeout_s)) as connection:
                    if self._query(search, number, connection):
                        break
            if search.is_answered:
                break
        return self._conclude(search)

    def watch(self, on_move: OnMove) -> None:
        """Query the Sentinels each second from now on, and at each failover that one of them publishes.

        Args:
            on_move: A method to be called with the primary's address whenever that is another one than before. The
                watch ends about a second after the last object with such a method is gone.
        """
        method = WeakMethod(on_move)
        with self._lock:
            if method not in self._users:
                self._users = (*filter(_is_alive, self._users), method)
            if self._thread is None:
                waking, wakened = self._wake_up = socket.socketpair()
                waking.settimeout(0)
                self._thread = threading.Thread(
                    target=self._watch, args=(wakened,), name="ratelimit-sentinel", daemon=True
                )
                self._thread.start()

    def _query_now(self) -> None:
        """Have the watch query the Sentinels at once."""
        if (wake_up := self._wake_up) is not None:
            with contextlib.suppress(OSError):  # it has ended, or was woken more often than it could look
                wake_up[0].send(b"!")

    def unwatch(self, on_move: OnMove) -> None:
        """Call the method no more. The watch ends with the last one."""
        method = WeakMethod(on_move)
        with self._lock:
            self._users = tuple(each for each in self._users if each != method)
            thread = None if self._users else self._thread
        if thread is not None and thread is not threading.current_thread():
            self._query_now()
            thread.join(len(self._pools) * sentinel.TIMEOUT_S + sentinel.INTERVAL_S)

    def _close_wake_up(self) -> None:
        for end in self._wake_up or ():
            end.close()
        self._wake_up = None

    def _watch(self, wakened: socket.socket) -> None:
        connections = [_SentinelConnection(pool, sentinel.TIMEOUT_S) for pool in self._pools]
        subscription = _Subscription()
        while not self._may_end():
            began_s = time.monotonic()
            # Before the queries: what is published meanwhile must not be missed.
            subscription.follow(self._pools[self._tracker.order[0]])
            search = sentinel.Round(self._tracker)
            for number in self._tracker.order:
                if self._query(search, number, connections[number]):
                    self._conclude(search)  # without waiting for those that are silent
            with contextlib.suppress(StoreUnavailable):  # `find` raises it where somebody connects
                self._conclude(search)
            subscription.wait(wakened, began_s + sentinel.INTERVAL_S)
            time.sleep(max(0.0, began_s + sentinel.PAUSE_S - time.monotonic()))
        subscription.close()
        for connection in connections:
            connection.close()

    def _query(self, search: sentinel.Round, number: int, connection: _SentinelConnection) -> bool:
        """Query one Sentinel; return whether its answer is all that is needed."""
        try:
            return search.answer(number, connection.send(self._queries))
        except Exception as error:  # noqa: BLE001 - whatever its client's own way of connecting raises
            search.fail(number, error_mapping.message_of(error))
            return False

    def _conclude(self, search: sentinel.Round) -> Address:
        with self._lock:
            address = search.conclude()
        if search.is_moved:
            for method in self._users:
                if (on_move := method()) is not None:
                    on_move(address)
        return address

    def _may_end(self) -> bool:
        with self._lock:
            self._users = tuple(filter(_is_alive, self._users))
            if self._users:
                return False
            self._thread = None
            self._close_wake_up()
            return True


def _is_alive(method: WeakMethod[OnMove]) -> bool:
    return method() is not None


class _SentinelConnection:
    """A connection to a Sentinel, made when it is first needed, and anew after a failure."""

    def __init__(self, pool: Any, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: Connection | None = None

    def send(self, queries: bytes) -> list[Any]:
        """Return the two replies; raise whatever its client does."""
        if self._connection is not None:
            with contextlib.suppress(*redis_compat.client_errors()):  # it may have ended since
                return self._exchange(self._connection, queries)
            self.close()
        self._connection = open_connection(self._pool, None, self._timeout_s)
        try:
            return self._exchange(self._connection, queries)
        except BaseException:
            self.close()
            raise

    def _exchange(self, connection: Connection, queries: bytes) -> list[Any]:
        return connection.execute(queries, 2, Wait(self._timeout_s))

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Subscription:
    """Listens to the failovers that one Sentinel publishes. The messages are not read: each has them queried."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._connection: Any = None

    def follow(self, pool: Any) -> None:
        """Listen to this Sentinel; does nothing if it does so already, or cannot."""
        if self._connection is not None and self._pool is pool:
            return
        self.close()
        connection = redis_compat.new_connection(pool, sentinel.TIMEOUT_S)
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", sentinel.SWITCH_CHANNEL, check_health=False)
            connection.read_response()
        except Exception:  # noqa: BLE001 - as above
            connection.disconnect()
        else:
            self._pool, self._connection = pool, connection

    def wait(self, wakened: socket.socket, until_s: float) -> None:
        """Return when something was published, when `wakened` can be read, or at the latest at this time."""
        with selectors.DefaultSelector() as selector:
            selector.register(wakened, selectors.EVENT_READ)
            if self._connection is not None:
                selector.register(redis_compat.socket_of(self._connection), selectors.EVENT_READ)
            for event, _ in selector.select(max(0.0, until_s - time.monotonic())):
                if event.fileobj is wakened:
                    wakened.recv(_READ_SIZE)
                else:
                    self._read()

    def _read(self) -> None:
        try:
            while self._connection.can_read(timeout=0):
                self._connection.read_response()
        except Exception:  # noqa: BLE001 - however it ended
            self.close()

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
