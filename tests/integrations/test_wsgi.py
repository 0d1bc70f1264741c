"""WSGI applications of no framework behind the middleware, under gunicorn."""

import json
import warnings

import pytest

pytest.importorskip("gunicorn", reason="not installed: the group `integrations`")
pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from flask import Flask
from helpers.site import FIELDS, FOREVER, ORIGIN, PREFLIGHT, served_site
from helpers.web import ITEM, STAGE, ask, uvicorn_server
from starlette.applications import Starlette
from starlette.routing import Mount

from ratelimit import AsyncLimiter, ConfigError, Decision, Limiter, PlanStage, Reason, Throttle, UsagePlan
from ratelimit.integrations.asgi import install
from ratelimit.integrations.flask import RateLimit
from ratelimit.integrations.wsgi import RateLimitMiddleware

THREE = Throttle(FOREVER, 3)


@pytest.fixture(scope="module")
def site(running, tmp_path_factory):
    with served_site("wsgi_app:app", running["valkey"], tmp_path_factory.mktemp("gunicorn")) as made:
        yield made


@pytest.fixture
def gold(site):
    """The fields of a request with a new key of the plan with a strict limit."""
    return site.key()


def test_one_template_is_one_limit(site, gold):
    """As the function says; the fourth of four paths is denied, as problem+json with all fields."""
    replies = [site.get(f"/v1/items/{number}", gold) for number in range(4)]
    assert [(reply.status, reply.body) for reply in replies[:3]] == [(200, b"ALLOWED")] * 3
    denied = replies[3]
    assert (denied.status, denied.fields["content-type"]) == (429, "application/problem+json")
    assert json.loads(denied.body)["violated-policies"] == [f"plan:gold:{ITEM}"]
    assert denied.fields.keys() >= {*FIELDS, "retry-after"}
    assert site.used(gold) == 3


def test_the_method_may_be_one_for_all(site, gold):
    """A text in place of a function."""
    assert site.statuses("GET", "/text/any/path", gold) == [200, 200, 200, 429]
    assert site.statuses("POST", "/text/another", gold, times=1) == [429]


def test_head_counts_as_get(site, gold):
    site.spend(gold)
    denied = site.ask("HEAD", "/v1/items/1", gold)
    assert (denied.status, denied.body, site.used(gold)) == (429, b"", 3)
    assert int(denied.fields["content-length"]) == len(site.get("/v1/items/1", gold).body)


@pytest.mark.parametrize("path", ["/unlisted/x", "/v1/nothing", "/raises/x", "/odd/x"])
def test_what_matches_no_route_is_unlisted(site, path):
    """Without a function, or where it says None, fails or returns no text."""
    small = site.key("small")
    replies = [site.get(path, small) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [site.method_of(reply) for reply in replies] == [None] * 4
    assert site.used(small) == 3
    assert site.get(path).status == 403


def test_unmatched_requests_that_spare_the_plan(site, gold):
    assert site.statuses("GET", "/unmatched/x", gold, times=2) == [200, 200]
    assert (site.get("/unmatched/x").status, site.used(gold)) == (403, 0)


def test_a_preflight_needs_no_key(site, gold):
    """Nor does one that is not limited at all; another OPTIONS does."""
    assert [site.ask("OPTIONS", "/v1/items/1", PREFLIGHT, key).status for key in ({}, gold)] == [200, 200]
    assert site.ask("OPTIONS", "/skip/x", PREFLIGHT).status == 200
    assert [site.ask("OPTIONS", path, ORIGIN).status for path in ("/v1/items/1", "/skip/x")] == [403, 403]
    assert site.used(gold) == 0


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_exempt_methods(site, verb):
    reply = site.ask(verb, "/exempt/x")
    assert (reply.status, [name for name in reply.names() if "ratelimit" in name]) == (200, [])
    assert site.ask("POST", "/exempt/x").status == 403


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/stream/x", 200, b"ab"), ("/written/x", 200, b"written"), ("/failing/x", 500, b"sorry")],
)
def test_fields_on_every_response(site, gold, path, status, body):
    """Streams, which are closed; what is written; an answer that takes the place of another."""
    reply = site.get(path, gold)
    assert (reply.status, reply.body) == (status, body)
    assert reply.fields.keys() >= FIELDS
    times = reply.names().count("content-type")  # 2 of an answer that another took the place of: gunicorn sends both
    assert [reply.names().count(name) for name in FIELDS] == [times, times]
    assert site.used(gold) == 1


def test_a_stream_is_closed(site, gold):
    """Once for each request."""
    before, after = (int(site.get("/stream/x", gold).fields["x-closed"]) for _ in range(2))
    assert after == before + 1


def test_an_application_that_raises(site, gold):
    """The server answers, without fields; the request is charged, and the next one served."""
    reply = site.get("/raising/x", gold)
    assert (reply.status, reply.fields.keys() & FIELDS) == (500, set())
    assert site.used(gold) == 1
    assert site.get("/v1/items/1", gold).status == 200


def test_fields_of_the_application_stay(site, gold):
    """Whatever their case, and each is there once; what browsers may read is added to what the application says."""
    reply = site.get("/own-fields/x", gold, ORIGIN)
    assert (reply.fields["ratelimit"], reply.fields["retry-after"]) == ('"own";r=1', "7")
    assert reply.fields["access-control-expose-headers"] == "X-Own, Retry-After, RateLimit, RateLimit-Policy"
    once = ("ratelimit", "ratelimit-policy", "retry-after", "access-control-expose-headers")
    assert [reply.names().count(name) for name in once] == [1] * 4
    assert site.get("/own-fields/x", gold).fields["access-control-expose-headers"] == "X-Own"


