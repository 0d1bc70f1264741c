"""Alerts where the stream lies in another slot than a key: pending in its hash until somebody announces them.

The script that counts keeps each alert as a field `a:<plan>:<window>:<percent>`. Whoever finds one writes it to the
stream and then removes the field. Who goes away in between leaves it to the next, so that an alert may be announced
twice, under one `id`; none is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Any, NamedTuple

from ratelimit.effects import IndependentCommands, Operation
from ratelimit.errors import StoreError
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.scripts import Command

_FIGURES = Struct("<3d")
_WINDOW_BASE = 64
_MAX_ALERTS = 100_000


class PendingAlert(NamedTuple):
    """An alert that is not on the stream yet.

    Attributes:
        field: Hash field of the key in which it is kept.
        id: The same whoever announces it, and however often: of key, plan, window and percentage.
        entry: Fields and values of its entry on the stream, in turn.
    """

    field: str
    id: str
    entry: tuple[str, ...]

    def to_command(self, stream: str) -> Command:
        """Return the command that announces it."""
        return ("XADD", stream, "MAXLEN", "~", _MAX_ALERTS, "*", "id", self.id, *self.entry)


def is_pending_alert(field: str) -> bool:
    """Return whether a field of a key's hash is a pending alert, by its name."""
    kind, *parts = field.split(":")
    return kind == "a" and len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal()


def pending_alerts(key_id: str, fields: Mapping[Any, Any]) -> Iterator[PendingAlert]:
    """Yield the pending alerts among the fields of a key's hash, the names as texts or bytes, the values as bytes."""
    for name, value in fields.items():
        field = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        if not is_pending_alert(field) or not isinstance(value, bytes) or len(value) != _FIGURES.size:
            continue
        _, plan_id, window, percent = field.split(":")
        used, limit, time_us = (f"{number:.0f}" for number in _FIGURES.unpack(value))
        entry = {"key": key_id, "plan": plan_id, "percent": percent, "used": used, "limit": limit}
        entry |= {"window_day": str(int(window) // _WINDOW_BASE), "time_us": time_us}
        flat = tuple(word for pair in entry.items() for word in pair)
        yield PendingAlert(field, f"{key_id}:{plan_id}:{window}:{percent}", flat)


def announce(names: RedisKeys, key_id: str) -> Operation[int]:
    """Write the pending alerts of a key to the stream; return how many there were. One that fails stays pending.

    Raises:
        StoreError: The key's hash cannot be read or written.
    """
    key_hash = names.key_hash(key_id)
    (reply,) = yield [("HGETALL", key_hash)]
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    pending = list(pending_alerts(key_id, dict(pairs)))
    if pending:
        replies = yield IndependentCommands([alert.to_command(names.alerts) for alert in pending])
        written = [
            alert.field for alert, answer in zip(pending, replies, strict=True) if not isinstance(answer, StoreError)
        ]
        if written:
            yield [("HDEL", key_hash, *written)]
    return len(pending)
