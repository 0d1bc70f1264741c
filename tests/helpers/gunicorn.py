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

PATIENCE_S = 30
FOLDER = ROOT / "tests" / "integrations"


@dataclass
class Served:
    """An application that gunicorn serves: at a port and a unix socket; and what it has logged."""

    port: int
    socket: Path
    log: Path
    process: subprocess.Popen

    def end(self):
        """End it as an operator does; its workers finish what they do."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        return self.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def gunicorn_server(app, folder, *options, **environment):
    """Serve an application, "module:name" of tests/integrations; yield it as soon as it takes connections."""
    log, path = folder / "gunicorn.log", folder / "socket"
    binds = ("--bind", "127.0.0.1:0", "--bind", f"unix:{path}")
    command = [sys.executable, "-m", "gunicorn", *binds, "--no-control-socket", *options, app]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", FOLDER))), **environment}
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=file, stderr=file)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (listening := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, "it does not listen"
            time.sleep(0.01)
        yield Served(int(listening[1]), path, log, process)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
