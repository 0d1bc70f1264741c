"""One AsyncLimiter answers right in every event loop, and leaves nothing behind in those that have ended."""

import asyncio
import contextlib
import gc
import threading
import warnings
from pathlib import Path

import pytest
from helpers.limiter_twin import client_of
from helpers.replica import METHOD, STAGE
from helpers.waiting import wait_for

from ratelimit import AsyncLimiter, Limiter, Quota, Throttle, UsagePlan

LIMIT = 1_000_000
DESCRIPTORS = Path("/proc/self/fd")
needs_descriptors = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="the system does not list descriptors")


@pytest.fixture
def admin(server):
    with server.client() as client, Limiter(client, denial_cache=False, deadline=5) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, LIMIT), Quota(LIMIT, "DAY"), [STAGE]))
        yield limiter


@pytest.fixture
def key(admin):
    return admin.catalog.create_key(plans=["gold"]).value


def used(admin, key):
    return LIMIT - admin.peek(key, STAGE, METHOD).limits[1].remaining


def sockets():
    """How many descriptors of this process are sockets."""
    gc.collect()
    links = []
    for descriptor in DESCRIPTORS.iterdir():
        with contextlib.suppress(OSError):  # that of the listing has gone
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


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


@needs_descriptors
def test_loops_that_have_ended_leave_nothing(server, admin, key):
    """No socket, no thread, and no task that was still running, of which asyncio would have said so."""
    limiter = make(server, "url")
    said = []

    async def ask():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
        return await statuses(limiter, key, 5)

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ResourceWarning)
        assert asyncio.run(ask()) == [200] * 5
        before, threads = sockets(), threading.active_count()
        for _ in range(20):
            assert asyncio.run(ask()) == [200] * 5
        wait_for(lambda: sockets() <= before)
        assert threading.active_count() <= threads
        asyncio.run(limiter.aclose())
        gc.collect()
    assert said == []
    assert [str(each.message) for each in warned if issubclass(each.category, ResourceWarning)] == []


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
