"""The examples of gateways: started by their one command, tried as they say with curl, ended by Ctrl-C."""

import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.paths import EXAMPLES, ROOT
from helpers.ports import free_port

from ratelimit import Limiter

KEY, ORDER, TOKEN, ADDRESS, NOWHERE, METRICS = range(6)
"""The commands that an example prints, in their order."""


def descendants(process):
    """Ids of all processes that a process has started, and those that these have."""
    with suppress(FileNotFoundError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def is_running(process):
    """Whether it is there, and no zombie that waits for its parent."""
    with suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


def command_line(process):
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


class Example:
    """A running example: the commands that it printed, and the processes that it started."""

    def __init__(self, process):
        self.process = process
        self.printed = ""
        while "Ctrl-C" not in self.printed:
            line = process.stdout.readline()
            assert line, f"it ended: {self.printed}"
            self.printed += line
        self.commands = [shlex.split(line) for line in self.printed.splitlines() if line.startswith("  curl")]
        self.started = []

    def curl(self, number, port=None):
        """Do what a printed command does; at another port, if one is given. Return status, fields and body."""
        verb, headers, url = "GET", {}, ""
        words = iter(self.commands[number][1:])
        for word in words:
            if word == "-X":
                verb = next(words)
            elif word == "-H":
                name, _, headers_value = next(words).partition(": ")
                headers[name] = headers_value
            elif word != "-i":
                url = urlsplit(word)
        connection = http.client.HTTPConnection(url.hostname, port or url.port, timeout=30)
        connection.request(verb, url.path, headers=headers)
        response = connection.getresponse()
        answer = response.status, dict(response.getheaders()), response.read().decode()
        connection.close()
        return answer

    def statuses(self, number, times, ports=(None,)):
        return [self.curl(number, ports[time % len(ports)])[0] for time in range(times)]


def wait_for(port):
    end = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("localhost", port, timeout=30)
        try:
            connection.connect()
        except OSError:
            assert time.monotonic() < end, f"nobody listens on port {port}"
            time.sleep(0.02)
        else:
            return
        finally:
            connection.close()


@contextmanager
def running(name, *options, ports, environment=None, interrupt=os.killpg):
    """Start an example as from a terminal, and press Ctrl-C at the end: it and all that it started end, in silence.

    A terminal interrupts the whole group; `os.kill` does so with the example alone.
    """
    variables = {name: value for name, value in os.environ.items() if name != "RATELIMIT_URL"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, options)],
        env={**variables, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = []
    try:
        example = Example(process)
        for port in ports:
            wait_for(port)
        started += descendants(process.pid)
        example.started = started
        yield example
        interrupt(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
        assert (process.returncode, printed, errors) == (0, "", "")
        assert [pid for pid in started if is_running(pid)] == []
    finally:
        for pid in [process.pid, *started]:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def counted(text):
    """What `/metrics` says of checks, by plan and result."""
    line = re.compile(
        r'^ratelimit_checks_total\{limit="[^"]*",plan="(\w+)",result="(\w+)",.*\} (\d+)\.0$', re.MULTILINE
    )
    counts = Counter()
    for plan, result, number in line.findall(text):  # by source and limit as well
        counts[plan, result] += int(number)
    return counts


def test_a_gateway():
    """Each kind of caller has what its plan says, a 404 counts, an order counts for 5; the metrics say so."""
    port = free_port()
    with running("fastapi_gateway.py", "--port", port, ports=[port]) as gateway:
        assert any("valkey-server" in command_line(process) for process in gateway.started)
        assert gateway.statuses(KEY, 3) == [200] * 3
        assert gateway.statuses(ORDER, 2) == [200, 429]
        assert gateway.statuses(KEY, 5) == [200] * 4 + [429]
        assert gateway.statuses(TOKEN, 7) == [200] * 6 + [429]
        assert gateway.statuses(ADDRESS, 2) == [200] * 2
        assert gateway.statuses(NOWHERE, 2) == [404, 429]
        status, fields, body = gateway.curl(ADDRESS)
        assert (status, fields["content-type"]) == (429, "application/problem+json")
        assert fields["retry-after"] == "60"
        assert '"plan:visitors"' in body
        status, fields, body = gateway.curl(METRICS)
        assert status == 200
        assert "ratelimit" not in fields
        assert counted(body) == {
            ("gold", "allowed"): 8,
            ("gold", "throttled"): 2,
            ("members", "allowed"): 6,
            ("members", "throttled"): 1,
            ("visitors", "allowed"): 3,
            ("visitors", "throttled"): 2,
        }


@pytest.mark.parametrize("token", ["ada.0", "", "bob.{}"], ids=["forged", "empty", "of another"])
def test_a_token_that_is_not_valid_is_a_403(token):
    """Nor is its bearer taken for an address."""
    port = free_port()
    with running("fastapi_gateway.py", "--port", port, ports=[port]) as gateway:
        command = gateway.commands[TOKEN]
        signature = command[command.index("-H") + 1].rpartition(".")[2]
        command[command.index("-H") + 1] = f"Authorization: Bearer {token.format(signature)}"
        assert gateway.statuses(TOKEN, 1) == [403]


def test_a_gateway_on_a_server_that_is_there(valkey):
    """RATELIMIT_URL names it; the plans are put there, and no server is started."""
    port = free_port()
    with running(
        "fastapi_gateway.py", "--port", port, ports=[port], environment={"RATELIMIT_URL": valkey.url}
    ) as gateway:
        assert gateway.started == []
        assert gateway.statuses(KEY, 13) == [200] * 12 + [429]
        with Limiter.from_url(valkey.url) as limiter:
            assert sorted(plan.id for plan in limiter.catalog.plans()) == ["gold", "members", "visitors"]


@pytest.mark.parametrize("interrupt", [os.killpg, os.kill])
def test_replicas_share_every_limit(interrupt):
    """Requests go round three replicas: exactly 12 of a key, 6 of a user and 3 of an address pass. All of them end."""
    first = free_port()
    ports = [first, first + 1, first + 2]
    with running("fastapi_replicas.py", "--port", first, ports=ports, interrupt=interrupt) as replicas:
        assert sum("fastapi_gateway:create_app" in command_line(process) for process in replicas.started) == 3
        assert any("valkey-server" in command_line(process) for process in replicas.started)
        assert replicas.statuses(KEY, 15, ports) == [200] * 12 + [429] * 3
        assert replicas.statuses(TOKEN, 9, ports) == [200] * 6 + [429] * 3
        assert replicas.statuses(ADDRESS, 6, ports) == [200] * 3 + [429] * 3
        by_replica = [counted(replicas.curl(METRICS, port)[2])["gold", "allowed"] for port in ports]
        assert by_replica == [4, 4, 4]
