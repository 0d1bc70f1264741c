"""The decision that is made most often, and has to be made quickest."""

from __future__ import annotations

from typing import Literal, Protocol

from ratelimit.decision import Decision, LimitStatus, Reason


class Reader(Protocol):
    """What knows how to read a reply."""

    def time_us(self, reply: bytes, /) -> int:
        """Return the server's time of a reply, in microseconds since 1970."""

    def charged(self, reply: bytes, /) -> tuple[LimitStatus, ...]:
        """Return what an admitted request left."""


class Admitted(Decision):
    """An admitted request, as the script told it: read when somebody asks. Few do, and it costs as much as the rest."""

    __slots__ = ("_charged", "_reader", "_reply")

    reason = Reason.ALLOWED
    allowed = True
    limited_by = retry_after = detail = cause = None
    source = "redis"

    def __init__(self, reader: Reader, reply: bytes) -> None:
        self._reader = reader
        self._reply = reply

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """As of `Decision`."""
        try:
            return self._charged
        except AttributeError:
            self._charged: tuple[LimitStatus, ...] = self._reader.charged(self._reply)
            return self._charged

    @property
    def time_us(self) -> int:  # type: ignore[override] # to be read, not changed
        """As of `Decision`."""
        return self._reader.time_us(self._reply)

    def __bool__(self) -> Literal[True]:
        return True
