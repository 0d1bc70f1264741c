"""Start and end: the application's own come first, the log says what will not work, and only what is ours is closed."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from helpers.paths import ROOT
from helpers.ports import free_port
from helpers.web import ITEM, PATIENCE_S, STAGE, ask, uvicorn_server
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratelimit import AsyncLimiter, Quota, UsagePlan
from ratelimit.integrations.asgi import RateLimitMiddleware, address, install
from ratelimit.integrations.enforcer import AsyncEnforcer


async def item(request):
    return PlainTextResponse("item")


def shop(**options):
    return Starlette(routes=[Route("/v1/items/{item_id}", item)], **options)


def messages(caplog, level=logging.WARNING):
    return [record.getMessage() for record in caplog.records if record.levelno >= level and record.name == "ratelimit"]


def test_the_order_of_start_and_end(valkey, catalog, gold, monkeypatch):
    """The limiter of a URL is warm after the application's start, and closed after its end, in the loop's thread."""
    order = []

    class Recorded(AsyncLimiter):
        async def warm_up(self, timeout=5.0):  # noqa: ASYNC109 - the contract's name
            await super().warm_up(timeout)
            order.append("warm")

        async def aclose(self):
            await super().aclose()
            order.append("closed")

    @asynccontextmanager
    async def lifespan(_app):
        order.append("started")
        yield
        order.append("ended")

    monkeypatch.setattr("ratelimit.integrations.enforcer.AsyncLimiter", Recorded)
    app = shop(lifespan=lifespan)
    install(app, valkey.url, stage=STAGE)
    with uvicorn_server(app) as port:
        assert order == ["started", "warm"]
        assert ask(port, "GET", "/v1/items/1", gold).status == 200
    assert order == ["started", "warm", "ended", "closed"]


def test_a_limiter_that_was_passed_in_stays_open(valkey, catalog, gold):
    """Its owner may use it in the application's own end and after, and closes it."""
    statuses, closed = [], []

    class Recorded(AsyncLimiter):
        async def aclose(self):
            closed.append(len(statuses))
            await super().aclose()

    async def run():
        limiter = Recorded.from_url(valkey.url, deadline=5)

        @asynccontextmanager
        async def lifespan(_app):
            yield
            statuses.append((await limiter.check(gold["x-api-key"], STAGE, ITEM)).status)

        app = shop(lifespan=lifespan)
        install(app, limiter, stage=STAGE)
        await asyncio.to_thread(serve_once, app)
        statuses.append((await limiter.check(gold["x-api-key"], STAGE, ITEM)).status)
        await limiter.aclose()

    asyncio.run(run())
    assert (statuses, closed) == ([200, 200], [2])


def serve_once(app):
    with uvicorn_server(app):
        pass


def test_functions_of_the_user_run_in_the_loops_thread(valkey, catalog, small):
    """As the application's own lifespan does: what they use of asyncio is of the one loop."""
    threads = []

    def note(*_request):
        threads.append((threading.get_ident(), asyncio.get_running_loop()))

    def caller(request):
        note()
        return request.headers.get("x-api-key")

    @asynccontextmanager
    async def lifespan(_app):
        note()
        yield
        note()

    app = shop(lifespan=lifespan)
    install(app, valkey.url, stage=STAGE, key=caller, on_denied=note)
    with uvicorn_server(app) as port:
        assert ask(port, "GET", "/v1/items/1").status in {403, 503}
    assert len(threads) == 4
    assert len(set(threads)) == 1


def test_a_start_without_redis(tmp_path, caplog, monkeypatch):
    """It does not fail: the log says what is wrong, and requests are 503."""
    monkeypatch.setattr(AsyncEnforcer.start, "__defaults__", (0.2,))
    app = shop()
    install(app, f"unix://{tmp_path}/nobody.sock", stage=STAGE)
    with uvicorn_server(app) as port:
        reply = ask(port, "GET", "/v1/items/1", {"x-api-key": "k" * 30})
    assert (reply.status, reply.fields["content-type"]) == (503, "application/problem+json")
    assert [text for text in messages(caplog, logging.ERROR) if text.startswith("the limiter is not ready: Store")]


def test_an_application_that_does_not_start(valkey, caplog):
    """Its own error stands, and nothing of ours is left open: warnings of sockets are errors here."""

    @asynccontextmanager
    async def lifespan(_app):
        raise RuntimeError("no database")
        yield

    app = shop(lifespan=lifespan)
    install(app, valkey.url, stage=STAGE)
    with pytest.raises(AssertionError, match="it has not started"), uvicorn_server(app, log_level="critical"):
        pass
    assert messages(caplog) == []


