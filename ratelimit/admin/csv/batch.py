"""One batch of an import: what Redis knows of its rows, what is to be said of them, and what is to be written. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ratelimit.admin.ceilings import Room, no_room, take_room
from ratelimit.admin.commit import begin, stamp_record, tell_new_pepper
from ratelimit.admin.csv.format import Row
from ratelimit.effects import Operation, text
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_record import KeyRecord, claimed_by, new_claim
from ratelimit.registry.key_values import generated_id, generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import day_of
from ratelimit.scripts import ScriptCall


class Entry(NamedTuple):
    """A row and what Redis knows of its value: who claims each digest, and the key it opens or opened.

    claims  entries of the index as they were read: a dead one is replaced if it is this one still
    """

    row: Row
    digests: Sequence[str]
    claims: Sequence[str | None]
    record: KeyRecord | None = None
    stored: str = ""
    is_current: bool = True


class Verdict(NamedTuple):
    """What becomes of a row: is it stored, with which plans (None: it names none that can be), what is wrong."""

    is_good: bool
    plans: tuple[str, ...] | None = None
    problems: Sequence[str] = ()


def looked_up(namespace: Namespace, rows: Sequence[Row]) -> Operation[list[Entry]]:
    """Ask what is known of the values of these rows: all of them at once."""
    if not rows:
        yield [namespace.version_query()]  # asked to let an event loop go on, as elsewhere
        return []
    names = namespace.names
    digests = [namespace.digest.all(row.value) for row in rows]
    (found,) = yield [("MGET", *(names.digest(digest) for one in digests for digest in one))]
    claims = map(text, found)
    entries = [Entry(row, one, [next(claims) for _ in one]) for row, one in zip(rows, digests, strict=True)]
    known = list(dict.fromkeys(claimed_by(claim) for entry in entries for claim in entry.claims if claim))
    if not known:
        return entries
    (found,) = yield [("MGET", *map(names.key_record, known))]
    records = {
        key_id: (KeyRecord.from_json(stored, key_id), stored)
        for key_id, stored in zip(known, map(text, found), strict=True)
        if stored is not None
    }
    return [_with_record(entry, records) for entry in entries]


def _with_record(entry: Entry, records: dict[str, tuple[KeyRecord, str]]) -> Entry:
    """Add the record of the key that the value opens. A claim that no record bears out is dead, and is taken over."""
    for digest, claim in zip(entry.digests, entry.claims, strict=True):
        record, stored = records.get(claimed_by(claim or ""), (None, ""))
        if record is not None and digest in record.digests and record.state != "tombstone":
            is_current = record.is_live and not record.digests[digest]
            return entry._replace(record=record, stored=stored, is_current=is_current)
    return entry


def judged(entry: Entry, snapshot: CatalogSnapshot, ceilings: Ceilings) -> Verdict:
    """Tell what becomes of a row under this snapshot. A plan that cannot be joined is dropped, not the whole row."""
    if entry.record is not None and not entry.record.is_live:
        problem = f"Key is being given to key {entry.record.id!r} by somebody else: import again in a minute"
        return Verdict(is_good=False, problems=[problem])
    if entry.record is not None and not entry.is_current:
        problem = f"Key is a value that key {entry.record.id!r} had before it was rotated"
        return Verdict(is_good=False, problems=[f"{problem}: give the new one, or remove the line"])
    usable, opened, problems = list[str](), dict[str, str](), list[str]()
    most = plans_of_key(ceilings, entry.record)
    for place, plan_id in enumerate(entry.row.plans or (), 1):
        plan = snapshot.plans.get(plan_id)
        if plan is None:
            problems.append(_no_plan(plan_id, place))
            continue
        stages = [stage.stage for stage in plan.stages]
        clash = next((stage for stage in stages if stage in opened), None)
        if clash is not None:
            both = f"plans {opened[clash]!r} and {plan_id!r} of the list both open stage {clash!r}"
            problems.append(f"UsagePlanIds: {both}, so the second was dropped: leave one of them out")
            continue
        if most is not None and len(usable) >= most:
            problems.append(
                f"UsagePlanIds: {plan_id!r} would be plan number {most + 1} of this key, beyond the ceiling "
                f"(plans_per_key) of {ceilings.plans_per_key}, and was dropped: leave it out, or raise the ceiling"
            )
            continue
        usable.append(plan_id)
        opened |= dict.fromkeys(stages, plan_id)
    return Verdict(is_good=True, plans=tuple(usable) or None, problems=problems)


def plans_of_key(ceilings: Ceilings, record: KeyRecord | None) -> int | None:
    """Return in how many plans a key may come to be, None for any number. One that is in more already may stay so."""
    return None if ceilings.plans_per_key is None else max(ceilings.plans_per_key, len(record.plans) if record else 0)


def within_room(
    entries: Sequence[Entry], verdicts: Sequence[Verdict], room: Room, ceilings: Ceilings, new: set[str]
) -> list[Verdict]:
    """Refuse the rows of keys for which there is no room. `new` has the digests of those for which there is."""
    found = list[Verdict]()
    for entry, verdict in zip(entries, verdicts, strict=True):
        digest = entry.digests[0]
        if room.keys is not None and verdict.is_good and entry.record is None and digest not in new:
            if len(new) >= room.keys:
                found.append(Verdict(is_good=False, problems=[f"Key: {no_room(ceilings)}, and import again"]))
                continue
            new.add(digest)
        found.append(verdict)
    return found


def _no_plan(plan_id: str, place: int) -> str:
    # A text of 20 characters or more could be a key value that got into the wrong column.
    shown = f"{plan_id!r}, " if len(plan_id) < 20 else ""
    problem = f"UsagePlanIds: {shown}number {place} of the list, is no plan and was dropped"
    return f"{problem}: correct it, or make the plan and import again"


class Changes:
    """What one batch writes, and what it rests on."""

    def __init__(self, namespace: Namespace, snapshot: CatalogSnapshot, room: Room) -> None:
        self._namespace, self._names, self._book, self._room = namespace, namespace.names, snapshot, room
        self._commit = begin(namespace, snapshot)
        self._is_empty = True
        self._rests_on_plans = False
        self._made: list[str | int] = []
        self._joined: dict[str, list[str]] = {}
        self._left: dict[str, list[str]] = {}
        self.has_new_pepper = False

    @property
    def has_room(self) -> bool:
        """Tell whether one more key may be made."""
        return self._room.keys is None or len(self._made) // 2 < self._room.keys

    def create(self, entry: Entry, plans: tuple[str, ...], created_us: int) -> str:
        """Make a key, and return its id."""
        row, digest = entry.row, entry.digests[0]
        record = KeyRecord(
            generated_id(),
            row.name,
            row.enabled is not False,
            plans,
            {digest: 0},
            created_us,
            0,
            generated_token(),
            row.description or "",
        )
        for each, claim in zip(entry.digests, entry.claims, strict=True):
            self._commit.expect(self._names.digest(each), None, claim)
        self._commit.expect(self._names.key_record(record.id), None, None)
        self._commit.do("SET", self._names.digest(digest), new_claim(record.id))
        self._made += (created_us, record.id)
        self._rests_on_plans = True
        self._write(record, joined=plans)
        return record.id

    def update(self, row: Row, record: KeyRecord, stored: str, plans: tuple[str, ...] | None) -> None:
        """Have a key be as its row says; what the row does not say stays. Writes nothing if it is so already."""
        before, after = set(record.plans), set(record.plans if plans is None else plans)
        new = replace(
            record,
            name=row.name,
            enabled=record.enabled if row.enabled is None else row.enabled,
            plans=record.plans if plans is None or before == after else plans,
            description=record.description if row.description is None else row.description,
        )
        if new == record:
            return
        self._commit.expect(self._names.key_record(record.id), None, stored)
        # Whether a plan was dropped from the row is for the plans to say as well.
        self._rests_on_plans |= bool(row.plans)
        self._write(replace(new, stamp=generated_token()), joined=after - before, left=before - after)

    def _write(self, record: KeyRecord, joined: Collection[str] = (), left: Iterable[str] = ()) -> None:
        """Write a record together with what its hash goes by, as `KeyAdmin` does for one."""
        self._is_empty = False
        stamp_record(self._commit, self._namespace, self._book, record, joins=bool(joined))
        for plan_id in joined:
            self._joined.setdefault(plan_id, []).append(record.id)
        for plan_id in left:
            self._left.setdefault(plan_id, []).append(record.id)

    def call(self) -> ScriptCall | None:
        """Return the script call that commits all of it, None if there is nothing to write. To be called once."""
        if self._is_empty:
            return None
        commit, names = self._commit, self._names
        if self._rests_on_plans or self._joined:
            commit.expect(names.catalog, "version", str(self._book.version))
        if self._made:
            commit.do("ZADD", names.keys, *self._made)
            take_room(commit, self._namespace, self._room)
            self.has_new_pepper = tell_new_pepper(commit, self._namespace)
        for plan_id, ids in self._left.items():
            commit.do("SREM", names.plan_keys(plan_id), *ids)
            today = day_of(self._namespace.wall_us())
            commit.do("HSET", names.plan_past(plan_id), *(part for key_id in ids for part in (key_id, today)))
        for plan_id, ids in self._joined.items():
            commit.do("SADD", names.plan_keys(plan_id), *ids)
        if self._joined:
            commit.do("HINCRBY", names.catalog, "members", 1)
        commit.do("PUBLISH", None, names.changes, "keys")
        return commit.call()
