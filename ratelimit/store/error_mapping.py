"""From a client's exceptions to ours: was the command carried out, was it not, or can nobody tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ratelimit.effects import IndependentCommands
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store import redis_compat

_CONNECTION_FAILED = ("ConnectionError", "TimeoutError", "InvalidResponse")
"""A connection that raised one of these is not used again."""
_NOT_CARRIED_OUT = (
    "BusyLoadingError",
    "ReadOnlyError",
    "MasterDownError",
    "ClusterDownError",
    "OutOfMemoryError",
    "AuthenticationError",
    "NoPermissionError",
)
_NOT_CARRIED_OUT_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "UNKNOWN COMMAND", "NOAUTH", "WRONGPASS")
_MAY_NOT_SEND_SCRIPTS = re.compile(r"the 'eval' command", re.IGNORECASE)
_REFUSED_WRITE_OF_SCRIPT = re.compile(r": -(OOM|READONLY|MISCONF|NOREPLICAS) ")
"""Redis 6.2 wraps the error of a script's first write in one of the script; newer servers do not."""
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""What a server repeats of a command that it does not know. That may be AUTH, with the password."""


def replies_to(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """Return the replies to commands that were sent together, or raise the first error among them.

    Errors of `IndependentCommands` are returned in their places, as StoreError.
    """
    if isinstance(commands, IndependentCommands):
        return [after_sending(reply) if isinstance(reply, Exception) else reply for reply in replies]
    for reply in replies:
        if isinstance(reply, Exception):
            if redis_compat.is_unknown_script(reply):
                raise reply
            raise after_sending(reply) from reply
    return replies


def is_from_replica(reply: object) -> bool:
    """Return whether a reply says that the server is no primary: a new connection may lead to the one that is."""
    if not isinstance(reply, Exception):
        return False
    return isinstance(reply, redis_compat.errors("ReadOnlyError")) or _refused_write_of_script(reply) == "READONLY"


def before_sending(error: Exception) -> StoreUnavailable:
    """Return our error for a connection that could not be had: nothing was sent."""
    return StoreUnavailable(f"no connection to Redis: {_message(error)}")


def after_sending(error: Exception) -> StoreError:
    """Return our error for a command that was sent and failed."""
    message = _message(error) or type(error).__name__
    if isinstance(error, redis_compat.errors("NoPermissionError")) and _MAY_NOT_SEND_SCRIPTS.search(message):
        message += " (the server does not know the script, and this user may not send it: run `ratelimit scripts load`)"
    if (
        isinstance(error, redis_compat.errors(*_NOT_CARRIED_OUT))
        or message.upper().startswith(_NOT_CARRIED_OUT_CODES)
        or _refused_write_of_script(error)
    ):
        return StoreUnavailable(f"Redis refused the command: {message}", cause="refused")
    if isinstance(error, (*redis_compat.errors(*_CONNECTION_FAILED), OSError)):
        return StoreTimeout(f"the connection failed before the answer came: {message}")
    return StoreError(f"Redis answered with an error: {message}")


def _refused_write_of_script(error: Exception) -> str:
    """Return the code with which Redis 6.2 refused the first write of a script, "" for anything else."""
    is_reply = isinstance(error, redis_compat.errors("ResponseError"))
    match = _REFUSED_WRITE_OF_SCRIPT.search(str(error)) if is_reply else None
    return match[1] if match else ""


def _message(error: Exception) -> str:
    """Return what an error says, and remove arguments of commands from it: it becomes the cause of ours."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, redis_compat.redis_errors()):
            each.args = tuple(_ARGUMENTS.sub("", part) if isinstance(part, str) else part for part in each.args)
        each = each.__cause__ or each.__context__
    return str(error)
