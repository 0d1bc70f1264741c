"""FastAPI's own: a dependency for some routes, the decision as a value, identities of tokens and addresses."""

import asyncio
from contextlib import contextmanager
from typing import Annotated

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.responses import PlainTextResponse
from helpers.web import ITEM, STAGE, ask, talk, uvicorn_server

from ratelimit import AsyncLimiter, ConfigError, Decision, Limiter
from ratelimit.integrations import asgi
from ratelimit.integrations.fastapi import (
    DeniedRequest,
    RateLimit,
    RateLimitFields,
    cost,
    decision,
    exempt,
    install,
)

FIELDS = {"ratelimit", "ratelimit-policy"}


@pytest.fixture(params=[AsyncLimiter, Limiter])
def serve(request, valkey, clock):
    """Returns a function that makes an application with a limiter, of either kind, and serves it."""

    @contextmanager
    def serving(make, **options):
        limiter = request.param.from_url(valkey.url, clock=clock, deadline=5)
        with uvicorn_server(make(limiter), **options) as port:
            yield port
        if isinstance(limiter, Limiter):
            limiter.close()
        else:
            asyncio.run(limiter.aclose())

    return serving


def with_dependency(limiter, *, has_fields=False, **options):
    """An application of which the items are limited by a dependency, and nothing else."""
    app, limit = FastAPI(), RateLimit(limiter, stage=STAGE, **options)
    router = APIRouter(prefix="/items", dependencies=[Depends(limit)])

    @router.get("/{item_id}")
    async def item(item_id: str, decided: Annotated[Decision, Depends(limit)]):
        return {"remaining": decided.limits[0].remaining}

    @router.get("/{item_id}/own")
    async def own(item_id: str):
        return PlainTextResponse("own")

    @router.get("/{item_id}/dear")
    @cost(3)
    async def dear(item_id: str):
        return 1

    @router.get("/{item_id}/free")
    @exempt
    async def free(item_id: str):
        return 1

    @router.websocket("/{item_id}/ws")
    async def socket(websocket: WebSocket, item_id: str):
        await websocket.accept()
        await websocket.close()

    app.include_router(router, prefix="/v1")
    app.get("/open")(lambda: 1)
    if has_fields:
        app.add_middleware(RateLimitFields)
    return app


def test_a_dependency_limits_its_routes(serve, gold, used):
    """Once for each request, by the whole template; the rest of the application is not limited."""
    with serve(with_dependency) as port:
        replies = [ask(port, "GET", f"/v1/items/{number}", gold) for number in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert [reply.body for reply in replies[:3]] == [b'{"remaining":2}', b'{"remaining":1}', b'{"remaining":0}']
        assert all(set(reply.fields) >= FIELDS for reply in replies)
        assert replies[3].fields["content-type"] == "application/problem+json"
        assert replies[3].fields["retry-after"] == "1"
        assert ask(port, "GET", "/v1/items/1").status == 403
        assert [ask(port, "GET", "/open").status for _ in range(5)] == [200] * 5
        assert ask(port, "GET", "/v1/items/1/free").status == 200
        assert ask(port, "GET", "/v1/items/1/dear", gold).status == 200
    assert used(gold)["plan:gold"] == 3


@pytest.mark.parametrize("has_fields", [True, False])
def test_responses_of_a_routes_own(serve, gold, has_fields):
    """They have the fields if `RateLimitFields` is around the application."""
    with serve(lambda limiter: with_dependency(limiter, has_fields=has_fields)) as port:
        own = ask(port, "GET", "/v1/items/1/own", {**gold, "Origin": "https://a.example"})
        usual = ask(port, "GET", "/v1/items/1", {**gold, "Origin": "https://a.example"})
    assert (set(own.fields) >= FIELDS) is has_fields
    assert [usual.names().count(name) for name in sorted(FIELDS)] == [1, 1]
    assert usual.fields["access-control-expose-headers"] == "Retry-After, RateLimit, RateLimit-Policy"


def test_an_application_may_handle_denials_itself(serve, gold):
    """By a handler of `DeniedRequest`, which has the decision."""

    def make(limiter):
        app = with_dependency(limiter)

        @app.exception_handler(DeniedRequest)
        async def handle(request, error):
            return PlainTextResponse(f"wait {error.decision.retry_after}", error.status_code, error.headers)

        return app

    with serve(make) as port:
        reply = [ask(port, "GET", "/v1/items/1", gold) for _ in range(4)][3]
    assert (reply.status, reply.body, reply.fields["retry-after"]) == (429, b"wait 1.0", "1")
    assert set(reply.fields) >= FIELDS


def test_a_dependency_of_a_websocket(serve, small):
    """429 before it is accepted."""
    with serve(with_dependency, ws="websockets-sansio") as port:
        url = f"ws://127.0.0.1:{port}/v1/items/1/ws"
        assert [talk(url, small)[0] for _ in range(4)] == [101, 101, 101, 429]


def test_the_decision_as_a_dependency(serve, gold):
    """Of an application that is limited as a whole."""

    def make(limiter):
        app = FastAPI()

        @app.get("/v1/items/{item_id}")
        async def item(item_id: str, decided: Annotated[Decision, Depends(decision)]):
            return [limit.remaining for limit in decided.limits]

        install(app, limiter, stage=STAGE)
        return app

    with serve(make) as port:
        assert ask(port, "GET", "/v1/items/1", gold).body == b"[2,9999,99999]"


def test_a_stack_that_is_built_twice(serve, gold, used):
    """As to look at it: a request is checked once all the same."""

    def make(limiter):
        app = FastAPI()
        app.get("/once")(lambda: 1)
        install(app, limiter, stage=STAGE)
        app.build_middleware_stack()
        assert app.user_middleware == []
        return app

    with serve(make) as port:
        assert ask(port, "GET", "/once", gold).status == 200
    assert used(gold)["plan:gold"] == 1


def test_a_decision_that_nobody_made():
    """The error says what to add."""
    with pytest.raises(ConfigError, match="add RateLimitMiddleware or install"):
        decision(asgi.HTTPConnection({"type": "http"}))


def test_a_dependency_needs_a_limiter():
    """Nobody would close one of a URL."""
    with pytest.raises(ConfigError, match="limiter: cannot be a URL here"):
        RateLimit("redis://localhost", stage=STAGE)


def test_an_application_that_runs_cannot_be_limited():
    """It has its middlewares already; wrong options are refused at once."""
    app = FastAPI()
    with pytest.raises(ConfigError, match="stage: cannot be 'prod'"):
        install(app, "redis://localhost", stage="prod")
    app.middleware_stack = app.build_middleware_stack()
    with pytest.raises(ConfigError, match="app: has started"):
        install(app, "redis://localhost", stage=STAGE)


def test_the_methods_of_a_dependency(serve, gold, used):
    """The same text as a middleware's: so that a plan's strict limit holds in both."""
    with serve(with_dependency) as port:
        ask(port, "GET", "/v1/items/1", gold)
    assert used(gold, ITEM)[f"plan:gold:{ITEM}"] == 1
