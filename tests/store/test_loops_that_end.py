"""One AsyncLimiter answers right in every event loop, and leaves nothing behind in those that have ended."""

import asyncio
import threading
from multiprocessing import get_context

import pytest
from helpers.limiter_twin import client_of
from helpers.loops_worker import DESCRIPTORS, ask_in_many_loops
from helpers.replica import METHOD, STAGE
from helpers.single_plan import ample_limiter, used

from ratelimit import AsyncLimiter


@pytest.fixture
def admin(server):
    with ample_limiter(server) as limiter:
        yield limiter


@pytest.fixture
def key(admin):
    return admin.catalog.create_key(plans=["gold"]).value


def make(server, client):
    if client == "url":
        return AsyncLimiter.from_url(server.url, deadline=5)
    return AsyncLimiter(client_of(client, server.url, is_async=True), deadline=5)


async def statuses(limiter, key, checks):
    decisions = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for _ in range(checks)))
    return [decision.status for decision in decisions]


@pytest.mark.parametrize("client", ["url", "redis", "valkey"])
def test_one_loop_after_the_other(server, admin, key, client):
    """As scripts and tests do: each `asyncio.run` makes a loop and ends it."""
    limiter = make(server, client)
    for _ in range(5):
        assert asyncio.run(statuses(limiter, key, 20)) == [200] * 20
    asyncio.run(limiter.aclose())
    assert used(admin, key) == 100


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="the system does not list descriptors")
def test_loops_that_have_ended_leave_nothing(server, key):
    """No socket, no thread, and no task that was still running, of which asyncio would have said so."""
    with get_context("spawn").Pool(1) as process:  # in this one, others may come and go
        answers, said, warned = process.apply(ask_in_many_loops, (server.url, key, 20))
    assert answers == [200] * 21 * 5
    assert (said, warned) == ([], [])


def test_loops_at_the_same_time(server, admin, key):
    """In eight threads, each with a loop of its own."""
    limiter, answers = make(server, "url"), []

    def thread():
        answers.extend(asyncio.run(statuses(limiter, key, 50)))
        answers.extend(asyncio.run(statuses(limiter, key, 50)))

    threads = [threading.Thread(target=thread) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert answers == [200] * 800
    assert used(admin, key) == 800
    asyncio.run(limiter.aclose())


def test_a_loop_that_is_stopped_in_the_midst(server, admin, key):
    """Checks that a loop did not live to see answered are no trouble to the next one."""
    limiter, unanswered = make(server, "url"), []

    async def leave():
        await statuses(limiter, key, 1)
        unanswered.extend(asyncio.ensure_future(limiter.check(key, STAGE, METHOD)) for _ in range(10))
        await asyncio.sleep(0)

    for _ in range(3):
        asyncio.run(leave())
        assert asyncio.run(statuses(limiter, key, 10)) == [200] * 10
    asyncio.run(limiter.aclose())
    assert 33 <= used(admin, key) <= 63


def test_it_is_closed_in_another_loop(server, key):
    """By who comes last."""
    limiter = make(server, "url")
    assert asyncio.run(statuses(limiter, key, 5)) == [200] * 5
    asyncio.run(limiter.aclose())


def test_changes_are_heard_in_later_loops(server, admin, key):
    """A key that is disabled is refused by the very next check, in a loop that has just begun, too."""
    limiter = make(server, "url")
    (key_id,) = [each.id for each in admin.catalog.keys()]  # noqa: SIM118 - no dict
    for enabled, status in ((True, 200), (False, 403), (True, 200)):
        admin.catalog.update_key(key_id, enabled=enabled)
        if enabled:
            asyncio.run(_until(limiter, key, 200))
        assert asyncio.run(statuses(limiter, key, 3)) == [status] * 3
    asyncio.run(limiter.aclose())


async def _until(limiter, key, status):
    """What widens a key's rights holds once it was pushed."""
    for _ in range(200):
        if await statuses(limiter, key, 1) == [status]:
            return
        await asyncio.sleep(0.01)
