"""Changes that rest on what somebody was shown: refused if another holds by now. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ratelimit.errors import ConfigError, Conflict
from ratelimit.model import ApiKey
from ratelimit.registry.key_record import KeyRecord


class Expectation(Enum):
    """Stands for whatever holds, where None stands for nothing."""

    ANYTHING = "anything"


ANYTHING: Final = Expectation.ANYTHING


def refuse_other(found: object, expected: object, what: str, field: str) -> None:
    """Raise Conflict unless `found` is what was expected."""
    if expected is ANYTHING or found == expected:
        return
    became = "was removed" if found is None else "was made" if expected is None else "was changed"
    raise Conflict(f"{what} {became} by somebody else meanwhile: look at it again, then decide anew", field=field)


def refuse_changed(record: KeyRecord, expected: ApiKey | None) -> None:
    """Raise Conflict if a key is no longer what `expected` was read of; None expects nothing."""
    if expected is not None:
        if not isinstance(expected, ApiKey):
            raise ConfigError(f"must be the ApiKey that was read, not {type(expected).__name__}", field="expected")
        refuse_other(record.stamp, expected.revision, f"key {record.id!r}", "key_id")
