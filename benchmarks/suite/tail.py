"""Latency under a steady load: requests arrive on a schedule, whether or not earlier ones are answered.

Two loads: half and four fifths of what the slowest limiter can carry, the same for all, so that they can be compared;
and the same shares of what each one can carry itself. In rounds of a second, in turn: on the tasks of one event loop,
and on processes that wait for each answer: the workers of a gateway without asyncio.

Each process has a schedule of its own; together they are the load. A request that is due before the one ahead of it
in its process is answered waits there, and that counts. Threads of one process are not measured: they share one
interpreter, and carry less than the asyncio twin of the same process.
"""

import asyncio
import time
from contextlib import AsyncExitStack, ExitStack
from itertools import chain

from hdrh.histogram import HdrHistogram
from rich.table import Table

from benchmarks.contenders import ours, peers
from benchmarks.contenders.by_name import BY_NAME
from benchmarks.contenders.contender import AMPLE
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from benchmarks.suite.arrivals import (
    OWN,
    SAME,
    SECONDS,
    SHARES,
    TRIAL_SECONDS,
    TRIALS,
    Rounds,
    histogram,
    schedule,
    shuffled,
)
from benchmarks.suite.rounds import ratio, spread
from benchmarks.suite.workers import workers

CONTENDERS = [ours.CHECK, *peers.MAIN]
TASK_CALLERS = 64
PROCESSES = 4
PROCESS_CALLERS = 16
"""Of each process."""
WAYS = {"asyncio": "asyncio", "processes": f"{PROCESSES} processes"}
_START_DELAY = 0.05
"""Seconds until all processes begin, so that each has received its work by then."""
_WARM = 20


async def _saturate(call, callers, seconds):
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


async def _run_tasks(server, rounds, step):
    async with AsyncExitStack() as stack:
        calls = {}
        for one in CONTENDERS:
            callers = one.enrol(server.url, AMPLE, TASK_CALLERS)
            calls[one.name] = (await stack.enter_async_context(one.aconnect(server.url, AMPLE)), callers)
        carried = {name: [] for name in calls}
        for trial in range(-1, TRIALS):  # the first is to warm up
            for name, (call, callers) in calls.items():
                step(f"{name}: what it can carry")
                per_second = await _saturate(call, callers, TRIAL_SECONDS)
                if trial >= 0:
                    carried[name].append(per_second)
        measured = Rounds(carried)
        for number in range(rounds):
            for load in shuffled(measured.loads, number):
                kind, share, name = load
                per_second = measured.loads[load]
                step(f"{name}: round {number + 1}, {share:.0%} {kind}, {per_second:,.0f} requests per second")
                measured.add(load, *await open_loop(*calls[name], schedule(per_second, SECONDS, number)))
    return measured.summary()


