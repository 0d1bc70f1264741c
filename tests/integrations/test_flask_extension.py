"""The extension itself: configuration, what it warns of, memory; random applications against what Flask matches."""

import logging
import random
import re
import sys

import pytest

pytest.importorskip("flask_cors", reason="not installed: the group `integrations`")

from flask import Blueprint, Flask, g
from flask_cors import CORS, cross_origin
from helpers.flask_rules import RULES, Colour
from helpers.web import ITEM, STAGE
from werkzeug.routing import Rule
from werkzeug.test import EnvironBuilder, run_wsgi_app

from ratelimit import AsyncLimiter, ConfigError, Decision, Limiter, Quota, Reason, Throttle, UsagePlan
from ratelimit.integrations import flask as adapter
from ratelimit.integrations.flask import RateLimit, routes


class Stub:
    """A limiter that admits all, and notes what it is asked."""

    def __init__(self):
        self.methods, self.warm_ups = [], 0

    def check(self, key, stage, method, cost=1):
        self.methods.append(method)
        return Decision(Reason.ALLOWED)

    def warm_up(self, timeout):
        self.warm_ups += 1


def view(**arguments):
    return g.ratelimit.reason


def application(**config):
    app = Flask(__name__)
    app.config.update(config)
    app.add_url_rule("/v1/items/<int:item_id>", "item", view, methods=["GET", "POST"])
    return app


def test_configuration(valkey):
    """What is no argument is read from it; arguments go before it."""
    with valkey.client() as client, Limiter(client) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 3), Quota(9, "DAY"), [STAGE]))
        key = {"x-api-key": limiter.catalog.create_key(plans=["gold"]).value}
        of_config = application(RATELIMIT_URL=valkey.url, RATELIMIT_STAGE=STAGE, RATELIMIT_HEADERS="openai")
        RateLimit(of_config)
        reply = of_config.test_client().get("/v1/items/1", headers=key)
        assert (reply.status_code, reply.headers["x-ratelimit-remaining-requests"]) == (200, "2")
        of_config.extensions["ratelimit"].close()
        wrong = application(RATELIMIT_URL="nonsense", RATELIMIT_STAGE="nonsense", RATELIMIT_HEADERS="nonsense")
        RateLimit(wrong, limiter, stage=STAGE, headers="legacy")
        reply = wrong.test_client().get("/v1/items/1", headers=key)
        assert (reply.status_code, reply.headers["X-RateLimit-Remaining"]) == (200, "1")
        assert wrong.extensions["ratelimit"].limiter is limiter


def test_an_owner_closes_its_limiter(valkey):
    """One that was passed in works after the extension was closed; one made from a URL is closed."""
    with valkey.client() as client, Limiter(client) as limiter:
        app = application()
        RateLimit(app, limiter, stage=STAGE)
        app.test_client().get("/v1/items/1")
        app.extensions["ratelimit"].close()
        assert limiter._listener._thread.is_alive()
        app = application()
        RateLimit(app, valkey.url, stage=STAGE)
        app.test_client().get("/v1/items/1")
        own = app.extensions["ratelimit"].limiter._listener._thread
        assert own.is_alive()
        app.extensions["ratelimit"].close()
        assert not own.is_alive()


def test_several_applications():
    """One extension for the applications of a factory, each with a limiter of its own."""
    limits, stubs = RateLimit(stage=STAGE), [Stub(), Stub()]
    for stub in stubs:
        app = application()
        limits.init_app(app, stub)
        assert app.test_client().get("/v1/items/1").status_code == 200
    assert [stub.methods for stub in stubs] == [[ITEM], [ITEM]]


def test_switched_off():
    """With RATELIMIT_ENABLED=False nothing is needed, and nothing is limited; views find a decision all the same."""
    app = application(RATELIMIT_ENABLED=False)
    RateLimit(app)
    reply = app.test_client().get("/v1/items/1")
    assert (reply.status_code, reply.text) == (200, "ALLOWED")
    assert [name for name, _ in reply.headers if "ratelimit" in name.lower()] == []
    app.extensions["ratelimit"].warm_up()
    app.extensions["ratelimit"].close()


