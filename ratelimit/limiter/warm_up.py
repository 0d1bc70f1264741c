"""What a process does before its first check: it does what checks do, as far as that changes nothing. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.effects import (
    IndependentAtNode,
    IndependentCommands,
    IndependentReads,
    Operation,
    Primaries,
    UnknownScriptError,
)
from ratelimit.engine import protocol
from ratelimit.errors import Cause, StoreError, StoreUnavailable
from ratelimit.model import Throttle
from ratelimit.registry.key_record import VERSION_TOKEN_LENGTH
from ratelimit.registry.key_values import generated_id, generated_value
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.scripts import ScriptCall, load

_VERSION_TOKEN = b"-" * VERSION_TOKEN_LENGTH


class _Problems:
    """What is wrong, each thing once."""

    def __init__(self) -> None:
        self._causes: dict[str, Cause] = {}

    def add(self, error: StoreError) -> None:
        """Add an error that a server answered with; raise it if there was no answer, as there would be none to more."""
        if error.cause in ("not_sent", "unknown"):
            raise error
        self._causes.setdefault(str(error), error.cause)

    def add_from(self, replies: Iterable[Any]) -> None:
        """Add the errors among replies."""
        for reply in replies:
            if isinstance(reply, StoreError):
                self.add(reply)

    def raise_all(self) -> None:
        """Raise one error for all that is wrong, if anything is."""
        if self._causes:
            raise StoreError("; ".join(self._causes), cause=next(iter(self._causes.values())))


def warm_up(namespace: Namespace) -> Operation[list[Any]]:
    """Load the catalogue and the scripts, and try what checks do; return the reply of each server to INFO.

    That HSET is permitted cannot be tried without a write.

    Raises:
        StoreError: With all that is wrong, and what to do about each. Its cause is that of the first.
        ConfigError: The pepper is not the one that the keys were stored with.
    """
    names, key_id, problems = namespace.names, generated_id(), _Problems()
    try:
        yield from namespace.first_load()
    except StoreError as error:
        problems.add(error)
    # What belongs to no key, and is never written.
    key_hash, bucket = names.key_hash(key_id), names.stage_bucket(f"{key_id}/{key_id}", OTHERS)
    digests = list(map(names.digest, namespace.digest.all(generated_value())))
    look_ups = [("GET", name) for name in digests] if namespace.has_slots else [("MGET", *digests)]
    problems.add_from((yield IndependentReads([*look_ups, ("GET", names.key_record(key_id)), ("HGET", key_hash, "r")])))
    problems.add_from((yield IndependentCommands([("SETRANGE", bucket, 0, ""), ("SET", bucket, "", "XX")])))
    memories = list[Any]()
    for node in (yield Primaries()):
        memories += yield from _load_scripts(node, problems)
    peek = namespace.script_us(), 1, 0
    no_key = protocol.pack_head(*peek, protocol.PEEK) + protocol.pack_plan(None, None, 0) + _VERSION_TOKEN
    a_key = protocol.pack_head(*peek, protocol.PEEK | protocol.HAS_KEY) + no_key[32:]
    for keys, args in (
        ((names.account,), (no_key + protocol.pack_buckets([Throttle(1, 1)]),)),
        ((key_hash,), (a_key, "p:-")),
    ):
        try:
            yield ScriptCall(load("check"), keys, args, changes_nothing=True)
        except StoreError as error:
            problems.add(error)
    problems.raise_all()
    return memories


def _load_scripts(node: str, problems: _Problems) -> Operation[list[Any]]:
    """Make a server know the scripts, and return its reply to INFO.

    Without KEYS they do nothing, and an error of theirs says that they run.
    """
    scripts = [load(name) for name in GATEWAY_SCRIPTS]
    commands = [("INFO", "memory"), *[("EVALSHA", script.sha, 0) for script in scripts]]
    memory, *replies = yield IndependentAtNode(node, commands)
    unknown = [script for script, reply in zip(scripts, replies, strict=True) if isinstance(reply, UnknownScriptError)]
    if unknown:
        replies += yield IndependentAtNode(node, [("EVAL", script.source, 0) for script in unknown])
    problems.add_from(reply for reply in replies if isinstance(reply, StoreUnavailable))
    return [memory]
