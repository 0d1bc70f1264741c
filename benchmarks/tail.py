"""Latency under a steady load: requests arrive on a schedule, whether or not earlier ones are answered.

Latency is counted from the moment a request was due, so a stall is felt by all who arrive during it. All limiters get
the same load: half, and four fifths, of what the slowest of them can carry, in rounds of a second in turn. Every value
is kept, so the percentiles are exact.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack

import host
import ours
import peers
from contenders import AMPLE
from progress import steps
from report import Figure
from rich.table import Table
from rounds import percentiles, ratio, rotated, spread

SHARES = (0.5, 0.8)
CALLERS = 64
SECONDS = 1.0
CONTENDERS = [ours.CHECK, peers.LIMITS_FIXED, peers.THROTTLED_BUCKET]


async def _saturation(call, callers, seconds):
    """Answers per second when each of 64 tasks calls again as soon as it is answered."""
    end, answered = time.perf_counter() + seconds, 0

    async def task(caller):
        nonlocal answered
        while time.perf_counter() < end:
            try:
                await call(caller)
                answered += 1
            except peers.UNANSWERED:
                pass

    start = time.perf_counter()
    await asyncio.gather(*(task(caller) for caller in callers))
    return answered / (time.perf_counter() - start)


def _schedule(per_second, seconds, seed):
    """Arrivals of a Poisson process, the same for every contender and in every run."""
    chance, at, due = random.Random(seed), 0.0, []
    while (at := at + chance.expovariate(per_second)) < seconds:
        due.append(at)
    return due


async def _open_loop(call, callers, due):
    """Microseconds from due to answered of each request, and how many had no answer."""
    latencies, unanswered = [], 0

    async def one(caller, when):
        nonlocal unanswered
        try:
            await call(caller)
        except peers.UNANSWERED:
            unanswered += 1
        latencies.append((time.perf_counter() - when) * 1e6)

    start, tasks = time.perf_counter() + 0.01, set()
    for number, offset in enumerate(due):
        wait = start + offset - time.perf_counter()
        if wait > 0 or number % 64 == 0:
            await asyncio.sleep(max(0.0, wait))
        task = asyncio.ensure_future(one(callers[number % len(callers)], start + offset))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return latencies, unanswered


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
        kept = {(share, name): [] for share in SHARES for name in calls}
        missing = dict.fromkeys(kept, 0)
        for number in range(rounds):
            for share in SHARES:
                due = _schedule(share * slowest, SECONDS, number)
                for name in rotated(calls, number):
                    tell(f"{name}: round {number + 1}, {share * slowest:,.0f} requests per second")
                    latencies, unanswered = await _open_loop(*calls[name], due)
                    kept[share, name].append(latencies)
                    missing[share, name] += unanswered
    return {
        "capacity": capacity,
        "runs": [
            {
                "contender": name,
                "share": share,
                "per_second": share * slowest,
                "requests": sum(map(len, rounds)),
                "unanswered": missing[share, name],
                "us": percentiles([one for latencies in rounds for one in latencies]),
                "p99_of_rounds": [percentiles(latencies)["p99"] for latencies in rounds],
            }
            for (share, name), rounds in kept.items()
        ],
    }


def measure(full=False):
    rounds = 20 if full else 4
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps("tail", len(CONTENDERS) * (1 + rounds * len(SHARES))) as tell,
    ):
        return asyncio.run(_measure(server, rounds, tell))


def figures(found):
    """Paired by rounds, because one stall of the machine moves the p99 of whoever it meets."""
    for share in SHARES:
        runs = {run["contender"]: run["p99_of_rounds"] for run in found["runs"] if run["share"] == share}
        mine = runs.pop(ours.CHECK.name)
        best = min(runs.values(), key=lambda p99s: spread(p99s).middle)
        what = f"{host.MAIN}: p99 at {share:.0%} of what the slowest carries / the best peer"
        yield Figure.of(what, ratio(mine, best), target=1.0)


def tables(found):
    table = Table(title=f"latency under a steady load, µs from when a request was due ({host.MAIN})")
    table.title_justify = "left"
    for column in ("load, requests/s", "contender"):
        table.add_column(column)
    for column in ("p50", "p99", "p99.9", "p99, median of rounds", "requests", "unanswered"):
        table.add_column(column, justify="right")
    for run in found["runs"]:
        load = f"{run['share']:.0%}: {run['per_second']:,.0f}"
        cells = [f"{run['us'][point]:,.0f}" for point in ("p50", "p99", "p99.9")]
        cells.append(f"{spread(run['p99_of_rounds']).middle:,.0f}")
        missing = f"[red]{run['unanswered']:,}" if run["unanswered"] else "0"
        table.add_row(load, run["contender"], *cells, f"{run['requests']:,}", missing)
    yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
