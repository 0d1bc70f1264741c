"""Commands on their way to the owners of their slots, and again where nodes redirect them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store import error_mapping
from ratelimit.store.addresses import Address
from ratelimit.store.cluster.reactions import Reaction, pause_s, reaction_to
from ratelimit.store.cluster.topology import Remap

ASKING: Command = ("ASKING",)
"""Has a node carry out the next command although the slot of its key is still being moved there."""


class Addressed(Protocol):
    """A node, of either twin."""

    address: Address


_N = TypeVar("_N", bound=Addressed)
_C = TypeVar("_C")


class RoutedCommand(Generic[_N]):
    """A command and the node that it is sent to.

    Attributes:
        slot: The slot of its key.
        command: What is sent, as its sender needs it: packed or not.
        node: Where it was sent last, or is sent next; None for the owner of the slot.
        is_asking: Whether ASKING is sent before it.
        reply: What came of it: a reply, an error reply as an exception, or a StoreError.
    """

    __slots__ = ("command", "is_asking", "node", "reply", "slot")

    def __init__(self, slot: int, command: Any) -> None:
        self.slot = slot
        self.command = command
        self.node: _N | None = None
        self.is_asking = False
        self.reply: Any = None


class CommandGroup(RoutedCommand[_N]):
    """Commands that are sent together to the owner of one slot: the first error among their replies is that of all.

    Args:
        slot: The slot of the first key that any of them names.
        commands: The commands.
    """

    __slots__ = ("_replies",)

    def __init__(self, slot: int, commands: Sequence[Command]) -> None:
        super().__init__(slot, commands)
        self._replies = list[Any]()

    def to_send(self) -> Sequence[Command]:
        """Return the commands, behind ASKING if they need it."""
        return [ASKING, *self.command] if self.is_asking else self.command

    def take(self, replies: Sequence[Any]) -> None:
        """Take the replies to what `to_send` returned."""
        self._replies = without_asking(replies, [self.is_asking, *[False] * (len(self.command) - 1)])
        self.reply = next((reply for reply in self._replies if isinstance(reply, Exception)), None)

    def replies(self) -> list[Any]:
        """Return the replies, errors in their places: the first of them is `reply`."""
        is_error = [isinstance(reply, Exception) for reply in self._replies]
        first = is_error.index(True) if True in is_error else len(is_error)
        return [self.reply if at == first else reply for at, reply in enumerate(self._replies)]


_R = TypeVar("_R", bound=RoutedCommand[Any])


class Failure(NamedTuple, Generic[_R]):
    """A command that failed, and what is done then."""

    command: _R
    reaction: Reaction


def failures_of(commands: Iterable[_R], remap: Remap | None) -> list[Failure[_R]]:
    """Return the commands that a node failed to carry out, in their order.

    Args:
        commands: Commands with their replies. One without a node has failed for good: no node owns its slot.
        remap: As of `ClusterClient`.
    """
    return [
        Failure(command, reaction_to_error(command.reply, command.node.address, remap))
        for command in commands
        if command.node is not None and isinstance(command.reply, Exception)
    ]


def failing_nodes(failures: Iterable[Failure[Any]]) -> set[Any]:
    """Return the nodes that do not serve what they were sent: others may do so in their place."""
    return {
        failure.command.node
        for failure in failures
        if failure.reaction.needs_another and failure.command.node is not None
    }


def reaction_to_error(error: Exception, node: Address, remap: Remap | None) -> Reaction:
    """Return what is done about the error that a node answered with, or about its silence."""
    reaction = reaction_to(error_mapping.code_of(error), str(error), node)
    if remap is None or reaction.address is None:
        return reaction
    return reaction._replace(address=remap(reaction.address))


def pause_before(attempt: int, repeated: Iterable[Failure[_R]]) -> float:
    """Return for how many seconds to wait before commands are sent again that were sent `attempt` times."""
    pauses = (pause_s(attempt, is_redirected=failure.reaction.is_redirected) for failure in repeated)
    return max(pauses, default=0.0)


def end_redirections(redirected: Iterable[Failure[_R]]) -> None:
    """Put an error into the place of redirections that are not followed any more: they say nothing to callers."""
    for command, reaction in redirected:
        if reaction.address is not None:
            command.reply = endless_redirection(command.slot, command.reply)


def endless_redirection(slot: int, last: Exception) -> StoreUnavailable:
    """Return the error for a command that nodes redirected to each other until it was sent no more."""
    message = error_mapping.message_of(last)
    return StoreUnavailable(f"the nodes of the cluster redirect slot {slot} to each other: {message}", cause="refused")


def with_asking(commands: Iterable[tuple[_C, bool]], asking: _C) -> list[_C]:
    """Return what is sent for commands: each, behind `asking` if that is said of it."""
    return [each for command, is_asking in commands for each in ((asking, command) if is_asking else (command,))]


def without_asking(replies: Sequence[Any], are_asking: Iterable[bool]) -> list[Any]:
    """Return the replies to commands that `with_asking` was given.

    If ASKING and the command behind it both failed, the reply is the error of ASKING: a user who may not send it would
    be redirected to and fro.
    """
    rest, joined = iter(replies), list[Any]()
    for is_asking in are_asking:
        reply_to_asking = next(rest) if is_asking else None
        reply = next(rest)
        both_failed = isinstance(reply_to_asking, Exception) and isinstance(reply, Exception)
        joined.append(reply_to_asking if both_failed else reply)
    return joined
