"""Runs operations on a cluster: each command goes to the node that owns its key's slot, on blocking connections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ratelimit.effects import AtNode, PatientCommands, Primaries, Sent
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.addresses import name_of
from ratelimit.store.blocking.base import BlockingExecutorBase
from ratelimit.store.blocking.connection import Connection
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.blocking.nodes import Node, Nodes
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.clients import PATIENCE_S
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS
from ratelimit.store.cluster.routing import (
    ASKING,
    CommandGroup,
    Failure,
    RoutedCommand,
    end_redirections,
    failing_nodes,
    failures_of,
    pause_before,
    with_asking,
    without_asking,
)
from ratelimit.store.cluster.slots import divide, slot_of, slot_of_all, slot_of_call
from ratelimit.store.resp import pack

_ASKING = pack([ASKING])

_Command = RoutedCommand[Node]
_C = TypeVar("_C", bound=_Command)


class BlockingClusterExecutor(BlockingExecutorBase):
    """Runs operations on a cluster. What was sent is sent again only if a node says that it was not carried out.

    Args:
        client: How to connect to nodes, and the first ones.
        deadline: For how many seconds a check may wait, over all that it sends.
        catalog_key: Commands without keys go where this one is.

    Attributes:
        has_slots: One script may only touch keys of one slot.
    """

    has_slots = True

    def __init__(self, client: ClusterClient, deadline: float = PATIENCE_S, *, catalog_key: str) -> None:
        self._client = client  # held: the nodes are shared by all executors of the client, and end with it
        self._nodes = Nodes.of(client)
        self._catalog_slot = slot_of(catalog_key)
        super().__init__(client.connection_pool, self._nodes, deadline)

    @property
    def finder(self) -> Finder:
        """Finds a node to subscribe at."""
        return self._nodes

    def call(self, call: ScriptCall, started_s: float) -> Any:
        """Return the reply to one script call, whose caller begins to wait for Redis at this very moment."""
        slot = call.slot if call.slot >= 0 else slot_of_call(call, self._catalog_slot)
        node = self._nodes.owners[slot]
        if node is None:
            return self._execute(call, self._wait(started_s))
        try:
            reply = node.call(call.packet or call.packed(pack), started_s, self._deadline)
        except StoreError as error:
            reply = error
        return self._completed(call, node, reply, self._wait(started_s)) if isinstance(reply, Exception) else reply

    def _execute(self, request: Sent, wait: Wait) -> Any:
        wait.renew()
        if isinstance(request, ScriptCall):
            return self._completed(request, None, None, wait)
        if isinstance(request, Primaries):
            return tuple(name_of(node.address) for node in self._nodes.primaries(wait))
        if isinstance(request, PatientCommands):
            return error_mapping.replies_to(request, self._replies_apart(request, wait))
        if isinstance(request, AtNode):
            node = self._nodes.node_named(request.node, wait)
            return error_mapping.replies_to(request, node.execute(pack(request), len(request), wait) if request else [])
        return error_mapping.replies_to(request, self._replies_to(request, wait))

    def _replies_to(self, commands: Sequence[Command], wait: Wait) -> list[Any]:
        """Return the replies to commands, errors in their places."""
        division = divide(commands, self._catalog_slot)
        routed = [_Command(part.slot, pack([part.command])) for part in division.parts]
        self._carry_out(routed, wait, self._send)
        return division.join([command.reply for command in routed])

    def _replies_apart(self, request: PatientCommands, wait: Wait) -> list[Any]:
        """Return the replies to commands on a connection of their own, errors in their places."""

        def send(groups: Sequence[CommandGroup[Node]], wait: Wait) -> None:
            for group in groups:
                group.node = group.node or self._nodes.owner(group.slot, wait)
                sent, patience = group.to_send(), Wait(request.patience_s + self._patience_s)
                group.take(group.node.execute_apart(pack(sent), len(sent), patience))

        group = CommandGroup[Node](slot_of_all(request, self._catalog_slot), request)
        self._carry_out([group], wait, send)
        return group.replies()

    def _completed(self, call: ScriptCall, node: Node | None, reply: Any, wait: Wait) -> Any:
        """Return the reply to a script call.

        Args:
            call: The call.
            node: Where it was sent; None if it was not yet.
            reply: Its reply or error there.
            wait: How long to wait.
        """
        slot = call.slot if call.slot >= 0 else slot_of_call(call, self._catalog_slot)
        command = _Command(slot, call.packet or call.packed(pack))
        command.node, command.reply = node, reply
        self._carry_out([command], wait, self._send)
        if redis_compat.is_unknown_script(command.reply):
            # A restart, a failover or SCRIPT FLUSH loses scripts, and a new node has none.
            command = _Command(slot, pack([call.by_source()]))
            self._carry_out([command], wait, self._send)
        if isinstance(command.reply, StoreError):
            raise command.reply
        if isinstance(command.reply, Exception):
            raise error_mapping.after_sending(command.reply) from command.reply
        return command.reply

    def _carry_out(self, commands: Sequence[_C], wait: Wait, send: Callable[[Sequence[_C], Wait], None]) -> None:
        """Send commands to the owners of their slots, and again where nodes redirect them.

        Args:
            commands: The commands; those that have a node were sent there, and have its reply.
            wait: How long to wait.
            send: Sends commands to their nodes, those without one to the owners of their slots.
        """
        unsent = [command for command in commands if command.node is None]
        if unsent:
            send(unsent, wait)
        pending = commands
        for attempt in range(1, MAX_ATTEMPTS + 1):
            failures = failures_of(pending, self._client.remap)
            if any(failure.reaction.refreshes for failure in failures):
                with contextlib.suppress(StoreUnavailable):  # what became of the commands does not depend on it
                    self._nodes.request_refresh(failing_nodes(failures))
            repeated = [failure for failure in failures if failure.reaction.is_repeated]
            if attempt < MAX_ATTEMPTS and wait.left_s > 0:
                repeated = [failure for failure in repeated if self._redirect(failure, wait)]
                wait.pause(pause_before(attempt, repeated))
            if attempt == MAX_ATTEMPTS or wait.left_s <= 0 or not repeated:
                end_redirections(repeated)
                return
            pending = [failure.command for failure in repeated]
            send(pending, wait)

    def _redirect(self, failure: Failure[_C], wait: Wait) -> bool:
        """Set the node that a command is sent to again; return False if no other node would carry it out."""
        command, reaction = failure
        command.is_asking = reaction.is_asking
        if reaction.address is not None:
            command.node = self._nodes.follow(command.slot, reaction.address, is_moved=reaction.is_moved)
        elif reaction.needs_another and command.node is not None:
            other = self._nodes.other_owner(command.slot, command.node, wait)
            if other is None:
                return False
            command.node = other
        else:
            command.node = None
        return True

    def _send(self, commands: Sequence[_Command], wait: Wait) -> None:
        """Send commands, one pipeline for each node, and note what comes of each. Raises nothing."""
        by_node = dict[Node, list[_Command]]()
        for command in commands:
            try:
                command.node = command.node or self._nodes.owner(command.slot, wait)
            except StoreError as error:
                command.reply = error
            else:
                by_node.setdefault(command.node, []).append(command)
        in_flight = dict[Node, Connection]()
        try:
            for node in self._begin_at_once(by_node, in_flight, wait):
                # Whoever waits for a connection holds none to a later node: so there is no deadlock.
                for later in [each for each in in_flight if each.address > node.address]:
                    self._finish(later, in_flight.pop(later), by_node[later], wait)
                try:
                    in_flight[node] = node.begin(_packet(by_node[node]), wait)
                except StoreError as error:
                    _note(by_node[node], error)
            for node in [*in_flight]:
                self._finish(node, in_flight.pop(node), by_node[node], wait)
        finally:
            for node, connection in in_flight.items():
                node.give_up(connection)  # interrupted

    def _begin_at_once(
        self, by_node: dict[Node, list[_Command]], in_flight: dict[Node, Connection], wait: Wait
    ) -> list[Node]:
        """Send what can be sent without waiting for a connection: the node of another one may be silent.

        Args:
            by_node: What to send.
            in_flight: Gets the connections on which the replies come.
            wait: How long to wait.

        Returns:
            The nodes of the rest, in one order for all.
        """
        others = list[Node]()
        for node in sorted(by_node, key=lambda node: node.address):
            try:
                connection = node.begin_at_once(_packet(by_node[node]), wait)
            except StoreError as error:
                _note(by_node[node], error)
                continue
            if connection is None:
                others.append(node)
            else:
                in_flight[node] = connection
        return others

    def _finish(self, node: Node, connection: Connection, commands: Sequence[_Command], wait: Wait) -> None:
        are_asking = [command.is_asking for command in commands]
        try:
            replies = node.finish(connection, len(commands) + sum(are_asking), wait)
        except StoreError as error:
            _note(commands, error)
            return
        for command, reply in zip(commands, without_asking(replies, are_asking), strict=True):
            command.reply = reply


def _note(commands: Sequence[_Command], error: StoreError) -> None:
    for command in commands:
        command.reply = error


def _packet(commands: Sequence[_Command]) -> bytes:
    return b"".join(with_asking([(command.command, command.is_asking) for command in commands], _ASKING))
