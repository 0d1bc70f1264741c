"""Applications of Flask behind one limiter, each under a prefix of its own: what gunicorn serves for the tests."""

import io
import os
import time

from flask import Blueprint, Flask, Response, abort, g, jsonify, request, send_file, stream_with_context
from flask.views import MethodView
from flask_cors import CORS
from helpers.flask_rules import RULES, Colour
from helpers.web import ITEM, STAGE
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule

from ratelimit import Limiter
from ratelimit.integrations.flask import RateLimit, address, bearer, cost, exempt, query

limiter = Limiter.from_url(os.environ["RATELIMIT_URL"], deadline=5)
nowhere = "unix:///nowhere/redis.sock"
mounted = {}


def application(name="", **options):
    """One that is limited; it is served under its name."""
    app = Flask(f"flask_app_{name}", static_folder=None)
    RateLimit(app, options.pop("limiter", limiter), stage=STAGE, **options)
    mounted[f"/{name}"] = app
    return app


def text(**arguments):
    """A view that says what it was called with."""
    return f"{request.method} {arguments}"


# Blueprints, converters, all kinds of responses. This one is not under a name.
main = Flask("flask_app", static_folder="static_files", static_url_path="/static")


@main.before_request
def authenticate():
    """The application's own; it comes later, though it was there first."""
    if "password" in request.headers and request.headers["password"] != "right":
        abort(401)


@main.after_request
def replaced(response):
    """A hook that sends another response."""
    return Response("another", 203) if request.path == "/replaced" else response


RateLimit(main, limiter, stage=STAGE)

outer, inner = Blueprint("outer", __name__, url_prefix="/v1"), Blueprint("inner", __name__, url_prefix="/items")
inner.add_url_rule("/<int:item_id>", "item", text, methods=["GET", "POST"])
outer.register_blueprint(inner)
main.register_blueprint(outer)
for prefix in ("a", "b"):
    lists = Blueprint(prefix, __name__, url_prefix=f"/{prefix}")
    lists.add_url_rule("/list/<i>", "list", text)
    main.register_blueprint(lists)
twice = Blueprint("twice", __name__)
twice.add_url_rule("/twice/<i>", "twice", text)
main.register_blueprint(twice, url_prefix="/once")
main.register_blueprint(twice, url_prefix="/again/<tenant>", name="again")
main.url_map.converters["colour"] = Colour
for number, (rule, _, _) in enumerate(RULES):
    main.add_url_rule(f"/rules{rule}", f"rule{number}", text)
main.add_url_rule("/trail/", "trail", text)
main.add_url_rule("/cost/free", "free", exempt(lambda: "free"))


@main.post("/json")
def json():
    """Malformed JSON is 400."""
    return jsonify(request.get_json())


@main.get("/stream")
def stream():
    return Response(stream_with_context(str(number) for number in range(100)))


@main.get("/broken-stream")
def broken_stream():
    def parts():
        yield "x" * 100_000
        raise RuntimeError

    return Response(parts())


@main.get("/file")
def file():
    return send_file(io.BytesIO(b"of a file"), mimetype="text/plain")


@main.get("/own")
def own():
    return Response("own", 202, {"RateLimit": '"own";r=1'})


@main.get("/teapot")
def teapot():
    abort(418)


@main.get("/fails")
def fails():
    raise RuntimeError


@main.get("/decision")
def decision():
    return {"reason": g.ratelimit.reason, "limits": [limit.name for limit in g.ratelimit.limits]}


@main.get("/async")
async def asynchronous():
    return {"reason": g.ratelimit.reason}


@main.get("/slow")
def slow():
    time.sleep(0.05)
    return "slow"


@main.post("/late")
def late():
    """Adds a route, as nobody should, after the first request."""
    main.view_functions["late_one"] = text
    main.url_map.add(Rule("/late/<x>", endpoint="late_one", methods=["GET"]))
    return "added"


mounts = application("mounted")
mounts.add_url_rule("/v1/items/<int:item_id>", "item", text)

hosts = Flask("flask_app_hosts", host_matching=True, static_host="static.example")
RateLimit(hosts, limiter, stage=STAGE)
mounted["/hosts"] = hosts
hosts.add_url_rule("/h/<a>", "a", text, host="a.example")
hosts.add_url_rule("/h/<b>", "b", text, host="b.example")
hosts.add_url_rule("/only/<a>", "only", text, host="a.example")

before = Flask("flask_app_before")
CORS(before)
RateLimit(before, limiter, stage=STAGE)
mounted["/cors-before"] = before
after = application("cors-after")
CORS(after, expose_headers=["X-Own"])
for app in (before, after):
    app.add_url_rule("/v1/items/<int:item_id>", "item", text)

marked = application("marked", exempt=["GET /docs"], charge_unmatched=False, headers="legacy")


@marked.get("/five")
@cost(5)
def five():
    return "five"


class Pets(MethodView):
    def get(self):
        return "pets"

    @cost(7)
    def post(self):
        return "a pet"


marked.add_url_rule("/pets", view_func=cost(3)(Pets.as_view("pets")))
marked.add_url_rule("/docs", "docs", text)
health, dear = Blueprint("health", __name__, url_prefix="/health"), Blueprint("dear", __name__, url_prefix="/dear")
health.add_url_rule("/live", "live", text)
health.add_url_rule("/checked", "checked", cost(2)(lambda: "checked"))
dear.add_url_rule("/four", "four", lambda: "four")
inside = Blueprint("inside", __name__)
inside.add_url_rule("/inside", "inside", lambda: "inside")
dear.register_blueprint(inside)
marked.register_blueprint(exempt(health))
marked.register_blueprint(cost(4)(dear))

ANSWERS = {
    "response": lambda decision: Response("own", 420),
    "tuple": lambda decision: ("own", 421, {"X-Own": "yes"}),
    "dict": lambda decision: {"own": decision.limited_by},
    "abort": lambda decision: abort(decision.status),
    "none": lambda decision: None,
    "fails": lambda decision: 1 / 0,
    "odd": lambda decision: object(),
}
denying = application("denied", on_denied=lambda request, decision: ANSWERS[request.args["answer"]](decision))
denying.register_error_handler(429, lambda error: ("slow down", 429))
denying.add_url_rule("/v1/items/<int:item_id>", "item", text)

application("down", limiter=nowhere, headers="openai").add_url_rule("/", "down", text)

for name, key in {
    "query": query("key"),
    "bearer": bearer(),
    "called": lambda request: request.headers.get("x-user"),
    "odd": lambda request: 42,
    "raises": lambda request: request.headers["x-" + "absent"],
    "address": address("free", trusted=["127.0.0.0/8"]),
    "peer": address("free"),
    "token": bearer(lambda token: {"sub": token} if token.startswith("of-") else {}, plan="free"),
}.items():
    application(name, key=key).add_url_rule("/", "view", text)

app = DispatcherMiddleware(main, mounted)

assert ITEM == "GET /v1/items/{item_id}"
