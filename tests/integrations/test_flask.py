"""Flask behind the extension, under gunicorn: what each request is charged, and what it is answered."""

import json
import socket
from contextlib import closing

import pytest

pytest.importorskip("flask_cors", reason="not installed: the group `integrations`")
pytest.importorskip("gunicorn", reason="not installed: the group `integrations`")

from helpers.flask_rules import RULES
from helpers.site import FIELDS, ORIGIN, PREFLIGHT, served_site
from helpers.web import ITEM, ask, request_bytes, send

LISTED = [
    *(f"GET /rules{template}" for _, template, _ in RULES),
    *("GET /a/list/{i}", "GET /b/list/{i}", "GET /once/twice/{i}", "GET /again/{tenant}/twice/{i}"),
    *("GET /h/{a}", "GET /h/{b}", "GET /only/{a}", "GET /static/{filename}", "GET /trail/", "GET /late/{x}"),
]


@pytest.fixture(scope="module")
def site(running, tmp_path_factory):
    with served_site("flask_app:app", running["valkey"], tmp_path_factory.mktemp("gunicorn"), LISTED) as made:
        yield made


@pytest.fixture
def gold(site):
    """The fields of a request with a new key of the plan with a strict limit."""
    return site.key()


def test_one_template_is_one_limit(site, gold):
    """Blueprints in blueprints: the fourth of four paths is denied, as problem+json with all fields."""
    replies = [site.get(f"/v1/items/{number}", gold) for number in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert [reply.body for reply in replies[:3]] == [b"GET {'item_id': %d}" % number for number in range(3)]
    assert all(reply.fields.keys() >= FIELDS for reply in replies)
    assert [reply.fields["ratelimit"].split(";")[1] for reply in replies] == ["r=2", "r=1", "r=0", "r=0"]
    denied = replies[3]
    assert denied.fields["content-type"] == "application/problem+json"
    assert json.loads(denied.body)["violated-policies"] == ["plan:gold:GET /v1/items/{item_id}"]
    assert int(denied.fields["retry-after"]) in range(999_000, 1_000_001)
    assert denied.names().count("content-type") == denied.names().count("ratelimit") == 1
    assert site.used(gold) == 3


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/a/list/1", "GET /a/list/{i}"),
        ("/b/list/1", "GET /b/list/{i}"),
        ("/once/twice/1", "GET /once/twice/{i}"),
        ("/again/of-a-tenant/twice/1", "GET /again/{tenant}/twice/{i}"),
        ("/static/a.txt", "GET /static/{filename}"),
        *((f"/rules{path}", f"GET /rules{template}") for _, template, path in RULES),
    ],
)
def test_templates(site, gold, path, method):
    """Blueprints with equal inner paths, one that is registered twice, static files, all converters."""
    reply = site.get(path, gold)
    assert (reply.status, site.method_of(reply)) == (200, method)


def test_hosts(site, gold):
    """One path under two hosts is two rules; one that a host has not is unlisted there."""
    seen = [
        (reply.status, site.method_of(reply))
        for host in ("a.example", "b.example", "a.example")
        for path in ("/h/1", "/only/1")
        for reply in [site.get(f"/hosts{path}", gold, {"Host": host})]
    ]
    of_a = [(200, "GET /h/{a}"), (200, "GET /only/{a}")]
    assert seen == [*of_a, (200, "GET /h/{b}"), (404, None), *of_a]
    assert site.used(gold) == 6


def test_head_counts_as_get(site, gold):
    """As it takes of the same limit, it does not get around it."""
    assert site.ask("HEAD", "/v1/items/1", gold).status == 200
    assert site.statuses("GET", "/v1/items/1", gold, times=3) == [200, 200, 429]
    denied = site.ask("HEAD", "/v1/items/1", gold)
    assert (denied.status, denied.body, site.used(gold)) == (429, b"", 3)
    assert denied.fields.keys() >= {*FIELDS, "retry-after"}
    assert int(denied.fields["content-length"]) == len(site.get("/v1/items/1", gold).body)


@pytest.mark.parametrize("prefix", ["", "/cors-before", "/cors-after"])
def test_a_preflight_needs_no_key(site, gold, prefix):
    """With none, or one that is spent: it is the framework's to answer, and charges nobody."""
    site.spend(gold)
    replies = [site.ask("OPTIONS", f"{prefix}/v1/items/1", PREFLIGHT, key) for key in ({}, gold)]
    assert [reply.status for reply in replies] == [200, 200]
    assert all(("access-control-allow-origin" in reply.fields) == bool(prefix) for reply in replies)
    assert site.used(gold) == 3
    other = site.ask("OPTIONS", f"{prefix}/v1/items/1", ORIGIN)
    assert other.status == 403  # no preflight


