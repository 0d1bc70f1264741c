"""The clients of both twins: which are refused, who closes them, and who may share them."""

import asyncio
import multiprocessing
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
import valkey
from helpers.gateway import GET_PETS, A

from ratelimit import AsyncCatalog, AsyncLimiter, Catalog, ConfigError, Limiter, Throttle, UsagePlan

NOWHERE = {"unix_socket_path": "/nowhere/redis.sock"}
BLOCKING, AWAITED = (Limiter, Catalog), (AsyncLimiter, AsyncCatalog)


@pytest.mark.parametrize(
    ("kinds", "client"),
    [
        (AWAITED, redis.RedisCluster),
        (BLOCKING, redis.asyncio.RedisCluster),
        (AWAITED, valkey.ValkeyCluster),
        (BLOCKING, valkey.asyncio.ValkeyCluster),
    ],
    ids=["redis", "redis.asyncio", "valkey", "valkey.asyncio"],
)
def test_a_cluster_client_of_the_wrong_kind_is_refused(kinds, client):
    made = client.__new__(client)  # never connected: it is refused for what it is
    for kind in kinds:
        with pytest.raises(ConfigError, match=rf"not a \S+\.{client.__name__}$") as caught:
            kind(made)
        assert caught.value.field == "client"


@pytest.mark.parametrize("kind", [*BLOCKING, *AWAITED])
def test_a_client_of_the_wrong_kind_is_refused(kind):
    """Anything but a client of the twin's own kind is refused, and the right ones named."""
    blocking, awaited = (redis.Redis, valkey.Valkey), (redis.asyncio.Redis, valkey.asyncio.Valkey)
    right, others, way = (blocking, awaited, "") if kind in BLOCKING else (awaited, blocking, ".asyncio")
    wrong = {
        None: "NoneType",
        "redis://localhost": "str",
        right[0]: "class",
        right[0](**NOWHERE).connection_pool: f"redis{way}.connection.ConnectionPool",
        others[0](**NOWHERE): f"redis{'' if way else '.asyncio'}.client.Redis",
        others[1](**NOWHERE): f"valkey{'' if way else '.asyncio'}.client.Valkey",
    }
    for client, name in wrong.items():
        with pytest.raises(ConfigError) as caught:
            kind(client)
        accepted = f"redis{way}.Redis or valkey{way}.Valkey, or a RedisCluster or ValkeyCluster of theirs"
        assert str(caught.value) == f"client: must be a {accepted}, not a {name}"


def connections(client):
    """The ids of all connections of a server."""
    return {int(entry["id"]) for entry in client.client_list()}


def assert_soon(condition):
    """A server notices that a connection was closed a moment later: wait for it, at most two seconds."""
    deadline = time.monotonic() + 2
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_client_passed_in_stays_open(server):
    """Closing a limiter, twice even, leaves the connection of another's client as it was."""
    with server.client() as admin, server.client(single_connection_client=True) as client:
        mine = client.client_id()
        with Limiter(client) as limiter:
            limiter.check(None, *GET_PETS)
        limiter.close()
        assert client.client_id() == mine
        assert mine in connections(admin)


@pytest.mark.asyncio
async def test_a_client_passed_in_stays_open_asyncio(server):
    """The same for the twin."""
    with server.client() as admin:
        async with server.async_client() as client, client.client() as held:
            mine = await held.client_id()
            async with AsyncLimiter(client, deadline=5.0) as limiter:
                await limiter.check(None, *GET_PETS)
            await limiter.aclose()
            assert mine in connections(admin)
            assert await client.ping()


class Oops(Exception):  # noqa: N818
    pass


def test_from_url_closes_what_it_opened(server):
    """Leaving `with`, here by an exception, closes every connection; closing again does nothing."""
    with server.client() as admin:
        before = connections(admin)

        def use(limiter):
            with limiter:
                limiter.check(None, *GET_PETS)
                assert connections(admin) > before
                raise Oops

        limiter = Limiter.from_url(server.url, deadline=5)
        with pytest.raises(Oops):
            use(limiter)
        assert_soon(lambda: connections(admin) == before)
        limiter.close()


@pytest.mark.asyncio
async def test_from_url_closes_what_it_opened_asyncio(server):
    """The same for the twin."""
    with server.client() as admin:
        before = connections(admin)

        async def use(limiter):
            async with limiter:
                await limiter.check(None, *GET_PETS)
                assert connections(admin) > before
                raise Oops

        limiter = AsyncLimiter.from_url(server.url, deadline=5)
        with pytest.raises(Oops):
            await use(limiter)
        assert_soon(lambda: connections(admin) == before)
        await limiter.aclose()


