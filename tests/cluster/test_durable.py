"""Durable changes on a cluster: the replicas of the key's own node are waited for, and those alone."""

import pytest
from helpers.agreement import disagreements
from helpers.cluster import Cluster
from helpers.twins import CatalogTwin
from helpers.waiting import wait_for

from ratelimit import Catalog, NotFound, Replication, Throttle, UsagePlan

ONE, NONE = (Replication(acknowledged, 1, has_min_replicas=False) for acknowledged in (1, 0))
RECORD = "ratelimit:{%s}:record"


@pytest.fixture(scope="module", params=["valkey", "redis6"])
def cluster(request):
    with Cluster(request.param, node_timeout_ms=60_000) as made:
        yield made


@pytest.fixture
def client(cluster):
    cluster.empty()
    with cluster.client(decode_responses=True) as made:
        yield made


@pytest.fixture
def key(client):
    catalog = Catalog(client)
    for plan_id in ("gold", "silver"):
        catalog.put_plan(UsagePlan(plan_id, Throttle(1, 5), stages=["a/prod"]))
    return catalog.create_key(plans=["gold"])


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def catalog(cluster, request):
    return CatalogTwin(cluster, request.param)


def test_all_replicas(catalog, key, client, cluster):
    """Each change that revokes reports it, and leaves no more than the same change without waiting."""
    assert catalog.update_key(key.id, enabled=False, durable=True).replication == ONE
    assert client.ttl(RECORD % key.id) == -1
    assert catalog.move_key(key.id, "gold", "silver", durable=True).replication == ONE
    assert catalog.remove_key_from_plan(key.id, "silver", durable=True).replication == ONE
    assert catalog.rotate_key(key.id, durable=True).replication == ONE
    assert disagreements(client) == []
    assert catalog.delete_key(key.id, durable=True) == ONE
    assert 86_000 < client.ttl(RECORD % key.id) <= 86_400
    assert disagreements(client) == []


def test_a_replica_that_does_not_answer(catalog, key, client, cluster):
    """Only that of the key's node counts: the change is made, and not acknowledged."""
    node = cluster.node_of(RECORD % key.id)
    (replica,) = cluster.replicas_of(node)
    others = [other for primary in cluster.primaries if primary is not node for other in cluster.replicas_of(primary)]
    replica.pause()
    try:
        changed = catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=0.2)
        assert (changed.replication, changed.enabled) == (NONE, False)
        assert catalog.delete_key(key.id, durable=True, durable_timeout=0.2) == NONE
    finally:
        replica.resume()
    for other in others:
        other.pause()
    try:
        key = Catalog(client).create_key(plans=["gold"])
        while cluster.node_of(RECORD % key.id) is not node:
            key = Catalog(client).create_key(plans=["gold"])
        wait_for(lambda: node.admin.execute_command("WAIT", 1, 100) == 1)
        assert catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=5).replication == ONE
    finally:
        for other in others:
            other.resume()


def test_no_such_key(catalog, key):
    with pytest.raises(NotFound):
        catalog.update_key("nobody1234", enabled=False, durable=True)


def test_a_server_without_memory(catalog, key, client, cluster):
    """What revokes is carried out, and waited for, also on a node at its `maxmemory`."""
    node = cluster.node_of(RECORD % key.id)
    node.admin.config_set("maxmemory", 1)
    try:
        assert catalog.update_key(key.id, enabled=False, durable=True).replication == ONE
    finally:
        node.admin.config_set("maxmemory", 0)
    assert client.ttl(RECORD % key.id) == -1
