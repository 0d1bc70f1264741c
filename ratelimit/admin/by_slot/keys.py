"""Changes of one key where keys lie in slots, each a sequence of steps (steps.py), for whoever comes meanwhile.

Whoever is interrupted leaves a state that no reader mistakes, and that anybody may finish or undo (repair.py). What a
step depends on is its guard; if that does not hold, others were faster, and the change is computed anew. Once it has
taken effect a change does not fail any more: what could not be cleaned up after it is left to a repair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ratelimit import validation
from ratelimit.admin.by_slot.claims import ensure_claimable, store_new_pepper
from ratelimit.admin.by_slot.intents import Intent, intent_text
from ratelimit.admin.by_slot.reading import StoredKey, claim_from, claim_reads, intent_read, key_reads, stored_key_from
from ratelimit.admin.by_slot.repair import remove_references, repair_key, write_tombstone_and_read
from ratelimit.admin.by_slot.steps import (
    OPENS_NOTHING,
    announce,
    claim,
    draft_of,
    finish,
    go_live,
    list_draft,
    place_draft,
    releases,
    renewed,
    settle,
    tombstone_of,
    write_record,
)
from ratelimit.admin.ceilings import (
    KeyHeadroom,
    check_key_ceiling,
    key_headroom_from,
    key_headroom_reads,
    max_attempts,
)
from ratelimit.admin.commit import (
    MAX_ATTEMPTS,
    busy_conflict,
    carry_out,
    carry_out_all,
    carry_out_and_read,
    ensure_catalog,
    no_such_key,
)
from ratelimit.admin.key_plans import check_plans
from ratelimit.admin.preconditions import check_revision
from ratelimit.effects import AtNode, Operation, Primaries, text, time_us
from ratelimit.errors import ConfigError, Conflict, StoreError
from ratelimit.model import ApiKey
from ratelimit.registry.key_record import KeyRecord, new_claim
from ratelimit.registry.key_values import Secret, generated_id
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import Command

Change = Callable[[KeyRecord, CatalogSnapshot], KeyRecord]
"""Returns the new record for the stored one. Raises Conflict or NotFound."""


def create_key(namespace: Namespace, record: KeyRecord, secret: Secret) -> Operation[KeyRecord]:
    """Create a key with a value; return its record, which has another id if others were faster."""
    digests = namespace.digest.all(secret.value)
    for _ in range(max_attempts(namespace)):
        basis = yield from _basis(namespace, record, digests)
        yield from ensure_claimable(namespace, digests, basis.claims, record.id)
        draft = draft_of(record)
        try:
            if (yield from _make(namespace, record, draft, basis)):
                return record
        except (StoreError, ConfigError):  # before the key was live: nobody need wait for the draft to expire
            with suppress(StoreError, Conflict):
                yield from repair_key(namespace, record.id)
            raise
        yield from repair_key(namespace, record.id)
        record = renewed(record, id=generated_id())
    raise busy_conflict(max_attempts(namespace))


class _Basis(NamedTuple):
    """What a new key depends on: that there may be one more, that it may be in its plans, and that its value is free.

    Attributes:
        headroom: How many keys there may be.
        snapshot: The catalogue with its plans.
        claims: The claims of its value's digests.
    """

    headroom: KeyHeadroom
    snapshot: CatalogSnapshot
    claims: Sequence[str | None]


def _basis(namespace: Namespace, record: KeyRecord, digests: Sequence[str]) -> Operation[_Basis]:
    """Read what a new key with this record and these digests depends on."""
    reads = [*key_headroom_reads(namespace), *claim_reads(namespace, digests)]
    snapshot, replies = yield from namespace.load_and_read(reads, for_change=True)
    claims_at = len(replies) - len(digests)
    headroom = key_headroom_from(namespace, replies[:claims_at])
    check_key_ceiling(namespace, headroom)
    if not snapshot.epoch:
        snapshot = yield from ensure_catalog(namespace)
    check_plans(namespace.ceilings, snapshot, "", (), record.plans)
    return _Basis(headroom, snapshot, list(map(text, replies[claims_at:])))


def _make(namespace: Namespace, record: KeyRecord, draft: KeyRecord, basis: _Basis) -> Operation[bool]:
    """Make a key of a draft; return False if the id, the draft or the value was lost to others."""
    (digest,), dead_claim = record.digests, basis.claims[0]
    if not (yield from carry_out(place_draft(namespace, draft))):
        return False
    intent = Intent.of(frozenset(record.plans), digest)
    for _ in range(max_attempts(namespace)):
        if (yield from carry_out(list_draft(namespace, basis.snapshot, draft, intent, basis.headroom))):
            break
        basis = yield from _basis(namespace, record, ())  # others changed plans, or made keys under a ceiling
    else:
        return False
    if not (yield from carry_out(claim(namespace, digest, dead_claim, new_claim(record.id)))):
        return False
    if not (yield from carry_out(go_live(namespace, basis.snapshot, draft, record))):
        return False
    namespace.on_change_message(f"key:{record.id}")
    with suppress(StoreError):
        yield from carry_out(finish(namespace, record.id, intent.json()))
    return True


def change_record(namespace: Namespace, key_id: str, change: Change, *, revokes: bool) -> Operation[KeyRecord]:
    """Change what a record says, but not its plans: one step. Needs the key's slot alone."""
    for _ in range(MAX_ATTEMPTS):
        stored, _ = yield from _live_key(namespace, key_id)
        new = renewed(change(stored.record, namespace.snapshot))
        token = yield from stored.version_token(namespace)
        if (yield from carry_out(write_record(namespace, stored.text, new, token, passes_maxmemory=revokes))):
            namespace.on_change_message(f"key:{key_id}")
            return new
    raise busy_conflict()


