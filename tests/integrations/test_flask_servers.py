"""Flask under each kind of gunicorn's workers: the first burst, views with a loop of their own, the end."""

import asyncio
import json
from contextlib import contextmanager

import pytest

pytest.importorskip("gevent", reason="not installed: the group `integrations`")
pytest.importorskip("gunicorn", reason="not installed: the group `integrations`")

from helpers.gunicorn import gunicorn_server
from helpers.http_load import statuses
from helpers.waiting import wait_for
from helpers.web import STAGE, ask

from ratelimit import Limiter, Quota, Throttle, UsagePlan

REQUESTS, CONCURRENCY, LIMIT = 300, 20, 1_000_000
WORKERS = {
    "sync": (),
    "gthread": ("--threads", "8"),
    "gevent": ("-k", "gevent"),
    "gthread, preloaded": ("--threads", "8", "--preload"),
    "gevent, preloaded": ("-k", "gevent", "--preload"),
}


@pytest.fixture
def limiter(valkey):
    with valkey.client() as client, Limiter(client, deadline=5) as made:
        made.catalog.put_plan(UsagePlan("gold", Throttle(LIMIT, LIMIT), Quota(LIMIT, "DAY"), [STAGE]))
        yield made


@pytest.fixture
def key(limiter):
    return limiter.catalog.create_key(plans=["gold"]).value


@contextmanager
def serving(valkey, tmp_path, *options, stage=STAGE, **more):
    variables = {"TEST_RATELIMIT_URL": valkey.url, "TEST_RATELIMIT_STAGE": stage}
    with gunicorn_server("flask_of_urls:app", tmp_path, *options, **variables, **more) as served:
        yield served


def denials(client):
    """What Redis holds of them, by plan, key and reason."""
    days = [client.hgetall(name) for name in client.keys("ratelimit:denials:*")]
    return [{field.decode(): int(count) for field, count in day.items()} for day in days]


@pytest.mark.parametrize("workers", WORKERS)
def test_workers(valkey, limiter, key, tmp_path, workers):
    """The first requests come at once, under the deadline that there is by default: all are 200, each is charged once.

    Asynchronous views have an event loop for each request; under gevent Flask cannot serve several of them at once.
    When the server ends, each worker closes the limiter that the extension has made: denials are in Redis then.
    """
    paths = ["/pets"] if "gevent" in workers else ["/pets", "/async/pets"]
    limiter.catalog.put_plan(UsagePlan("nothing", Throttle(0, 0), None, [STAGE]))
    denied = limiter.catalog.create_key(plans=["nothing"])
    with valkey.client() as client, serving(valkey, tmp_path, *WORKERS[workers], workers=2) as served:
        seen = [asyncio.run(statuses(served.port, path, key, REQUESTS, CONCURRENCY)) for path in paths]
        refused = [ask(served.port, "GET", "/pets", {"x-api-key": denied.value}).status for _ in range(5)]
        log = served.end()
        counted = denials(client)
    assert seen == [{200: REQUESTS}] * len(paths)
    assert LIMIT - limiter.peek(key, STAGE, "GET /pets").limits[1].remaining == len(paths) * REQUESTS
    assert (refused, counted) == ([429] * 5, [{f"nothing|{denied.id}|THROTTLED": 5}])
    assert [line for line in log.splitlines() if "Traceback" in line or "503" in line or "not ready" in line] == []
    assert "rl_live_" not in log


def test_a_worker_may_warm_up_before_its_first_request(valkey, limiter, tmp_path):
    """By the hook of gunicorn that the documents show: Redis has its connections while nobody has asked anything."""
    with valkey.client() as client:
        before = len(client.client_list())
        with serving(valkey, tmp_path, configuration="gunicorn_warm_up_conf"):
            wait_for(lambda: len(client.client_list()) > before)


def test_a_stage_that_nobody_has_configured(valkey, limiter, key, tmp_path):
    """The application starts; the log says it at ERROR, once in each process, when the first request comes."""
    with serving(valkey, tmp_path, stage="petstore/typo") as served:
        seen = [ask(served.port, "GET", "/pets", {"x-api-key": key}).status for _ in range(3)]
        log = served.end()
    assert seen == [403] * 3
    lines = [line for line in log.splitlines() if "petstore/typo" in line]
    assert len(lines) == 1
    assert "no plan opens the stage 'petstore/typo'" in lines[0]


def test_redis_comes_later(valkey, limiter, key, tmp_path):
    """A server that starts without Redis answers 503 until Redis is there, and never 500."""
    with serving(valkey, tmp_path) as served:
        with valkey.stopped():
            assert [ask(served.port, "GET", "/pets", {"x-api-key": key}).status for _ in range(2)] == [503, 503]
        wait_for(lambda: ask(served.port, "GET", "/pets", {"x-api-key": key}).status == 200)
        assert json.loads(ask(served.port, "GET", "/pets", {"x-api-key": key}).body) == ["ALLOWED"]