@pytest.mark.parametrize("prefix", ["/cors-before", "/cors-after"])
def test_browsers_can_read_a_denial(site, gold, prefix):
    """Flask-CORS adds its fields to it, whichever was there first."""
    site.spend(gold)
    denied = site.get(f"{prefix}/v1/items/1", gold, ORIGIN)
    assert (denied.status, denied.fields["access-control-allow-origin"]) == (429, ORIGIN["Origin"])
    exposed = denied.fields["access-control-expose-headers"].split(", ")
    own = ["X-Own"] if prefix == "/cors-after" else []
    assert exposed == [*own, "Retry-After", "RateLimit", "RateLimit-Policy"]
    assert denied.names().count("access-control-expose-headers") == 1
    assert "access-control-expose-headers" not in site.get("/v1/items/1", gold).fields


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("DELETE", "/v1/items/1", 405),
        ("FOO", "/v1/items/1", 405),
        ("GET", "/v1/items/none", 404),
        ("POST", "/trail", 404),
        ("GET", "/v1//items/1", 308),
        ("GET", "/v1/items/1/", 404),
        ("GET", "/v1/items/1%2F2", 404),
        ("GET", "/../v1/items/1", 404),
        ("GET", "/%ff%fe", 404),
        ("GET", "/" + "x" * 5000, 404),
    ],
)
def test_what_matches_no_rule_is_unlisted(site, verb, path, status):
    """It is charged to the plan, and denied as anything is when that is spent."""
    small = site.key("small")
    replies = [site.ask(verb, path, small) for _ in range(4)]
    assert [reply.status for reply in replies] == [status, status, status, 429]
    assert all(reply.fields.keys() >= FIELDS for reply in replies)
    assert site.used(small) == 3
    assert site.ask(verb, path).status == 403


@pytest.mark.parametrize("path", ["/v1/items/5", "/v1/%69tems/5", "/v1/items/%35", "/v1/items/5?key=x"])
def test_paths_that_match(site, gold, path):
    """As the framework decodes them."""
    reply = site.get(path, gold)
    assert (reply.status, site.method_of(reply)) == (200, ITEM)


def test_a_redirect_is_unlisted(site, gold):
    """To the path with a slash, which is then charged as itself."""
    redirect, then = site.get("/trail", gold), site.get("/trail/", gold)
    assert (redirect.status, site.method_of(redirect)) == (308, None)
    assert (then.status, site.method_of(then)) == (200, "GET /trail/")
    assert site.used(gold) == 2


@pytest.mark.parametrize(
    ("fields", "status"), [({"Content-Type": "application/json"}, 400), ({"password": "wrong"}, 401)]
)
def test_a_check_comes_first(site, fields, status):
    """Before the body is parsed, and before the application's own hooks, which were there first."""
    small = site.key("small")
    assert site.statuses("POST", "/json", small, fields, times=5, body=b"{not json") == [status] * 3 + [429] * 2
    assert site.used(small) == 3


def test_the_body_of_a_denied_request_is_not_read(site):
    """It is answered while the client has sent nothing of it."""
    request = request_bytes("POST", "/json", {"Content-Length": "1000000", "Content-Type": "application/json"})
    assert send(site.port, request, "POST").status == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/stream", 200),
        ("/broken-stream", 200),
        ("/file", 200),
        ("/teapot", 418),
        ("/fails", 500),
        ("/replaced", 203),
        ("/async", 200),
        ("/static/a.txt", 200),
        ("/static/nothing.txt", 404),
    ],
)
def test_fields_on_every_response(site, gold, path, status):
    """Streams, files, errors, and what a hook replaced the response by."""
    reply = site.get(path, gold)
    assert reply.status == status
    assert reply.fields.keys() >= FIELDS
    assert site.used(gold) == 1


def test_a_field_of_the_application_stays(site, gold):
    """A response that has one already keeps it, and has no other of that name."""
    reply = site.get("/own", gold)
    assert (reply.status, reply.fields["ratelimit"], reply.names().count("ratelimit")) == (202, '"own";r=1', 1)
    assert reply.fields["ratelimit-policy"].startswith('"plan:gold"')


def test_a_conditional_request_for_a_static_file(site, gold):
    """304 has the fields as well."""
    first = site.get("/static/a.txt", gold)
    again = site.get("/static/a.txt", gold, {"If-None-Match": first.fields["etag"]})
    assert again.status == 304
    assert again.fields.keys() >= FIELDS


