"""A cluster over TLS, whose nodes announce a host name. Proxies end TLS, as the servers from wheels are without it."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.cluster import Cluster, wait_until
from helpers.limiter_twin import TWINS
from helpers.ports import BUS_OFFSET
from helpers.replica import METHOD, STAGE
from helpers.tls_proxy import TlsProxy
from helpers.twins import RunningLimiter

from ratelimit import Catalog, Quota, Throttle, UsagePlan
from ratelimit.registry.redis_keys import RedisKeys

pytestmark = pytest.mark.cluster


@dataclass
class Encrypted:
    """A cluster whose nodes announce the proxies that end TLS; keys of all nodes, and a file of all authorities."""

    cluster: Cluster
    proxies: list
    keys: list
    authorities: Path

    def limiter(self, twin, authorities):
        """One that trusts the authorities in a file."""
        url = f"rediss://localhost:{self.proxies[0].port}?cluster=true&ssl_ca_certs={authorities}"
        options = {"deadline": 1, "on_unavailable": "closed", "denial_cache": False}
        return RunningLimiter(lambda kind: kind.from_url(url, **options), twin == "asyncio")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """Each node can be reached by TLS at localhost."""
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster("valkey", replicas=0))
        with cluster.client() as client:
            catalog = Catalog(client)
            catalog.put_plan(UsagePlan("gold", Throttle(10**5, 10**6), Quota(10**9, "DAY"), [STAGE]))
            keys = [catalog.create_key(plans=["gold"]) for _ in range(20)]
        proxies = [stack.enter_context(TlsProxy(node.socket, tmp_path_factory.mktemp("tls"))) for node in cluster.nodes]
        authorities = tmp_path_factory.mktemp("tls") / "authorities.pem"
        authorities.write_text("".join(Path(proxy.authority).read_text() for proxy in proxies))
        for node, proxy in zip(cluster.nodes, proxies, strict=True):
            node.admin.config_set("cluster-announce-hostname", "localhost")
            node.admin.config_set("cluster-preferred-endpoint-type", "hostname")
            node.admin.config_set("cluster-announce-bus-port", node.port + BUS_OFFSET)
            node.admin.config_set("cluster-announce-port", proxy.port)
        ports = {proxy.port for proxy in proxies}
        wait_until(lambda: all(announced(node) == ports for node in cluster.nodes), "all name the ends of TLS")
        yield Encrypted(cluster, proxies, keys, authorities)


def announced(node):
    """The ports under which a node names the owners of slots; those of localhost alone."""
    owners = [owner for _, _, owner, *_ in node.admin.execute_command("CLUSTER", "SLOTS")]
    return {owner[1] for owner in owners if owner[0] == "localhost"}


@pytest.mark.parametrize("twin", TWINS)
def test_keys_of_all_nodes_are_checked(encrypted, twin):
    """Certificates are valid for the host that nodes announce, and so verified."""
    cluster, keys = encrypted.cluster, encrypted.keys
    before = {node: connections(node) for node in cluster.nodes}
    with encrypted.limiter(twin, encrypted.authorities) as limiter:
        decisions = [limiter.check(key.value, STAGE, METHOD) for key in keys for _ in range(2)]
        assert {(decision.status, decision.source) for decision in decisions} == {(200, "redis")}
        assert {node_of(cluster, key) for key in keys} == set(cluster.nodes)
        assert all(connections(node) > before[node] for node in cluster.nodes)


@pytest.mark.parametrize("twin", TWINS)
def test_a_node_of_another_authority_is_not_used(encrypted, twin):
    """Its keys are 503, and the error says why."""
    cluster = encrypted.cluster
    key = next(key for key in encrypted.keys if node_of(cluster, key) is cluster.nodes[1])
    with encrypted.limiter(twin, encrypted.proxies[0].authority) as limiter:
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.status, decision.cause) == (503, "not_sent")
        assert "certificate verify failed" in decision.error


def node_of(cluster, key):
    return cluster.node_of(RedisKeys("ratelimit").key_hash(key.id))


def connections(node):
    return int(node.admin.info("stats")["total_connections_received"])
