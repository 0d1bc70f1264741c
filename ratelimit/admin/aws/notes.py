"""Small conversions from AWS, each with a note of what cannot be the same. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any

from ratelimit import validation
from ratelimit.admin.aws.shapes import KINDS, Note, Record
from ratelimit.errors import ConfigError
from ratelimit.model import Throttle


class Notes:
    """The notes of one conversion, each once, and the conversions that write them."""

    def __init__(self) -> None:
        self._notes: dict[Note, None] = {}

    def note(self, where: str, why: str) -> None:
        """Note something."""
        self._notes[Note(where, why)] = None

    def all(self) -> tuple[Note, ...]:
        """Return what was noted, in order."""
        return tuple(self._notes)

    def throttle(
        self, record: Record, where: str, *, rate: str = "rateLimit", burst: str = "burstLimit"
    ) -> Throttle | None:
        """Return a throttle, None if it is off or cannot be carried over."""
        tokens, size = record.get(rate), record.get(burst)
        if (tokens is None and size is None) or -1 in (tokens, size):
            return None
        if tokens is None or size is None:
            self.note(where, f"its throttle is not carried over: it has no {rate if tokens is None else burst}")
            return None
        try:
            return Throttle(tokens, size)
        except ConfigError as error:
            rounded = _rounded_down(tokens, size)
            if rounded is None:
                self.note(where, f"its throttle is not carried over: {error}")
            else:
                self.note(where, f"its rate is rounded down to {float(rounded.rate)}: {error.problem}")
            return rounded

    def method(self, key: str, where: str) -> str | None:
        """Return the method that AWS spells "/pets/GET", "//GET" or "~1pets/GET"; None if it cannot be carried over."""
        path, _, verb = key.rpartition("/")
        path = path.replace("~1", "/").replace("~0", "~").lstrip("/")
        try:
            name = validation.method_name(f"{verb} /{path}", "name")
        except ConfigError as error:
            self.note(where, f"is not carried over: {error.problem}")
            return None
        if verb == "ANY":
            self.note(where, f"is one method for every verb: the gateway must pass {name!r} wherever it serves")
        return name

    def text(self, text: str, where: str, member: str, most: int = 1024) -> str:
        """Return a text that can be stored."""
        clean = "".join(char if char.isprintable() else " " for char in text)
        if clean != text:
            self.note(where, f"its {member} has blanks here in place of control characters")
        if validation.without_values(clean) != clean:
            clean = validation.without_values(clean)
            self.note(where, f"its {member} held an API key's value, which is taken out")
        if len(clean) > most:
            self.note(where, f"its {member} is cut to {most} characters")
        return clean[:most]

    def tags(self, tags: Mapping[str, str], where: str) -> Mapping[str, str]:
        """Return tags that can be stored."""
        try:
            return validation.tags(tags)
        except ConfigError as error:
            self.note(where, f"its tags are not carried over: {error.problem}")
            return {}

    def unknown(self, record: Record, kind: str, where: str) -> None:
        """Note members that this package does not know, and so cannot judge."""
        for member in sorted(record.keys() - KINDS[kind].shape.keys() - {"createdDate", "lastUpdatedDate"}):
            self.note(where, f"its {member} is not known here, and not carried over")


def _rounded_down(rate: Any, burst: int) -> Throttle | None:
    """Return the throttle with as many digits of the rate as can be counted exactly."""
    for digits in range(12, -1, -1):
        try:
            rounded = Decimal(str(rate)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_DOWN)
            if rounded > 0:
                return Throttle(rounded, burst)
        except (ConfigError, ArithmeticError):
            continue
    return None
