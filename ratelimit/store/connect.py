"""Clients that are safe for a limiter, and a look at clients that others made."""

from __future__ import annotations

import warnings
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelimit.errors import ConfigError

CONNECTIONS = 32
_MOST_S = 2**31 // 1000 - 1
"""The most that Python waits for a socket: beyond, the milliseconds do not fit, and it waits for less or for ever."""


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
    if isinstance(deadline, bool) or not isinstance(deadline, int | float) or not 0 < deadline <= _MOST_S:
        raise ConfigError(f"must be seconds above 0, at most {_MOST_S} (24 days), not {deadline!r}", field="deadline")
    return float(deadline)


def client_from_url(url: str, deadline: float) -> redis.Redis:
    """Return a client for `url` (redis://, rediss://, unix://) that never sends a command twice."""
    options = {**_options(checked_deadline(deadline)), "retry": Retry(NoBackoff(), 0)}
    try:
        pool = redis.BlockingConnectionPool.from_url(url, **options)
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but finds options that do not exist
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cannot be used: {error}", field="url") from None
    return redis.Redis.from_pool(pool)


def async_client_from_url(url: str, deadline: float) -> redis.asyncio.Redis:
    """The twin of `client_from_url`."""
    options = {**_options(checked_deadline(deadline)), "retry": AsyncRetry(NoBackoff(), 0)}
    try:
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, **options)
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"cannot be used: {error}", field="url") from None
    return redis.asyncio.Redis.from_pool(pool)


def look_at(client: object, kind: type) -> None:
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
