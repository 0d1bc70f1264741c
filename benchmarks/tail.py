"""Latency under a steady load: requests arrive on a schedule, whether or not earlier ones are answered.

Two loads: half and four fifths of what the slowest limiter can carry, the same for all, so that they can be compared;
and the same shares of what each one can carry itself. In rounds of a second, in turn: on the tasks of one event loop,
and on processes that wait for each answer.
"""

import asyncio
import time
from contextlib import AsyncExitStack

import host
import ours
import peers
import tail_processes
from arrivals import LOOK_SECONDS, LOOKS, OWN, SAME, SECONDS, SHARES, Taken, histogram, schedule, shuffled
from contenders import AMPLE
from progress import steps
from report import Figure
from rich.table import Table
from rounds import ratio, spread

CALLERS = 64
CONTENDERS = [ours.CHECK, *peers.MAIN]
HOW = {"asyncio": "asyncio", "processes": f"{tail_processes.PROCESSES} processes"}


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
    return histogram(latencies), unanswered


async def _measure(server, rounds, tell):
    async with AsyncExitStack() as stack:
        calls = {}
        for one in CONTENDERS:
            callers = one.enrol(server.url, AMPLE, CALLERS)
            calls[one.name] = (await stack.enter_async_context(one.aconnect(server.url, AMPLE)), callers)
        carried = {name: [] for name in calls}
        for look in range(-1, LOOKS):  # the first is to warm up
            for name, (call, callers) in calls.items():
                tell(f"{name}: what it can carry")
                found = await _saturation(call, callers, LOOK_SECONDS)
                if look >= 0:
                    carried[name].append(found)
        taken = Taken(carried)
        for number in range(rounds):
            for load in shuffled(taken.loads, number):
                kind, share, name = load
                per_second = taken.loads[load]
                tell(f"{name}: round {number + 1}, {share:.0%} {kind}, {per_second:,.0f} requests per second")
                taken.add(load, *await open_loop(*calls[name], schedule(per_second, SECONDS, number)))
    return taken.summary()


def measure(full=False):
    rounds = 10 if full else 3
    with steps("tail", 2 * len(CONTENDERS) * (1 + LOOKS + rounds * len(SHARES) * 2)) as tell:
        with host.placed_server(host.MAIN, host.placements()[-1]) as server:
            tasks = asyncio.run(_measure(server, rounds, tell))
        return {"asyncio": tasks, "processes": tail_processes.measure(rounds, tell)}


def figures(found):
    """At the same load, paired by rounds, because one stall of the machine moves the p99 of whoever it meets."""
    for how, said in HOW.items():
        for share in SHARES:
            runs = {r["contender"]: r for r in found[how]["runs"] if (r["load"], r["share"]) == (SAME, share)}
            mine = runs.pop(ours.CHECK.name)
            for point in mine["us"]:
                best = min((run["of_rounds"][point] for run in runs.values()), key=lambda values: spread(values).middle)
                what = f"{host.MAIN}, {said}: {point} at {share:.0%} {SAME} / the best peer"
                yield Figure.of(what, ratio(mine["of_rounds"][point], best), target=1.0)


def tables(found):
    for how, said in HOW.items():
        for kind in (SAME, OWN):
            yield _table(f"{host.MAIN}, {said}: shares {kind}", [r for r in found[how]["runs"] if r["load"] == kind])


def _table(what, runs):
    table = Table(title=f"latency under a steady load, µs from when a request was due ({what})", title_justify="left")
    table.add_column("contender")
    table.add_column("load, requests/s", no_wrap=True)
    for column in ("p50", "p99", "p99.9", "max", "p99, median of rounds", "requests", "unanswered"):
        table.add_column(column, justify="right")
    for run in sorted(runs, key=lambda run: run["share"]):
        cells = [f"{us:,}" for us in run["us"].values()] + [f"{run['max_us']:,}"]
        cells.append(f"{spread(run['of_rounds']['p99']).middle:,.0f}")
        missing = f"[red]{run['unanswered']:,}" if run["unanswered"] else "0"
        load = f"{run['share']:.0%}: {run['per_second']:,.0f}"
        table.add_row(run["contender"], load, *cells, f"{run['requests']:,}", missing)
    return table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
