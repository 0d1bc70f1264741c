"""Starlette and FastAPI behind the middleware, under uvicorn: what each request is charged, and what it is answered."""

import asyncio
import json
import warnings

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from contextlib import contextmanager

from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from helpers.web import ITEM, STAGE, ask, send, uvicorn_server
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles

from ratelimit import AsyncLimiter, Decision, Reason
from ratelimit.integrations.asgi import RateLimitMiddleware, cost, exempt, install

FIELDS = {"ratelimit", "ratelimit-policy"}
ORIGIN = {"Origin": "https://shop.example"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "x-api-key"}


def added(app, limiter, **options):
    """The middleware as users add it."""
    app.add_middleware(RateLimitMiddleware, limiter=limiter, stage=STAGE, **options)
    return app


def installed(app, limiter, **options):
    """By the function that chooses the place."""
    install(app, limiter, stage=STAGE, **options)
    return app


def around(app, limiter, **options):
    """Around the application object."""
    return RateLimitMiddleware(app, limiter, stage=STAGE, **options)


WAYS = [added, installed, around]
ways = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def serve(valkey, clock):
    """Returns a function that serves an application behind a limiter."""

    @contextmanager
    def serving(app, way=added, uvicorn=None, **options):
        limiter = AsyncLimiter.from_url(valkey.url, clock=clock, deadline=5)
        with uvicorn_server(way(app, limiter, **options), **uvicorn or {}) as address:
            yield address
        asyncio.run(limiter.aclose())

    return serving


def statuses(address, verb, path, fields=(), times=4, body=b""):
    return [ask(address, verb, path, fields, body).status for _ in range(times)]


async def text(request):
    """Says which route was called, and with what."""
    return PlainTextResponse(f"{request.method} {dict(request.path_params)}")


def fastapi_items():
    app = FastAPI()
    inner, outer = APIRouter(prefix="/items"), APIRouter(prefix="/v1")

    @inner.get("/{item_id}")
    async def item(item_id: str):
        return item_id

    @inner.post("/{item_id}")
    async def change(item_id: str, amount: Amount):
        return amount.amount

    outer.include_router(inner)
    app.include_router(outer)
    return app


class Amount(BaseModel):
    amount: int


def starlette_items():
    return Starlette(routes=[Mount("/v1", routes=[Mount("/items", routes=[Route("/{item_id}", text)])])])


@ways
@pytest.mark.parametrize("make", [fastapi_items, starlette_items])
def test_paths_of_one_template_share_its_limit(serve, gold, used, way, make):
    """Case 1: nested routers, any path; the fourth is denied, with all fields, and unlisted methods are not."""
    with serve(make(), way) as port:
        assert statuses(port, "GET", "/v1/items/1", gold, times=1) == [200]
        assert [ask(port, "GET", f"/v1/items/{number}", gold).status for number in (2, 3)] == [200, 200]
        denied = ask(port, "GET", "/v1/items/4", gold)
    assert denied.status == 429
    assert denied.fields["content-type"] == "application/problem+json"
    assert denied.fields["retry-after"] == "1"
    assert [denied.names().count(name) for name in (*FIELDS, "retry-after", "content-type")] == [1] * 4
    problem = json.loads(denied.body)
    assert (problem["status"], problem["violated-policies"]) == (429, [f"plan:gold:{ITEM}"])
    assert used(gold)["plan:gold"] == 0
    assert used(gold, ITEM)[f"plan:gold:{ITEM}"] == 3


def test_equal_paths_of_two_routers(serve, catalog, gold, used):
    """Case 2: each has its template; so has a router that is included twice."""
    app, shared = FastAPI(), APIRouter()

    @shared.get("/list/{item_id}")
    async def listed(item_id: str):
        return item_id

    app.include_router(shared, prefix="/v1/a")
    app.include_router(shared, prefix="/v1/b")
    other = APIRouter(prefix="/v1/items")
    other.get("/{item_id}")(listed)
    app.include_router(other)
    with serve(app) as port:
        assert statuses(port, "GET", "/v1/a/list/1", gold, times=5) == [200] * 5
        assert statuses(port, "GET", "/v1/items/1", gold) == [200, 200, 200, 429]
        assert statuses(port, "GET", "/v1/b/list/1", gold, times=1) == [200]
    assert used(gold)["plan:gold"] == 6


