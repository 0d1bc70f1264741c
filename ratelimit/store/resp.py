"""The wire format of Redis, by hiredis where it is installed: commands are packed, replies are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.exceptions import InvalidResponse

from ratelimit.scripts import Command
from ratelimit.store import redis_compat

try:
    import hiredis
except ImportError:
    hiredis = None  # type: ignore[assignment]

INCOMPLETE: Any = object()
"""What a reader returns when it needs more."""
PUSH: Any = getattr(hiredis, "PushNotification", None)
"""The type of a message that the server pushed; None where hiredis is older than 3.2, or absent."""


def pack(commands: Sequence[Command]) -> bytes:
    """Return commands as they go over the wire."""
    if hiredis is not None:
        return b"".join([hiredis.pack_command(command) for command in commands])  # type: ignore[arg-type]
    return b"".join(map(_packed, commands))


def _packed(command: Command) -> bytes:
    arguments = [argument if isinstance(argument, bytes) else str(argument).encode() for argument in command]
    bulks = [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"*%d\r\n%b" % (len(bulks), b"".join(bulks))


def reader_for(connection: Any) -> Any:
    """Return a reader of a connection's replies that leaves texts as bytes, and returns errors.

    None where pushed messages cannot be distinguished from replies, and where there is no hiredis.
    """
    if PUSH is None:
        return None
    error = redis_compat.parse_error_of(connection)
    return hiredis.Reader(protocolError=InvalidResponse, replyError=error, notEnoughData=INCOMPLETE)
