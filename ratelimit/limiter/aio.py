"""The limiter for asyncio."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Self

import redis.asyncio

from ratelimit import validation
from ratelimit.catalog import AsyncCatalog
from ratelimit.decision import Decision
from ratelimit.errors import OnUnavailable, StoreError
from ratelimit.limiter.base import DEADLINE, EMBEDDED_DEADLINE, LOCAL_MAX_AGE, MAX_AGE, STALE_CATALOGUE_S, LimiterBase
from ratelimit.model import Identity
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock
from ratelimit.store import clients
from ratelimit.store.aio.executor import async_executor_for
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.store.pubsub import AsyncListener

_now_s = time.monotonic
_CONNECTIONS_FOR = "checks and what they read", "a spare one", "everything else", "pushed changes"


class AsyncLimiter(LimiterBase):
    """The twin of `Limiter` for asyncio: the same arguments, the same decisions, awaited.

    Serves any number of event loops, at once in threads or one after the other. It makes four connections in each, as
    its client's pool makes them, and uses none of the pool's: for checks and what they read, a spare one, for all else,
    and for pushed changes. Of a cluster, it makes all but the last to each primary. An asynchronous context manager:
    leaving it closes it, in all loops.

    Attributes:
        catalog: An `AsyncCatalog` of the same namespace on the same connections.
        server: The embedded server; None with any other.
    """

    catalog: AsyncCatalog

    def __init__(
        self,
        client: clients.AsyncClient,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
        denial_cache: bool = True,
        on_unavailable: OnUnavailable = "local",
        replicas: int = 1,
        local_max_age: float = LOCAL_MAX_AGE,
        stale_catalogue_s: float = STALE_CATALOGUE_S,
    ) -> None:
        """Use a client of your own, of `redis.asyncio` or `valkey.asyncio`. See `Limiter` for the arguments."""
        clients.validate_async_client(client, _CONNECTIONS_FOR)
        super().__init__(
            namespace,
            max_age,
            pepper,
            clock,
            deadline,
            clients.place_of(client),
            denial_cache=denial_cache,
            on_unavailable=on_unavailable,
            replicas=replicas,
            local_max_age=local_max_age,
            stale_catalogue_s=stale_catalogue_s,
        )
        self._store = async_executor_for(client, deadline, self._namespace.names.catalog, self._on_new_loop)
        self._namespace.has_slots = self._store.has_slots
        self._checker.leases.awaits_late_replies = True
        self._owned_client: redis.asyncio.Redis | ClusterClient | None = None
        self.catalog = AsyncCatalog._sharing(self._namespace, self._store)
        self.catalog._shared_figures = self._checker.slots.shared.figures
        self._listener = AsyncListener(
            client,
            self._namespace.names.changes,
            self._namespace.on_change_message,
            self._tick,
            self._store.finder,
        )
        self._namespace.before_refresh = self._listener.start

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        namespace: str = "ratelimit",
        deadline: float = DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
        denial_cache: bool = True,
        on_unavailable: OnUnavailable = "local",
        replicas: int = 1,
        local_max_age: float = LOCAL_MAX_AGE,
        stale_catalogue_s: float = STALE_CATALOGUE_S,
    ) -> Self:
        """Return a limiter with a client of its own. See `Limiter.from_url`."""
        client = clients.async_client_from_url(url, deadline)
        limiter = cls(
            client,
            namespace=namespace,
            deadline=deadline,
            max_age=max_age,
            pepper=pepper,
            clock=clock,
            denial_cache=denial_cache,
            on_unavailable=on_unavailable,
            replicas=replicas,
            local_max_age=local_max_age,
            stale_catalogue_s=stale_catalogue_s,
        )
        limiter._owned_client = client
        return limiter

    @classmethod
    def embedded(
        cls,
        *,
        namespace: str = "ratelimit",
        deadline: float = EMBEDDED_DEADLINE,
        max_age: float = MAX_AGE,
        pepper: Peppers = None,
        clock: Clock | None = None,
        denial_cache: bool = True,
        on_unavailable: OnUnavailable = "local",
        replicas: int = 1,
        local_max_age: float = LOCAL_MAX_AGE,
        stale_catalogue_s: float = STALE_CATALOGUE_S,
    ) -> Self:
        """Return a limiter on a Valkey server that lives as long as it does. See `Limiter.embedded`."""
        server = EmbeddedServer()
        limiter = cls.from_url(
            server.url,
            namespace=namespace,
            deadline=deadline,
            max_age=max_age,
            pepper=pepper,
            clock=clock,
            denial_cache=denial_cache,
            on_unavailable=on_unavailable,
            replicas=replicas,
            local_max_age=local_max_age,
            stale_catalogue_s=stale_catalogue_s,
        )
        limiter.server = server
        return limiter

    async def check(self, key: str | Identity | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Decide one request, and count it if every limit that applies admits it. See `Limiter.check`."""
        checker = self._checker
        try:
            begun = checker.begin(key, stage, method, cost)
            if isinstance(begun, tuple):
                started_s = _now_s()
                try:
                    reply = await self._store.call(begun[0], started_s)
                except BaseException as error:
                    checker.abandon(begun, error)
                    raise
                outcome = checker.finish(begun, reply)
            elif isinstance(begun, Decision):
                return begun
            else:
                outcome, started_s = begun, _now_s()
            decision = outcome if isinstance(outcome, Decision) else await self._store.run(outcome, started_s)
        except StoreError as error:
            return self._failed(error, key, stage, method, cost)
        if self._failing and decision.time_us is not None and not decision.degraded:
            self._recovered()
        return decision

    async def peek(self, key: str | Identity | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Return the decision that `check` would make now, and consume nothing. See `Limiter.peek`."""
        try:
            return await self._store.run(self._checker.check(key, stage, method, cost, peek=True), _now_s())
        except StoreError as error:
            return self._failed(error, key, stage, method, cost, peek=True)

    async def _check_shared(
        self, key: str | Identity | None, stage: str, cost: int = 1, *, key_required: bool = True
    ) -> Decision:
        """Decide a request that matched no route, by what all callers share. See `Checker.check_shared`."""
        try:
            begun = self._checker.check_shared(key, stage, cost, key_required=key_required)
            return await self._store.run(begun, _now_s())
        except StoreError as error:
            return self._failed_shared(error, key, stage, cost, key_required=key_required)

    async def warm_up(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - of the whole, connecting in other tasks
        """Connect, load the catalogue and the scripts, and try what checks do, so that the first checks are prompt.

        Args:
            timeout: Seconds in which the connections have to stand.

        Raises:
            StoreUnavailable: They do not; with the reason of the last attempt.
            StoreError: With all that is wrong, and what to do about each.
            ConfigError: The pepper is not the one that the keys were stored with.
        """
        await self._store.wait_connected(validation.seconds(timeout, "timeout"))
        await self._store.run(self._checker.warm_up())

    def _on_new_loop(self) -> None:
        self._namespace.before_refresh()  # listens in this loop, too: the one that loaded the catalogue may end

    async def _tick(self, *, last: bool = False) -> None:
        # Whoever closes a limiter waits for this. While it goes on, nobody does.
        patience_s = clients.UPKEEP_S if last else None
        for operation in self._without_redis.upkeep(last=last):
            with contextlib.suppress(StoreError):
                await self._store.run(operation, patience_s=patience_s)
        with contextlib.suppress(StoreError):
            await self._store.run(self._checker.upkeep(last=last), patience_s=patience_s)

    async def aclose(self) -> None:
        """Stop listening for changes, and close what this limiter opened. See `Limiter.close`."""
        await self._listener.stop()
        await self._tick(last=True)
        await self._store.close()
        if self._owned_client is not None:
            await self._owned_client.aclose()
            self._owned_client = None
        self._stop_server()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
