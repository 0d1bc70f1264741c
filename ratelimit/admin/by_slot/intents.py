"""Intents: what the catalogue says of keys that somebody is working on."""

from __future__ import annotations

import json
from typing import NamedTuple, Self

from ratelimit.effects import UnreadableError
from ratelimit.registry.key_values import generated_token


class Intent(NamedTuple):
    """What stands in the hash of intents, under the id of a key, while somebody changes its plans.

    Attributes:
        token: 8 random characters, which no other intent has.
        touched: The ids of the plans whose sets may hold the key though its record does not name them.
        digest: The digest that the key is being created with; "" if it was there before.
    """

    token: str
    touched: frozenset[str]
    digest: str = ""

    @classmethod
    def of(cls, touched: frozenset[str], digest: str = "") -> Self:
        """Return a new intent."""
        return cls(generated_token(), touched, digest)

    def json(self) -> str:
        """Return the intent as Redis keeps it."""
        data = {"token": self.token, "touched": sorted(self.touched), "digest": self.digest}
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the intent that Redis keeps as `text`."""
        try:
            data = json.loads(text)
            touched = frozenset(data["touched"])
            if all(isinstance(each, str) for each in (data["token"], data["digest"], *touched)):
                return cls(data["token"], touched, data["digest"])
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise UnreadableError("the intent of a key in Redis cannot be read")


def touched_by(stored: str | None) -> frozenset[str]:
    """Return the plans that an intent names; `stored` is its text, None if there is none."""
    return frozenset() if stored is None else Intent.from_json(stored).touched
