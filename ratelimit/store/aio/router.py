"""Sends each call of an event loop to the owner of its slot, and again where a node redirects it.

A redirection names the node that owns a slot, or gets it: the call goes there within its deadline. A call whose slot
has no owner waits for a refresh of the topology, and so does one whose node has just begun to fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from math import inf
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping
from ratelimit.store.addresses import Address
from ratelimit.store.aio import polling
from ratelimit.store.aio.batcher import CallFunction
from ratelimit.store.aio.commands import send_apart
from ratelimit.store.aio.exchanges import Redirected
from ratelimit.store.aio.loop_clock import PUNCTUAL_S
from ratelimit.store.aio.nodes import Node, Nodes
from ratelimit.store.aio.queues import Call, Waiter
from ratelimit.store.breaker import BreakerState
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS, Reaction, pause_s
from ratelimit.store.cluster.routing import (
    ASKING,
    CommandGroup,
    Failure,
    RoutedCommand,
    end_redirections,
    endless_redirection,
    failing_nodes,
    failures_of,
    pause_before,
    reaction_to_error,
    with_asking,
    without_asking,
)
from ratelimit.store.cluster.slots import Part, slot_of_all, slot_of_call, slot_of_command

_now_s = time.monotonic
_TICK_S = 0.01
"""How often calls without a node are looked through for those whose deadline has passed."""


_Command = RoutedCommand[Node]
_C = TypeVar("_C", bound=_Command)


class _WaitingCall(NamedTuple):
    """A call without a node to send it to, until the topology is refreshed.

    Attributes:
        call: The call.
        started_s: When its deadline began.
        refused_by: The node that did not carry it out: another one gets it, or none.
        error: What then becomes of it.
    """

    call: Call
    started_s: float
    refused_by: Node | None
    error: Exception | None


class Router:
    """Belongs to the event loop in which it is made.

    Args:
        client: How to connect to a node, and the first ones.
        deadline_s: How long a check may wait for Redis.
        catalog_slot: Where commands without keys go.
        call_elsewhere: What takes the place of `call` in any other event loop.

    Attributes:
        nodes: The nodes that it sends to.
    """

    def __init__(
        self, client: ClusterClient, deadline_s: float, catalog_slot: int, call_elsewhere: CallFunction
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._client = client
        self._deadline_s = deadline_s
        self._catalog_slot = catalog_slot
        self._call_elsewhere = call_elsewhere
        self._waiting: dict[asyncio.Future[Any], _WaitingCall] = {}
        self._pausing: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        """Calls that are sent again in a moment."""
        self._is_closed = False
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._expiry_due_s = inf
        self.nodes = Nodes(client, deadline_s, self)

    # Checks, and what they read

    def call(self, call: Call, started_s: float | None = None) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited, from the owner of its slot; see `CheckBatcher.call`.

        Args:
            call: What to send. Of reads, one command.
            started_s: When its deadline began, by the monotonic clock; None for now.
        """
        if self._thread != get_ident() or not self._loop.is_running():
            return self._call_elsewhere(call, started_s)
        slot = self.slot_of(call)
        batcher = self.nodes.batchers[slot]
        return self.call_at(slot, call, started_s) if batcher is None else batcher.call(call, started_s)

    def call_at(self, slot: int, call: Call, started_s: float | None) -> asyncio.Future[Any]:
        """As `call`, of any call whose slot is known."""
        batcher = self.nodes.batchers[slot]
        if batcher is not None:
            return batcher.call(call, started_s)
        future, watch = self._loop.create_future(), self.nodes.topology_watch
        if not watch.is_refreshing and watch.problem is not None:
            watch.request_refresh()
            _fail(future, watch.problem)
        else:
            self._wait(future, _WaitingCall(call, _now_s() if started_s is None else started_s, None, None))
        return future

    def is_late(self, slot: int, started_s: float) -> bool:
        """Return whether the deadline of what began then has passed."""
        batcher = self.nodes.batchers[slot]
        return self._is_over(started_s) if batcher is None else batcher.is_late(started_s)

    def take_over(self, node: Node, waiter: Waiter, error: Exception) -> bool:
        """As `NodesListener.take_over`."""
        call, future, started_s = waiter
        reaction = self._reaction_to(error, node)
        original, attempt = (call.call, call.times + 1) if isinstance(call, Redirected) else (call, 1)
        if not reaction.is_repeated or (attempt >= MAX_ATTEMPTS and reaction.address is None):
            return False
        slot = self.slot_of(original)
        if attempt >= MAX_ATTEMPTS:
            _fail(future, endless_redirection(slot, error))
            return True
        if reaction.needs_another and self.nodes.owners[slot] in (None, node):
            if not self.nodes.may_have_another_owner(slot, node):
                return False
            self._wait(future, _WaitingCall(original, started_s, node, error))
            return True
        if reaction.is_moved and reaction.address is not None:
            self.nodes.set_owner(slot, reaction.address)
        again = Redirected(original, attempt, is_asking=reaction.is_asking)
        send = partial(self._send_again, again, future, started_s, reaction.address)
        left_s = started_s + self._deadline_s - _now_s()
        wait_s = min(pause_s(attempt, is_redirected=reaction.is_redirected), left_s)
        if wait_s > 0:
            self._pausing[future] = self._loop.call_later(wait_s, send)
        else:
            send()
        return True

    def _reaction_to(self, error: Exception, node: Node) -> Reaction:
        reaction = reaction_to_error(error, node.address, self._client.remap)
        if reaction.refreshes:
            self.nodes.request_refresh([node] if reaction.needs_another else [])
        return reaction

    def _send_again(
        self, call: Redirected, future: asyncio.Future[Any], started_s: float, address: Address | None
    ) -> None:
        self._pausing.pop(future, None)
        if future.done():
            return
        if self._is_closed:
            _fail(future, _closed())
            return
        slot = self.slot_of(call.call)
        node = self.nodes.owners[slot] if address is None else self.nodes.at(address)
        if self.is_late(slot, started_s):
            _fail(future, StoreUnavailable(f"{self._too_late()}: the nodes of the cluster disagree"))
        elif node is None:
            self._wait(future, _WaitingCall(call.call, started_s, None, None))
        else:
            node.batcher.call(call, started_s, future)

    def slot_of(self, call: Call) -> int:
        """Return the slot of a call."""
        if isinstance(call, ScriptCall):
            return call.slot if call.slot >= 0 else slot_of_call(call, self._catalog_slot)
        if isinstance(call, Redirected):
            return self.slot_of(call.call)
        return slot_of_command(call[0], self._catalog_slot)

    # Calls without a node

    def _wait(self, future: asyncio.Future[Any], call: _WaitingCall) -> None:
        """Have a call wait until the topology is refreshed, or its deadline has passed."""
        if self._is_closed:
            _fail(future, _closed())
            return
        self._waiting[future] = call
        self.nodes.topology_watch.request_refresh()
        if self._expiry_timer is None and self._deadline_s < inf:
            self._schedule_expiry()

    def on_refresh(self) -> None:
        """As `NodesListener.on_refresh`: send the calls that wait, or fail them."""
        waiting_calls, self._waiting = self._waiting, {}
        for future, waiting in waiting_calls.items():
            if future.done():
                continue
            slot, refused_by = self.slot_of(waiting.call), waiting.refused_by
            node = self.nodes.owners[slot]
            if refused_by is not None and self.nodes.may_have_another_owner(slot, refused_by):
                self._waiting[future] = waiting  # this refresh began before that node failed
            elif node is None or node is refused_by:
                _fail(future, waiting.error or self.nodes.no_owner())
            else:
                node.batcher.call(waiting.call, waiting.started_s, future)

    def on_leave(self, node: Node, unsent: Sequence[Waiter]) -> None:
        """As `NodesListener.on_leave`."""
        for call, future, started_s in unsent:
            self._wait(future, _WaitingCall(call, started_s, node, None))

    def _schedule_expiry(self) -> None:
        self._expiry_due_s = _now_s() + min(_TICK_S, self._deadline_s)
        self._expiry_timer = self._loop.call_later(self._expiry_due_s - _now_s(), self._on_expiry_timer)

    def _on_expiry_timer(self) -> None:
        self.nodes.clock.on_timer(self._expiry_due_s, _now_s())
        self._expiry_timer, self._expiry_due_s = None, inf
        if self._waiting:
            polling.once_quiet(self._loop, lambda: 0.0, self._expire)  # what has arrived is read first
            self._schedule_expiry()

    def _expire(self) -> None:
        for future, waiting in list(self._waiting.items()):
            if self._is_over(waiting.started_s):
                del self._waiting[future]
                reason = "no node reports who owns its slot" if waiting.error is None else str(waiting.error)
                if not future.done():
                    _fail(future, StoreUnavailable(f"{self._too_late()}: {reason}"))

    def _is_over(self, started_s: float) -> bool:
        """As `CheckBatcher.is_late`."""
        now_s = _now_s()
        if now_s > self._expiry_due_s + PUNCTUAL_S:
            now_s = self._expiry_due_s
        clock = self.nodes.clock
        return clock.counted_s(now_s) >= clock.counted_s(started_s) + self._deadline_s

    def _too_late(self) -> str:
        return f"it could not be sent within {self._deadline_s * 1000:g} ms"

    # Commands that are no checks

    async def send(self, parts: Sequence[Part], timeout_s: float | None) -> list[Any]:
        """Return the reply to each command, errors in their places: of servers as they are, and StoreError.

        Args:
            parts: What to send; to each node in this order.
            timeout_s: How long to wait for all of it; None if only silence is bounded, as of `CommandConnection.send`.
        """
        end_s = inf if timeout_s is None else _now_s() + timeout_s
        commands = [_Command(part.slot, part.command) for part in parts]
        await self._carry_out(commands, end_s, self._send_once)
        return [command.reply for command in commands]

    async def _carry_out(
        self, commands: Sequence[_C], end_s: float, send: Callable[[Sequence[_C], float], Awaitable[None]]
    ) -> None:
        """Send commands to the owners of their slots, and again where nodes redirect them.

        Args:
            commands: The commands.
            end_s: Until when to send them again.
            send: Sends commands to their nodes, those without one to the owners of their slots.
        """
        pending = commands
        for attempt in range(1, MAX_ATTEMPTS + 1):
            await send(pending, end_s)
            failures = failures_of(pending, self._client.remap)
            if any(failure.reaction.refreshes for failure in failures):
                self.nodes.request_refresh(failing_nodes(failures))
            repeated = [failure for failure in failures if failure.reaction.is_repeated]
            if attempt < MAX_ATTEMPTS:
                repeated = await self._redirect(repeated, end_s)
            if attempt == MAX_ATTEMPTS or not repeated or _now_s() >= end_s:
                end_redirections(repeated)
                return
            await asyncio.sleep(min(pause_before(attempt, repeated), end_s - _now_s()))
            pending = [failure.command for failure in repeated]

    async def _redirect(self, repeated: Sequence[Failure[_C]], end_s: float) -> list[Failure[_C]]:
        """Set the nodes that commands are sent to again; leave out those that no other node would carry out."""
        for command, reaction in repeated:
            command.is_asking = reaction.is_asking
            if reaction.is_moved and reaction.address is not None:
                self.nodes.set_owner(command.slot, reaction.address)
        await self._await_other_owners([command for command, reaction in repeated if reaction.needs_another], end_s)
        redirected = list[Failure[_C]]()
        for failure in repeated:
            command, reaction = failure
            if reaction.needs_another and self.nodes.owners[command.slot] in (None, command.node):
                continue
            command.node = None if reaction.address is None else self.nodes.at(reaction.address)
            redirected.append(failure)
        return redirected

    async def _await_other_owners(self, refused: Sequence[_C], end_s: float) -> None:
        """Wait for a refresh if it may name others in the place of nodes that did not carry commands out."""
        sent = [(command.slot, command.node) for command in refused if command.node is not None]
        for _ in range(2):  # the first one may have begun before
            if any(self.nodes.may_have_another_owner(slot, node) for slot, node in sent):
                await self.nodes.topology_watch.next_refresh(end_s - _now_s())

    async def _send_once(self, commands: Sequence[_Command], end_s: float) -> None:
        """Send commands to their nodes, or to the owners of their slots, and note what comes of each."""
        owners = self.nodes.owners
        if any(command.node is None and owners[command.slot] is None for command in commands):
            await self.nodes.topology_watch.next_refresh(end_s - _now_s())
        by_node = dict[Node, list[_Command]]()
        for command in commands:
            command.node = command.node or self.nodes.owners[command.slot]
            if command.node is None:
                command.reply = self.nodes.no_owner()
            else:
                by_node.setdefault(command.node, []).append(command)
        await asyncio.gather(*(self._send_to_node(node, its, end_s) for node, its in by_node.items()))

    async def _send_to_node(self, node: Node, commands: Sequence[_Command], end_s: float) -> None:
        are_asking = [command.is_asking for command in commands]
        sent = with_asking([(command.command, command.is_asking) for command in commands], ASKING)
        try:
            replies = await node.commands.send(sent, None if end_s == inf else max(end_s - _now_s(), 0))
        except StoreError as error:
            replies = [error] * len(sent)
        for command, reply in zip(commands, without_asking(replies, are_asking), strict=True):
            command.reply = reply

    async def send_apart(self, commands: Sequence[Command], patience_s: float) -> list[Any]:
        """Return the reply to each command, on a connection apart to the node of the first key that any of them names.

        Args:
            commands: What to send.
            patience_s: For how long the server may wait with replies, on top of the usual time.
        """

        async def send(groups: Sequence[CommandGroup[Node]], _end_s: float) -> None:
            for group in groups:
                group.node = group.node or await self.nodes.owner(group.slot)
                group.take(await send_apart(pool, group.to_send(), patience_s, group.node.finder))

        pool = self._client.connection_pool
        group = CommandGroup[Node](slot_of_all(commands, self._catalog_slot), commands)
        await self._carry_out([group], inf, send)
        return group.replies()

    async def send_to(self, name: str, commands: Sequence[Command], timeout_s: float | None) -> list[Any]:
        """Return the replies of the primary of this name, errors in their places."""
        return await self.nodes.named(name).commands.send(commands, timeout_s)

    # The end

    def breaker_state(self) -> BreakerState:
        """As `Nodes.breaker_state`."""
        return self.nodes.breaker_state()

    async def close(self) -> None:
        """Close all connections, once all calls have their replies or are late."""
        if unsent := [future for future in (*self._waiting, *self._pausing) if not future.done()]:
            await asyncio.wait(unsent)
        await self.nodes.close()
        self.abandon()

    def abandon(self) -> None:
        """Close all connections now. What waits gets an error."""
        self._is_closed = True
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        self.nodes.abandon()
        for pause in self._pausing.values():
            pause.cancel()
        unsent, self._waiting, self._pausing = [*self._waiting, *self._pausing], {}, {}
        for future in () if self._loop.is_closed() else unsent:
            if not future.done():
                _fail(future, _closed())


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the limiter was closed")


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Fail a call with an error of its own: raising one adds frames to its traceback."""
    if not isinstance(error, StoreError):
        error = error_mapping.after_sending(error)
    future.set_exception(copy(error))
