"""Asks the nodes of a cluster which of them owns which slot: one task, for all that an event loop sends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from math import inf

from ratelimit.errors import StoreUnavailable
from ratelimit.store import error_mapping
from ratelimit.store.aio.commands import CommandConnection
from ratelimit.store.aio.finder import FixedAddress
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.topology import (
    PATIENCE_S,
    QUERIES,
    TIMEOUT_S,
    Address,
    Refresh,
    Topology,
    Views,
    name_of,
)

_now_s = time.monotonic

NodesToAsk = Callable[[], Iterable[tuple[Address, CommandConnection]]]
"""The nodes that are known, in the order in which to ask them."""


class TopologyWatch:
    """Keeps the topology, and asks for it again when it is doubted. Belongs to the event loop in which it is made.

    Args:
        client: Says how to connect to a node, and names some, asked where no other answers.
        nodes: What connections there are to nodes that are known already.
        is_silent: Returns whether a primary does not answer.
        on_round: Called after each round, whatever was answered.

    Attributes:
        topology: What was answered last; None as long as nothing was.
        problem: Why there is no owner of a slot that has none; None if that was not asked yet, or all have one.
        silent: Nodes that were asked in the last round and did not answer.
    """

    def __init__(
        self,
        client: ClusterClient,
        nodes: NodesToAsk,
        is_silent: Callable[[], bool],
        on_round: Callable[[], None],
    ) -> None:
        self._client = client
        self._nodes = nodes
        self._is_silent = is_silent
        self._on_round = on_round
        self.topology: Topology | None = None
        self.problem: StoreUnavailable | None = None
        self.silent = set[Address]()
        self._refresh = Refresh()
        self._is_asking = self._is_closed = False
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._watch(), name="ratelimit-topology")

    @property
    def is_asking(self) -> bool:
        """Whether a round is under way, or the first is about to begin."""
        return self._is_asking or (self.topology is None and self.problem is None)

    def doubt(self) -> None:
        """Have the topology asked for soon: something said that it has changed."""
        if self._refresh.doubt():
            self._wake.set()

    async def next_round(self, timeout_s: float) -> None:
        """Return when the next round has ended, or the time is over."""
        if self._task.done():
            return
        self.doubt()
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
                is_silent = self.problem is not None or self._is_silent()
                wait_s = self._refresh.due_in_s(_now_s(), is_silent=is_silent)
                if wait_s > 0:
                    self._wake.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait_s):
                            await self._wake.wait()
                else:
                    await self._round()
        finally:
            self._end_waiting()

    async def _round(self) -> None:
        self._refresh.begin(_now_s())
        self._is_asking = True
        try:
            answer = await self._ask()
        finally:
            self._is_asking = False
        if isinstance(answer, Topology):
            self.topology, problem = answer, answer.problem()
            self.problem = None if problem is None else StoreUnavailable(problem)
        elif self.topology is None:
            self.problem = answer
        self._on_round()
        self._end_waiting()

    def _end_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done() and not self._loop.is_closed():
                ended.set_result(None)

    async def _ask(self) -> Topology | StoreUnavailable:
        """Return the best view of the topology that nodes tell, or why none tells any."""
        self.silent = set()
        views = Views(self.topology)
        errors = dict[Address, StoreUnavailable]()
        for timeout_s in (TIMEOUT_S, PATIENCE_S):
            with contextlib.closing(self._connections()) as connections:
                for address, connection in connections:
                    try:
                        topology = await self._ask_one(address, connection, timeout_s)
                    except Exception as error:  # noqa: BLE001 - whatever a client's own way of connecting raises
                        errors[address] = error_mapping.without_topology(error)
                        self.silent.add(address)
                        continue
                    if views.take(topology):
                        break
            if views.best is not None:
                return views.best
        said = "; ".join(f"{name_of(address)}: {error}" for address, error in errors.items())
        causes = [error.cause for error in errors.values() if error.cause != "not_sent"]
        return StoreUnavailable(
            f"no node of the cluster says who owns which slot ({said})", cause=causes[0] if causes else None
        )

    def _connections(self) -> Generator[tuple[Address, CommandConnection], None, None]:
        """Yield connections to all nodes that are known, the primaries first."""
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

    async def _ask_one(self, address: Address, connection: CommandConnection, timeout_s: float) -> Topology:
        slots, info = await connection.send(QUERIES, timeout_s)
        if isinstance(slots, Exception):
            raise error_mapping.without_topology(slots)
        return Topology.from_slots(slots, address, info, self._client.remap)
