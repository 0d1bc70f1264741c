"""What a child process must not take over from its parent: locks that some thread held, what only one may use up."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Anew(Protocol):
    """Something that a child process begins with as if it had just been made."""

    def start_anew(self) -> None:
        """Make locks anew, and let go of what is the parent's."""


_everywhere: weakref.WeakSet[Anew] = weakref.WeakSet()


def starts_anew(thing: Anew) -> None:
    """Have `thing` start anew in each child that this process forks while it lives."""
    _everywhere.add(thing)


def _in_child() -> None:
    for thing in _everywhere:
        thing.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)  # to ask for the process at each check costs more
