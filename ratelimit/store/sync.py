"""Flows over a blocking connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ratelimit.core.flow import Command, Flow, Request
from ratelimit.core.wire import ScriptCall
from ratelimit.errors import StoreError
from ratelimit.store import faults
from ratelimit.store.lines import Lines, packed

_T = TypeVar("_T")


class Store:
    """Runs flows on a client's connections. A command is sent once: redis-py's retries are not on this path."""

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool  # redis-py leaves its connections untyped
        self._lines = Lines.of(self._pool)

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
            return self._call(request)
        return self._send(request)

    def _call(self, call: ScriptCall) -> Any:
        rest = (len(call.keys), *call.keys, *call.args)
        try:
            return self._send([("EVALSHA", call.script.sha, *rest)])[0]
        except NoScriptError:
            # Scripts are forgotten by a restart, a failover, SCRIPT FLUSH. EVAL runs it and teaches it at once.
            return self._send([("EVAL", call.script.source, *rest)])[0]

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            line = self._lines.take()
        except (RedisError, OSError) as error:
            raise faults.before_sending(error) from error
        connection = line.connection
        try:
            connection.send_packed_command(packed(connection, commands), check_health=False)
            replies = [self._read(connection) for _ in commands]
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise faults.after_sending(error) from error
        except BaseException:
            # Interrupted: the reply is still to come, and must not answer the next command.
            connection.disconnect()
            raise
        finally:
            self._lines.give_back(line)
        return faults.without_errors(replies)

    def close(self) -> None:
        """Give the connections that are kept at hand back to the client."""
        self._lines.close()

    @staticmethod
    def _read(connection: Any) -> Any:
        try:
            return connection.read_response()
        except ResponseError as error:
            # Kept in its place: every reply must be read before the connection is used again.
            return error
