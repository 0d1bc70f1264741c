"""Runs operations on the nodes of a cluster, over asyncio connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ratelimit.effects import (
    AtNode,
    BatchableReads,
    KeyLookUps,
    PatientCommands,
    Primaries,
    Sent,
)
from ratelimit.scripts import ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio.base import AsyncExecutorBase
from ratelimit.store.aio.nodes import Nodes
from ratelimit.store.aio.router import Router
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.slots import Part, divide, slot_of

_now_s = time.monotonic


class AsyncClusterExecutor(AsyncExecutorBase[Router]):
    """The twin of `BlockingClusterExecutor`. Has connections of its own to each primary, in each event loop.

    Args:
        client: How to connect to nodes, and the first ones.
        deadline_s: How long a check may wait for Redis; of no use where nothing is checked.
        catalog_key: The name of the catalogue: commands without keys go to its node.
        on_new_loop: Called in each loop before its first check.

    Attributes:
        finder: In each loop, finds a node to subscribe at.
    """

    has_slots = True

    def __init__(
        self,
        client: ClusterClient,
        deadline_s: float,
        catalog_key: str,
        on_new_loop: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(client.connection_pool, deadline_s, on_new_loop)
        self._client = client
        self._catalog_slot = slot_of(catalog_key)
        self.finder = self._nodes

    def _nodes(self) -> Nodes:
        return self._senders.get().nodes

    def _new_sender(self) -> Router:
        return Router(self._client, self._deadline_s, self._catalog_slot, self._call_in_running_loop)

    def _sender_of_checks(self) -> Router:
        router = self._senders.get()
        if router.nodes.connect():
            self._on_new_loop()
        return router

    async def _reply_to(self, request: Sent, started_s: float | None, patience_s: float | None) -> Any:
        left_s = patience_s if started_s is None else max(started_s + self._deadline_s - _now_s(), 0)
        if isinstance(request, Primaries):
            return await self._nodes().primaries(left_s)
        if started_s is None or not isinstance(request, ScriptCall | BatchableReads):
            return await self._send(request, left_s)
        router = self._sender_of_checks()
        if isinstance(request, ScriptCall):
            self._refuse_late(router, router.slot_of(request), started_s)
            return await router.call(request, started_s)
        parts = divide(request, self._catalog_slot)
        self._refuse_late(router, parts.parts[0].slot, started_s)
        kind = KeyLookUps if isinstance(request, KeyLookUps) else BatchableReads
        replies = await asyncio.gather(
            *[router.call_at(part.slot, kind([part.command]), started_s) for part in parts.parts],
            return_exceptions=True,
        )
        joined = parts.join([reply[0] if isinstance(reply, list) else reply for reply in replies])
        return error_mapping.replies_to(request, joined)

    def _refuse_late(self, router: Router, slot: int, started_s: float) -> None:
        if router.is_late(slot, started_s):
            raise self._passed_deadline()

    async def _send(self, request: Sent, timeout_s: float | None) -> Any:
        router = self._senders.get()
        if isinstance(request, PatientCommands):
            return error_mapping.replies_to(request, await router.send_apart(request, request.patience_s))
        if isinstance(request, AtNode):
            return error_mapping.replies_to(request, await router.send_to(request.node, request, timeout_s))
        if not isinstance(request, ScriptCall):
            division = divide(request, self._catalog_slot)
            return error_mapping.replies_to(request, division.join(await router.send(division.parts, timeout_s)))
        slot = router.slot_of(request)
        (reply,) = await router.send([Part(slot, request.by_hash())], timeout_s)
        if redis_compat.is_unknown_script(reply):
            (reply,) = await router.send([Part(slot, request.by_source())], timeout_s)
        return error_mapping.replies_to([], [reply])[0]

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait until all connections for checks of the running loop stand, to all primaries.

        Raises:
            StoreUnavailable: They do not, within that time.
        """
        await self._sender_of_checks().nodes.wait_complete(timeout_s)
