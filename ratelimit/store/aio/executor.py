"""Runs operations on asyncio connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Any, cast

from ratelimit.effects import BatchableReads, PatientCommands, Primaries, Sent
from ratelimit.scripts import ScriptCall
from ratelimit.store import clients, error_mapping, redis_compat
from ratelimit.store.aio.base import AsyncExecutorBase
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.cluster import AsyncClusterExecutor
from ratelimit.store.aio.commands import CommandConnection, send_apart
from ratelimit.store.aio.loops import PerLoop
from ratelimit.store.aio.primary import AsyncPrimaryFinder
from ratelimit.store.clients import AsyncClient, AsyncServerClient, pool_of
from ratelimit.store.cluster.slots import divide

_now_s = time.monotonic
_BATCHABLE = (ScriptCall, BatchableReads)


class AsyncExecutor(AsyncExecutorBase[CheckBatcher]):
    """The twin of `BlockingExecutor`. Has connections of its own in each event loop that uses it.

    Args:
        client: Its pool says how to connect; none of its connections is used.
        deadline_s: How long a check may wait for Redis; of no use where nothing is checked.
        on_new_loop: Called in each loop before its first check.

    Attributes:
        finder: In each loop, finds the server to connect to; None where the pool says it.
    """

    def __init__(
        self, client: AsyncServerClient, deadline_s: float = inf, on_new_loop: Callable[[], None] = lambda: None
    ) -> None:
        pool = pool_of(client)
        super().__init__(pool, deadline_s, on_new_loop)
        self._primaries = PerLoop(lambda: AsyncPrimaryFinder(pool)) if redis_compat.finds_primary(pool) else None
        self.finder = None if self._primaries is None else self._primaries.get
        self._has_slots = clients.enforces_slots(pool)
        self._commands = PerLoop(lambda: CommandConnection(pool, self._primary()))

    def _new_sender(self) -> CheckBatcher:
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
        for batcher in self._senders.all_made():
            batcher.has_slots = has_slots

    def _sender_of_checks(self) -> CheckBatcher:
        is_new = self._senders.get_if_made() is None
        batcher = self._senders.get()
        if is_new:
            self._on_new_loop()
        return batcher

    async def _reply_to(self, request: Sent, started_s: float | None, patience_s: float | None) -> Any:
        if isinstance(request, Primaries):
            return ("",)
        if started_s is None:
            return await self._send(request, patience_s)
        if isinstance(request, _BATCHABLE):
            if self._sender_of_checks().is_late(started_s):
                raise self._passed_deadline()
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
                if any(map(error_mapping.is_of_several_slots, replies)):
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
        await self._sender_of_checks().endpoint.wait_complete(timeout_s)

    async def close(self) -> None:
        """As `AsyncExecutorBase.close`."""
        await super().close()
        await self._commands.close()
        if self._primaries is not None:
            await self._primaries.close()

    def _primary(self) -> AsyncPrimaryFinder | None:
        return None if self._primaries is None else self._primaries.get()


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
