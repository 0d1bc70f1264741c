"""A connection of an event loop with several batches of commands in flight: replies come in the order of requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Answered = Callable[[list[Any]], None]
"""Takes a reply for each command: texts as bytes, errors in their places."""

Lost = Callable[["Pipeline"], None]
"""Told once, before anybody else hears of it, when a pipeline has failed."""


class Pipeline(Protocol):
    """A connection of redis-py's, and what was asked on it and is not answered yet.

    connection  redis-py's
    """

    connection: Any

    @property
    def usable(self) -> bool:
        """Whether it may be asked, as far as is known."""

    def ask(self, packet: bytes, replies: int, answered: Answered) -> None:
        """Send commands. If the connection fails, all of the replies are the error that says so."""

    def give_back(self) -> bool:
        """Leave the connection as redis-py made it, unless something is on its way; return whether that was done."""

    def break_off(self) -> None:
        """Give the connection up, with all that is on its way."""