@pytest.mark.asyncio
async def test_closing_at_any_moment_ends(server):
    """However far the listening for changes has come, `aclose` ends it."""
    async with server.async_client() as client:
        for ticks in range(24):
            limiter = AsyncLimiter(client, deadline=5.0)
            await limiter.check(None, *GET_PETS)
            for _ in range(ticks):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await limiter.aclose()


def folder_is_there(url):
    return Path(url.removeprefix("unix://")).parent.exists()


def test_an_embedded_server_goes_with_its_limiter():
    """It serves others too, by its URL; nothing is left of it when its limiter is closed."""
    with Limiter.embedded() as limiter:
        url = limiter.url
        with Limiter.from_url(url, deadline=5) as neighbour:
            assert neighbour.check(None, *GET_PETS).cause == "lost"
        assert limiter.check(None, *GET_PETS).cause == "lost"
        assert folder_is_there(url)
    assert limiter.url is None
    assert not folder_is_there(url)
    limiter.close()


@pytest.mark.asyncio
async def test_an_embedded_server_goes_with_its_limiter_asyncio():
    """The same for the twin."""
    async with AsyncLimiter.embedded() as limiter:
        url = limiter.url
        assert (await limiter.check(None, *GET_PETS)).cause == "lost"
        assert folder_is_there(url)
    assert limiter.url is None
    assert not folder_is_there(url)
    await limiter.aclose()


BURST, CALLERS, EACH = 100, 16, 10


def with_key(client, clock):
    """A limiter, and the value of a key that may do a burst of calls and no more: the clock stands still."""
    limiter = Limiter(client, clock=clock)
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, BURST), stages=[A]))
    return limiter, limiter.catalog.create_key(plans=["gold"]).value


def remainders(decisions):
    """What each admitted call was told is left. Every number once: no call got another's answer, none counted twice."""
    return sorted(decision.limits[0].remaining for decision in decisions if decision)


def test_threads_share_a_limiter(server, clock):
    """Sixteen threads with one limiter: exactly the burst is admitted, and each reply goes to who asked."""
    with server.client() as client, ThreadPoolExecutor(CALLERS) as pool:
        limiter, value = with_key(client, clock)
        start = threading.Barrier(CALLERS)

        def caller(_):
            start.wait()
            return [limiter.check(value, *GET_PETS) for _ in range(EACH)]

        with limiter:
            decisions = [decision for made in pool.map(caller, range(CALLERS)) for decision in made]
    assert len(decisions) == CALLERS * EACH
    assert remainders(decisions) == list(range(BURST))


@pytest.mark.asyncio
async def test_tasks_share_a_limiter(server, clock):
    """Sixteen tasks with one twin: the same."""
    with server.client() as client:
        limiter, value = with_key(client, clock)
        limiter.close()
    async with server.async_client() as client, AsyncLimiter(client, clock=clock, deadline=5) as twin:

        async def caller():
            return [await twin.check(value, *GET_PETS) for _ in range(EACH)]

        made = await asyncio.gather(*(caller() for _ in range(CALLERS)))
    assert remainders([decision for each in made for decision in each]) == list(range(BURST))


def test_a_limiter_goes_on_after_a_fork(server, clock):
    """Parent and children use the limiter that was made, and used, before the fork: no reply goes to the wrong one."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()

    def child(limiter, value):
        results.put([limiter.check(value, *GET_PETS) for _ in range(2 * EACH)])

    with server.client() as client:
        limiter, value = with_key(client, clock)
        with limiter:
            decisions = [limiter.check(value, *GET_PETS)]
            children = [fork.Process(target=child, args=(limiter, value)) for _ in range(3)]
            with warnings.catch_warnings():
                # From Python 3.12 on: gateways that load an application before they fork do this all the same.
                warnings.simplefilter("ignore", DeprecationWarning)
                for each in children:
                    each.start()
            decisions += [limiter.check(value, *GET_PETS) for _ in range(BURST)]
            for _ in children:
                decisions += results.get()
            for each in children:
                each.join(10)
            assert [each.exitcode for each in children] == [0, 0, 0]
    assert remainders(decisions) == list(range(BURST))
