"""A server under callgrind, and what it spent: in all, or in a part of the time."""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis

from benchmarks.suite import host

VALGRIND = shutil.which("valgrind")
CONTROL = shutil.which("callgrind_control")
SERVER = "redis-system" if host.servers.SYSTEM_REDIS else "redis6"
ABSENT = "valgrind is not installed, so instructions were not counted"


@contextlib.contextmanager
def counted(*, server=SERVER, slots=False):
    """Yield the URL of a server under callgrind, and a list that holds its instructions once it has stopped.

    With `slots` it is in cluster mode, and owns all of them.
    """
    instructions = []
    with _folder() as folder:
        with _running(folder, server=server, settings=_in_cluster_mode() if slots else ()) as (url, _):
            if slots:
                _own_all_slots(url)
            yield url + "?slots=true" * slots, instructions
        instructions.append(int(re.search(r"Collected : (\d+)", Path(folder, "valgrind").read_text())[1]))


class Meter:
    """Counts instructions of a server from one reading to the next; before the first it is off, which is faster."""

    def __init__(self, url, process, folder):
        self.url, self._pid, self._folder, self._readings = url, process.pid, folder, 0
        self._on = False

    def _control(self, option):
        subprocess.run([CONTROL, option, str(self._pid)], check=True, capture_output=True, timeout=60)

    def read(self):
        """Return the instructions since the last reading; the first one starts the count."""
        if not self._on:
            self._control("--instr=on")
            self._on = True
        self._control("--dump")
        self._readings += 1
        text = Path(self._folder, f"out.{self._readings}").read_text()
        return int(re.search(r"^totals: (\d+)", text, re.MULTILINE)[1])


@contextlib.contextmanager
def metered():
    with _folder() as folder, _running(folder, "--instr-atstart=no") as (url, process):
        yield Meter(url, process, folder)


def _folder():
    return tempfile.TemporaryDirectory(prefix="rl-callgrind-")


@contextlib.contextmanager
def _running(folder, *options, server=SERVER, settings=()):
    path, log = f"{folder}/redis.sock", Path(folder, "valgrind")
    command = [host.servers.binaries()[server], "--port", "0", "--unixsocket", path, "--dir", folder]
    settings = ["--save", "", "--hz", "1", *settings]  # background work once a second, so that it hardly counts
    valgrind = [VALGRIND, "--tool=callgrind", f"--callgrind-out-file={folder}/out", *options]
    with log.open("wb") as errors:
        process = subprocess.Popen([*valgrind, *command, *settings], stdout=subprocess.DEVNULL, stderr=errors)
    try:
        _wait(path, process, log)
        yield f"unix://{path}", process
    finally:
        process.terminate()
        process.wait(60)


def _in_cluster_mode():
    """Settings of a node alone, which needs a port for others all the same: that of its clients plus 10,000."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1] // 3 + 1024
    return ("--cluster-enabled", "yes", "--bind", "127.0.0.1", "--port", str(port))


def _own_all_slots(url):
    with redis.Redis.from_url(url) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        deadline = time.monotonic() + 60
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            if time.monotonic() > deadline:
                raise RuntimeError("the server in cluster mode was not ready in time")
            time.sleep(0.1)


def _wait(path, process, log):
    deadline = time.monotonic() + 60
    with redis.Redis(unix_socket_path=path) as client:
        while True:
            with contextlib.suppress(redis.RedisError):
                client.ping()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server under valgrind did not start: {log.read_text()}")
            time.sleep(0.05)


def version(server=SERVER):
    command = [host.servers.binaries()[server], "--version"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return f"{'valkey' if server == 'valkey' else 'redis'} " + re.search(r"v=(\S+)", output)[1]
