"""Connections kept at hand: a trip to redis-py's pool takes locks and keeps records, and costs more than a check."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any

from redis.exceptions import RedisError

from ratelimit.local import fork_safety
from ratelimit.store import error_mapping
from ratelimit.store.blocking.connection import DirectConnection, NothingSentError, wanted_back

_KEPT = 8
_SHARE = 4
"""Of a client's pool, a fourth is kept at most: the application may use the client as well."""


class ConnectionStack:
    """The idle lines of one process, the last used first; beyond some, they go back to the client's pool.

    Safe between threads (a deque's ends are), and after a fork: a child starts with none.
    """

    @classmethod
    def of(cls, pool: Any) -> ConnectionStack:
        """Return the lines of a client's pool: however many limiters and catalogues share it, they keep few."""
        lines: ConnectionStack = vars(pool).setdefault("_ratelimit_lines", cls(pool))
        return lines

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._most = min(_KEPT, max(1, pool.max_connections // _SHARE))
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have no line: after a fork they are the parent's."""
        self._idle: deque[DirectConnection] = deque()
        self._waiting = 0
        self._lock = threading.Lock()

    def ask(self, packet: bytes, replies: int, *, again: bool = False) -> list[Any]:
        """Send commands, and return as many replies: texts as bytes, errors in their places.

        Raises StoreError, which says whether they may have been carried out. They are sent once: `again` tells that
        there was an attempt before in which nothing was.
        """
        try:
            # Of lines that were kept, another thread may just have given back one that has ended as well.
            line = self._line_of_pool(or_kept=False) if again else self._idle.pop()
        except IndexError:
            line = self._line_of_pool()
        try:
            return line.ask(packet, replies)
        except NothingSentError as error:
            line.break_off()
            if again:
                raise error_mapping.before_sending(error) from error
        except (RedisError, OSError) as error:
            line.break_off()
            raise error_mapping.after_sending(error) from error
        except BaseException:
            line.break_off()  # interrupted
            raise
        finally:
            self._give_back(line)
        self.break_off()  # others that were idle will have ended, too
        return self.ask(packet, replies, again=True)

    def _line_of_pool(self, *, or_kept: bool = True) -> DirectConnection:
        # Who waits says so before looking once more, and who gives back looks for waiters after: one sees the other.
        with self._lock:
            self._waiting += 1
        try:
            if or_kept:
                with contextlib.suppress(IndexError):
                    return self._idle.pop()
            return self._made()
        except Exception as error:  # whatever a client's own way of connecting raises, there is no connection
            raise error_mapping.before_sending(error) from error
        finally:
            with self._lock:
                self._waiting -= 1

    def _made(self) -> DirectConnection:
        connection = self._pool.get_connection()
        try:
            line = DirectConnection(connection)
            if line.keep and line.readable(0):
                # redis-py looks as well, but not where it expects to be told of maintenance.
                line.break_off()
                connection.connect()
                line = DirectConnection(connection)
        except BaseException:
            self._pool.release(connection)
            raise
        return line

    def _give_back(self, line: DirectConnection) -> None:
        """Keep a line for the next command; one that was disconnected goes to the pool, which connects it anew."""
        if not line.keep or len(self._idle) >= self._most or wanted_back(line.connection):
            self._pool.release(line.connection)
            return
        self._idle.append(line)
        if self._waiting:
            with contextlib.suppress(IndexError):
                self._pool.release(self._idle.pop().connection)

    def break_off(self) -> None:
        """Disconnect all lines that are idle."""
        with contextlib.suppress(IndexError):  # another thread may be faster
            while True:
                line = self._idle.pop()
                line.break_off()
                self._pool.release(line.connection)

    def close(self) -> None:
        """Give all lines back to the pool."""
        with contextlib.suppress(IndexError):
            while True:
                self._pool.release(self._idle.pop().connection)
