"""A steady load: requests that arrive on a schedule, and how long each had to wait, in HDR histograms of three digits.

Latency is counted from the moment a request was due, so a stall is felt by all who arrive during it, and none is left
out (no coordinated omission).
"""

import random

from hdrh.histogram import HdrHistogram

SHARES = (0.5, 0.8)
SAME, OWN = "of what the slowest carries", "of what it carries itself"
SECONDS = 1.0
TRIALS, TRIAL_SECONDS = 3, 0.5
"""What each can carry is the most that it did in so many trials, in turn: others on the machine only lower it."""
POINTS = (50, 99, 99.9)
MOST_US = 60_000_000


def histogram(seconds=()):
    """In microseconds, of latencies in seconds. Recording takes as long as a part of a call, so it comes afterwards."""
    recorded = HdrHistogram(1, MOST_US, 3)
    for latency in seconds:
        recorded.record_value(min(MOST_US, max(1, round(latency * 1e6))))
    return recorded


def percentiles_of(recorded):
    """Microseconds."""
    return {f"p{point:g}": recorded.get_value_at_percentile(point) for point in POINTS}


def schedule(per_second, seconds, seed):
    """Arrivals of a Poisson process, in seconds from its start; the same for every contender and in every run."""
    generator, at, due = random.Random(seed), 0.0, []
    while (at := at + generator.expovariate(per_second)) < seconds:
        due.append(at)
    return due


def loads(capacity):
    """Requests per second for each kind of load, share and contender, from what each can carry."""
    slowest = min(capacity.values())
    return {
        (kind, share, name): share * (slowest if kind == SAME else carried)
        for kind in (SAME, OWN)
        for share in SHARES
        for name, carried in capacity.items()
    }


def shuffled(loads, number):
    """The order of a round: another one each time, so that nobody always meets what the same one left behind."""
    return random.Random(number).sample(list(loads), len(loads))


class Rounds:
    """Histograms of all rounds and loads. `carried`: for each contender, the answers per second of each trial."""

    def __init__(self, carried):
        self.capacity = {name: max(trials) for name, trials in carried.items()}
        self.loads = loads(self.capacity)
        self._rounds = {load: [] for load in self.loads}
        self._unanswered = dict.fromkeys(self.loads, 0)

    def add(self, load, recorded, unanswered):
        self._rounds[load].append(recorded)
        self._unanswered[load] += unanswered

    def summary(self):
        """For the JSON."""
        return {
            "capacity": self.capacity,
            "slowest": min(self.capacity, key=self.capacity.get),
            "runs": [self._run(*load) for load in self.loads],
        }

    def _run(self, kind, share, name):
        load = kind, share, name
        everything = histogram()
        for one in self._rounds[load]:
            everything.add(one)
        return {
            "contender": name,
            "load": kind,
            "share": share,
            "per_second": self.loads[load],
            "requests": everything.get_total_count(),
            "unanswered": self._unanswered[load],
            "us": percentiles_of(everything),
            "max_us": everything.get_max_value(),
            "of_rounds": {f"p{p:g}": [percentiles_of(one)[f"p{p:g}"] for one in self._rounds[load]] for p in POINTS},
            "hdr": everything.encode().decode("ascii"),
        }
