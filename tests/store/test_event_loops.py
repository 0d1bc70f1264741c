"""One AsyncLimiter in several event loops: at once in threads, one after the other, and what a loop leaves behind."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.paths import ROOT
from helpers.waiting import wait_for

from ratelimit import AsyncCatalog, AsyncLimiter, Limiter, Quota, Throttle, UsagePlan

A, GET = "petstore/prod", "GET /pets"


@pytest.fixture
def key(server):
    with server.client() as client, Limiter(client, deadline=5) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(10_000, "DAY"), [A]))
        yield limiter.catalog.create_key(plans=["gold"]).value


@pytest.fixture
def connections(server):
    """A function that returns how many connections the server has, besides that which asks."""
    with server.client() as admin:
        yield lambda: len(admin.client_list()) - 1


def test_one_after_the_other(server, key, connections, recwarn):
    """Each loop has connections of its own, of which none is left when it ends, and nobody has to close anything."""
    limiter = AsyncLimiter.from_url(server.url, deadline=5)
    before = connections()

    async def checks(number):
        decisions = await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(number)))
        plans = await limiter.catalog.plans()
        return [decision.allowed for decision in decisions], len(plans)

    for number in (1, 100, 3):
        assert asyncio.run(checks(number)) == ([True] * number, 1)
        wait_for(lambda: connections() == before)
    asyncio.run(limiter.aclose())
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_at_once_in_threads(server, key, connections):
    """Each check is answered in its own loop, and counted once."""
    limiter, before = AsyncLimiter.from_url(server.url, deadline=20), connections()
    start = threading.Barrier(4)

    async def checks():
        start.wait()
        for _ in range(10):
            decisions = await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(20)))
            assert all(decision.allowed for decision in decisions)

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(asyncio.run, checks()) for _ in range(4)]:
            each.result()
    with server.client() as client, Limiter(client, deadline=5) as other:
        assert other.peek(key, A, GET).limits[1].remaining == 10_000 - 4 * 10 * 20
    wait_for(lambda: connections() == before)
    asyncio.run(limiter.aclose())


def test_each_loop_hears_of_changes(server, key, connections):
    """A loop that finds the catalogue loaded subscribes as well: the one that loaded it may have ended."""
    limiter = AsyncLimiter.from_url(server.url, deadline=5, max_age=1e6)

    async def burst(number):
        async with asyncio.timeout(10):
            while (await limiter.peek(key, A, GET)).limits[0].limit != number:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.002)

    async def listen():
        with server.client() as client:
            for _ in range(2):  # the confirmation of the subscription has the next check look once more
                assert (await limiter.check(key, A, GET)).allowed
                await asyncio.to_thread(wait_for, lambda: client.pubsub_numsub("ratelimit:changes")[0][1] == 1)
                await asyncio.sleep(0.05)
        assert limiter._namespace.loaded_us is not None

    async def change_and_wait(number):
        assert (await limiter.check(key, A, GET)).allowed
        with server.client() as client, Limiter(client, deadline=5) as administrator:
            await asyncio.to_thread(wait_for, lambda: client.pubsub_numsub("ratelimit:changes")[0][1] == 1)
            plan = UsagePlan("gold", Throttle(1, number), Quota(10_000, "DAY"), [A])
            await asyncio.to_thread(administrator.catalog.put_plan, plan)
            await burst(number)

    asyncio.run(listen())
    asyncio.run(change_and_wait(500))
    asyncio.run(limiter.aclose())


def test_closing_closes_what_other_loops_have(server, key, connections):
    """In any loop: one that runs closes its own, one that was closed without notice is cleared up."""
    limiter, before = AsyncLimiter.from_url(server.url, deadline=5), connections()
    limiter._namespace.before_refresh = lambda: None  # Python itself complains of tasks that a closed loop leaves
    running, ended, crude = asyncio.new_event_loop(), asyncio.new_event_loop(), asyncio.new_event_loop()
    thread = threading.Thread(target=running.run_forever)
    thread.start()
    try:
        assert asyncio.run_coroutine_threadsafe(limiter.check(key, A, GET), running).result(10).allowed
        for loop in (ended, crude):
            assert loop.run_until_complete(limiter.check(key, A, GET)).allowed
            loop.run_until_complete(limiter.warm_up())
        crude.close()
        assert connections() > before
        asyncio.run(limiter.aclose())
        # The loop that does not run is asked, and does it when it runs again.
        ended.run_until_complete(asyncio.sleep(0.01))
        wait_for(lambda: connections() == before)
        assert not [task for task in asyncio.all_tasks(running) if task.get_name().startswith("ratelimit")]
    finally:
        running.call_soon_threadsafe(running.stop)
        thread.join()
        running.close()
        ended.close()


def test_a_loop_that_was_closed_without_notice_leaves_no_connection(server, key, connections):
    """The next loop clears up."""
    limiter, before = AsyncLimiter.from_url(server.url, deadline=5), connections()
    limiter._namespace.before_refresh = lambda: None  # Python itself complains of tasks that a closed loop leaves
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(limiter.check(key, A, GET)).allowed
    loop.run_until_complete(limiter.warm_up())
    loop.close()

    async def one_loop_alone():
        assert (await limiter.check(key, A, GET)).allowed
        await limiter.warm_up()
        await asyncio.to_thread(wait_for, lambda: connections() == before + 3)

    asyncio.run(one_loop_alone())
    wait_for(lambda: connections() == before)


def test_a_catalogue_serves_several_loops(server, connections):
    """It has one connection in each."""
    with server.client() as admin:
        before = connections()
        client = server.async_client(max_connections=1)
        catalog = AsyncCatalog(client)
        for number in range(3):
            asyncio.run(catalog.put_plan(UsagePlan(f"plan{number}", None, None, [f"{number}/prod"])))
        wait_for(lambda: connections() == before)
        assert admin.ping()
        asyncio.run(client.aclose())


def test_loops_that_live_for_one_request_are_warned_of(server, key, caplog, monkeypatch):
    """Once, when three have ended young: the blocking limiter serves better there."""
    limiter = AsyncLimiter.from_url(server.url, deadline=5)
    for loops in range(1, 7):
        asyncio.run(limiter.check(key, A, GET))
        said = [record.getMessage() for record in caplog.records if "event loops" in record.getMessage()]
        assert len(said) == (loops >= 3)
    assert "Limiter serves better" in said[0]


def test_loops_that_live_long_are_not_warned_of(server, key, caplog, monkeypatch):
    """Nor is a limiter that is closed in its loop, as often as it may be."""
    limiter = AsyncLimiter.from_url(server.url, deadline=5)

    async def use_and_close():
        await limiter.check(key, A, GET)
        await limiter.aclose()

    for _ in range(4):
        asyncio.run(use_and_close())
    limiter = AsyncLimiter.from_url(server.url, deadline=5)
    right = time.monotonic

    async def use_long():
        await limiter.check(key, A, GET)
        monkeypatch.setattr("ratelimit.store.aio.loops.time.monotonic", lambda: right() + 11)

    for _ in range(4):
        asyncio.run(use_long())
        monkeypatch.undo()
    assert caplog.records == []


QUIET = """
import asyncio, sys
from ratelimit import AsyncLimiter
{setup}
limiter = AsyncLimiter.from_url(sys.argv[1], deadline=5)
async def checks():
    decisions = await asyncio.gather(*(limiter.check("x" * 30, "a/p", "GET /") for _ in "ab"))
    return [decision.status for decision in decisions]
