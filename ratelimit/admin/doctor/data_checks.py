"""Checks of what Redis holds of the namespace."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ratelimit.admin.doctor.problem import Check, Problem, error, megabytes, warning
from ratelimit.admin.doctor.readings import Deployment, UnreadError, count_of, identity_bounds
from ratelimit.admin.doctor.repair import RepairSummary
from ratelimit.effects import scored
from ratelimit.model import MICROSECONDS
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.registry.schema import ARRIVING, MOVED, SCHEMA, SCHEMA_WITH_DENIALS

BYTES_PER_IDENTITY = 300
"""About what an identity takes: its hash, and its place among those that are counted."""
_NEARLY_FULL = 0.8
_FRESH_S = 15


def schema(deployment: Deployment) -> Check:
    """Whether this version knows the form of what is stored."""
    catalog, names = deployment.catalog, deployment.names
    if not catalog:
        if _is_of_schema_1(deployment):
            yield error("what is stored is of schema 1: gateways of this version answer 503", "ratelimit upgrade")
        return "nothing is stored"
    stored = catalog.get("schema", "")
    if stored.startswith(f"{MOVED} "):
        yield error(
            f"`ratelimit migrate` has moved the namespace {names.namespace!r} to another server: gateways of this "
            "server answer 503",
            "give gateways and administrators the URL of the other server",
        )
    elif stored.startswith(f"{ARRIVING} "):
        yield error(
            f"namespace {names.namespace!r} is an unfinished copy: gateways of this server answer 503",
            "ratelimit migrate FROM TO --finish  # or --cancel; this server is TO",
        )
    elif stored not in (str(SCHEMA), str(SCHEMA_WITH_DENIALS)):
        yield error(
            f"the catalogue {names.catalog!r} is of schema {stored[:8]!r}: gateways of this version answer 503",
            "pip install --upgrade ratelimit-redis",
        )
    if "upgrading" in catalog:
        yield warning("an upgrade was interrupted: some API keys are in their former form", "ratelimit upgrade")
    return f"schema {stored}"


def _is_of_schema_1(deployment: Deployment) -> bool:
    try:
        (epoch,) = deployment.primary.answers.get("HMGET", deployment.names.former_catalog, "epoch")
    except UnreadError as unread:
        if "WRONGTYPE" in unread.message:  # what an upgrade left there
            return False
        raise
    return epoch is not None


def catalogue(deployment: Deployment) -> Check:
    """Whether the catalogue is there, and whole."""
    catalog, names = deployment.catalog, deployment.names
    if not catalog and not _is_of_schema_1(deployment):
        count = int(deployment.primary.answers.get("ZCARD", names.keys))
        if count:
            yield error(
                f"the catalogue {names.catalog!r} is lost, and {count:,} API keys are there: all checks are "
                "answered 503",
                "ratelimit apply plans.toml",
                5,
            )
        else:
            yield warning(
                f"there is no catalogue in namespace {names.namespace!r}: checks are answered 503. Nothing was applied "
                "yet, or this is another server or database",
                "ratelimit apply plans.toml",
            )
        return ""
    missing = [field for field in ("epoch", "version", "pepper", "schema") if catalog and field not in catalog]
    if missing:
        yield error(
            f"the catalogue has lost its {', '.join(missing)}: all checks are answered 503",
            f"redis-cli DEL '{names.catalog}' && ratelimit apply plans.toml  # unless there is a backup",
        )
    _, unreadable = deployment.plans
    for plan_id in unreadable:
        yield error(
            f"the plan {plan_id!r} cannot be read: its keys are answered 503",
            f"redis-cli HDEL '{names.catalog}' {shlex.quote(f'plan:{plan_id}')} && ratelimit apply plans.toml",
        )
    return f"{sum(name.startswith('plan:') for name in catalog)} plans"


def keys(deployment: Deployment) -> Check:
    """Whether API keys are whole."""
    answers, names, ids = deployment.primary.answers, deployment.names, deployment.sample.key_ids
    count = answers.get("ZCARD", names.keys)
    if not ids:
        return f"{count:,} API keys"
    records = [answers.get("MGET", names.key_record(key_id))[0] for key_id in ids]
    lost = [key_id for key_id, record in zip(ids, records, strict=True) if record is None]
    if lost:
        yield error(
            f"the records of {len(lost)} of {len(ids)} sampled API keys are lost: their callers are answered 503",
            "ratelimit keys create --value-from stdin  # for each, unless there is a backup",
            5,
        )
    bare = [
        key_id
        for key_id, record in zip(ids, records, strict=True)
        if record is not None and answers.get("HGET", names.key_hash(key_id), "r") is None
    ]
    if bare:
        yield warning(
            f"the counts of {len(bare)} of {len(ids)} sampled API keys are lost: they start with full limits",
            "none is needed, the next check of each writes them anew; find out what was lost (persistence, eviction)",
            2,
        )
    return f"{count:,} API keys, {len(ids)} of them looked at"


def pepper(deployment: Deployment) -> Check:
    """Whether this process has the pepper that keys were stored with."""
    stored = deployment.catalog.get("pepper", "").split()
    if stored and not set(stored) & set(deployment.probes):
        yield error(
            "the pepper here is not the one that the API keys were stored with: with it, each key is unknown",
            "set RATELIMIT_PEPPER, and pepper= of gateways, to the one that the catalogue was made with",
        )
    return "the pepper is the right one" if stored else "no pepper is stored yet"


def identities(deployment: Deployment) -> Check:
    """Whether the number of identities, and with it memory, has a bound."""
    plans, _ = deployment.plans
    free = [plan.id for plan in plans if plan.max_identities is None]
    if free:
        for command in ("SCAN", "HKEYS"):
            deployment.primary.answers.get(command)
    for plan_id in free:
        if plan_id in deployment.sample.identity_plans:
            yield warning(
                f"identities have the plan {plan_id!r}, whose number is not bounded: each takes about "
                f"{BYTES_PER_IDENTITY} bytes, and a flood of addresses fills the memory",
                f"ratelimit apply plans.toml  # with max_identities = 100_000 in the plan {plan_id!r}",
            )
    bounds = identity_bounds(plans, deployment.names)
    counts = dict[str, str]()
    for plan_id, bound in bounds.items():
        count = deployment.primary.answers.get(*count_of(bound)) * bound.one_in
        counts[plan_id] = f"{count:,} of {bound.most:,} ({plan_id})"
        if count > _NEARLY_FULL * bound.most:
            yield warning(
                f"the plan {plan_id!r} has {count:,} identities of {bound.most:,}: further ones are denied (429)",
                f"ratelimit apply plans.toml  # with a greater max_identities in the plan {plan_id!r}",
            )
    most = sum(bound.most for bound in bounds.values()) * BYTES_PER_IDENTITY
    primary = deployment.primary
    limit = primary.number("maxmemory") if bounds else 0
    left = limit - primary.number("used_memory") if limit else 0
    if limit and most > left:
        yield warning(
            f"as many identities as plans allow take {megabytes(most)}, and {megabytes(left)} are left",
            primary.set_command("maxmemory", limit + most),
        )
    return f"{', '.join(counts.values())}: {megabytes(most)} at most" if bounds else "no plan bounds them"


def unfinished(deployment: Deployment) -> Check:
    """Whether changes of keys are unfinished: where there are slots, a change takes several steps."""
    if not deployment.has_slots:
        deployment.primary.info_or("cluster_enabled", "")  # whether they do may be unknown
        return "one script makes all of a change"
    repaired = deployment.repair
    for pair in repaired.two_keys if repaired is not None else ():
        yield error(
            f"the keys {pair.key_id!r} and {pair.other_id!r} have one value: it opens the first",
            f"ratelimit keys rotate {shlex.quote(pair.other_id)}  # or delete the one that is not meant",
        )
    yield from _unrepaired(deployment.names, repaired) if repaired is not None else ()
    count = int(deployment.primary.answers.get("HLEN", deployment.names.intents))
    if count:
        yield warning(
            f"changes of {count:,} keys are under way, or were interrupted",
            "ratelimit doctor --repair",
        )
    return "no change of a key is unfinished" if repaired is None else str(repaired)


def _unrepaired(names: RedisKeys, repaired: RepairSummary) -> Iterator[Problem]:
    """Yield why a repair stopped, and what it could not read: the next repair finishes what each remedy leaves."""
    if repaired.stopped:
        yield error(
            f"the repair stopped: {repaired.stopped}",
            "ratelimit doctor --repair  # again, when all nodes answer",
        )
    for key_id in repaired.unreadable:
        yield error(
            f"the record of key {key_id!r} cannot be read: checks of the key are answered 503, and nobody can change "
            "it",
            f"redis-cli -c GET {shlex.quote(names.key_record(key_id))}  # restore it from a backup; else UNLINK it, "
            "and run ratelimit doctor --repair: the key is deleted then",
        )
    for key_id in repaired.unreadable_intents:
        yield error(
            f"the intent of key {key_id!r} is no text: its plans cannot be changed",
            f"redis-cli -c HDEL {shlex.quote(names.intents)} {shlex.quote(key_id)} && ratelimit doctor --repair",
        )
    for name in repaired.unreadable_names:
        if name.startswith(names.digest("")):
            yield error(
                f"the claim {name!r} of a value cannot be read: checks with that value are answered 503",
                f"redis-cli -c UNLINK {shlex.quote(name)} && ratelimit doctor --repair  # the value leads to its key "
                "again",
            )
        else:
            yield error(
                f"what {name!r} holds cannot be read, or not all of it",
                f"redis-cli -c TYPE {shlex.quote(name)}  # look what it holds; remove what is no id or no text",
            )


def gateways(deployment: Deployment) -> Check:
    """Which processes of gateways send heartbeats: their number divides the limits while Redis is away."""
    name = deployment.names.replicas
    reply = deployment.primary.answers.get("ZREVRANGEBYSCORE", name, "+inf", "-inf", "WITHSCORES")
    now_us = deployment.primary.clock.server_us
    ages = [(now_us - int(score)) / MICROSECONDS for _, score in scored(reply)]
    ahead = [age for age in ages if age < -_FRESH_S]
    if ahead:
        yield warning(
            f"{len(ahead)} of {len(ages)} heartbeats are of the future: the server's clock went back, "
            "and while Redis is away limits are divided among processes that may be gone",
            f"redis-cli ZREMRANGEBYSCORE '{name}' '({now_us}' +inf",
            2,
        )
    fresh = sorted(age for age in ages if age < _FRESH_S)
    if not ages:
        return "no process of a gateway has sent a heartbeat"
    return f"{len(fresh)} processes of gateways sent a heartbeat within {_FRESH_S} s, {len(ages) - len(fresh)} earlier"
