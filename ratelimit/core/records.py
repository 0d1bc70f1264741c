"""The record of an API key, as Redis keeps it and as a check remembers it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS, ApiKey


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that is known of an API key. `stamp` names this revision; the key's hash holds the same stamp.

    A check sends the stamp of the record it went by, and the script refuses to go by any other.
    """

    id: str
    name: str
    enabled: bool
    plans: tuple[str, ...]
    digests: tuple[str, ...]
    created_us: int
    expires_us: int
    stamp: str

    def json(self) -> str:
        """Return the record as Redis keeps it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the record that Redis keeps as `text`."""
        try:
            data = json.loads(text)
            return cls(**{**data, "plans": tuple(data["plans"]), "digests": tuple(data["digests"])})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"a key's record in Redis cannot be read ({type(error).__name__})") from None

    def api_key(self, value: str | None = None) -> ApiKey:
        """Return what callers see of it."""
        expires = self.expires_us / MICROSECONDS if self.expires_us else None
        return ApiKey(self.id, self.name, self.enabled, self.plans, self.created_us / MICROSECONDS, expires, value)
