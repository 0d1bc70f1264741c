"""Connections kept at hand: a trip to redis-py's pool takes locks and keeps books, and costs more than a check."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from redis.connection import AbstractConnection, PythonRespSerializer
from redis.exceptions import InvalidResponse, ResponseError

from ratelimit.core.scripts import Command

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

_KEPT = 8
_RECEIVED = 65_536
_INCOMPLETE = object()


def _bytes(argument: str | bytes | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


_serializer = PythonRespSerializer(_RECEIVED, _bytes)


def packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they go over the wire."""
    if hiredis is not None:
        return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
    return b"".join(b"".join(_serializer.pack(*command)) for command in commands)


class Line:
    """A connection that is asked and answers: on its socket directly where nothing of redis-py's is lost by that."""

    __slots__ = ("_parser", "_poll", "_reader", "_socket", "connection")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._socket: Any = getattr(connection, "_sock", None)
        self._parser: Any = getattr(connection, "_parser", None)
        self._poll = self._reader = None
        # Over TLS a socket may be readable for reasons of the protocol, and emulators of Redis have none.
        if type(self._socket) is not socket.socket or not hasattr(select, "poll"):
            return
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        # Sentinel's connections, for one, look at each reply.
        reads_plainly = type(connection).read_response is AbstractConnection.read_response
        if hiredis is not None and self._parser is not None and reads_plainly:
            self._reader = hiredis.Reader(
                protocolError=InvalidResponse, replyError=self._parser.parse_error, notEnoughData=_INCOMPLETE
            )

    @property
    def can_be_kept(self) -> bool:
        """Whether the line is connected, and a look at it costs little."""
        return self._poll is not None and self.connection._sock is self._socket

    def is_quiet(self) -> bool:
        """Tell whether the line is open and nothing is pending on it, as it must be before a command."""
        return not self._poll.poll(0)  # type: ignore[union-attr] # lines that cannot be kept are not asked

    def ask(self, packet: bytes, replies: int) -> list[Any]:
        """Send commands, and return as many replies: texts as bytes, errors in their places.

        Raises what the connection or its socket raises; the connection must then be given up.
        """
        if self._reader is None:
            self.connection.send_packed_command((packet,), check_health=False)
            return [self._read_by_redis_py() for _ in range(replies)]
        self._socket.sendall(packet)
        return [self._read(self._reader) for _ in range(replies)]

    def _read(self, reader: Any) -> Any:
        while True:
            reply = reader.gets()
            if reply is _INCOMPLETE:
                received = self._socket.recv(_RECEIVED)
                if not received:
                    raise ConnectionResetError("the server closed the connection")
                reader.feed(received)
            elif type(reply).__name__ == "PushNotification":
                self._parser.handle_push_response(reply)
            else:
                return reply

    def _read_by_redis_py(self) -> Any:
        try:
            return self.connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error  # every reply must be read before the connection is used again


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
