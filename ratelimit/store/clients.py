"""Clients that suit a limiter: those that `from_url` makes, and the check of those that are passed in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisError
from redis.retry import Retry

from ratelimit import validation
from ratelimit.errors import ConfigError
from ratelimit.store import redis_compat
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.urls import SentinelUrl, cluster_url, sentinel_url, server_url, url_error, validate_url

if TYPE_CHECKING:
    import valkey
    import valkey.asyncio

    # Where valkey-py is not installed, its half is Any to type checkers, and any client passes.
    ServerClient: TypeAlias = redis.Redis | valkey.Valkey
    AsyncServerClient: TypeAlias = redis.asyncio.Redis | valkey.asyncio.Valkey
    Client: TypeAlias = ServerClient | redis.RedisCluster | valkey.ValkeyCluster | ClusterClient
    AsyncClient: TypeAlias = (
        AsyncServerClient | redis.asyncio.RedisCluster | valkey.asyncio.ValkeyCluster | ClusterClient
    )
else:
    ServerClient = Client = redis.Redis
    AsyncServerClient = AsyncClient = redis.asyncio.Redis

MAX_DEADLINE_S = 60
PATIENCE_S = 5.0
"""How long a reply may take an administrator, if the client does not say so."""

UPKEEP_S = 1.0
"""How long a reply may take to what a limiter sends for nobody who waits: charges, sums of denials, leases returned."""

_MAX_CONNECTIONS = 66
"""As many as 64 threads need, a spare one, and one for pushed changes."""


def _options(timeout_s: float) -> dict[str, Any]:
    """Return options for time limits, a pool that waits for a free connection, and RESP2, which needs no HELLO."""
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "timeout": timeout_s,
        "max_connections": _MAX_CONNECTIONS,
        "protocol": 2,
    }


def validate_deadline(deadline: object) -> float:
    """Return a deadline in seconds, as a float; raise ConfigError for what is none."""
    return validation.seconds(deadline, "deadline", MAX_DEADLINE_S)


def client_from_url(url: str, timeout_s: float = PATIENCE_S) -> redis.Redis | ClusterClient:
    """Return a client for `url` that never sends a command twice.

    Args:
        url: May name a time limit of its own.
        timeout_s: How long connecting may take, and each reply.
    """
    options = {**_options(timeout_s), "retry": Retry(NoBackoff(), 0)}
    client: redis.Redis | ClusterClient = _client(
        redis.Redis, redis.BlockingConnectionPool, redis.sentinel.Sentinel, url, options
    )
    return client


def async_client_from_url(url: str, deadline: float) -> redis.asyncio.Redis | ClusterClient:
    """The twin of `client_from_url`."""
    # Checks have their deadline. What else is sent may find Redis busy, and need not give up as soon as they do.
    options = {**_options(max(validate_deadline(deadline), UPKEEP_S)), "retry": AsyncRetry(NoBackoff(), 0)}
    library = redis.asyncio
    client: redis.asyncio.Redis | ClusterClient = _client(
        library.Redis, library.BlockingConnectionPool, library.sentinel.Sentinel, url, options
    )
    return client


def _client(client_class: Any, pool_class: Any, sentinel_class: Any, url: str, options: dict[str, Any]) -> Any:
    by_sentinel, of_cluster = sentinel_url(validate_url(url)), cluster_url(url)
    if by_sentinel is not None:
        client = _client_or_none(lambda: _sentinel_client(sentinel_class, by_sentinel, options))
    elif of_cluster is not None:
        client = _client_or_none(
            lambda: ClusterClient(pool_class.from_url(of_cluster.node, **options), of_cluster.start_nodes)
        )
    else:
        client = _client_or_none(lambda: _server_client(client_class, pool_class, url, options))
    if client is None:
        raise url_error("redis-py cannot read it")
    return client


def _server_client(client_class: Any, pool_class: Any, url: str, options: dict[str, Any]) -> Any:
    url, has_slots = server_url(url)
    client = client_class.from_pool(pool_class.from_url(url, **options))
    if has_slots:
        _enforcing_slots.add(client.connection_pool)
    return client


_enforcing_slots = WeakSet[Any]()
"""The pools of servers that enforce slots behind one address, as their URLs say."""


def enforces_slots(pool: Any) -> bool:
    """Return whether the client of a pool was made by a URL that says `slots=true`: one server, but it has slots."""
    return pool in _enforcing_slots


_cluster_clients: WeakKeyDictionary[Any, ClusterClient] = WeakKeyDictionary()


def cluster_client(client: object) -> ClusterClient | None:
    """Return how to connect to the cluster of a client, the same object each time; None if it is none of a cluster.

    Args:
        client: Any client, blocking or asyncio.
    """
    if isinstance(client, ClusterClient):
        return client
    if not isinstance(client, (*redis_compat.cluster_classes(), *redis_compat.async_cluster_classes())):
        return None
    made = _cluster_clients.get(client)
    return made or _cluster_clients.setdefault(client, _cluster_client(client))


def _cluster_client(client: Any) -> ClusterClient:
    return ClusterClient(
        redis_compat.cluster_pool(client), redis_compat.cluster_nodes(client), redis_compat.cluster_remap(client)
    )


def _client_or_none(make: Callable[[], Any]) -> Any:
    """Return a client; None if redis-py raises. Its error may show the URL, and so must not be the context of ours."""
    try:
        client = make()
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but validates its options
    except (ValueError, TypeError, AttributeError, RedisError, OSError):
        return None
    return client


def _sentinel_client(sentinel_class: Any, url: SentinelUrl, options: dict[str, Any]) -> Any:
    """Return a client of the primary that the Sentinels name. TLS is for connections to it, and to them."""
    parsed = parse_url(url.primary)  # type: ignore[no-untyped-call]
    is_encrypted = parsed.pop("connection_class", None) is not None
    keywords = {**options, **parsed, **({"ssl": True} if is_encrypted else {})}
    for name in ("host", "timeout"):  # nobody's, as the Sentinels name it; and of a pool that waits
        del keywords[name]
    theirs = {name: value for name, value in keywords.items() if name.startswith(("socket_", "ssl")) or name == "retry"}
    theirs |= {"username": url.username, "password": url.password, "protocol": 2}
    return sentinel_class(url.sentinels, sentinel_kwargs=theirs).master_for(url.service, **keywords)


def pool_of(client: Client | AsyncClient) -> Any:
    """Return the pool that says how to connect to the server of a client, or to the nodes of its cluster."""
    return getattr(cluster_client(client) or client, "connection_pool")  # noqa: B009 - a cluster's client has none


def patience_of(pool: Any) -> float:
    """Return for how many seconds an administrator waits for a reply, by the pool of the client."""
    return pool.connection_kwargs.get("socket_timeout") or PATIENCE_S


def place_of(client: Client | AsyncClient) -> Hashable:
    """Return what stands for a client's server, the same for all of its clients as far as one can tell."""
    of_cluster = cluster_client(client)
    if of_cluster is not None:
        return tuple(sorted(of_cluster.start_nodes))
    pool: Any = client.connection_pool  # type: ignore[union-attr]
    keywords = pool.connection_kwargs
    if redis_compat.finds_primary(pool):
        return pool.service_name, keywords.get("db")
    return tuple(keywords.get(name) for name in ("host", "port", "path", "db"))


