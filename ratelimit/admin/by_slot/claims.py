"""Claims of values where keys lie in slots: judged before a step at a digest's slot."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.admin.by_slot.reading import stored_key
from ratelimit.admin.by_slot.steps import renewed, write_record
from ratelimit.admin.claims import owner_of_ended
from ratelimit.admin.commit import MAX_ATTEMPTS, Commit, busy_conflict, carry_out
from ratelimit.effects import Operation
from ratelimit.registry.key_record import claimed_by
from ratelimit.registry.namespace import Namespace


def ensure_claimable(
    namespace: Namespace, digests: Sequence[str], claims: Sequence[str | None], key_id: str
) -> Operation[None]:
    """Ensure that the claims of a value's digests are absent or dead: the step that claims one is guarded by its claim.

    A claim that is named as ended is taken out of that record first, unless that is the own one.

    Args:
        namespace: The namespace.
        digests: Those of the value, under each pepper.
        claims: The texts of their claims. Records are read after them: then one that does not name the digest never
            will under this claim.
        key_id: The key that is to be given the value.

    Raises:
        Conflict: A key has the value, or is being given it.
    """
    for digest, claim in zip(digests, claims, strict=True):
        if claim is not None:
            yield from _take_out(namespace, digest, claimed_by(claim), key_id)


def _take_out(namespace: Namespace, digest: str, owner_id: str, key_id: str) -> Operation[None]:
    for _ in range(MAX_ATTEMPTS):
        owner = yield from owner_of_ended(namespace, digest, owner_id)
        if owner is None or owner_id == key_id:
            return
        stored = yield from stored_key(namespace, owner_id)
        if stored is None or stored.text != owner[1]:
            continue
        digests = {other: until_us for other, until_us in stored.record.digests.items() if other != digest}
        token = yield from stored.version_token(namespace)
        step = write_record(namespace, stored.text, renewed(stored.record, digests=digests), token)
        if (yield from carry_out(step)):
            return
    raise busy_conflict()


def store_new_pepper(namespace: Namespace) -> Operation[None]:
    """Store the check value of a pepper that the catalogue does not have yet, before a claim is made under it."""
    for _ in range(MAX_ATTEMPTS):
        if namespace.snapshot.epoch and namespace.new_probes() is None:
            return
        yield from namespace.load()
        probes = namespace.new_probes()
        if probes is not None:
            stored, updated = probes
            commit = Commit()
            commit.expect(namespace.names.catalog, "pepper", stored)
            commit.add("HSET", namespace.names.catalog, "pepper", updated)
            yield from carry_out(commit)
            yield from namespace.load()
    raise busy_conflict()
