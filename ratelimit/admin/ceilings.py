"""Enforces the ceilings of a catalogue: a change that would exceed one is refused.

Plans and stages are counted in the snapshot, whose version guards every change of it. Keys are counted in Redis, and
only where there is a ceiling on them: then each commit that creates keys increments the revision `made` and depends
on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ratelimit.admin.commit import MAX_ATTEMPTS, Commit
from ratelimit.effects import Operation, text
from ratelimit.errors import ConfigError
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import Command
from ratelimit.validation import shown

_REVISION_FIELD = "made"
_MAX_ATTEMPTS_WITH_CEILING = 8 * MAX_ATTEMPTS
"""Under a ceiling, all who create keys overtake each other; without one they would not conflict."""


class Countable(NamedTuple):
    """Something that a ceiling bounds.

    Attributes:
        ceiling: Name of the ceiling, a field of `Ceilings`.
        owner: What has so many of them, such as "API 'petstore'".
        noun: What is counted, such as "stages".
        field: The field that an error names.
    """

    ceiling: str
    owner: str
    noun: str
    field: str


def validated(ceilings: object) -> Ceilings:
    """Return `ceilings`. Raises ConfigError if they are not `Ceilings`."""
    if not isinstance(ceilings, Ceilings):
        raise ConfigError(f"must be Ceilings, not {shown(ceilings)}", field="ceilings")
    return ceilings


def check_ceilings(ceilings: Ceilings, old: CatalogSnapshot, new: CatalogSnapshot) -> None:
    """Raise ConfigError if a new snapshot exceeds a ceiling, and by more than the old one does."""
    if ceilings == Ceilings():
        return
    old_counts = _counts(old)
    for countable, count in _counts(new).items():
        ceiling = getattr(ceilings, countable.ceiling)
        if ceiling is not None and count > max(ceiling, old_counts.get(countable, 0)):
            raise _exceeded(countable, count, ceiling)


def check_plans_per_key(ceilings: Ceilings, key_id: str, before: int, after: int) -> None:
    """Raise ConfigError if a key would be in more plans than it may be; `before` and `after` count its plans."""
    ceiling = ceilings.plans_per_key
    if ceiling is not None and after > max(ceiling, before):
        owner = f"key {key_id!r}" if key_id else "the key"
        raise _exceeded(Countable("plans_per_key", owner, "plans", "plans"), after, ceiling)


class KeyHeadroom(NamedTuple):
    """How many keys may still be created.

    Attributes:
        remaining: The number; None for any number.
        existing: How many keys exist.
        revision: The stored revision that this was computed from.
    """

    remaining: int | None = None
    existing: int = 0
    revision: str | None = None


def key_headroom(namespace: Namespace) -> Operation[KeyHeadroom]:
    """Return how many keys may still be created. Reads nothing where there is no ceiling."""
    reads = key_headroom_reads(namespace)
    return key_headroom_from(namespace, (yield reads) if reads else ())


def key_headroom_reads(namespace: Namespace) -> list[Command]:
    """Return the commands whose replies `key_headroom_from` takes."""
    if namespace.ceilings.keys is None:
        return []
    # The revision first: it reveals a key that is created between the two.
    return [("HGET", namespace.names.catalog, _REVISION_FIELD), ("ZCARD", namespace.names.keys)]


def key_headroom_from(namespace: Namespace, replies: Sequence[Any]) -> KeyHeadroom:
    """Return how many keys may still be created, from the replies to `key_headroom_reads`."""
    ceiling = namespace.ceilings.keys
    if ceiling is None:
        return KeyHeadroom()
    revision, count = replies
    return KeyHeadroom(max(0, ceiling - count), count, text(revision))


def max_attempts(namespace: Namespace) -> int:
    """Return how often to attempt a commit that creates keys."""
    return MAX_ATTEMPTS if namespace.ceilings.keys is None else _MAX_ATTEMPTS_WITH_CEILING


def check_key_ceiling(namespace: Namespace, headroom: KeyHeadroom) -> None:
    """Raise ConfigError if not one more key may be created."""
    ceiling = namespace.ceilings.keys
    if ceiling is not None and headroom.remaining == 0:
        raise _exceeded(Countable("keys", "the catalogue", "keys", "keys"), headroom.existing + 1, ceiling)


def guard_key_count(commit: Commit, namespace: Namespace, headroom: KeyHeadroom) -> None:
    """Have the commit, which creates keys, fail if others have created keys meanwhile."""
    if headroom.remaining is not None:
        commit.expect(namespace.names.catalog, _REVISION_FIELD, headroom.revision)
        commit.add("HINCRBY", namespace.names.catalog, _REVISION_FIELD, 1)


def catalogue_full(ceilings: Ceilings) -> str:
    """Return the warning about one of many keys that exceeds the ceiling."""
    return f"the catalogue is full, {ceilings.keys:,} keys are its ceiling (keys): delete some, or raise the ceiling"


def _exceeded(countable: Countable, count: int, ceiling: int) -> ConfigError:
    return ConfigError(
        f"{countable.owner} would have {count:,} {countable.noun}, and the ceiling ({countable.ceiling}) is "
        f"{ceiling:,}: take {count - ceiling:,} away, or raise the ceiling (of commands: RATELIMIT_CEILINGS)",
        field=countable.field,
    )


def _counts(snapshot: CatalogSnapshot) -> dict[Countable, int]:
    counts = {Countable("plans", "the catalogue", "plans", "plans"): len(snapshot.plans)}
    for plan in snapshot.plans.values():
        for plan_stage in plan.stages:
            owner = f"stage {plan_stage.stage!r} of plan {plan.id!r}"
            field = f'plans.{plan.id}.stages."{plan_stage.stage}".throttles'
            counts[Countable("methods_per_stage", owner, "method throttles", field)] = len(plan_stage.throttles)
    stages, paths = dict[str, set[str]](), dict[str, set[str]]()
    for stage, methods in snapshot.methods_by_stage.items():
        api = stage.partition("/")[0]
        stages.setdefault(api, set()).add(stage)
        paths.setdefault(api, set()).update(_paths(methods))
    for api, names in stages.items():
        counts[Countable("stages_per_api", f"API {api!r}", "stages", "stages")] = len(names)
        counts[Countable("resources_per_api", f"API {api!r}", "paths of methods", "stages")] = len(paths[api])
    return counts


def _paths(methods: Iterable[str]) -> Iterable[str]:
    return (method.partition(" ")[2] for method in methods)
