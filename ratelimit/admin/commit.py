"""Changes of the catalogue: worked out from what was read, committed only if that still holds (lua/commit.lua). Pure.

Two revisions guard against administrators who race. `version`, the catalogue's, moves with every change of plans,
stages and the account throttle. `members` moves whenever a key joins a plan. A change of plans is guarded by both,
a key's joining by `version` and its own record, so that no order of the two can put a key into two plans of one stage.
All other changes of a key are guarded by its own record alone.
"""

from __future__ import annotations

import json

from ratelimit import validation
from ratelimit.errors import Conflict, NotFound
from ratelimit.model import UsagePlan
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.schema import SCHEMA
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import ScriptCall, load

MOST_TRIES = 16
_MOST_ARGUMENTS = 2000


class Commit:
    """A change being worked out: what it rests on, and what it would do."""

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._guards: list[tuple[int, str | None, str | None]] = []
        self._commands: list[tuple[str | int, ...]] = []

    def _index(self, key: str) -> int:
        return self._keys.setdefault(key, len(self._keys) + 1)

    def expect(self, key: str, field: str | None, value: str | None) -> None:
        """Rest on a text in Redis (a hash field, or a whole string if `field` is None); None: absent."""
        self._guards.append((self._index(key), field, value))

    def do(self, command: str, key: str | None, *arguments: str | int) -> None:
        """Add a command; `key` is None for one that has none."""
        index = self._index(key) if key is not None else 0
        texts = [str(argument) for argument in arguments]
        # Lua can pass on only so many values at once; field-value pairs stay together.
        for at in range(0, max(1, len(texts)), _MOST_ARGUMENTS):
            self._commands.append((command, index, *texts[at : at + _MOST_ARGUMENTS]))

    def call(self) -> ScriptCall:
        """Return the script call that commits."""
        return ScriptCall(load("commit"), tuple(self._keys), (json.dumps(self._guards), json.dumps(self._commands)))


def begin(namespace: Namespace, snapshot: CatalogSnapshot) -> Commit:
    """Return a commit that rests on the schema of `snapshot`: an upgrade may come between reading and writing."""
    commit = Commit()
    commit.expect(namespace.names.catalog, "schema", str(SCHEMA) if snapshot.epoch else None)
    return commit


def stamp_record(
    commit: Commit, namespace: Namespace, snapshot: CatalogSnapshot, record: KeyRecord, *, joins: bool
) -> None:
    """Write a record, and its stamp into the key's hash; `joins`: it has a plan that it did not have before.

    Then the hash takes over the version of the catalogue as well: nobody may go by one that does not have the plan.
    """
    commit.do("SET", namespace.names.key_record(record.id), record.json())
    commit.do("STAMP", namespace.names.key_hash(record.id), record.stamp, snapshot.version_token, int(joins))


def tell_new_pepper(commit: Commit, namespace: Namespace) -> bool:
    """Have the commit tell of a pepper that the catalogue does not know yet; return whether there is one."""
    probes = namespace.new_probes()
    if probes is None:
        return False
    stored, wanted = probes
    commit.expect(namespace.names.catalog, "pepper", stored)  # another administrator may be telling of another
    commit.do("HSET", namespace.names.catalog, "pepper", wanted)
    return True


def existing_plan(snapshot: CatalogSnapshot, plan_id: object) -> UsagePlan:
    """Return the plan of this id; raises NotFound."""
    plan = snapshot.plans.get(plan_id) if isinstance(plan_id, str) else None
    if plan is None:
        raise NotFound(f"there is no plan {validation.shown(plan_id)}", field="plan_id")
    return plan


def two_plans(key_id: str, one: str, other: str, stage: str) -> Conflict:
    """Return the error for a key that would be in two plans of one stage."""
    who = f"key {key_id!r}" if key_id else "the key"
    first, second = sorted((one, other))
    return Conflict(
        f"{who} would be in two plans of stage {stage!r}, {first!r} and {second!r}: a key may be in one plan per stage",
        field="plans",
    )


def too_busy(tries: int = MOST_TRIES) -> Conflict:
    """Return the error for a change that others overtook again and again."""
    return Conflict(f"others changed the catalogue {tries} times meanwhile: try again")
