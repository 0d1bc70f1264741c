"""Connections kept at hand: a trip to redis-py's pool takes locks and keeps books, and costs more than a check."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any

from ratelimit.core import forks
from ratelimit.store.line import Line, wanted_back

_KEPT = 8


class Lines:
    """The idle lines of one process, the last used first; beyond some, they go back to the client's pool.

    Safe between threads (a deque's ends are), and after a fork: a child starts with none.
    """

    @classmethod
    def of(cls, pool: Any) -> Lines:
        """Return the lines of a client's pool: however many limiters and catalogues share it, they keep few."""
        lines: Lines = vars(pool).setdefault("_ratelimit_lines", cls(pool))
        return lines

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.start_anew()
        forks.starts_anew(self)

    def start_anew(self) -> None:
        """Have no line: after a fork they are the parent's."""
        self._idle: deque[Line] = deque()
        self._waiting = 0
        self._lock = threading.Lock()

    def take(self) -> Line:
        """Return a line; raises as the pool does if there is none to be had.

        One that does not tell its end by itself is looked at before: it is not known to have ended.
        """
        try:
            line = self._idle.pop()
        except IndexError:
            return self._line_of_pool(or_kept=True)
        if not line.tells_its_end and line.readable(0):
            self._end(line)
            return self.take()
        return line

    def another(self) -> Line:
        """Return a line that was not kept, in place of one that had ended: others that were kept will have, too."""
        self.break_off()
        return self._line_of_pool(or_kept=False)

    def _line_of_pool(self, *, or_kept: bool) -> Line:
        # Who waits says so before looking once more, and who gives back looks for waiters after: one sees the other.
        with self._lock:
            self._waiting += 1
        try:
            return self.take() if or_kept and self._idle else self._made()
        finally:
            with self._lock:
                self._waiting -= 1

    def _made(self) -> Line:
        line = Line(self._pool.get_connection())
        if line.keep and line.readable(0):
            # redis-py looks as well, but not where it expects to be told of maintenance.
            try:
                line.connection.disconnect()
                line.connection.connect()
            except BaseException:
                self._pool.release(line.connection)
                raise
            line = Line(line.connection)
        return line

    def give_back(self, line: Line) -> None:
        """Keep a line for the next command; one that was disconnected goes to the pool, which connects it anew."""
        if not line.keep or len(self._idle) >= _KEPT or wanted_back(line.connection):
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
                self._end(self._idle.pop())

    def _end(self, line: Line) -> None:
        line.break_off()
        self._pool.release(line.connection)

    def close(self) -> None:
        """Give all lines back to the pool."""
        with contextlib.suppress(IndexError):
            while True:
                self._pool.release(self._idle.pop().connection)
