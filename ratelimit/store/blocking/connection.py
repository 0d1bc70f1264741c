"""A connection of our own, read and written on its socket: without the layers of the client that it is made like."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.exceptions import InvalidResponse

from ratelimit.store import redis_compat
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.resp import INCOMPLETE, NO_OP, new_reader

_READ_SIZE = 65_536
_NO_DATA_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class NothingSentError(ConnectionError):
    """The connection had been closed at the other end before anything was sent."""


class Connection(ABC):
    """What connections of each kind have in common. Used by one thread at a time, but for `break_off`.

    Attributes:
        is_reusable: Whether it may serve further commands.
        is_deposed: Whether it was broken off because another server is the primary.
        last_used_s: When a reply last came, by the monotonic clock.
    """

    __slots__ = ("__weakref__", "_connection", "is_deposed", "is_reusable", "last_used_s")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_reusable = True
        self.is_deposed = False
        self.last_used_s = 0.0

    @abstractmethod
    def call(self, packet: bytes, timeout_s: float) -> Any:
        """Send one command. Return its reply if all of it came with the first packet, else INCOMPLETE: `read` it then.

        Raises:
            NothingSentError: Nothing was sent.
            Exception: Whatever the client or its socket raises; the command may have been carried out.
        """

    @abstractmethod
    def send(self, packet: bytes, wait: Wait) -> None:
        """Send commands, whose replies have to be read. Raises as `call`."""

    @abstractmethod
    def read(self, reply_count: int, wait: Wait) -> list[Any]:
        """Return the replies to commands that were sent: texts as bytes, errors in their places. Raises as `call`."""

    def execute(self, packet: bytes, reply_count: int, wait: Wait) -> list[Any]:
        """Send commands, and return their replies. Raises as `call`."""
        self.send(packet, wait)
        return self.read(reply_count, wait)

    def probe(self, timeout_s: float) -> Any:
        """Return the reply to a command that does nothing, be it an error."""
        return self.execute(NO_OP, 1, Wait(timeout_s))[0]

    @abstractmethod
    def has_ended(self) -> bool:
        """Return whether an idle connection cannot be used any more, as far as this machine knows."""

    def break_off(self, *, is_deposed: bool = False) -> None:
        """End what another thread waits for on this connection. That thread, or nobody, closes it."""
        self.is_deposed = is_deposed
        self.is_reusable = False

    def close(self) -> None:
        """Close it: a reply that is still to come must not answer the next command."""
        self.is_reusable = False
        self._connection.disconnect()


class EmulatedConnection(Connection):
    """A connection to an emulator of Redis, which has no socket: its client reads, for as long as it takes."""

    __slots__ = ()

    def call(self, packet: bytes, timeout_s: float) -> Any:
        """See `Connection`."""
        return self.execute(packet, 1, Wait(timeout_s))[0]

    def send(self, packet: bytes, wait: Wait) -> None:  # noqa: ARG002 - nobody can tell it to hurry
        """See `Connection`."""
        self._connection.send_packed_command((packet,), check_health=False)

    def read(self, reply_count: int, wait: Wait) -> list[Any]:  # noqa: ARG002 - nobody can tell it to hurry
        """See `Connection`."""
        return [self._read() for _ in range(reply_count)]

    def _read(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except redis_compat.errors("ResponseError") as error:
            return error  # every reply must be read before the connection is used again

    def has_ended(self) -> bool:
        """See `Connection`."""
        return False


class DirectConnection(Connection):
    """A connection over a plain socket.

    It writes past the socket, to its descriptor: a socket with a timeout would first ask the system whether it may
    send. Nobody else closes the descriptor, so its number means no other file.
    """

    __slots__ = ("_looks_first", "_poll", "_reader", "_send", "_socket", "_timeout_s")

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        sock = redis_compat.socket_of(connection)
        self._socket: Any = sock
        self._reader = new_reader(redis_compat.parse_error_of(connection))
        self._poll = _readability(sock)
        writes_past = type(sock) is socket.socket and os.name == "posix"
        self._send: Callable[[Any], int] = partial(os.write, sock.fileno()) if writes_past else sock.send
        self._timeout_s: float | None = None
        # Sending to who closed a Unix socket fails. Otherwise it succeeds, and nobody can tell what became of it.
        self._looks_first = sock.family != getattr(socket, "AF_UNIX", None)

    def probe(self, timeout_s: float) -> Any:
        """See `Connection`."""
        wait = Wait(timeout_s)
        with contextlib.suppress(ConnectionError):  # a server that takes no more connections says so before it closes
            self._write(memoryview(NO_OP), wait)
        return self.read(1, wait)[0]

    def call(self, packet: bytes, timeout_s: float) -> Any:
        """See `Connection`."""
        if self._looks_first and self._poll(0):
            self._expect_silence()
        if timeout_s != self._timeout_s:
            self._set_timeout(timeout_s)
        try:
            sent = self._send(packet)
        except BlockingIOError:
            sent = 0
        except ConnectionError as error:
            raise NothingSentError(*error.args) from error
        if sent < len(packet):
            self._write(memoryview(packet)[sent:], Wait(timeout_s))
            return INCOMPLETE
        try:
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError:
            data = self._receive_at_once()
        reader = self._reader
        reader.feed(data)
        reply = reader.gets()
        if reply is not INCOMPLETE and reader.has_data():
            return self.without_more([reply])[0]
        return reply

    def send(self, packet: bytes, wait: Wait) -> None:
        """See `Connection`."""
        if self._looks_first:
            self._expect_silence()
        try:
            self._set_timeout(0)
            sent = self._send(packet)
        except _NO_DATA_YET:
            sent = 0
        except (ConnectionError, ssl.SSLError) as error:
            raise NothingSentError(*error.args) from error
        self._write(memoryview(packet)[sent:], wait)

    def _write(self, rest: memoryview, wait: Wait) -> None:
        while rest:
            if wait.left_s <= 0:
                raise TimeoutError("it did not take the command in time")
            self._set_timeout(wait.begin())
            try:
                sent = self._socket.send(rest)
            except TimeoutError:
                sent = 0
            wait.end()
            if sent:
                wait.renew()
                rest = rest[sent:]

    def read(self, reply_count: int, wait: Wait) -> list[Any]:
        """See `Connection`."""
        replies: list[Any] = []
        gets = self._reader.gets
        while True:
            while len(replies) < reply_count and (reply := gets()) is not INCOMPLETE:
                replies.append(reply)
                wait.renew()
            if len(replies) == reply_count:
                return self.without_more(replies)
            self._reader.feed(self._receive(wait))

    def _receive(self, wait: Wait) -> bytes:
        while wait.left_s > 0:
            self._set_timeout(wait.begin())
            try:
                data: bytes = self._socket.recv(_READ_SIZE)
            except TimeoutError:
                continue
            finally:
                wait.end()
            if not data:
                raise ConnectionResetError("the server closed the connection")
            return data
        return self._receive_at_once()

    def _receive_at_once(self) -> bytes:
        """Return what has come by now: this thread may have been woken long after its time was over."""
        self._set_timeout(0)
        try:
            data: bytes = self._socket.recv(_READ_SIZE)
        except _NO_DATA_YET:
            raise TimeoutError("timed out") from None
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data

    def without_more(self, replies: list[Any]) -> list[Any]:
        """Return replies, if no others came with them."""
        reader = self._reader
        if reader.has_data():
            if reader.gets() is not INCOMPLETE:
                raise InvalidResponse("more replies than commands")
            self.is_reusable = False  # half a reply that nobody waits for: its rest must not begin the next one
        return replies

    def _expect_silence(self) -> None:
        if self.has_ended():
            raise NothingSentError("the server had closed the connection")

    def has_ended(self) -> bool:
        """See `Connection`. Also if it holds a reply that nobody waits for."""
        if not self._poll(0):
            return False
        try:
            self._set_timeout(0)
            self._socket.recv(1)
        except _NO_DATA_YET:
            return False  # a message of TLS itself, such as a ticket
        except OSError:
            pass
        return True

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout_s:
            self._socket.settimeout(seconds)
            self._timeout_s = seconds

    def break_off(self, *, is_deposed: bool = False) -> None:
        """See `Connection`."""
        super().break_off(is_deposed=is_deposed)
        with contextlib.suppress(OSError):
            # Not its own method: that of TLS makes it a plain socket first, under the hands of who reads it.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class TlsConnection(DirectConnection):
    """A connection over TLS. What came may wait in the socket's own buffer, where the system does not see it."""

    __slots__ = ()

    def call(self, packet: bytes, timeout_s: float) -> Any:
        """See `Connection`."""
        return self.execute(packet, 1, Wait(timeout_s))[0]

    def without_more(self, replies: list[Any]) -> list[Any]:
        """See `DirectConnection`."""
        if self._socket.pending():
            self._reader.feed(self._socket.recv(_READ_SIZE))
        return super().without_more(replies)


def open_connection(pool: Any, address: tuple[str, int] | None, timeout_s: float) -> Connection:
    """Connect as a pool does, but outside of it.

    Args:
        pool: Whose settings to use.
        address: Host and port, instead of the pool's.
        timeout_s: How long connecting may take, and each reply meanwhile.

    Returns:
        The connection. Nothing says yet that the server answers on it.
    """
    made = redis_compat.new_connection(pool, timeout_s, address)
    try:
        made.connect()
        return _kind_of(redis_compat.socket_of(made))(made)
    except BaseException:
        made.disconnect()
        raise


def _kind_of(sock: Any) -> type[Connection]:
    if not isinstance(sock, socket.socket):
        return EmulatedConnection
    return TlsConnection if isinstance(sock, ssl.SSLSocket) else DirectConnection


def _readability(sock: Any) -> Callable[[int], Any]:
    """Return what takes milliseconds to wait, and returns whether something came: be it the end of the connection."""
    if not hasattr(select, "poll"):
        return lambda milliseconds: select.select([sock], [], [], milliseconds / 1000)[0]
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return poll.poll
