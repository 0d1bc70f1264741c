"""The nodes of a cluster in one event loop: which of them owns which slot, and the connections to each primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from random import SystemRandom
from typing import Protocol

from ratelimit.errors import StoreUnavailable
from ratelimit.store.addresses import Address, OnMove, name_of
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.commands import CommandConnection
from ratelimit.store.aio.finder import FixedAddress
from ratelimit.store.aio.loop_clock import LoopClock
from ratelimit.store.aio.queues import Waiter
from ratelimit.store.aio.topology_watch import TopologyWatch
from ratelimit.store.breaker import BreakerState, combined
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.slots import SLOTS
from ratelimit.store.cluster.topology import INTERVAL_S, NodeFailures, no_primary

_now_s = time.monotonic
_random = SystemRandom()
_REDIRECTED_S = 2 * INTERVAL_S
"""For so long after a redirection that named it, a node that owns no slot is about to get one."""


class NodesListener(Protocol):
    """Who sends to the nodes. All of these are called in the loop."""

    def take_over(self, node: Node, waiter: Waiter, error: Exception) -> bool:
        """As `Rerouter.take_over`, of a call that a node did not carry out."""

    def on_refresh(self) -> None:
        """The topology was refreshed, with a new one or without."""

    def on_leave(self, node: Node, unsent: Sequence[Waiter]) -> None:
        """A node is no primary any more; these calls waited to be sent to it."""


class Node:
    """A primary.

    Attributes:
        address: Host and port.
        finder: The same, for connections to it.
        batcher: For checks, and what they read.
        commands: For everything else.
        failures: Whether its callers wait for a refresh.
        redirected_s: When a redirection named it last, by the monotonic clock.
    """

    def __init__(self, nodes: Nodes, client: ClusterClient, address: Address, deadline_s: float) -> None:
        self._nodes = nodes
        self.address = address
        self.finder = FixedAddress(address)
        pool = client.connection_pool
        self.batcher = CheckBatcher(pool, deadline_s, self.finder, rerouter=self, clock=nodes.clock)
        self.commands = CommandConnection(pool, self.finder)
        self.failures = NodeFailures()
        self.redirected_s = -inf

    def take_over(self, waiter: Waiter, error: Exception) -> bool:
        """As `Rerouter.take_over`."""
        return self._nodes.listener.take_over(self, waiter, error)

    def on_unreachable(self) -> None:
        """As `Rerouter.on_unreachable`."""
        self._nodes.on_unreachable()

    @property
    def is_unreachable(self) -> bool:
        """Whether it does not reply, or cannot be connected to."""
        return self.batcher.endpoint.breaker.is_open

    async def close(self) -> None:
        """Close its connections, once all calls have their replies."""
        await self.batcher.close()
        await self.commands.close()

    async def close_unused(self) -> None:
        """Do the same, once its commands have their replies as well."""
        await self.batcher.close()
        await self.commands.drain()
        await self.commands.close()

    def abandon(self) -> None:
        """Close its connections now."""
        self.batcher.abandon()
        self.commands.abandon()


class Nodes:
    """Belongs to the event loop in which it is made.

    Args:
        client: How to connect to a node, and the first ones.
        deadline_s: How long a check may wait for Redis.
        listener: Who sends to the nodes.

    Attributes:
        owners: By slot: the node that owns it; None if none does, or before the first refresh.
        batchers: By slot: the batcher of its owner. Read at each check.
        clock: By which all nodes count deadlines.
        topology_watch: Refreshes the topology.
    """

    def __init__(self, client: ClusterClient, deadline_s: float, listener: NodesListener) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self.listener = listener
        self.clock = LoopClock()
        self.owners: list[Node | None] = [None] * SLOTS
        self.batchers: list[CheckBatcher | None] = [None] * SLOTS
        self._by_address: dict[Address, Node] = {}
        self._leaving: dict[asyncio.Task[None], Node] = {}
        self._is_checking = False
        self._former_openings = 0  # of breakers of nodes that left
        self._subscribed: Address | None = None
        self._on_move: tuple[OnMove, ...] = ()
        self._loop = asyncio.get_running_loop()
        self.topology_watch = TopologyWatch(client, self._to_query, self._is_unreachable, self._on_refresh)

    def at(self, address: Address) -> Node:
        """Return the node of an address that a redirection named."""
        node = self._by_address.get(address) or self._new_node(address)
        node.redirected_s = _now_s()
        return node

    def set_owner(self, slot: int, address: Address) -> None:
        """Note which node owns a slot, as a MOVED redirection says."""
        node = self.at(address)
        self.owners[slot], self.batchers[slot] = node, node.batcher

    def request_refresh(self, failing: Iterable[Node] = ()) -> None:
        """Have the topology refreshed soon, as it may have changed.

        Args:
            failing: The nodes that did not carry out commands; if one of them begins to fail, it is refreshed at once.
        """
        now_s = _now_s()
        begin = [node.failures.note(now_s, node.batcher.breaker_state()) for node in failing]
        self.topology_watch.request_refresh(is_urgent=any(begin))

    def may_have_another_owner(self, slot: int, node: Node) -> bool:
        """Return whether callers of a slot wait for a refresh, as the node that owns it did not carry a command out."""
        return self.owners[slot] is node and self.topology_watch.is_awaited(node.failures)

    async def owner(self, slot: int) -> Node:
        """Return the node that owns a slot; wait for a refresh if none does.

        Raises:
            StoreUnavailable: None owns it.
        """
        if self.owners[slot] is None:
            await self.topology_watch.next_refresh(inf)
        node = self.owners[slot]
        if node is None:
            raise self.no_owner()
        return node

    def named(self, name: str) -> Node:
        """Return the primary of this name.

        Raises:
            StoreUnavailable: There is none.
        """
        node = next((node for node in self._by_address.values() if name_of(node.address) == name), None)
        if node is None:
            raise no_primary(name)
        return node

    async def primaries(self, timeout_s: float | None) -> tuple[str, ...]:
        """Return the names of all primaries: for administrators, whose time is not limited, as of a new refresh."""
        if timeout_s is None or self.topology_watch.topology is None:
            await self.topology_watch.next_refresh(inf if timeout_s is None else timeout_s)
        topology = self.topology_watch.topology
        if topology is None:
            raise self.no_owner()
        return tuple(name_of(address) for address in topology.primaries)

    def no_owner(self) -> StoreUnavailable:
        """Return the error for what has no node to be sent to."""
        problem = self.topology_watch.problem
        if problem is not None:
            return StoreUnavailable(str(problem), cause=problem.cause)
        return StoreUnavailable("no node of the cluster has reported its slots yet")

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker of any node is open, or there is no topology; and how often any has opened."""
        nodes = list(self._by_address.values())
        state = combined((node.batcher.breaker_state() for node in nodes), self._former_openings)
        has_no_topology = self.topology_watch.topology is None and self.topology_watch.problem is not None
        return state._replace(is_open=state.is_open or has_no_topology)

    # Connecting

    def connect(self) -> bool:
        """Connect to all primaries from now on, for checks; return whether this is the first call."""
        is_first, self._is_checking = not self._is_checking, True
        for node in self._by_address.values() if is_first else ():
            node.batcher.endpoint.connect()
        return is_first

    async def wait_complete(self, timeout_s: float) -> None:
        """Wait until all connections for checks stand, to the primaries of all slots.

        Raises:
            StoreUnavailable: They do not, within that time.
        """
        self.connect()
        end_s, watch = _now_s() + timeout_s, self.topology_watch
        while watch.topology is None or watch.problem is not None:
            if _now_s() >= end_s:
                raise self.no_owner()
            await watch.next_refresh(end_s - _now_s())
        left_s = max(end_s - _now_s(), 0)
        await asyncio.gather(*(node.batcher.endpoint.wait_complete(left_s) for node in self._by_address.values()))

    def _new_node(self, address: Address) -> Node:
        node = Node(self, self._client, address, self._deadline_s)
        self._by_address[address] = node
        if self._is_checking:
            node.batcher.endpoint.connect()
        return node

    # For the watch

    def _to_query(self) -> Iterator[tuple[Address, CommandConnection]]:
        """Yield the nodes at random, as one may report an old topology; those that do not reply last."""
        nodes = list(self._by_address.values())
        _random.shuffle(nodes)
        for node in sorted(nodes, key=lambda node: node.is_unreachable):
            yield node.address, node.commands

    def _is_unreachable(self) -> bool:
        return any(node.is_unreachable for node in self._by_address.values())

    def _on_refresh(self) -> None:
        """Take the topology: new nodes are connected, those that left are closed."""
        topology = self.topology_watch.topology
        if topology is not None:
            nodes = {each: self._by_address.get(each) or self._new_node(each) for each in topology.primaries}
            self.owners = [None if owner is None else nodes[owner] for owner in topology.owner]
            self.batchers = [None if node is None else node.batcher for node in self.owners]
            long_ago_s = _now_s() - _REDIRECTED_S
            for node in list(self._by_address.values()):
                if node.address not in nodes and (node.redirected_s < long_ago_s or node.is_unreachable):
                    self._leave(node)
        self.listener.on_refresh()
        self._check_subscription()

    def _leave(self, node: Node) -> None:
        """Close a node that is no primary any more, once what it was sent has its replies."""
        del self._by_address[node.address]
        self._former_openings += node.batcher.breaker_state().openings
        self.listener.on_leave(node, node.batcher.take_waiting())
        closing = self._loop.create_task(node.close_unused(), name="ratelimit-leave")
        self._leaving[closing] = node
        closing.add_done_callback(self._leaving.pop)

    # For subscribers, at any primary: what is published at one is passed on to all

    async def find(self) -> Address:
        """Return the address of a primary that replies, if there is one.

        Raises:
            StoreUnavailable: No node reports the topology.
        """
        if not self._by_address:
            await self.topology_watch.next_refresh(inf)
        nodes = list(self._by_address.values())
        if not nodes:
            raise self.no_owner()
        replying = [node for node in nodes if self._replies(node)]
        self._subscribed = _random.choice(replying or nodes).address
        return self._subscribed

    def watch(self, on_move: OnMove) -> None:
        """As `AsyncFinder.watch`: when the node that `find` named no longer replies, or is no primary any more."""
        self._on_move = (*self._on_move, on_move)

    def on_unreachable(self) -> None:
        """Note that a node does not reply: another may take its place."""
        self.topology_watch.request_refresh()
        self._check_subscription()

    def _replies(self, node: Node) -> bool:
        return not node.is_unreachable and node.address not in self.topology_watch.unreachable

    def _check_subscription(self) -> None:
        address = self._subscribed
        if address is None:
            return
        node = self._by_address.get(address)
        if node is None or not self._replies(node):
            self._subscribed = None
            for on_move in self._on_move:
                on_move(address)

    # The end

    async def close(self) -> None:
        """Close all connections, once all calls have their replies."""
        await asyncio.gather(*(node.close() for node in self._by_address.values()), *self._leaving)
        self.abandon()
        await self.topology_watch.close()

    def abandon(self) -> None:
        """Close all connections now."""
        self.topology_watch.abandon()
        for node in (*self._by_address.values(), *self._leaving.values()):
            node.abandon()
        for closing in () if self._loop.is_closed() else list(self._leaving):
            closing.cancel()
