"""All nodes of a cluster for one event loop: sends each call to the owner of its slot, and again where it is told to.

A redirection names the node that owns a slot, or is about to: the call goes there within its deadline. Nobody asks for
the topology but `TopologyWatch`, and only who has no owner for its slot waits for that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from math import inf
from random import SystemRandom
from threading import get_ident
from typing import Any, NamedTuple

from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping
from ratelimit.store.aio import polling
from ratelimit.store.aio.batcher import CallFunction, CheckBatcher
from ratelimit.store.aio.commands import CommandConnection, send_apart
from ratelimit.store.aio.exchanges import Redirected, reply_behind_asking
from ratelimit.store.aio.finder import FixedAddress
from ratelimit.store.aio.loop_clock import PUNCTUAL_S, LoopClock
from ratelimit.store.aio.queues import Call, Waiter
from ratelimit.store.aio.topology_watch import TopologyWatch
from ratelimit.store.breaker import BreakerState, combined
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS, Reaction, pause_s, reaction_to
from ratelimit.store.cluster.slots import SLOTS, Part, slot_of_all, slot_of_call, slot_of_command
from ratelimit.store.cluster.topology import INTERVAL_S, Address, name_of

_now_s = time.monotonic
_random = SystemRandom()
_ASKING: Command = ("ASKING",)
_TICK_S = 0.01
"""How often calls without a node are looked through for those whose deadline has passed."""
_KEPT_S = 2 * INTERVAL_S
"""A node that was named, and owns no slot, is about to get one."""


class Node:
    """A primary.

    Attributes:
        address: Host and port.
        finder: The same, for connections to it.
        batcher: For checks, and what they read.
        commands: For everything else.
        named_s: When a redirection named it last, by the monotonic clock.
    """

    def __init__(self, router: Router, address: Address, pool: Any, deadline_s: float, clock: LoopClock) -> None:
        self._router = router
        self.address = address
        self.finder = FixedAddress(address)
        self.batcher = CheckBatcher(pool, deadline_s, self.finder, rerouter=self, clock=clock)
        self.commands = CommandConnection(pool, self.finder)
        self.named_s = -inf

    def take_over(self, waiter: Waiter, error: Exception) -> bool:
        """As `Rerouter.take_over`."""
        return self._router.take_over(self, waiter, error)

    def note_silence(self) -> None:
        """As `Rerouter.note_silence`."""
        self._router.note_silence()

    @property
    def is_silent(self) -> bool:
        """Whether it does not answer, or cannot be connected to."""
        return self.batcher.endpoint.breaker.is_open

    async def close(self) -> None:
        """Close its connections, once all calls have their replies."""
        await self.batcher.close()
        await self.commands.close()

    def abandon(self) -> None:
        """Close its connections now."""
        self.batcher.abandon()
        self.commands.abandon()


class _Held(NamedTuple):
    """A call without a node to send it to, until the topology was asked for.

    Attributes:
        call: The call.
        started_s: When its deadline began.
        refused_by: The node that did not take it: it goes to another or nowhere.
        error: What then becomes of it.
    """

    call: Call
    started_s: float
    refused_by: Node | None
    error: Exception | None


class _Target(NamedTuple):
    """Where a command goes: to a node that was named, or to the owner of its slot."""

    address: Address | None = None
    is_asking: bool = False


class Router:
    """Belongs to the event loop in which it is made.

    Args:
        client: Says how to connect to a node, and names some.
        deadline_s: How long a check may wait for Redis.
        catalog_slot: Where commands without keys go.
        call_elsewhere: What takes the place of `call` in any other event loop.
    """

    def __init__(
        self,
        client: ClusterClient,
        deadline_s: float,
        catalog_slot: int,
        call_elsewhere: CallFunction,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._pool = client.connection_pool
        self._remap = client.remap
        self._deadline_s = deadline_s
        self._catalog_slot = catalog_slot
        self._call_elsewhere = call_elsewhere
        self._owners: list[Node | None] = [None] * SLOTS
        self._batchers: list[CheckBatcher | None] = [None] * SLOTS  # theirs: found by each check
        self._nodes: dict[Address, Node] = {}
        self._leaving: dict[asyncio.Task[None], Node] = {}
        self._held: dict[asyncio.Future[Any], _Held] = {}
        self._pausing: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}
        """Calls that are sent again in a moment."""
        self._is_closed = False
        self._clock = LoopClock()
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._expiry_due_s = inf
        self._is_checking = False
        self._ended_openings = 0
        self._subscribed: Address | None = None
        self._on_move: tuple[Callable[[Address], None], ...] = ()
        self._watch = TopologyWatch(client, self._to_ask, self._is_silent, self._on_round)

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
        batcher = self._batchers[slot]
        return self.call_at(slot, call, started_s) if batcher is None else batcher.call(call, started_s)

    def call_at(self, slot: int, call: Call, started_s: float | None) -> asyncio.Future[Any]:
        """As `call`, of any call whose slot is known."""
        batcher = self._batchers[slot]
        if batcher is not None:
            return batcher.call(call, started_s)
        future = self._loop.create_future()
        if not self._watch.is_asking and self._watch.problem is not None:
            self._watch.doubt()
            _fail(future, self._watch.problem)
        else:
            self._hold(future, _Held(call, _now_s() if started_s is None else started_s, None, None))
        return future

    def is_late(self, slot: int, started_s: float) -> bool:
        """Return whether the deadline of what began then has passed."""
        batcher = self._batchers[slot]
        return self._is_over(started_s) if batcher is None else batcher.is_late(started_s)

    def take_over(self, node: Node, waiter: Waiter, error: Exception) -> bool:
        """As `Rerouter.take_over`."""
        call, future, started_s = waiter
        reaction = self._reaction(error, node)
        original, attempt = (call.call, call.times + 1) if isinstance(call, Redirected) else (call, 1)
        if not reaction.is_repeated or attempt >= MAX_ATTEMPTS:
            return False
        if reaction.needs_another:
            self._hold(future, _Held(original, started_s, node, error))
            return True
        if reaction.is_moved and reaction.address is not None:
            self._set_owner(self.slot_of(original), self._node_at(reaction.address))
        again = Redirected(original, attempt, is_asking=reaction.is_asking)
        send = partial(self._send_again, again, future, started_s, reaction.address)
        wait_s = min(pause_s(attempt, is_redirected=reaction.address is not None), self._left_s(started_s))
        if wait_s > 0:
            self._pausing[future] = self._loop.call_later(wait_s, send)
        else:
            send()
        return True

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
        node = self._owners[slot] if address is None else self._node_at(address)
        if self.is_late(slot, started_s):
            _fail(future, StoreUnavailable(f"{self._too_late()}: the nodes of the cluster disagree"))
        elif node is None:
            self._hold(future, _Held(call.call, started_s, None, None))
        else:
            node.batcher.call(call, started_s, future)

    def _hold(self, future: asyncio.Future[Any], held: _Held) -> None:
        """Keep a call until the topology was asked for, or its deadline has passed."""
        if self._is_closed:
            _fail(future, _closed())
            return
        self._held[future] = held
        self._watch.doubt()
        if self._expiry_timer is None and self._deadline_s < inf:
            self._schedule_expiry()

    def _schedule_expiry(self) -> None:
        self._expiry_due_s = _now_s() + min(_TICK_S, self._deadline_s)
        self._expiry_timer = self._loop.call_later(self._expiry_due_s - _now_s(), self._on_expiry_timer)

    def _on_expiry_timer(self) -> None:
        self._clock.on_timer(self._expiry_due_s, _now_s())
        self._expiry_timer, self._expiry_due_s = None, inf
        if self._held:
            polling.once_quiet(self._loop, lambda: 0.0, self._expire)  # what has arrived is read first
            self._schedule_expiry()

    def _expire(self) -> None:
        for future, held in list(self._held.items()):
            if self._is_over(held.started_s):
                del self._held[future]
                why = "no node says who owns its slot" if held.error is None else str(held.error)
                if not future.done():
                    _fail(future, StoreUnavailable(f"{self._too_late()}: {why}"))

    def _is_over(self, started_s: float) -> bool:
        """As `CheckBatcher.is_late`."""
        now_s = _now_s()
        if now_s > self._expiry_due_s + PUNCTUAL_S:
            now_s = self._expiry_due_s
        return self._clock.counted_s(now_s) >= self._clock.counted_s(started_s) + self._deadline_s

    def _send_held(self) -> None:
        held_calls, self._held = self._held, {}
        for future, held in held_calls.items():
            if future.done():
                continue
            node = self._owners[self.slot_of(held.call)]
            if node is None or node is held.refused_by:
                _fail(future, held.error or self._no_owner())
            else:
                node.batcher.call(held.call, held.started_s, future)

    def _left_s(self, started_s: float) -> float:
        return started_s + self._deadline_s - _now_s()

    def _too_late(self) -> str:
        return f"it could not be sent within {self._deadline_s * 1000:g} ms"

    def slot_of(self, call: Call) -> int:
        """Return the slot of a call."""
        if isinstance(call, ScriptCall):
            return call.slot if call.slot >= 0 else slot_of_call(call, self._catalog_slot)
        if isinstance(call, Redirected):
            return self.slot_of(call.call)
        return slot_of_command(call[0], self._catalog_slot)

    def _reaction(self, error: Exception, node: Node) -> Reaction:
        reaction = reaction_to(error_mapping.code_of(error), str(error), node.address)
        if reaction.refreshes:
            self._watch.doubt()
        if self._remap is None or reaction.address is None:
            return reaction
        return reaction._replace(address=self._remap(reaction.address))

    # Commands that are no checks

    async def send(self, parts: Sequence[Part], timeout_s: float | None) -> list[Any]:
        """Return the reply to each command, errors in their places: of servers as they are, and StoreError.

        Args:
            parts: What to send; to each node in this order.
            timeout_s: How long to wait for all of it; None if only silence is bounded, as of `CommandConnection.send`.
        """
        end_s = inf if timeout_s is None else _now_s() + timeout_s
        replies: list[Any] = [None] * len(parts)
        targets = dict.fromkeys(range(len(parts)), _Target())
        for attempt in count(1):
            nodes = await self._send_once(parts, targets, replies, end_s)
            targets = await self._again(parts, nodes, replies, end_s) if attempt < MAX_ATTEMPTS else {}
            if not targets:
                return replies
            is_redirected = all(target.address is not None for target in targets.values())
            await asyncio.sleep(min(pause_s(attempt, is_redirected=is_redirected), max(end_s - _now_s(), 0)))
        return replies

    async def _send_once(
        self, parts: Sequence[Part], targets: dict[int, _Target], replies: list[Any], end_s: float
    ) -> dict[int, Node]:
        """Put the replies to some commands into their places; return which node each was sent to."""
        if any(target.address is None and self._owners[parts[at].slot] is None for at, target in targets.items()):
            await self._watch.next_round(end_s - _now_s())
        nodes = dict[int, Node]()
        for at, (address, _) in targets.items():
            node = self._owners[parts[at].slot] if address is None else self._node_at(address)
            if node is None:
                replies[at] = self._no_owner()
            else:
                nodes[at] = node
        sent_to = dict[Node, list[int]]()
        for at, node in nodes.items():
            sent_to.setdefault(node, []).append(at)

        async def send(node: Node, places: list[int]) -> None:
            commands = list[Command]()
            for at in places:
                commands += [_ASKING] * targets[at].is_asking
                commands.append(parts[at].command)
            its_replies = iter(await self._replies_of(node, commands, end_s))
            for at in places:
                replies[at] = reply_behind_asking(its_replies) if targets[at].is_asking else next(its_replies)

        await asyncio.gather(*(send(node, places) for node, places in sent_to.items()))
        return nodes

    async def _replies_of(self, node: Node, commands: Sequence[Command], end_s: float) -> list[Any]:
        try:
            return await node.commands.send(commands, None if end_s == inf else max(end_s - _now_s(), 0))
        except StoreError as error:
            return [error] * len(commands)

    async def _again(
        self, parts: Sequence[Part], nodes: dict[int, Node], replies: list[Any], end_s: float
    ) -> dict[int, _Target]:
        """Return which commands were not carried out and are to be sent again, and where to."""
        again, refused = dict[int, _Target](), dict[int, Node]()
        for at, node in nodes.items():
            if not isinstance(replies[at], Exception):
                continue
            reaction = self._reaction(replies[at], node)
            if reaction.needs_another:
                refused[at] = node
            elif reaction.is_repeated:
                again[at] = _Target(reaction.address, reaction.is_asking)
            if reaction.is_moved and reaction.address is not None:
                self._set_owner(parts[at].slot, self._node_at(reaction.address))
        if refused:
            await self._watch.next_round(end_s - _now_s())
            owners = {at: self._owners[parts[at].slot] for at in refused}
            again |= {at: _Target() for at, owner in owners.items() if owner is not None and owner is not refused[at]}
        return again

    async def send_apart(self, commands: Sequence[Command], patience_s: float) -> list[Any]:
        """Return the reply to each command, on a connection apart to the node of the first key that any of them names.

        Args:
            commands: What to send.
            patience_s: For how long the server may wait with replies, on top of the usual time.
        """
        slot = slot_of_all(commands, self._catalog_slot)
        target = _Target()
        for attempt in count(1):
            node = await self._owner(slot) if target.address is None else self._node_at(target.address)
            sent = [_ASKING] * target.is_asking + list(commands)
            replies = await send_apart(self._pool, sent, patience_s, node.finder)
            if target.is_asking:
                replies = [reply_behind_asking(iter(replies)), *replies[2:]]
            errors = [reply for reply in replies if isinstance(reply, Exception)]
            reactions = [each for error in errors if (each := self._reaction(error, node)).is_repeated]
            if not reactions or reactions[0].needs_another or attempt >= MAX_ATTEMPTS:
                return replies
            target = _Target(reactions[0].address, reactions[0].is_asking)
            await asyncio.sleep(pause_s(attempt, is_redirected=target.address is not None))
        raise AssertionError

    async def send_to(self, name: str, commands: Sequence[Command], timeout_s: float | None) -> list[Any]:
        """Return the replies of the primary of this name, errors in their places."""
        node = next((node for node in self._nodes.values() if name_of(node.address) == name), None)
        if node is None:
            raise StoreUnavailable(f"{name} is no primary of the cluster, or no longer")
        return await node.commands.send(commands, timeout_s)

    async def primaries(self, timeout_s: float | None) -> tuple[str, ...]:
        """Return the names of all primaries: for administrators, whose time is not limited, as they are now."""
        if timeout_s is None or self._watch.topology is None:
            await self._watch.next_round(inf if timeout_s is None else timeout_s)
        topology = self._watch.topology
        if topology is None:
            raise self._no_owner()
        return tuple(name_of(address) for address in topology.primaries)

    async def _owner(self, slot: int) -> Node:
        if self._owners[slot] is None:
            await self._watch.next_round(inf)
        node = self._owners[slot]
        if node is None:
            raise self._no_owner()
        return node

    def _no_owner(self) -> StoreUnavailable:
        """Return the error for what has no node to be sent to."""
        problem = self._watch.problem
        if problem is not None:
            return StoreUnavailable(str(problem), cause=problem.cause)
        return StoreUnavailable("no node of the cluster has said yet who owns which slot")

    # Nodes

    def _node_at(self, address: Address) -> Node:
        """Return the node of an address that a redirection named."""
        node = self._nodes.get(address)
        if node is None:
            node = self._new_node(address)
        node.named_s = _now_s()
        return node

    def _new_node(self, address: Address) -> Node:
        node = Node(self, address, self._pool, self._deadline_s, self._clock)
        self._nodes[address] = node
        if self._is_checking:
            node.batcher.endpoint.connect()
        return node

    def _set_owner(self, slot: int, node: Node) -> None:
        self._owners[slot] = node
        self._batchers[slot] = node.batcher

    def _on_round(self) -> None:
        """Take what a round of the watch found: new nodes are connected, those that left are closed."""
        topology = self._watch.topology
        if topology is not None:
            nodes = {address: self._nodes.get(address) or self._new_node(address) for address in topology.primaries}
            self._owners = [None if owner is None else nodes[owner] for owner in topology.owner]
            self._batchers = [None if node is None else node.batcher for node in self._owners]
            long_ago_s = _now_s() - _KEPT_S
            for node in list(self._nodes.values()):
                if node.address not in nodes and (node.named_s < long_ago_s or node.is_silent):
                    self._leave(node)
        self._send_held()
        self._look_after_subscription()

    def _leave(self, node: Node) -> None:
        """Close a node that is no primary any more, once what it was sent has its replies."""
        del self._nodes[node.address]
        self._ended_openings += node.batcher.endpoint.breaker.openings
        for call, future, started_s in node.batcher.take_waiting():
            self._hold(future, _Held(call, started_s, node, None))
        closing = self._loop.create_task(self._close_later(node), name="ratelimit-leave")
        self._leaving[closing] = node
        closing.add_done_callback(self._leaving.pop)

    async def _close_later(self, node: Node) -> None:
        await node.batcher.close()
        await node.commands.drain()
        await node.commands.close()

    def _to_ask(self) -> Iterator[tuple[Address, CommandConnection]]:
        """Yield the nodes to ask for the topology: in no order, as one may know an old one; the silent ones last."""
        nodes = list(self._nodes.values())
        _random.shuffle(nodes)
        for node in sorted(nodes, key=lambda node: node.is_silent):
            yield node.address, node.commands

    def _is_silent(self) -> bool:
        return any(node.is_silent for node in self._nodes.values())

    def connect(self) -> bool:
        """Connect to all primaries from now on, for checks; return whether that is news."""
        is_news, self._is_checking = not self._is_checking, True
        for node in self._nodes.values() if is_news else ():
            node.batcher.endpoint.connect()
        return is_news

    async def wait_complete(self, timeout_s: float) -> None:
        """Wait until all connections for checks stand, to the primaries of all slots.

        Raises:
            StoreUnavailable: They do not, within that time.
        """
        self.connect()
        end_s = _now_s() + timeout_s
        while self._watch.topology is None or self._watch.problem is not None:
            if _now_s() >= end_s:
                raise self._no_owner()
            await self._watch.next_round(end_s - _now_s())
        left_s = max(end_s - _now_s(), 0)
        await asyncio.gather(*(node.batcher.endpoint.wait_complete(left_s) for node in self._nodes.values()))

    # Subscriptions

    async def find(self) -> Address:
        """Return the address of a primary to subscribe at: each hears what is published at any.

        Raises:
            StoreUnavailable: None is known.
        """
        if not self._nodes:
            await self._watch.next_round(inf)
        nodes = list(self._nodes.values())
        if not nodes:
            raise self._no_owner()
        answering = [node for node in nodes if not node.is_silent and node.address not in self._watch.silent]
        self._subscribed = _random.choice(answering or nodes).address
        return self._subscribed

    def watch(self, on_move: Callable[[Address], None]) -> None:
        """Call back from now on if the node that was found last does not answer, or is no primary any more."""
        self._on_move = (*self._on_move, on_move)

    def note_silence(self) -> None:
        """Note that a node does not answer: another may take its place."""
        self._watch.doubt()
        self._look_after_subscription()

    def _look_after_subscription(self) -> None:
        address = self._subscribed
        if address is None:
            return
        node = self._nodes.get(address)
        if node is None or node.is_silent or address in self._watch.silent:
            self._subscribed = None
            for on_move in self._on_move:
                on_move(address)

    # The end

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker of any node is open, or no topology is known; and how often any has opened."""
        state = combined((node.batcher.breaker_state() for node in list(self._nodes.values())), self._ended_openings)
        is_unknown = self._watch.topology is None and self._watch.problem is not None
        return state._replace(is_open=state.is_open or is_unknown)

    async def close(self) -> None:
        """Close all connections, once all calls have their replies or are late."""
        if unsent := [future for future in (*self._held, *self._pausing) if not future.done()]:
            await asyncio.wait(unsent)
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._leaving)
        self.abandon()
        await self._watch.close()

    def abandon(self) -> None:
        """Close all connections now. What waits gets an error."""
        self._is_closed = True
        self._watch.abandon()
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        is_over = self._loop.is_closed()
        for node in (*self._nodes.values(), *self._leaving.values()):
            node.abandon()
        for closing in () if is_over else list(self._leaving):
            closing.cancel()
        for pause in self._pausing.values():
            pause.cancel()
        unsent, self._held, self._pausing = [*self._held, *self._pausing], {}, {}
        for future in () if is_over else unsent:
            if not future.done():
                _fail(future, _closed())


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the limiter was closed")


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Fail a call with an error of its own: raising one adds frames to its traceback."""
    if not isinstance(error, StoreError):
        error = error_mapping.after_sending(error)
    future.set_exception(type(error)(str(error), cause=error.cause))
