"""The steps of a change where keys lie in slots: each is a commit of one slot, and guarded by what was read.

K is a key's slot (record, hash), D a digest's (the claim of a value), C the catalogue's (plans, list and sets of keys,
intents). What they write, and in which order they are carried out:

create                     K `place_draft`, C `list_draft`, D `claim`, K `go_live`, C `finish`
join, leave, move          C `announce`, K `write_record`, C `settle`
disable, enable, rename    K `write_record`
rotate                     K `write_record`, D `claim`, K `write_record`, D `release` for each old digest
delete                     K `write_tombstone`, D `release` for each digest, C `forget`, K `expire`
undo, or repair a draft    K `write_tombstone`, D `release`, C `forget`, K `expire`

The steps that take effect are `go_live`, `write_record` (of rotate the second) and `write_tombstone` of a live key.
They publish the change; so the script that makes it is the one that announces it.

All are pure. `before` is always the text that was read, None for absent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ratelimit.admin.by_slot.intents import Intent
from ratelimit.admin.ceilings import KeyHeadroom, guard_key_count
from ratelimit.admin.commit import Commit, add_new_pepper, new_commit
from ratelimit.registry.key_record import KeyRecord, claimed_by
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import day_of

DAY_S = 24 * 3600
"""How long drafts last, and tombstones of which nothing is left elsewhere."""

OPENS_NOTHING = 1
"""Until when a digest is valid that a record only names: it ended in 1970."""


def draft_of(record: KeyRecord) -> KeyRecord:
    """Return the draft of a key with one digest: it names the digest, and opens nothing."""
    digests = dict.fromkeys(record.digests, OPENS_NOTHING)
    return replace(record, state="draft", enabled=False, digests=digests, stamp=generated_token())


def tombstone_of(record: KeyRecord) -> KeyRecord:
    """Return the tombstone of a key or a draft: it keeps what has to be removed elsewhere, and no text for people."""
    return replace(
        record, state="tombstone", enabled=False, stamp=generated_token(), name="", description="", owner="", tags={}
    )


def renewed(record: KeyRecord, **changes: Any) -> KeyRecord:
    """Return a record with changes, and a new stamp: every write of a record has one."""
    return replace(record, stamp=generated_token(), **changes)


# At K.


def place_draft(namespace: Namespace, draft: KeyRecord) -> Commit:
    """K: the id is free -> a draft, for a day."""
    commit = Commit()
    commit.replace(namespace.names.key_record(draft.id), None, None, draft.json(), "EX", DAY_S)
    return commit


def go_live(namespace: Namespace, snapshot: CatalogSnapshot, draft: KeyRecord, record: KeyRecord) -> Commit:
    """K: the draft -> the key. Takes effect.

    Args:
        namespace: The namespace.
        snapshot: The catalogue whose version guarded `list_draft`.
        draft: The draft.
        record: The key's record, with a stamp of its own.
    """
    return write_record(namespace, draft.json(), record, snapshot.version_token, joins=True)


def write_record(
    namespace: Namespace,
    before: str,
    record: KeyRecord,
    version_token: str,
    *,
    joins: bool = False,
    passes_maxmemory: bool = False,
    publishes: bool = True,
) -> Commit:
    """K: the record as read -> another one, with a new stamp in the record and in `r`.

    Args:
        namespace: The namespace.
        before: The text of the record that was read.
        record: The new record.
        version_token: Epoch and version of the catalogue: of the one whose version guarded `announce` if the key
            `joins`, else of any that was read. It is written if `r` is missing.
        joins: Whether the key has a plan that it did not have before. Then `r` takes over a greater version.
        passes_maxmemory: Whether it is carried out also on a server at its `maxmemory`.
        publishes: Whether the change is published.
    """
    names, commit = namespace.names, Commit()
    if passes_maxmemory:
        commit.pass_maxmemory(names.key_record(record.id))
    commit.replace(names.key_record(record.id), None, before, record.json())
    commit.add("STAMP", names.key_hash(record.id), record.stamp, version_token, int(joins))
    if publishes:
        _publish(commit, namespace, record.id)
    return commit


def write_tombstone(namespace: Namespace, before: str, tombstone: KeyRecord) -> Commit:
    """K: the record or draft as read -> a tombstone; nothing is left of what was counted. Takes effect for a key."""
    names, commit = namespace.names, Commit()
    # First, for they need no memory: a server at its `maxmemory` carries out the rest as well.
    commit.add("UNLINK", names.key_hash(tombstone.id))
    commit.add("UNLINK", names.key_days(tombstone.id))
    commit.replace(names.key_record(tombstone.id), None, before, tombstone.json())
    _publish(commit, namespace, tombstone.id)
    return commit


def expire(namespace: Namespace, key_id: str, tombstone: str) -> Commit:
    """K: the tombstone -> the same, for a day: nothing is left of the key at D and C."""
    commit = Commit()
    name = namespace.names.key_record(key_id)
    commit.expect(name, None, tombstone)
    commit.add("SET", name, tombstone, "EX", DAY_S)
    return commit


# At D.


def claim(
    namespace: Namespace, digest: str, before: str | None, text: str, *, passes_maxmemory: bool = False
) -> Commit:
    """D: no claim, or the dead one that was read -> the claim `text`, of a key whose record names the digest."""
    name, commit = namespace.names.digest(digest), Commit()
    if passes_maxmemory:
        commit.pass_maxmemory(name)
    commit.replace(name, None, before, text)
    return commit


def release(namespace: Namespace, digest: str, before: str) -> Commit:
    """D: a claim of the own key, as read -> none."""
    commit = Commit()
    commit.expect(namespace.names.digest(digest), None, before)
    commit.add("UNLINK", namespace.names.digest(digest))
    return commit


def releases(namespace: Namespace, key_id: str, claims: Mapping[str, str | None]) -> list[Commit]:
    """D: of these claims by their digests, as read, those of a key -> none."""
    return [
        release(namespace, digest, claim_text)
        for digest, claim_text in claims.items()
        if claim_text is not None and claimed_by(claim_text) == key_id
    ]


# At C.


def list_draft(
    namespace: Namespace,
    snapshot: CatalogSnapshot,
    draft: KeyRecord,
    intent: Intent,
    headroom: KeyHeadroom = KeyHeadroom(),  # noqa: B008 - immutable
) -> Commit:
    """C: `version`, no intent -> the draft is in the list and in the sets of its plans, an intent, one more member.

    Args:
        namespace: The namespace.
        snapshot: The catalogue that says that the key may be in these plans.
        draft: The draft.
        intent: Touches its plans, and names its digest.
        headroom: What allows one more key, where there is a ceiling on keys: guarded too.
    """
    names, commit = namespace.names, new_commit(namespace, snapshot)
    commit.expect(names.catalog, "version", str(snapshot.version))
    commit.replace(names.intents, draft.id, None, intent.json())
    guard_key_count(commit, namespace, headroom)
    commit.add("ZADD", names.keys, draft.created_us, draft.id)
    _join(commit, namespace, draft.id, draft.plans)
    add_new_pepper(commit, namespace)
    return commit


def announce(
    namespace: Namespace,
    snapshot: CatalogSnapshot,
    key_id: str,
    before: str | None,
    intent: Intent,
    joined: Collection[str] = (),
    *,
    passes_maxmemory: bool = False,
) -> Commit:
    """C: the intent as read, and `version` if a plan is added -> another intent; the key is in the sets of added plans.

    Args:
        namespace: The namespace.
        snapshot: The catalogue that says that the key may be in these plans.
        key_id: The key.
        before: The text of the intent that was read.
        intent: Touches all plans that `before` does, and all that are `joined` or left.
        joined: The plans that are added.
        passes_maxmemory: Whether it is carried out also on a server at its `maxmemory`.
    """
    names, commit = namespace.names, new_commit(namespace, snapshot)
    if passes_maxmemory:
        commit.pass_maxmemory(names.intents)
    if joined:
        commit.expect(names.catalog, "version", str(snapshot.version))
    commit.replace(names.intents, key_id, before, intent.json())
    _join(commit, namespace, key_id, joined)
    return commit


def list_again(namespace: Namespace, record: KeyRecord, before: str | None, intent: Intent) -> Commit:
    """C: the intent as read -> another one; the live key is in the list and in the sets of its plans."""
    commit = Commit()
    commit.replace(namespace.names.intents, record.id, before, intent.json())
    commit.add("ZADD", namespace.names.keys, record.created_us, record.id)
    _join(commit, namespace, record.id, record.plans)
    return commit


def settle(namespace: Namespace, key_id: str, intent: str, left: Iterable[str]) -> Commit:
    """C: the own intent, or the one that was read before the record was written -> gone, and so is the key from sets.

    Args:
        namespace: The namespace.
        key_id: The key.
        intent: The text of the intent.
        left: The plans that the intent touches and the record does not name.
    """
    names, commit = namespace.names, Commit()
    commit.expect(names.intents, key_id, intent)
    for plan_id in sorted(left):
        commit.add("SREM", names.plan_keys(plan_id), key_id)
    commit.add("HDEL", names.intents, key_id)
    for plan_id in sorted(left):
        commit.add("HSET", names.plan_past(plan_id), key_id, day_of(namespace.wall_us()))
    return commit


def finish(namespace: Namespace, key_id: str, intent: str) -> Commit:
    """C: the own intent of a key that was created -> gone."""
    return settle(namespace, key_id, intent, ())


def forget(namespace: Namespace, key_id: str, before: str | None, plans: Iterable[str]) -> Commit:
    """C: the intent as read -> nothing is left of a dead key in the list, in these sets, and in those that it touches.

    Without the guard it would do no harm, for ids never come back; but the sets that a later intent touches would stay.
    """
    names, commit = namespace.names, Commit()
    commit.expect(names.intents, key_id, before)
    commit.add("ZREM", names.keys, key_id)
    for plan_id in sorted(plans):
        commit.add("SREM", names.plan_keys(plan_id), key_id)
    commit.add("HDEL", names.intents, key_id)
    return commit


def _join(commit: Commit, namespace: Namespace, key_id: str, plans: Collection[str]) -> None:
    for plan_id in plans:
        commit.add("SADD", namespace.names.plan_keys(plan_id), key_id)
    if plans:
        commit.add("HINCRBY", namespace.names.catalog, "members", 1)


def _publish(commit: Commit, namespace: Namespace, key_id: str) -> None:
    commit.add("PUBLISH", None, namespace.names.changes, f"key:{key_id}")
