"""What a child process must not share with its parent: locks that some thread held, connections, leases."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol


class ForkResettable(Protocol):
    """An object with parts that a child process has to make anew."""

    def reset_after_fork(self) -> None:
        """Make locks anew, and drop what belongs to the parent."""


_registered: weakref.WeakKeyDictionary[ForkResettable, Any] = weakref.WeakKeyDictionary()
"""Each with the kind of locks that it may have: what `threading.Lock` was when they were made."""


def register_fork_reset(resettable: ForkResettable) -> None:
    """Call `resettable.reset_after_fork` in each child that this process forks while the object lives."""
    _registered[resettable] = threading.Lock


def replace_locks() -> None:
    """Make anew what was made before gevent replaced threads by greenlets: one that waits for such a lock stops all.

    A server that preloads the application does that after the fork. For a process that has not used any of it.
    """
    for resettable, kind in [*_registered.items()]:
        if kind is not threading.Lock:
            _reset(resettable)


def _in_child() -> None:
    for resettable in [*_registered]:
        _reset(resettable)


def _reset(resettable: ForkResettable) -> None:
    _registered[resettable] = threading.Lock
    resettable.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)  # to compare process ids at each check costs more
