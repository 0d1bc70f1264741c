"""`doctor --repair`: finishes or undoes whatever was left half done of keys, wherever in Redis it is.

Anybody may run it at any time, also while others work, and again after it was interrupted: what is to be done is done
key by key, by the rules of `admin.by_slot.repair`. What cannot be read is named, and left as it is. It looks at what is
known to be under way (intents), then walks over all records, all claims of values, and all that the catalogue lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ratelimit.admin.by_slot.intents import UnreadableIntentError
from ratelimit.admin.by_slot.reading import has_entries
from ratelimit.admin.by_slot.repair import remove_references, repair_key, write_tombstone_and_read
from ratelimit.admin.by_slot.steps import OPENS_NOTHING, claim, release, tombstone_of
from ratelimit.admin.commit import MAX_ATTEMPTS, Commit, busy_conflict, carry_out, carry_out_all
from ratelimit.admin.reading import Scan, strings_of
from ratelimit.effects import IndependentCommands, Operation, UnreadableError, read_reply, text, texts
from ratelimit.engine.pending_alerts import announce, is_pending_alert
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord, claimed_by, new_claim
from ratelimit.registry.namespace import Namespace

_NAMES_PER_SCAN = 500
_NEVER = -1
"""What PTTL says of what does not expire."""


class SharedValue(NamedTuple):
    """Two keys that one value opens: which of them is meant, only people know.

    Attributes:
        key_id: The key that the value leads to.
        other_id: The other key.
    """

    key_id: str
    other_id: str


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """What a repair of all keys did.

    Attributes:
        records: Records that were looked at, drafts and tombstones included.
        keys: Keys of which something half done was finished or undone.
        claims: Values that lead to their key again, or to none any more.
        deleted: Keys whose deletion was finished.
        alerts: Alerts that were written to the stream for gateways that crashed.
        two_keys: Pairs of keys that one value opens; they are left as they are.
        unreadable: Ids of keys whose record cannot be read; they are left as they are.
        unreadable_intents: Ids of keys whose intent is no text; they are left as they are.
        unreadable_names: Names in Redis of claims, lists and hashes that cannot be read, or not all of them.
        stopped: Why the repair ended before it had looked at everything: a node gave no answer. "" if it did not.
    """

    records: int = 0
    keys: int = 0
    claims: int = 0
    deleted: int = 0
    alerts: int = 0
    two_keys: tuple[SharedValue, ...] = ()
    unreadable: tuple[str, ...] = ()
    unreadable_intents: tuple[str, ...] = ()
    unreadable_names: tuple[str, ...] = ()
    stopped: str = ""

    def __str__(self) -> str:
        """Return the summary for people."""
        looked_at = f"{self.records:,} records were looked at{', then it stopped' if self.stopped else ''}"
        if not self.is_changed:
            return f"{looked_at}, nothing was half done"
        return (
            f"{looked_at}: {self.keys:,} keys were repaired, {self.claims:,} values lead to their key again or to "
            f"none, {self.deleted:,} deletions were finished, {self.alerts:,} alerts announced"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as plain data, for JSON."""
        return {**asdict(self), "two_keys": [pair._asdict() for pair in self.two_keys]}

    @property
    def is_changed(self) -> bool:
        """Whether anything was to be done."""
        return bool(self.keys or self.claims or self.deleted or self.alerts)


@dataclass(slots=True)
class _Count:
    """What was done so far."""

    records: int = 0
    keys: set[str] = field(default_factory=set)
    claims: int = 0
    deleted: int = 0
    alerts: int = 0
    two_keys: set[SharedValue] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    unreadable_intents: set[str] = field(default_factory=set)
    unreadable_names: set[str] = field(default_factory=set)


def repair_all(namespace: Namespace) -> Operation[RepairSummary]:
    """Finish or undo whatever was left half done. Where one script changes all of a key, nothing ever is.

    Raises:
        StoreError: The catalogue cannot be judged by. That a node gives no answer is no error: it stops the repair.
    """
    yield from namespace.find_slots()
    if not namespace.has_slots:
        return RepairSummary()
    walk, stopped = _Walk(namespace), ""
    try:
        yield from namespace.load()
        yield from walk.over_everything()
    except StoreError as error:
        if not error.is_outage:
            raise
        stopped = str(error)
    count = walk.count
    return RepairSummary(
        count.records,
        len(count.keys),
        count.claims,
        count.deleted,
        count.alerts,
        tuple(sorted(count.two_keys)),
        tuple(sorted(count.unreadable)),
        tuple(sorted(count.unreadable_intents)),
        tuple(sorted(count.unreadable_names)),
        stopped,
    )


