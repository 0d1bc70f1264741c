"""A primary dies under load: what is admitted beyond the limits stays within what docs/promises.md publishes.

By the load and the checker of the fault suite (tests/chaos), which has the scenario of a primary whose replica is up to
date. Claims about time are left out, as machines are busy.
"""

import random
from contextlib import contextmanager

import pytest
from chaos.checker import TIMED
from chaos.deployments import MIN_REPLICAS as SETTINGS
from chaos.deployments import Deployment
from chaos.run import Run, Scenario, judge
from chaos.scenarios.cluster import KEPT, key_name, spare_others
from chaos.scenarios.failover import LAG_S, UNEXACT_S, admitted_within, losing
from helpers.cluster import SHORT_TIMEOUT_MS, Cluster, wait_until
from redis.exceptions import ResponseError

MIN_REPLICAS = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
UNTIL_S = LAG_S + UNEXACT_S
"""For so long a primary takes writes that no replica acknowledges, at most."""

pytestmark = pytest.mark.cluster


def broken(scenario, server, folder):
    """Execute a scenario; return the claims that do not hold, and the history."""
    history = Run(scenario, random.randrange(10**6), "closed", server, folder).execute()
    verdicts = judge(scenario, history)
    return [verdict for verdict in verdicts if not verdict.holds and verdict.claim not in TIMED], history


def admitted_by_its_keys(seconds):
    """What keys of the node that died admitted in so many seconds from the begin of the fault."""

    def bound(history):
        spared = {key for event in history.of("spared") for key in event.about["keys"]}
        return sum(admitted_within(seconds, key)(history) for key in history.run["keys"] if key not in spared)

    return bound


@contextmanager
def with_two_replicas(server):
    """Clusters of which each primary refuses writes that no replica acknowledges; no replica comes to another one."""
    options = MIN_REPLICAS | {"cluster_allow_replica_migration": "no"}
    with Cluster(server, replicas=2, node_timeout_ms=SHORT_TIMEOUT_MS, **options) as cluster:
        yield Deployment(cluster.nodes[0], [cluster.url], cluster.client, {"cluster": cluster})


def dies_behind_its_replicas(run):
    """Both replicas of a key's node are cut off for longer than it may go on without them; then it dies."""
    cluster = run.deployment.parts["cluster"]
    node = cluster.node_of(key_name(run, "bucket"))
    spare_others(run, node)
    replicas = cluster.replicas_of(node)
    run.steady(1)
    with run.fault("replicas are cut off, then kill -9 of their primary"):
        for replica in replicas:
            replica.pause()
        node.admin.execute_command("CLIENT", "KILL", "TYPE", "replica")  # else all would be waiting in their sockets
        run.steady(UNTIL_S + 3)
        cluster.kill(node)
        run.event("crashed")
        for replica in replicas:
            replica.resume()
        cluster.wait_failed_over(node)
    run.revoke_when_possible()
    run.steady(2)


BEHIND = Scenario(
    "cluster: a primary dies behind its replicas",
    dies_behind_its_replicas,
    "What it admitted until it stopped to take writes is lost.",
    "both replicas of the node of a key are cut off for 7 s, then kill -9; min-replicas-to-write 1 and max-lag 2",
    with_two_replicas,
    bounds={"": losing(UNTIL_S) | KEPT | {"lost charges": admitted_by_its_keys(UNTIL_S)}},
    policies=("closed",),
)


def test_a_primary_without_replicas_stops_to_admit(tmp_path):
    """With `min-replicas-to-write 1`, `min-replicas-max-lag 2` what may be lost is bounded, however long they lag."""
    verdicts, history = broken(BEHIND, "valkey", tmp_path)
    assert verdicts == []
    begin, end = history.fault
    refused = [check for check in history.checks if check.cause == "refused" and begin < check.sent_us < end]
    assert refused


def test_a_new_primary_needs_a_replica_of_its_own():
    """With one replica each and `min-replicas-to-write 1`, the one that took over takes no writes until one follows."""
    with Cluster("valkey", node_timeout_ms=SHORT_TIMEOUT_MS, **MIN_REPLICAS) as cluster:
        node = cluster.node_of("key")
        (replica,) = cluster.replicas_of(node)
        cluster.kill(node)
        cluster.wait_failed_over(node)
        with pytest.raises(ResponseError, match="NOREPLICAS"):
            replica.admin.set("key", 1)
        follower = cluster.add_node()
        cluster._replicate(follower, replica)
        wait_until(lambda: replica.admin.set("key", 1), "a replica that acknowledges")
