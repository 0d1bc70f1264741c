"""Runs operations on blocking connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit.effects import PatientCommands, Primaries, Sent
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.base import BlockingExecutorBase
from ratelimit.store.blocking.cluster import BlockingClusterExecutor
from ratelimit.store.blocking.endpoint import Endpoint
from ratelimit.store.blocking.finder import Finder
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.clients import PATIENCE_S, Client, ServerClient, cluster_client, enforces_slots
from ratelimit.store.cluster.slots import divide
from ratelimit.store.resp import pack


class BlockingExecutor(BlockingExecutorBase):
    """Runs operations on the server of a client. A command is sent once: the client's retries are not on this path.

    Args:
        client: Its pool says how to connect.
        deadline: For how many seconds a check may wait for Redis, over all that it sends.

    Attributes:
        has_slots: Whether it is known that one script may only touch keys of one slot.
    """

    def __init__(self, client: ServerClient, deadline: float = PATIENCE_S) -> None:
        pool = client.connection_pool
        self._endpoint = Endpoint.of(pool)
        super().__init__(pool, self._endpoint, deadline)
        self.has_slots = enforces_slots(pool)

    @property
    def finder(self) -> Finder | None:
        """What finds the server to connect to; None where the pool says it."""
        return self._endpoint.primary

    def call(self, call: ScriptCall, started_s: float) -> Any:
        """Return the reply to one script call, whose caller begins to wait for Redis at this very moment."""
        reply = self._endpoint.call(call.packet or call.packed(pack), started_s, self._deadline)
        if isinstance(reply, Exception):
            return self._again_by_source(call, reply, self._wait(started_s))
        return reply

    def _execute(self, request: Sent, wait: Wait) -> Any:
        wait.renew()
        if isinstance(request, PatientCommands):
            packet, patience = pack(request), Wait(request.patience_s + self._patience_s)
            return error_mapping.replies_to(request, self._endpoint.execute_apart(packet, len(request), patience))
        if isinstance(request, Primaries):
            return ("",)
        if not isinstance(request, ScriptCall):
            return self._send(request, wait)
        (reply,) = self._endpoint.execute(request.packet or request.packed(pack), 1, wait)
        return self._again_by_source(request, reply, wait) if isinstance(reply, Exception) else reply

    def _again_by_source(self, call: ScriptCall, error: Exception, wait: Wait) -> Any:
        """Send a script that the server does not know: a restart, a failover or SCRIPT FLUSH loses scripts."""
        if redis_compat.is_unknown_script(error):
            return self._send([call.by_source()], wait)[0]
        raise self._refused(error) from error

    def _send(self, commands: Sequence[Command], wait: Wait) -> list[Any]:
        if not commands:
            return []  # there is no reply to wait for
        if self.has_slots:
            division = divide(commands, 0)
            packet = pack([part.command for part in division.parts])
            replies = division.join(self._endpoint.execute(packet, len(division.parts), wait))
        else:
            replies = self._endpoint.execute(pack(commands), len(commands), wait)
            self.has_slots = any(map(error_mapping.is_of_several_slots, replies))
        return error_mapping.replies_to(commands, replies)

    def _refused(self, error: Exception) -> StoreError:
        if error_mapping.is_from_replica(error):
            self._endpoint.renew()
        return error_mapping.after_sending(error)


BlockingStore = BlockingExecutor | BlockingClusterExecutor


def executor_for(client: Client, deadline: float = PATIENCE_S, *, catalog_key: str) -> BlockingStore:
    """Return what runs operations on the server of a client, or on its cluster.

    Args:
        client: The client.
        deadline: For how many seconds a check may wait for Redis.
        catalog_key: The name of the catalogue: commands without keys go where it is.
    """
    of_cluster = cluster_client(client)
    if of_cluster is not None:
        return BlockingClusterExecutor(of_cluster, deadline, catalog_key=catalog_key)
    return BlockingExecutor(client, deadline)  # type: ignore[arg-type]