@pytest.mark.parametrize(
    ("config", "arguments", "problem"),
    [
        ({}, {}, "limiter: is missing: pass limiter=, or set RATELIMIT_URL in the application's configuration"),
        ({}, {"limiter": Stub()}, "stage: is missing: pass stage=, or set RATELIMIT_STAGE"),
        ({"RATELIMIT_STAGE": "typo"}, {"limiter": Stub()}, "stage: cannot be 'typo': write '<api>/<stage>'"),
        ({"RATELIMIT_ENABLED": "no"}, {}, "RATELIMIT_ENABLED: must be true or false"),
        ({"RATELIMIT_HEADERS": "x"}, {"limiter": Stub(), "stage": STAGE}, "headers: must be one of ietf, legacy"),
        ({}, {"limiter": AsyncLimiter.from_url("unix:///x"), "stage": STAGE}, "limiter: cannot be an AsyncLimiter"),
        ({}, {"limiter": Stub(), "stage": STAGE, "on_denied": 429}, "on_denied: must be a function, not int"),
    ],
)
def test_what_cannot_be_used(config, arguments, problem):
    """A clear error where the application is made, which names the argument and the remedy."""
    with pytest.raises(ConfigError) as caught:
        RateLimit(application(**config), **arguments)
    assert str(caught.value).startswith(problem)


def test_an_application_is_limited_once():
    """Twice would charge each request twice."""
    app = application()
    RateLimit(app, Stub(), stage=STAGE)
    with pytest.raises(ConfigError, match="app: has rate limits already"):
        RateLimit(app, Stub(), stage=STAGE)


def test_the_first_request_warms_up():
    """Once; or before it, on request."""
    stub, app = Stub(), application()
    RateLimit(app, stub, stage=STAGE)
    assert stub.warm_ups == 0
    for _ in range(3):
        app.test_client().get("/v1/items/1")
    app.extensions["ratelimit"].warm_up()
    assert stub.warm_ups == 1


def test_a_verb_in_lower_case():
    """Flask takes it for the other one, which some servers leave to it: so it has the same limit."""
    stub, app = Stub(), application()
    RateLimit(app, stub, stage=STAGE)
    environ = EnvironBuilder("/v1/items/1").get_environ() | {"REQUEST_METHOD": "get"}
    assert run_wsgi_app(app, environ)[1] == "200 OK"
    assert stub.methods == [ITEM]


def test_a_view_that_is_replaced():
    """As other extensions do, with marks of its own, also after the first request."""
    stub, app = Stub(), application()
    RateLimit(app, stub, stage=STAGE)
    client = app.test_client()
    client.get("/v1/items/1")
    app.view_functions["item"] = adapter.exempt(lambda item_id: "exempt")
    assert client.get("/v1/items/1").text == "exempt"
    assert stub.methods == [ITEM]


def test_a_context_that_requests_share():
    """A decision is of its request: an earlier one's fields are not on a later response that was not checked."""

    class Limited(Stub):
        def check(self, *_):
            return Decision(Reason.THROTTLED, "plan:gold", 7.0)

    app = application()
    RateLimit(app, Limited(), stage=STAGE)

    @app.url_value_preprocessor
    def fails(endpoint, values):
        if fail:
            raise RuntimeError

    app.testing, app.config["PROPAGATE_EXCEPTIONS"] = False, False
    with app.app_context():
        fail = False
        assert app.test_client().get("/v1/items/1").headers["Retry-After"] == "7"
        fail = True
        reply = app.test_client().get("/v1/items/1")
    assert (reply.status_code, "Retry-After" in reply.headers) == (500, False)


def test_a_warning_of_cross_origin(caplog):
    """Its decorator is not called for a request that is denied: the log names the views, once."""
    app = application()
    for number in range(7):
        decorated = cross_origin()(lambda: "ok")
        app.add_url_rule(f"/shared/{number}", f"shared{number}", decorated)
    RateLimit(app, Stub(), stage=STAGE)
    with caplog.at_level(logging.WARNING, "ratelimit"):
        for _ in range(2):
            app.test_client().get("/v1/items/1")
    names = ", ".join(f"shared{number}" for number in range(5))
    expected = "@cross_origin does not reach a 429, which browsers then cannot read: use CORS(app): "
    assert caplog.messages == [f"{expected}{names}, ..."]
    caplog.clear()
    app = application()
    CORS(app)
    RateLimit(app, Stub(), stage=STAGE)
    app.test_client().get("/v1/items/1")
    assert caplog.messages == []


def test_what_is_configured_nowhere_is_an_error_in_the_log(valkey, caplog):
    """Once, when the application has started; it serves all the same."""
    with valkey.client() as client, Limiter(client) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 3), None, [STAGE]))
        app = application()
        RateLimit(app, limiter, stage="petstore/typo", key=adapter.address("brass"))
        for _ in range(2):
            assert app.test_client().get("/v1/items/1").status_code == 403
    errors = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.partition(":")[0] for error in errors] == [
        "no plan opens the stage 'petstore/typo', and nobody has configured it",
        "there is no plan 'brass', which key= names",
    ]


