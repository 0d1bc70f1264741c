"""Clients that suit a limiter: those that `from_url` makes, and the check of those that are passed in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

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
from ratelimit.store.urls import SentinelUrl, sentinel_url, url_error, validate_url

if TYPE_CHECKING:
    import valkey
    import valkey.asyncio

    # Where valkey-py is not installed, its half is Any to type checkers, and any client passes.
    Client: TypeAlias = redis.Redis | valkey.Valkey
    AsyncClient: TypeAlias = redis.asyncio.Redis | valkey.asyncio.Valkey
else:
    Client, AsyncClient = redis.Redis, redis.asyncio.Redis

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


def client_from_url(url: str, timeout_s: float = PATIENCE_S) -> redis.Redis:
    """Return a client for `url` that never sends a command twice.

    Args:
        url: May name a time limit of its own.
        timeout_s: How long connecting may take, and each reply.
    """
    options = {**_options(timeout_s), "retry": Retry(NoBackoff(), 0)}
    client: redis.Redis = _client(redis.Redis, redis.BlockingConnectionPool, redis.sentinel.Sentinel, url, options)
    return client


def async_client_from_url(url: str, deadline: float) -> redis.asyncio.Redis:
    """The twin of `client_from_url`."""
    # Checks have their deadline. What else is sent may find Redis busy, and need not give up as soon as they do.
    options = {**_options(max(validate_deadline(deadline), UPKEEP_S)), "retry": AsyncRetry(NoBackoff(), 0)}
    library = redis.asyncio
    client: redis.asyncio.Redis = _client(
        library.Redis, library.BlockingConnectionPool, library.sentinel.Sentinel, url, options
    )
    return client


def _client(client_class: Any, pool_class: Any, sentinel_class: Any, url: str, options: dict[str, Any]) -> Any:
    by_sentinel = sentinel_url(validate_url(url))
    if by_sentinel is None:
        client = _client_or_none(lambda: client_class.from_pool(pool_class.from_url(url, **options)))
    else:
        client = _client_or_none(lambda: _sentinel_client(sentinel_class, by_sentinel, options))
    if client is None:
        raise url_error("redis-py cannot read it")
    return client


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


def place_of(client: Client | AsyncClient) -> Hashable:
    """Return what stands for a client's server, the same for all of its clients as far as one can tell."""
    pool: Any = client.connection_pool
    keywords = pool.connection_kwargs
    if redis_compat.finds_primary(pool):
        return pool.service_name, keywords.get("db")
    return tuple(keywords.get(name) for name in ("host", "port", "path", "db"))


def validate_client(client: object, purposes: Sequence[str]) -> None:
    """Refuse what is no blocking client of a single Redis, or may not have a connection for each purpose."""
    _validate(client, redis_compat.client_classes(), "redis.Redis or valkey.Valkey", purposes)


def validate_async_client(client: object, purposes: Sequence[str]) -> None:
    """As `validate_client`, of asyncio: as many connections are made in each event loop."""
    _validate(client, redis_compat.async_client_classes(), "redis.asyncio.Redis or valkey.asyncio.Valkey", purposes)


def _validate(client: object, classes: tuple[type, ...], accepted: str, purposes: Sequence[str]) -> None:
    if isinstance(client, redis_compat.cluster_classes()):
        raise ConfigError(
            "a cluster client cannot be used yet: shared limits live in other slots than the key's. "
            "Use one Redis (with Sentinel, if it must fail over)",
            field="client",
        )
    if not isinstance(client, classes):
        kind = type(client)
        given = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        given = "class" if isinstance(client, type) else given
        raise ConfigError(f"must be a {accepted}, not a {given}", field="client")
    pool = client.connection_pool  # type: ignore[attr-defined]
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
