"""Commands of one event loop that are no checks: on a connection of their own, where long replies hold no check up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import Command
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.addresses import Address
from ratelimit.store.aio import polling
from ratelimit.store.aio.endpoint import CONNECT_TIMEOUT_S
from ratelimit.store.aio.finder import AsyncFinder
from ratelimit.store.aio.pipeline.base import Pipeline
from ratelimit.store.aio.pipeline.factory import open_pipeline, set_unless_done
from ratelimit.store.resp import pack


class CommandConnection:
    """Sends commands in the order in which they are given. Belongs to the event loop in which it is made.

    Args:
        pool: The pool of the client, which says how to connect.
        primary: Finds the server to connect to; None where the pool says it.
    """

    def __init__(self, pool: Any, primary: AsyncFinder | None = None) -> None:
        self._pool = pool
        self._primary = primary
        self._silence_s: float = pool.connection_kwargs.get("socket_timeout") or CONNECT_TIMEOUT_S
        self._pipeline: Pipeline | None = None
        self._connecting: asyncio.Task[Pipeline] | None = None
        self._awaited = set[asyncio.Future[list[Any]]]()
        if primary is not None:
            primary.watch(self.move_to)

    async def send(self, commands: Sequence[Command], timeout_s: float | None = None) -> list[Any]:
        """Return the reply to each command, errors in their places.

        Args:
            commands: What to send.
            timeout_s: How long to wait for all of it; None if only silence is bounded, by the client's socket_timeout.
        """
        if not commands:
            return []
        loop = asyncio.get_running_loop()
        end_s = None if timeout_s is None else loop.time() + timeout_s
        pipeline = await self._connected(timeout_s)
        replied: asyncio.Future[list[Any]] = loop.create_future()
        self._awaited.add(replied)
        replied.add_done_callback(self._awaited.discard)
        pipeline.send(pack(commands), len(commands), partial(set_unless_done, replied))
        while True:
            before_s = pipeline.last_arrival_s
            await asyncio.wait([replied], timeout=self._silence_s if end_s is None else max(end_s - loop.time(), 0))
            if replied.done():
                replies = replied.result()
                if isinstance(replies[0], StoreError):
                    raise replies[0]  # the connection failed
                return replies
            if pipeline.is_emulated or (end_s is None and pipeline.last_arrival_s > before_s):
                continue
            error = StoreTimeout(f"Redis sent no answer within {timeout_s or self._silence_s:g} s")
            if end_s is None:
                pipeline.close(error)
            raise error

    async def _connected(self, timeout_s: float | None) -> Pipeline:
        if self._pipeline is not None:
            await polling.next_poll()  # the server may have closed it while nobody used it
        if self._pipeline is not None and not self._pipeline.is_usable:
            self._pipeline.close()
        if self._pipeline is not None:
            return self._pipeline
        if self._connecting is None:
            opening = open_pipeline(self._pool, self._on_lost, CONNECT_TIMEOUT_S, self._primary)
            self._connecting = asyncio.get_running_loop().create_task(opening, name="ratelimit-connect")
            self._connecting.add_done_callback(self._on_connected)
        connecting = self._connecting
        await asyncio.wait([connecting], timeout=timeout_s)
        if not connecting.done():
            raise StoreUnavailable("no connection to Redis: it is still being made")
        try:
            return connecting.result()
        except asyncio.CancelledError:
            raise StoreUnavailable("no connection to Redis: connecting was cancelled") from None
        except redis_compat.client_errors() as error:
            raise error_mapping.before_sending(error) from error

    def _on_connected(self, connecting: asyncio.Task[Pipeline]) -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            if connecting is self._connecting:
                self._pipeline = connecting.result()
            else:
                connecting.result().close()
        if connecting is self._connecting:
            self._connecting = None

    def _on_lost(self, pipeline: Pipeline) -> None:
        if pipeline is self._pipeline:
            self._pipeline = None

    def move_to(self, _address: Address) -> None:
        """Leave the server, as another one is the primary now. What is in flight ends with the cause "deposed"."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._pipeline is not None:
            self._pipeline.close(StoreTimeout("another server is the primary now", cause="deposed"))

    async def drain(self) -> None:
        """Wait until what was sent has its replies, within the client's socket_timeout."""
        if self._awaited:
            await asyncio.wait(self._awaited, timeout=self._silence_s)

    async def close(self) -> None:
        """Close the connection."""
        self.abandon()
        await polling.next_poll()

    def abandon(self) -> None:
        """Close the connection now. Whoever waits for a reply gets an error."""
        if self._connecting is not None and not self._connecting.get_loop().is_closed():
            self._connecting.cancel()
        self._connecting = None
        if self._pipeline is not None:
            self._pipeline.close()


async def send_apart(
    pool: Any, commands: Sequence[Command], patience_s: float, primary: AsyncFinder | None = None
) -> list[Any]:
    """Return the reply to each command, errors in their places. They have a connection of their own, closed here.

    Args:
        pool: The pool of the client, which says how to connect.
        commands: What to send.
        patience_s: For how long the server may wait with replies, on top of the usual time.
        primary: Finds the server to connect to; None where the pool says it.
    """
    try:
        pipeline = await open_pipeline(pool, lambda _: None, CONNECT_TIMEOUT_S, primary)
    except Exception as error:  # whatever a client's own way of connecting raises, there is none
        raise error_mapping.before_sending(error) from error
    try:
        replied: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        pipeline.send(pack(commands), len(commands), partial(set_unless_done, replied))
        await asyncio.wait([replied], timeout=patience_s + CONNECT_TIMEOUT_S)
        if replied.done():
            return replied.result()
        raise StoreTimeout(f"Redis sent no answer within {patience_s + CONNECT_TIMEOUT_S:g} s")
    finally:
        pipeline.close()
