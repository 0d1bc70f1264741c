"""Operations that nobody waits for, run by a few threads that end when there is nothing to do."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable

from ratelimit.effects import Operation
from ratelimit.local import fork_safety

log = logging.getLogger("ratelimit")

_MOST_THREADS = 4
"""One that waits for a server that does not answer holds up nobody."""
_MOST_WAITING = 1000
_IDLE_S = 2.0


class BackgroundOperations:
    """Runs operations beside the threads that start them.

    Args:
        run: Runs one, and raises nothing that matters to anybody.
    """

    def __init__(self, run: Callable[[Operation[object]], None]) -> None:
        self._run = run
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have nothing to do, and no threads."""
        self._changed = threading.Condition(threading.Lock())
        self._waiting = deque[Operation[object]]()
        self._threads = self._idle = 0
        self._is_closed = False

    def start(self, operation: Operation[object]) -> None:
        """Run an operation soon; it is closed instead if that cannot be done."""
        with self._changed:
            is_refused = self._is_closed or len(self._waiting) >= _MOST_WAITING
            if not is_refused:
                self._waiting.append(operation)
                if self._idle >= len(self._waiting):
                    self._changed.notify()
                elif self._threads < _MOST_THREADS:
                    self._start_thread()
        if is_refused:
            operation.close()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="ratelimit background", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: those that there are do it, or who is started next
            return
        self._threads += 1

    def _work(self) -> None:
        while (operation := self._next()) is not None:
            try:
                self._run(operation)
            except Exception:
                log.exception("an operation in the background failed")
            del operation

    def _next(self) -> Operation[object] | None:
        with self._changed:
            if not self._waiting and not self._is_closed:
                self._idle += 1
                self._changed.wait(_IDLE_S)
                self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def close(self) -> None:
        """Start nothing more; what has not begun is closed."""
        with self._changed:
            self._is_closed = True
            left = [*self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        for operation in left:
            with contextlib.suppress(Exception):
                operation.close()
