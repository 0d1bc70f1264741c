"""Many checks at once on a healthy server: none is refused by the limiter's own making."""

import asyncio
import sys
import time
from collections import Counter

import pytest
from helpers.limiter_twin import TWINS, limiter_twin
from helpers.proxy import distant
from helpers.replica import METHOD, STAGE
from helpers.single_plan import ample_limiter, used

from ratelimit import AsyncLimiter


@pytest.fixture
def limiter(server):
    with ample_limiter(server) as made:
        yield made


@pytest.fixture
def key(limiter):
    return limiter.catalog.create_key(plans=["gold"]).value


TASKS = 10_000
RTT_S = 0.02


@pytest.mark.parametrize("keys", [1, 1000])
def test_ten_thousand_tasks_and_a_server_that_is_far(server, limiter, keys):
    """At 20 ms a round trip, under 250 ms: all are admitted, each is charged once.

    The last is answered within 3 round trips of what they take on a server that is near: one batch after the other
    would take 200 of them. The server's work takes a part of the 250 ms, on a busy machine all: so there are some
    attempts.
    """
    values = [limiter.catalog.create_key(plans=["gold"]).value for _ in range(keys)]

    async def all_at_once(url):
        async with AsyncLimiter.from_url(url, deadline=0.25, on_unavailable="closed") as caller:
            for _ in range(3):  # it meets the keys; after the subscription it reads the catalogue once more
                for first in range(0, keys, 100):
                    peeks = [caller.peek(value, STAGE, METHOD) for value in values[first : first + 100]]
                    assert all(await asyncio.gather(*peeks))
                await asyncio.sleep(0.05)
            checks = [caller.check(values[number % keys], STAGE, METHOD) for number in range(TASKS)]
            began = time.monotonic()
            decisions = await asyncio.gather(*checks)
            return decisions, time.monotonic() - began

    def run(url, seconds):
        """Add what it took to `seconds`, if nobody was refused. Return causes of those who were."""
        before = sum(used(limiter, value) for value in values)
        decisions, took_s = asyncio.run(all_at_once(url))
        refused = [decision.cause for decision in decisions if not decision.allowed]
        counted = sum(used(limiter, value) for value in values) - before
        assert TASKS - len(refused) <= counted <= TASKS - len(refused) + refused.count("unknown")
        if not refused:
            seconds.append(took_s)
        return Counter(refused)

    near_s, far_s, refused = [], [], []
    with distant(server.socket, 0) as near, distant(server.socket, RTT_S) as far:
        for _ in range(8):
            refused += [run(near, near_s), run(far, far_s)]
            if near_s and far_s and min(far_s) <= min(near_s) * 2 + 3 * RTT_S:
                return
    pytest.fail(f"near {near_s}, far {far_s}, refused {refused}")


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("client", ["url", "redis", "valkey"])
def test_sixty_four_callers(server, limiter, key, twin, client):
    """Threads or tasks, 300 checks each, under the deadline of 50 ms that there is by default: none is refused.

    A server that is not scheduled for 50 ms, on a busy machine, does not answer in time: so there are some attempts.
    """
    with limiter_twin(twin, client, server.url, key) as made:
        made.wait_until_healthy()
        for _ in range(5):
            before = used(limiter, key)
            answers = made.at_once(64, times=300)
            refused = [decision for decision, _ in answers if not decision.allowed]
            counted = sum(decision.cause == "unknown" for decision in refused)
            admitted = len(answers) - len(refused)
            assert len(answers) == 64 * 300
            assert before + admitted <= used(limiter, key) <= before + admitted + counted
            if not refused:
                return
            made.wait_until_healthy()
        pytest.fail(f"{len(refused)}, such as {refused[0].cause}: {refused[0].error}")


@pytest.mark.parametrize("twin", TWINS)
def test_more_callers_than_the_pool_has_connections(server, limiter, key, twin):
    """They wait for each other: the server is healthy and the deadline ample."""
    with limiter_twin(twin, "url", f"{server.url}?max_connections=8", key, deadline=5) as made:
        made.wait_until_healthy()
        before = used(limiter, key)
        answers = made.at_once(64, times=30)
        assert all(decision.allowed for decision, _ in answers)
        assert used(limiter, key) == before + 64 * 30


@pytest.mark.parametrize("twin", TWINS)
def test_a_process_that_is_not_scheduled_refuses_nothing(server, limiter, key, twin):
    """A deadline bounds how long Redis is waited for: a process that holds up itself has waited for nothing."""
    with limiter_twin(twin, "url", server.url, key) as made:
        made.wait_until_healthy()

        async def busy():
            checking = asyncio.ensure_future(made.limiter.check(key, STAGE, METHOD))
            await asyncio.sleep(0)  # it is sent
            time.sleep(0.2)  # noqa: ASYNC251 - it holds up its event loop
            return await checking

        if made.is_async:
            assert [made.run(busy()).cause for _ in range(5)] == [None] * 5
        else:
            interval = sys.getswitchinterval()
            sys.setswitchinterval(0.1)  # so that each thread waits for the interpreter longer than its deadline
            try:
                answers = made.at_once(8, times=3)
            finally:
                sys.setswitchinterval(interval)
            assert [decision.cause for decision, _ in answers if not decision.allowed] == []
