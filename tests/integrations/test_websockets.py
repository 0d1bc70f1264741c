"""Websockets: refused before they are accepted, and the limits are in the handshake."""

import asyncio
import json
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from helpers.web import STAGE, talk, uvicorn_server
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

from ratelimit import AsyncLimiter, PlanStage, Throttle, UsagePlan
from ratelimit.integrations.asgi import RateLimitMiddleware, cost, exempt, install, query

pytestmark = pytest.mark.parametrize("protocol", ["websockets-sansio", "wsproto"])
"""How uvicorn serves them."""


async def echo(socket):
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


@cost(3)
async def dear(socket):
    await echo(socket)


@exempt
async def free(socket):
    await echo(socket)


def sockets():
    rooms = [WebSocketRoute("/{room}", echo), WebSocketRoute("/at/dear", dear), WebSocketRoute("/at/free", free)]
    return Starlette(routes=[Mount("/ws", routes=rooms)])


@pytest.fixture
def serve(valkey, clock, protocol):
    @contextmanager
    def serving(app, **options):
        limiter = AsyncLimiter.from_url(valkey.url, clock=clock, deadline=5)
        app.add_middleware(RateLimitMiddleware, limiter=limiter, stage=STAGE, **options)
        with uvicorn_server(app, ws=protocol) as port:
            yield f"ws://127.0.0.1:{port}"
        asyncio.run(limiter.aclose())

    return serving


def test_a_handshake_is_a_request(serve, small, used):
    """Admitted with fields in the handshake; the fourth is 429 over HTTP, before it is accepted."""
    with serve(sockets()) as url:
        for _ in range(3):
            status, fields, said = talk(f"{url}/ws/lobby", small)
            assert (status, said) == (101, "hello")
            assert 'plan:small";r=' in fields["RateLimit"]
            assert "RateLimit-Policy" in fields
        status, fields, body = talk(f"{url}/ws/lobby", small)
    assert (status, fields["Content-Type"], fields["Retry-After"]) == (429, "application/problem+json", "1")
    assert json.loads(body)["violated-policies"] == ["plan:small"]


def test_the_method_of_a_websocket(serve, catalog, gold):
    """GET and its template, so that a plan can list it; unknown paths are unlisted, and answered by the framework."""
    strict = PlanStage(STAGE, throttles={"GET /ws/{room}": Throttle(1, 1)})
    catalog.put_plan(UsagePlan("chat", Throttle(1, 100), None, [strict]))
    key = {"x-api-key": catalog.create_key(plans=["chat"]).value}
    with serve(sockets()) as url:
        assert [talk(f"{url}/ws/{room}", key)[0] for room in ("a", "b")] == [101, 429]
        assert talk(f"{url}/nowhere", key)[0] == 403
        status, fields, _ = talk(f"{url}/ws/b", key)
    assert status == 429
    assert '"plan:chat:GET /ws/{room}";r=0' in fields["RateLimit"]


def test_marks_of_websockets(serve, small):
    """A cost, and none."""
    with serve(sockets()) as url:
        assert talk(f"{url}/ws/at/free", {})[0] == 101
        assert talk(f"{url}/ws/at/dear", small)[0] == 101
        assert talk(f"{url}/ws/lobby", small)[0] == 429


def test_a_websocket_without_a_key(serve, catalog, small):
    """403; browsers cannot send headers, so a key may come in the query."""
    with serve(sockets(), key=query("key")) as url:
        assert talk(f"{url}/ws/lobby", small)[0] == 403
        assert talk(f"{url}/ws/lobby?key={small['x-api-key']}", {})[0] == 101


def test_a_server_without_the_extension(valkey, clock, small, protocol):
    """The handshake is refused all the same: with 403, as that is all that such a server can say."""
    limiter = AsyncLimiter.from_url(valkey.url, clock=clock, deadline=5)
    limited = sockets()
    install(limited, limiter, stage=STAGE)

    async def without_extensions(scope, receive, send):
        scope.pop("extensions", None)
        await limited(scope, receive, send)

    with uvicorn_server(without_extensions, ws=protocol) as port:
        assert [talk(f"ws://127.0.0.1:{port}/ws/lobby", small)[0] for _ in range(4)] == [101, 101, 101, 403]
    asyncio.run(limiter.aclose())