def validate_client(client: object, purposes: Sequence[str]) -> None:
    """Refuse what is no blocking client, or may not have a connection for each purpose.

    Of a cluster, as many connections are made to each node.
    """
    accepted = "redis.Redis or valkey.Valkey, or a RedisCluster or ValkeyCluster of theirs"
    kinds = (*redis_compat.client_classes(), *redis_compat.cluster_classes())
    _validate(client, kinds, accepted, purposes, is_async=False)


def validate_async_client(client: object, purposes: Sequence[str]) -> None:
    """As `validate_client`, of asyncio: as many connections are made in each event loop."""
    accepted = "redis.asyncio.Redis or valkey.asyncio.Valkey, or a RedisCluster or ValkeyCluster of theirs"
    kinds = (*redis_compat.async_client_classes(), *redis_compat.async_cluster_classes())
    _validate(client, kinds, accepted, purposes, is_async=True)


def _validate(
    client: object, classes: tuple[type, ...], accepted: str, purposes: Sequence[str], *, is_async: bool
) -> None:
    is_made_here = isinstance(client, ClusterClient) and redis_compat.is_async(client.connection_pool) == is_async
    if not (is_made_here or isinstance(client, classes)):
        kind = type(client)
        given = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        given = "class" if isinstance(client, type) else given
        raise ConfigError(f"must be a {accepted}, not a {given}", field="client")
    pool = (cluster_client(client) or client).connection_pool  # type: ignore[attr-defined]
    allowed: int = pool.max_connections
    if allowed < len(purposes):
        raise ConfigError(
            f"its pool allows {allowed} connections, and {len(purposes)} are needed (for {', '.join(purposes)}): "
            "raise max_connections",
            field="client",
        )
    if not getattr(pool, "is_master", True):
        raise ConfigError(
            "reads from replicas, which take no writes: use Sentinel(...).master_for(...)", field="client"
        )
    if redis_compat.finds_primary(pool) and not redis_compat.sentinel_pools(pool):
        raise ConfigError("its Sentinel(...) names no Sentinel: give it at least one (host, port)", field="client")
    # Connects to nothing. An emulator makes its server with the first connection: two threads at once would make two.
    pool.connection_class(**pool.connection_kwargs)
