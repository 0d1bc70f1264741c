"""Clients for the commands of tests, wherever what they touch may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import redis

from ratelimit.effects import Operation, Primaries
from ratelimit.store import redis_compat
from ratelimit.store.addresses import address_of
from ratelimit.store.blocking.executor import executor_for
from ratelimit.store.clients import client_from_url
from ratelimit.store.cluster.client import ClusterClient


@contextmanager
def clients_of_primaries(url: str, timeout_s: float) -> Iterator[list[redis.Redis]]:
    """Yield a client of each primary of the cluster of a URL; of one server, its client alone.

    Args:
        url: The URL of a server or a cluster.
        timeout_s: How long connecting may take, and each reply.

    Raises:
        StoreError: The cluster does not answer.
    """
    with client_from_url(url, timeout_s) as client, ExitStack() as stack:
        if not isinstance(client, ClusterClient):
            yield [client]
            return
        with closing(executor_for(client, timeout_s, catalog_key="")) as executor:
            names = executor.run(_primaries())
        pools = [redis_compat.pool_at(client.connection_pool, address_of(name)) for name in names]
        yield [stack.enter_context(redis.Redis.from_pool(pool)) for pool in pools]


def _primaries() -> Operation[tuple[str, ...]]:
    names: tuple[str, ...] = yield Primaries()
    return names
