"""A clock that does not count the time in which an event loop was too busy to run. No I/O."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from math import inf

PUNCTUAL_S = 0.003
"""A timer that fires later than this after it was due says that the loop was busy meanwhile."""
_MAX_STALLS = 64


class LoopClock:
    """Counts how long calls waited for Redis, and not for the process.

    A deadline is for waiting for Redis. A loop that runs other callbacks for long, or a process that is not scheduled,
    would otherwise refuse all calls that it finds waiting.
    """

    def __init__(self) -> None:
        self._stalls: deque[tuple[float, float, float]] = deque(maxlen=_MAX_STALLS)  # end, start, start as counted
        self._total_s = 0.0

    def on_timer(self, due_s: float, now_s: float) -> None:
        """Note when a timer was due, and when it fired, both by the monotonic clock."""
        if self._stalls:
            due_s = max(due_s, self._stalls[-1][0])  # several timers are late for the same reason
        late_s = now_s - due_s
        if late_s > PUNCTUAL_S:
            self._stalls.append((now_s, due_s, due_s - self._total_s))
            self._total_s += late_s

    def counted_s(self, time_s: float) -> float:
        """Return a time of the monotonic clock as this clock counts it. Never less for a later time."""
        if not self._stalls or time_s >= self._stalls[-1][0]:
            return time_s - self._total_s
        _, start_s, counted_s = self._stalls[bisect_right(self._stalls, (time_s, inf, inf))]
        return counted_s + min(time_s - start_s, 0)
