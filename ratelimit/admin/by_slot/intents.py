"""Intents: what the catalogue says of keys that somebody is working on."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import NamedTuple, Self

from ratelimit.effects import UnreadableError, text
from ratelimit.registry.key_values import generated_token


class UnreadableIntentError(UnreadableError):
    """What stands in the place of a key's intent is none."""

    def __init__(self) -> None:
        super().__init__("the intent of a key in Redis cannot be read: run `ratelimit doctor --repair`")


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
        """Return the intent that Redis keeps as `text`. Raises UnreadableIntentError."""
        try:
            data = json.loads(text)
            touched = frozenset(data["touched"])
            if all(isinstance(each, str) for each in (data["token"], data["digest"], *touched)):
                return cls(data["token"], touched, data["digest"])
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise UnreadableIntentError


def intent_text(reply: bytes | str | None) -> str | None:
    """Return the text of an intent from a reply; None if there is none. Raises UnreadableIntentError for no text."""
    try:
        return text(reply)
    except UnreadableError:
        raise UnreadableIntentError from None


def touched_by(stored: str | None) -> frozenset[str]:
    """Return the plans that an intent names; `stored` is its text, None if there is none."""
    return frozenset() if stored is None else Intent.from_json(stored).touched


def intent_to_repair(stored: str | None, plans: Collection[str]) -> Intent | None:
    """Return an intent for who finishes or undoes what it announces; None if there is none.

    Args:
        stored: Its text. Of one that cannot be read nobody knows what it touches: then that is `plans`.
        plans: The plans whose sets may hold the key.
    """
    try:
        return None if stored is None else Intent.from_json(stored)
    except UnreadableIntentError:
        return Intent.of(frozenset(plans))
