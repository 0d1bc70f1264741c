"""What finds the server to connect to, where the pool does not say it."""

from __future__ import annotations

from typing import Protocol

from ratelimit.store.addresses import Address, OnMove


class AsyncFinder(Protocol):
    """Finds a server, for one event loop."""

    async def find(self) -> Address:
        """Return the address of the server.

        Raises:
            StoreUnavailable: No Sentinel or node reports one.
        """

    def watch(self, on_move: OnMove) -> None:
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

    def watch(self, on_move: OnMove) -> None:
        """As `AsyncFinder.watch`. There is never another one."""
