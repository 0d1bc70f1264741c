"""Where scenarios run: context managers that yield servers and the ways to them."""

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from helpers.cluster import PATIENT_TIMEOUT_MS, Cluster
from helpers.proxy import Proxy

from chaos.failover import WatchedServers
from chaos.servers import CrashableServer, ServerWithClock

MEMORY = "/dev/shm"


@dataclass
class Deployment:
    """Servers that run.

    server  the first of them
    urls    by which replicas reach Redis, in turn
    client  makes an administrator's client of the present primary
    parts   what else a scenario acts on: a proxy, a Sentinel
    cut_off  whether replicas of the first URL can be cut off from all but the first server
    """

    server: CrashableServer
    urls: list[str]
    client: Callable
    parts: dict = field(default_factory=dict)
    cut_off: bool = False

    @property
    def servers(self):
        """All that run."""
        if cluster := self.parts.get("cluster"):
            return cluster.nodes
        watched = self.parts.get("watched")
        return [self.server] if watched is None else list(watched.servers.values())


def one_server(kind=CrashableServer, **options):
    """One server on a Unix socket."""

    @contextmanager
    def deploy(name):
        server = kind(name, **options)
        try:
            yield Deployment(server, [server.url], server.client)
        finally:
            server.stop()

    return deploy


def with_log(policy):
    """One server that logs what it writes. Its files are in memory, if they can be: how fast a disk is does not matter.

    `policy` is its appendfsync.
    """

    @contextmanager
    def deploy(name):
        with ExitStack() as stack:
            parent = MEMORY if Path(MEMORY).is_dir() else None
            folder = stack.enter_context(TemporaryDirectory(prefix="rl-log-", dir=parent))
            server = one_server(dir=folder, appendonly="yes", appendfsync=policy)
            yield stack.enter_context(server(name))

    return deploy


direct = one_server()
with_clock = one_server(ServerWithClock)


@contextmanager
def proxied(name):
    """One server behind a proxy that spoils replies."""
    server = CrashableServer(name)
    try:
        with Proxy(server.socket) as proxy:
            yield Deployment(server, [proxy.url], server.client, {"proxy": proxy})
    finally:
        server.stop()


MIN_REPLICAS = {"min-replicas-to-write": 1, "min-replicas-max-lag": 2}


def watched(settings, *, on_both_sides=False):
    """A primary, two replicas and a Sentinel; `settings` are those of all servers.

    With `on_both_sides`, every other process is on the primary's side of the network.
    """

    @contextmanager
    def deploy(name):
        with WatchedServers(name, settings) as servers:
            urls = servers.urls if on_both_sides else servers.urls[1:]
            yield Deployment(
                servers.primary,
                urls,
                lambda: servers.named.client(),  # noqa: PLW0108 - another server each time
                {"watched": servers},
                on_both_sides,
            )

    return deploy


def cluster_of_three(node_timeout_ms=PATIENT_TIMEOUT_MS):
    """Three primaries with a replica each; a primary that is silent for so long is replaced."""

    @contextmanager
    def deploy(name):
        with Cluster(name, node_timeout_ms=node_timeout_ms) as cluster:
            yield Deployment(cluster.nodes[0], [cluster.url], cluster.client, {"cluster": cluster})

    return deploy
