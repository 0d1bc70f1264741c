"""Flows over asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from ratelimit.effects import BatchableReads, Operation, Request
from ratelimit.errors import StoreError
from ratelimit.scripts import Command, ScriptCall
from ratelimit.store import error_mapping
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.pipeline import factory

_T = TypeVar("_T")
_GATHERED = (ScriptCall, BatchableReads)


class AsyncStore:
    """The twin of `store.sync.Store`. Belongs to the event loop that it is first used in.

    gathers  whether checks leave together, on a connection that is kept until `close`; else all have one of the pool's
    """

    def __init__(self, client: Redis, *, gathers: bool = True) -> None:
        self._pool: Any = client.connection_pool  # redis-py leaves its connections untyped
        self._gathers = gathers
        self._gatherer = CheckBatcher(self._pool)
        self.call = self._gatherer.call

    async def run(self, flow: Operation[_T]) -> _T:
        """Answer what the flow asks until it returns."""
        try:
            request = next(flow)
            while True:
                try:
                    if self._gathers and isinstance(request, _GATHERED):
                        reply = await self.call(request)
                    else:
                        reply = await self._answer(request)
                except StoreError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(reply)
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            flow.close()

    async def _answer(self, request: Request) -> Any:
        self._gatherer.belong_to(asyncio.get_running_loop())
        if isinstance(request, ScriptCall):
            return await self._alone(request)
        return await self._send(request)

    async def _alone(self, call: ScriptCall) -> Any:
        try:
            (reply,) = await self._send([call.by_hash()])
        except NoScriptError:
            (reply,) = await self._send([call.by_source()])
        return reply

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        try:
            connection = await factory.taken(self._pool)
        except (RedisError, OSError) as error:
            raise error_mapping.before_sending(error) from error
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies = [await self._read(connection) for _ in commands]
        except (RedisError, OSError) as error:
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
        """Give the connection that is kept at hand back to the client."""
        await self._gatherer.close()

    @staticmethod
    async def _read(connection: Any) -> Any:
        try:
            return await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            # Kept in its place: every reply must be read before the connection is used again.
            return error
