"""Paired measurement: every contender in turn, round after round, so that noise of the machine affects all alike."""

import statistics
import time
from typing import NamedTuple

from benchmarks.report.results import Spread


class Sample(NamedTuple):
    """Microseconds per call in one round: CPU time of this process (system calls included), and wall time."""

    cpu: float
    wall: float


def spread(values):
    """Median and quartiles."""
    if len(values) == 1:
        return Spread(*values * 3)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)


def rotated(names, by):
    """The order of a round: each round starts with another contender, so that none always follows the same one."""
    names = list(names)
    return names[by % len(names) :] + names[: by % len(names)]


def interleaved(calls, rounds, repeat, step=lambda _what: None):
    """Time `repeat` calls of each contender per round.

    Args:
        calls: Maps a name to (function of no argument, the answer that is expected of it).
        rounds: How many, besides one to warm up.
        repeat: Calls of each contender in a round.
        step: Called with what is done next.

    Returns:
        For each name a `Sample` of every round.

    Raises:
        AssertionError: A call answered anything else. The time of a wrong answer means nothing.
    """
    samples = {name: [] for name in calls}
    for number in range(-1, rounds):  # the first is to warm up
        step(f"round {max(number, 0) + 1} of {rounds}, {repeat} calls of each")
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
    """The spread of ours/theirs, round by round."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def ratio_above(floor, ours, theirs):
    """The spread of (ours - floor)/(theirs - floor), round by round: what each adds to what both cannot avoid."""
    added = zip(floor, ours, theirs, strict=True)
    return spread([(one - least) / (other - least) for least, one, other in added])


def percentiles(values, points=(50, 99, 99.9)):
    """Exact, from all values: the smallest one that `point` per cent of them do not exceed."""
    ordered = sorted(values)
    return {f"p{point:g}": ordered[max(0, -int(-len(ordered) * point // 100) - 1)] for point in points}
