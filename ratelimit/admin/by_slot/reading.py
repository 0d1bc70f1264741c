"""What is read of a key before a step at its slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ratelimit.effects import IndependentReads, Operation, UnreadableError, read_reply, text
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


def key_reads(namespace: Namespace, key_id: str) -> list[Command]:
    """Return the commands whose replies `stored_key_from` takes."""
    names = namespace.names
    return [("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")]


def stored_key_from(key_id: str, replies: Sequence[Any]) -> StoredKey | None:
    """Return a key, from the replies to `key_reads`; None if its record is absent."""
    record, r = map(text, replies)
    return None if record is None else StoredKey(KeyRecord.from_json(record, key_id), record, r)


def stored_key(namespace: Namespace, key_id: str) -> Operation[StoredKey | None]:
    """Read a key; None if its record is absent."""
    replies = yield IndependentReads(key_reads(namespace, key_id))
    return stored_key_from(key_id, list(map(read_reply, replies)))


def intent_read(namespace: Namespace, key_id: str) -> Command:
    """Return the command that reads the text of a key's intent."""
    return ("HGET", namespace.names.intents, key_id)


def claim_reads(namespace: Namespace, digests: Sequence[str]) -> list[Command]:
    """Return the commands that read the claims of digests."""
    return [("GET", namespace.names.digest(digest)) for digest in digests]


def claim_from(reply: Any) -> str | None:
    """Return the text of a claim from a reply, or its error; None if it is absent, or no claim at all.

    Raises:
        StoreError: It could not be read.
    """
    try:
        return text(read_reply(reply))
    except UnreadableError:
        return None


def stored_claims(namespace: Namespace, digests: Sequence[str]) -> Operation[list[str | None]]:
    """Read the claims of digests; None for those that are absent or no claims at all."""
    replies = (yield IndependentReads(claim_reads(namespace, digests))) if digests else ()
    return list(map(claim_from, replies))


def has_entries(namespace: Namespace, records: Sequence[KeyRecord]) -> Operation[list[tuple[bool, bool]]]:
    """Return of each key whether it is in the list of keys, and whether it is in the list and the sets of its plans."""
    names = namespace.names
    commands: list[Command] = []
    for record in records:
        commands.append(("ZSCORE", names.keys, record.id))
        commands += (("SISMEMBER", names.plan_keys(plan_id), record.id) for plan_id in record.plans)
    replies = iter((yield commands) if commands else ())
    entries = list[tuple[bool, bool]]()
    for record in records:
        is_listed, memberships = next(replies) is not None, [next(replies) for _ in record.plans]
        entries.append((is_listed, is_listed and all(memberships)))
    return entries
