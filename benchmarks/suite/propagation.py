"""How soon a change of a plan is in force on every replica of a gateway, when it is pushed.

Four replicas, each a process of its own, check a key of their own again and again: peeks, which write nothing, so that
no replica learns of a change from another. They would not read the catalogue by themselves (`max_age` is a day), so
only the push announces a change. Measured, in each round and for each replica, is the time from the reply to the commit
until the last answer by the old plan.
"""

import multiprocessing
import random
import sys
import time
from contextlib import contextmanager

from rich.table import Table

from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from benchmarks.suite.rounds import percentiles
from ratelimit import Catalog, Throttle, UsagePlan

sys.path.insert(0, str(host.ROOT / "tests"))

from helpers.propagation_worker import SEEN, STAGE, watch

REPLICAS = 4
ROUNDS, MORE_ROUNDS = 200, 1000
PACES = {"a request each ms": 0.001, "flat out": 0.0}
DAY_S = 86_400.0
TIMEOUT_S = 30.0
GAP_S = 0.02  # between rounds, at least: a change meets replicas that check at their pace, done with the change before
PROMISE_MS = 100


def _plan(burst):
    return UsagePlan("gold", Throttle(1, burst), None, [STAGE])


@contextmanager
def _recording_commits(catalog):
    """Yield a list to which the time of each reply to a script is added: of a change, that of its commit."""
    run, commits = catalog._run, []
    catalog._run = lambda operation: run(_recording(operation, commits))
    try:
        yield commits
    finally:
        catalog._run = run


def _recording(operation, commits):
    """Pass on the requests of an operation and their replies. Plain commands come in lists, a script by itself."""
    try:
        request = next(operation)
        while True:
            reply = yield request
            if not isinstance(request, list):
                commits.append(time.monotonic())
            request = operation.send(reply)
    except StopIteration as finished:
        return finished.value


def _wait_until_all_have(client, burst):
    deadline, expected = time.monotonic() + TIMEOUT_S, [str(burst).encode()] * REPLICAS
    while client.hvals(SEEN) != expected:
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {TIMEOUT_S:g} s not every replica decides by the new plan")
        time.sleep(0.001)


def _run(pool, server, pause_s, rounds, step):
    """Change the plan `rounds` times; return the lags in milliseconds, one per round and replica."""
    jitter = random.Random(1)
    with server.client() as client:
        client.flushall()
        catalog = Catalog(client)
        catalog.put_plan(_plan(1))
        keys = [catalog.create_key(plans=["gold"]).value for _ in range(REPLICAS)]
        arguments = [(server.url, at, key, 1 + rounds, pause_s, DAY_S) for at, key in enumerate(keys)]
        running = pool.starmap_async(watch, arguments, chunksize=1)
        _wait_until_all_have(client, 1)
        committed = {}
        with _recording_commits(catalog) as commits:
            for burst in range(2, 2 + rounds):
                step()
                time.sleep(GAP_S * (1 + jitter.random()))
                catalog.put_plan(_plan(burst))
                committed[burst] = commits[-1]
                _wait_until_all_have(client, burst)
        turns = [turn for turns in running.get() for turn in turns]
    if len(turns) != rounds * REPLICAS:
        raise RuntimeError(
            f"{len(turns)} changes were seen, not {rounds * REPLICAS}: a replica skipped or repeated one"
        )
    return [max(0.0, turn.last_old - committed[turn.burst]) * 1000 for turn in turns]


def measure(full=False):
    rounds = MORE_ROUNDS if full else ROUNDS
    result = {"replicas": REPLICAS, "rounds": rounds, "lags_ms": {}}
    context = multiprocessing.get_context("spawn")
    with (
        host.placed_server(host.MAIN, host.FREE) as server,
        context.Pool(REPLICAS) as pool,
        steps("propagation", len(PACES) * rounds) as step,
    ):
        for pace, pause_s in PACES.items():
            result["lags_ms"][pace] = sorted(_run(pool, server, pause_s, rounds, lambda pace=pace: step(pace)))
        pool.close()
        pool.join()
    return result


def figures(result):
    for pace, lags in result["lags_ms"].items():
        points = percentiles(lags, (50, 99))
        target = PROMISE_MS if pace != "flat out" else None
        yield Figure(f"{host.MAIN}: a change in force on 4 replicas, {pace}, p99", points["p99"], "ms", target=target)


def tables(result):
    count, rounds = result["replicas"], result["rounds"]
    title = f"from commit to the last old decision, {count} replicas, {rounds:,} changes ({host.MAIN})"
    table = Table(title=title, title_justify="left")
    table.add_column("each replica checks")
    for column in ("no old decision", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", f"above {PROMISE_MS} ms"):
        table.add_column(column, justify="right")
    for pace, lags in result["lags_ms"].items():
        points = percentiles(lags, (50, 90, 99, 99.9))
        none, late = (sum(test(lag) for lag in lags) for test in (lambda lag: lag == 0, lambda lag: lag > PROMISE_MS))
        shares = (f"{none / len(lags):.0%}", *(f"{point:.2f}" for point in points.values()), f"{max(lags):.2f}")
        table.add_row(pace, *shares, f"{late} of {len(lags):,}")
    yield table
