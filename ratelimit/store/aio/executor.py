"""Runs operations on asyncio connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, cast

from ratelimit.admin.doctor.read import Peer, PeerReply
from ratelimit.admin.doctor.readings import ClientSettings
from ratelimit.effects import BatchableReads, PatientCommands, Primaries, Sent
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.scripts import ScriptCall
from ratelimit.store import clients, error_mapping, redis_compat
from ratelimit.store.aio import peers
from ratelimit.store.aio.base import AsyncExecutorBase
from ratelimit.store.aio.batcher import CallFunction, CheckBatcher
from ratelimit.store.aio.cluster import AsyncClusterExecutor
from ratelimit.store.aio.commands import CommandConnection, send_apart
from ratelimit.store.aio.loops import PerLoop
from ratelimit.store.aio.primary import AsyncPrimaryFinder
from ratelimit.store.aio.queues import Call
from ratelimit.store.breaker import BreakerState
from ratelimit.store.clients import AsyncClient, AsyncServerClient, pool_of
from ratelimit.store.cluster.slots import divide
from ratelimit.store.peers import client_settings

_now_s = time.monotonic
_BATCHABLE = (ScriptCall, BatchableReads)


class AsyncExecutor(AsyncExecutorBase):
    """The twin of `BlockingExecutor`. Has connections of its own in each event loop that uses it.

    Args:
        client: Its pool says how to connect; none of its connections is used.
        deadline_s: How long a check may wait for Redis; of no use where nothing is checked.
        on_new_loop: Called in each loop before its first check.

    Attributes:
        call: Returns the reply to a script call or small read of a check, to be awaited; see `CheckBatcher.call`.
        finder: In each loop, finds whom to connect to; None where that is the pool's business.
    """

    def __init__(
        self, client: AsyncServerClient, deadline_s: float = inf, on_new_loop: Callable[[], None] = lambda: None
    ) -> None:
        pool = pool_of(client)
        self._pool = pool
        super().__init__(deadline_s, on_new_loop)
        self._primaries = PerLoop(lambda: AsyncPrimaryFinder(pool)) if redis_compat.finds_primary(pool) else None
        self.finder = None if self._primaries is None else self._primaries.get
        self._has_slots = clients.enforces_slots(pool)
        self._batchers = PerLoop(self._new_batcher, self._on_loop_end)
        self._commands = PerLoop(lambda: CommandConnection(pool, self._primary()))
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have a child process find out which event loop runs: the parent's seems to run on."""
        self._forget_loop()
        self._ended_openings = 0  # of breakers whose loop has ended

    def _forget_loop(self) -> None:
        # `CheckBatcher.call` of the loop that called last, without a call in between: it sees whether that still runs.
        self.call: CallFunction = self._call_in_running_loop

    def _call_in_running_loop(self, call: Call, started_s: float | None) -> asyncio.Future[Any]:
        batcher = self._batcher()
        self.call = batcher.call
        return batcher.call(call, started_s)

    def _new_batcher(self) -> CheckBatcher:
        batcher = CheckBatcher(self._pool, self._deadline_s, self._primary(), self._call_in_running_loop)
        batcher.has_slots = self._has_slots
        return batcher

    @property
    def has_slots(self) -> bool:
        """Whether a command may only name keys of one slot. Can be set as soon as that is found out."""
        return self._has_slots

    @has_slots.setter
    def has_slots(self, has_slots: bool) -> None:
        self._has_slots = has_slots
        for batcher in self._batchers.all_made():
            batcher.has_slots = has_slots

    def _batcher(self) -> CheckBatcher:
        is_new = self._batchers.get_if_made() is None
        batcher = self._batchers.get()
        if is_new:
            self._on_new_loop()
        return batcher

    async def _reply_to(self, request: Sent, started_s: float | None) -> Any:
        if isinstance(request, Primaries):
            return ("",)
        if started_s is None:
            return await self._send(request)
        if isinstance(request, _BATCHABLE):
            if self._batcher().is_late(started_s):
                raise StoreUnavailable(f"the deadline of {self._deadline_s * 1000:g} ms passed before it was sent")
            return await self.call(request, started_s)
        left_s = started_s + self._deadline_s - _now_s()
        return await self._send(request, max(left_s, 0))

    async def _send(self, request: Sent, timeout_s: float | None = None) -> Any:
        if isinstance(request, PatientCommands):
            replies = await send_apart(self._pool, request, request.patience_s, self._primary())
            return error_mapping.replies_to(request, replies)
        commands = self._commands.get()
        if not isinstance(request, ScriptCall):
            if not self._has_slots:
                replies = await commands.send(request, timeout_s)
                if any(map(redis_compat.is_of_several_slots, replies)):
                    self.has_slots = True
                return error_mapping.replies_to(request, replies)
            division = divide(request, 0)
            replies = await commands.send([part.command for part in division.parts], timeout_s)
            return error_mapping.replies_to(request, division.join(replies))
        try:
            (reply,) = error_mapping.replies_to([], await commands.send([request.by_hash()], timeout_s))
        except redis_compat.errors("NoScriptError"):
            (reply,) = error_mapping.replies_to([], await commands.send([request.by_source()], timeout_s))
        return reply

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until all connections for checks of the running loop stand.

        Raises:
            StoreUnavailable: They do not, within that time.
        """
        await self._batcher().endpoint.wait_complete(timeout_s)

    def client_settings(self) -> ClientSettings:
        """Return how the client is set that was passed in."""
        return client_settings(self._pool)

    async def ask(self, asked_peers: Sequence[Peer]) -> dict[Peer, PeerReply | StoreError]:
        """Return what servers beside the primary answer."""
        return await peers.ask(self._pool, asked_peers)

    async def close(self) -> None:
        """Close the connections of the running loop, once all calls have their replies; other loops close theirs."""
        self._forget_loop()
        await self._end_background()
        await self._batchers.close()
        await self._commands.close()
        if self._primaries is not None:
            await self._primaries.close()

    def _primary(self) -> AsyncPrimaryFinder | None:
        return None if self._primaries is None else self._primaries.get()

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker of any event loop is open, and how often any has opened in this process."""
        breakers = [batcher.endpoint.breaker for batcher in self._batchers.all_made()]
        openings = self._ended_openings + sum(breaker.openings for breaker in breakers)
        return BreakerState(any(breaker.is_open for breaker in breakers), openings)

    def _on_loop_end(self, batcher: CheckBatcher, lived_s: float) -> None:
        self._forget_loop()
        self._ended_openings += batcher.endpoint.breaker.openings
        self._note_ended_loop(lived_s)


def async_executor_for(
    client: AsyncClient, deadline_s: float, catalog_key: str, on_new_loop: Callable[[], None] = lambda: None
) -> AsyncExecutor | AsyncClusterExecutor:
    """Return the executor for a client: of one server, or of a cluster.

    Args:
        client: Says how to connect.
        deadline_s: How long a check may wait for Redis; `inf` where nothing is checked.
        catalog_key: The name of the catalogue: in a cluster, commands without keys go to its node.
        on_new_loop: Called in each loop before its first check.
    """
    of_cluster = clients.cluster_client(client)
    if of_cluster is not None:
        return AsyncClusterExecutor(of_cluster, deadline_s, catalog_key, on_new_loop)
    return AsyncExecutor(cast(AsyncServerClient, client), deadline_s, on_new_loop)