@pytest.mark.parametrize(("kind", "status"), [("app", 420), ("none", 403), ("odd", 403), ("fails", 403)])
def test_own_answers_to_denied_requests(site, kind, status):
    """An application's; if there is none, or it fails, ours."""
    reply = site.get(f"/own/{kind}")
    assert reply.status == status
    assert (reply.body == b"own") == (status == 420)


def test_own_answers_have_fields(site):
    small = site.key("small")
    replies = [site.get("/own/app", small) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 420]
    assert replies[3].fields.keys() >= {*FIELDS, "retry-after"}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([("x-api-key", "{key}"), ("x-api-key", "{key}")], id="twice"),
        pytest.param([("x-api-key", "")], id="empty"),
        pytest.param([("x-api-key", "k" * 100_000)], id="of 100 kB"),
        pytest.param([("x-api-key", b"\xff\xfe\xe4" * 10)], id="not UTF-8"),
        pytest.param([], id="absent"),
    ],
)
def test_a_header_without_a_key(site, gold, header):
    """One and the same 403 for each."""
    key = gold["x-api-key"]
    pairs = [(name, text.replace("{key}", key) if isinstance(text, str) else text) for name, text in header]
    reply = ask(site.port, "GET", "/v1/items/1", pairs)
    assert (reply.status, json.loads(reply.body)) == (403, {"type": "about:blank", "title": "Forbidden", "status": 403})
    assert site.used(gold) == 0


def test_redis_is_down(site):
    """Each request is 503."""
    replies = [site.get(path, {"x-api-key": "k" * 30}) for path in ("/down/x", "/down/y")]
    assert [(reply.status, json.loads(reply.body)["status"]) for reply in replies] == [(503, 503)] * 2


def test_another_dialect(site, gold):
    """The fields by the names that clients of OpenAI read."""
    reply = site.get("/openai/x", gold)
    assert reply.fields["x-ratelimit-remaining-requests"] == "999"
    assert reply.fields.keys() & FIELDS == set()


def in_a_mount(app):
    """A WSGI application within one of Starlette, whose own way to do so works, and says that it is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from starlette.middleware.wsgi import WSGIMiddleware

    return Starlette(routes=[Mount("/legacy", WSGIMiddleware(app))])


def flask_items():
    app = Flask("items")
    app.add_url_rule("/v1/items/<int:item_id>", "item", lambda item_id: f"{item_id}")
    return app


def four_items(port, key):
    return [ask(port, "GET", f"/legacy/v1/items/{number}", key).status for number in range(4)]


def test_in_a_mount_that_is_limited(valkey, catalog, small):
    """The one around it knows its mount alone: all that is behind it is `/legacy/{path}`."""
    catalog.put_plan(UsagePlan("small", Throttle(1, 100), None, [PlanStage(STAGE, {"GET /legacy/{path}": THREE})]))
    app = in_a_mount(flask_items())
    install(app, valkey.url, stage=STAGE)
    with uvicorn_server(app) as port:
        assert four_items(port, small) == [200, 200, 200, 429]


def test_limited_in_a_mount(valkey, catalog, small):
    """One with an extension of its own has its own templates, whatever it is mounted in."""
    catalog.put_plan(UsagePlan("small", Throttle(1, 100), None, [PlanStage(STAGE, {ITEM: THREE})]))
    items = flask_items()
    with Limiter.from_url(valkey.url, deadline=5) as limiter:
        RateLimit(items, limiter, stage=STAGE)
        with uvicorn_server(in_a_mount(items)) as port:
            assert four_items(port, small) == [200, 200, 200, 429]


class Stub:
    """A limiter that admits all."""

    def check(self, *_):
        return Decision(Reason.ALLOWED)

    def warm_up(self, *_):
        pass


async def asynchronous(*_):
    pass


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"stage": "nowhere"}, "stage: cannot be 'nowhere': write '<api>/<stage>'"),
        ({"method": 42}, "method: must be a function, not int"),
        ({"method": "get /pets"}, "method: cannot be 'get /pets': write '<VERB> <path>'"),
        ({"method": asynchronous}, "method: cannot be an asynchronous function in blocking code"),
        ({"on_denied": asynchronous}, "on_denied: cannot be an asynchronous function in blocking code"),
        ({"on_denied": "429"}, "on_denied: must be a function, not str"),
        ({"key": asynchronous}, "key: cannot be an asynchronous function in blocking code"),
        ({"key": "x-api-key"}, "key: cannot be str"),
        ({"limiter": AsyncLimiter.from_url("unix:///nowhere")}, "limiter: cannot be an AsyncLimiter in blocking code"),
        ({"limiter": None}, "limiter: cannot be NoneType"),
        ({"headers": "x"}, "headers: must be one of ietf, legacy, openai, none"),
        ({"exempt": "GET /docs"}, "exempt: must be a list of methods"),
        ({"preflight": True}, "preflight: must be one of check, skip"),
    ],
)
def test_arguments_that_cannot_be_used(options, problem):
    """A clear error where the application is made, which names the argument and the remedy."""
    with pytest.raises(ConfigError) as caught:
        RateLimitMiddleware(lambda environ, start_response: [], **{"limiter": Stub(), "stage": STAGE, **options})
    assert str(caught.value).startswith(problem)
