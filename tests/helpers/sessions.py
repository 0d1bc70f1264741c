"""The sessions in documents: files, and commands in a shell with what they print, from the top of a page to its end.

A Python or TOML block whose first line is a comment with a name is a file. A block `console` is a session: lines after
`$ ` are commands, the others what is printed; `…` is for any text, as a line of its own for any lines. A web server
runs until the next one starts.
"""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from helpers.documents import DOCUMENTS, FILE
from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.processes import end

BLOCK = re.compile(r"^```(python|toml|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATIENCE_S = 60
PORTS = {"uvicorn": ("--port", "{}"), "gunicorn": ("--bind", "127.0.0.1:{}"), "flask": ("--port", "{}")}
"""How a web server gets its port: in documents it is 8000 for all."""
COMMANDS = {
    "python": "",
    "curl": f'-I -S "{Path(__file__).with_name("curl.py")}"',
    **{name: f"-m {name}" for name in ("ratelimit", *PORTS)},
}
"""Commands, and how Python runs them."""


def pages():
    """The documents with sessions."""
    return [name for name, text in DOCUMENTS.items() if "```console\n" in text]


def matches(printed, expected):
    """Whether what was printed is what a document says; how many blanks there are does not count."""
    lines = [
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in _lines(expected)
    ]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text):
    return "\n".join(re.sub(" +", " ", line).rstrip() for line in text.splitlines()).strip("\n").splitlines()


@contextmanager
def listening(command, port, log, **options):
    """Run a server, from when it takes connections; its log must have no traceback."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, **options)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, "it does not listen"
            time.sleep(0.01)
        yield
    finally:
        end(process, PATIENCE_S)
    assert "Traceback" not in log.read_text(), log.read_text()


class Session:
    """Runs a page in a folder, with a Redis in place of that at localhost:6379."""

    def __init__(self, folder, redis_url, servers, environment):
        self.folder = folder
        self.redis_url = redis_url
        self.servers = servers
        self.port = free_port()
        commands = folder / ".bin"
        commands.mkdir()
        for name, how in COMMANDS.items():
            (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {how} "$@"\n', encoding="utf-8")
            (commands / name).chmod(0o755)
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        modules = os.pathsep.join(map(str, (ROOT, ROOT / "tests", folder)))
        self.environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": modules,
            "RATELIMIT_URL": redis_url,
            **environment,
        }

    def run(self, name):
        """Run a page; an AssertionError says what is not as it says."""
        for kind, text in BLOCK.findall(DOCUMENTS[name]):
            if kind == "console":
                for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                    self.enter(command, expected)
            elif file := FILE.match(text):
                (self.folder / file[1]).write_text(self.placed(text), encoding="utf-8")

    def placed(self, text):
        """A text with the addresses of this session."""
        text = re.sub(r"redis://localhost:6379(/0)?", self.redis_url, text)
        return text.replace("localhost:8000", f"localhost:{self.port}")

    def enter(self, command, expected):
        """Run a command, and compare what it prints."""
        program = command.split()[0]
        if program == "pip":
            return  # what is needed is installed
        command = self.placed(command)
        if program == "export":
            variable, _, value = command.removeprefix("export ").partition("=")
            self.environment[variable] = value
        elif program in PORTS:
            self.serve(command.split())
        else:
            ended = subprocess.run(
                ["sh", "-c", command],
                cwd=self.folder, env=self.environment, text=True, timeout=PATIENCE_S, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert matches(ended.stdout, expected), f"$ {command}\n{ended.stdout}\nis not\n{expected}"

    def serve(self, command):
        """Start a web server in place of the one before."""
        self.servers.close()
        self.port = free_port()
        name, *arguments = command
        port = [word.format(self.port) for word in PORTS[name]]
        started = [sys.executable, "-m", name, *arguments, *port]
        log = self.folder / f"{name}.log"
        self.servers.enter_context(listening(started, self.port, log, cwd=self.folder, env=self.environment))


def follow(name, folder, redis_url, **environment):
    """Do what a page says, in an empty folder."""
    with ExitStack() as servers:
        Session(folder, redis_url, servers, environment).run(name)
