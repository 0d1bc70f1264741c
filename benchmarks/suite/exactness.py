"""Correctness beside speed: how much each limiter admits, against the exact maximum of the rule it states."""

import math
import time

from rich.table import Table

from benchmarks.contenders import ours, peers
from benchmarks.contenders.contender import AMPLE, Load, exactly
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from benchmarks.suite.workers import workers

PROCESSES = 4
BURST = 100
FAST = Load(rate=1000, seconds=1, burst=BURST, window=AMPLE.window)
FAST_CALLS = 2000


def at_once(pool, server, contender):
    """1,000 calls from 4 processes on a limit of 100 in the hour: 100 may pass."""
    callers = contender.enrol(server.url, exactly(BURST), 2)
    (outcome,) = pool.run(contender, server, exactly(BURST), callers, PROCESSES, 10 * BURST)
    return {"admitted": outcome.admitted, "least": BURST, "most": BURST}


def flat_out(_pool, server, contender):
    """2,000 calls one after another on 1,000/s with a burst of 100: the burst, and what the time of the calls refills.

    The server evaluates the first call after it is sent and the last one before its answer is here, so the time
    between is known within two bounds, and with it the exact number. Only for limiters that promise a bucket.
    """
    if not contender.bucket:
        return None
    (caller,) = contender.enrol(server.url, FAST, 1)
    with contender.connect(server.url, FAST) as call:
        sent = time.perf_counter()
        admitted = bool(call(caller))
        answered = time.perf_counter()
        for _ in range(FAST_CALLS - 2):
            admitted += bool(call(caller))
        last_sent = time.perf_counter()
        admitted += bool(call(caller))
        longest, shortest = time.perf_counter() - sent, last_sent - answered
    per_second = FAST.rate / FAST.seconds
    # One less at the lower end: the token that is filled at the end has no call to take it.
    least = min(FAST_CALLS, BURST + math.floor(shortest * per_second) - 1)
    return {"admitted": admitted, "least": least, "most": min(FAST_CALLS, BURST + math.floor(longest * per_second))}


def denied_costs(_pool, server, contender):
    """Of 10 units 8 are used, a cost of 5 is denied, then 1 and 1: a denial consumes nothing, so 10 are used."""
    (caller,) = contender.enrol(server.url, exactly(10), 1)
    with contender.connect(server.url, exactly(10)) as call:
        used = sum(cost for cost in (1,) * 8 + (5,) + (1,) * 3 if call(caller, cost))
    return {"admitted": used, "least": 10, "most": 10}


SCENARIOS = {"burst of 100, 4 processes": at_once, "1,000/s, burst 100": flat_out, "denied cost of 5": denied_costs}


def measure(full=False):
    contenders = [ours.CHECK, ours.LEASED]
    contenders += peers.ALL if full else [*peers.MAIN, peers.THROTTLED_FIXED]
    outcomes = []
    with (
        host.placed_server(host.MAIN, host.FREE) as server,
        workers(PROCESSES) as pool,
        steps("exactness", len(contenders) * len(SCENARIOS)) as step,
    ):
        for contender in contenders:
            for name, scenario in SCENARIOS.items():
                step(f"{contender.name}: {name}")
                with server.client() as client:
                    client.flushall()
                outcome = scenario(pool, server, contender)
                if outcome is not None:
                    if not contender.exact:
                        outcome["least"] = 0
                    outcomes.append({"contender": contender.name, "scenario": name, **outcome})
    return outcomes


def over(outcome):
    """How many were admitted that should not have been; below 0 for those that should have been and were not."""
    return max(0, outcome["admitted"] - outcome["most"]) or min(0, outcome["admitted"] - outcome["least"])


def figures(result):
    checks = [outcome for outcome in result if outcome["contender"] == ours.CHECK.name]
    wrong = sum(abs(over(outcome)) for outcome in checks)
    yield Figure(f"{host.MAIN}: checks wrongly admitted or denied", wrong, "checks", target=0)
    leased = [outcome for outcome in result if outcome["contender"] == ours.LEASED.name]
    if leased:
        beyond = sum(over(outcome) for outcome in leased)
        yield Figure(f"{host.MAIN}: leased checks admitted beyond the plan", beyond, "checks", target=0)


def tables(result):
    table = Table(title=f"admitted, and the exact maximum ({host.MAIN})", title_justify="left")
    table.add_column("contender")
    for name in SCENARIOS:
        table.add_column(name, justify="right")
    for contender in dict.fromkeys(outcome["contender"] for outcome in result):
        outcomes = {o["scenario"]: o for o in result if o["contender"] == contender}
        table.add_row(contender, *(_cell(outcomes.get(name)) for name in SCENARIOS))
    yield table


def _cell(outcome):
    if outcome is None:
        return "no bucket"
    wrong = over(outcome)
    verdict = "[green]exact" if not wrong else f"[red]{abs(wrong):,} {'too many' if wrong > 0 else 'too few'}"
    return f"{outcome['admitted']:,} of {outcome['most']:,}  {verdict}"
