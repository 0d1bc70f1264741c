"""Real servers in front of a limiter: after `warm_up` their first burst meets no 503.

`make test-servers` runs them, with RATELIMIT_COLD_STARTS=20 as often as that; they need the dependency group `servers`.
"""

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from helpers.http_load import statuses
from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.processes import end

from ratelimit import Limiter, Quota, Throttle, UsagePlan

FOLDER = Path(__file__).parent
NEEDED = ("fastapi", "uvicorn", "uvloop", "flask", "asgiref", "gunicorn", "gevent", "django")
COLD_STARTS = int(os.environ.get("RATELIMIT_COLD_STARTS", "2"))
REQUESTS, CONCURRENCY = 3000, 200
LIMIT = 10_000_000
STAGE, METHOD = "petstore/prod", "GET /pets"

UVICORN = ("uvicorn", "--log-level", "warning", "--no-access-log", "--port")
GUNICORN = ("gunicorn", "--log-level", "warning", "--bind")
SERVERS = {
    "uvicorn, asyncio": (*UVICORN, "{port}", "--loop", "asyncio", "fastapi_app:app"),
    "uvicorn, uvloop": (*UVICORN, "{port}", "--loop", "uvloop", "fastapi_app:app"),
    "gunicorn, 4 x 4 threads": (*GUNICORN, "127.0.0.1:{port}", "-w", "4", "--threads", "4", "flask_app:app"),
    "gunicorn, preloaded": (
        *(*GUNICORN, "127.0.0.1:{port}", "-w", "4", "--threads", "4", "--preload"),
        "flask_app:app",
    ),
    "gunicorn, gevent": (*GUNICORN, "127.0.0.1:{port}", "-w", "4", "-k", "gevent", "flask_app:app"),
    "uvicorn, Django": (*UVICORN, "{port}", "django_app:app"),
}

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")]


@pytest.fixture
def limiter(valkey):
    with valkey.client() as client, Limiter(client, denial_cache=False, deadline=5) as made:
        made.catalog.put_plan(UsagePlan("gold", Throttle(LIMIT, LIMIT), Quota(LIMIT, "DAY"), [STAGE]))
        yield made


@pytest.fixture
def key(limiter):
    return limiter.catalog.create_key(plans=["gold"]).value


@contextmanager
def serving(name, redis_url, folder):
    """Start a server, yield its port as soon as it takes connections, and end it. What it logged is printed."""
    port = free_port()
    command = [sys.executable, "-m", *(word.format(port=port) for word in SERVERS[name])]
    environment = {**os.environ, "RATELIMIT_URL": redis_url, "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER}"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=log, stderr=log)
    try:
        until_s = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until_s, "it does not listen"
            time.sleep(0.005)
        yield port
    finally:
        end(process)
    text = (folder / "log").read_text()
    sys.stdout.write(text)
    assert "Traceback" not in text


def used(limiter, key):
    return LIMIT - limiter.peek(key, STAGE, METHOD).limits[1].remaining


@pytest.mark.timeout(60 * (COLD_STARTS + 1))
@pytest.mark.parametrize("name", SERVERS)
def test_the_first_burst_of_a_server(valkey, limiter, key, name, tmp_path):
    """3,000 requests at once with 200 connections, as soon as it listens: all are 200, each is charged once."""
    counts = []
    for _ in range(COLD_STARTS):
        with serving(name, valkey.url, tmp_path) as port:
            counts.append(dict(asyncio.run(statuses(port, "/pets", key, REQUESTS, CONCURRENCY))))
    assert counts == [{200: REQUESTS}] * COLD_STARTS
    assert used(limiter, key) == REQUESTS * COLD_STARTS


def test_a_view_in_event_loops_of_their_own(valkey, limiter, key, tmp_path):
    """Flask runs each request of an async view in a loop that lives for it: the same limiter answers all."""
    with serving("gunicorn, 4 x 4 threads", valkey.url, tmp_path) as port:
        counts = asyncio.run(statuses(port, "/async/pets", key, 300, 16))
    assert counts == {200: 300}
    assert used(limiter, key) == 300


GREENLETS = """
import gevent.monkey
gevent.monkey.patch_all()
import sys
import gevent
from ratelimit import Limiter

url, key = sys.argv[1:]
with Limiter.from_url(url) as limiter:
    limiter.warm_up()
    refused = []

    def caller():
        for _ in range(300):
            decision = limiter.check(key, "petstore/prod", "GET /pets")
            if not decision.allowed:
                refused.append((decision.cause, decision.error))

    gevent.joinall([gevent.spawn(caller) for _ in range(64)], raise_error=True)
print(len(refused), refused[:3])
"""


def test_sixty_four_greenlets(valkey, limiter, key):
    """Under the deadline that there is by default, 300 checks each: none is refused."""
    command = [sys.executable, "-c", GREENLETS, valkey.url, key]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0 []\n"), ended.stderr
    assert used(limiter, key) == 64 * 300
