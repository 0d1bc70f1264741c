"""Reads many things of one kind in one round trip, wherever in Redis they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ratelimit.effects import Operation, text
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace


def texts_of(namespace: Namespace, names: Sequence[str]) -> Operation[list[str | None]]:
    """Return the strings with these names; None for those that are absent."""
    return list(map(text, (yield from strings_of(namespace, names))))


def strings_of(namespace: Namespace, names: Sequence[str]) -> Operation[list[bytes | str | None]]:
    """Return the strings with these names, as they came, for `text`; None for those that are absent.

    A server with slots refuses one command about names of several slots. So there each has a command of its own.
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
        replies = [reply for (reply,) in (yield [("MGET", name) for name in names])]
    return list(replies)


def records_of(namespace: Namespace, key_ids: Sequence[str]) -> Operation[list[KeyRecord | None]]:
    """Return the records of keys, drafts and tombstones included; None for those that are absent."""
    stored = yield from texts_of(namespace, list(map(namespace.names.key_record, key_ids)))
    return [
        None if record is None else KeyRecord.from_json(record, key_id)
        for key_id, record in zip(key_ids, stored, strict=True)
    ]
