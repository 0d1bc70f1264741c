"""Django and REST framework behind the middleware, under gunicorn and uvicorn: what a request is charged and answered.

The numbers are those of the cases that every adapter has to pass. Each server runs once, with a clock that stands
still; each test has keys of its own.
"""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("corsheaders", reason="not installed: the group `integrations`")

from helpers.clock import FakeClock
from helpers.django_project.servers import KINDS, django_server
from helpers.servers import Server
from helpers.web import ITEM, STAGE, Used, ask, request_bytes, send

from ratelimit import Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan

FIELDS = {"ratelimit", "ratelimit-policy"}
ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}

TEMPLATES = {
    "/a/list/1": "GET /a/list/{item_id}",
    "/b/list/1": "GET /b/list/{item_id}",
    "/loop/1": "GET /loop/{number}",
    "/deep/acme/x/abc/": "GET /deep/{tenant}/x/{x}/",
    "/deep/acme/y/p/q/r": "GET /deep/{tenant}/y/{rest}",
    "/regex/2026/": "GET /regex/{year}/",
    "/file/report.js-on": "GET /file/{name}.{kind}",
    "/unnamed/5/abab": "GET /unnamed/{var}/{var}",
    "/x1y2": "GET /x{left}y{right}",
    "/uuid/6f1b4e9c-6f55-4bb0-9f3f-0a8a6a1c2b3d": "GET /uuid/{one}",
    "/static/views.py": "GET /static/{path}",
    "/pets/1": "GET /pets/{pet_id}",
    "/api/things/5/": "GET /api/things/{pk}/",
    "/api/things.json": "GET /api/things.{format}/",
    "/api/things/of/me/": "GET /api/things/of/{owner}/",
    "/api/": "GET /api/",
}
"""Paths, and the method that a plan has to list for them: case 3, and what is included (2, 4) or served (5)."""


@pytest.fixture(scope="module")
def redis():
    server = Server("valkey")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def catalog(redis):
    """As in conftest.py, but for all tests; and a plan that lists each template with one request."""
    with redis.client() as client, Limiter(client, clock=FakeClock(), deadline=5) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(
            UsagePlan("gold", Throttle(1, 1000), Quota(100_000, "DAY"), [PlanStage(STAGE, {ITEM: Throttle(1, 3)})])
        )
        catalog.put_plan(UsagePlan("small", Throttle(1, 3), None, [STAGE]))
        once = PlanStage(STAGE, dict.fromkeys(TEMPLATES.values(), Throttle(1, 1)))
        catalog.put_plan(UsagePlan("listing", Throttle(1, 1000), None, [once]))
        catalog.put_stage(Stage(STAGE, Throttle(1, 1_000_000)))
        yield SimpleNamespace(
            limiter=limiter, key=lambda plan: {"x-api-key": catalog.create_key(plans=[plan]).value}, catalog=catalog
        )


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def server(request, redis, catalog):
    """A server, started once."""
    with django_server(request.param, redis.url, *KINDS[request.param]) as started:
        yield started


@pytest.fixture
def port(server):
    return server.port


@pytest.fixture
def gold(catalog):
    return catalog.key("gold")


@pytest.fixture
def small(catalog):
    return catalog.key("small")


@pytest.fixture
def used(catalog):
    return Used(catalog.limiter)


def statuses(port, verb, path, fields=(), times=4, body=b""):
    return [ask(port, verb, path, fields, body).status for _ in range(times)]


def test_paths_of_one_template_share_its_limit(port, gold, used):
    """Case 1: routes included twice over, any path; the fourth is denied, with all fields."""
    assert [ask(port, "GET", f"/v1/items/{number}", gold).status for number in (1, 2, 3)] == [200] * 3
    denied = ask(port, "GET", "/v1/items/4", gold)
    assert denied.status == 429
    assert denied.fields["content-type"] == "application/problem+json"
    assert denied.fields["retry-after"] == "1"
    assert denied.fields["ratelimit-policy"].startswith(f'"plan:gold:{ITEM}";q=3;w=3, ')
    assert denied.fields["ratelimit"].startswith(f'"plan:gold:{ITEM}";r=0;t=1, ')
    problem = json.loads(denied.body)
    assert (problem["status"], problem["violated-policies"]) == (429, [f"plan:gold:{ITEM}"])
    assert used(gold, ITEM)[f"plan:gold:{ITEM}"] == 3
    assert used(gold)["plan:gold"] == 0


def test_every_kind_of_route_has_its_template(port, catalog):
    """Cases 2 to 5: the second request of each is denied by the limit of that very method, and by no other."""
    fields = catalog.key("listing")
    assert [ask(port, "GET", path, fields).status for path in TEMPLATES] == [200] * len(TEMPLATES)
    denied = [ask(port, "GET", path, fields) for path in TEMPLATES]
    assert [reply.status for reply in denied] == [429] * len(TEMPLATES)
    violated = [json.loads(reply.body)["violated-policies"] for reply in denied]
    assert violated == [[f"plan:listing:{method}"] for method in TEMPLATES.values()]


