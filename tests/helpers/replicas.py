"""A primary with replicas: real processes on TCP ports of this machine, without anybody who watches them."""

import contextlib

from helpers.ports import free_port
from helpers.servers import Server
from helpers.waiting import wait_for


class ReplicatedServer:
    """A `primary`, and as many `replicas` of it as asked for, all in sync when it is made."""

    def __init__(self, name, replicas=1):
        self.primary, *self.replicas = (
            Server(name, port=free_port(), bind="127.0.0.1", repl_diskless_sync_delay=0) for _ in range(1 + replicas)
        )
        for replica in self.replicas:
            self.attach(replica)

    def attach(self, replica):
        """Make a server a replica, and wait until it has acknowledged all that the primary has."""
        with replica.client() as client, self.primary.client() as primary:
            client.replicaof("127.0.0.1", self.primary.port)
            wait_for(lambda: client.info("replication").get("master_link_status") == "up", 20)
            count = primary.info("replication")["connected_slaves"]
        self.wait_acknowledged(count)

    def wait_acknowledged(self, count):
        """Wait until so many replicas have acknowledged all that the primary has."""
        with self.primary.client() as client:
            client.publish("nothing", "")  # what WAIT counts is who has the writes of its own connection
            wait_for(lambda: client.wait(count, 1000) >= count, 20)

    @contextlib.contextmanager
    def configured(self, **settings):
        """Set parameters of the primary, and set them back afterwards."""
        with self.primary.client() as client:
            names = [name.replace("_", "-") for name in settings]
            before = {name: client.config_get(name)[name] for name in names}
            for name, value in zip(names, settings.values(), strict=True):
                client.config_set(name, value)
            try:
                yield
            finally:
                for name in names:
                    client.config_set(name, before[name])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in (self.primary, *self.replicas):
            server.stop()
