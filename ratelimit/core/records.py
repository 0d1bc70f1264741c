"""The record of an API key, as Redis keeps it and as a check remembers it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Self

from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS, ApiKey, FrozenMap

_KINDS = {
    "id": str,
    "name": str,
    "enabled": bool,
    "digests": dict,
    "created_us": int,
    "expires_us": int,
    "stamp": str,
    "tags": dict,
}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that is known of an API key. `stamp` names this revision; the key's hash holds the same stamp.

    A check sends the stamp of the record it went by, and the script refuses to go by any other. `digests` maps each
    valid digest to the time until which it is valid, 0 for ever: a rotated key has two for a while. Times are in
    microseconds since 1970, 0 for none.
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

    def json(self) -> str:
        """Return the record as Redis keeps it."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the record that Redis keeps as `text`."""
        try:
            data = json.loads(text)
            record = cls(**{**data, "plans": tuple(data["plans"])})
            wrong = [name for name, kind in _KINDS.items() if not isinstance(getattr(record, name), kind)]
        except (ValueError, TypeError, KeyError) as error:
            wrong = [type(error).__name__]
        if wrong:
            raise StoreError(f"a key's record in Redis cannot be read ({', '.join(wrong)})")
        return record

    @property
    def is_live(self) -> bool:
        """Whether values may open the key at all."""
        return True

    def valid_until_us(self, digest: str) -> int:
        """Return the time from which on this digest does not open the key, 0 for never."""
        ends = [end for end in (self.expires_us, self.digests[digest]) if end]
        return min(ends, default=0)

    def api_key(self, value: str | None = None) -> ApiKey:
        """Return what callers see of it."""
        return ApiKey(
            self.id,
            self.name,
            self.enabled,
            self.plans,
            self.created_us / MICROSECONDS,
            self.expires_us / MICROSECONDS if self.expires_us else None,
            self.description,
            self.owner,
            FrozenMap(self.tags),
            value,
            self.stamp,
        )
