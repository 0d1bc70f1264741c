"""Idle connections, ready for the next check: a trip to the client's pool takes locks and costs more than a check."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary, ref

from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.connection import DirectConnection, NothingSentError

_MAX_IDLE = 8
_POOL_SHARE = 4
"""At most a fourth of a client's pool is kept: the application may use the client as well."""


class ConnectionStack:
    """The idle connections of one process to one pool, the last used first. Those beyond a few go back to the pool.

    Safe between threads (a deque's ends are), and after a fork: a child starts with none. The pool must be held by
    whoever uses the stack.
    """

    @classmethod
    def of(cls, pool: Any) -> ConnectionStack:
        """Return the stack of a client's pool: all limiters and catalogues of the client share it."""
        return _stacks.setdefault(pool, cls(pool))  # one step, also between threads

    def __init__(self, pool: Any) -> None:
        self._pool = ref(pool)  # `_stacks` ends with the pool, and so must not keep it
        self._max_idle = min(_MAX_IDLE, max(1, pool.max_connections // _POOL_SHARE))
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Forget the parent's connections."""
        self._idle: deque[DirectConnection] = deque()
        self._waiter_count = 0
        self._lock = threading.Lock()

    def execute(self, packet: bytes, reply_count: int, *, is_retry: bool = False) -> list[Any]:
        """Send commands once and wait for their replies.

        Args:
            packet: The commands as they go over the wire.
            reply_count: How many commands these are.
            is_retry: Whether there was an attempt before, in which nothing was sent.

        Returns:
            Their replies: texts as bytes, errors in their places.

        Raises:
            StoreUnavailable: The commands were not carried out.
            StoreTimeout: Nobody knows whether they were.
        """
        try:
            # Of idle connections, another thread may just have released one that has ended as well.
            connection = self._acquire(or_idle=False) if is_retry else self._idle.pop()
        except IndexError:
            connection = self._acquire()
        try:
            return connection.execute(packet, reply_count)
        except NothingSentError as error:
            connection.disconnect()
            if is_retry:
                raise error_mapping.before_sending(error) from error
        except redis_compat.client_errors() as error:
            connection.disconnect()
            raise error_mapping.after_sending(error) from error
        except BaseException:
            connection.disconnect()  # interrupted
            raise
        finally:
            self._release(connection)
        self.disconnect()  # others that were idle will have ended, too
        return self.execute(packet, reply_count, is_retry=True)

    def _acquire(self, *, or_idle: bool = True) -> DirectConnection:
        # Who waits says so before looking once more, and who releases looks for waiters after: one sees the other.
        with self._lock:
            self._waiter_count += 1
        try:
            if or_idle:
                with contextlib.suppress(IndexError):
                    return self._idle.pop()
            return self._connect()
        except Exception as error:  # whatever a client's own way of connecting raises, there is no connection
            raise error_mapping.before_sending(error) from error
        finally:
            with self._lock:
                self._waiter_count -= 1

    def _connect(self) -> DirectConnection:
        connection = redis_compat.get_connection(self._pool())
        try:
            direct = DirectConnection(connection)
            if direct.is_reusable and direct.poll(0):
                # redis-py looks as well, but not where it expects to hear of maintenance.
                direct.disconnect()
                connection.connect()
                direct = DirectConnection(connection)
        except BaseException:
            self._return_to_pool(connection)
            raise
        return direct

    def _release(self, connection: DirectConnection) -> None:
        """Keep a connection for the next command; one that was disconnected goes to the pool, which reconnects it."""
        if (
            not connection.is_reusable
            or len(self._idle) >= self._max_idle
            or redis_compat.must_be_released(connection.connection)
        ):
            self._return_to_pool(connection.connection)
            return
        self._idle.append(connection)
        if self._waiter_count:
            with contextlib.suppress(IndexError):
                self._return_to_pool(self._idle.pop().connection)

    def _return_to_pool(self, connection: Any) -> None:
        pool = self._pool()
        if pool is not None:
            pool.release(connection)

    def disconnect(self) -> None:
        """Disconnect all idle connections."""
        with contextlib.suppress(IndexError):  # another thread may be faster
            while True:
                idle = self._idle.pop()
                idle.disconnect()
                self._return_to_pool(idle.connection)

    def close(self) -> None:
        """Return all idle connections to the pool."""
        with contextlib.suppress(IndexError):
            while True:
                self._return_to_pool(self._idle.pop().connection)


_stacks: WeakKeyDictionary[Any, ConnectionStack] = WeakKeyDictionary()
