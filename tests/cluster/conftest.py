"""Servers with slots: one that owns all of them, cheap, and clusters of 3 primaries and 3 replicas."""

import pytest
from helpers.administrators import Site
from helpers.cluster import SHORT_TIMEOUT_MS, Cluster, slot_server
from helpers.fake_cluster import FakeCluster
from helpers.key_files import with_plans
from helpers.servers import NAMES

from ratelimit import Catalog


@pytest.fixture(scope="session")
def started():
    """What was started for the session, by kind and name."""
    made = {}
    yield made
    for server in made.values():
        server.stop()


@pytest.fixture(params=NAMES)
def slots(request, started):
    """Each real server in turn that enforces slots behind one address, emptied."""
    key = "slots", request.param
    if key not in started:
        started[key] = slot_server(request.param)
    started[key].admin.flushall()
    started[key].admin.script_flush()
    return started[key]


def shared_cluster(started, name):
    key = "cluster", name
    if key not in started:
        started[key] = Cluster(name)
    started[key].wait_agreed()
    started[key].empty()
    return started[key]


@pytest.fixture(params=["valkey", "redis6"])
def cluster(request, started):
    """A cluster of each server in turn, emptied. A test may move slots and fail over, but kills no node."""
    return shared_cluster(started, request.param)


@pytest.fixture
def valkey_cluster(started):
    """One of these, emptied: for what does not depend on the server."""
    return shared_cluster(started, "valkey")


@pytest.fixture
def own_cluster():
    """A cluster of the test's own, to break: a primary that is silent for a second is replaced."""
    with Cluster("valkey", node_timeout_ms=SHORT_TIMEOUT_MS) as made:
        yield made


@pytest.fixture
def patient_cluster():
    """A cluster of the test's own, on which no primary is replaced."""
    with Cluster("valkey") as made:
        yield made


@pytest.fixture
def valkey_slots(started):
    """One of these, emptied: for what does not depend on the server."""
    key = "slots", "valkey"
    if key not in started:
        started[key] = slot_server("valkey")
    started[key].admin.flushall()
    return started[key]


@pytest.fixture
def plain(request, running):
    """A server without slots, emptied, of the kind of the one with slots: what is dumped here can be restored there."""
    name = request.getfixturevalue("slots").name if "slots" in request.fixturenames else "valkey"
    with running[name].client() as client:
        client.flushall()
    return running[name]


@pytest.fixture
def client(slots):
    """A client of the server with slots, which decodes."""
    with slots.client(decode_responses=True) as made:
        yield made


@pytest.fixture
def catalog(client):
    """A catalogue there, with three plans."""
    return with_plans(Catalog(client))


@pytest.fixture
def site(slots):
    """The server with slots, watched: k1 with value a in plan p, which opens s; q opens t."""
    made = Site(slots)
    yield made
    made.close()


@pytest.fixture
def fakes():
    """Two nodes that answer what a test wants."""
    made = FakeCluster()
    yield made
    made.close()


@pytest.fixture
def first(fakes):
    """The one that owns all slots but one."""
    return fakes.nodes[0]


@pytest.fixture
def second(fakes):
    """The other one."""
    return fakes.nodes[1]