SEEN = "x-method"


def echo_method(app, serve, requests, way=added, **options):
    """The methods that an application's requests are checked as: by a stub, so that each is seen."""
    seen = []

    class Stub:
        async def check(self, key, stage, method, cost=1):
            seen.append((method, cost))
            return Decision(Reason.ALLOWED)

        async def warm_up(self, _timeout=5.0):
            pass

    with uvicorn_server(way(app, Stub(), **options.pop("limits", {})), **options) as port:
        replies = [send(port, request) for request in requests]
    return seen, [reply.status for reply in replies]


def gets(*paths):
    return [f"GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n".encode() for path in paths]


@ways
def test_parameters_are_named_without_converters(serve, way):
    """Case 3: whatever the converter, and two in one segment."""
    routes = {
        "/int/{item_id:int}": "/int/5",
        "/path/{rest:path}": "/path/a/b/c",
        "/x{left}y{right}": "/x1y2",
        "/uuid/{one:uuid}": "/uuid/6f1b4e9c-6f55-4bb0-9f3f-0a8a6a1c2b3d",
        "/float/{one:float}/end": "/float/1.5/end",
        "/dots.{kind}": "/dots.json",
    }
    expected = ["/int/{item_id}", "/path/{rest}", "/x{left}y{right}", "/uuid/{one}", "/float/{one}/end", "/dots.{kind}"]
    app = Starlette(routes=[Route(path, text) for path in routes])
    seen, answered = echo_method(app, serve, gets(*routes.values()), way)
    assert (seen, answered) == ([(f"GET {path}", 1) for path in expected], [200] * 6)


@ways
def test_mounts_are_named_by_their_templates(serve, way, tmp_path):
    """Cases 4 and 5: a parameter in a mount's path by its name; a FastAPI application, files and others in mounts."""
    (tmp_path / "style.css").write_text("a {}")
    sub = FastAPI()

    @sub.get("/pets/{pet_id:int}")
    async def pet(pet_id: int):
        return pet_id

    async def raw(scope, receive, send):
        await PlainTextResponse("raw")(scope, receive, send)

    deep = Router(routes=[Route("/z/{y}", text)])
    app = FastAPI()
    app.mount("/v1", Starlette(routes=[Mount("/adm", Router([Mount("/deep/{x}", deep)]))]))
    app.mount("/sub/{tenant}", sub)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/raw", raw)
    paths = ["/v1/adm/deep/q/z/1", "/sub/acme/pets/7", "/static/style.css", "/raw/any/thing", "/sub/acme/pets/no"]
    seen, answered = echo_method(app, serve, gets(*paths), way)
    assert [method for method, _ in seen] == [
        "GET /v1/adm/deep/{x}/z/{y}",
        "GET /sub/{tenant}/pets/{pet_id}",
        "GET /static/{path}",
        "GET /raw/{path}",
        "*",
    ]
    assert answered == [200, 200, 200, 200, 404]


@ways
def test_hosts_have_routes_of_their_own(serve, way):
    """Case 6: one path under two hosts is two methods, in any order and again."""
    app = Starlette(
        routes=[
            Host("a.example", Router([Route("/h/{x}", text)])),
            Host("b.example", Router([Route("/h/{y}", text)])),
            Route("/h/{z}", text),
        ]
    )
    requests = [
        f"GET /h/1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        for host in ("a.example", "b.example", "c.example", "b.example", "a.example")
    ]
    seen, answered = echo_method(app, serve, requests, way)
    assert [method for method, _ in seen] == [f"GET /h/{{{name}}}" for name in "xyzyx"]
    assert answered == [200] * 5


def test_head_is_limited_as_get(serve, gold):
    """Case 7: spent is spent, and no body is sent; FastAPI, which has no HEAD, answers 405, an unlisted request."""
    with serve(starlette_items()) as port:
        assert statuses(port, "GET", "/v1/items/1", gold, times=2) == [200, 200]
        assert statuses(port, "HEAD", "/v1/items/1", gold) == [200, 429, 429, 429]
        raw = send(port, head_request("/v1/items/1", gold), "GET")  # so that a body would be read
    assert (raw.status, raw.body) == (429, b"")
    with serve(fastapi_items()) as port:
        assert statuses(port, "HEAD", "/v1/items/1", gold) == [405] * 4


