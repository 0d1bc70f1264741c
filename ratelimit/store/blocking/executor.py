"""Flows over a blocking connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import NoScriptError

from ratelimit.effects import Operation, Request
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping
from ratelimit.store.blocking.connection import packed
from ratelimit.store.blocking.connections import ConnectionStack

_T = TypeVar("_T")


class Store:
    """Runs flows on a client's connections. A command is sent once: redis-py's retries are not on this path."""

    def __init__(self, client: Redis) -> None:
        self._lines = ConnectionStack.of(client.connection_pool)

    def run(self, flow: Operation[_T]) -> _T:
        """Answer what the flow asks until it returns."""
        try:
            request = next(flow)
            while True:
                try:
                    reply = self._answer(request)
                except StoreError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(reply)
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            flow.close()

    def _answer(self, request: Request) -> Any:
        if isinstance(request, ScriptCall):
            return self.call(request)
        return self._send(request)

    def call(self, call: ScriptCall) -> Any:
        """Return the reply to one script."""
        (reply,) = self._lines.ask(call.packet or call.packed(packed), 1)
        if isinstance(reply, Exception):
            if isinstance(reply, NoScriptError):
                # Scripts are forgotten by a restart, a failover, SCRIPT FLUSH. EVAL runs it and teaches it at once.
                return self._send([call.by_source()])[0]
            if error_mapping.from_a_replica(reply):
                self._lines.break_off()
            raise error_mapping.after_sending(reply) from reply
        return reply

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []  # no answer is to be waited for
        return error_mapping.replies_to(commands, self._lines.ask(packed(commands), len(commands)))

    def close(self) -> None:
        """Give the connections that are kept at hand back to the client."""
        self._lines.close()
