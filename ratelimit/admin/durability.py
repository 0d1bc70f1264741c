"""Changes that wait for the replicas of Redis, and say how many acknowledged them.

WAIT counts the replicas that have all writes of its own connection. So the change's push is published once more on that
connection: whoever has that has the change. It does no harm, and a server at its `maxmemory` takes it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from ratelimit import validation
from ratelimit.effects import IndependentReads, Operation, PatientCommands, info_fields, text
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.model import ApiKey, Replication
from ratelimit.registry.namespace import Namespace

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
    before = yield from _replicas_before(durable, timeout_s)
    key = yield from change
    if before is None:
        return key
    return key.with_replication((yield from _acknowledged(namespace, key_id, before)))


def durable_deletion(
    namespace: Namespace, key_id: str, deletion: Operation[None], durable: object, timeout_s: object
) -> Operation[Replication | None]:
    """Delete a key, as `durable_change` changes one; return what became of that, None if it need not be durable."""
    before = yield from _replicas_before(durable, timeout_s)
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


def _replicas_before(durable: object, timeout_s: object) -> Operation[_Replicas | None]:
    """Return what is known before a change that is to be durable: that its replicas can be waited for, above all.

    Raises:
        ConfigError: `durable` or `durable_timeout` is none.
        StoreUnavailable: The server does not allow it.
    """
    if not validation.flag(durable, "durable"):
        return None
    timeout_s = validation.seconds(timeout_s, "durable_timeout", _MAX_TIMEOUT_S)
    replies = yield IndependentReads([_INFO, ("WAIT", 0, 1)])
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
    push = ("PUBLISH", namespace.names.changes, f"key:{key_id}")
    wait = ("WAIT", before.connected, max(1, round(before.timeout_s * 1000)))
    try:
        replies = yield PatientCommands([push, wait, _INFO], before.timeout_s)
    except StoreError:
        return Replication(0, before.connected, before.has_min_replicas)
    if any(isinstance(reply, StoreError) for reply in replies):
        return Replication(0, before.connected, before.has_min_replicas)
    *_, acknowledged, info = replies
    after = _parsed(info, before.timeout_s)
    if not after.primary or after.primary != before.primary:
        acknowledged = 0  # by replicas of a server that may never have had the change
    return Replication(
        acknowledged, max(before.connected, after.connected), before.has_min_replicas and after.has_min_replicas
    )
