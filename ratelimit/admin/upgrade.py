"""From schema 1 to schema 2: other names, and claims of values with tokens. Pure: see flow.py.

The names change in one script (lua/upgrade.lua). Then entries of the index are given tokens, some at a time: those that
have one are passed over, so that an upgrade which was interrupted is simply repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ratelimit.admin.commit import MOST_TRIES, Commit, too_busy
from ratelimit.effects import Operation, pairs, text, texts
from ratelimit.errors import StoreError
from ratelimit.registry import schema
from ratelimit.registry.key_record import new_claim
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import FormerNames
from ratelimit.scripts import ScriptCall, load

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What an upgrade did, or has to do.

    is_needed  False if there was nothing to upgrade
    renamed    keys of Redis that have other names now
    claims     entries of the index that were given tokens; before the upgrade, entries in all
    """

    is_needed: bool = False
    renamed: int = 0
    claims: int = 0


class UpgradeAdmin:
    """The upgrade of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._names = namespace, namespace.names
        self._former = FormerNames(namespace.names)

    def upgrade(
        self, *, dry_run: bool = False, progress: Callable[[int], None] | None = None
    ) -> Operation[UpgradeReport]:
        """Bring what is stored to this version's schema; with `dry_run` tell what that would be."""
        for _ in range(MOST_TRIES):
            (reply,) = yield [("HGETALL", self._names.catalog)]
            fields = pairs(reply)
            if fields:
                schema.refuse_other(self._names, fields.get("schema"))
                renamed, is_marked = 0, "upgrading" in fields
                if dry_run:
                    return UpgradeReport(is_marked, 0, (yield from self._found())[1] if is_marked else 0)
            else:
                switched = yield from self._switch(dry_run=dry_run)
                if isinstance(switched, UpgradeReport):
                    return switched
                if switched is None:
                    continue
                renamed, is_marked = switched, True
            if not is_marked:
                return UpgradeReport()
            claims = yield from self._give_tokens(progress)
            yield from self._unmark()
            return UpgradeReport(is_needed=True, renamed=renamed, claims=claims)
        raise too_busy()

    def _switch(self, *, dry_run: bool) -> Operation[UpgradeReport | int | None]:
        """Change all names at once, and return how many; None if others changed the catalogue meanwhile."""
        version, members = yield from self._revision()
        if version is None:
            return UpgradeReport()
        names, claims = yield from self._found()
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

    def _found(self) -> Operation[tuple[list[str], int]]:
        """Return the names that have to change, and how many entries the index has."""
        found, claims, cursor = dict[str, None](), 0, None
        while cursor != "0":
            cursor, names = yield from self._scanned(f"{self._names.namespace}:*", cursor)
            found |= dict.fromkeys(name for name in names if self._former.renamed(name) is not None)
            claims += sum(name.startswith(self._names.digest("")) for name in names)
        return list(found), claims

    def _give_tokens(self, progress: Callable[[int], None] | None) -> Operation[int]:
        """Give a token to each entry of the index that has none, and return how many had none."""
        done, cursor = 0, None
        while cursor != "0":
            cursor, names = yield from self._scanned(self._names.digest("*"), cursor)
            done += yield from self._with_tokens(names)
            if progress is not None:
                progress(done)
        return done

    def _with_tokens(self, names: list[str]) -> Operation[int]:
        for _ in range(MOST_TRIES):
            found = list(map(text, (yield [("MGET", *names)])[0])) if names else []
            bare = [(name, claim) for name, claim in zip(names, found, strict=True) if claim and ":" not in claim]
            if not bare:
                return 0
            commit = Commit()
            for name, claim in bare:
                commit.expect(name, None, claim)
                commit.do("SET", name, new_claim(claim))
            if (yield commit.call())[0] == 1:
                return len(bare)
        raise too_busy()

    def _unmark(self) -> Operation[None]:
        commit = Commit()
        commit.expect(self._names.catalog, "upgrading", "1")
        commit.do("HDEL", self._names.catalog, "upgrading")
        yield commit.call()

    def _scanned(self, pattern: str, cursor: str | None) -> Operation[tuple[str, list[str]]]:
        """Return where to go on, "0" at the end, and some names."""
        ((following, names),) = yield [("SCAN", cursor or "0", "MATCH", pattern, "COUNT", _AT_ONCE)]
        return text(following) or "0", texts(names)
