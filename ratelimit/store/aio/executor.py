"""Runs operations on asyncio connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from ratelimit.effects import BatchableReads, Operation, Request, failure_of
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio import connections
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.clients import AsyncClient

_T = TypeVar("_T")
_BATCHABLE = (ScriptCall, BatchableReads)


class AsyncExecutor:
    """The twin of `BlockingExecutor`. Belongs to the event loop in which it is first used.

    Args:
        client: Its pool gives the connections.
        batches: Whether script calls and small reads leave in batches, on a connection that is kept until `close`.
            Else each takes a connection of the pool.
    """

    def __init__(self, client: AsyncClient, *, batches: bool = True) -> None:
        self._pool: Any = client.connection_pool
        self._batches = batches
        self._batcher = CheckBatcher(self._pool)
        self.call = self._batcher.call

    async def run(self, operation: Operation[_T]) -> _T:
        """Reply to what the operation requests until it returns; return its result."""
        try:
            request = next(operation)
            while True:
                try:
                    if self._batches and isinstance(request, _BATCHABLE):
                        reply = await self.call(request)
                    else:
                        reply = await self._execute(request)
                except StoreError as error:
                    request = operation.throw(failure_of(request, error))
                else:
                    request = operation.send(reply)
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            operation.close()

    async def _execute(self, request: Request) -> Any:
        self._batcher.bind_to(asyncio.get_running_loop())
        if isinstance(request, ScriptCall):
            return await self._call_script(request)
        return await self._send(request)

    async def _call_script(self, call: ScriptCall) -> Any:
        try:
            (reply,) = await self._send([call.by_hash()])
        except redis_compat.errors("NoScriptError"):
            (reply,) = await self._send([call.by_source()])
        return reply

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            connection = await connections.acquire(self._pool)
        except redis_compat.client_errors() as error:
            raise error_mapping.before_sending(error) from error
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies = [await self._read(connection) for _ in commands]
        except redis_compat.client_errors() as error:
            await connection.disconnect(nowait=True)
            raise error_mapping.after_sending(error) from error
        except BaseException:
            # Interrupted or cancelled: the reply is still to come, and must not answer the next command.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)
        return error_mapping.replies_to(commands, replies)

    async def close(self) -> None:
        """Return the connection of the batches to the client."""
        await self._batcher.close()

    @staticmethod
    async def _read(connection: Any) -> Any:
        try:
            return await connection.read_response(disable_decoding=True)
        except redis_compat.errors("ResponseError") as error:
            return error  # every reply must be read before the connection is used again
