"""What a gateway's user must be permitted, and what it must not (lua/ACL.md): commands to try it by.

None of them changes anything, whoever runs it: they name what is not there, or have an argument that is invalid.
"""

from __future__ import annotations

from typing import NamedTuple

from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.registry.redis_keys import OTHERS, RedisKeys, identity_id
from ratelimit.scripts import Command, load

_NOBODY = "-nobody-"
"""An id that no key, plan or stage has."""
_INVALID = "-"
"""No number, and no id of a stream."""
_NO_SCRIPT = "0" * 40

EVAL: Command = ("EVAL", "", _INVALID)


class Need(NamedTuple):
    """Something that a gateway does.

    Attributes:
        command: How to try it.
        names: The names for which it must be permitted, as in ACL SETUSER; "" for none.
        selector: What grants the command for these names alone, as Redis 7 can; "" for commands that are harmless on
            all names of a gateway.
    """

    command: Command
    names: str = ""
    selector: str = ""


def needed(names: RedisKeys) -> list[Need]:
    """Return what a gateway does, apart from EVAL, which it does not need where the scripts are loaded."""
    key_hash, days, keys = names.key_hash(_NOBODY), names.key_days(_NOBODY), f"~{names.key_hash('*')}"
    bucket, buckets = names.stage_bucket(_NOBODY, OTHERS), f"~{names.namespace}:stage:*"
    identity, identities = names.key_hash(identity_id(_NOBODY)), f"~{names.key_hash(identity_id('*'))}"
    counted, all_counted = names.identities(_NOBODY, 1), f"~{names.namespace}:identities:*"
    without_redis = f"~{names.journal} ~{names.replicas}"
    expiring = f"({identities} {all_counted} {without_redis} +pttl +pexpire +zcount +zadd +zremrangebyscore)"
    denials, all_denials = names.denials(0), f"~{names.namespace}:denials:*"
    flushing = f"({all_denials} +hincrby +expire)"
    return [
        Need(("TIME",)),
        Need(evalsha()),
        Need(("SUBSCRIBE", names.changes), f"&{names.changes}"),
        Need(("HGETALL", names.catalog), f"%R~{names.catalog}"),
        Need(("HMGET", names.former_catalog, "epoch"), f"%R~{names.former_catalog}"),
        Need(("MGET", names.digest(_NOBODY)), f"%R~{names.digest('*')}"),
        Need(("GET", names.key_record(_NOBODY)), f"%R~{names.key_record('*')}"),
        Need(("HGET", key_hash, "r"), keys),
        Need(("HKEYS", key_hash), keys),
        Need(("HSET", key_hash, "r", "", ""), keys),
        Need(("HDEL", key_hash, "-"), keys),
        Need(("HSET", days, "r", "", ""), f"~{names.key_days('*')}"),
        Need(("SET", bucket, "", "XX"), buckets),
        Need(("SETRANGE", bucket, 0, ""), buckets),
        Need(("SETRANGE", names.account, _INVALID, ""), f"~{names.account}"),
        Need(("XADD", names.alerts, _INVALID, "", ""), f"~{names.alerts}"),
        Need(("HINCRBY", denials, "", _INVALID), all_denials, flushing),
        Need(("EXPIRE", denials, _INVALID), all_denials, flushing),
        Need(("PTTL", identity), identities, expiring),
        Need(("PEXPIRE", identity, _INVALID), identities, expiring),
        Need(("EVALSHA", _NO_SCRIPT, 1, counted), all_counted),
        Need(("EVALSHA", _NO_SCRIPT, 1, names.journal), f"~{names.journal}"),
        Need(("EVALSHA", _NO_SCRIPT, 1, names.replicas), f"~{names.replicas}"),
        Need(("ZCOUNT", counted, 0, 0), all_counted, expiring),
        Need(("ZADD", counted, _INVALID, ""), all_counted, expiring),
        Need(("ZREMRANGEBYSCORE", counted, _INVALID, _INVALID), all_counted, expiring),
    ]


def evalsha() -> Command:
    """Return a call of a script of ours; without KEYS it does nothing."""
    return ("EVALSHA", load(GATEWAY_SCRIPTS[0]).sha, 0)


def can_be_tried(command: Command) -> bool:
    """Return whether a command may be run to try it: one that subscribes would leave the connection of no use."""
    return command[0] != "SUBSCRIBE"


def excessive(names: RedisKeys) -> dict[str, Command]:
    """Return what an administrator does and a gateway must not: the deed, and a command to ask after, not to try."""
    return {
        "rewrite plans": ("HSET", names.catalog, "version", "0"),
        "rewrite keys": ("SET", names.key_record(_NOBODY), ""),
        "open keys to other values": ("SET", names.digest(_NOBODY), ""),
        "publish changes": ("PUBLISH", names.changes, ""),
        "erase everything": ("FLUSHALL",),
        "change the server's settings": ("CONFIG", "SET", "maxmemory", "0"),
        "make users": ("ACL", "SETUSER", _NOBODY),
    }
