"""The resolver against the frameworks themselves: random applications and requests, and cases by hand."""

import asyncio
import random
import re
import sys
import uuid

import pytest

pytest.importorskip("fastapi", reason="not installed: the group `integrations`")

from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

from ratelimit.integrations.marks import cost
from ratelimit.integrations.starlette_routes import Resolver, routed_app, routes_of

VERBS = ("GET", "POST", "PUT", "HEAD", "DELETE")
HOSTS = ("a.example", "b.example")
ONE = str(uuid.UUID(int=7))
SEGMENTS = ("a", "b", "a.b", "{}", "{}", "{:int}", "{:float}", "{:uuid}", "{:path}", "p{}q", "{:int}-{}", "a+b", "")
PARTS = ("a", "b", "a.b", "c", "1", "12", "1.5", ONE, "p1q", "pq", "3-x", "", "", "a+b", "axb", "é", "%")


class Chance:
    """A random application: each endpoint has a number, which it answers with and which is the cost marked on it.

    `templates` says by number what is to be found.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.templates, self.paths = {}, []

    def path(self, most=3, least=1):
        """A path with parameters, each of a name of its own."""
        choose = self.random
        segments = [choose.choice(SEGMENTS) for _ in range(choose.randint(least, most))]
        text = "".join(f"/{segment}" for segment in segments)
        return re.sub(r"\{", lambda _match: f"{{x{self.number()}_", text).replace("_:", ":").replace("_}", "}")

    def number(self):
        self.count = getattr(self, "count", 0) + 1
        return self.count

    def endpoint(self, template, *, is_websocket=False):
        number = len(self.templates) + 1
        self.templates[number] = re.sub(r":\w+}", "}", template)
        self.paths.append(template)
        if is_websocket:

            @cost(number)
            async def endpoint(websocket: WebSocket):
                await websocket.accept()
                await websocket.send_text(str(number))
                await websocket.close()
        else:

            @cost(number)
            async def endpoint(request: Request):
                return PlainTextResponse(str(number))

        return endpoint

    def fill(self, router, prefix, depth, own=""):
        """Add routes of all kinds to an application or router whose paths begin with `prefix`.

        `own` is the router's own prefix, which it puts before what it adds itself.
        """
        for _ in range(self.random.randint(1, 5)):
            kinds = ["route"] * 5 + ["websocket", "mount", "mount", "host"]
            if isinstance(router, FastAPI | APIRouter):
                kinds += ["include"] * 3
            kind = self.random.choice(kinds)
            if kind == "route":
                self.add_route(router, prefix, own)
            elif kind == "websocket":
                path = self.path()
                if isinstance(router, FastAPI | APIRouter) and self.random.random() < 0.5:
                    router.websocket(path)(self.endpoint(prefix + own + path, is_websocket=True))
                else:
                    router.routes.append(WebSocketRoute(path, self.endpoint(prefix + path, is_websocket=True)))
            elif depth:
                self.add_router(router, prefix if kind in {"host", "mount"} else prefix + own, depth, kind)

    def add_route(self, router, prefix, own=""):
        path = self.path()
        verbs = self.random.sample(VERBS, self.random.randint(1, 3))
        if isinstance(router, FastAPI | APIRouter) and self.random.random() < 0.7:
            router.api_route(path, methods=verbs)(self.endpoint(prefix + own + path))
        else:
            router.routes.append(Route(path, self.endpoint(prefix + path), methods=verbs))

    def add_router(self, router, prefix, depth, kind):
        if kind == "host":
            below = Router()
            self.fill(below, prefix, depth - 1)
            router.routes.append(Host(self.random.choice(HOSTS), below))
        elif kind == "mount":
            path = self.path(2, 0).rstrip("/").replace(":path", "")
            below = self.random.choice([Router, Starlette, FastAPI])()
            self.fill(below, prefix + path, depth - 1)
            router.routes.append(Mount(path, below))
        else:
            own, given = (self.path(1, 0).rstrip("/").replace(":path", "") for _ in range(2))
            below = APIRouter(prefix=own)
            given = given or "/given"  # FastAPI wants a prefix or a path
            self.fill(below, prefix + given, depth - 1, own)
            router.include_router(below, prefix=given)

    def argument(self, match):
        """Text for a parameter, as its converter wants it, mostly."""
        texts = {"int": "12", "float": "1.5", "uuid": ONE, "path": "a/1/b"}
        return texts[match[1]] if match[1] and self.random.random() < 0.9 else self.random.choice(PARTS)

    def application(self):
        app = self.random.choice([Starlette, FastAPI, FastAPI])()
        if isinstance(app, FastAPI):
            app.router.routes.clear()  # its own documents have no number
        self.fill(app, "", 3)
        return app

    def scope(self):
        """A request, decoded as servers do."""
        choose = self.random
        path = "".join(f"/{choose.choice(PARTS)}" for _ in range(choose.randint(1, 5)))
        if choose.random() < 0.8:  # one that may be somebody's
            path = re.sub(r"{\w+:?(\w*)}", self.argument, choose.choice(self.paths or ["/"]))
        path += choose.choice(["", "", "", "", "", "", "\n", "/"])
        host = choose.choice((*HOSTS, "c.example")).encode()
        scope = {"type": "http", "method": choose.choice((*VERBS, "OPTIONS", "FOO"))}
        if choose.random() < 0.15:
            scope = {"type": "websocket", "subprotocols": []}
        if choose.random() < 0.1:
            scope["root_path"] = "/root"
            path = choose.choice(["/root", ""]) + path
        return {
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", host)],
            "scheme": "http",
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "http_version": "1.1",
            "extensions": {},
            **scope,
        }


async def reached(app, scope):
    """The number of the endpoint that a request reaches; None for none."""
    messages = []
    incoming = iter(
        [{"type": "websocket.connect"}] if scope["type"] == "websocket" else [{"type": "http.request", "body": b""}]
    )

    async def receive():
        return next(incoming, {"type": f"{scope['type']}.disconnect", "code": 1000})

    async def send(message):
        messages.append(message)

    await app(dict(scope), receive, send)
    if scope["type"] == "websocket":
        texts = [message["text"] for message in messages if message["type"] == "websocket.send"]
        return int(texts[0]) if texts else None
    is_ok = messages[0]["status"] == 200
    if scope["method"] == "HEAD":
        return is_ok
    return int(messages[1]["body"]) if is_ok else None


APPLICATIONS, REQUESTS = 300, 60


def test_the_frameworks_reach_what_the_resolver_finds():
    """Case 23: the same endpoint, its template as it was put together, and none where none is reached."""
    wrong, hits = [], 0

    async def run():
        nonlocal hits
        for seed in range(APPLICATIONS):
            chance = Chance(seed)
            app = chance.application()
            resolver = Resolver(app)
            if seed % 2:
                resolver.compile()
            for _ in range(REQUESTS):
                scope = chance.scope()
                expected = await reached(app, scope)
                route = resolver(scope)
                hits += expected is not None and expected is not False
                if expected is True:  # HEAD, which says no number
                    is_right = route is not None and route.template == chance.templates[route.marks.cost]
                elif not expected:
                    is_right = route is None
                else:
                    is_right = route is not None and (route.marks.cost, route.template) == (
                        expected,
                        chance.templates[expected],
                    )
                if not is_right:
                    wrong.append((seed, scope["type"], scope.get("method"), scope["path"], expected, route))

    asyncio.run(run())
    assert wrong == []
    assert hits > APPLICATIONS * REQUESTS // 10


def test_large_applications_are_split_rightly():
    """Hundreds of routes that overlap: the first that matches counts, wherever it stands in the tree."""

    async def run():
        for seed in range(2):
            chance, app = Chance(seed), Starlette()
            for _ in range(300):
                chance.add_route(app, "")
            resolver = Resolver(app)
            for _ in range(300):
                scope = chance.scope() | {"root_path": ""}
                expected, route = await reached(app, scope), resolver(scope)
                if scope.get("method") == "HEAD":
                    assert (route is not None) is expected
                else:
                    assert (route and route.marks.cost) == expected

    asyncio.run(run())


def http(path, verb="GET", **more):
    return {"type": "http", "method": verb, "path": path, "headers": [], **more}


async def endpoint(request):
    return PlainTextResponse("")


def test_a_route_that_is_added_late_is_found():
    """To an application, an included router, and what is mounted; and the tables are made anew for that alone."""
    app, router, mounted = FastAPI(), APIRouter(), Starlette()
    app.include_router(router, prefix="/v1")
    app.mount("/m", mounted)
    resolver = Resolver(app)
    assert [resolver(http(path)) for path in ("/late", "/v1/late", "/m/late")] == [None] * 3
    tables = resolver._entries
    app.get("/late")(endpoint)
    assert resolver(http("/nowhere")) is None
    assert resolver._entries is not tables
    tables = resolver._entries
    assert [resolver(http("/nowhere")), resolver._entries is tables] == [None, True]
    router.get("/late")(endpoint)
    mounted.router.routes.append(Route("/late", endpoint))
    found = [resolver(http(path)) for path in ("/late", "/v1/late", "/m/late")]
    assert [route.template for route in found] == ["/late", "/v1/late", "/m/late"]


class Reversed(BaseRoute):
    """A route of a user's own kind."""

    path_format = "/reversed"

    def matches(self, scope):
        return (Match.FULL if scope["path"] == "/desrever" else Match.NONE), {}


