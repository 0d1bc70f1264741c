"""A primary, its replica and a Sentinel that watches them: real processes on TCP ports of this machine."""

import subprocess
import tempfile
import time
from pathlib import Path

import redis

from helpers.ports import free_port
from helpers.servers import Server, binaries

NAME = "limits"
PATIENCE_S = 30


class WatchedPrimary:
    """`sentinel` is the address that clients ask; `fail_over` makes the replica the primary, and returns when it is.

    `settings` are further lines of the Sentinel's configuration. `reach` returns the port by which the Sentinel and the
    replica reach the primary.
    """

    def __init__(self, name, *settings, reach=lambda port: port):
        ports = [free_port() for _ in range(3)]
        self.primary, self.replica = (
            Server(name, port=port, bind="127.0.0.1", repl_diskless_sync_delay=0) for port in ports[:2]
        )
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", reached := reach(ports[0]))
        self.sentinel = "127.0.0.1", ports[2]
        self._folder = tempfile.TemporaryDirectory(prefix="rl-sentinel-")
        configuration = Path(self._folder.name) / "sentinel.conf"
        configuration.write_text(
            f"port {ports[2]}\nbind 127.0.0.1\ndir {self._folder.name}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {reached} 1\n"
            f"sentinel down-after-milliseconds {NAME} 60000\n" + "\n".join(settings) + "\n"
        )
        with (Path(self._folder.name) / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [binaries()[name], str(configuration), "--sentinel"], stdout=log, stderr=log
            )
        self._admin = redis.Redis(port=ports[2])
        self._until(self._replicates)

    @property
    def url(self):
        """Of the primary, whichever server that is, for a limiter."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel[1]}/{NAME}"

    def _replicates(self):
        with self.replica.client() as client:
            return self._admin.sentinel_slaves(NAME) and client.info()["master_link_status"] == "up"

    def _until(self, happened):
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if happened():
                    return
            except redis.RedisError:
                pass
            assert time.monotonic() < deadline, (Path(self._folder.name) / "log").read_text()
            time.sleep(0.05)

    def fail_over(self):
        # Refused for as long as the Sentinel has not heard enough of the replica.
        self._until(lambda: self._admin.execute_command("SENTINEL", "FAILOVER", NAME))
        self.wait_failed_over()

    def wait_failed_over(self):
        """Return when the replica is the primary."""
        self._until(lambda: self._admin.sentinel_get_master_addr_by_name(NAME)[1] == self.replica.port)

    def wait_demoted(self):
        """Return when the former primary is a replica of the new one, and has what that has."""
        with self.primary.client() as client:
            self._until(lambda: client.info("replication").get("master_link_status") == "up")

    def kill(self):
        """End the primary at once."""
        self.primary.process.kill()
        self.primary.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._admin.close()
        self._process.terminate()
        self._process.wait(10)
        for server in (self.primary, self.replica):
            server.stop()
        self._folder.cleanup()
