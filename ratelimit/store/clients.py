"""Clients that are safe for a limiter, and a look at clients that others made."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ratelimit.errors import ConfigError
from ratelimit.store.urls import MOST_S, checked_url, unusable

CONNECTIONS = 32


def _options(deadline: float) -> dict[str, Any]:
    """Short timeouts, a pool that waits instead of failing, RESP2 (our replies are integers: no HELLO needed)."""
    return {
        "socket_timeout": deadline,
        "socket_connect_timeout": deadline,
        "timeout": deadline,
        "max_connections": CONNECTIONS,
        "protocol": 2,
    }


def checked_deadline(deadline: object) -> float:
    """Return the deadline in seconds."""
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline <= MOST_S:
        raise ConfigError(f"must be seconds above 0, at most {MOST_S} (24 days), not {deadline!r}", field="deadline")
    return float(deadline)


def client_from_url(url: str, deadline: float) -> redis.Redis:
    """Return a client for `url` (redis://, rediss://, unix://) that never sends a command twice."""
    options = {**_options(checked_deadline(deadline)), "retry": Retry(NoBackoff(), 0)}
    return redis.Redis.from_pool(_pool(redis.BlockingConnectionPool.from_url, url, options))


def async_client_from_url(url: str, deadline: float) -> redis.asyncio.Redis:
    """The twin of `client_from_url`."""
    options = {**_options(checked_deadline(deadline)), "retry": AsyncRetry(NoBackoff(), 0)}
    return redis.asyncio.Redis.from_pool(_pool(redis.asyncio.BlockingConnectionPool.from_url, url, options))


def _pool(make: Callable[..., Any], url: str, options: dict[str, Any]) -> Any:
    checked_url(url)
    pool = _made(make, url, options)
    if pool is None:
        raise unusable("redis-py cannot read it")
    return pool


def _made(make: Callable[..., Any], url: str, options: dict[str, Any]) -> Any:
    """Return a pool, None where redis-py refuses. Its error may show the URL, so that none goes along with ours."""
    try:
        pool = make(url, **options)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but looks at its options
    except (ValueError, TypeError, AttributeError, RedisError, OSError):
        return None
    return pool


def validate_client(client: object, kind: type) -> None:
    """Refuse a client of the wrong kind, and warn of one that retries."""
    if isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster):
        raise ConfigError(
            "a cluster client cannot be used yet: shared limits live in other slots than the key's. "
            "Use one Redis (with Sentinel, if it must fail over)",
            field="client",
        )
    if not isinstance(client, kind):
        name = f"{kind.__module__.split('.client')[0]}.Redis"
        raise ConfigError(f"must be a {name}, not {type(client).__name__}", field="client")
    retry = getattr(client, "connection_pool").connection_kwargs.get("retry")  # noqa: B009 - not typed
    if retry is not None and retry._retries != 0:
        warnings.warn(
            f"this client retries {retry._retries} times: with Redis down, a check waits for all of them. Checks are "
            "never sent twice, but build the client with retry=Retry(NoBackoff(), 0), or use from_url",
            stacklevel=3,
        )