class _StoredRecord(NamedTuple):
    """A record, and its text in Redis."""

    record: KeyRecord
    text: str


class _Walk:
    """One repair in progress."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._names = namespace, namespace.names
        self.count = _Count()

    def over_everything(self) -> Operation[None]:
        """Repair all keys that anything in Redis names."""
        names = self._names
        (fields,) = yield [("HKEYS", names.intents)]
        for key_id in sorted(self.ids(names.intents, fields)):
            yield from self.repair(key_id)
        yield from self.over_names(names.key_record("*"), self.look_at_records)
        yield from self.over_names(names.digest("*"), self.look_at_claims)
        yield from self.over_members("ZSCAN", names.keys, None)
        for plan_id in self._namespace.snapshot.plans:
            yield from self.over_members("SSCAN", names.plan_keys(plan_id), plan_id)

    def repair(self, key_id: str) -> Operation[None]:
        """Repair a key, and count it if there was something to be done."""
        try:
            report = yield from repair_key(self._namespace, key_id)
        except UnreadableIntentError:
            self.count.unreadable_intents.add(key_id)
            return
        except UnreadableError:
            self.count.unreadable.add(key_id)
            return
        if report.is_changed:
            self.count.keys.add(key_id)

    def ids(self, name: str, members: Iterable[bytes | str]) -> list[str]:
        """Return the members that can be ids of keys; note what holds them, `name`, if there are others."""
        key_ids = list[str]()
        for member in members:
            try:
                key_ids += texts([member])
            except UnreadableError:
                self.count.unreadable_names.add(name)
        return key_ids

    def over_names(self, pattern: str, look: Callable[[list[str]], Operation[None]]) -> Operation[None]:
        """Have all names on all primaries that fit a pattern looked at, page by page."""
        scan = Scan(pattern, _NAMES_PER_SCAN)
        while (names := (yield from scan.page())) is not None:
            if names:
                yield from look(names)

    def over_members(self, command: str, name: str, plan_id: str | None) -> Operation[None]:
        """Have all members of the list of keys, or of the set of a plan, looked at."""
        cursor = None
        while cursor != "0":
            ((following, members),) = yield [(command, name, cursor or "0", "COUNT", _NAMES_PER_SCAN)]
            cursor = text(following)
            key_ids = self.ids(name, members if command == "SSCAN" else members[::2])
            stored = yield from self._stored_records(key_ids)
            for key_id in filter(self._is_readable, key_ids):
                record = stored[key_id].record if key_id in stored else None
                if record is None or not record.is_live or (plan_id is not None and plan_id not in record.plans):
                    yield from self.repair(key_id)

    def _is_readable(self, key_id: str) -> bool:
        return key_id not in self.count.unreadable

    def _stored_records(self, key_ids: Sequence[str]) -> Operation[dict[str, _StoredRecord]]:
        """Return by id the records, drafts and tombstones that there are and that can be read; note the others."""
        strings = yield from strings_of(self._namespace, list(map(self._names.key_record, key_ids)))
        stored = dict[str, _StoredRecord]()
        for key_id, string in zip(key_ids, strings, strict=True):
            try:
                record_text = text(read_reply(string))
                if record_text is not None:
                    stored[key_id] = _StoredRecord(KeyRecord.from_json(record_text, key_id), record_text)
            except UnreadableError:
                self.count.unreadable.add(key_id)
        return stored

    def _stored_claims(self, names: Sequence[str]) -> Operation[dict[str, str | None]]:
        """Return by name the claims that can be read, None for those that are absent; note the others."""
        claims = dict[str, str | None]()
        for name, string in zip(names, (yield from strings_of(self._namespace, names)), strict=True):
            try:
                claims[name] = text(read_reply(string))
            except UnreadableError:
                self.count.unreadable_names.add(name)
        return claims

    def look_at_records(self, names: list[str]) -> Operation[None]:
        """Look at records by their names."""
        before, after = self._names.key_record("*").split("*")
        key_ids = [name[len(before) : -len(after)] for name in names]
        records = list((yield from self._stored_records(key_ids)).values())
        self.count.records += len(records)
        live = [each for each in records if each.record.is_live]
        entries = yield from has_entries(self._namespace, [each.record for each in live])
        digests = dict.fromkeys(self._names.digest(digest) for record, _ in live for digest in record.digests)
        claims = yield from self._stored_claims(list(digests))
        for each, (is_listed, has_all) in zip(live, entries, strict=True):
            yield from self._look_at_key(each, claims, is_listed=is_listed, has_all_entries=has_all)
        yield from self._announce_alerts([each.record.id for each in live])
        dead = [each.record for each in records if not each.record.is_live]
        expiries = yield [("PTTL", self._names.key_record(record.id)) for record in dead]
        for record, expiry_ms in zip(dead, expiries, strict=True):
            # What is left of a deleted key expires once nothing else is left of it.
            if record.state != "tombstone" or expiry_ms == _NEVER:
                yield from self.repair(record.id)

    def _announce_alerts(self, key_ids: Sequence[str]) -> Operation[None]:
        """Write alerts to the stream that gateways have noted at the key and did not come to announce."""
        names = list(map(self._names.key_hash, key_ids))
        replies = yield IndependentCommands([("HKEYS", name) for name in names])
        for key_id, name, fields in zip(key_ids, names, replies, strict=True):
            try:
                is_pending = any(map(is_pending_alert, texts(list(read_reply(fields)))))
            except UnreadableError:
                self.count.unreadable_names.add(name)
                continue
            if is_pending:
                self.count.alerts += yield from announce(self._names, key_id)

    def _look_at_key(
        self, stored: _StoredRecord, claims: Mapping[str, str | None], *, is_listed: bool, has_all_entries: bool
    ) -> Operation[None]:
        record, claim_of = stored.record, {each: self._names.digest(each) for each in stored.record.digests}
        digests = {digest for digest, until_us in record.digests.items() if until_us != OPENS_NOTHING}
        own = {digest for digest, name in claim_of.items() if claimed_by(claims.get(name) or "") == record.id}
        # What cannot be read may be a claim of the key.
        unclaimed = {digest for digest in digests - own if claim_of[digest] in claims}
        if not is_listed and unclaimed == digests:
            yield from self._finish_deletion(stored)
            return
        if not has_all_entries or own - digests:
            yield from self.repair(record.id)
        for digest in sorted(unclaimed):
            yield from self._claim_again(record.id, digest)

    def _finish_deletion(self, stored: _StoredRecord) -> Operation[None]:
        """Delete a key that nothing leads to: its node has lost that it was deleted."""
        tombstone = tombstone_of(stored.record)
        try:
            references = yield from write_tombstone_and_read(self._namespace, stored.text, tombstone)
            if references is not None:
                self.count.deleted += 1
                yield from remove_references(self._namespace, tombstone.id, tombstone, references=references)
        except UnreadableIntentError:
            self.count.unreadable_intents.add(tombstone.id)

    def _claim_again(self, key_id: str, digest: str) -> Operation[None]:
        """Have a value lead to its key again, unless it leads to another key that it opens as well."""
        name = self._names.digest(digest)
        for _ in range(MAX_ATTEMPTS):
            claims = yield from self._stored_claims([name])
            if name not in claims:
                return
            before = claims[name]
            owner_id = claimed_by(before or "")
            stored = yield from self._stored_records([key_id, owner_id])
            if not all(map(self._is_readable, (key_id, owner_id))):
                return
            record, owner = (stored[each].record if each in stored else None for each in (key_id, owner_id))
            if owner_id == key_id or record is None or not record.is_live or digest not in record.digests:
                return  # others were faster
            if owner is not None and owner.state != "tombstone" and digest in owner.digests:
                if owner.is_live and owner.digests[digest] != OPENS_NOTHING:
                    self.count.two_keys.add(SharedValue(owner_id, key_id))
                    return
                yield from self.repair(owner_id)
            elif (yield from carry_out(claim(self._namespace, digest, before, new_claim(key_id)))):
                self.count.claims += 1
                return
        raise busy_conflict()

    def look_at_claims(self, names: list[str]) -> Operation[None]:
        """Look at claims of values by their names: those that lead to no key are removed."""
        stored = yield from self._stored_claims(names)
        claims = {name: each for name, each in stored.items() if each is not None}
        owners = yield from self._stored_records(list(dict.fromkeys(map(claimed_by, claims.values()))))
        dead = list[Commit]()
        for name, each in claims.items():
            digest, owner = name[len(self._names.digest("")) :], owners.get(claimed_by(each))
            if not self._is_readable(claimed_by(each)):
                continue
            if owner is None or owner.record.state == "tombstone" or digest not in owner.record.digests:
                dead.append(release(self._namespace, digest, each))
        for result in (yield from carry_out_all(dead)):
            if isinstance(result, StoreError):
                raise result
            self.count.claims += result
