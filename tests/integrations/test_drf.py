"""The throttle of REST framework without the middleware, under gunicorn and uvicorn, with a clock that stands still.

With the middleware, which checks before it, the views are those of test_django.py, whose project has both.
"""

import json

import pytest

pytest.importorskip("rest_framework", reason="not installed: the group `integrations`")

from helpers.clock import FakeClock
from helpers.django_project.servers import KINDS, THREADS, django_server
from helpers.servers import Server
from helpers.web import STAGE, Used, ask

from ratelimit import Limiter, PlanStage, Quota, Throttle, UsagePlan

THING = "GET /api/things/{pk}/"
FIELDS = {"ratelimit", "ratelimit-policy"}
CORS = ["corsheaders.middleware.CorsMiddleware"]


@pytest.fixture(scope="module")
def redis():
    server = Server("valkey")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def limiter(redis):
    with redis.client() as client, Limiter(client, clock=FakeClock(), deadline=5) as limiter:
        strict = PlanStage(STAGE, {THING: Throttle(1, 3)})
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(100_000, "DAY"), [strict]))
        yield limiter


@pytest.fixture(scope="module", params=KINDS)
def server(request, redis, limiter):
    blocking = {"LIMITER": "helpers.django_project.project.blocking_limiter", "STAGE": STAGE}
    options = KINDS[request.param]
    with django_server(request.param, redis.url, *options, MIDDLEWARE=CORS, RATELIMIT=blocking) as started:
        yield started


@pytest.fixture
def port(server):
    return server.port


@pytest.fixture
def gold(limiter):
    return {"x-api-key": limiter.catalog.create_key(plans=["gold"]).value}


@pytest.fixture
def used(limiter):
    return Used(limiter)


def test_no_key_is_403(port):
    """Case 20: in the words of the framework, whatever is wrong with the key."""
    replies = [
        ask(port, "GET", "/api/things/5/", fields) for fields in ({}, {"x-api-key": "x" * 40}, {"x-api-key": ""})
    ]
    assert [reply.status for reply in replies] == [403] * 3
    (body,) = {reply.body for reply in replies}
    assert json.loads(body) == {"detail": "You do not have permission to perform this action."}


def test_spent_is_429(port, gold):
    """Case 20: with the time to wait; all responses of the view have fields."""
    replies = [ask(port, "GET", f"/api/things/{number}/", gold) for number in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert all(set(reply.fields) >= FIELDS for reply in replies)
    assert replies[3].fields["retry-after"] == "1"
    assert json.loads(replies[3].body) == {"detail": "Request was throttled. Expected available in 1 second."}


def test_a_browser_can_read_a_denial(port, gold):
    for _ in range(3):
        ask(port, "GET", "/api/things/5/", gold)
    denied = ask(port, "GET", "/api/things/5/", {**gold, "Origin": "https://shop.example"})
    assert denied.status == 429
    assert denied.fields["access-control-allow-origin"] == "*"
    assert denied.fields["access-control-expose-headers"] == "Retry-After, RateLimit, RateLimit-Policy"


def test_it_sees_what_the_framework_gives_it(port, gold, used):
    """Views of classes, actions and 405 with their costs; neither 404 nor views of Django itself."""
    costs = {
        ("GET", "/api/plain"): (200, 2),
        ("POST", "/api/below"): (200, 3),
        ("GET", "/api/above"): (200, 0),
        ("GET", "/api/things/5/open/"): (200, 0),
        ("DELETE", "/api/things/"): (405, 1),
        ("GET", "/api/things/none/none/"): (404, 0),
        ("GET", "/file"): (200, 0),
    }
    for (verb, path), (status, cost) in costs.items():
        before = used(gold)["plan:gold"]
        assert (verb, path, ask(port, verb, path, gold).status) == (verb, path, status)
        assert (verb, path, used(gold)["plan:gold"] - before) == (verb, path, cost)


def test_redis_away_is_503(tmp_path):
    """Case 20: an exception of the framework, so that its handlers see it."""
    url = f"unix://{tmp_path}/none.sock"
    setting = {"LIMITER": url, "STAGE": STAGE}
    with django_server("wsgi", url, *THREADS, MIDDLEWARE=CORS, RATELIMIT=setting) as server:
        for _ in range(2):
            reply = ask(server.port, "GET", "/api/things/5/", {"x-api-key": "x" * 40})
            assert reply.status == 503
            assert json.loads(reply.body) == {"detail": "The request cannot be decided on at present."}
        assert ask(server.port, "GET", "/api/above").status == 200
        assert "Traceback" not in server.log()
