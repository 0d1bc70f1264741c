"""A web server with one of the applications, in a process of its own, and the CPU time that it has used."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from benchmarks.suite import host

_START_S, _END_S = 60, 20


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def cpu_seconds(process):
    """CPU time of a process: user and system, of all its threads, in nanoseconds' steps; /proc counts in 10 ms."""
    return time.clock_gettime((~process << 3) | 2)  # as clock_getcpuclockid(3) makes it


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


class WebServer:
    """A web server that listens on `port`."""

    def __init__(self, process, port):
        self._process, self.port = process, port

    def cpu_seconds(self):
        """Of the server, its workers included."""
        return sum(map(cpu_seconds, [self._process, *children(self._process)]))


@contextmanager
def serving(framework, app, redis_url, limit):
    """Start an application; yield its server as soon as it takes connections, and end it.

    Raises:
        RuntimeError: It did not start; with what it printed.
    """
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port, app=app.target) for word in framework.command)]
    environment = {**os.environ, "REDIS_URL": redis_url, "LIMIT": str(limit)}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=host.ROOT, env=environment, stdout=log, stderr=log)
        try:
            _wait(process, port, log)
            yield WebServer(process.pid, port)
        finally:
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_END_S)


def _wait(process, port, log):
    end = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        if process.poll() is not None or time.monotonic() > end:
            log.seek(0)
            raise RuntimeError(f"{' '.join(process.args)} did not start: {log.read()}")
        time.sleep(0.02)
