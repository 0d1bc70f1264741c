"""What stands for a process among all that share a Redis: random, and another one in a child process. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from threading import Lock

from ratelimit.local import fork_safety
from ratelimit.registry.key_values import generated_token


class ProcessLife:
    """A random name of 8 characters, for as long as a process lives.

    A child process that is forked has another one: what the parent was to do, the child does not do once more.

    Attributes:
        name: The name.
    """

    __slots__ = ("__weakref__", "_limiters", "_lock", "name")

    def __init__(self) -> None:
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Take another name, and have no limiter that is open."""
        self.name = generated_token()
        self._lock = Lock()
        self._limiters: Counter[Hashable] = Counter()

    def begin(self, place: Hashable) -> None:
        """Note that a limiter is open; `place` is its namespace and server."""
        with self._lock:
            self._limiters[place] += 1

    def end(self, place: Hashable) -> bool:
        """Note that a limiter is closed; return whether it was the last one there."""
        with self._lock:
            self._limiters[place] -= 1
            return self._limiters[place] <= 0


PROCESS = ProcessLife()
"""Of this process."""
