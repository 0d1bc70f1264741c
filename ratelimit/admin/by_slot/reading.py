"""What is read of a key before a step at its slot."""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.effects import IndependentReads, Operation, text
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import VERSION_TOKEN_LENGTH, KeyRecord
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import Command


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
    return _parsed(key_id, *(yield _reads(namespace, key_id)))


def stored_key_and_version(namespace: Namespace, key_id: str) -> Operation[tuple[StoredKey | None, bool]]:
    """Read a key; and whether the catalogue is the known one, as far as its node answers: False if that fails."""
    stored, r, version = yield IndependentReads([*_reads(namespace, key_id), namespace.version_query()])
    for reply in (stored, r):
        if isinstance(reply, StoreError):
            raise reply
    is_known = not isinstance(version, StoreError) and namespace.matches_stored_version(version)
    return _parsed(key_id, stored, r), is_known


def _reads(namespace: Namespace, key_id: str) -> list[Command]:
    names = namespace.names
    return [("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")]


def _parsed(key_id: str, stored: bytes | str | None, r: bytes | str | None) -> StoredKey | None:
    record = text(stored)
    return None if record is None else StoredKey(KeyRecord.from_json(record, key_id), record, text(r))


def stored_intent(namespace: Namespace, key_id: str) -> Operation[str | None]:
    """Read the text of a key's intent; None if there is none."""
    return text((yield [("HGET", namespace.names.intents, key_id)])[0])


def stored_claims(namespace: Namespace, digests: list[str]) -> Operation[list[str | None]]:
    """Read the claims of digests."""
    if not digests:
        return []
    return list(map(text, (yield [("GET", namespace.names.digest(digest)) for digest in digests])))
