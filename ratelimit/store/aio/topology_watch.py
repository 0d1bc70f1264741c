"""Refreshes the topology of a cluster: one task, for all that an event loop sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from math import inf

from ratelimit.errors import StoreUnavailable
from ratelimit.store import error_mapping
from ratelimit.store.addresses import Address
from ratelimit.store.aio.commands import CommandConnection
from ratelimit.store.aio.finder import FixedAddress
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.topology import (
    PATIENCE_S,
    QUERIES,
    TIMEOUT_S,
    NodeFailures,
    RefreshRound,
    RefreshSchedule,
    Topology,
)

_now_s = time.monotonic

NodesToQuery = Callable[[], Iterable[tuple[Address, CommandConnection]]]
"""The nodes to which there are connections, in the order in which to query them."""


class TopologyWatch:
    """Keeps the topology, and refreshes it. Belongs to the event loop in which it is made.

    Args:
        client: How to connect to a node, and the first ones, queried where no other replies.
        nodes: The nodes to which there are connections.
        is_unreachable: Returns whether a primary does not reply.
        on_refresh: Called after each refresh, with a new topology or without.

    Attributes:
        topology: Of the last refresh that gave one; None before.
        problem: Why a slot has no owner; None before the first refresh, or if all have one.
        unreachable: Nodes that did not reply in the last refresh.
    """

    def __init__(
        self,
        client: ClusterClient,
        nodes: NodesToQuery,
        is_unreachable: Callable[[], bool],
        on_refresh: Callable[[], None],
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._is_unreachable = is_unreachable
        self._on_refresh = on_refresh
        self.topology: Topology | None = None
        self.problem: StoreUnavailable | None = None
        self.unreachable = set[Address]()
        self._schedule = RefreshSchedule()
        self._is_refreshing = self._is_closed = False
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._watch(), name="ratelimit-topology")

    @property
    def is_refreshing(self) -> bool:
        """Whether a refresh is under way, or the first is about to begin."""
        return self._is_refreshing or (self.topology is None and self.problem is None)

    def request_refresh(self, *, is_urgent: bool = False) -> None:
        """Have the topology refreshed soon, as it may have changed; at once if that is urgent."""
        if self._schedule.request(is_urgent=is_urgent):
            self._wake.set()

    def is_awaited(self, failures: NodeFailures) -> bool:
        """Return whether callers of a node that failed wait for the next refresh."""
        return failures.is_refresh_awaited(_now_s(), self._schedule)

    async def next_refresh(self, timeout_s: float) -> None:
        """Return when the next refresh has ended, or the time is over."""
        if self._task.done():
            return
        self.request_refresh()
        ended = self._loop.create_future()
        self._waiting.append(ended)
        await asyncio.wait([ended], timeout=None if timeout_s == inf else timeout_s)

    async def close(self) -> None:
        """End the watch."""
        self.abandon()
        await asyncio.gather(self._task, return_exceptions=True)

    def abandon(self) -> None:
        """End the watch, whose loop ends or has ended."""
        self._is_closed = True  # a cancellation alone can be swallowed where a timeout ends at the same moment
        if not self._loop.is_closed():
            self._task.cancel()
            self._wake.set()

    async def _watch(self) -> None:
        try:
            while not self._is_closed:
                is_unreachable = self.problem is not None or self._is_unreachable()
                wait_s = self._schedule.due_in_s(_now_s(), is_unreachable=is_unreachable)
                if wait_s > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()
                else:
                    await self._refresh()
        finally:
            self._end_waiting()

    async def _refresh(self) -> None:
        self._schedule.begin(_now_s())
        self._is_refreshing = True
        try:
            refresh = await self._query_nodes()
        finally:
            self._is_refreshing = False
        if refresh.best is not None:
            self.topology, self.problem = refresh.best, refresh.best.problem()
        elif self.topology is None:
            self.problem = refresh.failure()
        self._schedule.end()
        try:
            self._on_refresh()
        except Exception as error:  # noqa: BLE001 - a fault of ours, perhaps: the next refresh comes all the same
            self.problem = error_mapping.before_sending(error)
        self._end_waiting()

    def _end_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done() and not self._loop.is_closed():
                ended.set_result(None)

    async def _query_nodes(self) -> RefreshRound:
        """Send the queries to nodes until the topology is certain, or no node is left."""
        self.unreachable = set()
        refresh = RefreshRound(self.topology)
        for timeout_s in (TIMEOUT_S, PATIENCE_S):
            with contextlib.closing(self._connections()) as connections:
                for address, connection in connections:
                    try:
                        topology = await self._topology_of(address, connection, timeout_s)
                    except Exception as error:  # noqa: BLE001 - whatever a client's own way of connecting raises
                        refresh.fail(address, error_mapping.without_topology(error))
                        self.unreachable.add(address)
                        continue
                    if refresh.add(topology):
                        break
            if refresh.best is not None:
                break
        return refresh

    def _connections(self) -> Generator[tuple[Address, CommandConnection], None, None]:
        """Yield a connection to each node, the primaries first."""
        connected = list(self._nodes())
        yield from connected
        replicas = () if self.topology is None else self.topology.replicas
        for address in dict.fromkeys((*replicas, *self._client.start_nodes)):
            if address not in dict(connected):
                connection = CommandConnection(self._client.connection_pool, FixedAddress(address))
                try:
                    yield address, connection
                finally:
                    connection.abandon()

    async def _topology_of(self, address: Address, connection: CommandConnection, timeout_s: float) -> Topology:
        slots, info = await connection.send(QUERIES, timeout_s)
        if isinstance(slots, Exception):
            raise slots
        return Topology.from_slots(slots, address, info, self._client.remap)