def change_plans(namespace: Namespace, key_id: str, change: Change, *, revokes: bool) -> Operation[KeyRecord]:
    """Change the plans of a key."""
    validation.key_id(key_id)
    reads = [intent_read(namespace, key_id), *key_reads(namespace, key_id)]
    is_begun = False
    for _ in range(MAX_ATTEMPTS):
        try:
            snapshot, (intent_reply, *key_replies) = yield from namespace.load_and_read(reads)
            intent_before = intent_text(intent_reply)
            stored = _live(key_id, stored_key_from(key_id, key_replies))
            new = renewed(change(stored.record, snapshot))
        except ConfigError:
            if is_begun:
                yield from repair_key(namespace, key_id)
            raise
        former = Intent.from_json(intent_before) if intent_before is not None else Intent.of(frozenset())
        before, after = frozenset(stored.record.plans), frozenset(new.plans)
        intent = Intent.of(before ^ after | former.touched, former.digest)
        joined = [plan_id for plan_id in new.plans if plan_id not in before]
        first = announce(namespace, snapshot, key_id, intent_before, intent, joined, passes_maxmemory=revokes)
        if not (yield from carry_out(first)):
            continue
        is_begun = True
        # A plan that is added needs the version that the first step was guarded by; else `r` keeps its own.
        token = snapshot.version_token if joined else (yield from stored.version_token(namespace))
        second = write_record(namespace, stored.text, new, token, joins=bool(joined), passes_maxmemory=revokes)
        if (yield from carry_out(second)):
            namespace.on_change_message(f"key:{key_id}")
            with suppress(StoreError, Conflict):
                yield from _settle(namespace, new, intent)
            return new
    if is_begun:
        yield from repair_key(namespace, key_id)
    raise busy_conflict()


def _settle(namespace: Namespace, record: KeyRecord, intent: Intent) -> Operation[None]:
    """Finish a change of plans that has taken effect."""
    left = intent.touched - frozenset(record.plans)
    if (yield from carry_out(settle(namespace, record.id, intent.json(), left))):
        return
    names = namespace.names
    sets = [("SISMEMBER", names.plan_keys(plan_id), record.id) for plan_id in record.plans]
    other_intent, *has = yield [("HGET", names.intents, record.id), *sets]
    if other_intent is None and not all(has):
        yield from repair_key(namespace, record.id)


def rotate_key(
    namespace: Namespace, key_id: str, secret: Secret, grace_us: int, expected: ApiKey | None
) -> Operation[KeyRecord]:
    """Give a key a new value; the old one opens it for `grace_us` microseconds more."""
    digests, begun = namespace.digest.all(secret.value), ""
    for _ in range(MAX_ATTEMPTS):
        try:
            stored, replies = yield from _live_key(namespace, key_id, claim_reads(namespace, digests))
            if stored.text != begun:
                check_revision(stored.record, expected)
            claims = list(map(text, replies))
            yield from ensure_claimable(namespace, digests, claims, key_id)
            if stored.record.digests.get(digests[0]) == 0:
                raise Conflict(f"key {key_id!r} has this value already", field="value")
        except ConfigError:
            if begun:
                yield from repair_key(namespace, key_id)
            raise
        yield from store_new_pepper(namespace)
        rotation = _Rotation(namespace, stored, digests[0], grace_us)
        if (yield from rotation.name()):
            begun = rotation.named.json()
            if (yield from rotation.claim(claims[0])) and (yield from rotation.take_effect()):
                return rotation.record
    if begun:
        yield from repair_key(namespace, key_id)
    raise busy_conflict()


