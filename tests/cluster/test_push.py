"""Changes are heard of at any node of a cluster; if that one is gone, at another."""

import time
from contextlib import closing

import pytest
from helpers.cluster import slot_of
from helpers.slot_load import CATALOG_KEY, blocking_executor, count_call
from helpers.waiting import wait_for

from ratelimit.store.clients import client_from_url
from ratelimit.store.pubsub import Listener

CHANNEL = "ratelimit:changes"


class Heard:
    """What a listener was told."""

    def __init__(self):
        self.messages = []

    def on_message(self, message):
        self.messages.append(message)

    def tick(self):
        """Nothing is due."""


@pytest.fixture
def listening(own_cluster):
    """A cluster, what is heard, and the node at which."""
    client = client_from_url(own_cluster.url)
    heard = Heard()
    with closing(blocking_executor(client)) as executor:
        listener = Listener(client, CHANNEL, heard.on_message, heard.tick, executor.finder)
        listener.start()
        wait_for(lambda: heard.messages == [None])
        heard.executor = executor
        yield own_cluster, heard, subscribed_at(own_cluster)
        listener.stop()


def subscribed_at(cluster):
    nodes = [node for node in cluster.running if node.admin.pubsub_numsub(CHANNEL)[0][1]]
    assert len(nodes) == 1
    return nodes[0]


def test_what_any_node_publishes_is_heard(listening):
    cluster, heard, _ = listening
    for number, node in enumerate(cluster.nodes):
        node.admin.publish(CHANNEL, f"plan:{number}")
        wait_for(lambda number=number: heard.messages[-1] == f"plan:{number}")
    assert heard.messages == [None, *(f"plan:{number}" for number in range(len(cluster.nodes)))]


def test_the_node_dies(listening):
    """Another one is listened to, and what was said meanwhile counts as missed."""
    cluster, heard, node = listening
    cluster.kill(node)
    wait_for(lambda: heard.messages[1:] == [None], seconds=3)
    assert subscribed_at(cluster) is not node
    cluster.running[0].admin.publish(CHANNEL, "plan:gold")
    wait_for(lambda: heard.messages[-1] == "plan:gold")


def test_the_node_is_stopped(listening):
    """It says nothing, and its connections stay: noticed the next time that nodes are asked for the topology."""
    cluster, heard, node = listening
    for each in cluster.nodes:
        each.admin.config_set("cluster-node-timeout", 30_000)
    node.pause()
    try:
        wait_for(lambda: heard.messages[1:] == [None], seconds=10)
        other = next(each for each in cluster.nodes if each is not node)
        other.admin.publish(CHANNEL, "plan:gold")
        wait_for(lambda: heard.messages[-1] == "plan:gold")
    finally:
        node.resume()


def test_a_slot_that_moves_moves_nobody(listening):
    """Who listens goes on to, though the topology was asked for at the node that knew better."""
    cluster, heard, node = listening
    slot, source = slot_of(CATALOG_KEY), cluster.node_of(CATALOG_KEY)
    target = next(each for each in cluster.primaries if each not in {node, source})
    assert heard.executor.call(count_call(CATALOG_KEY), time.monotonic()) == 1
    cluster.migrate_slot(slot, target)
    assert heard.executor.call(count_call(CATALOG_KEY), time.monotonic()) == 2
    time.sleep(0.5)
    assert subscribed_at(cluster) is node
    assert heard.messages == [None]
