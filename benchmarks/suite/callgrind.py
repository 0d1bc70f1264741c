"""A server under callgrind, and what it spent: in all, or in a part of the time."""

import contextlib
import os
import re
import shutil
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
def counted():
    """Yield the URL of a server under callgrind, and a list that holds its instructions once it has stopped."""
    instructions = []
    with _folder() as folder:
        with _running(folder) as (url, _):
            yield url, instructions
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
        return _total(self._dump())

    def read_of(self, functions):
        """Return the same of the calls of some functions alone, with all that these called. None may call another."""
        profile = self._dump()
        return sum([spent_in(profile, function) for function in functions])

    def _dump(self):
        if not self._on:
            self._control("--instr=on")
            self._on = True
        self._control("--dump")
        self._readings += 1
        return Path(self._folder, f"out.{self._readings}").read_text()


def _total(profile):
    return int(re.search(r"^totals: (\d+)", profile, re.MULTILINE)[1])


def spent_in(profile, function):
    """Return what the calls of a function spent, with all that it called.

    In callgrind's format the line after "calls=" is what those calls of "cfn=" spent. A name stands beside its number
    where it is met first.
    """
    names, callee, is_call, spent = {}, None, False, 0
    for line in profile.splitlines():
        if named := re.match(r"(c?)fn=\((\d+)\)(?: (.+))?", line):
            is_callee, number, name = named.groups()
            names.setdefault(number, name)
            if is_callee:
                callee = names[number]
        elif is_call:
            spent += int(line.split()[1]) if callee == function else 0
        is_call = line.startswith("calls=")
    if not spent:
        raise RuntimeError(f"the server has no function {function}, or never called it")
    return spent


@contextlib.contextmanager
def metered(*, server=SERVER, settings=(), environment=None):
    """Yield the meter of a server. `settings` are words of its command line, `environment` further variables."""
    options = {"server": server, "settings": settings, "environment": environment}
    with _folder() as folder, _running(folder, "--instr-atstart=no", **options) as made:
        yield Meter(*made, folder)


def _folder():
    return tempfile.TemporaryDirectory(prefix="rl-callgrind-")


@contextlib.contextmanager
def _running(folder, *options, server=SERVER, settings=(), environment=None):
    path, log = f"{folder}/redis.sock", Path(folder, "valgrind")
    command = [host.servers.binaries()[server], "--port", "0", "--unixsocket", path, "--dir", folder]
    settings = ["--save", "", "--hz", "1", *settings]  # background work once a second, so that it hardly counts
    valgrind = [VALGRIND, "--tool=callgrind", f"--callgrind-out-file={folder}/out", *options]
    with log.open("wb") as errors:
        started = {"env": {**os.environ, **(environment or {})}, "stdout": subprocess.DEVNULL, "stderr": errors}
        process = subprocess.Popen([*valgrind, *command, *settings], **started)
    try:
        _wait(path, process, log)
        yield f"unix://{path}", process
    finally:
        process.terminate()
        process.wait(60)


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
