"""What differs among versions of redis-py, and in valkey-py: all private attributes and exceptions of theirs.

Tested with the oldest and the newest redis-py that pyproject.toml allows and with valkey-py, each with and without
hiredis (`make compat`). valkey-py is never imported here: where nobody else has, there is no client of it.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

from ratelimit.store.sentinel import PrimaryTracker

# Exceptions and clients


def redis_errors() -> tuple[type[Exception], ...]:
    """Return the base class of each library's exceptions.

    In an `except` clause it is called only once something was raised: so a library may be imported at any time.
    """
    valkey = sys.modules.get("valkey.exceptions")
    return (exceptions.RedisError,) if valkey is None else (exceptions.RedisError, valkey.ValkeyError)


def client_errors() -> tuple[type[Exception], ...]:
    """Return what a client raises when a command or the network fails."""
    return (*redis_errors(), OSError)


def errors(*names: str) -> tuple[type[Exception], ...]:
    """Return the exceptions of these names, which are the same in each library."""
    modules = (exceptions, sys.modules.get("valkey.exceptions"))
    return tuple(getattr(module, name) for module in modules if module is not None for name in names)


def is_unknown_script(reply: object) -> bool:
    """Return whether a reply says that the server does not know the script of an EVALSHA."""
    return isinstance(reply, Exception) and isinstance(reply, errors("NoScriptError"))


def client_classes() -> tuple[type, ...]:
    """Return the blocking clients."""
    return _classes((redis.Redis,), "valkey", "Valkey")


def async_client_classes() -> tuple[type, ...]:
    """Return the clients for asyncio."""
    return _classes((redis.asyncio.Redis,), "valkey.asyncio", "Valkey")


def cluster_classes() -> tuple[type, ...]:
    """Return the blocking clients of clusters."""
    return _classes((redis.RedisCluster,), "valkey", "ValkeyCluster")


def async_cluster_classes() -> tuple[type, ...]:
    """Return the clients of clusters for asyncio."""
    return _classes((redis.asyncio.RedisCluster,), "valkey.asyncio", "ValkeyCluster")


def _classes(of_redis: tuple[type, ...], module: str, name: str) -> tuple[type, ...]:
    of_valkey = getattr(sys.modules.get(module), name, None)
    return of_redis if of_valkey is None else (*of_redis, of_valkey)


# Pools


_NOT_OURS = {
    "connection_pool",  # Sentinel's: whoever connects asks it for the address
    "event_dispatcher",
    "himport_registry",
    "maint_notifications_config",
    "maint_notifications_pool_handler",
    "maintenance_notification_hash",
    "maintenance_state",
    "oss_cluster_maint_notifications_handler",
    "orig_host_address",
    "orig_socket_connect_timeout",
    "orig_socket_timeout",
    "parser_class",
    "retry_on_error",
    "retry_on_timeout",
}
"""Of the keywords of a pool's connections, those that serve the pool, or a way of reading that is not ours."""


def new_connection(pool: Any, timeout_s: float | None, address: tuple[str, int] | None = None) -> Any:
    """Return a connection as the pool makes them, but outside of it, and not connected.

    It speaks RESP2, does not repeat anything, and does not introduce itself: that would take round trips.

    Args:
        pool: The pool of a client, blocking or asyncio.
        timeout_s: Seconds that connecting may take, and each reply while it connects; None for any time.
        address: Host and port, instead of the pool's: of a primary that a Sentinel named.
    """
    keywords = {name: value for name, value in pool.connection_kwargs.items() if name not in _NOT_OURS}
    keywords |= {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": _no_retries(pool),
        "health_check_interval": 0,
        "protocol": 2,
        **_nameless(pool.connection_class),
    }
    if address is not None:
        keywords["host"], keywords["port"] = address
    return _connection_class(pool)(**keywords)


def retries_of(pool: Any) -> int:
    """Return how often a client repeats a command that failed: private as `Retry._retries` in all versions."""
    connection = pool.connection_class(**pool.connection_kwargs)  # connects to nothing
    return int(getattr(getattr(connection, "retry", None), "_retries", 0))


def finds_primary(pool: Any) -> bool:
    """Return whether a pool gets the address of its server from Sentinels."""
    return hasattr(pool, "sentinel_manager")


