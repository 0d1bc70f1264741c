"""Operations: logic that needs Redis, written without I/O.

An operation is a generator of effects. It yields requests, is sent their replies, and returns its result; one executor
drives it over a blocking connection, another over asyncio. So the logic exists once, and both twins are thin.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.model import MICROSECONDS
from ratelimit.scripts import Command, ScriptCall

_T = TypeVar("_T")


class BatchableReads(list[Command]):
    """A few commands that change nothing and have small replies: they may be sent together with those of others."""

    __slots__ = ()


class KeyLookUps(BatchableReads):
    """Reads that anybody can cause, with any text for a key: these alone may fail with TooManyLookUpsError.

    The MGET commands of several may be joined into one.
    """

    __slots__ = ()


class TooManyLookUpsError(StoreUnavailable):
    """More look-ups are waiting than may wait; nothing is wrong with Redis."""

    is_outage = False


class UnknownScriptError(StoreError):
    """The server does not know a script that was called by its hash; nothing ran."""


class UnreadableError(StoreError):
    """Redis holds something else than what belongs in the place of a key's record, intent or claim, or of its id."""


class IndependentCommands(list[Command]):
    """Commands whose errors are returned in place, as StoreError, not raised: some may be carried out, others not."""

    __slots__ = ()


class PatientCommands(IndependentCommands):
    """Independent commands that the server itself waits with: on a connection of their own, which nobody else needs.

    Args:
        commands: What to send.
        patience_s: For how many seconds the server may wait; replies have the usual time on top of that.
    """

    __slots__ = ("patience_s",)

    def __init__(self, commands: Sequence[Command], patience_s: float) -> None:
        super().__init__(commands)
        self.patience_s = patience_s


class IndependentReads(BatchableReads):
    """Reads whose errors are returned in place, as StoreError: what is beside them may fail, and nothing is lost."""

    __slots__ = ()


class Primaries(BatchableReads):
    """Asks for the names of all primaries. No command: the reply is a tuple of "host:port", ("",) of one server."""

    __slots__ = ()


def no_owner_of_slots() -> StoreUnavailable:
    """Return the error for a cluster without primaries."""
    return StoreUnavailable(
        "no node of the cluster owns slots: is it a node that has not joined yet, or left? Create the cluster "
        "(`redis-cli --cluster create`), or name a node of it",
        cause="refused",
    )


class AtNode(list[Command]):
    """Commands for one primary of several, such as SCAN: on one server they are commands like any other.

    Args:
        node: Its name, as `Primaries` gives it.
        commands: What to send.
    """

    __slots__ = ("node",)

    def __init__(self, node: str, commands: Sequence[Command]) -> None:
        super().__init__(commands)
        self.node = node


class IndependentAtNode(AtNode):
    """Commands for one primary, whose errors are returned in place, as StoreError."""

    __slots__ = ()


class WaitFor:
    """Waits until a future is done, within the caller's deadline: StoreUnavailable once that has passed.

    Args:
        future: The future; its result is not read.
        at_most_s: Wait no longer than this; the reply comes then, too.
    """

    __slots__ = ("at_most_s", "future")

    def __init__(self, future: Future[Any], at_most_s: float | None = None) -> None:
        self.future = future
        self.at_most_s = at_most_s


class InBackground:
    """Starts an operation that nobody waits for, with a deadline of its own; its store errors are nobody's.

    Args:
        operation: What to run. Perhaps it never runs: then it is closed.
    """

    __slots__ = ("operation",)

    def __init__(self, operation: Operation[object]) -> None:
        self.operation = operation


Sent = ScriptCall | BatchableReads | Sequence[Command]
"""One script call, or commands that are sent together, whose reply is the list of theirs."""

Request = Sent | WaitFor | InBackground
"""What is sent; or what is not, and whose reply is None."""

Operation = Generator[Request, Any, _T]


_READING = {"GET", "HGET", "HGETALL", "HKEYS", "HMGET", "INFO", "MGET", "PTTL", "SCAN", "SCARD", "SINTER", "SISMEMBER"}
_READING |= {"SMEMBERS", "TIME", "WAIT", "ZCARD", "ZCOUNT", "ZREVRANGEBYSCORE"}
_READING |= {"SRANDMEMBER", "ZSCORE"}


def pause() -> WaitFor:
    """Return a request that sends nothing: an event loop runs other tasks before the operation goes on."""
    return WaitFor(Future(), at_most_s=0)


def wait_briefly(operation: Operation[object], at_most_s: float) -> Operation[bool]:
    """Run an operation in the background, and wait for it no longer than this; return whether it has ended.

    For what a check had better know, and need not wait for: the server that is asked may be away while its own is not.
    """
    ended = Future[None]()
    yield InBackground(_ending(operation, ended))
    yield WaitFor(ended, at_most_s)
    return ended.done()


def _ending(operation: Operation[object], ended: Future[None]) -> Operation[None]:
    try:
        yield from operation
    finally:
        ended.set_result(None)


def changes_nothing(request: Request) -> bool:
    """Return whether a request leaves everything in Redis as it is."""
    if isinstance(request, ScriptCall):
        return request.changes_nothing
    if isinstance(request, WaitFor | InBackground):
        return True
    return isinstance(request, BatchableReads) or all(command[0] in _READING for command in request)


def failure_of(request: Request, error: StoreError) -> StoreError:
    """Return the error of a request that failed: what changes nothing was not counted, whatever became of it."""
    if error.cause == "unknown" and changes_nothing(request):
        return StoreUnavailable(str(error))
    return error


def read_reply(reply: Any) -> Any:
    """Return a reply of several reads whose errors are in place, or raise its error: nothing was changed.

    Raises:
        UnreadableError: Redis holds something of another type there.
        StoreError: It could not be read.
    """
    if not isinstance(reply, StoreError):
        return reply
    if "WRONGTYPE" in str(reply):
        raise UnreadableError(str(reply))
    raise failure_of(BatchableReads(), reply)


def text(reply: bytes | str | None) -> str | None:
    """Return a bulk reply as text, whether or not the client decodes. All texts that we store are ASCII."""
    try:
        return reply.decode() if isinstance(reply, bytes) else reply
    except UnicodeDecodeError:
        raise UnreadableError("Redis holds something that is no text where a key's record or id belongs") from None


def time_us(reply: Sequence[Any]) -> int:
    """Return a reply to TIME in microseconds since 1970."""
    seconds, microseconds = reply
    return int(seconds) * MICROSECONDS + int(microseconds)


def info_fields(info: str) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = (line.partition(":") for line in info.splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


def texts(replies: Sequence[bytes | str]) -> list[str]:
    """Return bulk replies as texts."""
    return [text(reply) or "" for reply in replies]


def pairs(reply: Mapping[Any, Any] | Sequence[Any]) -> dict[str, str]:
    """Return a reply of HGETALL as a dict: RESP3 sends a map, RESP2 a flat list."""
    if isinstance(reply, Mapping):
        return dict(zip(texts(list(reply.keys())), texts(list(reply.values())), strict=True))
    flat = texts(reply)
    return dict(zip(flat[::2], flat[1::2], strict=True))


def scored(reply: Sequence[Any]) -> list[tuple[str, str]]:
    """Return members with their scores, whole numbers as text: RESP3 sends pairs with doubles, RESP2 a flat list."""
    if reply and isinstance(reply[0], list | tuple):
        return [(text(member) or "", str(int(score))) for member, score in reply]
    flat = texts(reply)
    return list(zip(flat[::2], flat[1::2], strict=True))