def test_a_mounted_application(site, gold):
    """Where it is mounted, SCRIPT_NAME, is no part of the template: it has the same limit as the other one."""
    assert site.statuses("GET", "/mounted/v1/items/1", gold, times=2) == [200, 200]
    assert site.statuses("GET", "/v1/items/1", gold, times=2) == [200, 429]
    assert site.get("/mounted/v1/items/1", gold).status == 429


def test_a_late_route(site, gold):
    """One that is added after the first request is found."""
    assert site.method_of(site.get("/late/1", gold)) is None
    assert site.ask("POST", "/late", gold).body == b"added"
    reply = site.get("/late/1", gold)
    assert (reply.status, site.method_of(reply)) == (200, "GET /late/{x}")


def test_views_see_the_decision(site, gold):
    """In `flask.g`, also where a view is asynchronous: two requests have an event loop each."""
    seen = json.loads(site.get("/decision", gold).body)
    assert seen == {"reason": "ALLOWED", "limits": ["plan:gold", "quota:gold"]}
    assert [json.loads(site.get("/async", gold).body) for _ in range(2)] == [{"reason": "ALLOWED"}] * 2


@pytest.mark.parametrize(
    ("verb", "path", "cost"),
    [
        ("GET", "/marked/five", 5),
        ("HEAD", "/marked/five", 5),
        ("GET", "/marked/pets", 3),
        ("POST", "/marked/pets", 7),
        ("GET", "/marked/dear/four", 4),
        ("GET", "/marked/dear/inside", 4),
        ("GET", "/marked/health/checked", 2),
        ("GET", "/marked/docs", 0),
        ("HEAD", "/marked/docs", 0),
        ("GET", "/marked/health/live", 0),
        ("GET", "/cost/free", 0),
    ],
)
def test_costs_and_exemptions(site, gold, verb, path, cost):
    """Of views, of classes and their methods, of blueprints and those in them; exempt by name and by mark."""
    reply = site.ask(verb, path, gold)
    assert (reply.status, site.used(gold)) == (200, cost)
    assert site.ask(verb, path).status == (403 if cost else 200)
    if not cost:
        assert [name for name in reply.names() if "ratelimit" in name] == []


def test_unmatched_requests_that_spare_the_plan(site, gold):
    """With `charge_unmatched=False` 404 and 405 need a key, and charge it nothing."""
    assert site.statuses("GET", "/marked/nothing", gold, times=2) == [404, 404]
    assert site.ask("PUT", "/marked/five", gold).status == 405
    assert site.get("/marked/nothing").status == 403
    assert site.used(gold) == 0


def test_another_dialect(site, gold):
    """The fields by their former names."""
    reply = site.get("/marked/five", gold)
    assert {name: reply.fields[name] for name in reply.fields if "ratelimit" in name}.keys() == {
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    }
    assert (reply.fields["x-ratelimit-limit"], reply.fields["x-ratelimit-remaining"]) == ("1000", "995")


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ("response", 420, b"own"),
        ("tuple", 421, b"own"),
        ("dict", 429, b'{"own":"plan:gold:GET /v1/items/{item_id}"}\n'),
        ("abort", 429, b"slow down"),
        ("none", 429, None),
        ("fails", 429, None),
        ("odd", 429, None),
    ],
)
def test_own_answers_to_denied_requests(site, gold, answer, status, body):
    """Whatever a view may return; `abort` leads to the application's handlers. If it fails, ours is sent."""
    site.spend(gold)
    reply = site.get(f"/denied/v1/items/1?answer={answer}", gold)
    ours = site.get("/v1/items/1", gold).body
    assert (reply.status, reply.body) == (status, ours if body is None else body)
    assert reply.fields.keys() >= {*FIELDS, "retry-after"}
    assert site.used(gold) == 3


