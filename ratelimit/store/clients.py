"""Clients that suit a limiter: those that `from_url` makes, and the check of those that are passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ratelimit.errors import ConfigError
from ratelimit.store import redis_compat
from ratelimit.store.urls import url_error, validate_url

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
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline <= MAX_DEADLINE_S:
        raise ConfigError(f"must be seconds above 0, at most {MAX_DEADLINE_S}, not {deadline!r}", field="deadline")
    return float(deadline)


def client_from_url(url: str, timeout_s: float = PATIENCE_S) -> redis.Redis:
    """Return a client for `url` (redis://, rediss://, unix://) that never sends a command twice.

    Args:
        url: May name a time limit of its own.
        timeout_s: How long connecting may take, and each reply.
    """
    options = {**_options(timeout_s), "retry": Retry(NoBackoff(), 0)}
    return redis.Redis.from_pool(_pool(redis.BlockingConnectionPool.from_url, url, options))


def async_client_from_url(url: str, deadline: float) -> redis.asyncio.Redis:
    """The twin of `client_from_url`."""
    options = {**_options(validate_deadline(deadline)), "retry": AsyncRetry(NoBackoff(), 0)}
    return redis.asyncio.Redis.from_pool(_pool(redis.asyncio.BlockingConnectionPool.from_url, url, options))


def _pool(make: Callable[..., Any], url: str, options: dict[str, Any]) -> Any:
    validate_url(url)
    pool = _pool_or_none(make, url, options)
    if pool is None:
        raise url_error("redis-py cannot read it")
    return pool


def _pool_or_none(make: Callable[..., Any], url: str, options: dict[str, Any]) -> Any:
    """Return a pool; None if redis-py raises. Its error may show the URL, and so must not be the context of ours."""
    try:
        pool = make(url, **options)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but validates its options
    except (ValueError, TypeError, AttributeError, RedisError, OSError):
        return None
    return pool


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
    allowed: int = client.connection_pool.max_connections  # type: ignore[attr-defined]
    if allowed < len(purposes):
        raise ConfigError(
            f"its pool allows {allowed} connections, and {len(purposes)} are needed (for {', '.join(purposes)}): "
            "raise max_connections",
            field="client",
        )
