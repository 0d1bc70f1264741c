"""The limiter for blocking code."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self, Unpack

import redis
import redis.asyncio

from ratelimit.catalog import Catalog
from ratelimit.decision import Decision
from ratelimit.errors import StoreError
from ratelimit.limiter.base import DEADLINE, EMBEDDED_DEADLINE, MAX_AGE, Base, Options
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock
from ratelimit.store import clients
from ratelimit.store.blocking.executor import BlockingExecutor
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.store.pubsub import Listener


class Limiter(Base):
    """Decides requests against the limits of their API key's plan, its stage and the account, shared through Redis.

    client     a `redis.Redis`; `from_url` makes one that suits, and closes it
    namespace  prefix of every name in Redis; all replicas of a gateway use the same
    deadline   seconds; `from_url` bounds connecting, each wait for an answer, and the wait for a free connection
    max_age    seconds after which a change of plans or stages is noticed at the latest
    pepper     secret mixed into the digests of key values; the same for all who share the namespace. While one
               replaces another, a list: the new one, then the old
    clock      returns microseconds since 1970 and replaces the server's clock. For tests and replays
    denial_cache  whether a key that is known to be out is refused without asking Redis, until it may pass again

    Safe to share between threads and to use after a fork. Raises ConfigError for arguments that cannot work.
    """

    def __init__(
        self,
        client: clients.Client,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
        denial_cache: bool = True,
    ) -> None:
        super().__init__(namespace, max_age, pepper, clock, deadline, denial_cache=denial_cache)
        clients.validate_client(client)
        self._store = BlockingExecutor(client)
        self._to_close: redis.Redis | None = None
        self.catalog = Catalog._sharing(self._namespace, self._store)
        self._listener = Listener(client, self._namespace.names.changes, self._namespace.on_change_message, self._tick)
        self._namespace.before_refresh = self._listener.start

    @classmethod
    def from_url(cls, url: str, **options: Unpack[Options]) -> Self:
        """Return a limiter with a client of its own, made to be safe: no retries, short timeouts, a pool that waits.

        `url` is redis://, rediss:// or unix://, with options such as `?db=1` as redis-py reads them. Raises
        ConfigError, which shows nothing of it, for what cannot be used.
        """
        client = clients.client_from_url(url, options.get("deadline", DEADLINE))
        limiter = cls(client, **options)
        limiter._to_close = client
        return limiter

    @classmethod
    def embedded(cls, **options: Unpack[Options]) -> Self:
        """Return a limiter on a Valkey server that lives as long as it does: to try things out, and for tests.

        The server ends with this process at the latest, however that ends. Needs the extra `embedded`. Its `url` lets
        other processes of this machine share the server.
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
        cost    units to consume from each limit, a whole number >= 0; 0 is `peek` for a cost of 1

        Never raises for a failing Redis: the decision then says UNAVAILABLE. Raises TypeError or ValueError for a
        cost that is none, TypeError for a key, stage or method that is no text, ConfigError for a wrong pepper.
        """
        checker = self._checker
        try:
            begun = checker.begin(key, stage, method, cost)
            if isinstance(begun, tuple):
                try:
                    reply = self._store.call(begun[0])
                except BaseException:
                    checker.abandon(begun)
                    raise
                outcome = checker.finish(begun, reply)
            elif isinstance(begun, Decision):
                return begun
            else:
                outcome = begun
            decision = outcome if isinstance(outcome, Decision) else self._store.run(outcome)
        except StoreError as error:
            return self._failed(error)
        if self._failing and decision.source == "redis":
            self._recovered()
        return decision

    def peek(self, key: str | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Return what `check` would answer now, and consume nothing. Takes and raises what `check` does."""
        try:
            return self._store.run(self._checker.check(key, stage, method, cost, peek=True))
        except StoreError as error:
            return self._failed(error)

    def _tick(self, *, last: bool = False) -> None:
        with contextlib.suppress(StoreError):
            self._store.run(self._checker.upkeep(last=last))

    def close(self) -> None:
        """Stop listening for changes, and close what `from_url` or `embedded` opened; another's client stays open."""
        self._listener.stop()
        self._tick(last=True)
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
