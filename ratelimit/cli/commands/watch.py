"""`ratelimit watch`: print quota alerts as they arrive."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from redis import Redis, RedisCluster, SSLConnection
from redis.cluster import ClusterNode
from redis.exceptions import RedisError, ResponseError

from ratelimit import validation
from ratelimit.admin.alerts import Alert, alert_from
from ratelimit.cli import options, output
from ratelimit.cli.connection import Connection, connection_options
from ratelimit.effects import text
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.store import clients, error_mapping
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.validation import printable

_BLOCK_SECONDS = 1.0
"""How long one read waits on the server for new alerts."""

_BATCH = 100
_Entry = tuple[bytes, dict[bytes, bytes] | None]
_Client = Redis | RedisCluster


@click.command(short_help="Print quota alerts as they arrive.", epilog="Example: ratelimit watch --from-start --json")
@click.option("--from-start", is_flag=True, help="Start with the alerts that are stored, not only new ones.")
@click.option("--group", metavar="NAME", help="Read as a member of this consumer group: each alert goes to one member.")
@click.option("--consumer", metavar="NAME", help="The member; by default, the name of this machine.")
@click.option("--count", type=click.IntRange(1), help="Stop after this many alerts.")
@click.option("--seconds", type=options.Seconds(min_open=True), help="Stop after this many seconds.")
@options.json_option
@connection_options
def watch(
    connection: Connection,
    from_start: bool,
    group: str | None,
    consumer: str | None,
    count: int | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Print quota alerts as they arrive, one line each (with --json, one JSON document each), until Ctrl-C.

    With --group, an alert is acknowledged once it is printed, and alerts that this member received earlier without
    acknowledging them come first. A group is created when it is first used; it then receives all alerts that the
    stream keeps, so that --from-start has no effect on an existing group.
    """
    if consumer is not None and group is None:
        raise click.UsageError("--consumer needs a group: give --group")
    for option, name in (("--group", group), ("--consumer", consumer)):
        validation.label("" if name is None else name, option, most=256)
    stream = RedisKeys(connection.namespace).alerts
    try:
        with _client(connection) as client:
            if group is None:
                source: _Source = _Stream(client, stream, b"0-0" if from_start else _last_id(client, stream))
            else:
                source = _Group(client, stream, group, consumer or socket.gethostname())
                source.create(b"0" if from_start else b"$")
            message = f"Waiting for alerts on {stream}; press Ctrl-C to stop."
            output.console(stderr=True).print(message, style="dim", soft_wrap=True)
            _print_all(source, count, seconds, as_json=as_json)
    except KeyboardInterrupt:
        click.echo(err=True)  # a new line after the ^C of the terminal


def _print_all(source: _Source, count: int | None, seconds: float | None, *, as_json: bool) -> None:
    ends = None if seconds is None else time.monotonic() + seconds
    shown = 0
    while count is None or shown < count:
        block = _BLOCK_SECONDS if ends is None else min(_BLOCK_SECONDS, ends - time.monotonic())
        if block <= 0:
            return
        batch = _BATCH if count is None else min(_BATCH, count - shown)
        for entry_id, fields in source.read(batch, max(1, round(block * 1000))):
            if fields:  # else the stream was trimmed meanwhile
                shown += _print(entry_id, fields, as_json=as_json)
            source.acknowledge(entry_id)


def _print(entry_id: bytes, fields: dict[bytes, bytes], *, as_json: bool) -> bool:
    """Print an entry; return whether it was an alert."""
    try:
        alert = alert_from(fields)
    except StoreError as error:
        output.console(stderr=True).print(f"{text(entry_id)}: {error}", style="yellow", soft_wrap=True)
        return False
    click.echo(json.dumps(_as_data(alert)) if as_json else _line(alert))
    return True


def _as_data(alert: Alert) -> dict[str, Any]:
    return {**asdict(alert), "window_start": alert.window_start.isoformat()}


def _line(alert: Alert) -> str:
    at = output.timestamp(round(alert.at * MICROSECONDS), digits=0)
    used = f"{alert.used:,} of {alert.limit:,} used since {alert.window_start}"
    return printable(f"{at}  {alert.percent:3}%  {alert.key_id}  {alert.plan_id}  {used}")


@contextmanager
def _client(connection: Connection) -> Iterator[_Client]:
    """Open a client whose reads may block."""
    timeout_s = clients.validate_deadline(connection.deadline) + _BLOCK_SECONDS
    client: _Client | None = None
    try:
        made = clients.client_from_url(connection.url, timeout_s)
        client = _of_cluster(made) if isinstance(made, ClusterClient) else made
        yield client
    except (RedisError, OSError, UnicodeError) as error:  # UnicodeError: the host cannot be a name
        store_error = error_mapping.after_sending(error)
        raise connection.failure(f"{type(store_error).__name__}: {store_error}", store_error.cause) from None
    finally:
        if client is not None:
            client.close()


def _of_cluster(client: ClusterClient) -> RedisCluster:
    """Return a client that can be asked; it goes to the owner of the stream by itself."""
    pool = client.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in ("host", "port", "retry")}
    if issubclass(pool.connection_class, SSLConnection):
        options["ssl"] = True
    nodes = [ClusterNode(*address) for address in client.start_nodes]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=nodes, **options)


def _last_id(client: _Client, stream: str) -> bytes:
    """Return the id of the newest entry. Reading from "$" would miss what arrives between two reads."""
    newest: Any = client.xrevrange(stream, count=1)
    return newest[0][0] if newest else b"0-0"


@dataclass(slots=True)
class _Stream:
    """Reads a stream after an entry."""

    client: _Client
    stream: str
    after: bytes

    def read(self, count: int, block_ms: int) -> list[_Entry]:
        """Return at most `count` new entries, after at most `block_ms` milliseconds."""
        return _entries(self.client.xread({self.stream: self.after}, count=count, block=block_ms))

    def acknowledge(self, entry_id: bytes) -> None:
        """Continue after this entry."""
        self.after = entry_id


@dataclass(slots=True)
class _Group:
    """Reads a stream as a member of a consumer group: first what it did not acknowledge, then new entries."""

    client: _Client
    stream: str
    group: str
    consumer: str
    after: bytes | None = b"0"

    def create(self, start: bytes) -> None:
        """Create the group, if it does not exist, to receive entries after `start`."""
        try:
            self.client.xgroup_create(self.stream, self.group, id=start, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def read(self, count: int, block_ms: int) -> list[_Entry]:
        """Return at most `count` entries, after at most `block_ms` milliseconds."""
        after = b">" if self.after is None else self.after
        reply = self.client.xreadgroup(self.group, self.consumer, {self.stream: after}, count=count, block=block_ms)
        entries = _entries(reply)
        if not entries:
            self.after = None
        return entries

    def acknowledge(self, entry_id: bytes) -> None:
        """Acknowledge an entry."""
        self.client.xack(self.stream, self.group, entry_id)
        if self.after is not None:
            self.after = entry_id


_Source = _Stream | _Group


def _entries(reply: Any) -> list[_Entry]:
    """Return the entries of the one stream in a reply: RESP3 sends a map, RESP2 a list."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (batches,) = reply.values()
        return [entry for batch in batches for entry in batch]
    ((_, entries),) = reply
    return list(entries)
