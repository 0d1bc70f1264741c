"""Instructions of the server per check, counted by callgrind: the same on a busy machine and on an idle one.

A server runs under valgrind for 500 checks and another for 1,500; start, connections and first loads are the same in
both, so a thousandth of the difference is what a check costs.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rich.table import Table

from benchmarks.contenders import floors, ours, peers
from benchmarks.contenders.contender import AMPLE
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import callgrind

SHORT, LONG = 500, 1500
AT_ONCE = 50
MORE = 8
"""Times as many calls where 50 are in flight: a server's Lua collects garbage once in some scripts, not calls."""
BATCHED = f"check, {AT_ONCE} at once (asyncio)"
SPREAD = f"check, {AT_ONCE} at once, of {AT_ONCE} keys (asyncio)"
LAYERED = f"check, all layers, {AT_ONCE} at once, of {AT_ONCE} keys (asyncio)"
TOGETHER = {BATCHED: (1, False), SPREAD: (AT_ONCE, False), LAYERED: (AT_ONCE, True)}
"""Checks in flight at once: how many keys, and whether the stage and the account have buckets."""
TARGETS = {ours.CHECK.name: 58_000, BATCHED: 28_000, SPREAD: 28_000}


def _one_by_one(contender, calls):
    with callgrind.counted() as (url, counted):
        (caller,) = contender.enrol(url, AMPLE, 1)
        options = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY} if contender.kind == "ours" else {}
        with contender.connect(url, AMPLE, **options) as call:
            right = sum(call(caller) is contender.admits for _ in range(calls))
    assert right == calls, f"{contender.name}: {calls - right} of {calls} calls answered wrongly"
    return counted[0]


def _at_once(name, calls, keys, layers):
    """Rounds of 50 checks in flight, of one key or of 50."""

    async def run(url, callers):
        options = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY}
        async with ours.aconnect(url, AMPLE, **options) as call:
            await asyncio.gather(*map(call, callers))  # first checks of the keys, the same in both counts
            right = 0
            for _ in range(MORE * calls // AT_ONCE):
                right += sum(await asyncio.gather(*(call(callers[at % keys]) for at in range(AT_ONCE))))
        assert right == MORE * calls, f"{name}: {MORE * calls - right} of {MORE * calls} calls were not admitted"

    with callgrind.counted() as (url, counted):
        asyncio.run(run(url, ours.enrol(url, AMPLE, keys, layers=layers)))
    return counted[0]


def measure(full=False):
    if callgrind.VALGRIND is None:
        return {"absent": callgrind.ABSENT, "per_check": {}}
    plain = [floors.INCR, floors.EVALSHA, *ours.ALL, *(peers.ALL if full else peers.MAIN)]
    plan = [(one.name, partial(_one_by_one, one)) for one in plain]
    plan[3:3] = [(name, partial(_at_once, name, keys=keys, layers=layers)) for name, (keys, layers) in TOGETHER.items()]
    per_check = {}
    with ThreadPoolExecutor(2) as both, steps("instructions", len(plan)) as step:
        for name, counting in plan:
            step(name)
            short, long = both.map(counting, (SHORT, LONG))
            more = MORE if name in TOGETHER else 1
            per_check[name] = (long - short) / ((LONG - SHORT) * more)
    return {"server": callgrind.SERVER, "version": callgrind.version(), "per_check": per_check}


def figures(result):
    for name in (ours.CHECK.name, *TOGETHER, ours.LAYERS.name, ours.DENIED.name, ours.PEEK.name):
        if name in result["per_check"]:
            what = f"{result['version']}: instructions of the server, {name}"
            yield Figure(what, result["per_check"][name], "", target=TARGETS.get(name))


def tables(result):
    if "absent" in result:
        yield f"[yellow]{result['absent']}"
        return
    check = result["per_check"][ours.CHECK.name]
    table = Table(title=f"instructions of the server per call ({result['version']})", title_justify="left")
    table.add_column("contender")
    table.add_column("instructions", justify="right")
    table.add_column("check / this", justify="right")
    for name, count in result["per_check"].items():
        counted = round(count)
        table.add_row(name, f"{counted:,}", f"{check / count:.2f}x" if counted > 0 else "")
    yield table


def plot(plt, result):
    if not result["per_check"]:
        return None
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(result["per_check"]) + 0.6))
    plots.bars(axes, result["per_check"], "instructions of the server per call")
    axes.set_title(f"What a call costs the server ({result['version']}, callgrind)", loc="left")
    return figure
