"""`ratelimit watch`: alerts on quotas as they come."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click
from redis import Redis
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

_PATIENCE = 1.0
"""Seconds that the server holds a question to which there is no answer yet."""

_MOST = 100
_Entry = tuple[bytes, dict[bytes, bytes] | None]


@click.command(short_help="Show alerts on quotas as they come.")
@click.option("--from-start", is_flag=True, help="All that is kept, not only what comes from now on.")
@click.option("--group", metavar="NAME", help="Read as a member of this consumer group: each alert goes to one member.")
@click.option("--consumer", metavar="NAME", help="Which member; the name of this machine unless given.")
@click.option("--count", type=click.IntRange(1), help="End after so many alerts.")
@click.option("--seconds", type=options.Seconds(min_open=True), help="End after so many seconds.")
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
    """Show alerts on quotas as they come, one line each (with --json, one JSON document each), until Ctrl-C.

    As a member of a group, an alert is acknowledged once it is printed. What this member had been given before and
    not acknowledged comes first. A group is made when it is first named; from then on it misses nothing that the
    stream keeps, and --from-start no longer matters for it.
    """
    if consumer is not None and group is None:
        raise click.UsageError("--consumer is a member of a group: give --group")
    for option, name in (("--group", group), ("--consumer", consumer)):
        validation.label("" if name is None else name, option, most=256)
    stream = RedisKeys(connection.namespace).alerts
    try:
        with _client(connection) as client:
            if group is None:
                source: _Source = _Stream(client, stream, b"0-0" if from_start else _last(client, stream))
            else:
                source = _Group(client, stream, group, consumer or socket.gethostname())
                source.make(b"0" if from_start else b"$")
            told = f"Waiting for alerts on {stream}; Ctrl-C ends."
            output.console(stderr=True).print(told, style="dim", soft_wrap=True)
            _print_all(source, count, seconds, as_json=as_json)
    except KeyboardInterrupt:
        click.echo(err=True)  # behind the ^C of the terminal


def _print_all(source: _Source, count: int | None, seconds: float | None, *, as_json: bool) -> None:
    ends = None if seconds is None else time.monotonic() + seconds
    shown = 0
    while count is None or shown < count:
        patience = _PATIENCE if ends is None else min(_PATIENCE, ends - time.monotonic())
        if patience <= 0:
            return
        most = _MOST if count is None else min(_MOST, count - shown)
        for entry_id, fields in source.read(most, max(1, round(patience * 1000))):
            if fields:  # else it was trimmed off the stream meanwhile
                shown += _print(entry_id, fields, as_json=as_json)
            source.done(entry_id)


def _print(entry_id: bytes, fields: dict[bytes, bytes], *, as_json: bool) -> bool:
    """Print an entry; tell whether it was an alert."""
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
    at = output.moment(round(alert.at * MICROSECONDS), digits=0)
    used = f"{alert.used:,} of {alert.limit:,} used since {alert.window_start}"
    return output.plain(f"{at}  {alert.percent:3}%  {alert.key_id}  {alert.plan_id}  {used}")


@contextmanager
def _client(connection: Connection) -> Iterator[Redis]:
    """Return a client of our own, which may wait for an answer."""
    client = clients.client_from_url(connection.url, clients.validate_deadline(connection.deadline) + _PATIENCE)
    try:
        yield client
    except (RedisError, OSError, UnicodeError) as error:  # the last of a host that can be no name
        failure = error_mapping.after_sending(error)
        raise connection.fault(f"{type(failure).__name__}: {failure}") from None
    finally:
        client.close()


def _last(client: Redis, stream: str) -> bytes:
    """Return the id of the newest entry. "$" would pass over what comes between two questions."""
    newest: Any = client.xrevrange(stream, count=1)
    return newest[0][0] if newest else b"0-0"


@dataclass(slots=True)
class _Stream:
    """All that comes after an entry."""

    client: Redis
    stream: str
    after: bytes

    def read(self, most: int, wait_ms: int) -> list[_Entry]:
        """Return what came, at most so much."""
        return _entries(self.client.xread({self.stream: self.after}, count=most, block=wait_ms))

    def done(self, entry_id: bytes) -> None:
        """Go on behind this entry."""
        self.after = entry_id


@dataclass(slots=True)
class _Group:
    """What a member of a consumer group gets: first what it left unacknowledged, then what is new."""

    client: Redis
    stream: str
    group: str
    consumer: str
    after: bytes | None = b"0"

    def make(self, start: bytes) -> None:
        """Make the group if it does not exist; it gets what comes after `start`."""
        try:
            self.client.xgroup_create(self.stream, self.group, id=start, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def read(self, most: int, wait_ms: int) -> list[_Entry]:
        """Return what came, at most so much."""
        after = b">" if self.after is None else self.after
        reply = self.client.xreadgroup(self.group, self.consumer, {self.stream: after}, count=most, block=wait_ms)
        found = _entries(reply)
        if not found:
            self.after = None
        return found

    def done(self, entry_id: bytes) -> None:
        """Acknowledge an entry."""
        self.client.xack(self.stream, self.group, entry_id)
        if self.after is not None:
            self.after = entry_id


_Source = _Stream | _Group


def _entries(reply: Any) -> list[_Entry]:
    """Return the entries of the one stream that was asked for: RESP3 sends a map, RESP2 a list."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (batches,) = reply.values()
        return [entry for batch in batches for entry in batch]
    ((_, entries),) = reply
    return list(entries)
