"""Applications under gunicorn, in processes of their own."""

import contextlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT
from helpers.processes import end
from helpers.waiting import wait_for

PATIENCE_S = 30
FOLDER = ROOT / "tests" / "integrations"


@dataclass
class Served:
    """An application that gunicorn serves: at a port and a unix socket; and what it has logged."""

    port: int
    socket: Path
    log: Path
    process: subprocess.Popen
    workers: int

    def end(self):
        """End it as an operator does; its workers finish what they do. Return the log."""
        # gunicorn loses a signal that comes while a worker starts.
        wait_for(lambda: self.log.read_text(encoding="utf-8").count("ready: ") >= self.workers, PATIENCE_S)
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        return self.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def gunicorn_server(app, folder, *options, workers=1, configuration="gunicorn_conf", **environment):
    """Serve an application, "module:name" of tests/integrations; yield it as soon as it takes connections.

    Args:
        app: The application.
        folder: Where the log and a socket go.
        options: Of gunicorn.
        workers: How many processes.
        configuration: A module of the same folder.
        environment: Variables.
    """
    log, path = folder / "gunicorn.log", folder / "socket"
    binds = ("--bind", "127.0.0.1:0", "--bind", f"unix:{path}")
    usual = ("-c", str(FOLDER / f"{configuration}.py"), "-w", str(workers), "--no-control-socket")
    command = [sys.executable, "-m", "gunicorn", *usual, *binds, *options, app]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", FOLDER))), **environment}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=file, stderr=file)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while not (listening := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until_s, "it does not listen"
            time.sleep(0.01)
        yield Served(int(listening[1]), path, log, process, workers)
    finally:
        end(process, PATIENCE_S)
