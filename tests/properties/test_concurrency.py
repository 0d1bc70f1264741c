"""Exactness under concurrency: however many processes, threads and tasks ask at once, a limit admits exactly itself."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction

import pytest
from helpers.check_worker import ask
from helpers.processes import PROCESSES
from helpers.replica import METHOD, STAGE

from ratelimit import AsyncLimiter, Catalog, Limiter, Quota, Stage, Throttle, UsagePlan

CALLS = 1000
NEVER_REFILLS = Fraction(1, 10**6)
DEADLINE = 10.0
"""Seconds: many callers on few cores are slow, not failing."""

HUNDRED, PLENTY = Throttle(NEVER_REFILLS, 100), Throttle(NEVER_REFILLS, 5000)
SCENARIOS = {
    "burst": {"plan": (HUNDRED, None)},
    "quota": {"plan": (None, Quota(100, "MONTH"))},
    "shared stage, two keys": {"plan": (PLENTY, None), "stage": HUNDRED, "account": PLENTY, "keys": 2},
    "shared account, two keys": {"plan": (PLENTY, None), "stage": PLENTY, "account": HUNDRED, "keys": 2},
}


def keys_of(server, plan=(None, None), stage=None, account=None, keys=1):
    """Make what is said, and return the keys' values."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", *plan, [STAGE]))
        if stage is not None:
            catalog.put_stage(Stage(STAGE, stage))
        catalog.set_account_throttle(account)
        return [catalog.create_key(plans=["gold"]).value for _ in range(keys)]


@contextmanager
def scripts_flushed(server):
    """Have the server forget its scripts, again and again."""
    stop = threading.Event()

    def flush():
        with server.client() as client:
            while not stop.wait(0.01):
                client.script_flush()

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def asked_by(processes, server, values):
    """Every process asks as often as all others; return all outcomes, counted."""
    tasks = [(server.url, values[at % len(values)], CALLS, PROCESSES) for at in range(PROCESSES)]
    total = {}
    for counts in processes.starmap(ask, tasks, chunksize=1):
        for outcome, count in counts.items():
            total[outcome] = total.get(outcome, 0) + count
    return total


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_processes_share_a_limit_exactly(server, processes, scenario):
    """Of 8 x 1,000 calls by eight processes, exactly the 100 of the limit pass."""
    total = asked_by(processes, server, keys_of(server, **SCENARIOS[scenario]))
    denied = "QUOTA_EXCEEDED" if scenario == "quota" else "THROTTLED"
    assert total == {"ALLOWED": 100, denied: PROCESSES * CALLS - 100}


def test_processes_share_a_limit_exactly_while_scripts_are_forgotten(server, processes):
    """A server that forgets its scripts all the time causes no error, and no other count."""
    values = keys_of(server, **SCENARIOS["burst"])
    with scripts_flushed(server):
        total = asked_by(processes, server, values)
    assert total == {"ALLOWED": 100, "THROTTLED": PROCESSES * CALLS - 100}


def test_threads_share_a_limit_exactly(server):
    """Of 100 threads that ask one limiter at once, 5 pass a limit of 5."""
    (value,) = keys_of(server, plan=(Throttle(NEVER_REFILLS, 5), None))
    together = threading.Barrier(100)

    def once(_):
        together.wait()
        return limiter.check(value, STAGE, METHOD).reason.value

    with Limiter.from_url(server.url, deadline=DEADLINE) as limiter, ThreadPoolExecutor(100) as threads:
        outcomes = list(threads.map(once, range(100)))
    assert (outcomes.count("ALLOWED"), outcomes.count("THROTTLED")) == (5, 95)


def test_tasks_share_a_limit_exactly(server):
    """Of 300 tasks that ask one limiter at once, 5 pass a limit of 5; the next 300 by another limiter all fail."""
    (value,) = keys_of(server, plan=(Throttle(NEVER_REFILLS, 5), None))

    async def all_at_once():
        async with AsyncLimiter.from_url(server.url, deadline=DEADLINE) as limiter:
            decisions = await asyncio.gather(*(limiter.check(value, STAGE, METHOD) for _ in range(300)))
        return [decision.reason.value for decision in decisions]

    for passing in (5, 0):
        outcomes = asyncio.run(all_at_once())
        assert (outcomes.count("ALLOWED"), outcomes.count("THROTTLED")) == (passing, 300 - passing)


def test_tasks_share_a_limit_exactly_while_scripts_are_forgotten(server):
    """The same for tasks, of which each may find its script gone."""
    (value,) = keys_of(server, plan=(Throttle(NEVER_REFILLS, 5), None))

    async def all_at_once():
        async with AsyncLimiter.from_url(server.url, deadline=DEADLINE) as limiter:
            decisions = [limiter.check(value, STAGE, METHOD) for _ in range(300)]
            return [decision.reason.value for decision in await asyncio.gather(*decisions)]

    with scripts_flushed(server):
        outcomes = asyncio.run(all_at_once())
    assert (outcomes.count("ALLOWED"), outcomes.count("THROTTLED")) == (5, 295)
