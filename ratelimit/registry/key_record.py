"""The record of an API key, as Redis keeps it and as a check remembers it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ratelimit.effects import UnreadableError
from ratelimit.model import MICROSECONDS, ApiKey, CreatedKey, FrozenMap
from ratelimit.registry import unknown_fields
from ratelimit.registry.key_values import generated_token
from ratelimit.validation import EXACT

STAMP_LENGTH = 8
VERSION_TOKEN_LENGTH = 26
"""Of epoch (8 characters) and version (10 digits) of a catalogue, and the stamp of a record."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """The record of an API key. Times are in microseconds since 1970, 0 for none.

    A check sends the stamp of the record that it was prepared with, and the script rejects any other.

    Attributes:
        digests: Each valid digest with the time until which it is valid, 0 for ever: a rotated key has two for a while.
        stamp: Identifies this revision; the key's hash holds the same stamp.
        state: "" for a key; "draft" for one that is still being created, "tombstone" for one that was deleted. Neither
            opens anything.
        further: Fields of a newer version, which are kept as they are.
    """

    id: str
    name: str
    enabled: bool
    plans: tuple[str, ...]
    digests: dict[str, int]
    created_us: int
    expires_us: int
    stamp: str
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    state: str = ""
    further: Mapping[str, Any] = field(default_factory=FrozenMap)

    @property
    def is_live(self) -> bool:
        """Whether this is a key, neither a draft nor a tombstone."""
        return not self.state

    def json(self) -> str:
        """Return the record as Redis keeps it."""
        data = {name: getattr(self, name) for name in _FIELDS if name != "state" or self.state}
        return json.dumps({**data, **self.further}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, key_id: str | None = None) -> Self:
        """Return the record that Redis keeps as `text`, of the key `key_id` if that is given."""
        try:
            data = json.loads(text)
            wrong = _wrong_fields(data, key_id)
        except (ValueError, RecursionError) as error:  # RecursionError: nested some thousand deep
            wrong = [type(error).__name__]
        if wrong:
            raise UnreadableError(f"a key's record in Redis cannot be read ({', '.join(wrong)})")
        further = FrozenMap({name: value for name, value in data.items() if name not in _FIELDS})
        for name in further:
            unknown_fields.warn("a key's record", name)
        fields = {name: value for name, value in data.items() if name in _FIELDS}
        return cls(**{**fields, "plans": tuple(data["plans"])}, further=further)

    def valid_until_us(self, digest: str) -> int:
        """Return the time from which on this digest does not identify the key, 0 for never."""
        ends = [end for end in (self.expires_us, self.digests[digest]) if end]
        return min(ends, default=0)

    def api_key(self) -> ApiKey:
        """Return what callers see of it."""
        return ApiKey(*self._public_fields(), revision=self.stamp)

    def created_key(self, value: str) -> CreatedKey:
        """Return the same with the key's value."""
        return CreatedKey(*self._public_fields(), value=value, revision=self.stamp)

    def _public_fields(
        self,
    ) -> tuple[str, str, bool, tuple[str, ...], float, float | None, str, str, FrozenMap[str]]:
        return (
            self.id,
            self.name,
            self.enabled,
            self.plans,
            self.created_us / MICROSECONDS,
            self.expires_us / MICROSECONDS if self.expires_us else None,
            self.description,
            self.owner,
            FrozenMap(self.tags),
        )


def new_claim(key_id: str) -> str:
    """Return what the index says of a value that is given to a key: its id, and a token that no other claim has."""
    return f"{key_id}:{generated_token()}"


def claimed_by(claim: str) -> str:
    """Return the id of the key that an entry of the index names; those of schema 1 have no token."""
    return claim.partition(":")[0]


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    value.encode()  # UnicodeEncodeError, a ValueError, for half a character
    return True


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value < EXACT


_FIELDS = {
    "id": _is_text,
    "name": _is_text,
    "enabled": lambda value: isinstance(value, bool),
    "plans": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "digests": lambda value: (
        isinstance(value, dict) and all(map(_is_text, value)) and all(map(_is_time, value.values()))
    ),
    "created_us": _is_time,
    "expires_us": _is_time,
    "stamp": lambda value: isinstance(value, str) and len(value) == STAMP_LENGTH and value.isascii(),
    "description": _is_text,
    "owner": _is_text,
    "tags": lambda value: isinstance(value, dict) and all(map(_is_text, (*value, *value.values()))),
    "state": _is_text,
}
_OPTIONAL = ("description", "owner", "tags", "state")


def _wrong_fields(data: object, key_id: str | None) -> list[str]:
    """Return the names of the fields that are missing or of a wrong kind; raises ValueError for texts that are none."""
    if not isinstance(data, dict):
        return ["no object"]
    wrong = [name for name in _FIELDS if name not in data and name not in _OPTIONAL]
    wrong += [name for name, is_right in _FIELDS.items() if name in data and not is_right(data[name])]
    if not wrong and key_id is not None and data["id"] != key_id:
        wrong = ["id"]
    # What is unknown is written again as it was read: NaN and the like would be no JSON.
    json.dumps({name: value for name, value in data.items() if name not in _FIELDS}, allow_nan=False)
    return wrong
