"""Correctness beside speed: how much each limiter admits, against the exact maximum of the rule it states."""

import math
import time

import host
import ours
import peers
from contenders import AMPLE, Load, exactly
from progress import steps
from report import Figure
from rich.table import Table
from workers import workers

PROCESSES = 4
BURST = 100
FAST = Load(rate=1000, seconds=1, burst=BURST, window=AMPLE.window)
FAST_CALLS = 2000


def at_once(crew, server, contender):
    """1,000 calls from 4 processes on a limit of 100 in the hour: 100 may pass."""
    callers = contender.enrol(server.url, exactly(BURST), 2)
    (outcome,) = crew.run(contender, server, exactly(BURST), callers, PROCESSES, 10 * BURST)
    return {"admitted": outcome.admitted, "least": BURST, "most": BURST}


def flat_out(_crew, server, contender):
    """2,000 calls one after another on 1,000/s with a burst of 100: the burst, and what the time of the calls refills.

    The server evaluates the first call after it is sent and the last one before its answer is here, so the time
    between is known within two bounds, and with it what is exact. Only for limiters that promise a bucket.
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


def denied_costs(_crew, server, contender):
    """Of 10 units 8 are used, 5 are asked for and denied, then 1 and 1: a denial consumes nothing, so 10 are used."""
    (caller,) = contender.enrol(server.url, exactly(10), 1)
    with contender.connect(server.url, exactly(10)) as call:
        used = sum(cost for cost in (1,) * 8 + (5,) + (1,) * 3 if call(caller, cost))
    return {"admitted": used, "least": 10, "most": 10}


SCENARIOS = {"burst of 100, 4 processes": at_once, "1,000/s, burst 100": flat_out, "denied cost of 5": denied_costs}


def measure(full=False):
    contenders = [ours.CHECK, ours.LEASED]
    contenders += peers.ALL if full else [*peers.MAIN, peers.THROTTLED_FIXED]
    found = []
    with (
        host.placed_server(host.MAIN, host.FREE) as server,
        workers(PROCESSES) as crew,
        steps("exactness", len(contenders) * len(SCENARIOS)) as tell,
    ):
        for contender in contenders:
            for name, scenario in SCENARIOS.items():
                tell(f"{contender.name}: {name}")
                with server.client() as client:
                    client.flushall()
                outcome = scenario(crew, server, contender)
                if outcome is not None:
                    if not contender.exact:
                        outcome["least"] = 0
                    found.append({"contender": contender.name, "scenario": name, **outcome})
    return found


def over(outcome):
    """How many were admitted that should not have been; below 0 for those that should have been and were not."""
    return max(0, outcome["admitted"] - outcome["most"]) or min(0, outcome["admitted"] - outcome["least"])


def figures(found):
    mine = [outcome for outcome in found if outcome["contender"] == ours.CHECK.name]
    wrong = sum(abs(over(outcome)) for outcome in mine)
    yield Figure(f"{host.MAIN}: checks wrongly admitted or denied", wrong, "checks", target=0)
    leased = [outcome for outcome in found if outcome["contender"] == ours.LEASED.name]
    if leased:
        beyond = sum(over(outcome) for outcome in leased)
        yield Figure(f"{host.MAIN}: leased checks admitted beyond the plan", beyond, "checks", target=0)


def tables(found):
    table = Table(title=f"admitted, and the exact maximum ({host.MAIN})", title_justify="left")
    table.add_column("contender")
    for name in SCENARIOS:
        table.add_column(name, justify="right")
    for contender in dict.fromkeys(outcome["contender"] for outcome in found):
        outcomes = {o["scenario"]: o for o in found if o["contender"] == contender}
        table.add_row(contender, *(_cell(outcomes.get(name)) for name in SCENARIOS))
    yield table


def _cell(outcome):
    if outcome is None:
        return "no bucket"
    wrong = over(outcome)
    said = "[green]exact" if not wrong else f"[red]{abs(wrong):,} {'too many' if wrong > 0 else 'too few'}"
    return f"{outcome['admitted']:,} of {outcome['most']:,}  {said}"


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
