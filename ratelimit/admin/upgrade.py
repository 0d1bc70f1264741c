"""The upgrade from schema 1 to schema 2: other names in Redis, and claims of values with tokens.

The names change in one script (lua/upgrade.lua). Then entries of the index are given tokens, a page at a time; those
that have one are skipped, so that an interrupted upgrade is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratelimit.admin.commit import MAX_ATTEMPTS, Commit, busy_conflict
from ratelimit.effects import Operation, pairs, text, texts
from ratelimit.errors import StoreError
from ratelimit.registry import schema
from ratelimit.registry.key_record import new_claim
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import FormerNames
from ratelimit.registry.schema import SCHEMA
from ratelimit.scripts import ScriptCall, load

_NAMES_PER_SCAN = 500


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did; with `dry_run`, what it would do.

    Attributes:
        is_needed: False if there was nothing to upgrade.
        renamed: Keys in Redis that were renamed.
        claims: Entries of the index that were given tokens; with `dry_run`, all entries.
        schema: The schema of what is stored then.
    """

    is_needed: bool = False
    renamed: int = 0
    claims: int = 0
    schema: int = SCHEMA


class UpgradeAdmin:
    """Upgrades one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._names = namespace, namespace.names
        self._former = FormerNames(namespace.names)

    def upgrade(
        self, *, dry_run: bool = False, progress: Callable[[int], None] | None = None
    ) -> Operation[UpgradeReport]:
        """Bring what is stored to this version's schema; with `dry_run`, only report."""
        stored_schema = SCHEMA
        for _ in range(MAX_ATTEMPTS):
            (reply,) = yield [("HGETALL", self._names.catalog)]
            fields = pairs(reply)
            if fields:
                stored_schema = schema.require_known(self._names, fields.get("schema"))
                renamed, is_marked = 0, "upgrading" in fields
                if is_marked:
                    yield from self._refuse_slots()
                if dry_run:
                    claims = (yield from self._old_names())[1] if is_marked else 0
                    return UpgradeReport(is_marked, 0, claims, stored_schema)
            else:
                result = yield from self._rename(dry_run=dry_run)
                if isinstance(result, UpgradeReport):
                    return result
                if result is None:
                    continue
                renamed, is_marked = result, True
            if not is_marked:
                return UpgradeReport(schema=stored_schema)
            claims = yield from self._add_tokens(progress)
            yield from self._unmark()
            return UpgradeReport(is_needed=True, renamed=renamed, claims=claims, schema=stored_schema)
        raise busy_conflict()

    def _rename(self, *, dry_run: bool) -> Operation[UpgradeReport | int | None]:
        """Change all names in one script, and return how many; None if others changed the catalogue meanwhile."""
        version, members = yield from self._revision()
        if version is None:
            return UpgradeReport()
        yield from self._refuse_slots()
        names, claims = yield from self._old_names()
        renames = self._former.renames(names)
        if dry_run:
            return UpgradeReport(is_needed=True, renamed=len(renames) + 1, claims=claims)
        keys = [self._names.former_catalog, self._names.catalog, *(name for pair in renames for name in pair)]
        args = (version, members or "", self._names.changes)
        is_done, renamed = yield ScriptCall(load("upgrade"), keys, args)
        self._namespace.on_change_message(None)
        return int(renamed) if is_done else None

    def _revision(self) -> Operation[tuple[str | None, str | None]]:
        try:
            ((version, members),) = yield [("HMGET", self._names.former_catalog, "version", "members")]
        except StoreError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise schema.gone(self._names) from None  # it was upgraded already
        return text(version), text(members)

    def _refuse_slots(self) -> Operation[None]:
        """Raise StoreError where one script cannot rename: names of schema 1 lie in many slots."""
        yield from self._namespace.find_slots()
        if self._namespace.has_slots:
            raise StoreError(
                f"what is stored in namespace {self._names.namespace!r} is of schema 1, which cannot be upgraded where "
                "keys lie in slots: upgrade it on the one server that it came from, then move it (ratelimit migrate)"
            )

    def _old_names(self) -> Operation[tuple[list[str], int]]:
        """Return the names that have to change, and the number of entries of the index."""
        old_names, claims, cursor = dict[str, None](), 0, None
        while cursor != "0":
            cursor, names = yield from self._scan(f"{self._names.namespace}:*", cursor)
            old_names |= dict.fromkeys(name for name in names if self._former.renamed(name) is not None)
            claims += sum(name.startswith(self._names.digest("")) for name in names)
        return list(old_names), claims

    def _add_tokens(self, progress: Callable[[int], None] | None) -> Operation[int]:
        """Give a token to each entry of the index that has none, and return how many had none."""
        done, cursor = 0, None
        while cursor != "0":
            cursor, names = yield from self._scan(self._names.digest("*"), cursor)
            done += yield from self._add_tokens_to(names)
            if progress is not None:
                progress(done)
        return done

    def _add_tokens_to(self, names: list[str]) -> Operation[int]:
        for _ in range(MAX_ATTEMPTS):
            claims = list(map(text, (yield [("MGET", *names)])[0])) if names else []
            bare = [(name, claim) for name, claim in zip(names, claims, strict=True) if claim and ":" not in claim]
            if not bare:
                return 0
            commit = Commit()
            for name, claim in bare:
                commit.expect(name, None, claim)
                commit.add("SET", name, new_claim(claim))
            if (yield commit.to_script_call())[0] == 1:
                return len(bare)
        raise busy_conflict()

    def _unmark(self) -> Operation[None]:
        commit = Commit()
        commit.expect(self._names.catalog, "upgrading", "1")
        commit.add("HDEL", self._names.catalog, "upgrading")
        yield commit.to_script_call()

    def _scan(self, pattern: str, cursor: str | None) -> Operation[tuple[str, list[str]]]:
        """Return the next cursor, "0" at the end, and some names."""
        ((following, names),) = yield [("SCAN", cursor or "0", "MATCH", pattern, "COUNT", _NAMES_PER_SCAN)]
        return text(following) or "0", texts(names)
