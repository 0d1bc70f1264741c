"""A connection that is asked and answers, without redis-py between where nothing is lost by that."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Sequence
from os import write
from typing import Any

from redis.connection import AbstractConnection, PythonRespSerializer
from redis.exceptions import InvalidResponse, ResponseError

from ratelimit.scripts import Command

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

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
    try:
        return connection._re_auth_token is not None or connection._should_reconnect
    except AttributeError:  # as in its former versions
        return False


def push_handler(connection: Any) -> Callable[[Any], Any] | None:
    """Return what redis-py does with what came unasked; before version 6 it does nothing."""
    return getattr(connection._parser, "handle_push_response", None)


class NothingSentError(ConnectionError):
    """The connection had been closed, at the other end or by its client, before anything was sent."""


class DirectConnection:
    """A connection that is asked and answers: on its socket directly where nothing of redis-py's is lost by that.

    It sends on a descriptor of its own. A socket with a time limit would ask the system first whether it may send; and
    the number of its descriptor may mean another file as soon as the client is closed, even by another thread.
    """

    __slots__ = ("_fd", "_look", "_reader", "_socket", "connection", "keep", "readable")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        sock = getattr(connection, "_sock", None)
        self._socket: Any = sock
        self._reader: Any = None
        self._fd = -1
        self._look = False
        # Over TLS a socket may be readable for reasons of the protocol, and emulators of Redis have none.
        self.keep = type(sock) is socket.socket and hasattr(select, "poll")
        if type(sock) is not socket.socket or not self.keep:
            return
        self._fd = os.dup(sock.fileno())
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        # Of a line that is kept: whether something comes within milliseconds. What came unasked may be its end.
        self.readable = poll.poll
        # Sentinel's connections, for one, look at each reply.
        if type(connection).read_response is AbstractConnection.read_response:
            self._reader = reader_for(connection)
        # Sending to who closed a Unix socket fails. Over TCP it succeeds, and nobody can tell what became of it.
        self._look = self._reader is None or sock.family != socket.AF_UNIX

    def ask(self, packet: bytes, replies: int) -> list[Any]:
        """Send commands, and return as many replies: texts as bytes, errors in their places.

        Raises NothingSentError, or what the connection or its socket raises; the line must then be broken off.
        """
        if self._look and self.readable(0):
            raise NothingSentError("the server had closed the connection")
        reader = self._reader
        if reader is None:
            self.connection.send_packed_command((packet,), check_health=False)
            return [self._read_by_redis_py() for _ in range(replies)]
        sock = self._socket
        try:
            sent = write(self._fd, packet)
        except BlockingIOError:
            sent = 0
        except ConnectionError as error:
            raise NothingSentError(*error.args) from error
        if sent < len(packet):
            sock.sendall(memoryview(packet)[sent:])
        reader.feed(sock.recv(_RECEIVED))
        reply = reader.gets()
        if type(reply) is bytes and replies == 1 and not reader.has_data():
            return [reply]  # as almost always
        return self._read([reply, *iter(reader.gets, INCOMPLETE)], replies)

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
        if self._reader.has_data():
            self.break_off()  # the beginning of what nobody asked for: its rest must not begin the next reply
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
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = _close
