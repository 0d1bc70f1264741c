"""The form of what is in Redis, and errors about one that this version does not know."""

from __future__ import annotations

from ratelimit.errors import StoreError
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.validation import shown

SCHEMA = 2
"""A field whose neglect would admit more raises it; other additions do not."""
SCHEMA_WITH_DENIALS = 3
"""As long as a stage denies the methods that are not listed: who does not know `unlisted` would admit them."""
_KNOWN = {str(schema): schema for schema in (SCHEMA, SCHEMA_WITH_DENIALS)}
_KNOWS = f"this version knows the schemas {' and '.join(_KNOWN)} alone"
MOVED = "moved"
"""Prefix of the schema of a catalogue that `ratelimit migrate` has handed over: gateways never decide by it again."""
ARRIVING = "arriving"
"""Prefix of the schema of an unfinished copy: gateways do not decide by it yet."""


def require_known(names: RedisKeys, stored: str | None) -> int:
    """Return the schema of a catalogue; raise StoreError for one that this version does not know."""
    if stored in _KNOWN:
        return _KNOWN[stored]
    what = f"the catalogue {names.catalog!r}"
    if stored is None:
        raise StoreError(f"{what} in Redis cannot be read: it has lost its 'schema'")
    if stored.startswith(f"{MOVED} "):
        raise StoreError(
            f"{what} is here no more: `ratelimit migrate` moved it to another server; give this process the URL of "
            "that server; nothing was decided or changed by it"
        )
    if stored.startswith(f"{ARRIVING} "):
        raise StoreError(
            f"{what} is a copy that `ratelimit migrate` has not finished: finish it (`--finish`), or use the server "
            "that it is copied from; nothing was decided or changed by it"
        )
    raise StoreError(
        f"{what} is of schema {shown(stored)}, and {_KNOWS}: upgrade this installation; nothing was decided "
        "or changed by it"
    )


def of_schema_1(names: RedisKeys) -> StoreError:
    """Return the error for a catalogue under its former name."""
    return StoreError(f"the catalogue {names.former_catalog!r} is of schema 1, and {_KNOWS}: run `ratelimit upgrade`")


def gone(names: RedisKeys) -> StoreError:
    """Return the error for a catalogue that was there."""
    return StoreError(
        f"the catalogue {names.catalog!r} was here and is gone: Redis lost data, or points elsewhere; "
        "restore it or apply the plan file again",
        cause="lost",
    )


def absent(names: RedisKeys) -> StoreError:
    """Return the error for a namespace in which there is no catalogue, as far as this process has seen."""
    return StoreError(
        f"there is no catalogue in namespace {names.namespace!r}: apply a plan file (`ratelimit apply plans.toml`); "
        "if there was one, Redis has lost it, or this is another server or database",
        cause="lost",
    )
