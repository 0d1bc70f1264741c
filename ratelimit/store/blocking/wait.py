"""How long a caller may yet wait for Redis."""

from __future__ import annotations

from time import monotonic, process_time, sleep

_SLICE_S, _LEAST_SLICE_S = 0.01, 0.001
_MOST_SLICES = 20
_LEAST_SHARE = 0.25
"""Of each slice: so much counts, even if this process was at work all the time."""


class Wait:
    """The time that is left of a deadline, spent by waiting alone.

    It is Redis that is waited for, not the processor. So waiting is counted in slices, each of which counts for its
    length at most, as the process may not have been scheduled; less what the process itself worked meanwhile, as the
    reply may have been there, and this thread may have had to wait for others.

    Args:
        seconds: How long to wait.
        renewed: Whether each reply may take that long, and not all of them together.

    Attributes:
        left_s: The seconds that are left; none if it is 0 or less.
    """

    __slots__ = ("_began_s", "_began_work_s", "_is_renewed", "_longest_slice_s", "_seconds", "_slice_s", "left_s")

    def __init__(self, seconds: float, *, renewed: bool = False) -> None:
        self.left_s = self._seconds = seconds
        self._is_renewed = renewed
        self._longest_slice_s = max(_SLICE_S, seconds / _MOST_SLICES)
        self._began_s = self._began_work_s = self._slice_s = 0.0

    def begin(self) -> float:
        """Begin to wait; return for how many seconds to do so before `end`. Some must be left."""
        self._slice_s = max(_LEAST_SLICE_S, min(self.left_s, self._longest_slice_s))
        self._began_s, self._began_work_s = monotonic(), process_time()
        return self._slice_s

    def end(self) -> None:
        """Count the wait since `begin`."""
        waited_s = min(monotonic() - self._began_s, self._slice_s)
        self.left_s -= max(waited_s * _LEAST_SHARE, waited_s - (process_time() - self._began_work_s))

    def pause(self, seconds: float) -> None:
        """Do nothing for so long, or for as long as is left."""
        if seconds > 0:
            sleep(max(0.0, min(seconds, self.left_s)))
            self.left_s -= seconds

    def renew(self) -> None:
        """Note that a reply came."""
        if self._is_renewed:
            self.left_s = self._seconds
