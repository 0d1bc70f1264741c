"""Connections kept at hand: a trip to redis-py's pool takes locks and keeps books, and costs more than a check."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ratelimit.core.flow import Command

pack_command: Callable[[Command], bytes] | None
try:
    from hiredis import pack_command  # type: ignore[assignment]
except ImportError:
    pack_command = None

_KEPT = 8


def packed(connection: Any, commands: Sequence[Command]) -> list[bytes]:
    """Return commands as they go over the wire."""
    if pack_command is not None:
        return [pack_command(command) for command in commands]
    packets: list[bytes] = connection.pack_commands(commands)
    return packets


class Line:
    """A connection, and a quick look at whether the server has closed it."""

    __slots__ = ("_poll", "connection")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._poll: Any = None
        # Over TLS a socket may be readable for reasons of the protocol: such connections go back to the pool.
        if type(getattr(connection, "_sock", None)) is socket.socket and hasattr(select, "poll"):
            self._poll = select.poll()
            self._poll.register(connection._sock, select.POLLIN)

    @property
    def can_be_kept(self) -> bool:
        """Whether a look costs little."""
        return self._poll is not None and self.connection._sock is not None

    def is_quiet(self) -> bool:
        """Tell whether the line is open and nothing is pending on it, as it must be before a command."""
        return not self._poll.poll(0)


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
        self._idle: deque[Line] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def take(self) -> Line:
        """Return a line that is ready to send; raises as the pool does if there is none to be had."""
        if self._pid != os.getpid():
            self._idle, self._waiting, self._pid = deque(), 0, os.getpid()
        line = self._quiet_line()
        if line is not None:
            return line
        # Who waits says so before looking once more, and who gives back looks for waiters after: one sees the other.
        with self._lock:
            self._waiting += 1
        try:
            return self._quiet_line() or Line(self._pool.get_connection())
        finally:
            with self._lock:
                self._waiting -= 1

    def _quiet_line(self) -> Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                return None  # another thread was faster
            if line.is_quiet():
                return line
            line.connection.disconnect()
            self._pool.release(line.connection)
        return None

    def give_back(self, line: Line) -> None:
        """Keep a line for the next command; one that was disconnected goes to the pool, which connects it anew."""
        if len(self._idle) >= _KEPT or not line.can_be_kept:
            self._pool.release(line.connection)
            return
        self._idle.append(line)
        if self._waiting:
            with contextlib.suppress(IndexError):
                self._pool.release(self._idle.pop().connection)

    def close(self) -> None:
        """Give all lines back to the pool."""
        while self._idle:
            self._pool.release(self._idle.pop().connection)
