"""Conversions of single values from AWS, each with a note on what cannot be the same."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any

from ratelimit import validation
from ratelimit.admin.aws.shapes import KINDS, AwsNote, Record
from ratelimit.errors import ConfigError
from ratelimit.model import Throttle


class Notes:
    """Collects the notes of one conversion, each once, and converts the values that they are about."""

    def __init__(self) -> None:
        self._notes: dict[AwsNote, None] = {}

    def add(self, where: str, why: str) -> None:
        """Add a note."""
        self._notes[AwsNote(where, why)] = None

    def all(self) -> tuple[AwsNote, ...]:
        """Return the notes in order."""
        return tuple(self._notes)

    def throttle(
        self, record: Record, where: str, *, rate: str = "rateLimit", burst: str = "burstLimit"
    ) -> Throttle | None:
        """Convert a throttle; None if it is off or cannot be carried over."""
        tokens, size = record.get(rate), record.get(burst)
        if (tokens is None and size is None) or -1 in (tokens, size):
            return None
        if tokens is None or size is None:
            self.add(where, f"its throttle is not carried over: it has no {rate if tokens is None else burst}")
            return None
        try:
            return Throttle(tokens, size)
        except ConfigError as error:
            rounded = _rounded_down(tokens, size)
            if rounded is None:
                self.add(where, f"its throttle is not carried over: {error}")
            else:
                self.add(where, f"its rate is rounded down to {float(rounded.rate)}: {error.problem}")
            return rounded

    def method(self, key: str, where: str) -> str | None:
        """Convert a method such as "/pets/GET", "//GET" or "~1pets/GET"; None if it cannot be carried over."""
        path, _, verb = key.rpartition("/")
        path = path.replace("~1", "/").replace("~0", "~").lstrip("/")
        try:
            name = validation.method_name(f"{verb} /{path}", "name")
        except ConfigError as error:
            self.add(where, f"is not carried over: {error.problem}")
            return None
        if verb == "ANY":
            self.add(where, f"is one method for every verb: the gateway must pass {name!r} wherever it serves")
        return name

    def text(self, text: str, where: str, member: str, max_length: int = 1024) -> str:
        """Convert a free text to one that can be stored."""
        clean = "".join(char if char.isprintable() else " " for char in text)
        if clean != text:
            self.add(where, f"its {member} has blanks here in place of control characters")
        if validation.without_values(clean) != clean:
            clean = validation.without_values(clean)
            self.add(where, f"its {member} held an API key's value, which is taken out")
        if len(clean) > max_length:
            self.add(where, f"its {member} is cut to {max_length} characters")
        return clean[:max_length]

    def tags(self, tags: Mapping[str, str], where: str) -> Mapping[str, str]:
        """Convert tags to those that can be stored."""
        try:
            return validation.tags(tags)
        except ConfigError as error:
            self.add(where, f"its tags are not carried over: {error.problem}")
            return {}

    def unknown_members(self, record: Record, kind: str, where: str) -> None:
        """Add a note on each member that this package does not know."""
        for member in sorted(record.keys() - KINDS[kind].shape.keys() - {"createdDate", "lastUpdatedDate"}):
            self.add(where, f"its {member} is not known here, and not carried over")


def _rounded_down(rate: Any, burst: int) -> Throttle | None:
    """Return the throttle with as many digits of its rate as can be computed exactly; None if none can."""
    for digits in range(12, -1, -1):
        try:
            rounded = Decimal(str(rate)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_DOWN)
            if rounded > 0:
                return Throttle(rounded, burst)
        except (ConfigError, ArithmeticError):
            continue
    return None
