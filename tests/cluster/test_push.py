"""Changes are pushed by any node of a cluster; if that one is gone, by another."""

import time
from contextlib import closing

import pytest
from helpers.cluster import slot_of
from helpers.slot_load import CATALOG_KEY, blocking_executor, count_call
from helpers.waiting import wait_for

from ratelimit.store.clients import client_from_url
from ratelimit.store.pubsub import Listener

CHANNEL = "ratelimit:changes"


class Received:
    """The messages that a listener passed on."""

    def __init__(self):
        self.messages = []

    def on_message(self, message):
        self.messages.append(message)

    def tick(self):
        """Nothing is due."""


@pytest.fixture
def listening(own_cluster):
    """A cluster, the messages received, and the node that pushes them."""
    client = client_from_url(own_cluster.url)
    received = Received()
    with closing(blocking_executor(client)) as executor:
        listener = Listener(client, CHANNEL, received.on_message, received.tick, executor.finder)
        listener.start()
        wait_for(lambda: received.messages == [None])
        received.executor = executor
        yield own_cluster, received, subscribed_at(own_cluster)
        listener.stop()


def subscribed_at(cluster):
    nodes = [node for node in cluster.running if node.admin.pubsub_numsub(CHANNEL)[0][1]]
    assert len(nodes) == 1
    return nodes[0]


def test_what_any_node_publishes_is_received(listening):
    cluster, received, _ = listening
    for number, node in enumerate(cluster.nodes):
        node.admin.publish(CHANNEL, f"plan:{number}")
        wait_for(lambda number=number: received.messages[-1] == f"plan:{number}")
    assert received.messages == [None, *(f"plan:{number}" for number in range(len(cluster.nodes)))]


def test_the_node_dies(listening):
    """Another one is subscribed at, and what was published meanwhile counts as missed."""
    cluster, received, node = listening
    cluster.kill(node)
    wait_for(lambda: received.messages[1:] == [None], seconds=3)
    assert subscribed_at(cluster) is not node
    cluster.running[0].admin.publish(CHANNEL, "plan:gold")
    wait_for(lambda: received.messages[-1] == "plan:gold")


def test_the_node_is_stopped(listening):
    """It sends nothing, and its connections stay: noticed at the next refresh of the topology."""
    cluster, received, node = listening
    for each in cluster.nodes:
        each.admin.config_set("cluster-node-timeout", 30_000)
    node.pause()
    try:
        wait_for(lambda: received.messages[1:] == [None], seconds=10)
        other = next(each for each in cluster.nodes if each is not node)
        other.admin.publish(CHANNEL, "plan:gold")
        wait_for(lambda: received.messages[-1] == "plan:gold")
    finally:
        node.resume()


def test_a_slot_that_moves_moves_no_subscription(listening):
    """It stays at its node, though the topology was refreshed at the one that a redirection named."""
    cluster, received, node = listening
    slot, source = slot_of(CATALOG_KEY), cluster.node_of(CATALOG_KEY)
    target = next(each for each in cluster.primaries if each not in {node, source})
    assert received.executor.call(count_call(CATALOG_KEY), time.monotonic()) == 1
    cluster.migrate_slot(slot, target)
    assert received.executor.call(count_call(CATALOG_KEY), time.monotonic()) == 2
    time.sleep(0.5)
    assert subscribed_at(cluster) is node
    assert received.messages == [None]
