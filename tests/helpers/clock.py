"""A clock that is moved by hand."""

from datetime import UTC, datetime


class FakeClock:
    """Microseconds since 1970, moved by hand. Starts on Wednesday 2026-03-04 12:00:00 UTC."""

    def __init__(self):
        self.set("2026-03-04T12:00:00")

    def __call__(self):
        return self.now_us

    def set(self, text):
        self.now_us = round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000_000)

    def advance(self, seconds):
        self.now_us += round(seconds * 1_000_000)

    def advance_us(self, microseconds):
        self.now_us += microseconds
