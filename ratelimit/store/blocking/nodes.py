"""The nodes of a cluster, as one process sees them: who owns which slot, and an endpoint of each primary.

One thread asks for the topology, for all callers: at first, when an answer says that it changed, again and again while
a primary does not answer, and now and then. Nobody waits for it but who has nobody to send to.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import product
from math import inf
from random import SystemRandom
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod

from ratelimit.errors import StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.background import Background
from ratelimit.store.blocking.connection import Connection, NothingSentError, open_connection
from ratelimit.store.blocking.connections import USUALLY_IDLE
from ratelimit.store.blocking.endpoint import Endpoint
from ratelimit.store.blocking.finder import OnMove
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.breaker import BreakerState, combined
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.slots import SLOTS
from ratelimit.store.cluster.topology import (
    FRESH_S,
    PATIENCE_S,
    QUERIES,
    TIMEOUT_S,
    Address,
    Refresh,
    Topology,
    Views,
    name_of,
)
from ratelimit.store.resp import pack

_QUERIES = pack(QUERIES)
_random = SystemRandom()
_SILENT = StoreUnavailable("no node of the cluster answered in time")
_FIND_TIMEOUT_S = 2.0
"""How long whoever subscribes waits for a node that answers."""


class Node(Endpoint):
    """The endpoint of one node."""

    def __init__(self, pool: Any, address: Address) -> None:
        self.address = address
        self._own_pool = redis_compat.pool_at(pool, address)  # held here: the endpoint itself does not
        super().__init__(self._own_pool)


class Nodes:
    """The nodes of the cluster of one client. Safe between threads; after a fork, a child asks anew.

    Attributes:
        owners: By slot: the node that owns it; None if nobody does, or nobody has been asked yet. Read at each check.
    """

    @classmethod
    def of(cls, client: ClusterClient) -> Nodes:
        """Return the nodes of a client's cluster: all limiters and catalogues of the client share them."""
        nodes = _nodes.get(client)
        return nodes or _nodes.setdefault(client, cls(client))  # one step, also between threads

    def __init__(self, client: ClusterClient) -> None:
        # Not the client itself: `_nodes` ends with it.
        self._pool, self._start_nodes, self._remap = client.connection_pool, client.start_nodes, client.remap
        self.owners: list[Node | None] = [None] * SLOTS
        self._by_address = dict[Address, Node]()
        self._topology: Topology | None = None
        self._openings_of_others = 0
        self._connection: tuple[Address, Connection] | None = None
        self._home: Address | None = None
        """The node that is asked first, and that changes are heard of at: the last one that answered."""
        self._watchers: tuple[WeakMethod[OnMove], ...] = ()
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the locks anew, and leave the parent its thread and its connection."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection[1].close()
        self._connection = None
        self._concluded = threading.Condition(threading.Lock())
        self._conclusions = 0
        self._concluded_s = 0.0
        self._doubted_s = inf
        """Since when somebody doubts the topology, and nobody has told it anew."""
        self._failure: StoreUnavailable | None = None
        self._refresh = Refresh()
        self._informed: Address | None = None
        """A node that knows better than others do yet."""
        self._background = Background(self._step, "ratelimit-topology")
        self._is_started = self._is_closed = False

    # For callers

    def owner(self, slot: int, wait: Wait) -> Node:
        """Return the node that owns a slot; wait for the topology if nobody is known to.

        Raises:
            StoreUnavailable: Nobody owns it, or nobody says who does; with the reason.
        """
        owner = self.owners[slot]
        if owner is None:
            self._await_refresh(wait)
            owner = self.owners[slot]
        if owner is None:
            raise self._problem() or _SILENT
        self._start()
        return owner

    def owner_instead(self, slot: int, node: Node, wait: Wait) -> Node | None:
        """Return who owns a slot in the place of a node that did not carry a command out; None: that node still does.

        It waits for the topology, unless that has just been asked for: as long as a node is away, its callers fail at
        once.
        """
        if self.owners[slot] is node:
            with contextlib.suppress(StoreUnavailable):
                self._await_refresh(wait)
        owner = self.owners[slot]
        return None if owner is node else owner

    def follow(self, slot: int, address: Address, *, is_moved: bool) -> Node:
        """Return the node that a redirection names, and note whether it owns the slot from now on."""
        if self._remap is not None:
            address = self._remap(address)
        with self._concluded:
            node = self._node_at(address)
            if is_moved and self.owners[slot] is not node:
                if self._topology is not None:
                    self._topology = self._topology.with_owner(slot, address)
                self.owners[slot] = node
                self._informed = address
        return node

    def node_named(self, name: str, wait: Wait) -> Node:
        """Return the primary of this name.

        Raises:
            StoreUnavailable: There is none.
        """
        for node in self.primaries(wait):
            if name_of(node.address) == name:
                return node
        raise StoreUnavailable(f"the cluster has no primary {name} (any more)", cause="refused")

    def primaries(self, wait: Wait) -> list[Node]:
        """Return the nodes that own slots.

        Raises:
            StoreUnavailable: Nobody says who they are; with the reason.
        """
        if self._topology is None:
            self._await_refresh(wait)
        with self._concluded:
            if self._topology is None:
                raise self._problem() or _SILENT
            return [self._node_at(address) for address in self._topology.primaries]

    def doubt(self) -> None:
        """Have the topology asked for: something says that it has changed."""
        if self._refresh.doubt() or not self._is_started:
            self._doubted_s = min(self._doubted_s, monotonic())
            self._wake()

    def _await_refresh(self, wait: Wait) -> None:
        """Wait until the topology was asked for, unless it just was, or nobody answers: then callers fail at once."""
        self.doubt()
        with self._concluded:
            before, now_s = self._conclusions, monotonic()
            if self._topology is None:
                is_of_use = self._failure is None
            else:
                is_of_use = self._concluded_s + FRESH_S < now_s < self._doubted_s + FRESH_S
            while is_of_use and self._conclusions == before and wait.left_s > 0:
                self._concluded.wait(wait.begin())
                wait.end()

    def _problem(self) -> StoreUnavailable | None:
        """Return why the cluster does not serve all keys, as far as is known; None if it does."""
        if self._topology is None:
            failure = self._failure or _SILENT
            return StoreUnavailable(*failure.args, cause=failure.cause)
        problem = self._topology.problem()
        return None if problem is None else StoreUnavailable(problem, cause="refused")

    def _start(self) -> None:
        if not self._is_started:
            self._wake()

    def _wake(self) -> None:
        self._is_closed = False
        try:
            self._background.wake()
        except RuntimeError as error:  # there can be no more threads
            self._is_started = False
            raise StoreUnavailable(f"the topology of the cluster is not known: {error}") from error
        self._is_started = not self._is_closed  # by another thread, meanwhile

    # For the executor

    def breaker_state(self) -> BreakerState:
        """Return whether any node's breaker is open, and how often any has opened in this process."""
        return combined((node.breaker_state() for node in [*self._by_address.values()]), self._openings_of_others)

    def connect(self, timeout_s: float) -> None:
        """Wait until there are connections to each primary.

        Raises:
            StoreUnavailable: Not to all of them, or not every slot has one; with the reason.
        """
        until_s = monotonic() + timeout_s
        self.doubt()
        with self._concluded:
            self._concluded.wait_for(lambda: self._problem() is None, timeout_s)
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
        """Close all connections, and end the thread unless others listen. For whoever needs them they are made anew."""
        if not any(method() is not None for method in self._watchers):
            self._is_closed = True
            self._is_started = False
            self._background.join()
            self._disconnect()
        for node in [*self._by_address.values()]:
            node.close()

    # Whoever subscribes does so at some node that answers

    def find(self) -> Address:
        """Return the address of a node that answers now: whoever looks for one may have lost the last.

        Raises:
            StoreUnavailable: None does; with the reason.
        """
        self.doubt()
        with self._concluded:
            before = self._conclusions
            self._concluded.wait_for(lambda: self._conclusions > before, _FIND_TIMEOUT_S)
        if self._home is None:
            raise self._problem() or _SILENT
        return self._home

    def watch(self, on_move: OnMove) -> None:
        """Call a method from now on when another node has to be used, as the one that `find` named is gone."""
        method = WeakMethod(on_move)
        with self._concluded:
            self._watchers = (*(each for each in self._watchers if each() is not None and each != method), method)
        self._start()

    def unwatch(self, on_move: OnMove) -> None:
        """Call it no more."""
        method = WeakMethod(on_move)
        with self._concluded:
            self._watchers = tuple(each for each in self._watchers if each != method)

    # In the thread

    def _step(self) -> float | None:
        if self._is_closed:
            return None
        due_in_s = self._refresh.due_in_s(monotonic(), is_silent=self._is_silent())
        if due_in_s > 0:
            return due_in_s
        self._refresh.begin(monotonic())
        informed, self._informed = self._informed, None
        try:
            self._conclude(*self._ask(informed))
        except Exception as error:  # noqa: BLE001 - a listener's, or a fault of ours: the next round comes all the same
            self._conclude(None, error_mapping.before_sending(error))
        return max(0.0, self._refresh.due_in_s(monotonic(), is_silent=self._is_silent()))

    def _is_silent(self) -> bool:
        """Return whether a primary does not answer, or a slot has none: soon another may stand in."""
        return self._topology is None or any(node is None or node.breaker_state().is_open for node in {*self.owners})

    def _ask(self, informed: Address | None) -> tuple[Topology | None, StoreUnavailable | None]:
        """Return the best view of the topology that nodes tell; None, and the reason, if none tells any."""
        views, teller = Views(self._topology), self._home
        problems = dict[str, StoreUnavailable]()
        addresses = [*dict.fromkeys(self._candidates(informed))]
        for timeout_s, address in product((TIMEOUT_S, PATIENCE_S), addresses):
            if views.best is not None and timeout_s > TIMEOUT_S:
                break
            try:
                topology = self._view_of(address, timeout_s)
            except Exception as error:  # noqa: BLE001 - whatever a client's own way of connecting raises
                problems[name_of(address)] = error_mapping.without_topology(error)
                continue
            is_enough = views.take(topology)
            if views.best is topology:
                teller = address
            if is_enough:
                break
        if views.best is not None:
            if views.best.primaries and teller is not None and teller not in (informed, self._home):
                self._move_home(teller)
            return views.best, None
        said = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        causes = [each.cause for each in problems.values() if each.cause != "not_sent"]
        return None, StoreUnavailable(
            f"no node of the cluster tells its slots ({said})", cause=causes[0] if causes else None
        )

    def _candidates(self, informed: Address | None) -> Iterator[Address]:
        """Name the nodes to ask, those first that are likely to answer; in no order, as one may know an old one."""
        topology = self._topology
        members = [] if topology is None else [*topology.primaries, *topology.replicas]
        _random.shuffle(members)
        if informed is not None:
            yield informed
        if self._home is not None and (self._home in members or topology is None):
            yield self._home
        is_open = {address for address, node in [*self._by_address.items()] if node.breaker_state().is_open}
        yield from (address for address in members if address not in is_open)
        yield from self._start_nodes
        yield from is_open

    def _view_of(self, address: Address, timeout_s: float) -> Topology:
        slots, info = self._replies_of(address, timeout_s)
        if isinstance(slots, Exception):
            raise slots
        return Topology.from_slots(slots, address, info, self._remap)

    def _replies_of(self, address: Address, timeout_s: float) -> list[Any]:
        """Ask a node on the connection that was used last, if that is one to it; else on a new one."""
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

    def _move_home(self, address: Address) -> None:
        """Note which node answers; have those move who listen to the last one."""
        is_moved, self._home = self._home is not None, address
        for method in self._watchers if is_moved else ():
            if (on_move := method()) is not None:
                on_move(address)

    def _conclude(self, topology: Topology | None, failure: StoreUnavailable | None) -> None:
        left = list[Node]()
        with self._concluded:
            if topology is not None:
                left = self._apply(topology) if topology != self._topology else left
                self._concluded_s, self._doubted_s = monotonic(), inf
            self._failure = failure
            self._conclusions += 1
            self._concluded.notify_all()
        for node in left:
            node.retire()

    def _apply(self, topology: Topology) -> list[Node]:
        """Take a topology; return the nodes that own nothing any more. Under the lock."""
        self._topology = topology
        nodes: dict[Address | None, Node | None] = {each: self._node_at(each) for each in topology.primaries}
        self.owners = [nodes.get(address) for address in topology.owner]
        left = [node for address, node in self._by_address.items() if address not in nodes]
        for node in left:
            del self._by_address[node.address]
            self._openings_of_others += node.breaker_state().openings
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
