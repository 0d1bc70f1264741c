"""How many checks of an event loop one script call should carry, and whether threads should batch theirs as well.

The larger a batch, the less a check costs and the longer one script holds up
everybody else on the server. The first table shows both: checks per second of many tasks, and the server's own account
of how long scripts took. The second one has threads check on connections of their own, and through an event loop that
batches their checks.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest.mock import patch

from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import ratio, rotated, spread
from ratelimit.store.aio import batcher as batcher_module

SIZES = (1, 4, 16, 32, 64, 128, 256, 512)
TASKS = 1024
CALLS_PER_TASK = 10
THREADS = (1, 4, 16)
CALLS_OF_THREADS = 2_000
SHIPPED = batcher_module._MAX_CHECKS


async def _of_tasks(call, callers):
    async def task(caller):
        for _ in range(CALLS_PER_TASK):
            assert await call(caller)

    start = time.perf_counter()
    await asyncio.gather(*(task(caller) for caller in callers))
    return len(callers) * CALLS_PER_TASK / (time.perf_counter() - start)


def _script_times(client):
    """Return p50, p99 and p99.9 of the time that scripts took, in microseconds, by the server."""
    percentiles = client.info("latencystats")["latency_percentiles_usec_evalsha"]
    return [float(percentiles[name]) for name in ("p50", "p99", "p99.9")]


async def _rounds_of_sizes(server, rounds, step):
    by_size = {size: {"rates": [], "scripts": []} for size in SIZES}
    callers = ours.CHECK.enrol(server.url, AMPLE, TASKS)
    with server.client() as admin:
        async with ours.CHECK.aconnect(server.url, AMPLE, deadline=ours.PATIENT) as call:
            for number in range(-1, rounds):  # the first is to warm up
                for size in rotated(SIZES, number):
                    step(f"batches of {size}")
                    admin.config_resetstat()
                    with patch.object(batcher_module, "_MAX_CHECKS", size):
                        rate = await _of_tasks(call, callers)
                    if number >= 0:
                        by_size[size]["rates"].append(rate)
                        by_size[size]["scripts"].append(_script_times(admin))
    return by_size


def _sizes(rounds):
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps("batches", (rounds + 1) * len(SIZES)) as step,
    ):
        by_size = asyncio.run(_rounds_of_sizes(server, rounds, step))
    shipped = by_size[SHIPPED]["rates"]
    return [
        {
            "size": size,
            "per_second": spread(one["rates"]),
            "ratio": ratio(one["rates"], shipped),
            "script_us": [spread(points).middle for points in zip(*one["scripts"], strict=True)],
        }
        for size, one in by_size.items()
    ]


@contextmanager
def _own_connections(server):
    with ours.CHECK.connect(server.url, AMPLE) as call:
        yield call


@contextmanager
def _batched(server):
    """A blocking call for threads that hands each check to an event loop of another thread, which batches them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    connecting = ours.CHECK.aconnect(server.url, AMPLE, deadline=ours.PATIENT)
    call = asyncio.run_coroutine_threadsafe(connecting.__aenter__(), loop).result()
    try:
        yield lambda caller: asyncio.run_coroutine_threadsafe(call(caller), loop).result()
    finally:
        asyncio.run_coroutine_threadsafe(connecting.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _of_threads(call, callers):
    def work(caller):
        return all(call(caller) for _ in range(CALLS_OF_THREADS // len(callers)))

    with ThreadPoolExecutor(len(callers)) as pool:
        start = time.perf_counter()
        assert all(pool.map(work, callers))
        return CALLS_OF_THREADS / (time.perf_counter() - start)


def _threads(rounds):
    by_threads = []
    with (
        host.placed_server(host.MAIN, host.placements()[-1]) as server,
        steps("threads", len(THREADS) * rounds) as step,
    ):
        callers = ours.CHECK.enrol(server.url, AMPLE, max(THREADS))
        with _own_connections(server) as own, _batched(server) as batched:
            for threads in THREADS:
                rates = {"own": [], "batched": []}
                for _ in range(rounds):
                    step(f"{threads} threads")
                    for name, call in (("own", own), ("batched", batched)):
                        rates[name].append(_of_threads(call, callers[:threads]))
                per_second = {f"{name}_per_second": spread(rates[name]) for name in rates}
                by_threads.append({"threads": threads, **per_second, "ratio": ratio(rates["batched"], rates["own"])})
    return by_threads


def measure(full=False):
    rounds = 15 if full else 5
    return {"sizes": _sizes(rounds), "threads": _threads(rounds)}


def figures(result):
    ((_, p99, _),) = (one["script_us"] for one in result["sizes"] if one["size"] == SHIPPED)
    yield Figure(f"{host.MAIN}: script of a batch of {SHIPPED} checks, p99", p99, "us")


def tables(result):
    title = f"{TASKS:,} tasks, by how many checks a script call carries at most ({host.MAIN}); {SHIPPED} is what ships"
    table = Table(title=title, title_justify="left")
    for column in ("checks in a call", "checks/s", f"/ {SHIPPED}", "script p50 us", "p99 us", "p99.9 us"):
        table.add_column(column, justify="right")
    for one in result["sizes"]:
        rate, compared = Spread(*one["per_second"]).middle, Spread(*one["ratio"]).middle
        scripts = (f"{us:,.0f}" for us in one["script_us"])
        table.add_row(f"{one['size']}", f"{rate:,.0f}", f"{compared:.2f}x", *scripts)
    yield table
    table = Table(
        title=f"threads: checks/s on own connections, and batched through an event loop ({host.MAIN})",
        title_justify="left",
    )
    for column in ("threads", "own connections", "batched", "batched / own"):
        table.add_column(column, justify="right")
    for one in result["threads"]:
        rates = [f"{Spread(*one[f'{name}_per_second']).middle:,.0f}" for name in ("own", "batched")]
        table.add_row(f"{one['threads']}", *rates, f"{Spread(*one['ratio']).middle:.2f}x")
    yield table
