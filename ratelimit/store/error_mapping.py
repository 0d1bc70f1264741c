"""From redis-py's exceptions to ours: was the command carried out, was it not, or can nobody tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from redis import exceptions

from ratelimit.effects import IndependentCommands
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import Command

CONNECTION_FAULTS = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.InvalidResponse, OSError)
"""A connection that raised one of these is not used again."""

_NOT_CARRIED_OUT = (
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.MasterDownError,
    exceptions.ClusterDownError,
    exceptions.OutOfMemoryError,
    exceptions.AuthenticationError,
    exceptions.NoPermissionError,
)
_NOT_CARRIED_OUT_CODES = ("BUSY", "MISCONF", "NOREPLICAS", "UNKNOWN COMMAND", "NOAUTH", "WRONGPASS")
_MAY_NOT_SEND_SCRIPTS = re.compile(r"the 'eval' command", re.IGNORECASE)
_BY_A_SCRIPT = re.compile(r": -(OOM|READONLY|MISCONF|NOREPLICAS) ")
"""Redis 6.2 wraps what the first write of a script was answered; newer servers tell it as it is."""
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""What a server repeats of a command that it does not know. That may be AUTH, with the password."""


def replies_to(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """Return the replies to commands that were sent together; raise if one is an error and not each is to be told."""
    if isinstance(commands, IndependentCommands):
        return [after_sending(reply) if isinstance(reply, Exception) else reply for reply in replies]
    for reply in replies:
        if isinstance(reply, exceptions.NoScriptError):
            raise reply
        if isinstance(reply, Exception):
            raise after_sending(reply) from reply
    return replies


def _of_first_write(error: Any) -> str:
    """Return the code of Redis 6.2 for what it would not let a script write, "" for anything else."""
    told = _BY_A_SCRIPT.search(str(error)) if isinstance(error, exceptions.ResponseError) else None
    return told[1] if told else ""


def from_a_replica(reply: Any) -> bool:
    """Tell whether a reply says that the server is no primary: whoever connects anew may be led to the one that is."""
    return isinstance(reply, exceptions.ReadOnlyError) or _of_first_write(reply) == "READONLY"


def _told(error: Exception) -> str:
    """Return what an error says, which no longer repeats arguments: it goes along as the cause of ours."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, exceptions.RedisError):
            each.args = tuple(_ARGUMENTS.sub("", part) if isinstance(part, str) else part for part in each.args)
        each = each.__cause__ or each.__context__
    return str(error)


def before_sending(error: Exception) -> StoreUnavailable:
    """Return our error for a connection that could not be had: nothing was sent."""
    return StoreUnavailable(f"no connection to Redis: {_told(error)}")


def after_sending(error: Exception) -> StoreError:
    """Return our error for a command that was sent and failed."""
    told = _told(error) or type(error).__name__
    if isinstance(error, exceptions.NoPermissionError) and _MAY_NOT_SEND_SCRIPTS.search(told):
        told += " (the server does not know the script, and this user may not send it: run `ratelimit scripts load`)"
    refused = isinstance(error, _NOT_CARRIED_OUT) or told.upper().startswith(_NOT_CARRIED_OUT_CODES)
    if refused or _of_first_write(error):
        return StoreUnavailable(f"Redis refused the command: {told}")
    if isinstance(error, CONNECTION_FAULTS):
        return StoreTimeout(f"the connection failed before the answer came: {told}")
    return StoreError(f"Redis answered with an error: {told}")