for _ in range(2):
    assert run(checks()) == [403, 403]
async def in_the_middle():
    asyncio.ensure_future(limiter.check("y" * 30, "a/p", "GET /"))
    await asyncio.sleep(0)
run(in_the_middle())
"""


@pytest.mark.parametrize("setup", ["from asyncio import run", "from uvloop import run"], ids=["asyncio", "uvloop"])
def test_nothing_is_said_at_the_end_of_a_loop(server, key, setup):
    """No warning of an unclosed socket or a destroyed task, also where a check is still on its way."""
    pytest.importorskip("uvloop")
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", QUIET.format(setup=setup), server.url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    noise = [line for line in done.stderr.splitlines() if not line.startswith(("Executing <", "3 event loops"))]
    assert (done.returncode, noise) == (0, [])


def test_uvloop(server, key, connections):
    """Checks, changes, pushes and an outage are as on the loop of Python itself."""
    uvloop = pytest.importorskip("uvloop")
    limiter, before = AsyncLimiter.from_url(server.url, deadline=5), connections()

    async def checks():
        await limiter.warm_up()
        decisions = await asyncio.gather(*(limiter.check(key, A, GET) for _ in range(200)))
        with server.client() as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        decisions += [await limiter.check(key, A, GET) for _ in range(3)]
        await limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 2000), Quota(10_000, "DAY"), [A]))
        decisions.append(await limiter.check(key, A, GET))
        return [decision.allowed for decision in decisions], decisions[-1].limits[0].limit

    for _ in range(2):
        assert uvloop.run(checks()) == ([True] * 204, 2000)
        wait_for(lambda: connections() <= before)