def test_an_optional_group_is_left_out(port, catalog):
    """Both forms of a route are one method, that of the shorter."""
    fields = catalog.key("listing")
    assert statuses(port, "GET", "/regex/2026/page-2/", fields, 1) + statuses(
        port, "GET", "/regex/1999/", fields, 1
    ) == [
        200,
        429,
    ]


def test_routes_of_a_host(port, gold, used):
    """Case 6: the same path is another route under another host."""
    assert statuses(port, "GET", "/v1/items/1", {**gold, "Host": "shop.example"}) == [200] * 4
    assert (used(gold)["plan:gold"], used(gold, ITEM)[f"plan:gold:{ITEM}"]) == (4, 0)
    assert statuses(port, "GET", "/v1/items/1", gold) == [200, 200, 200, 429]


def test_head_is_get(port, gold, used):
    """Case 7: denied as GET is, without a body; a view that takes no HEAD is charged as well."""
    assert statuses(port, "GET", "/v1/items/1", gold, 3) == [200] * 3
    denied = ask(port, "HEAD", "/v1/items/1", gold)
    assert (denied.status, denied.body) == (429, b"")
    assert int(denied.fields["content-length"]) > 100
    assert set(denied.fields) >= FIELDS | {"retry-after"}
    assert ask(port, "HEAD", "/get/", gold).status == 405
    assert used(gold)["plan:gold"] == 1


@pytest.mark.parametrize("path", ["/v1/items/1", "/pets/1", "/api/things/", "/nowhere"])
def test_a_preflight_needs_no_key(port, small, used, path):
    """Case 8: without a key, and with one that is out of its limit; it is charged nothing."""
    assert statuses(port, "GET", "/trail/", small) == [200, 200, 200, 429]
    for fields in ({}, small):
        reply = ask(port, "OPTIONS", path, {**PREFLIGHT, **fields})
        assert (reply.status, reply.fields["access-control-allow-origin"]) == (200, "*")
    assert used(small) == {"plan:small": 3, "stage:petstore/prod:*": used(small)["stage:petstore/prod:*"]}


def test_options_that_are_no_preflight_need_a_key(port, gold, used):
    """As any other verb."""
    assert [ask(port, "OPTIONS", "/pets/1", fields).status for fields in ({}, gold)] == [403, 200]
    assert used(gold)["plan:gold"] == 1


@pytest.mark.parametrize("path", ["/v1/items/1", "/nowhere"])
def test_a_browser_can_read_a_denial(port, small, path):
    """Case 9: whether it is denied before its view or after no route was found."""
    statuses(port, "GET", "/trail/", small, 3)
    denied = ask(port, "GET", path, {**small, **ORIGIN})
    assert denied.status == 429
    assert denied.fields["access-control-allow-origin"] == "*"
    assert denied.fields["access-control-expose-headers"] == "Retry-After, RateLimit, RateLimit-Policy"
    assert ask(port, "GET", path, small).fields.keys().isdisjoint({"access-control-expose-headers"})


UNLISTED = [("GET", "/nowhere", 404), ("GET", "/v1/items/x", 404), ("PUT", "/pets/1", 405), ("PUT", "/api/plain", 405)]


@pytest.mark.parametrize(("verb", "path", "status"), UNLISTED)
def test_what_matches_no_route_is_charged(port, small, used, verb, path, status):
    """Case 10: with fields, to the plan; denied when that is spent, and without a key."""
    replies = [ask(port, verb, path, small) for _ in range(4)]
    assert [reply.status for reply in replies] == [status] * 3 + [429]
    assert all(set(reply.fields) >= FIELDS for reply in replies)
    assert used(small)["plan:small"] == 3
    assert json.loads(replies[3].body)["violated-policies"] == ["plan:small"]
    assert ask(port, verb, path).status == 403


def test_verbs_that_a_view_of_a_function_takes(port, gold, used):
    """It takes all of them: each is a method of its own, which the plan does not list."""
    assert [ask(port, verb, "/v1/items/1", gold).status for verb in ("DELETE", "PATCH", "PROPFIND")] == [200] * 3
    assert used(gold)["plan:gold"] == 3


def test_a_redirect_to_the_slash(port, small, used):
    """Case 11: it is charged once, and so is the request that follows it; spent, it is denied."""
    reply = ask(port, "GET", "/trail?a=1", small)
    assert (reply.status, reply.fields["location"]) == (301, "/trail/?a=1")
    assert set(reply.fields) >= FIELDS
    assert used(small)["plan:small"] == 1
    assert ask(port, "GET", "/trail/?a=1", small).status == 200
    assert used(small)["plan:small"] == 2
    assert statuses(port, "GET", "/trail", small, 2) == [301, 429]
    assert ask(port, "GET", "/trail").status == 403


@pytest.mark.parametrize(("path", "broken"), [("/v1/items/1/change", 500), ("/api/things/", 400), ("/api/plain", 400)])
def test_a_body_that_cannot_be_read_is_charged(port, catalog, small, path, broken):
    """Case 12: before anybody reads it."""
    fields = {**(small if path != "/api/things/" else catalog.key("gold")), "Content-Type": "application/json"}
    expected = [broken] * 3 + ([429] if path != "/api/things/" else [broken])
    assert statuses(port, "POST", path, fields, 4, b'{"amount": ') == expected


