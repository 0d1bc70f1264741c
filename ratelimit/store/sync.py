"""Flows over a blocking connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import NoScriptError

from ratelimit.core.flow import Flow, Request
from ratelimit.core.scripts import Command, ScriptCall
from ratelimit.errors import StoreError
from ratelimit.store import faults
from ratelimit.store.line import packed
from ratelimit.store.lines import Lines

_T = TypeVar("_T")


class Store:
    """Runs flows on a client's connections. A command is sent once: redis-py's retries are not on this path."""

    def __init__(self, client: Redis) -> None:
        self._lines = Lines.of(client.connection_pool)

    def run(self, flow: Flow[_T]) -> _T:
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
            if faults.from_a_replica(reply):
                self._lines.break_off()
            raise faults.after_sending(reply) from reply
        return reply

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []  # no answer is to be waited for
        return faults.replies_to(commands, self._lines.ask(packed(commands), len(commands)))

    def close(self) -> None:
        """Give the connections that are kept at hand back to the client."""
        self._lines.close()
