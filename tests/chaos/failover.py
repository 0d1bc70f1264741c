"""A primary, two replicas of it and a Sentinel: real processes, and perhaps a network between them that can be cut."""

import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
from helpers.ports import free_port
from helpers.processes import end
from helpers.sentinel import NAME
from helpers.servers import binaries

from chaos.gate import Gate
from chaos.servers import CrashableServer

NEAR, FAR = "127.0.0.1", "127.0.0.2"
"""Where the primary and the clients are; where what replicas and the Sentinel send comes from."""
REPLICAS = 2
"""With one alone, a new primary would have none until the former one is a replica, and take no writes so long."""
DOWN_AFTER_MS, PATIENT_MS = 1000, 60_000
"""After so long a silent primary is replaced where a scenario has it silent; elsewhere, where it is merely slow."""
PATIENCE_S = 30


class WatchedServers:
    """Replicas and the Sentinel reach the primary by way of a gate, and name that to clients.

    Attributes:
        primary, replicas: As they were at the beginning.
        sentinel: The port of the Sentinel.
        gate: In front of the primary, for all; `isolate` cuts it for replicas and the Sentinel.
        sentinel_gate: In front of the Sentinel, for the processes on the primary's side.
    """

    def __init__(self, name, settings):
        self._name, self._settings = name, settings

    def __enter__(self):
        with ExitStack() as stack:
            self.primary = self._server(stack, bind=NEAR)
            self.gate = stack.enter_context(Gate(self.primary.port))
            # What is sent comes from the first address that is bound (Redis 6), or from the one that is named.
            source = {"bind_source_addr": FAR} if self._name != "redis6" else {}
            bind = NEAR if source else (FAR, NEAR)
            self.replicas = [self._server(stack, bind=bind, **source) for _ in range(REPLICAS)]
            for replica in self.replicas:
                with replica.client() as client:
                    client.replicaof(NEAR, self.gate.port)
            self.servers = {self.gate.port: self.primary} | {replica.port: replica for replica in self.replicas}
            self._start_sentinel(stack, bind, source)
            self.sentinel_gate = stack.enter_context(Gate(self.sentinel))
            self._until(lambda: len(self._admin.sentinel_slaves(NAME)) == REPLICAS)
            for replica in self.replicas:
                self._until(lambda replica=replica: self._replicates(replica))
            self._configure()
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._resources.close()

    def _server(self, stack, **options):
        server = CrashableServer(self._name, port=free_port(), repl_diskless_sync_delay=0, **options)
        stack.callback(server.stop)
        return server

    def _start_sentinel(self, stack, bind, source):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rl-sentinel-")))
        self.sentinel = free_port()
        lines = [f"port {self.sentinel}", f"dir {folder}"]
        lines += [f"bind {bind if isinstance(bind, str) else ' '.join(bind)}"]
        lines += [f"{option.replace('_', '-')} {value}" for option, value in source.items()]
        lines += [f"sentinel monitor {NAME} {NEAR} {self.gate.port} 1"]
        lines += [f"sentinel down-after-milliseconds {NAME} {PATIENT_MS}"]
        configuration = folder / "sentinel.conf"
        configuration.write_text("\n".join(lines) + "\n")
        self._log = folder / "log"
        with self._log.open("wb") as log:
            process = subprocess.Popen([binaries()[self._name], configuration, "--sentinel"], stdout=log, stderr=log)
        stack.callback(end, process)
        self._admin = redis.Redis(NEAR, self.sentinel)
        stack.callback(self._admin.close)

    def _configure(self):
        """Set what holds on all servers, and wait until the primary takes writes under it."""
        for server in self.servers.values():
            with server.client() as client:
                for name, value in self._settings.items():
                    client.config_set(name, value)
        with self.primary.client() as client:
            self._until(lambda: client.set("test:ready", "yes"))

    def _replicates(self, replica):
        with replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"

    def _until(self, happened):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if result := happened():
                    return result
            except redis.RedisError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"the servers did not come to that: {self._log.read_text()}")
            time.sleep(0.02)

    @property
    def urls(self):
        """For processes on the primary's side, and on the other."""
        return [f"redis+sentinel://{NEAR}:{port}/{NAME}" for port in (self.sentinel_gate.port, self.sentinel)]

    @property
    def primary_url(self):
        """Of the first primary itself, whoever is one later."""
        return f"redis://{NEAR}:{self.gate.port}"

    @property
    def named(self):
        """The server that the Sentinel names as the primary."""
        return self.servers[self._admin.sentinel_get_master_addr_by_name(NAME)[1]]

    def wait_for_another(self):
        """Wait until the Sentinel, which now replaces a primary that is silent, names another one."""
        self._set_patience(DOWN_AFTER_MS)
        self._until(lambda: self.named is not self.primary)
        self._set_patience(PATIENT_MS)

    def _set_patience(self, milliseconds):
        self._admin.execute_command("SENTINEL", "SET", NAME, "down-after-milliseconds", milliseconds)

    def fail_over(self):
        """Ask for it, as an administrator does; the primary is healthy."""
        # Refused for as long as the Sentinel has not enough reports of the replicas.
        self._until(lambda: self._admin.execute_command("SENTINEL", "FAILOVER", NAME))
        self._until(lambda: self.named is not self.primary)

    def isolate(self):
        """Cut the network around the primary and the processes on its side."""
        self.gate.cut(FAR)
        self.sentinel_gate.cut(NEAR)

    def mend(self):
        self.gate.mend()
        self.sentinel_gate.mend()
