"""API keys: making, reading and changing them. Pure: see commit.py and flow.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import EllipsisType
from typing import Any

from ratelimit.core import validate
from ratelimit.core.book import PlanBook, overlaps
from ratelimit.core.commit import MOST_TRIES, Commit, existing_plan, too_busy, two_plans
from ratelimit.core.digest import generated_id, generated_token, generated_value, own_value
from ratelimit.core.flow import Flow, text, texts
from ratelimit.core.records import KeyRecord
from ratelimit.core.state import Namespace
from ratelimit.errors import ConfigError, Conflict, NotFound
from ratelimit.model import MICROSECONDS, ApiKey

_PAGE = 500


class KeyAdmin:
    """The API keys of one namespace."""

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self._names = state.names

    def create_key(
        self,
        name: str = "",
        value: str | None = None,
        plans: Iterable[str] = (),
        *,
        enabled: bool = True,
        expires_at: float | None = None,
    ) -> Flow[ApiKey]:
        """Make a key, with a generated value unless one is given."""
        validate.label(name, "name")
        validate.flag(enabled, "enabled")
        value = generated_value() if value is None else own_value(value)
        joined = _plan_ids(plans)
        digest = self._state.digest(value)
        for _ in range(MOST_TRIES):
            book = yield from self._ensure_book()
            self._refuse_overlap("", joined, book)
            (taken,) = yield [("GET", self._names.digest(digest))]
            if taken is not None:
                raise Conflict(f"a key with this value exists already, its id is {text(taken)!r}", field="value")
            record = KeyRecord(
                generated_id(),
                name,
                enabled,
                joined,
                (digest,),
                self._state.wall_us(),
                _expiry(expires_at),
                generated_token(),
            )
            commit = Commit()
            commit.expect(self._names.digest(digest), None, None)
            commit.expect(self._names.key_record(record.id), None, None)
            commit.do("SET", self._names.digest(digest), record.id)
            commit.do("ZADD", self._names.keys, record.created_us, record.id)
            self._write_record(commit, record, book, joined=joined)
            if (yield commit.call())[0] == 1:
                return record.api_key(value)
        raise too_busy()

    def get_key(self, key_id: str) -> Flow[ApiKey]:
        """Return a key, without its value."""
        return (yield from self._record(key_id))[0].api_key()

    def keys(self) -> Flow[list[ApiKey]]:
        """Return all keys, the newest first."""
        (ids,) = yield [("ZREVRANGE", self._names.keys, 0, -1)]
        found = []
        for at in range(0, len(ids), _PAGE):
            page = texts(ids[at : at + _PAGE])
            (stored,) = yield [("MGET", *map(self._names.key_record, page))]
            found += [KeyRecord.from_json(item).api_key() for item in map(text, stored) if item is not None]
        return found

    def update_key(
        self,
        key_id: str,
        *,
        enabled: bool | None = None,
        name: str | None = None,
        expires_at: float | EllipsisType | None = ...,
    ) -> Flow[ApiKey]:
        """Change what is given; every replica goes by it from its next check on."""
        changes: dict[str, Any] = {}
        if enabled is not None:
            changes["enabled"] = validate.flag(enabled, "enabled")
        if name is not None:
            changes["name"] = validate.label(name, "name")
        if not isinstance(expires_at, EllipsisType):
            changes["expires_us"] = _expiry(expires_at)
        return (yield from self._change_key(key_id, lambda record, _: replace(record, **changes)))

    def add_key_to_plan(self, key_id: str, plan_id: str) -> Flow[ApiKey]:
        """Put a key into a plan."""

        def change(record: KeyRecord, book: PlanBook) -> KeyRecord:
            if plan_id in record.plans:
                raise Conflict(f"key {key_id!r} is in plan {plan_id!r} already", field="plan_id")
            joined = (*record.plans, plan_id)
            self._refuse_overlap(key_id, joined, book)
            return replace(record, plans=joined)

        return (yield from self._change_key(key_id, change))

    def remove_key_from_plan(self, key_id: str, plan_id: str) -> Flow[ApiKey]:
        """Take a key out of a plan; what it used is kept until the window ends."""

        def change(record: KeyRecord, _: PlanBook) -> KeyRecord:
            if plan_id not in record.plans:
                raise NotFound(f"key {key_id!r} is not in plan {validate.shown(plan_id)}", field="plan_id")
            return replace(record, plans=tuple(plan for plan in record.plans if plan != plan_id))

        return (yield from self._change_key(key_id, change))

    def delete_key(self, key_id: str) -> Flow[None]:
        """Delete a key and all that was counted for it."""
        for _ in range(MOST_TRIES):
            record, stored = yield from self._record(key_id)
            commit = Commit()
            commit.expect(self._names.key_record(key_id), None, stored)
            for name in (self._names.key_record(key_id), self._names.key_hash(key_id)):
                commit.do("UNLINK", name)
            for digest in record.digests:
                commit.do("UNLINK", self._names.digest(digest))
            for plan_id in record.plans:
                commit.do("SREM", self._names.plan_keys(plan_id), key_id)
            commit.do("ZREM", self._names.keys, key_id)
            if (yield commit.call())[0] == 1:
                return
        raise too_busy()

    def _change_key(self, key_id: str, change: Callable[[KeyRecord, PlanBook], KeyRecord]) -> Flow[ApiKey]:
        for _ in range(MOST_TRIES):
            record, stored = yield from self._record(key_id)
            book = yield from self._state.load()
            new = replace(change(record, book), stamp=generated_token())
            commit = Commit()
            commit.expect(self._names.key_record(key_id), None, stored)
            joined = [plan for plan in new.plans if plan not in record.plans]
            left = [plan for plan in record.plans if plan not in new.plans]
            self._write_record(commit, new, book, joined=joined, left=left)
            if (yield commit.call())[0] == 1:
                return new.api_key()
        raise too_busy()

    def _write_record(
        self,
        commit: Commit,
        record: KeyRecord,
        book: PlanBook,
        *,
        joined: Iterable[str] = (),
        left: Iterable[str] = (),
    ) -> None:
        """Write a record together with what its hash goes by, and the memberships that change."""
        commit.do("SET", self._names.key_record(record.id), record.json())
        commit.do("HSET", self._names.key_hash(record.id), "r", f"{book.identity}{record.stamp}")
        # The hash must not fall back to an older version than a replica may have applied to it meanwhile.
        commit.expect(self._names.catalog, "version", str(book.version))
        for plan_id in left:
            commit.do("SREM", self._names.plan_keys(plan_id), record.id)
        for plan_id in joined:
            commit.do("SADD", self._names.plan_keys(plan_id), record.id)
        if joined:
            commit.do("HINCRBY", self._names.catalog, "members", 1)

    def _record(self, key_id: str) -> Flow[tuple[KeyRecord, str]]:
        """Return a key's record and its text in Redis."""
        validate.identifier(key_id, "key_id")
        stored = text((yield [("GET", self._names.key_record(key_id))])[0])
        if stored is None:
            raise NotFound(f"there is no key with the id {validate.shown(key_id)}", field="key_id")
        return KeyRecord.from_json(stored), stored

    def _ensure_book(self) -> Flow[PlanBook]:
        """Load the book; an empty namespace gets its epoch and pepper with the first key."""
        book = yield from self._state.load()
        if not book.epoch:
            commit = Commit()
            commit.expect(self._names.catalog, "version", None)
            first = ("epoch", generated_token(), "pepper", self._state.digest.probe, "version", 1)
            commit.do("HSET", self._names.catalog, *first)
            yield commit.call()
            book = yield from self._state.load()
        return book

    def _refuse_overlap(self, key_id: str, plan_ids: Iterable[str], book: PlanBook) -> None:
        for one, other, stage in overlaps([existing_plan(book, plan_id) for plan_id in plan_ids]):
            raise two_plans(key_id, one.id, other.id, stage)


def _plan_ids(plans: Iterable[str]) -> tuple[str, ...]:
    if isinstance(plans, str):
        raise ConfigError(f"must be a list of plan ids, not the text {validate.shown(plans)}", field="plans")
    return tuple(dict.fromkeys(plans))


def _expiry(expires_at: float | None) -> int:
    if expires_at is None:
        return 0
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not 0 < expires_at < 2**33:
        remedy = "seconds since 1970, as time.time() counts them, or None"
        raise ConfigError(f"must be {remedy}, not {validate.shown(expires_at)}", field="expires_at")
    return round(expires_at * MICROSECONDS)