def test_the_log_says_what_nobody_configured(valkey, catalog, caplog):
    """At ERROR, after the start, once; a stage that a plan opens, and a plan that exists, are configured."""
    for stage, key in (("petstore/nowhere", None), (STAGE, address("nobodys")), (STAGE, address("free"))):
        app = shop()
        install(app, valkey.url, stage=stage, key=key)
        with uvicorn_server(app):
            pass
    first, second = messages(caplog, logging.ERROR)
    assert first.startswith("no plan opens the stage 'petstore/nowhere'")
    assert second.startswith("there is no plan 'nobodys', which key= names")


def test_plans_that_the_start_makes(valkey, catalog, caplog):
    """An application may configure its stage when it starts: the adapter looks afterwards."""

    @asynccontextmanager
    async def lifespan(_app):
        await asyncio.to_thread(catalog.put_plan, UsagePlan("late", stages=["late/prod"]))
        yield

    app = shop(lifespan=lifespan)
    install(app, valkey.url, stage="late/prod")
    with uvicorn_server(app):
        pass
    assert messages(caplog) == []


def test_without_a_lifespan(valkey, catalog, gold, caplog):
    """A server may not offer one: then the first request finds the routes, and what is wrong."""
    app = shop()
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(RateLimitMiddleware, limiter=valkey.url, stage="petstore/nowhere")
    with uvicorn_server(app, lifespan="off") as port:
        assert messages(caplog) == []
        # The first request of a process connects, for which the deadline may be too short.
        assert [ask(port, "GET", "/v1/items/1", gold).status for _ in range(30)][-1] == 403
        warning, error = messages(caplog)[0], messages(caplog, logging.ERROR)[-1]
    assert warning.startswith("CORSMiddleware is inside")
    assert error.startswith("no plan opens the stage")


CORS_INSIDE = "CORSMiddleware is inside of RateLimitMiddleware"


@pytest.mark.parametrize(
    ("names", "begins"),
    [
        (["cors", "limit"], [CORS_INSIDE]),
        (["limit", "cors"], []),
        (["limit", "exposing"], ["expose_headers of CORSMiddleware lacks"]),
        (["cors", "around"], [CORS_INSIDE]),
        (["install", "cors"], []),
        (["cors", "install"], []),
        (["exposing", "install"], []),
    ],
)
def test_a_wrong_order_of_middlewares(valkey, catalog, caplog, names, begins):
    """The log warns of it at the start; `install` makes no such mistake."""
    app = served = shop()
    for name in names:
        if name in {"cors", "exposing"}:
            exposed = ["X-Total"] if name == "exposing" else []
            app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=exposed)
        elif name == "limit":
            app.add_middleware(RateLimitMiddleware, limiter=valkey.url, stage=STAGE)
        elif name == "install":
            install(app, valkey.url, stage=STAGE)
        else:
            served = RateLimitMiddleware(app, valkey.url, stage=STAGE)
    with uvicorn_server(served):
        pass
    assert [text[: len(begin)] for text, begin in zip(messages(caplog), begins, strict=True)] == begins


def test_an_application_whose_routes_nobody_knows(valkey, catalog, caplog):
    """The log says what to pass."""

    async def app(scope, receive, send):
        raise NotImplementedError

    served = RateLimitMiddleware(app, valkey.url, stage=STAGE)
    with uvicorn_server(served, lifespan="off") as port:
        ask(port, "GET", "/")
    assert any(text.startswith("no routes are found in the application") for text in messages(caplog))


APPLICATION = """
import contextlib
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from ratelimit import AsyncLimiter
from ratelimit.integrations.asgi import install

limiter = AsyncLimiter.from_url(os.environ["RATELIMIT_URL"], deadline=5)  # on a busy machine

async def item(request):
    return PlainTextResponse("item")

@contextlib.asynccontextmanager
async def lifespan(_app):
    yield
    await limiter.aclose()

app = Starlette(routes=[Route("/v1/items/{item_id}", item)], lifespan=lifespan)
install(app, limiter, stage="petstore/prod")
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_server_of_its_own(valkey, catalog, tmp_path, workers, loop):
    """`uvicorn`, started and ended as usual, with several processes too: together they admit what one would."""
    catalog.put_plan(UsagePlan("daily", None, Quota(50, "MONTH"), [STAGE]))  # no token comes while requests are sent
    key = {"x-api-key": catalog.create_key(plans=["daily"]).value}
    (tmp_path / "shop.py").write_text(APPLICATION)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--workers", str(workers), "--loop", loop]
    environment = {**os.environ, "RATELIMIT_URL": valkey.url, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "shop:app"], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, process, tmp_path)
        statuses = [ask(port, "GET", f"/v1/items/{number}", key).status for number in range(60)]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    text = (tmp_path / "log").read_text()
    assert statuses == [200] * 50 + [429] * 10, text
    assert "Traceback" not in text
    assert "Application shutdown complete" in text


def wait_for(port, process, folder):
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            ask(port, "OPTIONS", "/")
            return
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end, "it does not listen"
        time.sleep(0.01)
