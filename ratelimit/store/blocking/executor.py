"""Runs operations on blocking connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ratelimit.effects import Operation, Request, failure_of
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.blocking.connections import ConnectionStack
from ratelimit.store.clients import Client
from ratelimit.store.resp import pack

_T = TypeVar("_T")


class BlockingExecutor:
    """Runs operations on a client's connections. A command is sent once: the client's retries are not on this path."""

    def __init__(self, client: Client) -> None:
        self._pool: Any = client.connection_pool  # held: the stack does not
        self._connections = ConnectionStack.of(self._pool)

    def run(self, operation: Operation[_T]) -> _T:
        """Reply to what the operation requests until it returns; return its result."""
        try:
            request = next(operation)
            while True:
                try:
                    reply = self._execute(request)
                except StoreError as error:
                    request = operation.throw(failure_of(request, error))
                else:
                    request = operation.send(reply)
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            operation.close()

    def _execute(self, request: Request) -> Any:
        if isinstance(request, ScriptCall):
            return self.call(request)
        return self._send(request)

    def call(self, call: ScriptCall) -> Any:
        """Return the reply to one script call."""
        (reply,) = self._connections.execute(call.packet or call.packed(pack), 1)
        if isinstance(reply, Exception):
            if redis_compat.is_unknown_script(reply):
                # A restart, a failover or SCRIPT FLUSH loses scripts. EVAL runs it and teaches it at once.
                return self._send([call.by_source()])[0]
            if error_mapping.is_from_replica(reply):
                self._connections.disconnect()
            raise error_mapping.after_sending(reply) from reply
        return reply

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []  # there is no reply to wait for
        return error_mapping.replies_to(commands, self._connections.execute(pack(commands), len(commands)))

    def close(self) -> None:
        """Return the idle connections to the client."""
        self._connections.close()
