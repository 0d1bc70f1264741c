"""Changes of keys while a node of a real cluster does not answer: what needs it has not been sent, all else is done."""

import json
from contextlib import closing, contextmanager

import pytest
from helpers.deployments import only
from helpers.key_files import with_plans
from helpers.waiting import wait_for

from ratelimit import Catalog, StoreUnavailable
from ratelimit.registry.key_values import generated_value
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.store.clients import client_from_url

NAMES = RedisKeys("ratelimit")
DEADLINE_S = 1
CHANGES = {
    "disable": lambda catalog, key: catalog.update_key(key.id, enabled=False),
    "delete": lambda catalog, key: catalog.delete_key(key.id),
    "rotate": lambda catalog, key: catalog.rotate_key(key.id),
    "rotate with grace": lambda catalog, key: catalog.rotate_key(key.id, grace_s=60),
}


@pytest.fixture
def catalog(valkey_cluster):
    """A catalogue that was loaded, with three plans and keys on all nodes."""
    with closing(client_from_url(valkey_cluster.url, DEADLINE_S)) as client:
        yield with_plans(Catalog(client))


@contextmanager
def silent(node, catalog):
    """Have a node not answer meanwhile, and the catalogue know that it does so again."""
    node.pause()
    try:
        yield
    finally:
        node.resume()
        wait_for(lambda: not catalog._store.breaker_state().is_open)


def value_at(catalog, cluster, is_right):
    """A new value whose claim is on a node that is right."""
    values = iter(generated_value, None)
    return next(each for each in values if is_right(cluster.node_of(NAMES.digest(catalog._namespace.digest(each)))))


def key_elsewhere(catalog, cluster, away):
    """A key whose record and value are not on a node."""
    while True:
        key = catalog.create_key(value=value_at(catalog, cluster, lambda node: node is not away), plans=["gold01"])
        if cluster.node_of(NAMES.key_record(key.id)) is not away:
            return key


@pytest.mark.parametrize("name", CHANGES)
def test_the_key_s_node(valkey_cluster, catalog, name):
    """Nothing but reads was sent: the error says so, and the key is as it was."""
    key = catalog.create_key(plans=["gold01"])
    node = valkey_cluster.node_of(NAMES.key_record(key.id))
    with silent(node, catalog), pytest.raises(StoreUnavailable) as raised:
        CHANGES[name](catalog, key)
    assert raised.value.cause == "not_sent"
    assert catalog.get_key(key.id).revision == key.revision


def test_a_repair(valkey_cluster, catalog):
    """It stops, with a report that says so and what was done until then; again, when all answer, it does the rest."""
    away = next(node for node in valkey_cluster.primaries if node is not valkey_cluster.node_of(NAMES.catalog))
    keys = [key_elsewhere(catalog, valkey_cluster, away) for _ in range(2)]
    with valkey_cluster.client() as client:
        for key in keys:
            client.hset(NAMES.intents, key.id, json.dumps({"token": "x", "touched": [], "digest": ""}))
    with silent(away, catalog):
        report = catalog.doctor(repair=True, deadline=DEADLINE_S)
    assert (report.repair.keys, report.repair.stopped != "") == (2, True)
    finding = only(report, "unfinished")
    assert (finding.severity, report.repair.stopped in finding.message) == ("error", True)
    assert finding.mend.startswith("ratelimit doctor --repair ")
    report = catalog.doctor(repair=True, deadline=DEADLINE_S)
    assert (report.repair.stopped, only(report, "unfinished").severity) == ("", "ok")


def test_a_new_value_s_node(valkey_cluster, catalog):
    """Nothing but reads was sent: the error says so, and the key is as it was."""
    node = valkey_cluster.primaries[0]
    key = key_elsewhere(catalog, valkey_cluster, node)
    value = value_at(catalog, valkey_cluster, lambda each: each is node)
    with silent(node, catalog), pytest.raises(StoreUnavailable) as raised:
        catalog.rotate_key(key.id, value=value)
    assert raised.value.cause == "not_sent"
    assert catalog.get_key(key.id).revision == key.revision


def test_the_catalogue_s_node(valkey_cluster, catalog):
    """A key on other nodes can be disabled, deleted, and given another value, with a grace too."""
    node = valkey_cluster.node_of(NAMES.catalog)
    keys = [key_elsewhere(catalog, valkey_cluster, node) for _ in range(4)]
    values = [value_at(catalog, valkey_cluster, lambda each: each is not node) for _ in range(2)]
    with silent(node, catalog):
        catalog.update_key(keys[0].id, enabled=False)
        catalog.delete_key(keys[1].id)
        catalog.rotate_key(keys[2].id, value=values[0])
        catalog.rotate_key(keys[3].id, value=values[1], grace_s=60)
    assert not catalog.get_key(keys[0].id).enabled
    with valkey_cluster.client() as client:
        ends = [sorted(json.loads(client.get(NAMES.key_record(key.id)))["digests"].values()) for key in keys[2:]]
    seconds, micros = node.admin.time()
    assert ends[0] == [0, 1]
    assert 0 < ends[1][1] / 1e6 - (seconds + micros / 1e6) < 60
