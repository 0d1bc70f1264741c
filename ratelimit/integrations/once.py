"""What servers have no hook for: something that is done once in each process, by the first request that it meets."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ratelimit.local import fork_safety


class OncePerProcess:
    """Calls a function once in each process; whoever comes meanwhile waits for it.

    Attributes:
        is_done: Whether this process has called it, which costs less to ask than a call.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Call it again: a child has the parent's memory, but none of its connections."""
        self.is_done = False
        self._locks: dict[str, threading.Lock] = {}

    def __call__(self) -> None:
        """Call the function if this process has not."""
        fork_safety.replace_locks()
        # Made now, for the same reason.
        with self._locks.setdefault("", threading.Lock()):
            if not self.is_done:
                try:
                    self._function()
                finally:
                    self.is_done = True
