"""A cluster of which a node is stopped, dies or is replaced, and whose slots move."""

from helpers.cluster import SHORT_TIMEOUT_MS, slot_of

from chaos.deployments import cluster_of_three
from chaos.run import Scenario
from chaos.scenarios.failover import LOSING_A_SECOND, UNSEEN

CATALOG = "{ratelimit}:catalog"
KEPT = {"lost by other nodes": 0}


def key_name(run, label):
    """The name of a key's hash."""
    return f"ratelimit:{{{run.keys[label].id}}}"


def spare_others(run, node):
    """Note the keys that are on other nodes."""
    cluster = run.deployment.parts["cluster"]
    run.event("spared", keys=[label for label in run.keys if cluster.node_of(key_name(run, label)) is not node])


def _stop(run, node):
    run.steady(run.between(1, 1.5))
    spare_others(run, node)
    with run.fault("SIGSTOP of one node"):
        node.pause()
        run.steady(run.between(1.5, 2.5))
        node.resume()
    run.steady(2)
    run.revoke()
    run.steady(0.7)


def _stop_node_of_a_key(run):
    _stop(run, run.deployment.parts["cluster"].node_of(key_name(run, "bucket")))


def _stop_node_of_the_catalogue(run):
    _stop(run, run.deployment.parts["cluster"].node_of(CATALOG))


def _replace_node_of_a_key(run, fault, replace):
    """A replica takes the place of a key's node, however `replace` brings that about."""
    cluster = run.deployment.parts["cluster"]
    node = cluster.node_of(key_name(run, "bucket"))
    run.steady(run.between(1, 1.5))
    spare_others(run, node)
    with run.fault(fault):
        replace(cluster, node)
    run.revoke_when_possible()
    run.steady(3)


def _node_dies(run):
    def kill(cluster, node):
        cluster.kill(node)
        run.event("crashed")
        cluster.wait_failed_over(node)

    _replace_node_of_a_key(run, "kill -9 of a primary", kill)


def _fail_over(run):
    _replace_node_of_a_key(run, "CLUSTER FAILOVER", lambda cluster, node: cluster.fail_over(node))


def _move_slots(run):
    """The slots of all keys and of the catalogue, to and fro, step by step, each held in the middle for a while."""
    cluster = run.deployment.parts["cluster"]
    run.steady(run.between(1, 1.5))
    run.event("spared", keys=list(run.keys))
    with run.fault("slots move"):
        for _ in range(2):
            for name in [CATALOG, *(key_name(run, label) for label in run.keys)]:
                slot = slot_of(name)
                others = [node for node in cluster.primaries if node is not cluster.owner_of(slot)]
                for _step in cluster.migration(slot, run.random.choice(others), batch=1):
                    run.steady(0.05)
    run.steady(1)
    run.revoke()
    run.steady(0.7)


ALL = (
    Scenario(
        "cluster: a node stops",
        _stop_node_of_a_key,
        "Keys of the other nodes lose nothing.",
        "SIGSTOP of the node of a key, for 1.5 to 2.5 s",
        cluster_of_three(),
        bounds={"": KEPT},
    ),
    Scenario(
        "cluster: the catalogue's node stops",
        _stop_node_of_the_catalogue,
        "Keys of the other nodes lose nothing: they go on by the catalogue that each process has loaded.",
        "SIGSTOP of the catalogue's node, for 1.5 to 2.5 s",
        cluster_of_three(),
        bounds={"": KEPT},
        is_long=True,
    ),
    Scenario(
        "cluster: a primary dies",
        _node_dies,
        "Its keys lose what had not been replicated, which is what a second admits at most; the others lose nothing.",
        "kill -9 of the node of a key; its replica takes over",
        cluster_of_three(SHORT_TIMEOUT_MS),
        bounds={"": LOSING_A_SECOND | KEPT, "local": UNSEEN},
        is_long=True,
    ),
    Scenario(
        "cluster: planned failover",
        _fail_over,
        "Nothing is lost, and nobody who is revoked is admitted.",
        "CLUSTER FAILOVER of the node of a key; a key is revoked at the new primary at once",
        cluster_of_three(),
        bounds={"": KEPT},
        is_long=True,
    ),
    Scenario(
        "cluster: slots move",
        _move_slots,
        "No check fails, and not one unit is off.",
        "the slots of all keys and of the catalogue move to and fro, one key at a time",
        cluster_of_three(),
        bounds={"": KEPT},
        is_long=True,
    ),
)