def head_request(path, fields):
    lines = [f"HEAD {path} HTTP/1.0", "Host: a", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.mark.parametrize("order", ["CORS first", "CORS last"])
def test_preflights_and_denials_with_cors(serve, gold, used, order):
    """Cases 8 and 9: a preflight is answered, though it has no key; a browser can read a 429 and its fields.

    `install` finds the right place in both orders.
    """
    app = fastapi_items()
    if order == "CORS first":
        app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_headers=["x-api-key"])

    def installed_then(app, limiter):
        installed(app, limiter)
        if order == "CORS last":
            app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_headers=["x-api-key"])
        return app

    with serve(app, installed_then) as port:
        assert statuses(port, "GET", "/v1/items/1", {**gold, **ORIGIN}) == [200, 200, 200, 429]
        assert ask(port, "OPTIONS", "/v1/items/1", PREFLIGHT).status == 200
        assert ask(port, "OPTIONS", "/v1/items/1", {**PREFLIGHT, **gold}).status == 200
        for reply in (
            ask(port, "GET", "/v1/items/1", {**gold, **ORIGIN}),
            ask(port, "GET", "/docs", {**gold, **ORIGIN}),
        ):
            assert reply.fields["access-control-allow-origin"] == "*"
            assert reply.fields["access-control-expose-headers"] == "Retry-After, RateLimit, RateLimit-Policy"
        assert "access-control-expose-headers" not in ask(port, "GET", "/docs", gold).fields
    assert used(gold)["plan:gold"] == 2
    assert used(gold, ITEM)[f"plan:gold:{ITEM}"] == 3


@ways
def test_a_preflight_without_cors_is_not_denied(serve, catalog, gold, used, way):
    """Case 8: it has no key, and the framework answers; it is counted where all callers are."""
    with serve(fastapi_items(), way) as port:
        assert ask(port, "OPTIONS", "/v1/items/1", PREFLIGHT).status == 405
        assert ask(port, "OPTIONS", "/v1/items/1", ORIGIN).status == 403
    assert used(gold) == {"plan:gold": 0, f"stage:{STAGE}:*": 1, "quota:gold": 0}
    with serve(fastapi_items(), way, preflight="skip") as port:
        assert ask(port, "OPTIONS", "/v1/items/1", PREFLIGHT).status == 405
    assert used(gold)[f"stage:{STAGE}:*"] == 1


def test_exposed_names_join_those_of_the_application(serve, gold):
    """With `install`, whose part outside of CORS adds them."""
    app = fastapi_items()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["X-Total"])
    with serve(app, installed) as port:
        reply = ask(port, "GET", "/v1/items/1", {**gold, **ORIGIN})
    assert reply.fields["access-control-expose-headers"] == "X-Total, Retry-After, RateLimit, RateLimit-Policy"
    assert reply.names().count("access-control-expose-headers") == 1


@ways
@pytest.mark.parametrize("make", [fastapi_items, starlette_items])
def test_what_matches_no_route_is_charged(serve, catalog, small, used, way, make):
    """Case 10: 404, 405 and unknown verbs, with their fields; without a key they are 403."""
    with serve(make(), way, uvicorn={"http": "h11"}) as port:  # httptools refuses verbs that it does not know
        assert ask(port, "GET", "/nowhere").status == 403
        replies = [
            ask(port, verb, path, small) for verb, path in (("GET", "/no"), ("PUT", "/v1/items/1"), ("FOO", "/"))
        ]
        assert [reply.status for reply in replies] == [404, 405, 404]
        assert all(set(reply.fields) >= FIELDS for reply in replies)
        assert ask(port, "GET", "/no/more", small).status == 429
    assert used(small)["plan:small"] == 3


def test_unmatched_requests_may_spare_the_plan(serve, catalog, small, used):
    """`charge_unmatched=False`: they need a key, and are counted where all callers are."""
    with serve(fastapi_items(), charge_unmatched=False) as port:
        assert statuses(port, "GET", "/nowhere", small, times=5) == [404] * 5
        assert ask(port, "GET", "/nowhere").status == 403
    assert used(small) == {"plan:small": 0, f"stage:{STAGE}:*": 5}


