"""From a client's exceptions to ours: was the command carried out, was it not, or is that unknown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from ratelimit.effects import IndependentAtNode, IndependentCommands, IndependentReads, UnknownScriptError
from ratelimit.errors import Cause, StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store import redis_compat
from ratelimit.store.cluster.reactions import NOT_SENT, UNANSWERED

_CONNECTION_FAILED = ("ConnectionError", "TimeoutError", "InvalidResponse")
"""A connection that raised one of these is not used again."""


class _Rejection(NamedTuple):
    """What a server's rejection of a command means.

    Attributes:
        cause: As of `StoreError`.
        remedy: What to do about it, where the server's words do not say so.
    """

    cause: Cause = "refused"
    remedy: str = ""


_OF_A_CLUSTER = _Rejection(
    remedy="this is a node of a cluster: write ?cluster=true behind its URL, or pass a client of the cluster"
)
_OF_SLOTS = _Rejection(remedy="this server enforces slots: write ?slots=true behind its URL")
_OF_ITS_STATE = _Rejection(
    remedy="a slot has no primary, or this node sees too few others: see `redis-cli --cluster check`; `CONFIG SET "
    "cluster-require-full-coverage no` spares the other slots"
)
_OF_A_REPLICA = _Rejection(
    "deposed", "this server is no primary, or no longer: connect to the primary, or by way of Sentinel"
)
_PERMISSION = _Rejection(remedy="grant this user the permissions in lua/ACL.md")
_CLIENTS, _UNKNOWN_COMMAND = redis_compat.TOO_MANY_CLIENTS, "unknown command"
_REJECTIONS = {
    "ASK": _OF_A_CLUSTER,
    "BUSY": _Rejection(),
    "CLUSTERDOWN": _OF_ITS_STATE,
    "CROSSSLOT": _OF_SLOTS,
    "LOADING": _Rejection(remedy="it has just started, and answers once its data is loaded"),
    "MASTERDOWN": _OF_A_REPLICA,
    "MISCONF": _Rejection(
        remedy="free space on its disk, or have it take writes that it cannot save: `CONFIG SET "
        "stop-writes-on-bgsave-error no`"
    ),
    "MOVED": _OF_A_CLUSTER,
    "NOAUTH": _Rejection(remedy="pass the user and the password, as in redis://user:password@host"),
    "NOPERM": _PERMISSION,
    "NOREPLICAS": _Rejection(
        remedy="fewer replicas are connected than its min-replicas-to-write: connect them again, or `CONFIG SET "
        "min-replicas-to-write 0`"
    ),
    "OOM": _Rejection(remedy="give the server more memory: `CONFIG SET maxmemory`"),
    "READONLY": _OF_A_REPLICA,
    "TRYAGAIN": _Rejection(remedy="its slot is being moved to another node: try again"),
    "WRONGPASS": _Rejection(remedy="pass the right user and password"),
    _CLIENTS: _Rejection(remedy="raise its maxclients, or find out who keeps that many connections"),
    _UNKNOWN_COMMAND: _Rejection(),
}
"""By their code, or where it is "ERR" by their words: the command was not carried out."""
_CODES = {
    "AskError": "ASK",
    "AuthenticationError": "WRONGPASS",  # or NOAUTH
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""Of the exceptions that are made without the code."""
_MAY_NOT_SEND_SCRIPTS = re.compile(r"the 'eval' command", re.IGNORECASE)
_REFUSED_WRITE_OF_SCRIPT = re.compile(r": -(OOM|READONLY|MISCONF|NOREPLICAS) ")
"""Redis 6.2 wraps the error of a script's first write in one of the script; newer servers do not."""
_KNOWS_NO_CLUSTER = re.compile("cluster support disabled|unknown (sub)?command", re.IGNORECASE)
_REFUSED_WITHIN_SCRIPT = re.compile(r"can't run this command|ACL failure in script", re.IGNORECASE)
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""What a server repeats of a command that it does not know. That may be AUTH, with the password."""


def replies_to(commands: Sequence[Command], replies: list[Any]) -> list[Any]:
    """Return the replies to commands that were sent together, or raise the first error among them.

    Errors of `IndependentCommands`, `IndependentReads` and `IndependentAtNode` are returned in place, as StoreError.
    """
    if isinstance(commands, IndependentCommands | IndependentReads | IndependentAtNode):
        return [after_sending(reply) if isinstance(reply, Exception) else reply for reply in replies]
    for reply in replies:
        if isinstance(reply, Exception):
            raise _first_error(replies)
    return replies


def _first_error(replies: Sequence[Any]) -> Exception:
    """Return the first error among replies, before all others that of a node which did not reply."""
    errors = [reply for reply in replies if isinstance(reply, Exception)]
    first = next((error for error in errors if isinstance(error, StoreError)), errors[0])
    if isinstance(first, StoreError) or redis_compat.is_unknown_script(first):
        return first
    store_error = after_sending(first)
    store_error.__cause__ = first
    return store_error


def code_of(error: Exception) -> str:
    """Return what `reactions.TABLE` calls an error: a server's code, or whether anything was sent; "" for all else."""
    if isinstance(error, StoreTimeout):
        return UNANSWERED
    if isinstance(error, StoreError):
        return NOT_SENT if isinstance(error, StoreUnavailable) else ""
    return _code(error, message_of(error))


