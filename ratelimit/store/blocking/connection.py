"""A blocking connection that is read and written directly, without its client's layers, where nothing is lost by it."""

from __future__ import annotations

import os
import select
import socket
from os import write
from typing import Any

from redis.exceptions import InvalidResponse

from ratelimit.store import redis_compat
from ratelimit.store.resp import INCOMPLETE, PUSH, reader_for

_READ_SIZE = 65_536


class NothingSentError(ConnectionError):
    """The connection had been closed, at the other end or by its client, before anything was sent."""


class DirectConnection:
    """A client's connection, used on its socket.

    It sends on a duplicate of the socket's descriptor. A socket with a timeout would first ask the system whether it
    may send; and the number of the original may mean another file as soon as the client is closed, even by another
    thread.

    Attributes:
        connection: The client's connection.
        is_reusable: Whether it may serve further commands.
        poll: Of a reusable connection: takes milliseconds to wait, and returns whether something came. Between
            commands, that may be the connection's end.
    """

    __slots__ = ("_checks_before_sending", "_fd", "_reader", "_socket", "connection", "is_reusable", "poll")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        sock = redis_compat.socket_of(connection)
        self._socket: Any = sock
        self._reader: Any = None
        self._fd = -1
        self._checks_before_sending = False
        # Over TLS a socket may be readable for reasons of the protocol, and emulators of Redis have none.
        self.is_reusable = type(sock) is socket.socket and hasattr(select, "poll")
        if type(sock) is not socket.socket or not self.is_reusable:
            return
        self._fd = os.dup(sock.fileno())
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        self.poll = poll.poll
        if redis_compat.may_read_directly(connection):
            self._reader = reader_for(connection)
        # Sending to who closed a Unix socket fails. Over TCP it succeeds, and nobody can tell what became of it.
        self._checks_before_sending = self._reader is None or sock.family != socket.AF_UNIX

    def execute(self, packet: bytes, reply_count: int) -> list[Any]:
        """Send commands and wait for their replies. After an exception, the connection must be disconnected.

        Args:
            packet: The commands as they go over the wire.
            reply_count: How many commands these are.

        Returns:
            Their replies: texts as bytes, errors in their places.

        Raises:
            NothingSentError: Nothing was sent.
            Exception: Whatever the client or its socket raises; the commands may have been carried out.
        """
        if self._checks_before_sending and self.poll(0):
            raise NothingSentError("the server had closed the connection")
        reader = self._reader
        if reader is None:
            self.connection.send_packed_command((packet,), check_health=False)
            replies = [self._read_by_client() for _ in range(reply_count)]
            if self.is_reusable and redis_compat.has_unread_reply(self.connection):
                self.disconnect()  # what came beyond must not answer the next command
            return replies
        sock = self._socket
        try:
            sent = write(self._fd, packet)
        except BlockingIOError:
            sent = 0
        except ConnectionError as error:
            raise NothingSentError(*error.args) from error
        if sent < len(packet):
            sock.sendall(memoryview(packet)[sent:])
        reader.feed(sock.recv(_READ_SIZE))
        reply = reader.gets()
        if type(reply) is bytes and reply_count == 1 and not reader.has_data():
            return [reply]  # as almost always
        return self._read([reply, *iter(reader.gets, INCOMPLETE)], reply_count)

    def _read(self, messages: list[Any], reply_count: int) -> list[Any]:
        """Return so many replies, of the messages that were read and those still to come."""
        replies: list[Any] = []
        while True:
            for message in messages:
                if type(message) is PUSH:
                    handle = redis_compat.push_handler(self.connection)
                    if handle is not None:
                        handle(message)
                elif message is not INCOMPLETE:
                    replies.append(message)
            if len(replies) >= reply_count:
                break
            received = self._socket.recv(_READ_SIZE)
            if not received:
                raise ConnectionResetError("the server closed the connection")
            self._reader.feed(received)
            messages = list(iter(self._reader.gets, INCOMPLETE))
        if len(replies) > reply_count:
            raise InvalidResponse("more replies than commands")
        if self._reader.has_data():
            self.disconnect()  # half a reply that nobody asked for: its rest must not begin the next one
        return replies

    def _read_by_client(self) -> Any:
        try:
            return self.connection.read_response(disable_decoding=True)
        except redis_compat.errors("ResponseError") as error:
            return error  # every reply must be read before the connection is used again

    def disconnect(self) -> None:
        """Disconnect: a reply that is still to come must not answer the next command."""
        self.is_reusable = False
        self.connection.disconnect()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = _close