@ways
def test_a_redirect_and_its_target(serve, gold, used, way):
    """Case 11: the redirect is an unlisted request, its target is charged as its own template."""
    app = Starlette(routes=[Route("/v1/items/{item_id}/", text), Route("/v1/items/{item_id}", text, methods=["PUT"])])
    app.router.routes.append(Route("/trail/", text))
    with serve(app, way) as port:
        redirect = ask(port, "GET", "/trail", gold)
        assert (redirect.status, redirect.fields["location"]) == (307, "http://127.0.0.1/trail/")
        assert set(redirect.fields) >= FIELDS
        assert ask(port, "GET", "/trail/", gold).status == 200
        assert ask(port, "GET", "/v1/items/7", gold).status == 405
    assert used(gold)["plan:gold"] == 3


def test_a_denied_request_is_not_read(serve, gold, catalog, small):
    """Case 12: malformed bodies and wrong credentials of the application's own are charged; no body is waited for."""
    app = fastapi_items()
    read = []

    @app.middleware("http")
    async def authenticate(request, call_next):
        read.append(request.url.path)
        return await call_next(request) if "authorization" in request.headers else PlainTextResponse("who?", 401)

    with serve(app, installed) as port:
        assert statuses(port, "POST", "/v1/items/1", small, 5, b"{not json") == [401, 401, 401, 429, 429]
        assert len(read) == 3
        fields = {**catalog_fields(catalog), "authorization": "x"}
        assert statuses(port, "POST", "/v1/items/1", fields, 4, b"{not json") == [422, 422, 422, 429]
        # It announces a body that never comes, and is answered.
        head = "\r\n".join(f"{name}: {value}" for name, value in small.items())
        waiting = f"POST /v1/items/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 9\r\n{head}\r\n\r\n"
        assert send(port, waiting.encode()).status == 429


def catalog_fields(catalog):
    return {"x-api-key": catalog.create_key(plans=["small"]).value}


async def parts(*, breaks=False):
    yield b"one"
    if breaks:
        raise RuntimeError("the stream breaks")


async def invalid(number: int):
    return number


def error():
    raise HTTPException(418, "tea")


RESPONSES = {
    "/stream": (200, lambda: StreamingResponse(parts())),
    "/breaks": (200, lambda: StreamingResponse(parts(breaks=True))),
    "/generator": (200, lambda: StreamingResponse(iter(["a", "b"]))),
    "/file": (200, lambda: FileResponse(__file__)),
    "/own": (200, lambda: Response("own", headers={"X-Own": "1"})),
    "/dict": (200, lambda: {"a": 1}),
    "/error": (418, error),
    "/invalid": (422, invalid),
}


@ways
def test_each_kind_of_response_has_fields(serve, gold, way):
    """Case 13: streams, files, own responses, errors; also of a stream that breaks."""
    app = FastAPI()
    for path, (_, view) in RESPONSES.items():
        app.get(path)(view)
    with serve(app, way, uvicorn={"log_level": "critical"}) as port:
        replies = {path: ask(port, "GET", path, gold) for path in RESPONSES}
    assert {path: reply.status for path, reply in replies.items()} == {
        path: status for path, (status, _) in RESPONSES.items()
    }
    for path, reply in replies.items():
        assert {name: reply.names().count(name) for name in FIELDS} == dict.fromkeys(FIELDS, 1), path


@pytest.mark.parametrize(("way", "has_fields"), [(added, False), (installed, True), (around, True)])
def test_an_unhandled_error(serve, gold, used, way, has_fields):
    """Case 14: its 500 has fields, unless the middleware was added inside of what answers it. It was charged."""
    app = FastAPI()

    @app.get("/boom")
    async def boom():
        raise RuntimeError("boom")

    with serve(app, way, uvicorn={"log_level": "critical"}) as port:
        reply = ask(port, "GET", "/boom", gold)
    assert reply.status == 500
    assert (set(reply.fields) >= FIELDS) is has_fields
    assert used(gold)["plan:gold"] == 1