def _serve(pipe):
    """Connect to all contenders, then do each job that comes, with one of them at a time, until None comes."""
    url, callers = pipe.recv()
    with ExitStack() as stack:
        calls = {name: stack.enter_context(BY_NAME[name].connect(url, AMPLE)) for name in callers}
        for name, call in calls.items():
            for caller in callers[name] * (_WARM // PROCESS_CALLERS + 1):
                call(caller)
        pipe.send("ready")
        while (job := pipe.recv()) is not None:
            function, name, start, work = job
            pipe.send(function(calls[name], callers[name], start, work))


def flat_out(call, callers, start, seconds):
    """Return how many calls were answered, each made as soon as the one before it was over."""
    time.sleep(max(0.0, start - time.monotonic()))
    answered, number = 0, 0
    while time.monotonic() < start + seconds:
        number += 1
        try:
            call(callers[number % len(callers)])
            answered += 1
        except peers.UNANSWERED:
            pass
    return answered


def on_schedule(call, callers, start, due):
    """Return the seconds from due to answered of each request, and how many had no answer."""
    latencies, unanswered = [], 0
    for number, offset in enumerate(due):
        wait = start + offset - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        try:
            call(callers[number % len(callers)])
        except peers.UNANSWERED:
            unanswered += 1
        latencies.append(time.monotonic() - start - offset)
    return latencies, unanswered


def _in_all(pipes, function, name, works):
    """Have all processes start at the same time; return what each returned."""
    start = time.monotonic() + _START_DELAY
    for pipe, work in zip(pipes, works, strict=True):
        pipe.send((function, name, start, work))
    return [pipe.recv() for pipe in pipes]


def _prepare(pipes, url):
    """Give each process callers of its own with every contender."""
    enrolled = {one.name: one.enrol(url, AMPLE, PROCESS_CALLERS * len(pipes)) for one in CONTENDERS}
    for number, pipe in enumerate(pipes):
        pipe.send((url, {name: callers[number :: len(pipes)] for name, callers in enrolled.items()}))
    for pipe in pipes:
        pipe.recv()


def _run_processes(server, rounds, step):
    names = [one.name for one in CONTENDERS]
    with workers(PROCESSES, _serve) as pool:
        _prepare(pool.pipes, server.url)
        carried = {name: [] for name in names}
        for trial in range(-1, TRIALS):  # the first is to warm up
            for name in names:
                step(f"{name}: what {PROCESSES} processes can carry")
                answered = sum(_in_all(pool.pipes, flat_out, name, [TRIAL_SECONDS] * PROCESSES))
                if trial >= 0:
                    carried[name].append(answered / TRIAL_SECONDS)
        measured = Rounds(carried)
        for number in range(rounds):
            for load in shuffled(measured.loads, number):
                kind, share, name = load
                each = measured.loads[load] / PROCESSES
                step(f"{name}: {PROCESSES} processes, round {number + 1}, {share:.0%} {kind}")
                dues = [schedule(each, SECONDS, number * PROCESSES + at) for at in range(PROCESSES)]
                answers = _in_all(pool.pipes, on_schedule, name, dues)
                recorded = histogram(chain.from_iterable(latencies for latencies, _ in answers))
                measured.add(load, recorded, sum(unanswered for _, unanswered in answers))
        return measured.summary()


def measure(full=False):
    rounds = 10 if full else 3
    with steps("tail", 2 * len(CONTENDERS) * (1 + TRIALS + rounds * len(SHARES) * 2)) as step:
        with host.placed_server(host.MAIN, host.placements()[-1]) as server:
            tasks = asyncio.run(_run_tasks(server, rounds, step))
        with host.placed_server(host.MAIN, host.FREE) as server:
            return {"asyncio": tasks, "processes": _run_processes(server, rounds, step)}


def figures(result):
    """At the same load, paired by rounds, because one stall of the machine moves the p99 of whoever it meets."""
    for way, label in WAYS.items():
        for share in SHARES:
            runs = {r["contender"]: r for r in result[way]["runs"] if (r["load"], r["share"]) == (SAME, share)}
            check = runs.pop(ours.CHECK.name)
            for point in check["us"]:
                best = min((run["of_rounds"][point] for run in runs.values()), key=lambda values: spread(values).middle)
                what = f"{host.MAIN}, {label}: {point} at {share:.0%} {SAME} / the best peer"
                yield Figure.of(what, ratio(check["of_rounds"][point], best), target=1.0)


def tables(result):
    for way, label in WAYS.items():
        for kind in (SAME, OWN):
            runs = [run for run in result[way]["runs"] if run["load"] == kind]
            yield _table(f"{host.MAIN}, {label}: shares {kind}", runs)


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


_PLOTTED = (50, 75, 90, 95, 99, 99.5, 99.9, 99.95)


def plot(plt, result):
    """How latency rises towards the rarest requests, at loads that are the same for all."""
    figure, grid = plt.subplots(len(WAYS), len(SHARES), figsize=(9, 3.4 * len(WAYS)), sharey="row", squeeze=False)
    for row, (way, label) in zip(grid, WAYS.items(), strict=True):
        for axes, share in zip(row, SHARES, strict=True):
            runs = [run for run in result[way]["runs"] if (run["load"], run["share"]) == (SAME, share)]
            for run in runs:
                recorded = HdrHistogram.decode(run["hdr"])
                values = [recorded.get_value_at_percentile(point) for point in _PLOTTED]
                name, shares = run["contender"], [1 / (1 - point / 100) for point in _PLOTTED]
                axes.plot(shares, values, markersize=4, label=name, **plots.line_style(name))
            axes.set_xscale("log")
            axes.set_xticks([2, 10, 100, 1000], ["50 %", "90 %", "99 %", "99.9 %"])
            axes.set_yscale("log")
            load = f"{runs[0]['per_second']:,.0f} requests per second"
            axes.set_title(f"{label}, {share:.0%} {SAME}: {load}", loc="left", fontsize=7)
            axes.set_xlabel("share of the requests")
        row[0].set_ylabel("µs from when a request was due (log)")
    grid[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure
