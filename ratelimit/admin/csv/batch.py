"""One batch of an import: what Redis has for its rows, what becomes of each, and the commit that stores them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ratelimit.admin.by_slot.steps import OPENS_NOTHING
from ratelimit.admin.ceilings import KeyHeadroom, catalogue_full, guard_key_count
from ratelimit.admin.commit import add_new_pepper, add_record, new_commit
from ratelimit.admin.csv.format import Row
from ratelimit.admin.reading import texts_of
from ratelimit.effects import Operation, pause
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_record import KeyRecord, claimed_by, new_claim
from ratelimit.registry.key_values import generated_id, generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import day_of
from ratelimit.scripts import ScriptCall

_SHORTEST_VALUE = 20


class ResolvedRow(NamedTuple):
    """A row, and what Redis has for its value.

    Attributes:
        row: The row.
        digests: Digests of its value, under each pepper.
        claims: The entries of the index for these digests, as they were read: a dead one is replaced if unchanged.
        record: The record of the key that has, or had, the value; None if there is none.
        stored: The text of that record in Redis.
        is_current: Whether the value is the key's present one, not one that a rotation replaced.
        unfinished: Where keys lie in slots, the record of a key that is being given the value, or whose giver crashed.
    """

    row: Row
    digests: Sequence[str]
    claims: Sequence[str | None]
    record: KeyRecord | None = None
    stored: str = ""
    is_current: bool = True
    unfinished: KeyRecord | None = None


class RowOutcome(NamedTuple):
    """What becomes of a row.

    Attributes:
        is_stored: Whether it is stored.
        plans: Ids of the plans it is stored with; None if it names none that the key can be in.
        problems: What is wrong with it, for the warnings.
    """

    is_stored: bool
    plans: tuple[str, ...] | None = None
    problems: Sequence[str] = ()


def resolve_rows(namespace: Namespace, rows: Sequence[Row]) -> Operation[list[ResolvedRow]]:
    """Read what Redis has for the values of these rows."""
    if not rows:
        yield pause()
        return []
    names = namespace.names
    digests_by_row = [namespace.digest.all(row.value) for row in rows]
    digest_names = [names.digest(digest) for digests in digests_by_row for digest in digests]
    claims = iter((yield from texts_of(namespace, digest_names)))
    resolved = [
        ResolvedRow(row, digests, [next(claims) for _ in digests])
        for row, digests in zip(rows, digests_by_row, strict=True)
    ]
    key_ids = list(dict.fromkeys(claimed_by(claim) for each in resolved for claim in each.claims if claim))
    if not key_ids:
        return resolved
    stored_records = yield from texts_of(namespace, list(map(names.key_record, key_ids)))
    records = {
        key_id: (KeyRecord.from_json(stored, key_id), stored)
        for key_id, stored in zip(key_ids, stored_records, strict=True)
        if stored is not None
    }
    return [_with_record(each, records, has_slots=namespace.has_slots) for each in resolved]


def _with_record(resolved: ResolvedRow, records: dict[str, tuple[KeyRecord, str]], *, has_slots: bool) -> ResolvedRow:
    """Add the record of the key that has the value. A claim whose key does not list the digest is dead."""
    for digest, claim in zip(resolved.digests, resolved.claims, strict=True):
        record, stored = records.get(claimed_by(claim or ""), (None, ""))
        if record is not None and digest in record.digests and record.state != "tombstone":
            if has_slots and (not record.is_live or record.digests[digest] == OPENS_NOTHING):
                return resolved._replace(unfinished=record)
            is_current = record.is_live and not record.digests[digest]
            return resolved._replace(record=record, stored=stored, is_current=is_current)
    return resolved


def row_outcome(resolved: ResolvedRow, snapshot: CatalogSnapshot, ceilings: Ceilings) -> RowOutcome:
    """Return what becomes of a row under this snapshot. A plan that the key cannot be in is dropped, not the row."""
    record = resolved.record
    if record is not None and not record.is_live:
        problem = f"Key is being given to key {record.id!r} by somebody else: import again in a minute"
        return RowOutcome(is_stored=False, problems=[problem])
    if record is not None and not resolved.is_current:
        problem = f"Key is a value that key {record.id!r} had before it was rotated"
        return RowOutcome(is_stored=False, problems=[f"{problem}: give the new one, or remove the line"])
    plan_ids, plan_by_stage, problems = list[str](), dict[str, str](), list[str]()
    max_plans = max_plans_of_key(ceilings, record)
    for number, plan_id in enumerate(resolved.row.plans or (), 1):
        plan = snapshot.plans.get(plan_id)
        if plan is None:
            problems.append(_no_plan(plan_id, number))
            continue
        stages = [plan_stage.stage for plan_stage in plan.stages]
        clash = next((stage for stage in stages if stage in plan_by_stage), None)
        if clash is not None:
            both = f"plans {plan_by_stage[clash]!r} and {plan_id!r} of the list both open stage {clash!r}"
            problems.append(f"UsagePlanIds: {both}, so the second was dropped: leave one of them out")
            continue
        if max_plans is not None and len(plan_ids) >= max_plans:
            problems.append(
                f"UsagePlanIds: {plan_id!r} would be plan number {max_plans + 1} of this key, beyond the ceiling "
                f"(plans_per_key) of {ceilings.plans_per_key}, and was dropped: leave it out, or raise the ceiling"
            )
            continue
        plan_ids.append(plan_id)
        plan_by_stage |= dict.fromkeys(stages, plan_id)
    return RowOutcome(is_stored=True, plans=tuple(plan_ids) or None, problems=problems)


def max_plans_of_key(ceilings: Ceilings, record: KeyRecord | None) -> int | None:
    """Return how many plans a key may be in, None for any number. One that exceeds the ceiling already may stay so."""
    return None if ceilings.plans_per_key is None else max(ceilings.plans_per_key, len(record.plans) if record else 0)


def apply_key_ceiling(
    rows: Sequence[ResolvedRow],
    outcomes: Sequence[RowOutcome],
    headroom: KeyHeadroom,
    ceilings: Ceilings,
    new: set[str],
) -> list[RowOutcome]:
    """Return the outcomes, with rows of new keys that exceed the ceiling on keys not stored.

    Args:
        rows: The rows.
        outcomes: Their outcomes so far.
        headroom: How many keys may be created.
        ceilings: The ceilings.
        new: Digests of the new keys within the headroom; those of these rows are added.
    """
    bounded = list[RowOutcome]()
    for resolved, outcome in zip(rows, outcomes, strict=True):
        digest = resolved.digests[0]
        is_new = outcome.is_stored and resolved.record is None and digest not in new
        if headroom.remaining is not None and is_new:
            if len(new) >= headroom.remaining:
                problem = f"Key: {catalogue_full(ceilings)}, and import again"
                bounded.append(RowOutcome(is_stored=False, problems=[problem]))
                continue
            new.add(digest)
        bounded.append(outcome)
    return bounded


def _no_plan(plan_id: str, number: int) -> str:
    # A text as long as a key value could be one that is in the wrong column.
    shown = f"{plan_id!r}, " if len(plan_id) < _SHORTEST_VALUE else ""
    problem = f"UsagePlanIds: {shown}number {number} of the list, is no plan and was dropped"
    return f"{problem}: correct it, or make the plan and import again"


class KeyBatch(ABC):
    """Keys of one batch that are created and changed.

    Attributes:
        has_new_pepper: Whether storing them adds a pepper to the catalogue.
    """

    def __init__(self, namespace: Namespace, snapshot: CatalogSnapshot, headroom: KeyHeadroom) -> None:
        self._namespace, self._names, self._snapshot, self._headroom = namespace, namespace.names, snapshot, headroom
        self._created = 0
        self.has_new_pepper = False

    @property
    def has_headroom(self) -> bool:
        """Whether one more key may be created."""
        return self._headroom.remaining is None or self._created < self._headroom.remaining

    def create(self, resolved: ResolvedRow, plans: tuple[str, ...], created_us: int) -> str:
        """Create a key, and return its id."""
        row = resolved.row
        record = KeyRecord(
            generated_id(),
            row.name,
            row.enabled is not False,
            plans,
            {resolved.digests[0]: 0},
            created_us,
            0,
            generated_token(),
            row.description or "",
        )
        self._created += 1
        self._add_new(record, resolved)
        return record.id

    def update(self, resolved: ResolvedRow, record: KeyRecord, plans: tuple[str, ...] | None) -> None:
        """Change a key to what its row says.

        Args:
            resolved: The row; a field that is None leaves the key's as it is.
            record: The key's record; nothing is written if it equals the row already.
            plans: Ids of the plans the key comes to be in; None leaves them as they are.
        """
        row = resolved.row
        before, after = frozenset(record.plans), frozenset(record.plans if plans is None else plans)
        new = replace(
            record,
            name=row.name,
            enabled=record.enabled if row.enabled is None else row.enabled,
            plans=record.plans if plans is None or before == after else plans,
            description=record.description if row.description is None else row.description,
        )
        if new != record:
            self._add_changed(resolved, replace(new, stamp=generated_token()), after - before, before - after)

    @abstractmethod
    def _add_new(self, record: KeyRecord, resolved: ResolvedRow) -> None:
        """Have `store` create a key with this record."""

    @abstractmethod
    def _add_changed(
        self, resolved: ResolvedRow, record: KeyRecord, joined: frozenset[str], left: frozenset[str]
    ) -> None:
        """Have `store` replace the record that was read by this one; the key joins some plans, and leaves others."""

    @abstractmethod
    def store(self) -> Operation[set[str]]:
        """Store the keys; return the ids of those that are not stored, as others changed what they depend on."""


class BatchCommit(KeyBatch):
    """Keys that are created and changed in one commit."""

    def __init__(self, namespace: Namespace, snapshot: CatalogSnapshot, headroom: KeyHeadroom) -> None:
        super().__init__(namespace, snapshot, headroom)
        self._commit = new_commit(namespace, snapshot)
        self._depends_on_plans = False
        self._ids: set[str] = set()
        self._listed: list[str | int] = []  # creation times and ids of new keys, in turn
        self._joined: dict[str, list[str]] = {}
        self._left: dict[str, list[str]] = {}

    def _add_new(self, record: KeyRecord, resolved: ResolvedRow) -> None:
        for each, claim in zip(resolved.digests, resolved.claims, strict=True):
            self._commit.expect(self._names.digest(each), None, claim)
        self._commit.expect(self._names.key_record(record.id), None, None)
        self._commit.add("SET", self._names.digest(resolved.digests[0]), new_claim(record.id))
        self._listed += (record.created_us, record.id)
        self._depends_on_plans = True
        self._write(record, joined=record.plans)

    def _add_changed(
        self, resolved: ResolvedRow, record: KeyRecord, joined: frozenset[str], left: frozenset[str]
    ) -> None:
        self._commit.expect(self._names.key_record(record.id), None, resolved.stored)
        # Which plans were dropped from the row depends on the plans as well.
        self._depends_on_plans |= bool(resolved.row.plans)
        self._write(record, joined=joined, left=left)

    def _write(self, record: KeyRecord, joined: Collection[str] = (), left: Iterable[str] = ()) -> None:
        """Write a record and its stamp, and note the memberships that change."""
        self._ids.add(record.id)
        add_record(self._commit, self._namespace, self._snapshot, record, joins=bool(joined))
        for plan_id in joined:
            self._joined.setdefault(plan_id, []).append(record.id)
        for plan_id in left:
            self._left.setdefault(plan_id, []).append(record.id)

    def store(self) -> Operation[set[str]]:
        """Store all keys or none, in one script. Call it once."""
        if not self._ids:
            return set()
        return set() if (yield self._to_script_call())[0] == 1 else self._ids

    def _to_script_call(self) -> ScriptCall:
        commit, names = self._commit, self._names
        if self._depends_on_plans or self._joined:
            commit.expect(names.catalog, "version", str(self._snapshot.version))
        if self._listed:
            commit.add("ZADD", names.keys, *self._listed)
            guard_key_count(commit, self._namespace, self._headroom)
            self.has_new_pepper = add_new_pepper(commit, self._namespace)
        for plan_id, ids in self._left.items():
            commit.add("SREM", names.plan_keys(plan_id), *ids)
            today = day_of(self._namespace.wall_us())
            commit.add("HSET", names.plan_past(plan_id), *(part for key_id in ids for part in (key_id, today)))
        for plan_id, ids in self._joined.items():
            commit.add("SADD", names.plan_keys(plan_id), *ids)
        if self._joined:
            commit.add("HINCRBY", names.catalog, "members", 1)
        commit.add("PUBLISH", None, names.changes, "keys")
        return commit.to_script_call()