@ways
@pytest.mark.parametrize("root", ["server", "application", "none"])
def test_a_prefix_that_a_proxy_strips(serve, way, root):
    """Case 16: `--root-path` and `FastAPI(root_path=)` are no part of the method, wherever the middleware is."""
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        app = FastAPI(root_path="/api" if root == "application" else "")
    app.get("/items/{item_id}")(lambda item_id: item_id)
    app.mount("/sub", Starlette(routes=[Route("/q/{y}", text)]))
    item, mounted = ("GET /items/{item_id}", 200), ("GET /sub/q/{y}", 200)
    cases = {"/items/5": item, "/sub/q/1": mounted}
    if root == "application":  # what is mounted is then found by the whole path alone
        cases = {"/items/5": item, "/sub/q/1": ("*", 404), "/api/items/5": item, "/api/sub/q/1": mounted}
    options = {"root_path": "/api"} if root == "server" else {}
    seen, answered = echo_method(app, serve, gets(*cases), way, **options)
    assert list(zip([method for method, _ in seen], answered, strict=True)) == list(cases.values())


@ways
def test_paths_as_the_framework_reads_them(serve, way):
    """Case 17: decoded, with empty segments; a line's end at the end of a path is no way around a limit."""
    app = Starlette(routes=[Route("/items/{item_id}", text), Route("/items", text)])
    cases = {
        "/%69tems/5": ("GET /items/{item_id}", 200),
        "/items/%35": ("GET /items/{item_id}", 200),
        "/items/a%2Fb": ("*", 404),
        "//items/5": ("*", 404),
        "/items/5/": ("*", 307),
        "/items%0A": ("GET /items", 200),
        "/items/5%0A": ("GET /items/{item_id}", 200),
        "/items?x=/v1": ("GET /items", 200),
        "/items/%FF": ("GET /items/{item_id}", 200),
        "/items/%00": ("GET /items/{item_id}", 200),
        "/items/..": ("GET /items/{item_id}", 200),
    }
    seen, answered = echo_method(app, serve, gets(*cases), way)
    assert list(zip([method for method, _ in seen], answered, strict=True)) == list(cases.values())


@ways
def test_routes_that_are_added_late(serve, gold, way):
    """Case 18: after the first request, to the application and to a router that it includes."""
    app, router = FastAPI(), APIRouter(prefix="/v1")
    app.include_router(router)
    with serve(app, way) as port:
        assert ask(port, "GET", "/v1/items/1", gold).status == 404
        router.get("/items/{item_id}")(lambda item_id: item_id)
        assert statuses(port, "GET", "/v1/items/1", gold) == [200, 200, 200, 429]
        app.get("/late")(lambda: 1)
        assert ask(port, "GET", "/late", gold).status == 200


def test_costs_and_exemptions(serve):
    """Marks on functions, methods of classes and mounted applications; methods that the middleware was given."""

    @cost(5)
    async def dear(request):
        return PlainTextResponse("dear")

    @exempt
    async def health(request):
        return PlainTextResponse("healthy")

    @cost(2)
    class Pets(HTTPEndpoint):
        async def get(self, request):
            return PlainTextResponse("pets")

        @cost(7)
        async def post(self, request):
            return PlainTextResponse("made")

        @exempt
        async def delete(self, request):
            return PlainTextResponse("gone")

    async def raw(scope, receive, send):
        await PlainTextResponse("raw")(scope, receive, send)

    app = Starlette(
        routes=[
            Route("/dear", dear),
            Route("/health", health),
            Route("/pets", Pets),
            Mount("/raw", exempt(raw)),
            Route("/docs", text),
        ]
    )
    requests = [
        b"%s %s HTTP/1.0\r\n\r\n" % (verb, path)
        for verb, path in [
            (b"GET", b"/dear"),
            (b"GET", b"/health"),
            (b"HEAD", b"/health"),
            (b"GET", b"/pets"),
            (b"POST", b"/pets"),
            (b"DELETE", b"/pets"),
            (b"HEAD", b"/pets"),
            (b"GET", b"/raw/x"),
            (b"GET", b"/docs"),
        ]
    ]
    seen, answered = echo_method(app, serve, requests, limits={"exempt": ["GET /docs"]})
    assert seen == [("GET /dear", 5), ("GET /pets", 2), ("POST /pets", 7), ("HEAD /pets", 2)]
    assert answered == [200] * 9


