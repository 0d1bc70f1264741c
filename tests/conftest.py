"""Fixtures: real servers, an emulated one, a clock that is moved by hand, processes. Where tests are:

unit          what needs no server: models, documents, names, headers; the repository itself (structure, packaging)
engine        one check: limits, denials, leases, the denial cache, the conformance matrix; blocking and asyncio
store         talking to Redis: connections, batches, pushes, faults, permissions, secrets
catalog       what administrators do: plans, keys, usage, alerts, shadows, import and export, upgrades
cli           the command line
lua           the scripts, called by hand, and their text
cluster       servers with slots, and clusters of 3 primaries and 3 replicas: `make test-cluster`
properties    the promises, random histories against the exact model, fuzzing, two versions side by side
seeded_bugs   bugs put in on purpose, each of which a test must find; mutants: every small change of the Lua
integrations  frameworks in front of a limiter, over real sockets, and metrics: `make test-integrations`
chaos         faults put into servers, networks and clocks under load, and the checker of what was decided: `make chaos`
apps          real web servers in front of a limiter: `make test-servers`
vectors       lua/vectors.json: worked out on paper, replayed on every server
typing        users' code that must type-check
helpers       what tests share: servers, replicas, snapshots, proxies, samples

A test that claims something about Redis takes `server` and so runs on each real server; `backend` adds fakeredis.
`--server valkey` runs on one of them. Tests marked `slow` are left to `make test-long`; so is most of what runs on
fakeredis, and what takes long on a second server. Tests marked `cluster` are left to
`make test-cluster`.
"""

import gc
import signal
import warnings
from dataclasses import dataclass

import fakeredis
import pytest
import pytest_asyncio
from helpers import servers
from helpers.batching import open_batcher
from helpers.clock import FakeClock
from helpers.processes import pool_of_processes
from hypothesis import HealthCheck, settings

from ratelimit import Limiter
from ratelimit.store import resp

# Nothing is timed: on a busy machine an example may take any time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

NEED_A_SERVER = {"backend", "own_cluster", "patient_cluster", "running", "started"}
"""Fixtures behind which there is a server; `server`, `valkey`, `limiter`, `client` and `slots` use them."""
NEED_A_CLUSTER = {"cluster", "own_cluster", "patient_cluster", "valkey_cluster"}
"""Fixtures that are a whole cluster."""


LATER = {
    "test_acl.py",
    "test_alerts.py",
    "test_bounded_readers.py",
    "test_breaker_rules.py",
    "test_capacity_aio.py",
    "test_catalog_races.py",
    "test_check_many.py",
    "test_connections.py",
    "test_control_plane.py",
    "test_control_plane_edges.py",
    "test_deadline.py",
    "test_denial_cache_seeded.py",
    "test_doctor.py",
    "test_doctor_failover.py",
    "test_durable_changes.py",
    "test_embedded.py",
    "test_endpoint_aio.py",
    "test_every_command.py",
    "test_failover.py",
    "test_fuzz.py",
    "test_gather.py",
    "test_import.py",
    "test_import_races.py",
    "test_installation.py",
    "test_journal.py",
    "test_journal_model.py",
    "test_leases_faults.py",
    "test_leases_lost.py",
    "test_local_bound.py",
    "test_look_ups.py",
    "test_loops_that_end.py",
    "test_lost_leases.py",
    "test_many_at_once.py",
    "test_metering.py",
    "test_migrate.py",
    "test_outcomes.py",
    "test_primary.py",
    "test_push.py",
    "test_pytest_plugin.py",
    "test_refused_without_redis.py",
    "test_renewed_credentials.py",
    "test_repair.py",
    "test_replicas.py",
    "test_revoking_on_ill_servers.py",
    "test_secrets.py",
    "test_seeded_bugs.py",
    "test_shadow.py",
    "test_stopped_server.py",
    "test_transports.py",
    "test_unusable_redis.py",
    "test_usage.py",
    "test_valkey_py.py",
    "test_without_redis.py",
    "test_wrong_deployments.py",
}
"""What takes its time: faults one after the other, histories at length, seeded bugs. It is for `make test-long`."""

ONE_SERVER_EARLY = {
    "cluster",
    "lua",
    "seeded_bugs",
    "store",
    "test_denials.py",
    "test_identities.py",
    "test_properties.py",
}
"""What takes long, and is run by `make test` on the first server alone: on the others by `make test-long`."""


def pytest_addoption(parser):
    servers_ = (*servers.NAMES, "fakeredis")
    parser.addoption("--server", choices=servers_, help="run what is run once for each server on this one alone")


def _is_for_later(item, parameters):
    if item.path.name in LATER:
        return True
    if "fakeredis" in parameters:  # it is no proof
        return True
    return bool({item.path.parent.name, item.path.name} & ONE_SERVER_EARLY and parameters & set(servers.NAMES[1:]))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what needs a server, and leave out what runs on a server that was not asked for."""
    chosen = config.getoption("server")
    others = {*servers.NAMES, "fakeredis"} - {chosen} if chosen else set()
    selected, deselected = [], []
    for item in items:
        if NEED_A_SERVER & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")
        if NEED_A_CLUSTER & set(getattr(item, "fixturenames", ())):
            item.add_marker("cluster")
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if _is_for_later(item, {value for value in parameters if isinstance(value, str)}):
            item.add_marker("slow")
        runs_elsewhere = any(isinstance(value, str) and value in others for value in parameters)
        (deselected if runs_elsewhere else selected).append(item)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = selected


def pytest_configure():
    """Take interrupts even where this runs in the background of a shell: what the tests start inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Keep the collected tests out of Python's garbage collections: each full one walked through them for 0.2 s.

    In that time no check keeps a deadline of 50 ms.
    """
    gc.collect()
    gc.freeze()


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
    """A pool of eight processes, started once."""
    with pool_of_processes() as pool:
        yield pool


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def limiter(backend, clock):
    """A limiter with an injected clock on each backend. What Redis does not decide is 503."""
    client = backend.client()
    with Limiter(client, deadline=5, clock=clock, on_unavailable="closed") as made:
        yield made
    client.close()


@pytest_asyncio.fixture(params=[pytest.param("hiredis", marks=servers.needs_hiredis), "python"])
async def batcher(request, server, monkeypatch):
    """One that is connected, by either reader of replies."""
    if request.param == "python":
        monkeypatch.setattr(resp, "hiredis", None)
    async with open_batcher(server) as made:
        yield made
