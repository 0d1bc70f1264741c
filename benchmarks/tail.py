"""Latency under a steady load: requests arrive on a schedule, whether or not earlier ones are answered.

Latency is counted from the moment a request was due, so a stall is felt by all who arrive during it, and none is left
out (no coordinated omission). Two loads: half and four fifths of what the slowest limiter can carry, the same for all,
so that they can be compared; and the same shares of what each one can carry itself. In rounds of a second, in turn.
Kept in HDR histograms of three digits.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import host
import ours
import peers
from contenders import AMPLE
from hdrh.histogram import HdrHistogram
from progress import steps
from report import Figure
from rich.table import Table
from rounds import ratio, rotated, spread

SHARES = (0.5, 0.8)
SAME, OWN = "of what the slowest carries", "of what it carries itself"
CALLERS = 64
SECONDS = 1.0
POINTS = (50, 99, 99.9)
MOST_US = 60_000_000
CONTENDERS = [ours.CHECK, *peers.MAIN]


def histogram():
    return HdrHistogram(1, MOST_US, 3)


def percentiles_of(found):
    """Microseconds."""
    return {f"p{point:g}": found.get_value_at_percentile(point) for point in POINTS}


async def _saturation(call, callers, seconds):
    """Answers per second with 64 requests in flight, each a task of its own as under the schedule."""
    end, answered = time.perf_counter() + seconds, 0

    async def one(caller):
        nonlocal answered
        try:
            await call(caller)
            answered += 1
        except peers.UNANSWERED:
            pass

    async def again_and_again(caller):
        while time.perf_counter() < end:
            await asyncio.ensure_future(one(caller))

    start = time.perf_counter()
    await asyncio.gather(*map(again_and_again, callers))
    return answered / (time.perf_counter() - start)


def schedule(per_second, seconds, seed):
    """Arrivals of a Poisson process, the same for every contender and in every run."""
    chance, at, due = random.Random(seed), 0.0, []
    while (at := at + chance.expovariate(per_second)) < seconds:
        due.append(at)
    return due


async def open_loop(call, callers, due):
    """Return a histogram of microseconds from due to answered, and how many requests had no answer.

    Who had none has waited as well, and counts with the time until that was clear.
    """
    latencies, unanswered = [], 0

    async def one(caller, when):
        nonlocal unanswered
        try:
            await call(caller)
        except peers.UNANSWERED:
            unanswered += 1
        latencies.append(time.perf_counter() - when)

    start, tasks = time.perf_counter() + 0.01, set()
    for number, offset in enumerate(due):
        wait = start + offset - time.perf_counter()
        if wait > 0 or number % 64 == 0:
            await asyncio.sleep(max(0.0, wait))
        task = asyncio.ensure_future(one(callers[number % len(callers)], start + offset))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    found = histogram()
    for latency in latencies:  # afterwards: recording takes as long as a part of a call
        found.record_value(min(MOST_US, max(1, round(latency * 1e6))))
    return found, unanswered


async def _measure(server, rounds, tell):
    async with AsyncExitStack() as stack:
        calls = {}
        for one in CONTENDERS:
            callers = one.enrol(server.url, AMPLE, CALLERS)
            calls[one.name] = (await stack.enter_async_context(one.aconnect(server.url, AMPLE)), callers)
        capacity = {}
        for name, (call, callers) in calls.items():
            tell(f"{name}: what it can carry")
            await _saturation(call, callers, 0.3)
            capacity[name] = await _saturation(call, callers, SECONDS)
        slowest = min(capacity.values())
        loads = {
            (kind, share, name): share * (slowest if kind == SAME else capacity[name])
            for kind in (SAME, OWN)
            for share in SHARES
            for name in calls
        }
        taken = {load: [] for load in loads}
        missing = dict.fromkeys(loads, 0)
        for number in range(rounds):
            for load in rotated(loads, number):
                kind, share, name = load
                tell(f"{name}: round {number + 1}, {share:.0%} {kind}, {loads[load]:,.0f} requests per second")
                found, unanswered = await open_loop(*calls[name], schedule(loads[load], SECONDS, number))
                taken[load].append(found)
                missing[load] += unanswered
    return {
        "capacity": capacity,
        "slowest": min(capacity, key=capacity.get),
        "runs": [_run(load, loads[load], taken[load], missing[load]) for load in loads],
    }


def _run(load, per_second, rounds, unanswered):
    kind, share, name = load
    everything = histogram()
    for one in rounds:
        everything.add(one)
    return {
        "contender": name,
        "load": kind,
        "share": share,
        "per_second": per_second,
        "requests": everything.get_total_count(),
        "unanswered": unanswered,
        "us": percentiles_of(everything),
        "max_us": everything.get_max_value(),
        "of_rounds": {point: [percentiles_of(one)[point] for one in rounds] for point in percentiles_of(everything)},
        "hdr": everything.encode().decode("ascii"),
    }


def measure(full=False):
    rounds = 12 if full else 3
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps("tail", len(CONTENDERS) * (1 + rounds * len(SHARES) * 2)) as tell,
    ):
        return asyncio.run(_measure(server, rounds, tell))


def figures(found):
    """At the same load, paired by rounds, because one stall of the machine moves the p99 of whoever it meets."""
    for share in SHARES:
        runs = {r["contender"]: r for r in found["runs"] if (r["load"], r["share"]) == (SAME, share)}
        mine = runs.pop(ours.CHECK.name)
        for point in mine["us"]:
            best = min((run["of_rounds"][point] for run in runs.values()), key=lambda values: spread(values).middle)
            what = f"{host.MAIN}: {point} at {share:.0%} {SAME} / the best peer"
            yield Figure.of(what, ratio(mine["of_rounds"][point], best), target=1.0)


def tables(found):
    for kind in (SAME, OWN):
        table = Table(title=f"latency under a steady load, µs from when a request was due ({host.MAIN})")
        table.title_justify = "left"
        table.add_column("contender")
        table.add_column("load, requests/s", no_wrap=True)
        for column in ("p50", "p99", "p99.9", "max", "p99, median of rounds", "requests", "unanswered"):
            table.add_column(column, justify="right")
        table.title += f": shares {kind}"
        for run in sorted((r for r in found["runs"] if r["load"] == kind), key=lambda r: r["share"]):
            cells = [f"{us:,}" for us in run["us"].values()] + [f"{run['max_us']:,}"]
            cells.append(f"{spread(run['of_rounds']['p99']).middle:,.0f}")
            missing = f"[red]{run['unanswered']:,}" if run["unanswered"] else "0"
            load = f"{run['share']:.0%}: {run['per_second']:,.0f}"
            table.add_row(run["contender"], load, *cells, f"{run['requests']:,}", missing)
        yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
