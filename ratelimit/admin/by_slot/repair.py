"""Finishes or undoes whatever was left half done of a key: by anyone, at any time, also while others work on it.

It writes at the key's slot first, where every other change is guarded: whoever was interrupted and goes on later then
fails, and begins anew. Only after that it mends what digests' slots and the catalogue say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from ratelimit.admin.by_slot.intents import Intent, intent_text, intent_to_repair
from ratelimit.admin.by_slot.reading import (
    StoredKey,
    claim_from,
    claim_reads,
    intent_read,
    stored_claims,
    stored_key,
)
from ratelimit.admin.by_slot.steps import (
    expire,
    forget,
    list_again,
    releases,
    renewed,
    settle,
    tombstone_of,
    write_record,
    write_tombstone,
)
from ratelimit.admin.commit import MAX_ATTEMPTS, busy_conflict, carry_out, carry_out_all, carry_out_and_read
from ratelimit.effects import IndependentReads, Operation, UnreadableError, read_reply, text
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord, claimed_by
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import Command


class RepairReport(NamedTuple):
    """What a repair met, and did.

    Attributes:
        key_id: The key.
        state: What its record was: of a key, of one that was being created, of one that was deleted, or absent.
        is_changed: Whether anything was left to be done.
    """

    key_id: str
    state: Literal["key", "draft", "tombstone", "absent"]
    is_changed: bool


def repair_key(namespace: Namespace, key_id: str) -> Operation[RepairReport]:
    """Finish or undo whatever was left half done of a key.

    An intent whose text makes no sense is one that touches all plans whose sets have the key.

    Raises:
        Conflict: Others changed the key again and again meanwhile.
        UnreadableIntentError: The intent is no text at all, so that no step can be guarded by it.
        UnreadableError: The record cannot be read.
    """
    for _ in range(MAX_ATTEMPTS):
        entries = yield from _entries(namespace, key_id)  # before the record: then "absent" means dead
        stored = yield from stored_key(namespace, key_id)
        if stored is not None and stored.record.is_live:
            report = yield from _repair_live(namespace, stored, entries)
        else:
            report = yield from _repair_dead(namespace, key_id, stored, entries)
        if report is not None:
            return report
    raise busy_conflict()


class _Entries(NamedTuple):
    """What the catalogue's slot says of a key.

    Attributes:
        intent: The text of its intent; None if there is none.
        is_listed: Whether it is in the list of keys.
        plans: The plans whose sets have it.
    """

    intent: str | None
    is_listed: bool
    plans: frozenset[str]

    @property
    def is_empty(self) -> bool:
        """Whether the catalogue does not name the key."""
        return self.intent is None and not self.is_listed and not self.plans


def _entries(namespace: Namespace, key_id: str) -> Operation[_Entries]:
    names, snapshot = namespace.names, (yield from namespace.load())
    sets = [("SISMEMBER", names.plan_keys(plan_id), key_id) for plan_id in snapshot.plans]
    # The intent first: who changes a set after that changes the intent as well, which is the guard of what follows.
    intent, score, *has = yield [("HGET", names.intents, key_id), ("ZSCORE", names.keys, key_id), *sets]
    plans = frozenset(plan_id for plan_id, is_member in zip(snapshot.plans, has, strict=True) if is_member)
    return _Entries(intent_text(intent), score is not None, plans)


def _repair_dead(
    namespace: Namespace, key_id: str, stored: StoredKey | None, entries: _Entries
) -> Operation[RepairReport | None]:
    """Repair what is no key; None if others were faster."""
    if stored is None:
        if entries.is_empty:  # perhaps not made yet: only who was met in the catalogue before is dead
            return RepairReport(key_id, "absent", is_changed=False)
        yield from remove_references(namespace, key_id, None, entries.plans)
        return RepairReport(key_id, "absent", is_changed=True)
    record = stored.record
    if record.state == "tombstone":
        yield from remove_references(namespace, key_id, record, entries.plans)
        return RepairReport(key_id, "tombstone", is_changed=not entries.is_empty)
    tombstone = tombstone_of(record)
    references = yield from write_tombstone_and_read(namespace, stored.text, tombstone)
    if references is None:
        return None
    yield from remove_references(namespace, key_id, tombstone, entries.plans, references)
    return RepairReport(key_id, "draft", is_changed=True)


_References = Sequence[Any]
"""Replies to `_reference_reads`: what the catalogue and digests say of a dead key; StoreError where that is unknown."""


def _reference_reads(namespace: Namespace, key_id: str, digests: Iterable[str]) -> list[Command]:
    return [intent_read(namespace, key_id), *claim_reads(namespace, sorted(digests))]


def write_tombstone_and_read(namespace: Namespace, before: str, tombstone: KeyRecord) -> Operation[_References | None]:
    """Put a tombstone in the place of a key's record, and read in the same round trip what `remove_references` removes.

    Whatever is written between the two is another text than what was read, so that the removal's guards fail.

    Args:
        namespace: The namespace.
        before: The text of the record that was read.
        tombstone: Its tombstone.

    Returns:
        What `remove_references` takes; None if others were faster.
    """
    reads = _reference_reads(namespace, tombstone.id, tombstone.digests)
    is_written, references = yield from carry_out_and_read(write_tombstone(namespace, before, tombstone), reads)
    return references if is_written else None


def remove_references(
    namespace: Namespace,
    key_id: str,
    tombstone: KeyRecord | None,
    plans: Iterable[str] = (),
    references: _References | None = None,
) -> Operation[None]:
    """Remove what digests and the catalogue say of a key that is dead for ever; then its tombstone expires in a day.

    Args:
        namespace: The namespace.
        key_id: The key.
        tombstone: Its tombstone; None if there is none any more.
        plans: Further plans whose sets may have it.
        references: What `write_tombstone_and_read` returned.

    Raises:
        Conflict: Others changed its intent again and again meanwhile.
    """
    digests, members = set[str](), frozenset(plans)
    if tombstone is not None:
        digests, members = set(tombstone.digests), members | set(tombstone.plans)
    for _ in range(MAX_ATTEMPTS):
        if references is None or any(isinstance(reply, StoreError) for reply in references):
            references = yield IndependentReads(_reference_reads(namespace, key_id, digests))
        intent_before, claims = intent_text(read_reply(references[0])), map(claim_from, references[1:])
        claim_of, references = dict(zip(sorted(digests), claims, strict=True)), None
        intent = intent_to_repair(intent_before, namespace.snapshot.plans)
        if intent is not None and intent.digest and intent.digest not in claim_of:
            (claim_of[intent.digest],) = yield from stored_claims(namespace, [intent.digest])
        touched = frozenset[str]() if intent is None else intent.touched
        first = forget(namespace, key_id, intent_before, members | touched)
        results = yield from carry_out_all([first, *releases(namespace, key_id, claim_of)])
        for result in results:
            if isinstance(result, StoreError):
                raise result
        if results[0]:
            break
    else:
        raise busy_conflict()
    if tombstone is not None:
        yield from carry_out(expire(namespace, key_id, tombstone.json()))


def _repair_live(namespace: Namespace, stored: StoredKey, entries: _Entries) -> Operation[RepairReport | None]:
    """Repair a key; None if others were faster."""
    record, intent, announced = stored.record, entries.intent, intent_to_repair(entries.intent, entries.plans)
    if entries.is_empty and (yield from _is_named_nowhere(namespace, record)):
        return (yield from _finish_deletion(namespace, stored))
    plans, touched = frozenset(record.plans), frozenset[str]() if announced is None else announced.touched
    if not entries.is_listed or plans - entries.plans or entries.plans - plans - touched:
        own = Intent.of(plans | touched | entries.plans)
        if not (yield from carry_out(list_again(namespace, record, intent, own))):
            return None
        intent, touched = own.json(), own.touched
    now_us = yield from namespace.server_us()
    ended = [digest for digest, until_us in record.digests.items() if until_us and until_us <= now_us]
    if intent is None and not ended:
        return RepairReport(record.id, "key", is_changed=False)
    claims = yield from stored_claims(namespace, ended)
    digests = {digest: until_us for digest, until_us in record.digests.items() if digest not in ended}
    token = yield from stored.version_token(namespace)
    fence = write_record(namespace, stored.text, renewed(record, digests=digests), token, publishes=False)
    if not (yield from carry_out(fence)):
        return None
    last = releases(namespace, record.id, dict(zip(ended, claims, strict=True)))
    if intent is not None:
        last.append(settle(namespace, record.id, intent, touched - plans))
    for result in (yield from carry_out_all(last)):
        if isinstance(result, StoreError):
            raise result
    return RepairReport(record.id, "key", is_changed=True)


def _is_named_nowhere(namespace: Namespace, record: KeyRecord) -> Operation[bool]:
    """Return whether neither the catalogue nor a claim names a live key: its node has lost that it was deleted."""
    replies = yield IndependentReads(claim_reads(namespace, list(record.digests)))
    try:
        claims = [text(read_reply(reply)) for reply in replies]
    except UnreadableError:
        return False  # it may name the key
    if any(claim is not None and claimed_by(claim) == record.id for claim in claims):
        return False
    # Read after the record: it may have been made meanwhile.
    return (yield from _entries(namespace, record.id)).is_empty


def _finish_deletion(namespace: Namespace, stored: StoredKey) -> Operation[RepairReport | None]:
    tombstone = tombstone_of(stored.record)
    references = yield from write_tombstone_and_read(namespace, stored.text, tombstone)
    if references is None:
        return None
    yield from remove_references(namespace, tombstone.id, tombstone, references=references)
    return RepairReport(tombstone.id, "key", is_changed=True)
