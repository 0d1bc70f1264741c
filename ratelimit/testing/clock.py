"""A clock that is moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from ratelimit.model import MICROSECONDS

START = "2026-03-04T12:00:00"


class ManualClock:
    """Stands still until it is moved: the `clock` of a limiter or a catalogue.

    Attributes:
        now_us: Microseconds since 1970.
    """

    def __init__(self, start: str | datetime = START) -> None:
        """Start at a time; by default at noon of Wednesday, 2026-03-04, UTC. See `set`."""
        self.now_us = 0
        self.set(start)

    def __call__(self) -> int:
        """Return microseconds since 1970."""
        return self.now_us

    def set(self, time: str | datetime) -> None:
        """Move to a time, forward or back.

        Args:
            time: A datetime, or a text such as "2026-03-04T12:00:00". One without a zone is UTC.
        """
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        self.now_us = round(moment.timestamp() * MICROSECONDS)

    def advance(self, seconds: float) -> None:
        """Move by so many seconds, such as the `retry_after` of a decision."""
        self.advance_us(round(seconds * MICROSECONDS))

    def advance_us(self, microseconds: int) -> None:
        """Move by so many microseconds."""
        self.now_us += microseconds
