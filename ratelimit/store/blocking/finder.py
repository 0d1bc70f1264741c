"""What finds the server to connect to, where the pool does not say it."""

from __future__ import annotations

from typing import Protocol

from ratelimit.store.addresses import Address, OnMove


class Finder(Protocol):
    """Finds the primary of a service, or a node of a cluster to subscribe at."""

    def find(self) -> Address:
        """Return the address, once a Sentinel or a node has replied; raise StoreUnavailable if none does."""

    def watch(self, on_move: OnMove) -> None:
        """Call a bound method, held weakly, from now on whenever the address is another one than before."""

    def unwatch(self, on_move: OnMove) -> None:
        """Call it no more."""