def test_memory_is_flat():
    """Thousands of paths that nobody has seen, and as many verbs, leave nothing behind."""
    app = application()
    RateLimit(app, Stub(), stage=STAGE)
    app.url_map.add(Rule("/any-verb/<x>", endpoint="item"))
    app.extensions["ratelimit"].limiter.check = lambda *_: Decision(Reason.ALLOWED)
    client = app.test_client()

    def ask(first):
        for number in range(first, first + 500):
            client.get(f"/v1/items/{number}")
            client.get(f"/nothing/{number}")
            client.open(f"/any-verb/{number}", method=f"V{number}")
            client.open(f"/v1/items/{number}", method=f"V{number}")

    ask(0)
    before = sys.getallocatedblocks()
    ask(500)
    assert sys.getallocatedblocks() - before < 500
    assert len(app.extensions["ratelimit"]._routes) == 1


def test_routes():
    """Verb and template of everything that an application answers."""
    app = application()
    inner, outer = Blueprint("inner", __name__, url_prefix="/<tenant>"), Blueprint("outer", __name__, url_prefix="/o")
    inner.add_url_rule("/x/<any(a,b):x>", "x", view)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.url_map.add(Rule("/any-verb/<x>", endpoint="item"))
    app.url_map.add(Rule("/built/<x>", endpoint="item", build_only=True))
    app.url_map.add(Rule("/ws", endpoint="item", websocket=True))
    with_automatic = ("GET", "HEAD", "OPTIONS")
    assert sorted(routes(app)) == sorted(
        [
            *((verb, "/static/{filename}") for verb in with_automatic),
            *((verb, "/v1/items/{item_id}") for verb in (*with_automatic, "POST")),
            *((verb, "/o/{tenant}/x/{x}") for verb in with_automatic),
            ("*", "/any-verb/{x}"),
        ]
    )


def random_application(seed):
    """Rules put together of those that are known, in blueprints of any depth; each view says its template."""
    choose = random.Random(seed)
    app = Flask(__name__, static_folder=None)
    app.url_map.converters["colour"] = Colour
    paths = ["/", "/nothing", "//"]

    def add(to, prefix):
        for number in range(choose.randint(1, 4)):
            parts = choose.sample(RULES, choose.randint(1, 2))
            rule, template, path = ("".join(part) for part in zip(*parts, strict=True))
            rule, template = (text.replace("//", "/") for text in (rule, template))
            names = re.findall(r"{(\w+)}", template)
            if len(names) != len(set(names)):
                continue
            verbs = choose.sample(["GET", "POST", "PUT"], choose.randint(1, 2))
            to.add_url_rule(rule, f"e{number}", lambda t=f"{prefix[0]}{template}", **_: t, methods=verbs)
            paths.extend([f"{prefix[1]}{path}", f"{prefix[1]}{path}/", f"{prefix[1]}{path}x"])

    def nest(to, prefix, depth):
        add(to, prefix)
        for number in range(choose.randint(0, 2) if depth < 3 else 0):
            part = choose.choice([("/p", "/p", "/p"), (f"/<t{depth}>", f"/{{t{depth}}}", "/T"), ("", "", "")])
            blueprint = Blueprint(f"b{depth}{number}", __name__, url_prefix=part[0] or None)
            nest(blueprint, (prefix[0] + part[1], prefix[1] + part[2]), depth + 1)
            to.register_blueprint(blueprint)

    nest(app, ("", ""), 0)
    return app, paths


def test_random_applications():
    """The method of each check is that of the view which Flask calls; None calls one for 404, 405 and redirects."""
    called = others = 0
    for seed in range(25):
        app, paths = random_application(seed)
        stub = Stub()
        RateLimit(app, stub, stage=STAGE)
        client = app.test_client()
        for path in paths:
            for verb in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
                stub.methods.clear()
                reply = client.open(path, method=verb)
                if reply.status_code == 200 and verb in {"GET", "POST"}:
                    called += 1
                    assert stub.methods == [f"{verb} {reply.text}"], path
                elif reply.status_code in {404, 405, 308}:
                    others += 1
                    assert stub.methods == ["*"], path
                else:
                    assert verb in {"HEAD", "OPTIONS"}
                    assert stub.methods[0].startswith(f"{verb} /")
    assert min(called, others) > 200
