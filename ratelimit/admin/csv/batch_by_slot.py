"""The batch of an import where keys lie in slots: all or nothing per key, each step one request for all keys."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ratelimit.admin.by_slot import steps
from ratelimit.admin.by_slot.intents import Intent, touched_by
from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.admin.ceilings import KeyHeadroom
from ratelimit.admin.commit import Commit, carry_out_all
from ratelimit.admin.csv.batch import BatchCommit, KeyBatch, ResolvedRow
from ratelimit.admin.gateway_scripts import load_into_primaries
from ratelimit.effects import Operation, text
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord, new_claim
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

_ROWS_OF_ONE_SCRIPT = 64
"""Some 200 commands, which occupy the server for a millisecond or two."""

_ROWS_BY_SLOT = 500
"""Each step of each row is a script of its own: others are served between them."""

_Intents = Mapping[str, tuple[str | None, Intent]]
"""By the id of a key whose plans change: the text of its intent as read, and the intent that replaces it."""


class _New(NamedTuple):
    """A key that is created: its record, the draft before it, its intent, the claim of its value, the claim before."""

    record: KeyRecord
    draft: KeyRecord
    intent: Intent
    digest: str
    claim: str
    claim_before: str | None


class _Changed(NamedTuple):
    """A key that is changed: the text of its record, its new record, and the plans that it joins and leaves."""

    before: str
    record: KeyRecord
    joined: frozenset[str]
    left: frozenset[str]


class BatchBySlot(KeyBatch):
    """Keys that are created and changed by the steps of `by_slot.steps`."""

    def __init__(self, namespace: Namespace, snapshot: CatalogSnapshot, headroom: KeyHeadroom) -> None:
        super().__init__(namespace, snapshot, headroom)
        self._new: dict[str, _New] = {}
        self._changed: dict[str, _Changed] = {}
        self._error: StoreError | None = None

    def _add_new(self, record: KeyRecord, resolved: ResolvedRow) -> None:
        digest = resolved.digests[0]
        self._new[record.id] = _New(
            record,
            steps.draft_of(record),
            Intent.of(frozenset(record.plans), digest),
            digest,
            new_claim(record.id),
            resolved.claims[0],
        )
        self.has_new_pepper = self._namespace.new_probes() is not None

    def _add_changed(
        self, resolved: ResolvedRow, record: KeyRecord, joined: frozenset[str], left: frozenset[str]
    ) -> None:
        self._changed[record.id] = _Changed(resolved.stored, record, joined, left)

    def store(self) -> Operation[set[str]]:
        """Carry out all steps, and return the ids of the keys that are not stored, because others were faster.

        Raises:
            StoreError: A node failed. The keys of other nodes are stored; what is left of those that are not, the next
                import takes over.
        """
        intents = yield from self._read_intents()
        drafted = yield from self._place_drafts()
        announced = yield from self._announce(drafted, intents)
        claimed = yield from self._claim(announced)
        written = yield from self._write(claimed, announced, intents)
        yield from self._finish(written, intents)
        yield from self._undo(drafted - written, claimed, announced)
        for key_id in announced & intents.keys() - written:
            yield from repair_key(self._namespace, key_id)  # the next attempt may find that nothing is to be changed
        if self._error is not None:
            raise self._error
        return {*self._new, *self._changed} - written

    def _carry_out(self, commits: Mapping[str, Commit]) -> Operation[frozenset[str]]:
        """Carry out a step of several keys, and return the ids of those whose conditions held."""
        results = yield from carry_out_all(list(commits.values()))
        self._note_error(results)
        return frozenset(key_id for key_id, result in zip(commits, results, strict=True) if result is True)

    def _note_error(self, results: Iterable[bool | StoreError]) -> None:
        """Note the first error of all steps, for `store` to raise."""
        if self._error is None:
            self._error = next((result for result in results if isinstance(result, StoreError)), None)

    def _read_intents(self) -> Operation[_Intents]:
        moved = [key_id for key_id, change in self._changed.items() if change.joined or change.left]
        if not moved:
            return {}
        (replies,) = yield [("HMGET", self._names.intents, *moved)]
        intents = dict[str, tuple[str | None, Intent]]()
        for key_id, before in zip(moved, map(text, replies), strict=True):
            change = self._changed[key_id]
            intents[key_id] = before, Intent.of(touched_by(before) | change.joined | change.left)
        return intents

    def _place_drafts(self) -> Operation[frozenset[str]]:
        return (
            yield from self._carry_out(
                {key_id: steps.place_draft(self._namespace, new.draft) for key_id, new in self._new.items()}
            )
        )

    def _announce(self, drafted: Collection[str], intents: _Intents) -> Operation[frozenset[str]]:
        """List the drafts, and announce the changes of plans."""
        namespace, snapshot, headroom = self._namespace, self._snapshot, self._headroom
        commits = dict[str, Commit]()
        for key_id, new in self._new.items():
            if key_id in drafted:
                commits[key_id] = steps.list_draft(namespace, snapshot, new.draft, new.intent, headroom)
                headroom = headroom._replace(revision=str(int(headroom.revision or 0) + 1))
        for key_id, (before, intent) in intents.items():
            joined = sorted(self._changed[key_id].joined)
            commits[key_id] = steps.announce(namespace, snapshot, key_id, before, intent, joined)
        return (yield from self._carry_out(commits))

    def _claim(self, listed: Collection[str]) -> Operation[frozenset[str]]:
        return (
            yield from self._carry_out(
                {
                    key_id: steps.claim(self._namespace, new.digest, new.claim_before, new.claim)
                    for key_id, new in self._new.items()
                    if key_id in listed
                }
            )
        )

    def _write(
        self,
        claimed: Collection[str],
        announced: Collection[str],
        intents: _Intents,
    ) -> Operation[frozenset[str]]:
        """Write the records: what takes effect."""
        namespace, version_token = self._namespace, self._snapshot.version_token
        commits = dict[str, Commit]()
        for key_id, new in self._new.items():
            if key_id in claimed:
                commits[key_id] = steps.write_record(
                    namespace, new.draft.json(), new.record, version_token, joins=True, publishes=False
                )
        for key_id, change in self._changed.items():
            if key_id not in intents or key_id in announced:
                commits[key_id] = steps.write_record(
                    namespace, change.before, change.record, version_token, joins=bool(change.joined), publishes=False
                )
        return (yield from self._carry_out(commits))

    def _finish(self, written: Collection[str], intents: _Intents) -> Operation[None]:
        """Take back the intents, and publish that keys changed, all at once."""
        namespace, commits = self._namespace, dict[str, Commit]()
        for key_id in written:
            if key_id in self._new:
                commits[key_id] = steps.finish(namespace, key_id, self._new[key_id].intent.json())
            elif key_id in intents:
                intent = intents[key_id][1]
                left = intent.touched.difference(self._changed[key_id].record.plans)
                commits[key_id] = steps.settle(namespace, key_id, intent.json(), left)
        push = Commit()
        push.add("PUBLISH", None, self._names.changes, "keys")
        done = yield from self._carry_out({**commits, "": push} if written else {})
        for key_id in commits.keys() - done:
            if key_id in intents:
                yield from repair_key(namespace, key_id)  # others' late steps may have taken it out of a set

    def _undo(self, drafts: Collection[str], claimed: Collection[str], announced: Collection[str]) -> Operation[None]:
        """Take back drafts of keys that cannot be created. Whose draft another one has undone is left to that one."""
        namespace, new = self._namespace, self._new
        tombstones = {key_id: steps.tombstone_of(new[key_id].draft) for key_id in drafts}
        undone = yield from self._carry_out(
            {
                key_id: steps.write_tombstone(namespace, new[key_id].draft.json(), tombstone)
                for key_id, tombstone in tombstones.items()
            }
        )
        removals = [
            (key_id, True, steps.release(namespace, new[key_id].digest, new[key_id].claim))
            for key_id in undone & frozenset(claimed)
        ]
        removals += [
            (key_id, False, steps.forget(namespace, key_id, new[key_id].intent.json(), new[key_id].record.plans))
            for key_id in undone & frozenset(announced)
        ]
        results = yield from carry_out_all([commit for *_, commit in removals])
        self._note_error(results)
        # What is still named elsewhere is left to a repair, and its tombstone stays until then. A claim whose guard
        # does not hold is another key's by now, so nothing of this one is left; an intent may be a repairer's.
        named = {
            key_id
            for (key_id, removes_claim, _), result in zip(removals, results, strict=True)
            if isinstance(result, StoreError) or not (result or removes_claim)
        }
        yield from self._carry_out(
            {key_id: steps.expire(namespace, key_id, tombstones[key_id].json()) for key_id in undone - named}
        )


def rows_of_a_batch(namespace: Namespace) -> Operation[int]:
    """Return how many rows are to be stored together; where keys lie in slots, have all primaries know the script."""
    yield from namespace.find_slots()
    if not namespace.has_slots:
        return _ROWS_OF_ONE_SCRIPT
    yield from load_into_primaries("commit")
    return _ROWS_BY_SLOT


def new_batch(namespace: Namespace, snapshot: CatalogSnapshot, headroom: KeyHeadroom) -> KeyBatch:
    """Return an empty batch."""
    kind = BatchBySlot if namespace.has_slots else BatchCommit
    return kind(namespace, snapshot, headroom)


class UnfinishedKeys:
    """Values that somebody is giving to a key. Whoever takes his time, or crashed, is not waited for."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._seen: set[str] = set()

    def take_over(self, rows: Iterable[ResolvedRow]) -> Operation[set[str]]:
        """Return the digests of rows that have to be read again: somebody gives, or gave, the value to a key.

        Met again unchanged, that is undone. A late step of whoever it was fails then.
        """
        waiting = set[str]()
        for each in rows:
            if each.unfinished is None:
                continue
            waiting.add(each.digests[0])
            if each.unfinished.stamp in self._seen:
                yield from repair_key(self._namespace, each.unfinished.id)
            self._seen.add(each.unfinished.stamp)
        return waiting
