"""A cluster of three primaries, each under callgrind."""

import contextlib
import sys
import time

import redis

from benchmarks.suite import callgrind, host

sys.path.insert(0, str(host.ROOT / "tests"))

from helpers.cluster import free_port, slot_of

NODES, SLOTS = 3, 16384
PATIENCE_S = 120


class MeteredCluster:
    """Such a cluster.

    Attributes:
        url: For a limiter.
        meters: Of each node.
    """

    def __init__(self, meters, ports):
        self.meters, self._ports = meters, ports
        self.url = f"redis://127.0.0.1:{ports[0]}?cluster=true"

    def form(self):
        """Have nodes meet, each with a third of the slots."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(redis.Redis.from_url(meter.url)) for meter in self.meters]
            for number, client in enumerate(clients):
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                client.execute_command("CLUSTER", "ADDSLOTS", *self._slots(number))
            deadline = time.monotonic() + PATIENCE_S
            while not all(map(_is_complete, clients)):
                if time.monotonic() > deadline:
                    raise RuntimeError("the nodes under valgrind were not a cluster in time")
                for port in self._ports[1:]:
                    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
                time.sleep(1)

    @staticmethod
    def _slots(number):
        return range(SLOTS * number // NODES, SLOTS * (number + 1) // NODES)

    def node_of(self, key):
        """Return the number of the node that owns a key."""
        return next(number for number in range(NODES) if slot_of(key) in self._slots(number))


def _is_complete(client):
    info = client.execute_command("CLUSTER", "INFO")
    lines = info.decode().split() if isinstance(info, bytes) else [f"{name}:{value}" for name, value in info.items()]
    return {"cluster_state:ok", f"cluster_size:{NODES}", f"cluster_slots_ok:{SLOTS}"} <= set(lines)


@contextlib.contextmanager
def metered_cluster(*, server, settings, environment):
    """Yield one on which no node is replaced, however slow it is. See `callgrind.metered`."""
    with contextlib.ExitStack() as stack:
        ports, meters = [], []
        for _ in range(NODES):
            ports.append(free_port())
            words = ("cluster-enabled", "yes"), ("cluster-node-timeout", "60000"), ("bind", "127.0.0.1")
            node = [word for name, value in (*words, ("port", str(ports[-1]))) for word in (f"--{name}", value)]
            metered = callgrind.metered(server=server, settings=(*settings, *node), environment=environment)
            meters.append(stack.enter_context(metered))
        cluster = MeteredCluster(meters, ports)
        cluster.form()
        yield cluster
