"""API keys: making, reading and changing them. Pure: see commit.py and flow.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Unpack

from ratelimit import validation
from ratelimit.admin.ceilings import refuse_keys_beyond, refuse_plans_of_key, room_for_keys, take_room, tries
from ratelimit.admin.claims import claim_value, release
from ratelimit.admin.commit import MOST_TRIES, Commit, begin, existing_plan, stamp_record, too_busy, two_plans
from ratelimit.admin.key_fields import About, about_fields, plan_ids
from ratelimit.admin.preconditions import refuse_changed
from ratelimit.effects import Operation, text
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import MICROSECONDS, ApiKey
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.key_values import Secret, generated_id, generated_token, generated_value, own_value
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot, overlaps
from ratelimit.registry.windows import day_of


class KeyAdmin:
    """The API keys of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        *,
        enabled: bool = True,
        **about: Unpack[About],
    ) -> Operation[ApiKey]:
        """Make a key, with a generated value unless one is given."""
        secret = Secret(generated_value() if value is None else own_value(value))
        del value
        draft = KeyRecord(
            generated_id(),
            validation.label(name, "name"),
            validation.flag(enabled, "enabled"),
            plan_ids(plans),
            {self._namespace.digest(secret.value): 0},
            self._namespace.wall_us(),
            0,
            generated_token(),
        )
        record = replace(draft, **about_fields(about))
        for _ in range(tries(self._namespace)):
            room = yield from room_for_keys(self._namespace)
            refuse_keys_beyond(self._namespace, room)
            snapshot = yield from self._ensure_book()
            self._refuse_plans("", (), record.plans, snapshot)
            commit = begin(self._namespace, snapshot)
            take_room(commit, self._namespace, room)
            yield from claim_value(commit, self._namespace, snapshot, secret.value, record.id)
            commit.expect(self._names.key_record(record.id), None, None)
            commit.do("ZADD", self._names.keys, record.created_us, record.id)
            self._rest_on_version(commit, snapshot)
            self._write_record(commit, snapshot, record, joined=record.plans)
            if (yield from self._carried_out(commit, record.id)):
                return record.api_key(secret.value)
        raise too_busy(tries(self._namespace))

    def rotate_key(
        self, key_id: str, grace_s: float = 0, value: str | None = None, expected: ApiKey | None = None
    ) -> Operation[ApiKey]:
        """Give a key a new value; the old one works for `grace_s` seconds more, on the same budget."""
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s < 2**31:
            raise ConfigError(f"must be seconds >= 0 and below 2^31, not {validation.shown(grace_s)}", field="grace_s")
        secret = Secret(generated_value() if value is None else own_value(value))
        del value
        digest = self._namespace.digest(secret.value)
        for _ in range(MOST_TRIES):
            record, stored = yield from self._record(key_id)
            refuse_changed(record, expected)
            snapshot = yield from self._namespace.load()
            now_us = yield from self._namespace.server_us()
            ends_us = now_us + round(grace_s * MICROSECONDS)
            kept = {old: min(until or ends_us, ends_us) for old, until in record.digests.items()}
            kept = {old: until for old, until in kept.items() if until > now_us}
            new = replace(record, digests={digest: 0, **kept}, stamp=generated_token())
            commit = begin(self._namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            yield from release(
                commit, self._namespace, key_id, [old for old in record.digests if old not in new.digests]
            )
            yield from claim_value(commit, self._namespace, snapshot, secret.value, key_id)
            self._write_record(commit, snapshot, new)
            if (yield from self._carried_out(commit, key_id)):
                return new.api_key(secret.value)
        raise too_busy()

    def get_key(self, key_id: str) -> Operation[ApiKey]:
        """Return a key, without its value."""
        return (yield from self._record(key_id))[0].api_key()

    def update_key(
        self, key_id: str, *, enabled: bool | None = None, name: str | None = None, **about: Unpack[About]
    ) -> Operation[ApiKey]:
        """Change what is given; every replica goes by it from its next check on."""
        changes = about_fields(about)
        if enabled is not None:
            changes["enabled"] = validation.flag(enabled, "enabled")
        if name is not None:
            changes["name"] = validation.label(name, "name")
        return (yield from self._change_key(key_id, lambda record, _: replace(record, **changes)))

    def add_key_to_plan(self, key_id: str, plan_id: str) -> Operation[ApiKey]:
        """Put a key into a plan."""

        def change(record: KeyRecord, snapshot: CatalogSnapshot) -> KeyRecord:
            if plan_id in record.plans:
                raise Conflict(f"key {key_id!r} is in plan {plan_id!r} already", field="plan_id")
            joined = (*record.plans, plan_id)
            self._refuse_plans(key_id, record.plans, joined, snapshot)
            return replace(record, plans=joined)

        return (yield from self._change_key(key_id, change))

    def remove_key_from_plan(self, key_id: str, plan_id: str) -> Operation[ApiKey]:
        """Take a key out of a plan; what it used is kept until the window ends."""

        def change(record: KeyRecord, _: CatalogSnapshot) -> KeyRecord:
            if plan_id not in record.plans:
                raise NotFound(f"key {key_id!r} is not in plan {validation.shown(plan_id)}", field="plan_id")
            return replace(record, plans=tuple(plan for plan in record.plans if plan != plan_id))

        return (yield from self._change_key(key_id, change))

    def move_key(self, key_id: str, from_plan: str, to_plan: str) -> Operation[ApiKey]:
        """Take a key out of one plan and put it into another in one step: it is in one of them at any time."""

        def change(record: KeyRecord, snapshot: CatalogSnapshot) -> KeyRecord:
            existing_plan(snapshot, to_plan)
            if from_plan not in record.plans:
                raise NotFound(f"key {key_id!r} is not in plan {validation.shown(from_plan)}", field="from_plan")
            if to_plan in record.plans:
                raise Conflict(f"key {key_id!r} is in plan {to_plan!r} already", field="to_plan")
            moved = tuple(to_plan if plan == from_plan else plan for plan in record.plans)
            self._refuse_plans(key_id, record.plans, moved, snapshot)
            return replace(record, plans=moved)

        return (yield from self._change_key(key_id, change))

    def delete_key(self, key_id: str, expected: ApiKey | None = None) -> Operation[None]:
        """Delete a key and all that was counted for it."""
        for _ in range(MOST_TRIES):
            snapshot = yield from self._namespace.load()
            record, stored = yield from self._record(key_id)
            refuse_changed(record, expected)
            commit = begin(self._namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            for name in (self._names.key_record, self._names.key_hash, self._names.key_days):
                commit.do("UNLINK", name(key_id))
            yield from release(commit, self._namespace, key_id, record.digests)
            for plan_id in record.plans:
                commit.do("SREM", self._names.plan_keys(plan_id), key_id)
            commit.do("ZREM", self._names.keys, key_id)
            if (yield from self._carried_out(commit, key_id)):
                return
        raise too_busy()

    def _change_key(self, key_id: str, change: Callable[[KeyRecord, CatalogSnapshot], KeyRecord]) -> Operation[ApiKey]:
        for _ in range(MOST_TRIES):
            record, stored = yield from self._record(key_id)
            snapshot = yield from self._namespace.load()
            new = replace(change(record, snapshot), stamp=generated_token())
            commit = begin(self._namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            joined = [plan for plan in new.plans if plan not in record.plans]
            left = [plan for plan in record.plans if plan not in new.plans]
            if joined:
                self._rest_on_version(commit, snapshot)
            self._write_record(commit, snapshot, new, joined=joined, left=left)
            if (yield from self._carried_out(commit, key_id)):
                return new.api_key()
        raise too_busy()

    def _rest_on_version(self, commit: Commit, snapshot: CatalogSnapshot) -> None:
        """Have the commit fail if the plans changed meanwhile: what a key joins has to be as it was looked at."""
        commit.expect(self._names.catalog, "version", str(snapshot.version))

    def _write_record(
        self,
        commit: Commit,
        snapshot: CatalogSnapshot,
        record: KeyRecord,
        *,
        joined: Sequence[str] = (),
        left: Iterable[str] = (),
    ) -> None:
        """Write a record together with what its hash goes by, and the memberships that change."""
        stamp_record(commit, self._namespace, snapshot, record, joins=bool(joined))
        for plan_id in left:
            commit.do("SREM", self._names.plan_keys(plan_id), record.id)
            commit.do("HSET", self._names.plan_past(plan_id), record.id, day_of(self._namespace.wall_us()))
        for plan_id in joined:
            commit.do("SADD", self._names.plan_keys(plan_id), record.id)
        if joined:
            commit.do("HINCRBY", self._names.catalog, "members", 1)

    def _carried_out(self, commit: Commit, key_id: str) -> Operation[bool]:
        """Commit what changes a key, and tell everybody of it; return False if others were quicker."""
        commit.do("PUBLISH", None, self._names.changes, f"key:{key_id}")
        done: bool = (yield commit.call())[0] == 1
        if done:
            self._namespace.on_change_message(f"key:{key_id}")  # at once in this process
        return done

    def _record(self, key_id: str) -> Operation[tuple[KeyRecord, str]]:
        """Return a key's record and its text in Redis."""
        validation.key_id(key_id)
        stored = text((yield [("GET", self._names.key_record(key_id))])[0])
        record = None if stored is None else KeyRecord.from_json(stored, key_id)
        if stored is None or record is None or not record.is_live:
            raise NotFound(f"there is no key with the id {validation.shown_id(key_id)}", field="key_id")
        return record, stored

    def _ensure_book(self) -> Operation[CatalogSnapshot]:
        """Load the snapshot; an empty namespace gets its epoch and pepper with the first key."""
        snapshot = yield from self._namespace.load(for_change=True)
        if not snapshot.epoch:
            commit = begin(self._namespace, snapshot)
            commit.expect(self._names.catalog, "version", None)
            commit.do("HSET", self._names.catalog, *self._namespace.first_fields(), "version", 1)
            yield commit.call()
            snapshot = yield from self._namespace.load()
        return snapshot

    def _refuse_plans(
        self, key_id: str, before: Sequence[str], after: Sequence[str], snapshot: CatalogSnapshot
    ) -> None:
        refuse_plans_of_key(self._namespace.ceilings, key_id, len(before), len(after))
        for one, other, stage in overlaps([existing_plan(snapshot, plan_id) for plan_id in after]):
            raise two_plans(key_id, one.id, other.id, stage)
