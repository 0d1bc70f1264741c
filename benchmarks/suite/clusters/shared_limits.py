"""Limits that all callers share, on a cluster: what leasing them costs, and how near to the limit it gets.

Nothing is timed. Processes run in virtual time, with the real code of `SharedLeases` and the real script on a server;
round trips take 0.6 ms (log-normal), and every unit that is spent has to fit one exact bucket.
"""

import sys
from contextlib import closing
from typing import NamedTuple

from rich.table import Table

from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host

sys.path.insert(0, str(host.ROOT / "tests"))

from helpers.shared_world import Wire, World, throttle

SEED = 1
TRIP_US = 600


class Cell(NamedTuple):
    """A load.

    processes, rate (a second) and burst of the limit; load: checks, in multiples of the rate; shape: how they come;
    denied: the share that their key denies; seconds; lost: the share of requests that get no answer
    """

    processes: int
    rate: int
    burst: int
    load: float
    shape: str = "smooth"
    denied: float = 0.0
    seconds: float = 5.0

    @property
    def name(self):
        denied = f", {self.denied:.0%} denied" if self.denied else ""
        load = f"{self.load:g}x {self.shape}{denied}, {self.seconds:g} s"
        return f"{self.processes} x, {self.rate:,}/s, burst {self.burst:,}, {load}"

    @property
    def per_term(self):
        """Units of demand per process and term."""
        return self.rate * self.load * 0.1 / self.processes


CELLS = [
    Cell(4, 1000, 1000, 0.8),
    Cell(20, 1000, 1000, 0.8),
    Cell(20, 1000, 100, 0.8),
    Cell(100, 1000, 1000, 0.8),
    Cell(4, 1000, 100, 1.0),
    Cell(20, 1000, 100, 1.0),
    Cell(20, 1000, 100, 2.0, seconds=3),
    Cell(20, 1000, 100, 2.0, denied=0.3, seconds=3),
    Cell(20, 1000, 100, 2.0, denied=0.3, seconds=12),
    Cell(20, 1000, 1000, 2.0, "bursts", seconds=3),
    Cell(20, 1000, 100, 1.0, "one hot"),
]
MORE_CELLS = [
    Cell(10, 5000, 5000, 1.0),
    Cell(20, 1000, 100, 10.0, seconds=2),
    Cell(100, 1000, 1000, 2.0, seconds=3),
    Cell(100, 1000, 1000, 2.0, seconds=12),
    Cell(20, 10_000, 10_000, 1.0, seconds=3),
    Cell(20, 100, 100, 1.0, seconds=20),
    Cell(20, 1000, 100, 2.0, "bursts", seconds=3),
]


def arrivals(random, cell):
    """When checks come, and at which process."""
    at_us, per_us = 0.0, cell.rate * cell.load / 1e6
    while at_us < cell.seconds * 1e6:
        at_us += random.expovariate(per_us)
        due_us = at_us
        if cell.shape == "bursts":  # all of 0.4 s come in its first tenth of a second
            due_us = at_us - at_us % 400_000 + at_us % 400_000 / 4
        which = random.randrange(cell.processes)
        if cell.shape == "one hot" and random.random() < 0.5:
            which = 0
        yield round(due_us), which


def exact_admissions(cell, checks):
    """How many of these one exact bucket admits; who is denied by the key takes nothing."""
    level, last_us, admitted = float(cell.burst), 0, 0
    for at_us, _, becomes in checks:
        level = min(cell.burst, level + (at_us - last_us) * cell.rate / 1e6)
        last_us = at_us
        if level >= 1 and becomes == "admitted":
            level -= 1
            admitted += 1
    return admitted


def run(wire, cell):
    """Return what came of a load."""
    world = World(wire, SEED, {"stage": throttle(cell.rate, cell.burst)}, cell.processes)
    random = world.random
    checks = [
        (at_us, which, "denied" if random.random() < cell.denied else "admitted")
        for at_us, which in arrivals(random, cell)
    ]
    checks.sort()
    for at_us, which, becomes in checks:
        process = world.processes[which]
        world.loop.at(at_us, lambda process=process, becomes=becomes: process.check(["stage"], 1, becomes))
    world.loop.run()
    world.verify()
    admitted, most = len(world.admitted), exact_admissions(cell, checks)
    delays = sorted(world.delays_us)
    return {
        "cell": cell.name,
        "per_term": cell.per_term,
        "load": cell.load,
        "shape": cell.shape,
        "checks": len(checks),
        "admitted": admitted,
        "exact": most,
        "short": max(0, most - admitted),
        "false_denials": max(0, most - admitted) / len(checks),
        "utilisation": min(1.0, admitted / most),
        "messages": world.messages / len(checks),
        "messages_per_s": world.messages / cell.seconds,
        "waited": world.waits / len(checks),
        "p50_trips": delays[len(delays) // 2] / TRIP_US,
        "p99_trips": delays[len(delays) * 99 // 100] / TRIP_US,
    }


def measure(full=False):
    cells = CELLS + MORE_CELLS if full else CELLS
    server = host.Server(host.MAIN)
    try:
        with closing(Wire(server)) as wire, steps("shared_limits", len(cells)) as step:
            result = []
            for cell in cells:
                step(cell.name)
                result.append(run(wire, cell))
            return result
    finally:
        server.stop()


def figures(result):
    for each in result:
        name = f"shared limits, {each['cell']}"
        smooth = each["shape"] == "smooth"
        yield Figure(
            f"{name}: utilisation", each["utilisation"], "x", "higher", 0.99 if smooth and each["load"] <= 1 else 0.95
        )
        yield Figure(f"{name}: messages a check", each["messages"], "x")
        yield Figure(f"{name}: share that waited", each["waited"], "x")


def tables(result):
    table = Table(title="Shared limits, leased")
    columns = (
        "units/process/term",
        "false denials",
        "units short",
        "utilisation",
        "messages/check",
        "messages/s",
        "waited",
    )
    for column in ("load", *columns, "p50, p99 round trips"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for each in result:
        table.add_row(
            each["cell"],
            f"{each['per_term']:.1f}",
            f"{each['false_denials']:.2%}",
            f"{each['short']}",
            f"{each['utilisation']:.4f}",
            f"{each['messages']:.3f}",
            f"{each['messages_per_s']:,.0f}",
            f"{each['waited']:.1%}",
            f"{each['p50_trips']:.1f}, {each['p99_trips']:.1f}",
        )
    yield table
