"""The wire format of Redis, by hiredis where it is installed: commands are packed, replies are read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from redis.exceptions import InvalidResponse

from ratelimit.scripts import Command

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

INCOMPLETE: Any = object()
"""What a reader returns when it needs more."""


def pack(commands: Sequence[Command]) -> bytes:
    """Return commands as they go over the wire."""
    if hiredis is not None:
        return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
    return b"".join(map(_packed, commands))


def _packed(command: Command) -> bytes:
    arguments = [argument if isinstance(argument, bytes) else str(argument).encode() for argument in command]
    bulks = [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"*%d\r\n%b" % (len(bulks), b"".join(bulks))


NO_OP = pack([("TIME",)])
"""Shows whether a server answers. Everybody may send it who checks or administers."""


def new_reader(reply_error: Callable[[str], Exception]) -> Any:
    """Return a reader of RESP2 replies: a `hiredis.Reader` where that is installed, else a `Reader`.

    Args:
        reply_error: Makes an exception of an error reply's text. It is returned, not raised.
    """
    if hiredis is None:
        return Reader(reply_error)
    return hiredis.Reader(protocolError=InvalidResponse, replyError=reply_error, notEnoughData=INCOMPLETE)


class Reader:
    """Reads RESP2 as it comes, whatever pieces it comes in. Has the methods of `hiredis.Reader` that are used here."""

    def __init__(self, reply_error: Callable[[str], Exception]) -> None:
        self._reply_error = reply_error
        self._buffer = bytearray()
        self._at = 0
        self._unfinished: Generator[None, None, Any] | None = None

    def feed(self, data: bytes) -> None:
        """Take what came."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def has_data(self) -> bool:
        """Return whether there is more than whole replies that were read."""
        return self._unfinished is not None or self._at < len(self._buffer)

    def gets(self) -> Any:
        """Return the next reply, texts as bytes and errors as exceptions; INCOMPLETE if it has not come as a whole.

        Raises:
            InvalidResponse: What came is no RESP2.
        """
        if not self.has_data():
            return INCOMPLETE
        reading = self._reply() if self._unfinished is None else self._unfinished
        try:
            next(reading)
        except StopIteration as finished:
            self._unfinished = None
            return finished.value
        self._unfinished = reading
        return INCOMPLETE

    def _reply(self) -> Generator[None, None, Any]:
        line = yield from self._until_line_end()
        kind, rest = line[:1], line[1:]
        try:
            if kind == b"+":
                return rest
            if kind == b"-":
                return self._reply_error(rest.decode(errors="replace"))
            if kind == b":":
                return int(rest)
            if kind == b"$":
                return None if rest == b"-1" else (yield from self._bulk(int(rest)))
            if kind == b"*":
                return None if rest == b"-1" else (yield from self._array(int(rest)))
        except ValueError:
            pass
        raise InvalidResponse("the server sent what is no reply of the Redis protocol")

    def _array(self, length: int) -> Generator[None, None, list[Any]]:
        replies: list[Any] = []
        while len(replies) < length:
            replies.append((yield from self._reply()))
        return replies

    def _until_line_end(self) -> Generator[None, None, bytes]:
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            yield
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _bulk(self, length: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < self._at + length + 2:
            yield
        bulk = bytes(self._buffer[self._at : self._at + length])
        self._at += length + 2
        return bulk
