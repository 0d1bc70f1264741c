"""What a node of the catalogue's may have lost in a failover: entries of keys in the list and in the sets of plans.

A key may then be in a plan whose set does not have it, and a change of plans would not see it. So the catalogue holds
the replication id of its node, which is another one after each failover and restart. A change of plans that could put
a key into two plans of a stage, or delete a plan under it, and meets another id, first looks at every record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.admin.commit import carry_out, new_commit
from ratelimit.effects import AtNode, IndependentReads, Operation, Primaries, info_fields, text, texts
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

_FIELD = "replid"
_LOST_VERSIONS = 1000
"""How many versions of the catalogue a failover loses at most."""
_AT_ONCE = 1000


def restore_entries(namespace: Namespace, snapshot: CatalogSnapshot) -> Operation[bool]:
    """If the catalogue's node is another one than before, enter all keys again that are in no list or set.

    After a failover the version is raised by more than can have been lost, so that no key is ahead of the catalogue.
    Whose user may not ask for the replication id does nothing of this.

    Returns:
        Whether the id was another one, or none was known yet: the change is then to be computed anew.
    """
    info, stored = yield IndependentReads([("INFO", "replication"), ("HGET", namespace.names.catalog, _FIELD)])
    if isinstance(stored, StoreError):
        raise stored
    current = "" if isinstance(info, StoreError) else info_fields(text(info) or "").get("master_replid", "")
    if not current or current == text(stored):
        return False
    for key_id in (yield from keys_without_entries(namespace)):
        yield from repair_key(namespace, key_id)
    commit, is_another = new_commit(namespace, snapshot), stored is not None
    commit.expect(namespace.names.catalog, "version", str(snapshot.version))
    commit.replace(namespace.names.catalog, _FIELD, text(stored), current)
    if is_another:
        commit.add("HSET", namespace.names.catalog, "stamp", generated_token())
        commit.add("HINCRBY", namespace.names.catalog, "version", _LOST_VERSIONS)
        commit.add("PUBLISH", None, namespace.names.changes, snapshot.version + _LOST_VERSIONS)
    yield from carry_out(commit)
    return True


def keys_without_entries(namespace: Namespace) -> Operation[list[str]]:
    """Walk all records; return the keys that are not in the list, or not in the set of a plan that they are in."""
    key_ids = list[str]()
    for node in (yield Primaries()):
        cursor = "0"
        while True:
            pattern = namespace.names.key_record("*")
            ((next_cursor, names),) = yield AtNode(node, [("SCAN", cursor, "MATCH", pattern, "COUNT", _AT_ONCE)])
            for some in _parts(sorted(texts(names))):
                key_ids += yield from _without_entries(namespace, some)
            cursor = text(next_cursor) or "0"
            if cursor == "0":
                break
    return sorted(set(key_ids))


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE))


def _without_entries(namespace: Namespace, record_names: Sequence[str]) -> Operation[Iterable[str]]:
    replies = yield [("GET", name) for name in record_names]
    records = [KeyRecord.from_json(stored) for stored in map(text, replies) if stored is not None]
    names, live = namespace.names, [record for record in records if record.is_live]
    if not live:
        return []
    replies = yield [
        command
        for record in live
        for command in (
            ("ZSCORE", names.keys, record.id),
            *(("SISMEMBER", names.plan_keys(plan_id), record.id) for plan_id in record.plans),
        )
    ]
    has = iter(replies)
    missing = list[str]()
    for record in live:
        entries = [next(has) for _ in range(1 + len(record.plans))]
        if entries[0] is None or not all(entries[1:]):
            missing.append(record.id)
    return missing
