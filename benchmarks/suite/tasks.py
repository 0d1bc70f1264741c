"""Checks per second of tasks in one event loop, beside the peers'."""

import asyncio
import time
from contextlib import AsyncExitStack

from rich.table import Table

from benchmarks.contenders import floors, ours, peers
from benchmarks.contenders.contender import AMPLE
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import ratio, rotated, spread

CONTENDERS = {one.name: one for one in (floors.EVALSHA, ours.PLAIN, ours.CHECK, ours.LEASED, *peers.ASYNC)}
SECONDS = 0.2
"""Of each round, for each contender: the same time, not the same calls, which take the fast ones but moments."""


async def at_once(call, callers, seconds=SECONDS):
    """A task for each caller, each calling again and again. Returns answers per second, calls, unanswered."""
    end, calls, unanswered = time.perf_counter() + seconds, 0, 0

    async def task(caller):
        nonlocal calls, unanswered
        while time.perf_counter() < end:
            calls += 1
            try:
                answer = await call(caller)
            except peers.UNANSWERED:
                unanswered += 1
            else:
                assert answer is True, f"{caller} was denied under limits that deny nothing"

    start = time.perf_counter()
    await asyncio.gather(*(task(caller) for caller in callers))
    return (calls - unanswered) / (time.perf_counter() - start), calls, unanswered


async def _rounds(server, tasks, rounds, step):
    async with AsyncExitStack() as stack:
        calls = {}
        for name, one in CONTENDERS.items():
            callers = one.enrol(server.url, AMPLE, tasks)
            calls[name] = (await stack.enter_async_context(one.aconnect(server.url, AMPLE)), callers)
        rates, counts = {name: [] for name in calls}, {name: [0, 0] for name in calls}
        for number in range(-1, rounds):  # the first is to warm up
            for name in rotated(calls, number):
                step(name)
                rate, made, missing = await at_once(*calls[name])
                if not rate:
                    raise RuntimeError(f"{name}: none of {made} calls of a round was answered: the machine is too busy")
                if number >= 0:
                    rates[name].append(rate)
                    counts[name][0] += made
                    counts[name][1] += missing
    return rates, counts


def measure(tasks, full=False):
    """Paired rounds of all contenders in one process; client and server have a core each where there are two."""
    rounds = 25 if full else 9
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps(f"asyncio, {tasks}", (rounds + 1) * len(CONTENDERS)) as step,
    ):
        rates, counts = asyncio.run(_rounds(server, tasks, rounds, step))
    check = rates[ours.CHECK.name]
    return {
        name: {
            "per_second": spread(by_round),
            "ratio": ratio(check, by_round),
            "calls": counts[name][0],
            "unanswered": counts[name][1],
        }
        for name, by_round in rates.items()
    }


def figures(result, tasks):
    what = f"{host.MAIN}: checks per second, {tasks} {'tasks' if tasks > 1 else 'task'} in one process"
    fastest = max((one.name for one in peers.ASYNC), key=lambda name: result[name]["per_second"][1])
    compared = [(peers.THROTTLED_BUCKET.name, peers.THROTTLED_BUCKET.name, 10), ("the fastest peer", fastest, 6)]
    if tasks == 1:
        compared = [(ours.PLAIN.name, ours.PLAIN.name, 1)]
    for other, name, target in compared:
        yield Figure.of(f"{what} / {other}", Spread(*result[name]["ratio"]), better="higher", target=target)


def table(result, tasks):
    title = f"asyncio, {tasks} {'tasks' if tasks > 1 else 'task'} in one process ({host.MAIN})"
    made = Table(title=title, title_justify="left")
    made.add_column("contender")
    for column in ("checks/s", "check / this", "quartiles", "calls", "unanswered"):
        made.add_column(column, justify="right", no_wrap=True)
    for name, one in result.items():
        low, middle, high = one["ratio"]
        compared = ("", "") if name == ours.CHECK.name else (f"{middle:.2f}x", f"{low:.2f} - {high:.2f}")
        missing = f"[red]{one['unanswered']:,}" if one["unanswered"] else "0"
        made.add_row(name, f"{one['per_second'][1]:,.0f}", *compared, f"{one['calls']:,}", missing)
    return made
