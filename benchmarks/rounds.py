"""Paired measurement: every contender in turn, round after round, so that noise of the machine meets all alike."""

import statistics
import time
from typing import NamedTuple


class Sample(NamedTuple):
    """Microseconds per call in one round: CPU time of this process (system calls included), and wall time."""

    cpu: float
    wall: float


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    middle: float
    high: float

    def times(self, factor):
        return Spread(*(value * factor for value in self))


def spread(values):
    if len(values) == 1:
        return Spread(*values * 3)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)


def rotated(names, by):
    """The order of a round: each round starts with another contender, so that none always follows the same one."""
    names = list(names)
    return names[by % len(names) :] + names[: by % len(names)]


def interleaved(calls, rounds, repeat, tell=lambda _what: None):
    """Time `repeat` calls of each contender per round; `calls` maps a name to (function of no argument, its answer).

    Raises AssertionError if a call answers anything else: a figure of a wrong answer is none.
    """
    samples = {name: [] for name in calls}
    for number in range(-1, rounds):  # the first is to warm up
        tell(f"round {max(number, 0) + 1} of {rounds}, {repeat} calls of each")
        for name in rotated(calls, number):
            call, answer = calls[name]
            wall, cpu = time.perf_counter(), time.process_time()
            right = sum(call() is answer for _ in range(repeat))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            assert right == repeat, f"{name}: {repeat - right} of {repeat} calls did not answer {answer}"
            if number >= 0:
                samples[name].append(Sample(cpu / repeat * 1e6, wall / repeat * 1e6))
    return samples


def ratio(ours, theirs):
    """The spread of ours/theirs, taken round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def percentiles(values, points=(50, 99, 99.9)):
    """Exact, from all values: the smallest one that `point` per cent of them do not exceed."""
    ordered = sorted(values)
    return {f"p{point:g}": ordered[max(0, -int(-len(ordered) * point // 100) - 1)] for point in points}
