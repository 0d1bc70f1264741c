"""Servers with slots: one that owns them all, and a cluster of primaries and replicas. All real processes."""

import contextlib
import math
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import cycle, islice
from signal import SIGCONT, SIGSTOP

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from helpers.ports import free_port
from helpers.servers import CLIENT, LIBRARY, Server

PATIENCE_S = 30
FORMING_TIMEOUT_MS, PATIENT_TIMEOUT_MS, SHORT_TIMEOUT_MS = 2000, 15_000, 1000
"""Of a cluster: while nodes meet; where none is to be replaced, however busy the machine is; where one is."""
MANUAL_FAILOVER_S = 6
"""Within so long a replica has taken over, or gives up."""


def slot_of(key):
    return key_slot(key.encode() if isinstance(key, str) else key)


class Node(Server):
    """A server in cluster mode: over its socket for clients of one node, over TCP for the cluster."""

    def __init__(self, name, **options):
        super().__init__(name, port=free_port(), bind="127.0.0.1", cluster_enabled="yes", **options)
        self.admin = redis.Redis(unix_socket_path=self.socket, decode_responses=True)
        """For the tests' own commands, which may take their time."""
        self.id = self.admin.execute_command("CLUSTER", "MYID")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def __repr__(self):
        return f"<{self.name} at {self.address}>"

    def own(self, slots):
        """Take slots that nobody has."""
        self.admin.execute_command("CLUSTER", "ADDSLOTS", *slots)

    def info(self):
        """What the node says of the cluster, as a dict of texts."""
        reply = self.admin.execute_command("CLUSTER", "INFO")
        return reply if isinstance(reply, dict) else dict(line.split(":", 1) for line in reply.split())

    @property
    def has_clients(self):
        """Whether anybody is connected to it but the tests and other nodes: without slots it may replicate one."""
        return any(
            client["addr"].startswith("127.0.0.1:") and not {"M", "S"} & set(client["flags"])
            for client in self.admin.client_list()
        )

    def epochs(self):
        """The last epoch of the cluster that the node knows, and that of each primary by its id."""
        nodes = [line.split() for line in self.admin.execute_command("CLUSTER", "NODES").splitlines()]
        of_primaries = {node_id: epoch for node_id, _, flags, _, _, _, epoch, *_ in nodes if "master" in flags}
        return self.info()["cluster_current_epoch"], of_primaries

    def slots(self):
        """The ids of primary and replicas by range of slots, as the node knows them."""
        return {
            (first, last): [members[0][2], *sorted(member[2] for member in members[1:])]
            for first, last, *members in self.admin.execute_command("CLUSTER", "SLOTS")
        }

    def knows(self, other):
        """Whether it has met another node."""
        nodes = self.admin.execute_command("CLUSTER", "NODES").splitlines()
        return any(line.startswith(other.id) and "handshake" not in line for line in nodes)

    @property
    def is_primary(self):
        return self.admin.role()[0] == "master"

    def pause(self):
        """Stop the process: its connections stay, and the system takes new ones."""
        self.process.send_signal(SIGSTOP)

    def resume(self):
        self.process.send_signal(SIGCONT)

    def kill(self):
        """End it at once, like a crash."""
        self.process.kill()
        self.process.wait(10)

    def start_again(self, **options):
        """Start a node that was killed, with what it had saved; return at once. `options` are further directives."""
        arguments = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*self.process.args, *arguments], stdout=log, stderr=log)

    def stop(self):
        self.admin.close()
        self.kill()
        self._folder.cleanup()