def test_the_limits_of_a_stage_count_costs(serve, gold, used):
    """With the real limiter, and FastAPI's decorators in either order."""
    app = FastAPI()

    @app.get("/above")
    @cost(10)
    async def above():
        return 1

    @cost(20)
    @app.get("/below")
    async def below():
        return 1

    with serve(app) as port:
        assert [ask(port, "GET", path, gold).status for path in ("/above", "/below")] == [200, 200]
    assert used(gold)["plan:gold"] == 30


def test_the_decision_is_in_the_request(serve, gold):
    """`request.state.ratelimit`; of an exempt request it is allowed, and has no limits."""
    app = Starlette()

    async def remaining(request):
        decision = request.state.ratelimit
        return PlainTextResponse(f"{decision.reason.value} {[limit.remaining for limit in decision.limits]}")

    @exempt
    async def free(request):
        return await remaining(request)

    app.router.routes += [Route("/v1/items/{item_id}", remaining), Route("/free", free)]
    with serve(app) as port:
        assert ask(port, "GET", "/v1/items/1", gold).body == b"ALLOWED [2, 9999, 99999]"
        assert ask(port, "GET", "/free").body == b"ALLOWED []"


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        ("legacy", {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}),
        (
            "openai",
            {"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"},
        ),
        ("none", set()),
    ],
)
def test_dialects(serve, gold, dialect, names):
    """The fields of each, on what is admitted and what is denied, and no others."""
    with serve(starlette_items(), headers=dialect) as port:
        replies = [ask(port, "GET", "/v1/items/1", {**gold, **ORIGIN}) for _ in range(4)]
    limits = [{name for name in reply.fields if "ratelimit" in name} for reply in replies]
    assert limits == [names] * 4
    assert [reply.fields.get("retry-after") for reply in replies] == [None, None, None, "1"]
    assert "retry-after" in replies[3].fields["access-control-expose-headers"].lower()


def test_a_response_of_the_users_own(serve, gold):
    """`on_denied` returns it, and it has the fields; it may be asynchronous, return None or what is none, or raise."""
    calls = []

    def on_denied(request, decision):
        calls.append((request.url.path, decision.status))
        return PlainTextResponse("slow down", decision.status)

    async def later(request, decision):
        await asyncio.sleep(0)
        calls.append(decision.limited_by)

    def fails(request, decision):
        raise RuntimeError("secret")

    with serve(starlette_items(), on_denied=on_denied) as port:
        reply = [ask(port, "GET", "/v1/items/1", gold) for _ in range(4)][3]
    assert (reply.status, reply.body) == (429, b"slow down")
    assert set(reply.fields) >= FIELDS | {"retry-after"}
    for hook in (later, fails, lambda _request, _decision: {"detail": "slow down"}):
        with serve(starlette_items(), on_denied=hook) as port:
            reply = ask(port, "GET", "/v1/items/1", gold)
        assert (reply.status, reply.fields["content-type"]) == (429, "application/problem+json")
    assert calls == [("/v1/items/1", 429), f"plan:gold:{ITEM}"]


def test_an_application_that_is_not_starlettes(serve, gold):
    """`method=` names its methods; what raises or returns none matches no route."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await PlainTextResponse("raw")(scope, receive, send)

    def method(request):
        return {"/v1/items/1": ITEM, "/none": None}[request.url.path]

    with serve(app, around, method=method) as port:
        assert statuses(port, "GET", "/v1/items/1", gold) == [200, 200, 200, 429]
        assert ask(port, "GET", "/none", gold).status == 200
        assert ask(port, "GET", "/raises", gold).status == 200


def test_other_middlewares_between(serve, gold):
    """Also those that do not keep the application as `app`: then it is the one that the scope names."""

    def closure(app):
        async def middleware(scope, receive, send):
            await app(scope, receive, send)

        return middleware

    app = Starlette(
        routes=[Route("/v1/items/{item_id}", text)],
        middleware=[Middleware(closure)],
    )
    with serve(app) as port:
        assert statuses(port, "GET", "/v1/items/1", gold) == [200, 200, 200, 429]
