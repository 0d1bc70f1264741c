"""The nodes of a cluster in one process: which of them owns which slot, and an endpoint of each primary.

One thread refreshes the topology for all callers: at first, when an error reply shows that it changed, often while a
primary does not reply, and every few seconds. Only callers whose slot has no owner wait for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from itertools import product
from math import inf
from random import SystemRandom
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod

from ratelimit.errors import StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.addresses import Address, OnMove, name_of
from ratelimit.store.blocking.background import Background
from ratelimit.store.blocking.connection import Connection, NothingSentError, open_connection
from ratelimit.store.blocking.connections import USUALLY_IDLE
from ratelimit.store.blocking.endpoint import Endpoint
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.breaker import BreakerState, combined
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.slots import SLOTS
from ratelimit.store.cluster.topology import (
    FRESH_S,
    PATIENCE_S,
    QUERIES,
    TIMEOUT_S,
    NodeFailures,
    RefreshRound,
    RefreshSchedule,
    Topology,
    no_primary,
)
from ratelimit.store.resp import pack

_QUERIES = pack(QUERIES)
_random = SystemRandom()
_NO_REPLY = StoreUnavailable("no node of the cluster answered in time")
_FIND_TIMEOUT_S = 2.0
"""How long a subscriber waits for a node that replies."""


class Node(Endpoint):
    """The endpoint of one node.

    Attributes:
        address: Host and port.
        failures: Whether its callers wait for a refresh. Under the lock of `Nodes`.
    """

    PROBES_UNUSED_S = 10.0
    """Longer than the upkeep of a limiter pauses. Without a bound a cluster that is gone would be probed for ever."""

    def __init__(self, pool: Any, address: Address) -> None:
        self.address = address
        self.failures = NodeFailures()
        self._own_pool = redis_compat.pool_at(pool, address)  # held here: the endpoint itself does not
        super().__init__(self._own_pool)


class Nodes:
    """The nodes of the cluster of one client. Safe between threads; after a fork, a child refreshes the topology anew.

    Attributes:
        owners: By slot: the node that owns it; None if none does, or before the first refresh. Read at each check.
    """

    @classmethod
    def of(cls, client: ClusterClient) -> Nodes:
        """Return the nodes of a client's cluster: all limiters and catalogues of the client share them."""
        nodes = _nodes.get(client)
        return nodes or _nodes.setdefault(client, cls(client))  # one step, also between threads

    def __init__(self, client: ClusterClient) -> None:
        # Not the client itself, which holds its entry in `_nodes`.
        self._pool, self._start_nodes, self._remap = client.connection_pool, client.start_nodes, client.remap
        self.owners: list[Node | None] = [None] * SLOTS
        self._by_address = dict[Address, Node]()
        self._topology: Topology | None = None
        self._former_openings = 0  # of breakers of nodes that left
        self._connection: tuple[Address, Connection] | None = None
        self._contact: Address | None = None
        """The node that is sent the queries first, and that is subscribed at: the last one that replied to them."""
        self._watchers: tuple[WeakMethod[OnMove], ...] = ()
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the locks anew, and leave the parent its thread and its connection."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection[1].close()
        self._connection = None
        self._refreshed = threading.Condition(threading.Lock())
        self._refreshes = 0
        """How many refreshes have ended, with a topology or without."""
        self._refreshed_s = 0.0
        """When the last one ended that gave a topology."""
        self._requested_s = inf
        """When a refresh was requested first since then; `inf` if none was."""
        self._failure: StoreUnavailable | None = None
        self._schedule = RefreshSchedule()
        self._redirected_to: Address | None = None
        """The node that a MOVED redirection named: it has the new topology before others do."""
        self._background = Background(self._step, "ratelimit-topology")
        self._is_started = self._is_closed = False

    # For callers

    def owner(self, slot: int, wait: Wait) -> Node:
        """Return the node that owns a slot; wait for a refresh if none does.

        Raises:
            StoreUnavailable: None owns it, or no node reports the topology; with the reason.
        """
        owner = self.owners[slot]
        if owner is None:
            self._await_refresh(wait)
            owner = self.owners[slot]
        if owner is None:
            raise self._problem() or _NO_REPLY
        self._start()
        return owner

    def other_owner(self, slot: int, node: Node, wait: Wait) -> Node | None:
        """Return the owner of a slot in the place of a node that did not carry a command out; None: it still owns it.

        Wait for a refresh, which `request_refresh` was called for, if it may name another one: see `NodeFailures`.
        """
        with self._refreshed:
            while (
                self.owners[slot] is node
                and self._is_started
                and node.failures.is_refresh_awaited(monotonic(), self._schedule)
                and wait.left_s > 0
            ):
                self._refreshed.wait(wait.begin())
                wait.end()
        owner = self.owners[slot]
        return None if owner is node else owner

    def follow(self, slot: int, address: Address, *, is_moved: bool) -> Node:
        """Return the node that a redirection names, and note whether it owns the slot from now on."""
        with self._refreshed:
            node = self._node_at(address)
            if is_moved and self.owners[slot] is not node:
                if self._topology is not None:
                    self._topology = self._topology.with_owner(slot, address)
                self.owners[slot] = node
                self._redirected_to = address
        return node

    def node_named(self, name: str, wait: Wait) -> Node:
        """Return the primary of this name.

        Raises:
            StoreUnavailable: There is none.
        """
        for node in self.primaries(wait):
            if name_of(node.address) == name:
                return node
        raise no_primary(name)

    def primaries(self, wait: Wait) -> list[Node]:
        """Return the nodes that own slots.

        Raises:
            StoreUnavailable: No node reports the topology; with the reason.
        """
        if self._topology is None:
            self._await_refresh(wait)
        with self._refreshed:
            if self._topology is None:
                raise self._problem() or _NO_REPLY
            return [self._node_at(address) for address in self._topology.primaries]

    def request_refresh(self, failing: Iterable[Node] = ()) -> None:
        """Have the topology refreshed soon, as it may have changed.

        Args:
            failing: The nodes that did not carry out commands; if one of them begins to fail, it is refreshed at once.

        Raises:
            StoreUnavailable: There can be no more threads.
        """
        with self._refreshed:
            now_s = monotonic()
            begin = [node.failures.note(now_s, node.breaker_state()) for node in failing]
            is_sooner = self._schedule.request(is_urgent=any(begin))
        if is_sooner or not self._is_started:
            self._requested_s = min(self._requested_s, now_s)
            self._wake()

    def _await_refresh(self, wait: Wait) -> None:
        """Wait for a refresh, unless one has just ended, or no node replies: then callers fail at once."""
        self.request_refresh()
        with self._refreshed:
            before, now_s = self._refreshes, monotonic()
            if self._topology is None:
                is_of_use = self._failure is None
            else:
                is_of_use = self._refreshed_s + FRESH_S < now_s < self._requested_s + FRESH_S
            while is_of_use and self._refreshes == before and wait.left_s > 0:
                self._refreshed.wait(wait.begin())
                wait.end()

    def _problem(self) -> StoreUnavailable | None:
        """Return why the cluster does not serve all keys, by the last refresh; None if it does."""
        if self._topology is not None:
            return self._topology.problem()
        failure = self._failure or _NO_REPLY
        return StoreUnavailable(*failure.args, cause=failure.cause)

    def _start(self) -> None:
        if not self._is_started:
            self._wake()

    def _wake(self) -> None:
        self._is_closed = False
        try:
            self._background.wake()
        except RuntimeError as error:  # there can be no more threads
            self._is_started = False
            raise StoreUnavailable(f"the topology of the cluster cannot be read: {error}") from error
        self._is_started = not self._is_closed  # another thread may have closed it meanwhile

    # For the executor

    def breaker_state(self) -> BreakerState:
        """Return whether any node's breaker is open, and how often any has opened in this process."""
        return combined((node.breaker_state() for node in [*self._by_address.values()]), self._former_openings)

    def connect(self, timeout_s: float) -> None:
        """Wait until there are connections to each primary.

        Raises:
            StoreUnavailable: Not to all of them, or not every slot has one; with the reason.
        """
        until_s = monotonic() + timeout_s
        self.request_refresh()
        with self._refreshed:
            self._refreshed.wait_for(lambda: self._problem() is None, timeout_s)
            problem = self._problem()
        if problem is not None:
            raise problem
        primaries = self.primaries(Wait(0))
        for node in primaries:
            try:
                node.connect(max(0.0, until_s - monotonic()), max(1, USUALLY_IDLE // len(primaries)))
            except StoreUnavailable as error:
                raise StoreUnavailable(f"the node {name_of(node.address)}: {error}", cause=error.cause) from error

    def close(self) -> None:
        """Close all connections, and end the thread unless there are subscribers. A later command starts them anew."""
        if not any(method() is not None for method in self._watchers):
            self._is_closed = True
            self._is_started = False
            self._background.join()
            self._disconnect()
        for node in [*self._by_address.values()]:
            node.close()

    # For subscribers, at any node that replies

    def find(self) -> Address:
        """Return the address of a node that replies now: the last one may have been lost.

        Raises:
            StoreUnavailable: None does; with the reason.
        """
        self.request_refresh()
        with self._refreshed:
            before = self._refreshes
            self._refreshed.wait_for(lambda: self._refreshes > before, _FIND_TIMEOUT_S)
        if self._contact is None:
            raise self._problem() or _NO_REPLY
        return self._contact

    def watch(self, on_move: OnMove) -> None:
        """As `Finder.watch`: when the node that `find` named no longer replies."""
        method = WeakMethod(on_move)
        with self._refreshed:
            self._watchers = (*(each for each in self._watchers if each() is not None and each != method), method)
        self._start()

    def unwatch(self, on_move: OnMove) -> None:
        """As `Finder.unwatch`."""
        method = WeakMethod(on_move)
        with self._refreshed:
            self._watchers = tuple(each for each in self._watchers if each != method)

    # In the thread

    def _step(self) -> float | None:
        if self._is_closed:
            return None
        due_in_s = self._schedule.due_in_s(monotonic(), is_unreachable=self._is_unreachable())
        if due_in_s > 0:
            return due_in_s
        with self._refreshed:  # what is requested from now on is for the next one
            self._schedule.begin(monotonic())
        redirected_to, self._redirected_to = self._redirected_to, None
        try:
            self._end_refresh(*self._refresh(redirected_to))
        except Exception as error:  # noqa: BLE001 - a subscriber's, or a fault of ours: the next refresh comes all the same
            self._end_refresh(None, error_mapping.before_sending(error))
        return max(0.0, self._schedule.due_in_s(monotonic(), is_unreachable=self._is_unreachable()))

    def _is_unreachable(self) -> bool:
        """Return whether a primary does not reply, or a slot has none: a replica may take its place soon."""
        return self._topology is None or any(node is None or node.breaker_state().is_open for node in {*self.owners})

    def _refresh(self, redirected_to: Address | None) -> tuple[Topology | None, StoreUnavailable | None]:
        """Return the topology that nodes report; None, and the reason, if none reports any."""
        refresh, best_node = RefreshRound(self._topology), self._contact
        addresses = [*dict.fromkeys(self._nodes_to_query(redirected_to))]
        for timeout_s, address in product((TIMEOUT_S, PATIENCE_S), addresses):
            if refresh.best is not None and timeout_s > TIMEOUT_S:
                break
            try:
                topology = self._topology_of(address, timeout_s)
            except Exception as error:  # noqa: BLE001 - whatever a client's own way of connecting raises
                refresh.fail(address, error_mapping.without_topology(error))
                continue
            is_certain = refresh.add(topology)
            if refresh.best is topology:
                best_node = address
            if is_certain:
                break
        if refresh.best is None:
            return None, refresh.failure()
        if refresh.best.primaries and best_node is not None and best_node not in (redirected_to, self._contact):
            self._move_contact(best_node)
        return refresh.best, None

    def _nodes_to_query(self, redirected_to: Address | None) -> Iterator[Address]:
        """Yield the nodes to query, the likeliest to reply first; else at random, as one may report an old topology."""
        topology = self._topology
        members = [] if topology is None else [*topology.primaries, *topology.replicas]
        _random.shuffle(members)
        if redirected_to is not None:
            yield redirected_to
        if self._contact is not None and (self._contact in members or topology is None):
            yield self._contact
        is_open = {address for address, node in [*self._by_address.items()] if node.breaker_state().is_open}
        yield from (address for address in members if address not in is_open)
        yield from self._start_nodes
        yield from is_open

    def _topology_of(self, address: Address, timeout_s: float) -> Topology:
        slots, info = self._replies_of(address, timeout_s)
        if isinstance(slots, Exception):
            raise slots
        return Topology.from_slots(slots, address, info, self._remap)

    def _replies_of(self, address: Address, timeout_s: float) -> list[Any]:
        """Send the queries to a node, on the connection of the last refresh if that is one to it; else on a new one."""
        wait = Wait(timeout_s)
        if self._connection is not None and self._connection[0] == address:
            with contextlib.suppress(NothingSentError):  # it has ended since
                return self._execute(self._connection[1], wait)
        self._disconnect()
        connection = open_connection(self._pool, address, timeout_s)
        self._connection = address, connection
        return self._execute(connection, wait)

    def _execute(self, connection: Connection, wait: Wait) -> list[Any]:
        try:
            return connection.execute(_QUERIES, len(QUERIES), wait)
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None

    def _move_contact(self, address: Address) -> None:
        """Note which node replied; have those move who subscribed at the last one."""
        is_moved, self._contact = self._contact is not None, address
        for method in self._watchers if is_moved else ():
            if (on_move := method()) is not None:
                on_move(address)

    def _end_refresh(self, topology: Topology | None, failure: StoreUnavailable | None) -> None:
        left = list[Node]()
        with self._refreshed:
            if topology is not None:
                left = self._apply(topology) if topology != self._topology else left
                self._refreshed_s, self._requested_s = monotonic(), inf
            self._failure = failure
            self._refreshes += 1
            self._schedule.end()
            self._refreshed.notify_all()
        for node in left:
            node.retire()

    def _apply(self, topology: Topology) -> list[Node]:
        """Take a topology; return the nodes that own no slots any more. Under the lock."""
        self._topology = topology
        nodes: dict[Address | None, Node | None] = {each: self._node_at(each) for each in topology.primaries}
        self.owners = [nodes.get(address) for address in topology.owner]
        left = [node for address, node in self._by_address.items() if address not in nodes]
        for node in left:
            del self._by_address[node.address]
            self._former_openings += node.breaker_state().openings
        return left

    def _node_at(self, address: Address) -> Node:
        """Return the node at an address. Under the lock."""
        node = self._by_address.get(address)
        if node is None:
            node = self._by_address[address] = Node(self._pool, address)
        return node

    def __del__(self) -> None:
        self._background.look()


_nodes: WeakKeyDictionary[ClusterClient, Nodes] = WeakKeyDictionary()
