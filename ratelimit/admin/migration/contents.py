"""What a key of Redis holds, of any type, read and written by plain commands: servers differ in the form of DUMP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from ratelimit.effects import Operation, text
from ratelimit.errors import ConfigError
from ratelimit.scripts import Command

_PAGE = 500
"""Members, fields or entries that one command reads or writes."""
_EXPIRY_TOLERANCE_MS = 2000
"""By how much two expiries may differ: they are read one after the other, as times that are left."""

_T = TypeVar("_T")

Items = dict[bytes, Any]
"""By member, field or id of an entry: its value, score or fields. Of a string, one value under the empty name."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What one key holds.

    Attributes:
        kind: The type that Redis names.
        items: What is in it.
        expires_ms: Milliseconds it has left; None if it never expires.
    """

    kind: str
    items: Items
    expires_ms: int | None = None


@dataclass(slots=True)
class _Reading:
    """One key on the way: its pages so far, and the command that reads the next one."""

    kind: str
    expires_ms: int | None
    command: Command | None
    items: Items = field(default_factory=dict)


def read(names: Sequence[str]) -> Operation[dict[str, Contents]]:
    """Return the contents of keys, without those that do not exist."""
    if not names:
        return {}
    replies = yield [command for name in names for command in (("TYPE", name), ("PTTL", name))]
    readings = dict[str, _Reading]()
    for name, kind_reply, left_ms in zip(names, replies[::2], replies[1::2], strict=True):
        kind = text(kind_reply) or ""
        if kind not in _KINDS and kind != "none":
            raise ConfigError(f"key {name!r} is a {kind}, which is not copied: nothing of this package writes one")
        if kind != "none" and left_ms != -2:
            readings[name] = _Reading(kind, None if left_ms < 0 else left_ms, _KINDS[kind].first_page(name))
    while unfinished := [reading for reading in readings.values() if reading.command is not None]:
        pages = yield [reading.command for reading in unfinished if reading.command is not None]
        for reading, page in zip(unfinished, pages, strict=True):
            reading.command = _KINDS[reading.kind].take_page(reading, page)
    return {
        name: Contents(reading.kind, reading.items, reading.expires_ms)
        for name, reading in readings.items()
        if reading.items
    }


def changes(name: str, wanted: Contents | None, stored: Contents | None) -> Iterator[Command]:
    """Yield the commands after which a key holds what is wanted, in order; none if it does."""
    if stored is not None and (wanted is None or not _can_become(stored, wanted)):
        yield ("DEL", name)
        stored = None
    if wanted is None:
        return
    old = stored.items if stored is not None else {}
    removed = [item for item in old if item not in wanted.items]
    added = {item: value for item, value in wanted.items.items() if item not in old or old[item] != value}
    kind = _KINDS[wanted.kind]
    for some in _pages(removed):
        yield (kind.remove, name, *some)
    yield from kind.put(name, added)
    # SET alone takes away an expiry.
    was_kept = stored is not None and not (wanted.kind == "string" and added)
    expires_ms = stored.expires_ms if stored is not None and was_kept else None
    if wanted.expires_ms is None:
        if expires_ms is not None:
            yield ("PERSIST", name)
    elif expires_ms is None or abs(expires_ms - wanted.expires_ms) > _EXPIRY_TOLERANCE_MS:
        yield ("PEXPIRE", name, max(1, wanted.expires_ms))


def _pages(items: Iterable[_T]) -> Iterator[tuple[_T, ...]]:
    iterator = iter(items)
    while page := tuple(islice(iterator, _PAGE)):
        yield page


def _can_become(stored: Contents, wanted: Contents) -> bool:
    """Return whether the difference can be written. Entries of a stream are added at its end alone."""
    if stored.kind != wanted.kind:
        return False
    if stored.kind != "stream" or not stored.items:
        return True
    last = _entry_number(max(stored.items, key=_entry_number))
    return all(
        stored.items.get(entry) == fields if entry in stored.items else _entry_number(entry) > last
        for entry, fields in wanted.items.items()
    )


def _entry_number(entry: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition(b"-")
    return int(milliseconds), int(sequence)


def _entry_fields(reply: Any) -> tuple[bytes, ...]:
    """Return the fields of an entry and their values, in turn."""
    return tuple(part for pair in reply.items() for part in pair) if isinstance(reply, Mapping) else tuple(reply)


class _String:
    remove = "DEL"

    def first_page(self, name: str) -> Command:
        return ("GET", name)

    def take_page(self, reading: _Reading, page: Any) -> None:
        if page is not None:
            reading.items[b""] = page

    def put(self, name: str, items: Items) -> Iterator[Command]:
        for value in items.values():
            yield ("SET", name, value)


@dataclass(frozen=True, slots=True)
class _Collection:
    """A set, sorted set or hash, which differ in what belongs to a member."""

    scan: str
    remove: str
    add: str
    pairs: Callable[[Sequence[Any]], Iterator[tuple[bytes, Any]]]
    arguments: Callable[[bytes, Any], tuple[Any, ...]]

    def _page(self, name: str, cursor: bytes | str) -> Command:
        return (self.scan, name, cursor, "COUNT", _PAGE)

    def first_page(self, name: str) -> Command:
        return self._page(name, "0")

    def take_page(self, reading: _Reading, page: Any) -> Command | None:
        cursor, flat = page
        reading.items.update(self.pairs(flat))
        name = reading.command[1] if reading.command else ""
        return None if text(cursor) == "0" else self._page(str(name), cursor)

    def put(self, name: str, items: Items) -> Iterator[Command]:
        for some in _pages(items.items()):
            yield (self.add, name, *(argument for item in some for argument in self.arguments(*item)))


class _Stream:
    remove = "XDEL"

    def first_page(self, name: str) -> Command:
        return ("XRANGE", name, "-", "+", "COUNT", _PAGE)

    def take_page(self, reading: _Reading, page: Any) -> Command | None:
        reading.items.update((entry, _entry_fields(fields)) for entry, fields in page)
        if len(page) < _PAGE or reading.command is None:
            return None
        last = text(page[-1][0])
        return ("XRANGE", reading.command[1], f"({last}", "+", "COUNT", _PAGE)

    def put(self, name: str, items: Items) -> Iterator[Command]:
        for entry in sorted(items, key=_entry_number):
            yield ("XADD", name, entry, *items[entry])


def _members(flat: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
    return ((member, None) for member in flat)


def _fields(flat: Sequence[bytes]) -> Iterator[tuple[bytes, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _scores(flat: Sequence[Any]) -> Iterator[tuple[bytes, Any]]:
    return ((member, float(score)) for member, score in _fields(flat))


_KINDS: Mapping[str, _String | _Collection | _Stream] = {
    "string": _String(),
    "set": _Collection("SSCAN", "SREM", "SADD", _members, lambda member, _: (member,)),
    "zset": _Collection("ZSCAN", "ZREM", "ZADD", _scores, lambda member, score: (format(score, ".17g"), member)),
    "hash": _Collection("HSCAN", "HDEL", "HSET", _fields, lambda name, value: (name, value)),
    "stream": _Stream(),
}
