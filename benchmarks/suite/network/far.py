"""A server that is far: latency under a steady load when a round trip takes 30 ms, whatever waits before it leaves.

Requests arrive on a schedule at an event loop, as in `tail`; a process of its own delays all that passes, and limits
nothing else.
"""

import asyncio
import sys

from rich.table import Table

from benchmarks.contenders import ours, peers
from benchmarks.contenders.contender import AMPLE
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from benchmarks.suite.arrivals import percentiles_of, schedule
from benchmarks.suite.rounds import spread
from benchmarks.suite.tail import open_loop

sys.path.insert(0, str(host.ROOT / "tests"))

from helpers.proxy import distant

RTT_S = 0.03
SECONDS = 2.0
CALLERS = 64
LOADS = {ours.CHECK: (1_000, 6_000), peers.LIMITS_FIXED: (1_000,), peers.THROTTLED_BUCKET: (1_000,)}
"""Requests per second. Peers do not carry the higher load on one core, near or far."""
TARGET_LOAD, TARGET_TRIPS = 6_000, 2.0
ROUNDS, MORE_ROUNDS = 3, 10


async def _run(contender, near, far, per_second, rounds, step):
    """Return of each round the percentiles in microseconds, and how many requests had no answer."""
    callers, runs = contender.enrol(near, AMPLE, CALLERS), []
    async with contender.aconnect(far, AMPLE) as call:
        for number in range(-1, rounds):  # the first is to warm up
            step(f"{contender.name}: {per_second:,} requests per second")
            seconds = SECONDS if number >= 0 else 0.5
            recorded, unanswered = await open_loop(call, callers, schedule(per_second, seconds, number))
            if number >= 0:
                runs.append({**percentiles_of(recorded), "unanswered": unanswered})
    return runs


def measure(full=False):
    rounds = MORE_ROUNDS if full else ROUNDS
    result = {"rtt_ms": RTT_S * 1000, "runs": []}
    total = sum(map(len, LOADS.values())) * (rounds + 1)
    with host.placed_server(host.MAIN, host.FREE) as server, steps("far", total) as step:
        for contender, loads in LOADS.items():
            for per_second in loads:
                with distant(server.socket, RTT_S, unix=True) as far:
                    runs = asyncio.run(_run(contender, server.url, far, per_second, rounds, step))
                result["runs"].append({"contender": contender.name, "per_second": per_second, "rounds": runs})
    return result


def _in_trips(run, point, rtt_ms):
    return spread([each[point] / 1000 / rtt_ms for each in run["rounds"]])


def figures(result):
    for run in result["runs"]:
        if run["contender"] == ours.CHECK.name:
            target = TARGET_TRIPS if run["per_second"] == TARGET_LOAD else None
            what = (
                f"{host.MAIN}: p99 at {run['per_second']:,} checks/s, a round trip of {result['rtt_ms']:g} ms, in trips"
            )
            yield Figure.of(what, _in_trips(run, "p99", result["rtt_ms"]), target=target)


def tables(result):
    title = f"steady load in round trips of {result['rtt_ms']:g} ms, from when a request was due ({host.MAIN})"
    table = Table(title=title, title_justify="left")
    for column in ("contender", "requests/s", "p50", "p99", "p99.9", "unanswered"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for run in result["runs"]:
        points = (f"{_in_trips(run, point, result['rtt_ms']).middle:.2f}" for point in ("p50", "p99", "p99.9"))
        unanswered = sum(each["unanswered"] for each in run["rounds"])
        table.add_row(run["contender"], f"{run['per_second']:,}", *points, f"{unanswered:,}")
    yield table
