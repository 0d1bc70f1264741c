"""Runs operations on a cluster: each command goes to the node that owns its key's slot, on blocking connections."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from ratelimit.effects import AtNode, PatientCommands, Primaries, Sent
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.base import BlockingExecutorBase
from ratelimit.store.blocking.connection import Connection
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.blocking.nodes import Node, Nodes
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.clients import PATIENCE_S
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS, Reaction, pause_s, reaction_to
from ratelimit.store.cluster.slots import divide, slot_of, slot_of_all, slot_of_call
from ratelimit.store.cluster.topology import name_of
from ratelimit.store.resp import pack

_ASKING = pack([("ASKING",)])


class _Errand:
    """One command on its way.

    Attributes:
        slot: The slot of its key.
        packet: The command as it goes over the wire.
        node: Where it goes, or was sent last; None if that is to be found out.
        is_asking: Whether ASKING goes before it.
        reply: What came of it: a reply, an error of the server, or a StoreError.
    """

    __slots__ = ("is_asking", "node", "packet", "reply", "slot")

    def __init__(self, slot: int, packet: bytes) -> None:
        self.slot = slot
        self.packet = packet
        self.node: Node | None = None
        self.is_asking = False
        self.reply: Any = None


class BlockingClusterExecutor(BlockingExecutorBase):
    """Runs operations on a cluster. What was sent is sent again only if a node says that it was not carried out.

    Args:
        client: Says how to connect to nodes, and names some.
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
        """What finds a node to subscribe at."""
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
            node = self._nodes.owner(slot_of_all(request, self._catalog_slot), wait)
            packet, patience = pack(request), Wait(request.patience_s + self._patience_s)
            return error_mapping.replies_to(request, node.execute_apart(packet, len(request), patience))
        if isinstance(request, AtNode):
            node = self._nodes.node_named(request.node, wait)
            return error_mapping.replies_to(request, node.execute(pack(request), len(request), wait) if request else [])
        return error_mapping.replies_to(request, self._replies_to(request, wait))

    def _replies_to(self, commands: Sequence[Command], wait: Wait) -> list[Any]:
        """Return the replies to commands, errors in their places."""
        division = divide(commands, self._catalog_slot)
        errands = [_Errand(part.slot, pack([part.command])) for part in division.parts]
        self._carry_out(errands, wait)
        return division.join([errand.reply for errand in errands])

    def _completed(self, call: ScriptCall, node: Node | None, reply: Any, wait: Wait) -> Any:
        """Return the reply to a script call.

        Args:
            call: The call.
            node: Where it was sent; None if it was not yet.
            reply: What came of that.
            wait: How long to wait.
        """
        slot = call.slot if call.slot >= 0 else slot_of_call(call, self._catalog_slot)
        errand = _Errand(slot, call.packet or call.packed(pack))
        errand.node, errand.reply = node, reply
        self._carry_out([errand], wait)
        if redis_compat.is_unknown_script(errand.reply):
            # A restart, a failover or SCRIPT FLUSH loses scripts, and a new node has none.
            errand = _Errand(slot, pack([call.by_source()]))
            self._carry_out([errand], wait)
        if isinstance(errand.reply, StoreError):
            raise errand.reply
        if isinstance(errand.reply, Exception):
            raise error_mapping.after_sending(errand.reply) from errand.reply
        return errand.reply

    def _carry_out(self, errands: Sequence[_Errand], wait: Wait) -> None:
        """Send commands to the owners of their slots, and again where nodes say that others carry them out."""
        pending = [errand for errand in errands if errand.node is None]
        if pending:
            self._send(pending, wait)
        pending = [*errands]
        for attempt in range(1, MAX_ATTEMPTS + 1):
            reactions = [(errand, self._reaction_to(errand)) for errand in pending if _is_error(errand.reply)]
            if any(reaction.refreshes for _, reaction in reactions):
                with contextlib.suppress(StoreUnavailable):  # what became of the commands is known, or is not
                    self._nodes.doubt()
            repeated = [each for each in reactions if each[1].is_repeated]
            if attempt < MAX_ATTEMPTS and wait.left_s > 0:
                repeated = [each for each in repeated if self._is_redirected(*each, wait)]
                pauses = [pause_s(attempt, is_redirected=reaction.is_redirected) for _, reaction in repeated]
                wait.pause(max(pauses, default=0))
            if attempt == MAX_ATTEMPTS or wait.left_s <= 0 or not repeated:
                self._give_up(repeated)
                return
            pending = [errand for errand, _ in repeated]
            self._send(pending, wait)

    def _reaction_to(self, errand: _Errand) -> Reaction:
        if errand.node is None:
            return Reaction()  # nobody owns the slot
        code = error_mapping.code_of(errand.reply)
        return reaction_to(code, str(errand.reply), errand.node.address)

    def _is_redirected(self, errand: _Errand, reaction: Reaction, wait: Wait) -> bool:
        """Direct a command to where it is sent again; return False if nobody else would carry it out."""
        errand.is_asking = reaction.is_asking
        if reaction.address is not None:
            errand.node = self._nodes.follow(errand.slot, reaction.address, is_moved=reaction.is_moved)
        elif reaction.needs_another and errand.node is not None:
            other = self._nodes.owner_instead(errand.slot, errand.node, wait)
            if other is None:
                return False
            errand.node = other
        else:
            errand.node = None  # the owner, whoever that is by now
        return True

    def _give_up(self, repeated: Sequence[tuple[_Errand, Reaction]]) -> None:
        """Say what became of commands that no node carried out."""
        for errand, reaction in repeated:
            if reaction.address is not None:
                message = error_mapping.message_of(errand.reply)
                errand.reply = StoreUnavailable(
                    f"the nodes of the cluster name each other for slot {errand.slot}: {message}", cause="refused"
                )

    def _send(self, errands: Sequence[_Errand], wait: Wait) -> None:
        """Send commands, one pipeline for each node, and note what comes of each. Raises nothing."""
        by_node = dict[Node, list[_Errand]]()
        for errand in errands:
            try:
                errand.node = errand.node or self._nodes.owner(errand.slot, wait)
            except StoreError as error:
                errand.reply = error
            else:
                by_node.setdefault(errand.node, []).append(errand)
        begun = dict[Node, Connection]()
        try:
            for node in self._begin_at_once(by_node, begun, wait):
                # Nobody waits for a connection who holds one of a later node: so nobody ever waits in a ring.
                for later in [each for each in begun if each.address > node.address]:
                    self._finish(later, begun.pop(later), by_node[later], wait)
                try:
                    begun[node] = node.begin(_packet(by_node[node]), wait)
                except StoreError as error:
                    _note(by_node[node], error)
            for node in [*begun]:
                self._finish(node, begun.pop(node), by_node[node], wait)
        finally:
            for node, connection in begun.items():
                node.give_up(connection)  # interrupted

    def _begin_at_once(
        self, by_node: dict[Node, list[_Errand]], begun: dict[Node, Connection], wait: Wait
    ) -> list[Node]:
        """Send what can be sent without waiting for a connection: the node of another one may be silent.

        Args:
            by_node: What to send.
            begun: Takes the connections on which the replies come.
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
                begun[node] = connection
        return others

    def _finish(self, node: Node, connection: Connection, errands: Sequence[_Errand], wait: Wait) -> None:
        count = sum(1 + errand.is_asking for errand in errands)
        try:
            replies = iter(node.finish(connection, count, wait))
        except StoreError as error:
            _note(errands, error)
            return
        for errand in errands:
            answer_to_asking = next(replies) if errand.is_asking else None
            errand.reply = next(replies)
            if _is_error(answer_to_asking) and _is_error(errand.reply):
                errand.reply = answer_to_asking  # a user who may not send it is sent back: that would go on and on


def _is_error(reply: object) -> bool:
    return isinstance(reply, Exception)


def _note(errands: Sequence[_Errand], error: StoreError) -> None:
    for errand in errands:
        errand.reply = error


def _packet(errands: Sequence[_Errand]) -> bytes:
    return b"".join([_ASKING + errand.packet if errand.is_asking else errand.packet for errand in errands])