def without_topology(error: Exception) -> StoreUnavailable:
    """Return why a node reports no topology, with what to do about it."""
    code, message = code_of(error), message_of(error)
    if code == "NOPERM":
        return StoreUnavailable(f"{message} (grant this user +cluster|slots and +cluster|info)", cause="refused")
    if _KNOWS_NO_CLUSTER.search(message):
        return StoreUnavailable(f"{message} (it is no node of a cluster: leave ?cluster=true out)", cause="refused")
    return error if isinstance(error, StoreUnavailable) else before_sending(error)


def is_from_replica(reply: object) -> bool:
    """Return whether a reply says that the server is no primary: a new connection may lead to the one that is."""
    return isinstance(reply, Exception) and _rejection(reply)[1] is _OF_A_REPLICA


def is_of_several_slots(reply: object) -> bool:
    """Return whether a reply says that a command names keys of several slots: nothing was carried out."""
    return isinstance(reply, Exception) and code_of(reply) == "CROSSSLOT"


def before_sending(error: Exception) -> StoreUnavailable:
    """Return our error for a connection that could not be had: nothing was sent."""
    origin = _origin_of(error)
    if not isinstance(origin, (*redis_compat.client_errors(), StoreError)):
        # Raised by a credential provider, perhaps: its text may hold a secret.
        return StoreUnavailable(f"no connection to Redis: {type(origin).__name__} was raised while connecting")
    message, rejection = _rejection(error)
    if rejection is None:
        return StoreUnavailable(f"no connection to Redis: {message}")
    return StoreUnavailable(f"no connection to Redis: {message}", cause=rejection.cause)


def _origin_of(error: BaseException) -> BaseException:
    """Return what an error was raised from: in asyncio, redis-py makes each a ConnectionError."""
    return error if error.__cause__ is None else _origin_of(error.__cause__)


def after_sending(error: Exception) -> StoreError:
    """Return our error for a command that was sent and failed; one that is ours already as it is."""
    if isinstance(error, StoreError):
        return error
    message, rejection = _rejection(error)
    if rejection is not None:
        return StoreUnavailable(f"Redis refused the command: {message}", cause=rejection.cause)
    if isinstance(error, (*redis_compat.errors(*_CONNECTION_FAILED), OSError)):
        return StoreTimeout(f"the connection failed before the answer came: {message}")
    kind = UnknownScriptError if redis_compat.is_unknown_script(error) else StoreError
    store_error = kind(f"Redis answered with an error: {message}")
    # Some of what the script does may be permitted, and be done.
    store_error.is_outage = _REFUSED_WITHIN_SCRIPT.search(message) is not None
    return store_error


def _rejection(error: Exception) -> tuple[str, _Rejection | None]:
    """Return what an error says, with its code and what to do about it; and what it means if a server refused."""
    message = message_of(error)
    code = _code(error, message)
    rejection = _REJECTIONS.get(code)
    if code.isupper() and code not in message and code != "WRONGPASS":  # there are older words for that
        message = f"{code} {message}"
    remedy = rejection.remedy if rejection else ""
    if rejection is _PERMISSION and _MAY_NOT_SEND_SCRIPTS.search(message):
        remedy = "the server does not know the script, and this user may not send it: run `ratelimit scripts load`"
    elif rejection is None and _REFUSED_WITHIN_SCRIPT.search(message):
        remedy = _PERMISSION.remedy
    return f"{message} ({remedy})" if remedy else message, rejection


def _code(error: Exception, message: str) -> str:
    """Return the key in `_REJECTIONS` for what a server answered, "" if there is none."""
    for kind in type(error).__mro__:
        if kind.__name__ in _CODES:
            code = _CODES[kind.__name__]
            return "NOAUTH" if code == "WRONGPASS" and "required" in message else code
    if not isinstance(error, redis_compat.redis_errors()):
        return ""
    wrapped = _REFUSED_WRITE_OF_SCRIPT.search(message)
    if wrapped:
        return wrapped[1]
    first = message.partition(" ")[0]
    if first in _REJECTIONS:
        return first
    return next((words for words in (_CLIENTS, _UNKNOWN_COMMAND) if message.lower().startswith(words)), "")


def message_of(error: Exception) -> str:
    """Return what an error says; remove arguments of commands from it, which becomes the cause of ours."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, redis_compat.redis_errors()):
            each.args = tuple(_ARGUMENTS.sub("", part) if isinstance(part, str) else part for part in each.args)
        each = each.__cause__ or each.__context__
    return str(error) or type(error).__name__
