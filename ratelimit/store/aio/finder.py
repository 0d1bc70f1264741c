"""Where to connect to, where that is not the pool's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ratelimit.store.sentinel import Address


class AsyncFinder(Protocol):
    """Finds a server, for one event loop."""

    async def find(self) -> Address:
        """Return the address of the server.

        Raises:
            StoreUnavailable: Nobody knows.
        """

    def watch(self, on_move: Callable[[Address], None]) -> None:
        """Call back from now on when another server is to be connected to than the one found."""


class FixedAddress:
    """Finds the same server each time.

    Args:
        address: Its host and port.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    async def find(self) -> Address:
        """As `AsyncFinder.find`."""
        return self._address

    def watch(self, on_move: Callable[[Address], None]) -> None:
        """As `AsyncFinder.watch`. There is never another one."""
