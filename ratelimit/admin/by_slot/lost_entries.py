"""What a node of the catalogue's may have lost in a failover: entries of keys in the list and in the sets of plans.

A key may then be in a plan whose set does not have it, and a change of plans would not see it. So the catalogue holds
the replication id of its node, which is another one after each failover and restart. A change of plans that could put
a key into two plans of a stage, or delete a plan under it, and meets another id, first looks at every record.
"""

from __future__ import annotations

from ratelimit.admin.by_slot.reading import has_entries
from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.admin.commit import carry_out, new_commit
from ratelimit.admin.reading import Scan, texts_of
from ratelimit.effects import IndependentReads, Operation, info_fields, text
from ratelimit.errors import StoreError
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.key_values import generated_token
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

_FIELD = "replid"
_LOST_VERSIONS = 1000
"""How many versions of the catalogue a failover loses at most."""
_RECORDS_PER_PAGE = 1000


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
    key_ids, scan = set[str](), Scan(namespace.names.key_record("*"), _RECORDS_PER_PAGE)
    while (names := (yield from scan.page())) is not None:
        stored = yield from texts_of(namespace, names)
        records = [KeyRecord.from_json(each) for each in stored if each is not None]
        live = [record for record in records if record.is_live]
        entries = yield from has_entries(namespace, live)
        key_ids |= {record.id for record, (_, has_all) in zip(live, entries, strict=True) if not has_all}
    return sorted(key_ids)
