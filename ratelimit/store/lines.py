"""Connections kept at hand: a trip to redis-py's pool takes locks and keeps books, and costs more than a check."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.connection import AbstractConnection, PythonRespSerializer
from redis.exceptions import InvalidResponse, ResponseError

from ratelimit.core import forks
from ratelimit.core.scripts import Command

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

_KEPT = 8
_RECEIVED = 65_536
INCOMPLETE: Any = object()
"""What a reader returns when it needs more."""
PUSHED: Any = getattr(hiredis, "PushNotification", None)
"""The type of what a reader returns when something came unasked."""


def _bytes(argument: str | bytes | float) -> bytes:
    return argument if isinstance(argument, bytes) else str(argument).encode()


_serializer = PythonRespSerializer(_RECEIVED, _bytes)


def packed(commands: Sequence[Command]) -> bytes:
    """Return commands as they go over the wire."""
    if hiredis is not None:
        return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
    return b"".join(b"".join(_serializer.pack(*command)) for command in commands)


def reader_for(connection: Any) -> Any:
    """Return a reader of the connection's replies that gives texts as bytes; None where there is no hiredis."""
    parser = getattr(connection, "_parser", None)
    if PUSHED is None or parser is None:  # before 3.2 it does not tell what came unasked
        return None
    return hiredis.Reader(protocolError=InvalidResponse, replyError=parser.parse_error, notEnoughData=INCOMPLETE)


def wanted_back(connection: Any) -> bool:
    """Tell whether redis-py waits for the connection to be released, to connect or to authenticate anew."""
    return getattr(connection, "_should_reconnect", False) or getattr(connection, "_re_auth_token", None) is not None


def push_handler(connection: Any) -> Callable[[Any], Any] | None:
    """Return what redis-py does with what came unasked; before version 6 it does nothing."""
    return getattr(connection._parser, "handle_push_response", None)


class Line:
    """A connection that is asked and answers: on its socket directly where nothing of redis-py's is lost by that."""

    __slots__ = ("_reader", "_socket", "connection", "keep", "pending")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        sock = getattr(connection, "_sock", None)
        self._socket: Any = sock
        self._reader: Any = None
        # Over TLS a socket may be readable for reasons of the protocol, and emulators of Redis have none.
        self.keep = type(sock) is socket.socket and hasattr(select, "poll")
        if type(sock) is not socket.socket or not self.keep:
            return
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        # Of a line that is kept: whether something came unasked, so that it cannot be used, such as the end.
        self.pending = poll.poll
        # Sentinel's connections, for one, look at each reply.
        if type(connection).read_response is AbstractConnection.read_response:
            self._reader = reader_for(connection)

    def ask(self, packet: bytes, replies: int) -> list[Any]:
        """Send commands, and return as many replies: texts as bytes, errors in their places.

        Raises what the connection or its socket raises; the line must then be broken off.
        """
        reader = self._reader
        if reader is None:
            self.connection.send_packed_command((packet,), check_health=False)
            return [self._read_by_redis_py() for _ in range(replies)]
        self._socket.sendall(packet)
        reader.feed(self._socket.recv(_RECEIVED))
        reply, beyond = reader.gets(), reader.gets()
        if type(reply) is bytes and beyond is INCOMPLETE and replies == 1:
            return [reply]  # as almost always
        return self._read([reply, beyond, *iter(reader.gets, INCOMPLETE)], replies)

    def _read(self, read: list[Any], replies: int) -> list[Any]:
        """Return so many replies, of what was read and what is still to come."""
        found: list[Any] = []
        while True:
            for reply in read:
                if type(reply) is PUSHED:
                    handle = push_handler(self.connection)
                    if handle is not None:
                        handle(reply)
                elif reply is not INCOMPLETE:
                    found.append(reply)
            if len(found) >= replies:
                break
            received = self._socket.recv(_RECEIVED)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
            read = list(iter(self._reader.gets, INCOMPLETE))
        if len(found) > replies:
            raise InvalidResponse("more replies than commands")
        return found

    def _read_by_redis_py(self) -> Any:
        try:
            return self.connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error  # every reply must be read before the connection is used again

    def break_off(self) -> None:
        """Disconnect: a reply that is still to come must not answer the next command."""
        self.keep = False
        self.connection.disconnect()


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
        """Return a line that is ready to send; raises as the pool does if there is none to be had."""
        line = self._quiet_line()
        if line is not None:
            return line
        # Who waits says so before looking once more, and who gives back looks for waiters after: one sees the other.
        with self._lock:
            self._waiting += 1
        try:
            return self._quiet_line() or self._line_of_pool()
        finally:
            with self._lock:
                self._waiting -= 1

    def _line_of_pool(self) -> Line:
        line = Line(self._pool.get_connection())
        if line.keep and line.pending(0):
            # redis-py looks as well, but not where it expects to be told of maintenance.
            try:
                line.connection.disconnect()
                line.connection.connect()
            except BaseException:
                self._pool.release(line.connection)
                raise
            line = Line(line.connection)
        return line

    def _quiet_line(self) -> Line | None:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:
                return None  # another thread was faster
            if not line.pending(0):
                return line
            line.break_off()
            self._pool.release(line.connection)
        return None

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
                line = self._idle.pop()
                line.break_off()
                self._pool.release(line.connection)

    def close(self) -> None:
        """Give all lines back to the pool."""
        with contextlib.suppress(IndexError):
            while True:
                self._pool.release(self._idle.pop().connection)
