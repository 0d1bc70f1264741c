"""The limiter for blocking code."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

import redis

from ratelimit import validation
from ratelimit.catalog import Catalog
from ratelimit.decision import Decision
from ratelimit.errors import OnUnavailable, StoreError
from ratelimit.limiter.base import DEADLINE, EMBEDDED_DEADLINE, LOCAL_MAX_AGE, MAX_AGE, STALE_CATALOGUE_S, LimiterBase
from ratelimit.model import Identity
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock
from ratelimit.store import clients
from ratelimit.store.blocking.executor import executor_for
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.embedded import EmbeddedServer
from ratelimit.store.pubsub import Listener


class Limiter(LimiterBase):
    """Decides requests against the limits of their API key's plan, its stage and the account, shared through Redis.

    Safe to share between threads, and after a fork. A context manager: leaving it closes it.

    Attributes:
        catalog: A `Catalog` of the same namespace on the same connections.
        server: The embedded server; None with any other.
    """

    catalog: Catalog

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
        on_unavailable: OnUnavailable = "local",
        replicas: int = 1,
        local_max_age: float = LOCAL_MAX_AGE,
        stale_catalogue_s: float = STALE_CATALOGUE_S,
    ) -> None:
        """Use a client of your own, which stays yours to close. `from_url` makes one that suits.

        Args:
            client: A `redis.Redis`, or a `valkey.Valkey`; or a `RedisCluster` or `ValkeyCluster`, of which only the
                settings are used.
            namespace: Prefix of every name in Redis; all replicas of a gateway use the same.
            deadline: For how many seconds a check waits for Redis at most, whatever it waits for: a free connection,
                and all replies together. At most 60. The client's own time limits hold for `catalog` alone.
            max_age: Seconds after which a change of plans or stages is noticed at the latest, should its push be lost.
            pepper: Secret that is mixed into the digests of key values, the same for all who share the namespace.
                While one replaces another, a list: the new one, then the old.
            clock: Returns microseconds since 1970, and replaces the server's clock. For tests and replays.
            denial_cache: Whether a key that is known to be out of limit is denied without asking Redis, until it may
                pass again.
            on_unavailable: What becomes of checks while Redis gives no answer, or refuses to; plans and stages may say
                something else. "local": this process decides by its part of the limits, and Redis is charged later.
                "open": they are admitted. "closed": they are answered 503. See docs/how-to/outages.md.
            replicas: How many processes there are at least among which limits are divided then. They are counted
                through Redis; the number matters where one cannot be counted, or before it was.
            local_max_age: For how many seconds without an answer of Redis plans and keys are taken to be what they
                were; then checks are answered 503.
            stale_catalogue_s: On a cluster, for how many seconds checks go on by the plans that are known while the
                server that keeps these does not answer, and others do; then `on_unavailable` decides.

        Raises:
            ConfigError: An argument cannot work.
        """
        clients.validate_client(client, ("checks", "a spare one", "pushed changes"))
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
        self._store = executor_for(client, deadline, catalog_key=self._namespace.names.catalog)
        self._namespace.has_slots = self._store.has_slots
        self._owned_client: redis.Redis | ClusterClient | None = None
        self.catalog = Catalog._sharing(self._namespace, self._store)
        self.catalog._shared_figures = self._checker.slots.shared.figures
        self._listener = Listener(
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
        """Return a limiter with a client of its own, made to be safe: no retries, and connections for 64 threads.

        Args:
            url: redis://, rediss:// or unix://, with options such as `?db=1` as redis-py reads them; or
                redis+sentinel://, rediss+sentinel:// with the Sentinels and the service whose primary they name:
                redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB. `?cluster=true` names nodes of a cluster,
                redis://HOST:PORT,HOST:PORT?cluster=true; `?slots=true` one server that enforces slots.
            namespace: See `Limiter`, as for all that follow.
            deadline: Seconds.
            max_age: Seconds.
            pepper: A secret, or a list of two.
            clock: For tests and replays.
            denial_cache: Whether to deny locally what is known to be out of limit.
            on_unavailable: "local", "open" or "closed".
            replicas: At least 1.
            local_max_age: Seconds.
            stale_catalogue_s: Seconds.

        Raises:
            ConfigError: The URL or an option cannot be used. It shows nothing of the URL.
        """
        client = clients.client_from_url(url, max(clients.validate_deadline(deadline), clients.PATIENCE_S))
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
        """Return a limiter on a Valkey server that lives as long as it does: to try things out, and for tests.

        The server ends with this process at the latest, however that ends. Its `url` lets other processes of this
        machine share it. Needs the extra `embedded`.

        Args:
            namespace: See `Limiter`, as for all that follow.
            deadline: Seconds.
            max_age: Seconds.
            pepper: A secret, or a list of two.
            clock: For tests and replays.
            denial_cache: Whether to deny locally what is known to be out of limit.
            on_unavailable: "local", "open" or "closed".
            replicas: At least 1.
            local_max_age: Seconds.
            stale_catalogue_s: Seconds.

        Raises:
            ConfigError: An option cannot be used, or the extra is not installed.
            StoreUnavailable: The server did not start.
        """
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

    def check(self, key: str | Identity | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Decide one request, and count it if every limit that applies admits it.

        Args:
            key: The API key's value as the caller sent it; None or "" if none was sent; or an `Identity`.
            stage: "<api>/<stage>", such as "petstore/prod".
            method: "<VERB> <path>" as configured, such as "GET /pets/{id}".
            cost: Units to consume from each limit, a whole number >= 0; 0 is `peek` for a cost of 1.

        Returns:
            The decision. A failing Redis does not raise: `on_unavailable` says what the decision is then.

        Raises:
            TypeError: The cost is no whole number, the stage or method is no text, or the key none of the above.
            ValueError: The cost is negative.
            ConfigError: The pepper is not the one that the keys were stored with.
        """
        checker = self._checker
        try:
            begun = checker.begin(key, stage, method, cost)
            started_s = monotonic()
            if isinstance(begun, tuple):
                try:
                    reply = self._store.call(begun[0], started_s)
                except BaseException as error:
                    checker.abandon(begun, error)
                    raise
                outcome = checker.finish(begun, reply)
            elif isinstance(begun, Decision):
                return begun
            else:
                outcome = begun
            decision = outcome if isinstance(outcome, Decision) else self._store.run(outcome, started_s)
        except StoreError as error:
            return self._failed(error, key, stage, method, cost)
        if self._failing and decision.time_us is not None and not decision.degraded:
            self._recovered()
        return decision

    def peek(self, key: str | Identity | None, stage: str, method: str, cost: int = 1) -> Decision:
        """Return the decision that `check` would make now, and consume nothing. See `check`."""
        try:
            return self._store.run(self._checker.check(key, stage, method, cost, peek=True), monotonic())
        except StoreError as error:
            return self._failed(error, key, stage, method, cost, peek=True)

    def _check_shared(
        self, key: str | Identity | None, stage: str, cost: int = 1, *, key_required: bool = True
    ) -> Decision:
        """Decide a request that matched no route, by what all callers share. See `Checker.check_shared`."""
        try:
            begun = self._checker.check_shared(key, stage, cost, key_required=key_required)
            return self._store.run(begun, monotonic())
        except StoreError as error:
            return self._failed_shared(error, key, stage, cost, key_required=key_required)

    def warm_up(self, timeout: float = 5.0) -> None:
        """Connect, load the catalogue and the scripts, and try what checks do. The first check is then a usual one.

        Args:
            timeout: For how many seconds to wait until the server can be connected to.

        Raises:
            StoreError: All that is wrong; StoreUnavailable if the server could not be connected to.
            ConfigError: The pepper is not the one that the keys were stored with.
        """
        self._store.connect(validation.seconds(timeout, "timeout"))
        self._store.run(self._checker.warm_up())

    def _tick(self, *, last: bool = False) -> None:
        for operation in self._without_redis.upkeep(last=last):
            self._store.run_upkeep(operation)
        self._store.run_upkeep(self._checker.upkeep(last=last))

    def close(self) -> None:
        """Stop listening for changes, and close what `from_url` or `embedded` opened; a client of yours stays open.

        What is still to be charged in Redis, or given back, is sent before. While Redis does not answer this takes a
        few seconds: a second for each of its parts. How many charges are lost then is logged.
        """
        self._listener.stop()
        self._tick(last=True)
        self._store.close()
        if self._owned_client is not None:
            self._owned_client.close()
            self._owned_client = None
        self._stop_server()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
