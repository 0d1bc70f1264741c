"""Whether an endpoint is sent anything: when to stop, and when to go on. No I/O; callers pass the time.

A single late reply says little: a packet was lost, or a process was not scheduled. So a missed deadline alone stops
nothing. If nothing at all has arrived for a while, a spare connection is pinged; only if that is silent as well, the
breaker opens, and checks are answered without waiting. While it is open, an endpoint is probed patiently: a probe is
never given up for being late, for the moment it is answered is the moment at which Redis is back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from math import inf
from random import SystemRandom
from typing import NamedTuple

SILENCE_S = 0.05
"""Nothing arrived for so long, and a deadline was missed: the spare connection is pinged."""
SPARE_PATIENCE_S = 0.05
"""The spare is silent for so long: open."""
LONE_SILENCE_S = 0.1
LONE_MISSES = 5
"""Without a spare: as many deadlines missed in a row, and nothing arrived for so long."""
PROBE_INTERVAL_S = 0.1
PROBE_JITTER = 0.25
"""A further probe after each interval, so that the replicas of a gateway do not probe in step."""


_uniform = SystemRandom().uniform


class Step(Enum):
    """What is to be done now."""

    NOTHING = auto()
    PING_SPARE = auto()  # and connect anew beside it: that both are late by chance at the same moment is rarer still
    PROBE = auto()


class BreakerState(NamedTuple):
    """Of one breaker, or of all breakers of a limiter in this process.

    Attributes:
        is_open: Whether any is open.
        openings: How often one has opened.
    """

    is_open: bool
    openings: int


def combined(states: Iterable[BreakerState], former_openings: int = 0) -> BreakerState:
    """Return the state of several breakers.

    Args:
        states: Theirs.
        former_openings: How often breakers have opened that are gone.
    """
    all_states = [*states]
    openings = former_openings + sum(state.openings for state in all_states)
    return BreakerState(any(state.is_open for state in all_states), openings)


class Breaker:
    """Decides for one endpoint. All times are seconds of a monotonic clock.

    Attributes:
        is_open: Whether checks are answered without Redis. Read at each check.
        last_arrival_s: When something last arrived from the endpoint. Written at each reply, without a call.
        openings: How often it has opened.
    """

    __slots__ = (
        "_jitter",
        "_misses",
        "_next_probe_s",
        "_pinged_s",
        "_suspected_s",
        "is_open",
        "last_arrival_s",
        "openings",
    )

    def __init__(self, jitter: Callable[[float, float], float] = _uniform) -> None:
        self._jitter = jitter
        self.is_open = False
        self.openings = 0
        self.last_arrival_s = -inf
        self._suspected_s = inf
        self._pinged_s = inf
        self._misses = 0
        self._next_probe_s = inf

    def state(self) -> BreakerState:
        """Return whether it is open, and how often it has opened."""
        return BreakerState(self.is_open, self.openings)

    def miss(self, now_s: float) -> None:
        """Note that a call got no answer within its deadline."""
        if self._suspected_s < self.last_arrival_s:
            self._forget_suspicion()
        self._misses += 1
        self._suspected_s = min(self._suspected_s, now_s)

    def answer(self, now_s: float) -> None:
        """Note that a spare connection or a probe was answered: send again."""
        self.last_arrival_s = max(self.last_arrival_s, now_s)
        self.is_open = False
        self._next_probe_s = inf
        self._forget_suspicion()

    def open(self, now_s: float) -> None:
        """Stop sending: there is no connection, or none that answers. The first probe is due after an interval."""
        if not self.is_open:
            self.is_open = True
            self.openings += 1
            self._schedule_probe(now_s)

    def step(self, now_s: float, *, has_spare: bool) -> tuple[Step, float]:
        """Return what is to be done now, and in how many seconds to call this again (`inf`: after the next miss).

        The step counts as done: a spare connection is pinged once, and a probe is sent.
        """
        if self.is_open:
            if now_s < self._next_probe_s:
                return Step.NOTHING, self._next_probe_s - now_s
            self._schedule_probe(now_s)
            return Step.PROBE, self._next_probe_s - now_s
        if self._suspected_s == inf:
            return Step.NOTHING, inf
        if self.last_arrival_s > self._suspected_s:
            self._forget_suspicion()
            return Step.NOTHING, inf
        silence_s = now_s - self.last_arrival_s
        if silence_s < SILENCE_S:
            return Step.NOTHING, SILENCE_S - silence_s
        if self._pinged_s == inf and has_spare:
            self._pinged_s = now_s
            return Step.PING_SPARE, SPARE_PATIENCE_S
        wait_s = self._patience_left_s(now_s, silence_s)
        if wait_s > 0:
            return Step.NOTHING, wait_s
        self.open(now_s)
        return Step.NOTHING, self._next_probe_s - now_s

    def _patience_left_s(self, now_s: float, silence_s: float) -> float:
        """Return for how many seconds a silent endpoint is still sent to; 0 or less: no more."""
        if self._pinged_s < inf:
            return self._pinged_s + SPARE_PATIENCE_S - now_s
        return inf if self._misses < LONE_MISSES else LONE_SILENCE_S - silence_s

    def _forget_suspicion(self) -> None:
        self._suspected_s = self._pinged_s = inf
        self._misses = 0

    def _schedule_probe(self, now_s: float) -> None:
        self._next_probe_s = now_s + PROBE_INTERVAL_S * self._jitter(1 - PROBE_JITTER, 1 + PROBE_JITTER)
