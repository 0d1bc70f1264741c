"""Changes with a precondition: refused if the stored thing is no longer the one that the caller saw."""

from __future__ import annotations

from enum import Enum
from typing import Final

from ratelimit.errors import ConfigError, Conflict
from ratelimit.model import ApiKey
from ratelimit.registry.key_record import KeyRecord


class NoPrecondition(Enum):
    """Sentinel: no precondition. None means "must not exist"."""

    NO_PRECONDITION = "no precondition"

    def __repr__(self) -> str:
        return self.name


NO_PRECONDITION: Final = NoPrecondition.NO_PRECONDITION


def check_precondition(current: object, expected: object, subject: str, field: str) -> None:
    """Raise Conflict unless `current` equals `expected`.

    Args:
        current: What is stored; None if nothing is.
        expected: What the caller saw; None if nothing was stored, `NO_PRECONDITION` if anything may be.
        subject: What the error calls it, such as "plan 'gold'".
        field: The field that the error names.
    """
    if expected is NO_PRECONDITION or current == expected:
        return
    change = "was removed" if current is None else "was made" if expected is None else "was changed"
    raise Conflict(f"{subject} {change} by somebody else meanwhile: look at it again, then decide anew", field=field)


def check_revision(record: KeyRecord, expected: ApiKey | None) -> None:
    """Raise Conflict if a key was changed since `expected` was read; None is no precondition."""
    if expected is not None:
        if not isinstance(expected, ApiKey):
            raise ConfigError(f"must be the ApiKey that was read, not {type(expected).__name__}", field="expected")
        check_precondition(record.stamp, expected.revision, f"key {record.id!r}", "key_id")