class Nameless(Reversed):
    path_format = None

    def matches(self, scope):
        return Match.FULL, {}


def test_routes_of_other_kinds_are_asked():
    """In their place; one that has no template is unlisted."""
    app = Starlette(routes=[Route("/first", endpoint), Reversed(), Route("/{rest}", endpoint)])
    resolver = Resolver(app)
    assert [resolver(http(path)).template for path in ("/first", "/desrever", "/x")] == [
        "/first",
        "/reversed",
        "/{rest}",
    ]
    assert Resolver(Starlette(routes=[Nameless()]))(http("/x")) is None


class Twice(Convertor[str]):
    """Text that comes twice: its expression refers to a group of itself."""

    regex = r"(?P<half>\w+)(?P=half)"

    def convert(self, value):
        return value

    def to_string(self, value):
        return value


def test_expressions_that_refer_to_their_groups():
    """They cannot be joined with others, so the route is asked."""
    register_url_convertor("twice", Twice())
    app = Starlette(routes=[Route("/(a){x}", endpoint), Route("/{word:twice}", endpoint), Route("/{other}", endpoint)])
    resolver = Resolver(app)
    # Starlette gives the converter's own group to the endpoint, which it does not know: that is the user's to solve.
    with pytest.raises(KeyError):
        resolver(http("/abab"))
    assert resolver(http("/abc")).template == "/{other}"