def sentinel_pools(pool: Any) -> list[Any]:
    """Return the pools of the clients by which such a pool queries them."""
    return [client.connection_pool for client in pool.sentinel_manager.sentinels]


def primary_tracker(pool: Any) -> PrimaryTracker:
    """Return a tracker for the service of such a pool, and its Sentinels in the order of `sentinel_pools`.

    The host that stands for that of any primary is private as `Sentinel._force_master_ip` in redis-py since 5.3;
    valkey-py has no such thing.
    """
    manager = pool.sentinel_manager
    return PrimaryTracker(
        pool.service_name,
        [_shown_address(each.connection_kwargs) for each in sentinel_pools(pool)],
        min_other_sentinels=manager.min_other_sentinels,
        forced_host=getattr(manager, "_force_master_ip", None),
    )


def cluster_pool(client: Any) -> Any:
    """Return a pool that connects to a node as a client of a cluster does, blocking or asyncio. It is used by nobody.

    Blocking clients make one of `nodes_manager.connection_kwargs` for each node, by a method that is named after the
    library. The nodes of asyncio clients hold their keywords themselves.
    """
    manager = client.nodes_manager
    node = next(iter(manager.startup_nodes.values()))
    if isinstance(client, cluster_classes()):
        create_node = getattr(manager, "create_redis_node", None) or manager.create_valkey_node
        pool = create_node(node.host, node.port, **manager.connection_kwargs).connection_pool
    else:
        library = type(node).__module__.partition(".")[0]
        kind = import_module(f"{library}.asyncio.connection").ConnectionPool
        keywords = {name: value for name, value in node.connection_kwargs.items() if name not in _NOT_OURS}
        pool = kind(connection_class=node.connection_class, max_connections=node.max_connections, **keywords)
    # Has connections read from replicas, by a parser of the cluster client's own.
    pool.connection_kwargs.pop("redis_connect_func", None)
    pool.connection_kwargs.pop("valkey_connect_func", None)
    return pool


def pool_at(pool: Any, address: tuple[str, int]) -> Any:
    """Return a pool as this one, of another server. It has no connections of its own."""
    keywords = {**pool.connection_kwargs, "host": address[0], "port": address[1]}
    library = f"{_library(pool)}.asyncio" if is_async(pool) else _library(pool)
    kind = import_module(f"{library}.connection").ConnectionPool
    return kind(connection_class=pool.connection_class, max_connections=pool.max_connections, **keywords)


