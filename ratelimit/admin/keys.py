"""API keys: created, read, changed, rotated, deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from ratelimit import validation
from ratelimit.admin.by_slot import keys as by_slot
from ratelimit.admin.ceilings import (
    check_key_ceiling,
    guard_key_count,
    key_headroom,
    max_attempts,
)
from ratelimit.admin.claims import claim_value, release_values
from ratelimit.admin.commit import (
    MAX_ATTEMPTS,
    Commit,
    add_record,
    busy_conflict,
    ensure_catalog,
    existing_key,
    existing_plan,
    new_commit,
)
from ratelimit.admin.key_plans import check_plans
from ratelimit.admin.preconditions import check_revision
from ratelimit.effects import Operation
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import MICROSECONDS, ApiKey, CreatedKey
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.key_values import Secret, generated_id, generated_token, generated_value, own_value
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import day_of

_MAX_DESCRIPTION = 125_000
_MAX_OWNER = 256


class KeyDetails(TypedDict, total=False):
    """Further keywords of `Catalog.update_key`: what a key has besides its name; see `ApiKey`.

    Attributes:
        expires_at: Seconds since 1970, from which on the key is denied; None for never.
        description: Free text for people, up to 125,000 characters.
        owner: Free text for people, up to 256 characters.
        tags: Up to 50 texts by name: names of 1 to 128 characters, texts of up to 256.
    """

    expires_at: float | None
    description: str
    owner: str
    tags: Mapping[str, str]


class KeyAdmin:
    """Administers the API keys of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._names = namespace.names

    def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        *,
        enabled: bool = True,
        **details: Unpack[KeyDetails],
    ) -> Operation[CreatedKey]:
        """Create a key, with a generated value unless one is given."""
        secret = Secret(generated_value() if value is None else own_value(value))
        del value
        draft = KeyRecord(
            generated_id(),
            validation.label(name, "name"),
            validation.flag(enabled, "enabled"),
            _plan_ids(plans),
            {self.namespace.digest(secret.value): 0},
            self.namespace.wall_us(),
            0,
            generated_token(),
        )
        record = replace(draft, **_record_fields(details))
        yield from self.namespace.find_slots()
        if self.namespace.has_slots:
            return (yield from by_slot.create_key(self.namespace, record, secret)).created_key(secret.value)
        for _ in range(max_attempts(self.namespace)):
            headroom = yield from key_headroom(self.namespace)
            check_key_ceiling(self.namespace, headroom)
            snapshot = yield from self.ensure_catalog()
            check_plans(self.namespace.ceilings, snapshot, "", (), record.plans)
            commit = new_commit(self.namespace, snapshot)
            guard_key_count(commit, self.namespace, headroom)
            yield from claim_value(commit, self.namespace, snapshot, secret.value, record.id)
            commit.expect(self._names.key_record(record.id), None, None)
            commit.add("ZADD", self._names.keys, record.created_us, record.id)
            self._expect_version(commit, snapshot)
            self._write_record(commit, snapshot, record, joined=record.plans)
            if (yield from self._commit_key(commit, record.id)):
                return record.created_key(secret.value)
        raise busy_conflict(max_attempts(self.namespace))

    def rotate_key(
        self, key_id: str, grace_s: float = 0, value: str | None = None, expected: ApiKey | None = None
    ) -> Operation[CreatedKey]:
        """Give a key a new value; the old one works for `grace_s` seconds more, on the same budget."""
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float) or not 0 <= grace_s < 2**31:
            raise ConfigError(f"must be seconds >= 0 and below 2^31, not {validation.shown(grace_s)}", field="grace_s")
        secret = Secret(generated_value() if value is None else own_value(value))
        del value
        yield from self.namespace.find_slots()
        if self.namespace.has_slots:
            grace_us = round(grace_s * MICROSECONDS)
            rotated = yield from by_slot.rotate_key(self.namespace, key_id, secret, grace_us, expected)
            return rotated.created_key(secret.value)
        digest = self.namespace.digest(secret.value)
        for _ in range(MAX_ATTEMPTS):
            record, stored = yield from existing_key(self.namespace, key_id)
            check_revision(record, expected)
            snapshot = yield from self.namespace.load()
            now_us = yield from self.namespace.server_us()
            grace_end_us = now_us + round(grace_s * MICROSECONDS)
            old_digests = {old: min(until or grace_end_us, grace_end_us) for old, until in record.digests.items()}
            valid_digests = {old: until for old, until in old_digests.items() if until > now_us}
            new = replace(record, digests={digest: 0, **valid_digests}, stamp=generated_token())
            commit = new_commit(self.namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            if not grace_s:
                commit.pass_maxmemory(self._names.key_record(key_id))
            dropped = [old for old in record.digests if old not in new.digests]
            yield from release_values(commit, self.namespace, key_id, dropped)
            yield from claim_value(commit, self.namespace, snapshot, secret.value, key_id)
            self._write_record(commit, snapshot, new)
            if (yield from self._commit_key(commit, key_id)):
                return new.created_key(secret.value)
        raise busy_conflict()

    def get_key(self, key_id: str) -> Operation[ApiKey]:
        """Return a key, without its value."""
        return (yield from existing_key(self.namespace, key_id))[0].api_key()

    def update_key(
        self, key_id: str, *, enabled: bool | None = None, name: str | None = None, **details: Unpack[KeyDetails]
    ) -> Operation[ApiKey]:
        """Change what is given."""
        changes = _record_fields(details)
        if enabled is not None:
            changes["enabled"] = validation.flag(enabled, "enabled")
        if name is not None:
            changes["name"] = validation.label(name, "name")
        revokes = changes.keys() <= {"enabled", "expires_us"} and not enabled

        def change(record: KeyRecord, _: CatalogSnapshot) -> KeyRecord:
            return replace(record, **changes)

        return (yield from self._change_key(key_id, change, revokes=revokes, plans_change=False))

    def add_key_to_plan(self, key_id: str, plan_id: str) -> Operation[ApiKey]:
        """Put a key into a plan."""

        def change(record: KeyRecord, snapshot: CatalogSnapshot) -> KeyRecord:
            if plan_id in record.plans:
                raise Conflict(f"key {key_id!r} is in plan {plan_id!r} already", field="plan_id")
            plans = (*record.plans, plan_id)
            check_plans(self.namespace.ceilings, snapshot, key_id, record.plans, plans)
            return replace(record, plans=plans)

        return (yield from self._change_key(key_id, change))

    def remove_key_from_plan(self, key_id: str, plan_id: str) -> Operation[ApiKey]:
        """Take a key out of a plan; what it used remains stored until the window ends."""

        def change(record: KeyRecord, _: CatalogSnapshot) -> KeyRecord:
            if plan_id not in record.plans:
                raise NotFound(f"key {key_id!r} is not in plan {validation.shown(plan_id)}", field="plan_id")
            return replace(record, plans=tuple(plan for plan in record.plans if plan != plan_id))

        return (yield from self._change_key(key_id, change, revokes=True))

    def move_key(self, key_id: str, from_plan: str, to_plan: str) -> Operation[ApiKey]:
        """Take a key out of one plan and put it into another, in one commit."""

        def change(record: KeyRecord, snapshot: CatalogSnapshot) -> KeyRecord:
            existing_plan(snapshot, to_plan)
            if from_plan not in record.plans:
                raise NotFound(f"key {key_id!r} is not in plan {validation.shown(from_plan)}", field="from_plan")
            if to_plan in record.plans:
                raise Conflict(f"key {key_id!r} is in plan {to_plan!r} already", field="to_plan")
            plans = tuple(to_plan if plan == from_plan else plan for plan in record.plans)
            check_plans(self.namespace.ceilings, snapshot, key_id, record.plans, plans)
            return replace(record, plans=plans)

        return (yield from self._change_key(key_id, change))

    def delete_key(self, key_id: str, expected: ApiKey | None = None) -> Operation[None]:
        """Delete a key and everything counted for it."""
        yield from self.namespace.find_slots()
        if self.namespace.has_slots:
            yield from by_slot.delete_key(self.namespace, key_id, expected)
            return
        for _ in range(MAX_ATTEMPTS):
            snapshot = yield from self.namespace.load()
            record, stored = yield from existing_key(self.namespace, key_id)
            check_revision(record, expected)
            commit = new_commit(self.namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            for name in (self._names.key_record, self._names.key_hash, self._names.key_days):
                commit.add("UNLINK", name(key_id))
            yield from release_values(commit, self.namespace, key_id, record.digests)
            for plan_id in record.plans:
                commit.add("SREM", self._names.plan_keys(plan_id), key_id)
            commit.add("ZREM", self._names.keys, key_id)
            if (yield from self._commit_key(commit, key_id)):
                return
        raise busy_conflict()

    def ensure_catalog(self) -> Operation[CatalogSnapshot]:
        """Load the snapshot; create the catalogue, with epoch and pepper, where none exists."""
        return (yield from ensure_catalog(self.namespace))

    def _change_key(
        self,
        key_id: str,
        change: Callable[[KeyRecord, CatalogSnapshot], KeyRecord],
        *,
        revokes: bool = False,
        plans_change: bool = True,
    ) -> Operation[ApiKey]:
        """Change a record. What `revokes`, and stores next to nothing, needs no memory of the server."""
        yield from self.namespace.find_slots()
        if self.namespace.has_slots:
            change_it = by_slot.change_plans if plans_change else by_slot.change_record
            return (yield from change_it(self.namespace, key_id, change, revokes=revokes)).api_key()
        for _ in range(MAX_ATTEMPTS):
            record, stored = yield from existing_key(self.namespace, key_id)
            snapshot = yield from self.namespace.load()
            new = replace(change(record, snapshot), stamp=generated_token())
            commit = new_commit(self.namespace, snapshot)
            commit.expect(self._names.key_record(key_id), None, stored)
            if revokes:
                commit.pass_maxmemory(self._names.key_record(key_id))
            joined = [plan for plan in new.plans if plan not in record.plans]
            left = [plan for plan in record.plans if plan not in new.plans]
            if joined:
                self._expect_version(commit, snapshot)
            self._write_record(commit, snapshot, new, joined=joined, left=left)
            if (yield from self._commit_key(commit, key_id)):
                return new.api_key()
        raise busy_conflict()

    def _expect_version(self, commit: Commit, snapshot: CatalogSnapshot) -> None:
        """Have the commit fail if plans changed meanwhile: a plan that the key joins may open other stages now."""
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
        """Have the commit write a record, its stamp, and the memberships that change."""
        add_record(commit, self.namespace, snapshot, record, joins=bool(joined))
        for plan_id in left:
            commit.add("SREM", self._names.plan_keys(plan_id), record.id)
            commit.add("HSET", self._names.plan_past(plan_id), record.id, day_of(self.namespace.wall_us()))
        for plan_id in joined:
            commit.add("SADD", self._names.plan_keys(plan_id), record.id)
        if joined:
            commit.add("HINCRBY", self._names.catalog, "members", 1)

    def _commit_key(self, commit: Commit, key_id: str) -> Operation[bool]:
        """Commit a change of a key and publish it; return False if others were faster."""
        commit.add("PUBLISH", None, self._names.changes, f"key:{key_id}")
        is_done: bool = (yield commit.to_script_call())[0] == 1
        if is_done:
            self.namespace.on_change_message(f"key:{key_id}")  # at once in this process
        return is_done


def _record_fields(details: KeyDetails) -> dict[str, Any]:
    """Return the fields of a record for some details. Raises TypeError for unknown names, as any call does."""
    for name in details:
        if name not in KeyDetails.__annotations__:
            accepted = ", ".join(KeyDetails.__annotations__)
            raise TypeError(
                f"got an unexpected keyword argument {name!r}: besides enabled and name there are {accepted}"
            )
    fields: dict[str, Any] = {}
    if "expires_at" in details:
        fields["expires_us"] = _expires_us(details["expires_at"])
    if "description" in details:
        fields["description"] = validation.label(details["description"], "description", most=_MAX_DESCRIPTION)
    if "owner" in details:
        fields["owner"] = validation.label(details["owner"], "owner", most=_MAX_OWNER)
    if "tags" in details:
        fields["tags"] = validation.tags(details["tags"])
    return fields


def _plan_ids(plans: object) -> tuple[str, ...]:
    """Return the ids of the plans that a key joins, each once; whether they exist is checked later."""
    if isinstance(plans, str) or not isinstance(plans, Iterable):
        kind = "the text " if isinstance(plans, str) else ""
        raise ConfigError(f"must be a list of plan ids, not {kind}{validation.shown(plans)}", field="plans")
    ids = list(plans)
    for plan_id in ids:
        if not isinstance(plan_id, str):
            raise NotFound(f"there is no plan {validation.shown(plan_id)}", field="plan_id")
    return tuple(dict.fromkeys(ids))


def _expires_us(expires_at: float | None) -> int:
    """Return microseconds since 1970; 0 for never."""
    if expires_at is None:
        return 0
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not 0 < expires_at < 2**33:
        accepted = "seconds since 1970, as time.time() counts them, or None"
        raise ConfigError(f"must be {accepted}, not {validation.shown(expires_at)}", field="expires_at")
    expires_us = round(expires_at * MICROSECONDS)
    if not expires_us:  # which would mean never
        raise ConfigError(
            f"must be at least a microsecond after 1970, not {validation.shown(expires_at)}", field="expires_at"
        )
    return expires_us
