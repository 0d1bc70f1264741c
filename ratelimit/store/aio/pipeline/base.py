"""The protocol of a pipeline: one asyncio connection with several batches of commands in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

OnReplies = Callable[[list[Any]], None]
"""Takes a reply for each command of a batch: texts as bytes, errors in their places."""

OnLost = Callable[["Pipeline"], None]
"""Called once when a pipeline has failed, before any of its batches gets an error."""


class Pipeline(Protocol):
    """A client's connection, and the batches sent on it that are not answered yet. Replies come in order.

    Attributes:
        connection: The client's connection.
    """

    connection: Any

    @property
    def is_usable(self) -> bool:
        """Whether a batch may be sent, as far as is known."""

    def send(self, packet: bytes, reply_count: int, on_replies: OnReplies) -> None:
        """Send a batch of commands. If the connection fails, each of its replies is a StoreError."""

    def detach(self) -> bool:
        """Leave the connection as its client made it; return False, and do nothing, if a batch is in flight."""

    def disconnect(self) -> None:
        """Fail all batches that are in flight, and report the pipeline as lost."""
