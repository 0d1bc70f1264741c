"""What differs among versions of redis-py, and in valkey-py: all private attributes and exceptions of theirs.

Tested with the oldest and the newest redis-py that pyproject.toml allows and with valkey-py, each with and without
hiredis (`make compat`). valkey-py is never imported here: where nobody else has, there is no client of it.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import redis
import redis.asyncio
from redis import exceptions

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
    """Return the clients of clusters, of both kinds."""
    blocking = _classes((redis.RedisCluster,), "valkey", "ValkeyCluster")
    return _classes((*blocking, redis.asyncio.RedisCluster), "valkey.asyncio", "ValkeyCluster")


def _classes(of_redis: tuple[type, ...], module: str, name: str) -> tuple[type, ...]:
    of_valkey = getattr(sys.modules.get(module), name, None)
    return of_redis if of_valkey is None else (*of_redis, of_valkey)


def retries_of(client: Any) -> int:
    """Return how often a client repeats a command.

    Private as `Retry._retries` in redis-py before 6 and in valkey-py; public since, as `Retry.get_retries`.
    """
    retry = client.connection_pool.connection_kwargs.get("retry")
    if retry is None:
        return 0
    retries: int = retry.get_retries() if hasattr(retry, "get_retries") else retry._retries
    return retries


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


def _connection_class(pool: Any) -> Any:
    """Return the class of a pool's connections; of Sentinel's, the one that they are made of.

    They find out by themselves whom to connect to, and within no time limit of ours.
    """
    kind = pool.connection_class
    if not hasattr(pool, "sentinel_manager"):
        return kind
    return next(each for each in kind.__mro__ if not each.__module__.endswith("sentinel"))


def _no_retries(pool: Any) -> Any:
    library = "valkey" if any(each.__module__.startswith("valkey") for each in type(pool).__mro__) else "redis"
    is_async = inspect.iscoroutinefunction(pool.connection_class.connect)
    retry = import_module(f"{library}.asyncio.retry" if is_async else f"{library}.retry")
    return retry.Retry(import_module(f"{library}.backoff").NoBackoff(), 0)


@cache
def _nameless(kind: Any) -> dict[str, None]:
    """Return the keywords that keep a connection from telling the server its library's name."""
    keywords = {name for each in kind.__mro__ for name in inspect.signature(each).parameters}
    if "driver_info" in keywords:
        return {"driver_info": None}  # redis-py since 7
    return {"lib_name": None, "lib_version": None}


def get_connection(pool: Any) -> Any:
    """Return a connection of a pool's, or of an asyncio pool an awaitable of one.

    redis-py takes no argument since 5.3; valkey-py wants the name of a command, and ignores it.
    """
    return pool.get_connection("EVALSHA") if _wants_command_name(type(pool).get_connection) else pool.get_connection()


@cache
def _wants_command_name(get_connection: Callable[..., Any]) -> bool:
    parameter = inspect.signature(get_connection).parameters.get("command_name")
    return parameter is not None and parameter.default is inspect.Parameter.empty


# Connections

_PLAIN = {
    (f"{library}.asyncio.{module}", kind)
    for library in ("redis", "valkey")
    for module, kind in (("connection", "AbstractConnection"), ("sentinel", "SentinelManagedConnection"))
}
"""Sentinel's differ in what they do with the refusal of a server that is no primary, which the pipeline sees to."""


def may_read_directly(connection: Any) -> bool:
    """Return whether nothing is lost if an asyncio connection's replies are read without its `read_response`.

    Not so for connections that read in a way of their own (emulators), and for those whose parser cannot be handed what
    was pushed (RESP3 in valkey-py).
    """
    read = type(connection).read_response
    if (read.__module__, read.__qualname__.partition(".")[0]) not in _PLAIN:
        return False
    handler = getattr(connection._parser, "handle_push_response", None)
    return handler is None or _takes_one_push(handler)


def _takes_one_push(handler: Callable[..., Any]) -> bool:
    # The earlier one goes on to read the next reply from the socket.
    return "push_request" not in inspect.signature(handler).parameters


def push_handler(connection: Any) -> Callable[[Any], Any] | None:
    """Return what the connection does with a message that was pushed; of asyncio, it is awaited.

    Private as `_parser.handle_push_response` in redis-py since 6.2. Before, nobody hears of pushes on a connection that
    is read directly; in valkey-py, those that may be pushed to are not.
    """
    return getattr(connection._parser, "handle_push_response", None)


def parse_error_of(connection: Any) -> Callable[[str], Exception]:
    """Return what makes an exception of an error reply. Private as `_parser.parse_error` in all versions."""
    parse_error: Callable[[str], Exception] = connection._parser.parse_error
    return parse_error


def must_be_released(connection: Any) -> bool:
    """Return whether the client waits for a connection to be released, to connect or to authenticate it anew.

    Private as `_re_auth_token` in all versions of redis-py and `_should_reconnect` since 7. valkey-py never waits.
    """
    try:
        return connection._re_auth_token is not None or connection._should_reconnect
    except AttributeError:
        return False


def socket_of(connection: Any) -> Any:
    """Return the socket of a blocking connection: None if it is not connected, or is an emulator's.

    Private as `_sock` in all versions.
    """
    return getattr(connection, "_sock", None)


def stream_has_ended(connection: Any) -> bool:
    """Return whether the stream of an asyncio connection has ended or is being closed, as far as is known.

    Private as `_reader` and `_writer` in all versions; those of emulators are no streams, and never end.
    """
    reader, writer = getattr(connection, "_reader", None), getattr(connection, "_writer", None)
    ended = isinstance(reader, asyncio.StreamReader) and reader.at_eof()
    return ended or (isinstance(writer, asyncio.StreamWriter) and writer.is_closing())


def has_unread_data(connection: Any) -> bool:
    """Return whether something came on an asyncio connection that nobody asked for: a reply too many, or its end.

    Private as `_reader` in all versions, and `StreamReader._buffer` of Python itself.
    """
    reader = getattr(connection, "_reader", None)
    return isinstance(reader, asyncio.StreamReader) and (reader.at_eof() or bool(getattr(reader, "_buffer", None)))


def transport_of(connection: Any) -> asyncio.Transport:
    """Return the transport of an asyncio connection that is connected. Private as `_writer` in all versions."""
    transport: asyncio.Transport = connection._writer.transport
    return transport
