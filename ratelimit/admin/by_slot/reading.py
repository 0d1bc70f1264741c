"""What is read of a key before a step at its slot."""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.effects import Operation, text
from ratelimit.registry.key_record import VERSION_TOKEN_LENGTH, KeyRecord
from ratelimit.registry.namespace import Namespace


class StoredKey(NamedTuple):
    """A key's record, or the draft or tombstone in its place.

    Attributes:
        record: The record.
        text: Its text in Redis, the guard of the next step.
        r: Field `r` of the key's hash; None if there is none.
    """

    record: KeyRecord
    text: str
    r: str | None

    def version_token(self, namespace: Namespace) -> Operation[str]:
        """Return epoch and version for a write of the record that adds no plan: the catalogue's if the hash is lost."""
        if self.r is not None and len(self.r) == VERSION_TOKEN_LENGTH:
            return self.r[:18]
        return (yield from namespace.load()).version_token


def stored_key(namespace: Namespace, key_id: str) -> Operation[StoredKey | None]:
    """Read a key; None if its record is absent."""
    names = namespace.names
    stored, r = map(text, (yield [("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")]))
    return None if stored is None else StoredKey(KeyRecord.from_json(stored, key_id), stored, r)


def stored_intent(namespace: Namespace, key_id: str) -> Operation[str | None]:
    """Read the text of a key's intent; None if there is none."""
    return text((yield [("HGET", namespace.names.intents, key_id)])[0])


def stored_claims(namespace: Namespace, digests: list[str]) -> Operation[list[str | None]]:
    """Read the claims of digests."""
    if not digests:
        return []
    return list(map(text, (yield [("GET", namespace.names.digest(digest)) for digest in digests])))
