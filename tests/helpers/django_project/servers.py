"""Servers of the project: processes, under gunicorn or uvicorn."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from helpers.paths import ROOT
from helpers.ports import free_port

PATIENCE_S = 60
COMMANDS = {
    "wsgi": ("gunicorn", "--log-level=warning", "--limit-request-field_size=200000", "--bind=127.0.0.1:{port}"),
    "asgi": ("uvicorn", "--log-level=warning", "--no-access-log", "--port={port}"),
}
THREADS = ("--workers=1", "--threads=4")
"""Options of gunicorn."""
KINDS = {"wsgi": THREADS, "asgi": ()}
"""Options of each kind of server."""


class DjangoServer:
    """One that runs.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, kind, port, process, log):
        self.kind, self.port, self.process, self._log = kind, port, process, log

    def log(self):
        """What it has logged."""
        return self._log.read_text(encoding="utf-8")


@contextlib.contextmanager
def django_server(kind, redis_url, *options, application=None, folder=ROOT, **settings):
    """Start a server, yield it as soon as it listens, and end it.

    Args:
        kind: "wsgi" or "asgi".
        redis_url: Where the limits are.
        options: Of the server.
        application: Another than that of the project.
        folder: Where it is.
        settings: Settings of the project, in place of its own.
    """
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in COMMANDS[kind]), *options]
    environment = os.environ | {
        "RATELIMIT_URL": redis_url,
        "DJANGO_SERVER": kind,
        "DJANGO_SETTINGS": json.dumps(settings),
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", folder))),
    }
    with tempfile.TemporaryDirectory(prefix="rl-django-") as logs:
        log = Path(logs) / "log"
        with log.open("wb") as output:
            command.append(application or f"helpers.django_project.project:{kind}")
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        server = DjangoServer(kind, port, process, log)
        try:
            _wait_until_it_listens(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
                raise
            sys.stdout.write(server.log())


def _wait_until_it_listens(server):
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port)):
            return
        assert server.process.poll() is None, server.log()
        assert time.monotonic() < end, "it does not listen"
        time.sleep(0.01)
