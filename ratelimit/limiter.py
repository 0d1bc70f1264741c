"""The limiter and its asyncio twin."""

from __future__ import annotations

import contextlib
import logging
from types import TracebackType
from typing import Self, TypedDict, Unpack

import redis
import redis.asyncio

from ratelimit.catalog import AsyncCatalog, Catalog
from ratelimit.core.checking import Checker, unavailable
from ratelimit.core.digest import Peppers
from ratelimit.core.state import Clock, Namespace
from ratelimit.core.validate import shown
from ratelimit.decision import Decision
from ratelimit.errors import ConfigError, StoreError
from ratelimit.store import connect
from ratelimit.store.aio import AsyncStore
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.store.push import AsyncListener, Listener
from ratelimit.store.sync import Store

log = logging.getLogger("ratelimit")

DEADLINE = 0.05
EMBEDDED_DEADLINE = 1.0
MAX_AGE = 5.0


class Options(TypedDict, total=False):
    """The keywords of a limiter; see `Limiter`."""

    namespace: str
    deadline: float
    max_age: float
    pepper: Peppers
    clock: Clock | None


class _Base:
    """What the twins share: all but the waiting."""

    def __init__(self, namespace: str, max_age: float, pepper: Peppers, clock: Clock | None, deadline: float) -> None:
        if isinstance(max_age, bool) or not isinstance(max_age, int | float) or not max_age > 0:
            raise ConfigError(f"must be seconds above 0, not {shown(max_age)}", field="max_age")
        connect.checked_deadline(deadline)
        if clock is not None and not callable(clock):
            raise ConfigError("must be a callable that returns microseconds since 1970", field="clock")
        self._state = Namespace(namespace, pepper, clock)
        self._checker = Checker(self._state, max_age)
        self._failing = False
        self.server: EmbeddedServer | None = None

    @property
    def url(self) -> str | None:
        """Of the embedded server; None with any other."""
        return self.server.url if self.server else None

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _failed(self, error: StoreError) -> Decision:
        if not self._failing:
            log.warning("checks are refused with 503 until Redis answers again: %s: %s", type(error).__name__, error)
            self._failing = True
        return unavailable(error)

    def _succeeded(self) -> None:
        if self._failing:
            log.warning("Redis answers again")
            self._failing = False


class Limiter(_Base):
    """Decides requests against the limits of their API key's plan, its stage and the account, shared through Redis.

    client     a `redis.Redis`; `from_url` makes one that suits, and closes it
    namespace  prefix of every name in Redis; all replicas of a gateway use the same
    deadline   seconds; `from_url` bounds connecting, each wait for an answer, and the wait for a free connection
    max_age    seconds after which a change of plans or stages is noticed at the latest
    pepper     secret mixed into the digests of key values; the same for all who share the namespace. While one
               replaces another, a list: the new one, then the old
    clock      returns microseconds since 1970 and replaces the server's clock. For tests and replays

    Safe to share between threads and to use after a fork. Raises ConfigError for arguments that cannot work.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(namespace, max_age, pepper, clock, deadline)
        connect.look_at(client, redis.Redis)
        self._store = Store(client)
        self._to_close: redis.Redis | None = None
        self.catalog = Catalog._sharing(self._state, self._store)
        self._listener = Listener(client, self._state.names.changes, self._state.changed, self._tick)
        self._state.before_refresh = self._listener.start

    @classmethod
    def from_url(cls, url: str, **options: Unpack[Options]) -> Self:
        """Return a limiter with a client of its own, made to be safe: no retries, short timeouts, a pool that waits.

        `url` is redis://, rediss:// or unix://, with options as redis-py reads them.
        """
        client = connect.client_from_url(url, options.get("deadline", DEADLINE))
        limiter = cls(client, **options)
        limiter._to_close = client
        return limiter

    @classmethod
    def embedded(cls, **options: Unpack[Options]) -> Self:
        """Return a limiter on a Valkey server that lives as long as it does: to try things out, and for tests.

        Needs the extra `embedded`. Its `url` lets other processes of this machine share the server.
        """
        server = EmbeddedServer()
        options.setdefault("deadline", EMBEDDED_DEADLINE)
        limiter = cls.from_url(server.url, **options)
        limiter.server = server
        return limiter

    def check(self, key: str | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Decide one request, and count it if every limit that applies admits it.

        key     the API key's value as the caller sent it; None or "" if none was sent
        stage   "<api>/<stage>", such as "petstore/prod"
        method  "<VERB> <path>" as configured, such as "GET /pets/{id}"
        cost    units to consume from each limit, a whole number >= 0; 0 is `peek`

        Never raises for a failing Redis: the decision then says UNAVAILABLE. Raises TypeError or ValueError for a
        cost that is none, TypeError for a key, stage or method that is no text, ConfigError for a wrong pepper.
        """
        try:
            decision = self._store.run(self._checker.check(key, stage, method, cost))
        except StoreError as error:
            return self._failed(error)
        self._succeeded()
        return decision

    def peek(self, key: str | None, stage: str, method: str) -> Decision:
        """Return what `check` would answer now to a request of cost 1, and consume nothing."""
        return self.check(key, stage, method, cost=0)

    def _tick(self) -> None:
        with contextlib.suppress(StoreError):
            self._store.run(self._checker.denials.flush())

    def close(self) -> None:
        """Stop listening for changes, and close what `from_url` or `embedded` opened; another's client stays open."""
        self._listener.stop()
        self._tick()
        self._store.close()
        if self._to_close is not None:
            self._to_close.close()
            self._to_close = None
        self._stop_server()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncLimiter(_Base):
    """The twin of `Limiter` for asyncio: the same arguments, the same answers, awaited."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(namespace, max_age, pepper, clock, deadline)
        connect.look_at(client, redis.asyncio.Redis)
        self._store = AsyncStore(client)
        self._to_close: redis.asyncio.Redis | None = None
        self.catalog = AsyncCatalog._sharing(self._state, self._store)
        self._listener = AsyncListener(client, self._state.names.changes, self._state.changed, self._tick)
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
        try:
            decision = await self._store.run(self._checker.check(key, stage, method, cost))
        except StoreError as error:
            return self._failed(error)
        self._succeeded()
        return decision

    async def peek(self, key: str | None, stage: str, method: str) -> Decision:
        """As `Limiter.peek`."""
        return await self.check(key, stage, method, cost=0)

    async def _tick(self) -> None:
        with contextlib.suppress(StoreError):
            await self._store.run(self._checker.denials.flush())

    async def aclose(self) -> None:
        """As `Limiter.close`."""
        await self._listener.stop()
        await self._tick()
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
