"""The protocol of a pipeline: one asyncio connection with several batches of commands in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ratelimit.errors import StoreError

OnReplies = Callable[[list[Any]], None]
"""Takes a reply for each command of a batch: texts as bytes, errors in their places."""

OnLost = Callable[["Pipeline"], None]
"""Called once when a pipeline has ended, before any of its batches gets an error."""


class Pipeline(Protocol):
    """A connection, and the batches sent on it that are not answered yet. Replies come in order.

    It waits for replies for any time: whoever sends says for how long a caller waits.

    Attributes:
        is_emulated: Whether there is no network in between, and so no deadline.
        has_served: Whether anything was answered but the first batch, which shows that the server is there.
        is_replica: Whether the server said that it is no primary.
        opened_s: When it was opened, by the monotonic clock.
        last_arrival_s: When something last arrived, by the monotonic clock.
        round_trip_s: What a round trip takes when nothing else is in flight.
    """

    is_emulated: bool
    has_served: bool
    is_replica: bool
    opened_s: float
    last_arrival_s: float
    round_trip_s: float

    @property
    def is_usable(self) -> bool:
        """Whether a batch may be sent, as far as is known."""

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """Send a batch of commands. If the connection fails, each of its replies is a StoreError."""

    def close(self, error: StoreError | None = None) -> None:
        """Close the connection at once; all batches that are in flight get the error."""
