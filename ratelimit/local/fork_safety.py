"""What a child process must not share with its parent: locks that some thread held, connections, leases."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkResettable(Protocol):
    """An object with parts that a child process has to make anew."""

    def reset_after_fork(self) -> None:
        """Make locks anew, and drop what belongs to the parent."""


_registered: weakref.WeakSet[ForkResettable] = weakref.WeakSet()


def register_fork_reset(resettable: ForkResettable) -> None:
    """Call `resettable.reset_after_fork` in each child that this process forks while the object lives."""
    _registered.add(resettable)


def _in_child() -> None:
    for resettable in _registered:
        resettable.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)  # to compare process ids at each check costs more
