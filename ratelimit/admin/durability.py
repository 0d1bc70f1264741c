"""Changes that wait for the replicas of Redis, and say how many acknowledged them.

WAIT counts the replicas that have all writes of its own connection. So the change's push is published once more on that
connection: whoever has that has the change. It does no harm, and a server at its `maxmemory` takes it.

A server with slots hands pushes to other nodes, not to its replicas. There the key's record is written again on that
connection, by an expiry that is taken back in the same script. That leaves everything as it is, and needs no memory.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from ratelimit import validation
from ratelimit.admin.commit import MAX_ATTEMPTS, Commit
from ratelimit.effects import IndependentReads, Operation, PatientCommands, info_fields, text
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.model import ApiKey, Replication
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.windows import DAY_US
from ratelimit.scripts import Command

_MAX_TIMEOUT_S = 60
_INFO = ("INFO", "replication")
_Key = TypeVar("_Key", bound=ApiKey)


def durable_change(
    namespace: Namespace, key_id: str, change: Operation[_Key], durable: object, timeout_s: object
) -> Operation[_Key]:
    """Change a key; if that is to be durable, return it with its `replication`.

    Args:
        namespace: The namespace.
        key_id: Id of the key.
        change: Changes it, and returns it.
        durable: Whether to wait for the replicas.
        timeout_s: For how many seconds.
    """
    before = yield from _replicas_before(namespace, key_id, durable, timeout_s)
    key = yield from change
    if before is None:
        return key
    return key.with_replication((yield from _acknowledged(namespace, key_id, before)))


def durable_deletion(
    namespace: Namespace, key_id: str, deletion: Operation[None], durable: object, timeout_s: object
) -> Operation[Replication | None]:
    """Delete a key, as `durable_change` changes one; return what became of that, None if it need not be durable."""
    before = yield from _replicas_before(namespace, key_id, durable, timeout_s)
    yield from deletion
    return None if before is None else (yield from _acknowledged(namespace, key_id, before))


class _Replicas(NamedTuple):
    """What a server says of its replicas, and for how long to wait for them.

    Attributes:
        primary: Identifies the server for as long as it is a primary; another one, or a later life of it, has another.
        connected: How many are connected.
        has_min_replicas: As in `Replication`.
        timeout_s: For how long to wait.
    """

    primary: str
    connected: int
    has_min_replicas: bool
    timeout_s: float


def _replicas_before(
    namespace: Namespace, key_id: str, durable: object, timeout_s: object
) -> Operation[_Replicas | None]:
    """Return what is known before a change that is to be durable: that its replicas can be waited for, above all.

    Raises:
        ConfigError: `durable` or `durable_timeout` is none.
        StoreUnavailable: The server does not allow it.
    """
    if not validation.flag(durable, "durable"):
        return None
    timeout_s = validation.seconds(timeout_s, "durable_timeout", _MAX_TIMEOUT_S)
    reads: list[Command] = [_INFO, ("WAIT", 0, 1)]
    yield from namespace.find_slots()
    if namespace.has_slots:
        validation.key_id(key_id)
        # The read of the record leads to the key's node.
        replies = (yield PatientCommands([*reads, ("GET", namespace.names.key_record(key_id))], 0))[:-1]
    else:
        replies = yield IndependentReads(reads)
    for reply in replies:
        if isinstance(reply, StoreError) and not _is_replica(replies[0]):
            raise StoreUnavailable(
                f"nothing was changed: what is durable needs the commands WAIT and INFO. {reply}", cause=reply.cause
            )
    return _parsed(replies[0], timeout_s)


def _is_replica(info: bytes | str | StoreError) -> bool:
    """Return whether a server is no primary. It does not know WAIT, but says itself that it takes no writes."""
    return not isinstance(info, StoreError) and "role:slave" in (text(info) or "")


def _parsed(info: bytes | str, timeout_s: float) -> _Replicas:
    fields = info_fields(text(info) or "")
    # INFO has the number of good replicas only where the server needs some.
    has_min_replicas = "min_slaves_good_slaves" in fields
    return _Replicas(
        fields.get("master_replid", ""), int(fields.get("connected_slaves", 0)), has_min_replicas, timeout_s
    )


def _acknowledged(namespace: Namespace, key_id: str, before: _Replicas) -> Operation[Replication]:
    """Wait for the replicas. The change is made: what cannot be found out counts as not acknowledged."""
    wait = ("WAIT", before.connected, max(1, round(before.timeout_s * 1000)))
    try:
        for _ in range(MAX_ATTEMPTS):
            if (write := (yield from _harmless_write(namespace, key_id))) is None:
                break
            replies = yield PatientCommands([write, wait, _INFO], before.timeout_s)
            if any(isinstance(reply, StoreError) for reply in replies):
                break
            *written, acknowledged, info = replies
            if not namespace.has_slots or written[0][0] == 1:
                return _replication(before, acknowledged, _parsed(info, before.timeout_s))
    except StoreError:
        pass
    return Replication(0, before.connected, before.has_min_replicas)


def _replication(before: _Replicas, acknowledged: int, after: _Replicas) -> Replication:
    if not after.primary or after.primary != before.primary:
        acknowledged = 0  # by replicas of a server that may never have had the change
    return Replication(
        acknowledged, max(before.connected, after.connected), before.has_min_replicas and after.has_min_replicas
    )


def _harmless_write(namespace: Namespace, key_id: str) -> Operation[Command | None]:
    """Return what is replicated after the change, and changes nothing; None if there is nothing to write to."""
    if not namespace.has_slots:
        return "PUBLISH", namespace.names.changes, f"key:{key_id}"
    name = namespace.names.key_record(key_id)
    stored = text((yield [("GET", name)])[0])
    if stored is None:
        return None
    commit = Commit()
    commit.expect(name, None, stored)
    commit.add("PEXPIRE", name, DAY_US // 1000)  # what is left of a key that was deleted has an expiry
    if KeyRecord.from_json(stored, key_id).is_live:
        commit.add("PERSIST", name)
    return commit.to_script_call().by_source()