def wait_until(happened, what, every_s=0.02):
    """Wait until something is so, which is looked at now and then; a node that does not answer yet is not."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if happened():
                return
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(every_s)


def slot_server(name, **options):
    """A server that enforces slots and owns all of them: it answers CROSSSLOT, and never MOVED. Stop it at the end."""
    node = Node(name, **options)
    node.own(range(REDIS_CLUSTER_HASH_SLOTS))
    wait_until(lambda: node.info()["cluster_state"] == "ok", "one node alone is a cluster")
    return node


class Cluster:
    """Primaries with replicas. `options` are configuration directives of every node.

    A primary that is silent for `node_timeout_ms` is replaced: on a busy machine also one that merely waits. What
    changes the cluster returns when all of its nodes that run agree.
    """

    def __init__(self, name, primaries=3, replicas=1, node_timeout_ms=PATIENT_TIMEOUT_MS, **options):
        self.name, self._node_timeout_ms = name, node_timeout_ms
        self._options = {
            "cluster_node_timeout": FORMING_TIMEOUT_MS,
            "cluster_require_full_coverage": "no",
            "repl_diskless_sync_delay": 0,
            **options,
        }
        with ThreadPoolExecutor() as threads:
            self.nodes = list(threads.map(lambda _: self._start(), range(primaries * (1 + replicas))))
        self._gone = []
        try:
            self._form(primaries)
        except BaseException:
            self.stop()
            raise

    def _start(self):
        return Node(self.name, **self._options)

    def _form(self, count):
        owners, others = self.nodes[:count], self.nodes[count:]
        for number, node in enumerate(self.nodes):
            node.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        slots = list(range(REDIS_CLUSTER_HASH_SLOTS))
        for number, node in enumerate(owners):
            node.own(slots[len(slots) * number // count : len(slots) * (number + 1) // count])
        self._introduce(*self.nodes)
        for node, owner in zip(others, islice(cycle(owners), len(others)), strict=True):
            self._replicate(node, owner)
        self.wait_agreed()
        for node in self.nodes:
            node.admin.config_set("cluster-node-timeout", self._node_timeout_ms)

    def _introduce(self, *newcomers):
        """Let nodes meet every other, until all know all: nobody has to hear of anybody by way of others."""

        def know_each_other():
            strangers = [
                (node, other)
                for node in newcomers
                for other in self.running
                if other is not node and not (node.knows(other) and other.knows(node))
            ]
            for node, other in strangers:
                node.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port)
            return not strangers

        # A handshake that takes too long, as the machine is busy, is forgotten: then they meet again.
        wait_until(know_each_other, "all nodes know each other", every_s=0.2)

    def _replicate(self, node, owner):
        node.admin.execute_command("CLUSTER", "REPLICATE", owner.id)

    @property
    def running(self):
        return [node for node in self.nodes if node not in self._gone]

    @property
    def primaries(self):
        """The nodes that own slots, by the first node that runs."""
        ids = dict.fromkeys(members[0] for members in self.running[0].slots().values())
        return [node for node in self.nodes if node.id in ids]

    def replicas_of(self, primary):
        ids = {
            replica for members in self.running[0].slots().values() if members[0] == primary.id for replica in members
        }
        return [node for node in self.running if node.id in ids and node is not primary]

    def owner_of(self, slot):
        """The primary of a slot."""
        for (first, last), members in self.running[0].slots().items():
            if first <= slot <= last:
                return next(node for node in self.nodes if node.id == members[0])
        raise LookupError(f"nobody owns slot {slot}")

    def slots_of(self, node):
        """All slots that a primary owns."""
        ranges = [owned for owned, members in self.running[0].slots().items() if members[0] == node.id]
        return [slot for first, last in ranges for slot in range(first, last + 1)]

    def node_of(self, key):
        """The primary on which a key is."""
        return self.owner_of(slot_of(key))

    def _is_agreed(self):
        views = [node.slots() for node in self.running]
        if any(view != views[0] for view in views):
            return False
        if sum(last - first + 1 for first, last in views[0]) != REDIS_CLUSTER_HASH_SLOTS:
            return False
        if any(node.info()["cluster_state"] != "ok" for node in self.running):
            return False
        named = {member for members in views[0].values() for member in members}
        links = [node.admin.info("replication") for node in self.running if node.id in named]
        return all(link["role"] == "master" or link["master_link_status"] == "up" for link in links)

    def _are_epochs_known(self):
        known = [node.epochs() for node in self.running]
        return all(each == known[0] for each in known)

    def wait_agreed(self):
        """Return when all nodes that run name the same owners, every slot has one, and replicas are up to date."""
        wait_until(self._is_agreed, "all nodes agree")

    @property
    def url(self):
        """For a limiter, by the address of a primary."""
        return f"redis://{self.primaries[0].address}?cluster=true"

    @property
    def addresses(self):
        return [("127.0.0.1", node.port) for node in self.running]

    def client(self, library=LIBRARY, **options):
        """A cluster client that tries nothing twice but for MOVED and ASK, as a limiter wants it."""
        return self._client(f"{library}.cluster", library, options)

    def async_client(self, library=LIBRARY, **options):
        return self._client(f"{library}.asyncio.cluster", library, options)

    def _client(self, module, library, options):
        retry = import_module(f"{library}.{'asyncio.' if 'asyncio' in module else ''}retry")
        backoff = import_module(f"{library}.backoff")
        made = getattr(import_module(module), f"{CLIENT[library]}Cluster")
        port = self.primaries[0].port
        return made(host="127.0.0.1", port=port, retry=retry.Retry(backoff.NoBackoff(), 0), **options)

    def empty(self):
        """Remove every key and every script."""
        for node in self.primaries:
            node.admin.flushall()
            node.admin.script_flush()

    def key_count(self):
        """How many keys each primary has."""
        return {node: node.admin.dbsize() for node in self.primaries}

    def migration(self, slot, target, batch=10):
        """Move a slot to a primary in steps: a generator that stops after each, so that a test can go on meanwhile.

        It yields "importing", "migrating", the number of keys moved by each batch, then "assigned" by target and
        source. Left in the middle, it can be finished by another `migrate_slot`.
        """
        source = self.owner_of(slot)
        if source is target:
            return

        def assign(node, *state):
            node.admin.execute_command("CLUSTER", "SETSLOT", slot, *state)

        assign(target, "IMPORTING", source.id)
        yield "importing"
        assign(source, "MIGRATING", target.id)
        yield "migrating"
        while keys := source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", slot, batch):
            source.admin.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            yield len(keys)
        # A target that does not know the last epoch takes no greater one; then the source's next message, which still
        # names the slot as its own, would take it back.
        wait_until(self._are_epochs_known, "all nodes know the epochs of all", every_s=0.002)
        # The target first: a source that had given it away would name an owner that does not know it yet.
        assign(target, "NODE", target.id)
        assign(source, "NODE", target.id)
        yield "assigned"

    def migrate_slot(self, slot, target):
        """Move a slot with its keys. Nodes that did not take part hear of it later: `wait_agreed`."""
        for _ in self.migration(slot, target):
            pass

    def add_node(self):
        """Start a primary without slots, known to all, and ready to take some."""
        node = self._start()
        self.nodes.append(node)
        self._introduce(node)
        node.admin.config_set("cluster-node-timeout", self._node_timeout_ms)
        wait_until(lambda: node.info()["cluster_state"] == "ok", f"{node} is ready")
        return node

    def remove_node(self, node):
        """Have all others forget a node without slots, and end it once no client is connected to it.

        So it takes no command with it: clients leave it when they refresh the topology, within seconds.
        """
        assert node not in self.primaries, f"{node} still owns slots"
        wait_until(lambda: not node.has_clients, f"clients leave {node}")
        self._gone.append(node)
        for other in self.running:
            other.admin.execute_command("CLUSTER", "FORGET", node.id)
        node.kill()
        self.wait_agreed()

    def kill(self, node):
        """A primary crashes; return at once. `wait_failed_over` waits for its replica."""
        self._gone.append(node)
        node.kill()

    def wait_failed_over(self, node):
        """Return when a replica stands in for a primary that died or is stopped, and all others know it."""
        others = [other for other in self.running if other is not node]

        def happened():
            return all(node.id not in {members[0] for members in other.slots().values()} for other in others)

        wait_until(happened, f"{node} is replaced")
        wait_until(lambda: all(other.info()["cluster_state"] == "ok" for other in others), "the others are well")

    def fail_over(self, primary):
        """Hand a primary's slots to its replica, as planned, with nothing lost; the new primary."""
        replica = self.replicas_of(primary)[0]
        asked_s = -math.inf

        def happened():
            nonlocal asked_s
            # On a busy machine the time for it may pass; then the primary goes on as before.
            if time.monotonic() - asked_s > MANUAL_FAILOVER_S and not replica.is_primary:
                replica.admin.execute_command("CLUSTER", "FAILOVER")
                asked_s = time.monotonic()
            return replica.is_primary

        wait_until(happened, f"{replica} is a primary")
        self.wait_agreed()
        return replica

    def stop(self):
        for node in self.nodes:
            node.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