ANSWERS = {
    "/stream": (200, b"ab"),
    "/stream/loop": (200, b"ab"),
    "/file": (200, None),
    "/404": (404, None),
    "/500": (500, None),
    "/api/plain": (200, b'{"decision":"ALLOWED"}'),
}


@pytest.mark.parametrize("path", ANSWERS)
def test_fields_are_on_every_response(port, gold, used, path):
    """Cases 13 and 14: streams, files, errors of views, and the 500 of an exception that nobody handles."""
    reply = ask(port, "GET", path, gold)
    status, body = ANSWERS[path]
    assert reply.status == status
    assert body is None or reply.body == body
    assert set(reply.fields) >= FIELDS
    assert used(gold)["plan:gold"] == (2 if path == "/api/plain" else 1)


def test_fields_of_a_stream_that_breaks(port, gold):
    """They are sent before it does."""
    assert set(ask(port, "GET", "/stream/broken", gold).fields) >= FIELDS


def test_fields_of_the_view_stay(port, gold):
    reply = ask(port, "GET", "/own", gold)
    assert (reply.fields["ratelimit"], reply.fields["retry-after"]) == ('"own";r=1', "7")


def test_paths_as_django_reads_them(port, gold, used):
    """Case 17: what it matches is that method, what it does not is unlisted."""
    paths = {
        "/v1/%69tems/5": 200,
        "/v1/items/%35": 200,
        "//v1/items/5": 404,
        "/v1/items/5/": 404,
        "/v1/items/5%2F6": 404,
    }
    assert {path: ask(port, "GET", path, gold).status for path in paths} == paths
    assert (used(gold)["plan:gold"], used(gold, ITEM)[f"plan:gold:{ITEM}"]) == (3, 2)


COSTS = {
    ("GET", "/pets/1"): 1,
    ("POST", "/pets/1"): 5,
    ("GET", "/costly"): 2,
    ("HEAD", "/costly"): 2,
    ("PUT", "/every/1"): 1,
    ("GET", "/exempt"): 0,
    ("GET", "/api/things/"): 1,
    ("POST", "/api/things/"): 5,
    ("GET", "/api/things/5/open/"): 0,
    ("GET", "/api/plain"): 2,
    ("HEAD", "/api/plain"): 2,
    ("POST", "/api/below"): 3,
    ("GET", "/api/above"): 0,
}


@pytest.mark.parametrize(("verb", "path"), COSTS)
def test_marks_on_views(port, gold, used, verb, path):
    """On functions, on classes and their functions, on actions, above and below `@api_view`."""
    fields = {**gold, "Content-Type": "application/json"} if verb == "POST" else gold
    reply = ask(port, verb, path, fields, b'{"amount": 1}' if verb == "POST" else b"")
    cost = COSTS[verb, path]
    assert reply.status == 200
    assert used(gold)["plan:gold"] == cost
    assert FIELDS.issubset(reply.fields) == bool(cost)
    assert ask(port, verb, path).status == (403 if cost else 200)


def keys_that_are_none(value):
    return {
        "missing": [],
        "empty": [("x-api-key", "")],
        "unknown": [("x-api-key", "x" * 40)],
        "sent twice": [("x-api-key", value), ("x-api-key", value)],
        "twice, one of them empty": [("x-api-key", value), ("x-api-key", "")],
        "another in front": [("x-api-key", "y" * 40), ("x-api-key", value)],
        "with an underscore": [("x_api_key", value)],
        "of 100 kB": [("x-api-key", "z" * 100_000)],
        "not UTF-8": [("x-api-key", b"\xff\xfe" + b"k" * 30)],
    }


@pytest.mark.parametrize("path", ["/v1/items/1", "/nowhere", "/trail", "/api/things/"])
def test_keys_that_are_none(port, gold, used, path):
    """Case 22: one and the same 403 each, and nothing is charged."""
    sent = keys_that_are_none(gold["x-api-key"])
    replies = {name: send(port, request_bytes("GET", path, fields)) for name, fields in sent.items()}
    assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(sent, 403)
    assert {reply.body for reply in replies.values()} == {b'{"type":"about:blank","title":"Forbidden","status":403}'}
    assert used(gold)["plan:gold"] == 0


def test_requests_that_are_odd(port, gold):
    """A path that is no path, and other things that servers let through: no 500."""
    for verb, path in (
        ("OPTIONS", "*"),
        ("GET", "/%ff%fe"),
        ("GET", "/%00"),
        ("GET", "/a?x=%ff"),
        ("GET", "/" + "a" * 3000),
    ):
        assert ask(port, verb, path, gold).status in {400, 404}


def test_nothing_of_a_key_is_logged(server, gold):
    """Whatever is denied."""
    value = gold["x-api-key"]
    for fields in keys_that_are_none(value).values():
        send(server.port, request_bytes("GET", "/v1/items/1", fields))
    assert value not in server.log()
