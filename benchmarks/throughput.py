"""Checks per second over 1, 2, 4 and 8 processes, on one key and on many, with exact totals; and 64 asyncio tasks."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import asdict

import floors
import host
import ours
import peers
from contenders import AMPLE, exactly
from progress import steps
from report import Figure
from rich.table import Table
from rounds import Spread, ratio, rotated, spread
from workers import workers

PROCESSES = (1, 2, 4, 8)
TASKS = 64
CALLS_PER_TASK = 25


def _one(crew, server, contender, processes, calls, callers, tell):
    """One measurement: limits that admit all calls and not one more, then one more of some callers.

    On many keys all calls are made twice: the first pass has the first look at each key, the second none.
    """
    what = f"{contender.name}: {processes} processes on {callers:,} keys"
    passes = 2 if callers > 1 else 1
    load = exactly(calls * passes // callers)
    with server.client() as client:
        client.flushall()
    names = contender.enrol(server.url, load, callers + 1, progress=lambda _: tell(f"{what}, making keys", by=0))
    tell(what)
    outcomes = crew.run(contender, server, load, names, processes, calls, passes)
    with contender.connect(server.url, load) as call:
        over = sum(call(caller) for caller in names[:-1][:20])
    found = {"contender": contender.name, "processes": processes, "callers": callers, "over": over}
    found |= asdict(outcomes[-1]) | {"per_second": outcomes[-1].per_second}
    found["first_look_per_second"] = outcomes[0].per_second if passes > 1 else None
    found["calls"], found["admitted"] = calls * passes, sum(outcome.admitted for outcome in outcomes)
    found["unanswered"] = sum(outcome.unanswered for outcome in outcomes)
    found["exact"] = contender.kind == "floor" or (found["admitted"], over) == (calls * passes, 0)
    return found


def over_processes(crew, calls, callers):
    """All contenders on one hot key, then all limiters on `callers` keys, one call of each key in a pass."""
    limiters = [ours.CHECK, *peers.MAIN]
    plan = [(one, n, calls, 1) for one in (floors.EVALSHA, *limiters) for n in PROCESSES]
    plan += [(one, n, callers, callers) for one in limiters for n in PROCESSES]
    found = []
    with host.placed_server(host.MAIN, host.FREE) as server, steps("throughput", len(plan)) as tell:
        for contender, processes, made, keys in plan:
            found.append(_one(crew, server, contender, processes, made, keys, tell))
    return found


async def _tasks(call, callers):
    """64 tasks at once, each calling in turn for a caller of its own. Returns checks answered per second, and not."""
    unanswered = 0

    async def task(caller):
        nonlocal unanswered
        for _ in range(CALLS_PER_TASK):
            try:
                answer = await call(caller)
            except peers.UNANSWERED:
                unanswered += 1
            else:
                assert answer is True, f"{caller} was denied under limits that deny nothing"

    start = time.perf_counter()
    await asyncio.gather(*(task(caller) for caller in callers))
    return (len(callers) * CALLS_PER_TASK - unanswered) / (time.perf_counter() - start), unanswered


async def _rounds(server, rounds, tell):
    contenders = {one.name: one for one in (floors.EVALSHA, ours.CHECK, *peers.ASYNC)}
    async with AsyncExitStack() as stack:
        calls = {}
        for name, one in contenders.items():
            callers = one.enrol(server.url, AMPLE, TASKS)
            calls[name] = (await stack.enter_async_context(one.aconnect(server.url, AMPLE)), callers)
        rates, unanswered = {name: [] for name in calls}, dict.fromkeys(calls, 0)
        for number in range(-1, rounds):  # the first is to warm up
            for name in rotated(calls, number):
                tell(name)
                rate, missing = await _tasks(*calls[name])
                if number >= 0:
                    rates[name].append(rate)
                    unanswered[name] += missing
    return rates, unanswered


def over_tasks(rounds):
    """Paired rounds of all contenders in one process; client and server have a core each where there are two."""
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps("asyncio", (rounds + 1) * (2 + len(peers.ASYNC))) as tell,
    ):
        rates, unanswered = asyncio.run(_rounds(server, rounds, tell))
    calls = rounds * TASKS * CALLS_PER_TASK
    check = rates[ours.CHECK.name]
    return {
        name: {
            "per_second": spread(found),
            "ratio": ratio(check, found),
            "calls": calls,
            "unanswered": unanswered[name],
        }
        for name, found in rates.items()
    }


def measure(full=False):
    asynchronous = over_tasks(25 if full else 9)
    with workers(max(PROCESSES)) as crew:
        processes = over_processes(crew, *((40_000, 100_000) if full else (6_000, 4_000)))
    return {"tasks": asynchronous, "processes": processes}


def figures(found):
    tasks = found["tasks"]
    fastest = max((one.name for one in peers.ASYNC), key=lambda name: tasks[name]["per_second"][1])
    what = f"{host.MAIN}: checks per second, {TASKS} tasks in one process"
    for other, name, target in ((peers.THROTTLED_BUCKET.name,) * 2 + (10,), ("the fastest peer", fastest, 6)):
        found_ratio = Spread(*tasks[name]["ratio"])
        yield Figure.of(f"{what} / {other}", found_ratio, better="higher", target=target)
    inexact = sum(not one["exact"] for one in found["processes"] if one["contender"] == ours.CHECK.name)
    yield Figure(f"{host.MAIN}: runs over processes whose totals were not exact", inexact, "runs", target=0)
    for many in (False, True):
        runs = [run for run in found["processes"] if (run["callers"] > 1) == many]
        what = (
            f"{host.MAIN}: processes on {runs[0]['callers']:,} keys" if many else f"{host.MAIN}: processes on one key"
        )
        mine = [run for run in runs if run["contender"] == ours.CHECK.name]
        best = max(mine, key=lambda run: run["per_second"])
        peer = max(run["per_second"] for run in runs if run["contender"] in {one.name for one in peers.MAIN})
        yield Figure(f"{what}: most checks per second", best["per_second"], "/s", "higher")
        yield Figure(f"{what}: most checks per second / the fastest peer", best["per_second"] / peer, "x", "higher")
        fullest = max(run["server_cpu"] for run in mine)
        yield Figure(f"{what}: share of its core that the server used at most", fullest, "x", "higher")


def tables(found):
    table = Table(title=f"asyncio, {TASKS} tasks in one process ({host.MAIN})", title_justify="left")
    table.add_column("contender")
    for column in ("checks/s", "check / this", "quartiles", "calls", "unanswered"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, one in found["tasks"].items():
        low, middle, high = one["ratio"]
        compared = ("", "") if name == ours.CHECK.name else (f"{middle:.2f}x", f"{low:.2f} - {high:.2f}")
        missing = f"[red]{one['unanswered']:,}" if one["unanswered"] else "0"
        table.add_row(name, f"{one['per_second'][1]:,.0f}", *compared, f"{one['calls']:,}", missing)
    yield table
    for many in (False, True):
        runs = [run for run in found["processes"] if (run["callers"] > 1) == many]
        keys = f"{runs[0]['callers']:,} keys" if many else "one hot key"
        title = f"processes on {keys} ({host.MAIN}): checks/s, and the share of its core that the server used"
        title += "; below, with the first look at each key" if many else ""
        table = Table(title=title, title_justify="left")
        table.add_column("contender")
        for processes in PROCESSES:
            table.add_column(f"{processes}", justify="right", no_wrap=True)
        table.add_column("admitted / exact maximum", justify="right")
        for name in dict.fromkeys(run["contender"] for run in runs):
            mine = [run for run in runs if run["contender"] == name]
            cells = [f"{run['per_second']:,.0f} ({run['server_cpu']:.0%})" for run in mine]
            table.add_row(name, *cells, _totals(mine))
            if many:
                table.add_row("  first looks", *(f"{run['first_look_per_second']:,.0f}" for run in mine), "")
        yield table


def _totals(runs):
    if runs[0]["contender"] == floors.EVALSHA.name:
        return ""
    if all(run["exact"] for run in runs):
        return "[green]exact"
    wrong = [f"{run['admitted']:,}+{run['over']} / {run['calls']:,}" for run in runs if not run["exact"]]
    return "[red]" + ", ".join(wrong)


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