@pytest.mark.parametrize(
    "header",
    [
        pytest.param([("x-api-key", "{key}"), ("x-api-key", "{key}")], id="twice"),
        pytest.param([("x-api-key", "")], id="empty"),
        pytest.param([("x-api-key", "k" * 100_000)], id="of 100 kB"),
        pytest.param([("x-api-key", b"\xff\xfe\xe4" * 10)], id="not UTF-8"),
        pytest.param([("x-api-key", "k" * 30)], id="unknown"),
        pytest.param([("x_api_key", "{key}")], id="with underscores"),
        pytest.param([], id="absent"),
    ],
)
def test_a_header_without_a_key(site, gold, header):
    """One and the same 403 for each."""
    pairs = [
        (name, value.replace("{key}", gold["x-api-key"]) if isinstance(value, str) else value) for name, value in header
    ]
    reply = ask(site.port, "GET", "/v1/items/1", pairs)
    assert (reply.status, json.loads(reply.body)) == (403, {"type": "about:blank", "title": "Forbidden", "status": 403})
    assert site.used(gold) == 0


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/query/?key={key}", {}, 200),
        ("/query/?key={key}&key={key}", {}, 403),
        ("/query/?key=%ff%fe", {}, 403),
        ("/query/", {}, 403),
        ("/bearer/", {"Authorization": "Bearer {key}"}, 200),
        ("/bearer/", {"Authorization": "Basic {key}"}, 403),
        ("/bearer/", {"Authorization": "Bearer"}, 403),
        ("/called/", {"x-user": "{key}"}, 200),
        ("/called/", {}, 403),
        ("/odd/", {"x-api-key": "{key}"}, 403),
        ("/raises/", {"x-api-key": "{key}"}, 403),
    ],
)
def test_where_keys_come_from(site, gold, path, fields, status):
    """Headers, parameters, functions; a function that fails or returns something odd is a 403."""
    key = gold["x-api-key"]
    reply = site.get(path.replace("{key}", key), {name: text.replace("{key}", key) for name, text in fields.items()})
    assert (reply.status, site.used(gold)) == (status, 1 if status == 200 else 0)


def test_addresses(site):
    """By default the socket's peer; what is forwarded counts if a trusted proxy wrote it. Nobody has two buckets."""
    made_up = [site.get("/peer/", {"X-Forwarded-For": f"6.6.6.{number}"}).status for number in range(4)]
    assert made_up == [200, 200, 200, 429]
    assert site.statuses("GET", "/address/", {"X-Forwarded-For": "6.6.6.6, 9.9.9.9"}, times=3) == [200] * 3
    for forwarded, status in [
        ("7.7.7.7, 9.9.9.9", 429),
        ("9.9.9.9:123", 429),
        ("::ffff:9.9.9.9", 429),
        ("9.9.9.8", 200),
        ("junk", 429),  # is the proxy's, which has spent its own
        ("9.9.9.8, junk", 429),
        ("x" * 100_000, 429),
        (b"\xff\xfe", 429),
    ]:
        assert (forwarded, site.get("/address/", {"X-Forwarded-For": forwarded}).status) == (forwarded, status)
    lines = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "9.9.9.9")]
    assert ask(site.port, "GET", "/address/", lines).status == 429
    of_one_network = [site.get("/address/", {"X-Forwarded-For": f"2001:db8::{end}"}).status for end in range(1, 5)]
    assert of_one_network == [200, 200, 200, 429]


def test_a_unix_socket_has_no_address(site, gold):
    """So nobody's bucket is met: 403. A key is one as elsewhere."""
    assert ask(site.socket, "GET", "/peer/").status == 403
    assert ask(site.socket, "GET", "/v1/items/1", gold).status == 200


@pytest.mark.parametrize(
    ("token", "statuses"),
    [
        ("of-somebody", [200, 200, 200, 429]),
        ("of-somebody-else", [200, 200, 200, 429]),
        ("without-a-claim", [403] * 4),
        ("of-" + "x" * 10_000, [403] * 4),
        ("of-" + "x" * 100_000, [403] * 4),
    ],
)
def test_identities_of_tokens(site, token, statuses):
    """Each subject has a bucket of its own; a token without one, or whose subject is too long, is nobody."""
    assert site.statuses("GET", "/token/", {"Authorization": f"Bearer {token}"}) == statuses


def test_redis_is_down(site):
    """Each request is 503, whatever it is; the fields are those of the dialect."""
    for verb, path, status in [("GET", "/down/", 503), ("GET", "/down/nothing", 503), ("PUT", "/down/", 503)]:
        reply = site.ask(verb, path, {"x-api-key": "k" * 30})
        assert (reply.status, reply.fields["content-type"]) == (status, "application/problem+json")
        assert json.loads(reply.body)["type"].endswith("#temporary-reduced-capacity")


def test_a_request_that_is_none(site):
    """What the server itself refuses is no 500, and what comes next is served."""
    with closing(socket.create_connection(("127.0.0.1", site.port), 10)) as connection:
        connection.sendall(b"\x00\xff nonsense\r\n\r\n")
        assert b" 400 " in connection.recv(100)
    assert site.get("/v1/items/1", site.key()).status == 200
