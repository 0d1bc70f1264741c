"""Ceilings of a catalogue: what a change would come to, and the refusal of what goes beyond.

Plans and stages are counted in the snapshot, whose version guards every change of it. Keys are counted in Redis, and
only where there is a ceiling on them: then each commit that creates keys increments the revision `made` and depends
on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ratelimit.admin.commit import MOST_TRIES, Commit
from ratelimit.effects import Operation, text
from ratelimit.errors import ConfigError
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.validation import shown

_MADE = "made"
_TRIES_WITH_CEILING = 8 * MOST_TRIES
"""All who make keys under a ceiling overtake each other, where otherwise they would not meet."""


class Count(NamedTuple):
    """What is counted: the name of its ceiling, of whom, of what, and the field that an error names."""

    ceiling: str
    who: str
    noun: str
    field: str


def checked(ceilings: object) -> Ceilings:
    """Return `ceilings` if that is what they are."""
    if not isinstance(ceilings, Ceilings):
        raise ConfigError(f"must be Ceilings, not {shown(ceilings)}", field="ceilings")
    return ceilings


def refuse_beyond(ceilings: Ceilings, old: CatalogSnapshot, new: CatalogSnapshot) -> None:
    """Raise ConfigError if a new snapshot goes beyond a ceiling, and further than the old one."""
    if ceilings == Ceilings():
        return
    before = _counted(old)
    for count, number in _counted(new).items():
        ceiling = getattr(ceilings, count.ceiling)
        if ceiling is not None and number > max(ceiling, before.get(count, 0)):
            raise _beyond(count, number, ceiling)


def refuse_plans_of_key(ceilings: Ceilings, key_id: str, before: int, plans: int) -> None:
    """Raise ConfigError if a key would come to be in more plans than it may."""
    ceiling = ceilings.plans_per_key
    if ceiling is not None and plans > max(ceiling, before):
        who = f"key {key_id!r}" if key_id else "the key"
        raise _beyond(Count("plans_per_key", who, "plans", "plans"), plans, ceiling)


class Room(NamedTuple):
    """How many keys may still be made (None: any number), how many there are, and the revision this rests on."""

    keys: int | None = None
    there: int = 0
    made: str | None = None


def room_for_keys(namespace: Namespace) -> Operation[Room]:
    """Ask how many keys may still be made; where there is no ceiling nothing is asked."""
    ceiling = namespace.ceilings.keys
    if ceiling is None:
        return Room()
    # The revision first: a key that is made between the two is noticed by it.
    made, count = yield [("HGET", namespace.names.catalog, _MADE), ("ZCARD", namespace.names.keys)]
    return Room(max(0, ceiling - count), count, text(made))


def tries(namespace: Namespace) -> int:
    """Return how often to try to make a key."""
    return MOST_TRIES if namespace.ceilings.keys is None else _TRIES_WITH_CEILING


def refuse_keys_beyond(namespace: Namespace, room: Room) -> None:
    """Raise ConfigError if there is no room for one more key."""
    ceiling = namespace.ceilings.keys
    if ceiling is not None and room.keys == 0:
        raise _beyond(Count("keys", "the catalogue", "keys", "keys"), room.there + 1, ceiling)


def take_room(commit: Commit, namespace: Namespace, room: Room) -> None:
    """Have the commit make keys only if no other made some meanwhile."""
    if room.keys is not None:
        commit.expect(namespace.names.catalog, _MADE, room.made)
        commit.do("HINCRBY", namespace.names.catalog, _MADE, 1)


def no_room(ceilings: Ceilings) -> str:
    """Say of one of many keys that there was no room for it."""
    return f"the catalogue is full, {ceilings.keys:,} keys are its ceiling (keys): delete some, or raise the ceiling"


def _beyond(count: Count, number: int, ceiling: int) -> ConfigError:
    more = number - ceiling
    return ConfigError(
        f"{count.who} would have {number:,} {count.noun}, and the ceiling ({count.ceiling}) is {ceiling:,}: "
        f"take {more:,} away, or raise the ceiling (of commands: RATELIMIT_CEILINGS)",
        field=count.field,
    )


def _counted(snapshot: CatalogSnapshot) -> dict[Count, int]:
    found = {Count("plans", "the catalogue", "plans", "plans"): len(snapshot.plans)}
    for plan in snapshot.plans.values():
        for opened in plan.stages:
            who = f"stage {opened.stage!r} of plan {plan.id!r}"
            place = f'plans.{plan.id}.stages."{opened.stage}".throttles'
            found[Count("methods_per_stage", who, "method throttles", place)] = len(opened.throttles)
    stages, paths = dict[str, set[str]](), dict[str, set[str]]()
    for stage, methods in snapshot.methods_by_stage.items():
        api = stage.partition("/")[0]
        stages.setdefault(api, set()).add(stage)
        paths.setdefault(api, set()).update(_paths(methods))
    for api, names in stages.items():
        found[Count("stages_per_api", f"API {api!r}", "stages", "stages")] = len(names)
        found[Count("resources_per_api", f"API {api!r}", "paths of methods", "stages")] = len(paths[api])
    return found


def _paths(methods: Iterable[str]) -> Iterable[str]:
    return (method.partition(" ")[2] for method in methods)