def cluster_nodes(client: Any) -> tuple[tuple[str, int], ...]:
    """Return host and port of the first nodes of a client of a cluster."""
    return tuple((str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values())


def cluster_remap(client: Any) -> Callable[[tuple[str, int]], tuple[str, int]] | None:
    """Return what gives the addresses at which such a client reaches nodes, where the cluster reports others."""
    remap: Callable[[tuple[str, int]], tuple[str, int]] | None = getattr(client.nodes_manager, "address_remap", None)
    return remap


def _shown_address(keywords: dict[str, Any]) -> str:
    host = str(keywords.get("host", "localhost"))
    return f"[{host}]:{keywords.get('port')}" if ":" in host else f"{host}:{keywords.get('port')}"


def _connection_class(pool: Any) -> Any:
    """Return the class of a pool's connections; of Sentinel's, the one that they are made of.

    They find out by themselves whom to connect to, and within no time limit of ours.
    """
    kind = pool.connection_class
    if not finds_primary(pool):
        return kind
    return next(each for each in kind.__mro__ if not each.__module__.endswith("sentinel"))


def _library(pool: Any) -> str:
    return "valkey" if any(each.__module__.startswith("valkey") for each in type(pool).__mro__) else "redis"


def is_async(pool: Any) -> bool:
    """Return whether a pool's connections are those of asyncio."""
    return inspect.iscoroutinefunction(pool.connection_class.connect)


def _no_retries(pool: Any) -> Any:
    library = _library(pool)
    retry = import_module(f"{library}.asyncio.retry" if is_async(pool) else f"{library}.retry")
    return retry.Retry(import_module(f"{library}.backoff").NoBackoff(), 0)


@cache
def _nameless(kind: Any) -> dict[str, None]:
    """Return the keywords that keep a connection from telling the server its library's name."""
    keywords = {name for each in kind.__mro__ for name in inspect.signature(each).parameters}
    if "driver_info" in keywords:
        return {"driver_info": None}  # redis-py since 7
    return {"lib_name": None, "lib_version": None}


# Connections


def parse_error_of(connection: Any) -> Callable[[str], Exception]:
    """Return what makes an exception of an error reply. Private as `_parser.parse_error` in all versions."""
    parse_error: Callable[[str], Exception] = connection._parser.parse_error
    return parse_error


def socket_of(connection: Any) -> Any:
    """Return the socket of a blocking connection: None if it is not connected, or is an emulator's.

    Private as `_sock` in all versions.
    """
    return getattr(connection, "_sock", None)


def is_stream(connection: Any) -> bool:
    """Return whether an asyncio connection that is connected is one over a network; an emulator's is none.

    Private as `_writer` in all versions.
    """
    return isinstance(getattr(connection, "_writer", None), asyncio.StreamWriter)


def transport_of(connection: Any) -> asyncio.Transport:
    """Return the transport of an asyncio connection that is connected. Private as `_writer` in all versions."""
    transport: asyncio.Transport = connection._writer.transport
    return transport


def unread_data_of(connection: Any) -> bytes:
    """Return what came on an asyncio connection while it connected, and was not read.

    Private as `_reader` in all versions, and `StreamReader._buffer` of Python itself.
    """
    return bytes(connection._reader._buffer)


def forget_transport(connection: Any) -> None:
    """Have an asyncio connection end without waiting: the transport closes now, if it was not taken over and closed.

    Private as `_reader` and `_writer` in all versions; the connection would warn of them when it is destroyed.
    """
    abort(connection)
    connection._reader = connection._writer = None


def abort(connection: Any) -> None:
    """End an asyncio connection at once; whoever reads from it finds that out."""
    if is_stream(connection):
        _abort(transport_of(connection))


def _abort(transport: asyncio.Transport) -> None:
    """Close a transport at once: TLS would say goodbye for seconds.

    Where its loop was closed before, nobody else closes the socket: `_sock` of transports of Python itself, which would
    warn of it, and `TransportSocket._sock`.
    """
    try:
        transport.abort()
    except AttributeError:
        return  # Python 3.11.2, of a transport over TLS that is closed
    except RuntimeError:
        sock = getattr(transport.get_extra_info("socket"), "_sock", None)
        if sock is not None:
            sock.close()
        if hasattr(transport, "_sock"):
            transport._sock = None


TOO_MANY_CLIENTS = "max number of clients"
"""What a server says that takes no more clients, before it closes the connection."""


def is_without_room(reply: object) -> bool:
    """Return whether a reply says that the server takes no more clients."""
    return isinstance(reply, Exception) and TOO_MANY_CLIENTS in str(reply)


async def read_reply(connection: Any) -> Any:
    """Return the next reply on an asyncio connection, read by its client: a text as bytes, an error as an exception."""
    try:
        return await connection.read_response(disable_decoding=True)
    except errors("ResponseError") as error:
        return error  # every reply must be read before the connection is used again


# Subscriptions


@contextmanager
def new_pubsub(pool: Any, address: tuple[str, int] | None = None) -> Iterator[Any]:
    """Yield a pubsub that connects as a pool does, on a pool of its own, and close its connection at once afterwards.

    A client whose handshake fails may leave the connection open in that pool: it is private as
    `_available_connections` and `_in_use_connections` in all versions of the pools of asyncio.

    Args:
        pool: The pool of a client, blocking or asyncio.
        address: Host and port, instead of the pool's: of a primary that a Sentinel named.
    """
    library = f"{_library(pool)}.asyncio" if is_async(pool) else _library(pool)
    keywords = {name: value for name, value in pool.connection_kwargs.items() if name != "connection_pool"}
    if address is not None:
        keywords["host"], keywords["port"] = address
    kind = import_module(f"{library}.connection").ConnectionPool
    own_pool = kind(connection_class=_connection_class(pool), max_connections=1, **keywords)
    try:
        yield import_module(f"{library}.client").PubSub(own_pool)
    finally:
        if not is_async(pool):
            own_pool.disconnect()
        else:
            for connection in (*own_pool._available_connections, *own_pool._in_use_connections):
                forget_transport(connection)
