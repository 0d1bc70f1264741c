"""What says whom to connect to, where that is not the pool's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ratelimit.store.cluster.topology import Address

OnMove = Callable[[Address], None]
"""A method that is called with the address of another server that has taken the place of the last one."""


class Finder(Protocol):
    """Of a service's primary, or of some node of a cluster."""

    def find(self) -> Address:
        """Return the address. Takes as long as those do who are asked for it; raises StoreUnavailable."""

    def watch(self, on_move: OnMove) -> None:
        """Call a method from now on whenever the address is another one than before."""

    def unwatch(self, on_move: OnMove) -> None:
        """Call it no more."""
