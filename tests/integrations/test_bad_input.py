"""Whatever a client sends has one clear answer, and no request ends in a 500: also while Redis does not answer."""

import asyncio
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from helpers.web import STAGE, ask, send, uvicorn_server
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from ratelimit import AsyncLimiter, Identity
from ratelimit.integrations import callers
from ratelimit.integrations.asgi import bearer, install, query

KEY = "rl_live_" + "a" * 36
ITEM = "/v1/items/1"


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(callers, "_warnings", set())


async def item(request):
    return PlainTextResponse("item")


def shop():
    return Starlette(routes=[Mount("/v1", routes=[Route("/items/{item_id}", item)])])


@pytest.fixture(params=["Redis answers", "Redis is away"])
def serve(request, valkey, catalog, clock, tmp_path):
    """Returns a function that serves an application; its `denied` is the status of whom nobody knows."""

    @contextmanager
    def serving(uvicorn=None, **options):
        is_away = request.param == "Redis is away"
        url = f"unix://{tmp_path}/nobody.sock" if is_away else valkey.url
        limiter = AsyncLimiter.from_url(url, clock=clock, deadline=0.02 if is_away else 5)
        app = shop()
        install(app, limiter, stage=STAGE, **options)
        # h11 lets through what httptools refuses by itself.
        with uvicorn_server(app, **{"http": "h11", "lifespan": "off", **(uvicorn or {})}) as port:
            yield port
        asyncio.run(limiter.aclose())

    serving.denied = 503 if request.param == "Redis is away" else 403
    serving.admitted = 503 if request.param == "Redis is away" else 200
    return serving


HEADERS = {
    "none": [],
    "empty": [("x-api-key", "")],
    "blank": [("x-api-key", "   ")],
    "twice": [("x-api-key", KEY), ("x-api-key", KEY)],
    "twice, one empty": [("x-api-key", ""), ("x-api-key", KEY)],
    "in another case": [("X-API-KEY", KEY), ("x-api-key", KEY)],
    "long": [("x-api-key", "k" * 60_000)],
    "not UTF-8": [("x-api-key", b"\xff\xfe" * 20)],
    "of another form": [("x-api-key", "ключ".encode())],
    "unknown": [("x-api-key", KEY)],
    "many": [("x-api-key", KEY)] * 50,
}


def test_key_headers(serve):
    """Case 22: one answer for all of them."""
    with serve() as port:
        replies = {name: ask(port, "GET", ITEM, fields) for name, fields in HEADERS.items()}
    assert {name: reply.status for name, reply in replies.items()} == dict.fromkeys(HEADERS, serve.denied)
    assert len({reply.body for reply in replies.values()}) == 1


def test_keys_in_queries(serve):
    """The same of a parameter, however it is written."""
    texts = ["", "?", "?key", "?key=", "?key=%", "?key=%ff%fe", f"?key={KEY}&key={KEY}", "?" + "&" * 2000, "?key=%00"]
    with serve(key=query("key")) as port:
        assert [ask(port, "GET", ITEM + text).status for text in texts] == [serve.denied] * len(texts)


def test_a_key_of_a_hundred_kilobytes(serve):
    """httptools lets it through: it is denied as any other."""
    with serve(uvicorn={"http": "httptools"}) as port:
        assert ask(port, "GET", ITEM, {"x-api-key": "k" * 100_000}).status == serve.denied


def claims_of(token):
    return {"good": {"sub": "anna"}, "nobody": {}, "long": {"sub": "x" * 10_000}, "odd": {"sub": ["anna"]}}[token]


def test_tokens(serve):
    """A claim that is missing, an identity of 10 kB, a token that is not valid, or is none."""
    tokens = [
        "Bearer nobody",
        "Bearer long",
        "Bearer odd",
        "Bearer expired",
        "Bearer",
        "Basic YTpi",
        "Bearer \xff",
        "",
        "x",
    ]
    with serve(key=bearer(claims_of, plan="free")) as port:
        statuses = [ask(port, "GET", ITEM, {"authorization": token}).status for token in tokens]
        assert statuses == [serve.denied] * len(tokens)


@pytest.mark.parametrize(
    "key",
    [
        lambda request: Identity("x" * 10_000, "free"),
        lambda request: Identity("anna", ""),
        lambda request: request.headers["absent"],
        lambda request: request.user,
        lambda request: 7,
        lambda request: "\ud800" * 30,
        lambda request: asyncio.sleep(0, result=b"bytes"),
    ],
)
def test_functions_that_fail(serve, key):
    """A user's function that raises, or returns what is no caller."""
    with serve(key=key) as port:
        assert ask(port, "GET", ITEM).status == serve.denied


PATHS = (
    *("*", "/%", "/%zz", "/%00", "/\xff", "//", "/" * 5000, "/v1/items/" + "%FF" * 1000, "/v1/items/%0A", "/../../etc"),
    *("/?%", "/v1/items/1?%", "/v1//items/1", "/v1/items/%2e%2e", "http://a.example/v1/items/1", "/v1/items/1#x"),
)


def request_lines():
    """Odd targets, and odd verbs."""
    yield from (f"GET {path}" for path in PATHS)
    yield from (
        "OPTIONS *",
        "CONNECT a.example:443",
        "foo /v1/items/1",
        "FOO /v1/items/1",
        "TRACE /",
        "HEAD /v1/items/1",
    )


def test_odd_request_lines(serve, gold):
    """What is no path, and verbs that nobody knows: each is answered as the application alone would, or 503."""
    head = "".join(f"{name}: {value}\r\n" for name, value in gold.items())
    requests = {
        line: f"{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{head}\r\n".encode("latin-1")
        for line in request_lines()
    }
    with uvicorn_server(shop(), http="h11") as port:
        alone = {line: send(port, request).status for line, request in requests.items()}
    assert set(alone.values()) == {200, 400, 404, 405}
    with serve() as port:
        statuses = {line: send(port, request).status for line, request in requests.items()}
    if serve.admitted == 503:  # but for what the server refuses
        alone = {line: 400 if status == 400 else 503 for line, status in alone.items()}
    differing = {line for line in requests if statuses[line] != alone[line]}
    # Some match the template whose limit is three.
    spent = {} if serve.admitted == 503 else {"GET /v1/items/1#x": 429, "HEAD /v1/items/1": 429}
    assert {line: statuses[line] for line in differing} == spent


def test_many_distinct_paths(serve, gold):
    """Nothing is kept of them."""
    with serve() as port:
        statuses = {ask(port, "GET", f"/no/{number}", gold).status for number in range(200)}
    assert statuses == ({404} if serve.admitted == 200 else {503})
