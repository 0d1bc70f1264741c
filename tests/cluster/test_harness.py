"""The clusters that these tests run on: what they do is what a cluster does."""

import time

import pytest
import redis
from helpers.cluster import slot_of, wait_until
from redis.exceptions import AskError, MovedError


def test_one_server_enforces_slots(slots):
    """Keys of two slots are refused, of one are not, and nobody is sent elsewhere."""
    with slots.client() as client:
        client.mset({"{a}1": "x", "{a}2": "y"})
        with pytest.raises(redis.ResponseError, match=r"(?i)slot"):
            client.mget("a", "b")
        with pytest.raises(redis.ResponseError, match=r"(?i)slot"):
            client.eval("return 1", 2, "a", "b")
        assert [client.set(f"k{number}", number) for number in range(100)] == [True] * 100


def test_all_slots_have_a_primary_with_a_replica(patient_cluster):
    sizes = [last - first + 1 for first, last in patient_cluster.nodes[0].slots()]
    assert sum(sizes) == 16384
    assert max(sizes) - min(sizes) <= 1
    assert [len(patient_cluster.replicas_of(primary)) for primary in patient_cluster.primaries] == [1, 1, 1]


def test_clients_find_every_key(cluster):
    with cluster.client() as client:
        for number in range(60):
            client.set(f"key{number}", number)
    assert sum(cluster.key_count().values()) == 60
    for number in range(60):
        assert cluster.node_of(f"key{number}").admin.get(f"key{number}") == str(number)


def test_a_slot_moves_with_its_keys(patient_cluster):
    """In the middle, absent keys are asked for at the target, and present ones are still served."""
    cluster = patient_cluster
    slot = slot_of("{a}")
    source = cluster.owner_of(slot)
    target = next(node for node in cluster.primaries if node is not source)
    for number in range(25):
        source.admin.set(f"{{a}}{number}", number)
    steps = cluster.migration(slot, target)
    assert [next(steps), next(steps), next(steps)] == ["importing", "migrating", 10]
    with pytest.raises(AskError):
        source.admin.get("{a}none")
    assert sum(source.admin.exists(f"{{a}}{number}") for number in range(25) if _is_here(source, number)) == 15
    assert list(steps) == [10, 5, "assigned"]
    with pytest.raises(MovedError):
        source.admin.get("{a}1")
    assert target.admin.get("{a}1") == "1"
    cluster.migrate_slot(slot, source)
    cluster.wait_agreed()
    assert source.admin.get("{a}24") == "24"


def _is_here(node, number):
    try:
        return node.admin.exists(f"{{a}}{number}")
    except redis.ResponseError:
        return False


def test_a_planned_failover_loses_nothing(cluster):
    primary = cluster.node_of("a")
    primary.admin.set("a", "1")
    replica = cluster.fail_over(primary)
    assert cluster.node_of("a") is replica
    assert replica.admin.get("a") == "1"


def test_a_node_joins_and_leaves(own_cluster):
    node = own_cluster.add_node()
    slot = slot_of("a")
    source = own_cluster.owner_of(slot)
    own_cluster.migrate_slot(slot, node)
    own_cluster.wait_agreed()
    assert own_cluster.node_of("a") is node
    own_cluster.migrate_slot(slot, source)
    own_cluster.wait_agreed()
    own_cluster.remove_node(node)
    assert own_cluster.node_of("a") is source


def test_a_replica_stands_in_for_a_primary_that_dies(own_cluster):
    """Within a few times the node timeout; the other nodes answer meanwhile."""
    dead, other = own_cluster.primaries[:2]
    key = next(f"k{number}" for number in range(1000) if own_cluster.node_of(f"k{number}") is other)
    own_cluster.kill(dead)
    began = time.monotonic()
    assert other.admin.set(key, "1")
    own_cluster.wait_failed_over(dead)
    assert time.monotonic() - began < 10
    assert other.admin.get(key) == "1"


def test_a_stopped_primary_comes_back_as_a_replica(own_cluster):
    stopped = own_cluster.primaries[0]
    stopped.pause()
    own_cluster.wait_failed_over(stopped)
    stopped.resume()
    wait_until(lambda: not stopped.is_primary, "it is a replica")
    own_cluster.wait_agreed()
