"""What real nodes answer that do not serve a key: the table of reactions has it, and a limiter goes by it.

In cluster mode a replica answers MOVED to all that names a key, before it looks whether it may write or has its
primary; READONLY and MASTERDOWN are left for what names none. A node that starts answers CLUSTERDOWN while it loads.
Each server is met by one of the twins: tests with scripted nodes have every answer meet both.
"""

import time
from threading import Thread

import pytest
from helpers.cluster import Cluster, wait_until
from helpers.replica import METHOD, STAGE
from helpers.twins import RunningLimiter
from redis.exceptions import RedisError

from ratelimit import Catalog, Quota, Throttle, UsagePlan
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.store.cluster.reactions import FAIL, reaction_to

WRITE = "EVAL", "return redis.call('INCR', KEYS[1])", 1
READ = "GET"
LARGE, COUNT, EACH_US = 512 * 1024, 60, 30_000
"""Loading so many values takes two seconds; after every two megabytes a node answers who asks meanwhile."""


@pytest.fixture(scope="module", params=["valkey", "redis6"])
def cluster(request):
    """A cluster whose primaries are not replaced, and which the module's tests leave as it was."""
    options = {"enable_debug_command": "yes"} if request.param == "valkey" else {}
    with Cluster(request.param, replica_serve_stale_data="no", rdbcompression="no", **options) as made:
        yield made


@pytest.fixture
def keys(cluster):
    cluster.wait_agreed()
    cluster.empty()
    with cluster.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(10**5, 10**6), Quota(10**9, "DAY"), [STAGE]))
        return [catalog.create_key(plans=["gold"]) for _ in range(20)]


@pytest.fixture
def limiter(cluster, keys):
    """It has met all keys."""
    options = {"deadline": 2, "on_unavailable": "closed", "denial_cache": False}
    with RunningLimiter(lambda kind: kind.from_url(cluster.url, **options), cluster.name == "redis6") as made:
        for key in keys:
            assert made.check(key.value, STAGE, METHOD).allowed
        yield made


def name_of(key):
    return RedisKeys("ratelimit").key_hash(key.id)


def answer(node, *command):
    """The error that a node answers with, code and all; None if it carries the command out."""
    connection = node.admin.connection_pool.get_connection()
    try:
        connection.send_command(*command)
        connection.read_response()
    except RedisError as error:
        # Its class says the code of some, whose message is without it.
        return f"{CODES.get(type(error).__name__, '')}{error}"
    finally:
        node.admin.connection_pool.release(connection)
    return None


CODES = {
    "BusyLoadingError": "LOADING ",
    "ClusterDownError": "CLUSTERDOWN ",
    "MasterDownError": "MASTERDOWN ",
    "MovedError": "MOVED ",
    "ReadOnlyError": "READONLY ",
}


def has_a_reaction(text):
    return reaction_to(text.partition(" ")[0], text, ("127.0.0.1", 1)) != FAIL


def split(cluster, keys, node):
    """Values of keys on a node, and of those on others."""
    on_node = [key.value for key in keys if cluster.node_of(name_of(key)) is node]
    others = [key.value for key in keys if key.value not in on_node]
    assert on_node
    assert others
    return on_node, others


def test_a_node_that_became_a_replica(cluster, keys, limiter):
    """It sends checks on to the one that took over: none is lost. READONLY is for what names no key."""
    node = cluster.node_of(name_of(keys[0]))
    on_node, _ = split(cluster, keys, node)
    successor = cluster.fail_over(node)
    decisions = [limiter.check(value, STAGE, METHOD) for value in on_node for _ in range(3)]
    assert {(decision.status, decision.source) for decision in decisions} == {(200, "redis")}
    for command in ((*WRITE, name_of(keys[0])), (READ, name_of(keys[0]))):
        text = answer(node, *command)
        assert text.startswith("MOVED ")
        assert text.endswith(f" {successor.address}")
    text = answer(node, "FLUSHALL")
    assert text == "READONLY You can't write against a read only replica."
    assert has_a_reaction(text)


def test_a_replica_whose_primary_is_gone(cluster, keys, limiter):
    """With `replica-serve-stale-data no` it refuses what names no key; keys of other nodes go on."""
    node = cluster.node_of(name_of(keys[0]))
    (replica,) = cluster.replicas_of(node)
    replica.admin.config_set("repl-timeout", 1)
    _, others = split(cluster, keys, node)
    node.pause()
    try:
        wait_until(lambda: replica.admin.info("replication")["master_link_status"] == "down", "it misses its primary")
        assert answer(replica, *WRITE, name_of(keys[0])).endswith(f" {node.address}")
        text = answer(replica, "SCAN", 0)
        assert text == "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
        assert has_a_reaction(text)
        assert {limiter.check(value, STAGE, METHOD).status for value in others} == {200}
    finally:
        node.resume()
        replica.admin.config_set("repl-timeout", 60)


def fill(node, key):
    """Write what takes two seconds to load."""
    for number in range(COUNT):
        node.admin.set(f"{name_of(key)}:{number}", b"x" * LARGE)


def assert_felt_by_its_keys_alone(limiter, on_node, others, is_over, code):
    """Until it is over, the keys of a node are 503 with what it answers, and those of others pass; then all pass."""
    errors, end = [], time.monotonic() + 30
    while not is_over():
        assert time.monotonic() < end
        decision = limiter.check(on_node[0], STAGE, METHOD)
        if not decision.allowed:
            errors.append((decision.status, decision.cause, decision.error))
        assert limiter.check(others[0], STAGE, METHOD).allowed
    said = [error for status, cause, error in errors if (status, cause) == (503, "refused")]
    assert any(f"{code} " in error for error in said), errors
    wait_until(lambda: limiter.check(on_node[0], STAGE, METHOD).allowed, "its keys pass again")


def test_a_node_that_loads_its_data(cluster, keys, limiter):
    """LOADING, as after a full synchronization: nothing was carried out, and nobody else has the slot."""
    node = cluster.node_of(name_of(keys[0]))
    on_node, others = split(cluster, keys, node)
    fill(node, keys[0])
    node.admin.config_set("key-load-delay", EACH_US)
    reloading = Thread(target=node.admin.execute_command, args=("DEBUG", "RELOAD"))
    reloading.start()
    try:
        wait_until(lambda: node.admin.info("persistence")["loading"], "it loads")
        text = answer(node, *WRITE, name_of(keys[0]))
        assert text.startswith("LOADING ")
        assert text.endswith(" is loading the dataset in memory")
        assert has_a_reaction(text)
        assert_felt_by_its_keys_alone(limiter, on_node, others, lambda: not reloading.is_alive(), "LOADING")
    finally:
        reloading.join()
        node.admin.config_set("key-load-delay", 0)


def test_a_node_that_starts_again(cluster, keys, limiter):
    """CLUSTERDOWN while it loads, and until it has heard of the others; its keys go on from what it had saved."""
    node = cluster.node_of(name_of(keys[0]))
    on_node, others = split(cluster, keys, node)
    fill(node, keys[0])
    node.admin.save()
    node.kill()
    node.start_again(key_load_delay=EACH_US)
    wait_until(lambda: node.admin.info("persistence")["loading"], "it loads")
    text = answer(node, *WRITE, name_of(keys[0]))
    assert text == "CLUSTERDOWN The cluster is down"
    assert has_a_reaction(text)
    is_well = lambda: node.info()["cluster_state"] == "ok"  # noqa: E731
    assert_felt_by_its_keys_alone(limiter, on_node, others, is_well, "CLUSTERDOWN")