class _Rotation:
    """The steps of one attempt to give a key another value."""

    def __init__(self, namespace: Namespace, stored: StoredKey, digest: str, grace_us: int) -> None:
        self._namespace, self._stored, self._digest, self._grace_us = namespace, stored, digest, grace_us
        self.named = renewed(stored.record, digests={**stored.record.digests, digest: OPENS_NOTHING})
        self.record = self.named
        self._token = ""
        self._former: dict[str, str | None] = {}
        self._now_us = 0  # unknown where there is no grace: then all former digests end, whenever that is

    def name(self) -> Operation[bool]:
        """K: the record names the digest, which opens nothing yet."""
        self._token = yield from self._stored.version_token(self._namespace)
        return (yield from self._write(self._stored.text, self.named, publishes=False))

    def claim(self, dead_claim: str | None) -> Operation[bool]:
        """D: the digest is the key's. In the same round trip the claims of the former digests are read."""
        namespace, former = self._namespace, [old for old in self._stored.record.digests if old != self._digest]
        claim_text = new_claim(self.named.id)
        step = claim(namespace, self._digest, dead_claim, claim_text, passes_maxmemory=not self._grace_us)
        self._now_us = namespace.script_us()
        clock: list[Command] = [("TIME",)] if self._grace_us and not self._now_us else []
        is_claimed, replies = yield from carry_out_and_read(step, [*claim_reads(namespace, former), *clock])
        if clock:
            time = replies.pop()
            self._now_us = (yield from _any_time_us()) if isinstance(time, StoreError) else time_us(time)
        # One that could not be read is left to a repair.
        claims = (None if isinstance(reply, StoreError) else claim_from(reply) for reply in replies)
        self._former = dict(zip(former, claims, strict=True))
        return is_claimed

    def take_effect(self) -> Operation[bool]:
        """K: the digest opens the key, the old ones end. D: those that have ended are given up."""
        digests = {self._digest: 0} | {
            old: self._end_us(until_us)
            for old, until_us in self._stored.record.digests.items()
            if old != self._digest and not self._has_ended(until_us)
        }
        self.record = renewed(self.named, digests=digests)
        if not (yield from self._write(self.named.json(), self.record)):
            return False
        self._namespace.on_change_message(f"key:{self.record.id}")
        with suppress(StoreError):
            ended = {
                old: each for old, each in self._former.items() if digests.get(old, OPENS_NOTHING) == OPENS_NOTHING
            }
            yield from carry_out_all(releases(self._namespace, self.record.id, ended))
        return True

    def _has_ended(self, until_us: int) -> bool:
        """Return whether a former digest is no longer named: its claim goes now, or is dead."""
        return until_us == OPENS_NOTHING or 0 < until_us <= self._now_us

    def _end_us(self, until_us: int) -> int:
        """Return until when a former digest opens the key."""
        if not self._grace_us:
            return OPENS_NOTHING
        grace_end_us = self._now_us + self._grace_us
        return min(until_us or grace_end_us, grace_end_us)

    def _write(self, before: str, record: KeyRecord, *, publishes: bool = True) -> Operation[bool]:
        passes = not self._grace_us
        step = write_record(self._namespace, before, record, self._token, passes_maxmemory=passes, publishes=publishes)
        return (yield from carry_out(step))


def _any_time_us() -> Operation[int]:
    """Return the time of the first node that says it: as good as the catalogue's, where that one's cannot be had."""
    *others, last = yield Primaries()
    for node in others:
        with suppress(StoreError):
            return time_us((yield AtNode(node, [("TIME",)]))[0])
    return time_us((yield AtNode(last, [("TIME",)]))[0])


def delete_key(namespace: Namespace, key_id: str, expected: ApiKey | None) -> Operation[None]:
    """Delete a key and everything counted for it."""
    for _ in range(MAX_ATTEMPTS):
        stored, _ = yield from _live_key(namespace, key_id)
        check_revision(stored.record, expected)
        tombstone = tombstone_of(stored.record)
        references = yield from write_tombstone_and_read(namespace, stored.text, tombstone)
        if references is not None:
            namespace.on_change_message(f"key:{key_id}")
            with suppress(StoreError, Conflict):
                yield from remove_references(namespace, key_id, tombstone, references=references)
            return
    raise busy_conflict()


def _live_key(
    namespace: Namespace, key_id: str, further: Sequence[Command] = ()
) -> Operation[tuple[StoredKey, list[Any]]]:
    """Return a key, and the replies to further reads. Raises NotFound. Needs no node but the key's and theirs."""
    validation.key_id(key_id)
    record, r, *replies = yield from namespace.confirm_and_read([*key_reads(namespace, key_id), *further])
    return _live(key_id, stored_key_from(key_id, (record, r))), replies


def _live(key_id: str, stored: StoredKey | None) -> StoredKey:
    """Return a key. Raises NotFound for a draft, a tombstone, or None."""
    if stored is None or not stored.record.is_live:
        raise no_such_key(key_id)
    return stored
