"""Who has the value of a key: entries of the index, `<digest>` -> `<key id>:<token>`, and how they are taken. Pure.

An entry holds as long as the record of the key that it names, names the digest. Another one is dead: the key was
deleted, or given another value, and whoever wants the value replaces the entry, guarded by its exact text: each claim
has a token of its own, so that no later one is taken for it. See commit.py and flow.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ratelimit.admin.commit import Commit, stamp_record, tell_new_pepper
from ratelimit.effects import Operation, text
from ratelimit.errors import Conflict
from ratelimit.registry.key_record import KeyRecord, claimed_by, new_claim
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot


def claim_value(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, value: str, key_id: str
) -> Operation[None]:
    """Have the commit make `value` open `key_id`; raises Conflict if it opens a key, or is about to.

    The record of `key_id` itself is the caller's to write.
    """
    names, digests = namespace.names, namespace.digest.all(value)
    replies = yield [("GET", names.digest(digest)) for digest in digests]
    for digest, claim in zip(digests, map(text, replies), strict=True):
        commit.expect(names.digest(digest), None, claim)
        if claim is not None:
            yield from _take_over(commit, namespace, snapshot, digest, claimed_by(claim), key_id)
    commit.do("SET", names.digest(digests[0]), new_claim(key_id))
    tell_new_pepper(commit, namespace)


def _take_over(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, digest: str, owner_id: str, key_id: str
) -> Operation[None]:
    """Have the commit take a digest out of the record that names it, if it is over there; raises Conflict if not."""
    stored = text((yield [("GET", namespace.names.key_record(owner_id))])[0])
    owner = None if stored is None else KeyRecord.from_json(stored, owner_id)
    if owner is None or owner.state == "tombstone" or digest not in owner.digests:
        return
    if not owner.is_live:
        raise Conflict(
            f"a key with this value is being made by somebody else, its id is {owner_id!r}: try again in a minute",
            field="value",
        )
    until = owner.digests[digest]
    if not until or until > (yield from namespace.server_us()):
        raise Conflict(f"a key with this value exists already, its id is {owner_id!r}", field="value")
    if owner_id != key_id:
        left = {other: end for other, end in owner.digests.items() if other != digest}
        commit.expect(namespace.names.key_record(owner_id), None, stored)
        stamp_record(commit, namespace, snapshot, replace(owner, digests=left, stamp=generated_token()), joins=False)
        commit.do("PUBLISH", None, namespace.names.changes, f"key:{owner_id}")


def release(commit: Commit, namespace: Namespace, key_id: str, digests: Iterable[str]) -> Operation[None]:
    """Have the commit remove entries of the index, but for those that are another's by now."""
    names = [namespace.names.digest(digest) for digest in digests]
    replies = yield [("GET", name) for name in names]
    for name, claim in zip(names, map(text, replies), strict=True):
        if claim is not None and claimed_by(claim) == key_id:
            commit.expect(name, None, claim)
            commit.do("UNLINK", name)
