"""Reads many things of one kind, wherever in Redis they are: as many in one round trip as can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit.effects import AtNode, IndependentCommands, Operation, Primaries, read_reply, text, texts
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace


def texts_of(namespace: Namespace, names: Sequence[str]) -> Operation[list[str | None]]:
    """Return the strings with these names; None for those that are absent."""
    return [text(read_reply(string)) for string in (yield from strings_of(namespace, names))]


def strings_of(namespace: Namespace, names: Sequence[str]) -> Operation[list[Any]]:
    """Return the strings with these names, as they came, for `read_reply` and `text`; None for those that are absent.

    A server with slots refuses one command about names of several slots. So there each has a command of its own, and
    StoreError in its place if it failed. One server says of what is no string that it is absent.
    """
    if not names:
        return []
    replies: Sequence[Any] = ()
    if not namespace.has_slots:
        try:
            (replies,) = yield [("MGET", *names)]
        except StoreError as error:
            if "CROSSSLOT" not in str(error):
                raise
            yield from namespace.find_slots()
    if not replies:
        replies = yield IndependentCommands([("GET", name) for name in names])
    return list(replies)


def records_of(namespace: Namespace, key_ids: Sequence[str]) -> Operation[list[KeyRecord | None]]:
    """Return the records of keys, drafts and tombstones included; None for those that are absent."""
    stored = yield from texts_of(namespace, list(map(namespace.names.key_record, key_ids)))
    return [
        None if record is None else KeyRecord.from_json(record, key_id)
        for key_id, record in zip(key_ids, stored, strict=True)
    ]


class Scan:
    """All names that fit a pattern, on all primaries, page by page. One may come twice.

    Args:
        pattern: As MATCH takes it.
        names_per_page: About how many come at a time.
    """

    def __init__(self, pattern: str, names_per_page: int) -> None:
        self._options = ("MATCH", pattern, "COUNT", names_per_page)
        self._nodes: list[str] | None = None
        self._cursor = "0"

    def page(self) -> Operation[list[str] | None]:
        """Return some names, perhaps none; None at the end."""
        if self._nodes is None:
            self._nodes = list((yield Primaries()))
        if not self._nodes:
            return None
        ((cursor, names),) = yield AtNode(self._nodes[0], [("SCAN", self._cursor, *self._options)])
        self._cursor = text(cursor) or "0"
        if self._cursor == "0":
            self._nodes.pop(0)
        return texts(names)
