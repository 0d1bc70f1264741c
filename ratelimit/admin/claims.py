"""The index of key values, `<digest>` -> `<key id>:<token>`: how a key claims a value, and gives it up.

A claim is valid while the record of the key that it names lists the digest. Otherwise it is dead (the key was deleted,
or given another value), and the next claimant replaces it, on the condition that its text is unchanged: each claim has
a token of its own, so that no later one is mistaken for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ratelimit.admin.commit import Commit, add_new_pepper, add_record
from ratelimit.effects import Operation, text
from ratelimit.errors import Conflict
from ratelimit.registry.key_record import KeyRecord, claimed_by, new_claim
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot


def claim_value(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, value: str, key_id: str
) -> Operation[None]:
    """Have the commit claim `value` for the key `key_id`, whose record the caller writes.

    Raises:
        Conflict: A key has the value, or is being given it.
    """
    names, digests = namespace.names, namespace.digest.all(value)
    replies = yield [("GET", names.digest(digest)) for digest in digests]
    for digest, claim in zip(digests, map(text, replies), strict=True):
        commit.expect(names.digest(digest), None, claim)
        if claim is not None:
            yield from _take_over(commit, namespace, snapshot, digest, claimed_by(claim), key_id)
    commit.add("SET", names.digest(digests[0]), new_claim(key_id))
    add_new_pepper(commit, namespace)


def _take_over(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, digest: str, owner_id: str, key_id: str
) -> Operation[None]:
    """Have the commit remove a digest from the record that lists it if it has expired there; else raise Conflict."""
    ended = yield from owner_of_ended(namespace, digest, owner_id)
    if ended is not None and owner_id != key_id:
        owner, stored = ended
        digests = {other: until_us for other, until_us in owner.digests.items() if other != digest}
        commit.expect(namespace.names.key_record(owner_id), None, stored)
        add_record(commit, namespace, snapshot, replace(owner, digests=digests, stamp=generated_token()), joins=False)
        commit.add("PUBLISH", None, namespace.names.changes, f"key:{owner_id}")


def owner_of_ended(namespace: Namespace, digest: str, owner_id: str) -> Operation[tuple[KeyRecord, str] | None]:
    """Return the record that lists a claimed digest as one that has ended, and its text; None if the claim is dead.

    Args:
        namespace: The namespace.
        digest: The digest.
        owner_id: The key that the claim names.

    Raises:
        Conflict: That key has the value, or is being given it.
    """
    stored = text((yield [("GET", namespace.names.key_record(owner_id))])[0])
    owner = None if stored is None else KeyRecord.from_json(stored, owner_id)
    if stored is None or owner is None or owner.state == "tombstone" or digest not in owner.digests:
        return None
    if not owner.is_live:
        remedy = (
            "try again in a minute, or run `ratelimit doctor --repair`"
            if namespace.has_slots
            else "try again in a minute"
        )
        raise Conflict(
            f"a key with this value is being made by somebody else, its id is {owner_id!r}: {remedy}", field="value"
        )
    valid_until_us = owner.digests[digest]
    if not valid_until_us or valid_until_us > (yield from namespace.server_us()):
        raise Conflict(f"a key with this value exists already, its id is {owner_id!r}", field="value")
    return owner, stored


def release_values(commit: Commit, namespace: Namespace, key_id: str, digests: Iterable[str]) -> Operation[None]:
    """Have the commit remove the claims of a key on these digests, except those that another key has claimed since."""
    names = [namespace.names.digest(digest) for digest in digests]
    replies = yield [("GET", name) for name in names]
    for name, claim in zip(names, map(text, replies), strict=True):
        if claim is not None and claimed_by(claim) == key_id:
            commit.expect(name, None, claim)
            commit.add("UNLINK", name)
