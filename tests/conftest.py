"""Fixtures: real servers, an emulated one, a clock that is told the time, and a gateway with two plans.

Every test that claims something about Redis takes `server` and so runs on each real server. `backend` adds fakeredis.
"""

import signal
import warnings
from dataclasses import dataclass
from multiprocessing import get_context

import fakeredis
import pytest
import pytest_asyncio
from helpers import servers
from helpers.batching import echo
from helpers.clock import FakeClock
from helpers.processes import PROCESSES

from ratelimit import Limiter
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.aio.pipeline import factory


def pytest_configure():
    """Take interrupts even where this runs in the background of a shell: what the tests start inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    system = servers.SYSTEM_REDIS or "none on this machine, so not tested on"
    return [f"servers: {', '.join(servers.NAMES)} (the system's redis-server: {system})"]


@dataclass
class Backend:
    """A place to run on: `client()` and `async_client()` make clients, all of the same server."""

    name: str
    client: object
    async_client: object
    server: servers.Server | None = None


@pytest.fixture(scope="session")
def running():
    """All real servers, started once."""
    started = {name: servers.Server(name) for name in servers.NAMES}
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture(params=servers.NAMES)
def server(request, running):
    """Each real server in turn, emptied."""
    chosen = running[request.param]
    with chosen.client() as client:
        client.flushall()
        client.script_flush()
    return chosen


@pytest.fixture(params=[*servers.NAMES, "fakeredis"])
def backend(request):
    """Each real server in turn, emptied, and fakeredis."""
    if request.param == "fakeredis":
        fake = fakeredis.FakeServer()
        with warnings.catch_warnings():
            return Backend(
                "fakeredis",
                lambda **options: fakeredis.FakeRedis(server=fake, **options),
                lambda **options: fakeredis.FakeAsyncRedis(server=fake, **options),
            )
    chosen = request.getfixturevalue("running")[request.param]
    with chosen.client() as client:
        client.flushall()
    return Backend(chosen.name, chosen.client, chosen.async_client, chosen)


@pytest.fixture
def valkey(running):
    """One real server, emptied: for what does not depend on the server."""
    chosen = running["valkey"]
    with chosen.client() as client:
        client.flushall()
    return chosen


@pytest.fixture
def client(backend):
    """A client of the backend."""
    with backend.client() as made:
        yield made


@pytest.fixture(scope="session")
def processes():
    """A pool of eight processes, started once. Spawned: they share nothing with this one."""
    with get_context("spawn").Pool(PROCESSES) as pool:
        yield pool  # and ended with the block, also those that would wait for ever


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def limiter(backend, clock):
    """A limiter with an injected clock on each backend."""
    client = backend.client()
    with Limiter(client, clock=clock) as made:
        yield made
    client.close()


@pytest_asyncio.fixture(params=["direct", "through redis-py"])
async def batcher(request, server, monkeypatch):
    """One on a pool of a single connection, by either way of reading."""
    if request.param != "direct":
        monkeypatch.setattr(factory, "reader_for", lambda _: None)
    async with server.async_client(max_connections=1) as client:
        made = CheckBatcher(client.connection_pool)
        assert await made.call(echo(1)) == 1
        yield made
        await made.close()
        assert await client.echo("mine") == b"mine"  # the connection came back, and owes nobody a reply
