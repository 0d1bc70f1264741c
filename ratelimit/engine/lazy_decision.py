"""The decision that is made most often, and has to be made quickest: an admission, decoded when somebody reads it."""

from __future__ import annotations

from typing import Literal, Protocol

from ratelimit.decision import Decision, LimitStatus, Reason


class ReplyDecoder(Protocol):
    """Decodes a reply of the script."""

    def time_us(self, reply: bytes, /) -> int:
        """Return the server's time of a reply, in microseconds since 1970."""

    def statuses_after_charge(self, reply: bytes, /) -> tuple[LimitStatus, ...]:
        """Return the status of each limit after an admitted request."""


class LazyAdmission(Decision):
    """An admitted request. Its reply is decoded on demand: few callers ask, and it costs as much as the rest."""

    __slots__ = ("_decoder", "_reply", "_statuses")

    reason = Reason.ALLOWED
    allowed = True
    limited_by = retry_after = detail = cause = error = None
    source = "redis"

    def __init__(self, decoder: ReplyDecoder, reply: bytes) -> None:
        self._decoder = decoder
        self._reply = reply
        self._statuses: tuple[LimitStatus, ...] | None = None

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """As of `Decision`."""
        statuses = self._statuses
        if statuses is None:
            statuses = self._statuses = self._decoder.statuses_after_charge(self._reply)
        return statuses

    @property
    def time_us(self) -> int:  # type: ignore[override] # to be read, not changed
        """As of `Decision`."""
        return self._decoder.time_us(self._reply)

    def __bool__(self) -> Literal[True]:
        return True