def test_a_line_end_is_no_way_around_a_limit():
    """Expressions end with "$", which matches before it: so does the application, however many routes there are."""
    app = Starlette(routes=[Route(f"/items{number}", endpoint) for number in range(20)])
    resolver = Resolver(app)
    assert resolver._tree("GET")._others is not None  # they are split
    assert [resolver(http(path)) and resolver(http(path)).template for path in ("/items7\n", "/items7\n\n")] == [
        "/items7",
        None,
    ]


def test_a_client_cannot_name_a_websocket_as_verb():
    """The verbs are any tokens; those of the resolver are none."""
    app = Starlette(routes=[WebSocketRoute("/ws", endpoint), Route("/x", endpoint)])
    resolver = Resolver(app)
    for verb in ("websocket", "WEBSOCKET", "", "*", "OTHER"):
        assert resolver(http("/ws", verb)) is None
    assert resolver({"type": "websocket", "path": "/ws", "headers": []}).template == "/ws"


def test_what_is_kept_of_requests():
    """Nothing: whatever paths and verbs come, the tables stay as they are."""
    app = Starlette(routes=[Route(f"/items{number}/{{x}}", endpoint) for number in range(100)])
    resolver = Resolver(app)
    resolver.compile()
    trees = sorted(resolver._trees)
    before = sys.getallocatedblocks()
    for number in range(100_000):
        resolver(http(f"/items{number}/{number}/no", f"VERB{number}"))
    assert sorted(resolver._trees) == trees
    assert abs(sys.getallocatedblocks() - before) < 100


def test_the_list_of_routes():
    """What requests are resolved to, for comparing it with plans: mounts, includes, websockets, any verb."""
    sub, router, app = FastAPI(), APIRouter(prefix="/items"), FastAPI(openapi_url=None)
    sub.post("/pets/{pet_id:int}")(endpoint)
    router.get("/{item_id}")(endpoint)
    router.websocket("/ws")(endpoint)
    app.include_router(router, prefix="/v1")
    app.mount("/sub/{tenant}", sub)
    app.mount("/raw", PlainTextResponse("raw"))
    app.router.routes.append(Host("a.example", Router([Route("/h", endpoint)])))
    listed = [pair for pair in routes_of(app) if "doc" not in pair[1] and "openapi" not in pair[1]]
    assert listed == [
        ("GET", "/v1/items/{item_id}"),
        ("GET", "/v1/items/ws"),
        ("POST", "/sub/{tenant}/pets/{pet_id}"),
        ("*", "/raw/{path}"),
        ("GET", "/h"),
        ("HEAD", "/h"),
    ]
    assert list(routes_of(PlainTextResponse("raw"))) == []
    assert routed_app(None) is None
