"""An API key as a process remembers it."""

from __future__ import annotations

from typing import final

from ratelimit.decision import Detail
from ratelimit.registry.key_record import KeyRecord
from ratelimit.registry.snapshot import CatalogSnapshot


@final
class CachedKey:
    """A key as one of its values identified it, valid until the key changes.

    Attributes:
        record: The record that Redis held when it was read.
        valid_until_us: Server time, microseconds since 1970, at which this value ceases to identify it; 0 for never.
        is_valid: False once a change of the key was pushed or it was read anew: no decision is based on it any more.
        caught_up: The `r` field of the key's hash that named a newer catalogue, and the snapshot loaded because of it.
    """

    __slots__ = ("_expiry", "caught_up", "is_valid", "record", "valid_until_us")

    def __init__(self, record: KeyRecord, valid_until_us: int) -> None:
        self.record = record
        self.valid_until_us = valid_until_us
        self.is_valid = True
        self.caught_up: tuple[str, CatalogSnapshot] | None = None
        self._expiry: tuple[Detail, int] | None = None

    def expire(self, server_us: int, now_us: int) -> Detail:
        """Note that the script called it expired, and return the detail of the denial.

        Args:
            server_us: The server's time of the reply, microseconds since 1970.
            now_us: `Namespace.age_us`.
        """
        expires_us = self.record.expires_us
        detail: Detail = "disabled" if expires_us and server_us >= expires_us else "unknown"
        self._expiry = detail, now_us
        return detail

    def denial_detail(self, now_us: int, max_age_us: int) -> Detail | None:
        """Return why it opens no stage, None if it may open some.

        An expiry holds for `max_age_us`: by then a server clock that was set back is noticed.
        """
        if not self.record.enabled:
            return "disabled"
        if self._expiry is not None and 0 <= now_us - self._expiry[1] < max_age_us:
            return self._expiry[0]
        return None
