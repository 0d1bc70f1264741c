"""The first checks of a process, many at once: nobody goes by a catalogue that is not there yet."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from ratelimit import AsyncLimiter, Catalog, Limiter, Method, Quota, Stage, Throttle, UsagePlan

STAGE, OPEN = "petstore/prod", "GET /health"
AT_ONCE = 8


@pytest.fixture
def key(server):
    """A key whose plan opens the stage of a method that needs none."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 5), Quota(100, "DAY"), [STAGE]))
        catalog.put_stage(Stage(STAGE, methods={OPEN: Method(key_required=False)}))
        return catalog.create_key(plans=["gold"])


def open_to_all(decisions):
    return [(decision.status, decision.limits) for decision in decisions] == [(200, ())] * AT_ONCE


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a key"])
def test_tasks_of_a_new_process_find_an_open_method_open(with_key, server, key):
    """All of them, and the plan of the key is not charged."""

    async def run():
        async with AsyncLimiter.from_url(server.url, deadline=10.0) as limiter:
            value = key.value if with_key else None
            return await asyncio.gather(*(limiter.check(value, STAGE, OPEN) for _ in range(AT_ONCE)))

    assert open_to_all(asyncio.run(run()))


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a key"])
def test_threads_of_a_new_process_find_an_open_method_open(with_key, server, key):
    """All of them, in each of ten new processes' limiters."""
    for _ in range(10):
        with Limiter.from_url(server.url, deadline=10.0) as limiter, ThreadPoolExecutor(AT_ONCE) as pool:
            start, value = Barrier(AT_ONCE), key.value if with_key else None

            def check(_, limiter=limiter, start=start, value=value):
                start.wait()
                return limiter.check(value, STAGE, OPEN)

            assert open_to_all(pool.map(check, range(AT_ONCE)))
