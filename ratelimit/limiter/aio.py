"""The limiter for asyncio."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self, Unpack

import redis
import redis.asyncio

from ratelimit.catalog import AsyncCatalog
from ratelimit.core.admitted import Admitted
from ratelimit.core.digest import Peppers
from ratelimit.core.question import Question
from ratelimit.core.state import Clock
from ratelimit.decision import Decision
from ratelimit.errors import StoreError
from ratelimit.limiter.base import DEADLINE, EMBEDDED_DEADLINE, MAX_AGE, Base, Options
from ratelimit.store import connect
from ratelimit.store.aio import AsyncStore
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.store.push import AsyncListener


class AsyncLimiter(Base):
    """The twin of `Limiter` for asyncio: the same arguments, the same answers, awaited.

    Belongs to the event loop in which it is first used. Its client's pool needs room for three connections: for
    checks and what they read, for everything else, and for changes that are pushed.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
        denial_cache: bool = True,
    ) -> None:
        super().__init__(namespace, max_age, pepper, clock, deadline, denial_cache=denial_cache)
        connect.look_at(client, redis.asyncio.Redis)
        self._store = AsyncStore(client)
        self._to_close: redis.asyncio.Redis | None = None
        self.catalog = AsyncCatalog._sharing(self._state, self._store)
        self._listener = AsyncListener(client, self._state.names.changes, self._state.heard, self._tick)
        self._state.before_refresh = self._listener.start

    @classmethod
    def from_url(cls, url: str, **options: Unpack[Options]) -> Self:
        """As `Limiter.from_url`."""
        client = connect.async_client_from_url(url, options.get("deadline", DEADLINE))
        limiter = cls(client, **options)
        limiter._to_close = client
        return limiter

    @classmethod
    def embedded(cls, **options: Unpack[Options]) -> Self:
        """As `Limiter.embedded`."""
        server = EmbeddedServer()
        options.setdefault("deadline", EMBEDDED_DEADLINE)
        limiter = cls.from_url(server.url, **options)
        limiter.server = server
        return limiter

    async def check(self, key: str | None, stage: str, method: str, cost: int = 1) -> Decision:
        """As `Limiter.check`."""
        state, checker, store = self._state, self._checker, self._store
        try:
            now_us = state.age_us()
            asked = checker.at_hand(key, stage, method, cost, now_us)
            if type(asked) is Question:
                cache = checker.cache
                places = cache.take(asked, now_us) if cache.keeps else None
                try:
                    reply = await store.call(asked.put(state, cost))
                except BaseException:
                    cache.lose(asked)
                    raise
                if type(reply) is bytes and len(reply) == asked.call.joined_size:
                    decision: Decision = Admitted(asked.call, reply)
                    if cache.keeps:
                        cache.note(asked, places, reply, now_us)
                else:
                    cache.note(asked, places, reply, now_us)
                    denied = checker.denied(asked, reply, cost)
                    if denied is None:
                        decision = await store.run(checker.go_on(key or "", stage, method, cost, asked, reply))
                    else:
                        decision = denied
            elif asked is None:
                decision = await store.run(checker.check(key, stage, method, cost))
            else:
                return asked
        except StoreError as error:
            return self._failed(error)
        if self._failing:
            self._succeeded()
        return decision

    async def peek(self, key: str | None, stage: str, method: str, cost: int = 1) -> Decision:
        """As `Limiter.peek`."""
        try:
            return await self._store.run(self._checker.check(key, stage, method, cost, peek=True))
        except StoreError as error:
            return self._failed(error)

    async def _tick(self, *, last: bool = False) -> None:
        with contextlib.suppress(StoreError):
            await self._store.run(self._checker.upkeep(last=last))

    async def aclose(self) -> None:
        """As `Limiter.close`."""
        await self._listener.stop()
        await self._tick(last=True)
        await self._store.close()
        if self._to_close is not None:
            await self._to_close.aclose()
            self._to_close = None
        self._stop_server()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
