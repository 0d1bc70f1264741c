"""An API key as a process remembers it."""

from __future__ import annotations

from typing import final

from ratelimit.core.book import PlanBook
from ratelimit.core.records import KeyRecord


@final
class Found:
    """A key as one of its values opened it, remembered until its key changes.

    record          what Redis held when it was read
    valid_until_us  the time at which this value ceases to open the key, 0 for never
    is_current      False once the key was pushed or read anew: then nothing is decided by it any more
    caught_up       what `r` of the key's hash was, and the book that was loaded because of it
    """

    __slots__ = ("_ended", "caught_up", "is_current", "record", "valid_until_us")

    def __init__(self, record: KeyRecord, valid_until_us: int) -> None:
        self.record = record
        self.valid_until_us = valid_until_us
        self.is_current = True
        self.caught_up: tuple[str, PlanBook] | None = None
        # What to answer since the script said that the key or the value expired, and when that was.
        self._ended: tuple[str, int] | None = None

    def end(self, server_us: int, now_us: int) -> str:
        """Note that it expired, by the server's time; return why it is refused. Now is `Namespace.age_us`."""
        expires_us = self.record.expires_us
        why = "disabled" if expires_us and server_us >= expires_us else "unknown"
        self._ended = why, now_us
        return why

    def closed(self, now_us: int, max_age_us: int) -> str | None:
        """Return why it opens no stage, None if it may open some.

        That it expired holds for `max_age_us`: by then a clock that was set back is noticed.
        """
        if not self.record.enabled:
            return "disabled"
        if self._ended is not None and 0 <= now_us - self._ended[1] < max_age_us:
            return self._ended[0]
        return None
