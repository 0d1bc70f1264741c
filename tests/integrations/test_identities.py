"""Callers without a stored key: the subjects of tokens, and addresses behind proxies, or of clients who lie."""

import asyncio
from contextlib import contextmanager

import pytest

pytest.importorskip("uvicorn", reason="not installed: the group `integrations`")

from helpers.web import STAGE, ask, uvicorn_server
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ratelimit import AsyncLimiter, Identity, Throttle, UsagePlan
from ratelimit.integrations.asgi import address, bearer, header, install

PATH = "/v1/items/1"


async def item(request):
    return PlainTextResponse("item")


@pytest.fixture
def serve(valkey, catalog, clock):
    @contextmanager
    def serving(uvicorn=None, **options):
        limiter = AsyncLimiter.from_url(valkey.url, clock=clock, deadline=5)
        app = Starlette(routes=[Route("/v1/items/{item_id}", item)])
        install(app, limiter, stage=STAGE, **options)
        with uvicorn_server(app, **uvicorn or {}) as at:
            yield at
        asyncio.run(limiter.aclose())

    return serving


def statuses(at, fields, times=4):
    return [ask(at, "GET", PATH, fields).status for _ in range(times)]


def test_users_of_verified_tokens(serve):
    """Each subject has three requests of the plan; a token that is not valid has none."""
    claims = {"of-anna": {"sub": "anna"}, "also-of-anna": {"sub": "anna"}, "of-berta": {"sub": "berta"}}
    with serve(key=bearer(claims.__getitem__, plan="free")) as port:
        assert statuses(port, {"authorization": "Bearer of-anna"}) == [200, 200, 200, 429]
        assert statuses(port, {"authorization": "Bearer also-of-anna"}, 1) == [429]
        assert statuses(port, {"authorization": "Bearer of-berta"}, 1) == [200]
        assert statuses(port, {"authorization": "Bearer forged"}, 1) == [403]
        assert statuses(port, {}, 1) == [403]


def test_plans_by_claims(serve, catalog):
    """A plan for each tier; a tier without a plan is a 403."""
    catalog.put_plan(UsagePlan("pro", Throttle(1, 5), None, [STAGE]))
    key = bearer(lambda token: {"sub": "anna", "tier": token}, plan=lambda claims: claims["tier"])
    with serve(key=key) as port:
        assert statuses(port, {"authorization": "Bearer free"}) == [200, 200, 200, 429]
        assert statuses(port, {"authorization": "Bearer pro"}, 6) == [200] * 5 + [429]
        assert statuses(port, {"authorization": "Bearer nobodys"}, 1) == [403]


def test_a_key_or_else_an_identity(serve, gold):
    """A function puts sources together."""

    def caller(request):
        return request.headers.get("x-api-key") or Identity("anonymous", "free")

    with serve(key=caller) as port:
        assert statuses(port, {}) == [200, 200, 200, 429]
        assert statuses(port, gold, 1) == [200]


UVICORN_TRUSTS_NOBODY = {"proxy_headers": False}

SPOOFED = {
    "made up": [("x-forwarded-for", "6.6.6.{}")],
    "a chain": [("x-forwarded-for", "6.6.6.{}, 9.9.9.9, 10.1.2.3")],
    "mapped": [("x-forwarded-for", "::ffff:10.0.0.{}")],
    "junk": [("x-forwarded-for", "junk{}")],
    "two lines": [("x-forwarded-for", "1.1.1.{}"), ("x-forwarded-for", "2.2.2.{}")],
    "forwarded": [("forwarded", "for=6.6.6.{}")],
    "malformed": [("forwarded", 'for="[::{}')],
    "not text": [("x-forwarded-for", b"\xff\xfe")],
    "long": [("x-forwarded-for", "1.1.1.{}, " * 5000)],
}
"""Case 21: what clients send who want to be somebody else; the number is another one in each request."""


def filled(fields, number):
    return [
        (name, value if isinstance(value, bytes) else value.replace("{}", str(number % 100))) for name, value in fields
    ]


@pytest.mark.parametrize("kind", SPOOFED)
def test_an_address_that_a_client_makes_up(serve, kind):
    """It is not believed: all requests are of the socket's peer, so the fourth is denied."""
    with serve(key=address("free"), uvicorn=UVICORN_TRUSTS_NOBODY) as port:
        answers = [ask(port, "GET", PATH, filled(SPOOFED[kind], number)).status for number in range(4)]
    assert answers == [200, 200, 200, 429]


@pytest.mark.parametrize("kind", SPOOFED)
def test_an_address_that_a_client_makes_up_behind_a_proxy(serve, kind):
    """What the trusted proxy adds on the right counts: never what stands left of it."""
    with serve(key=address("free", trusted=["127.0.0.1"]), uvicorn=UVICORN_TRUSTS_NOBODY) as port:
        answers = []
        for number in range(4):
            sent = [pair for pair in filled(SPOOFED[kind], number) if pair[0] == "x-forwarded-for"]
            lines = b", ".join(value if isinstance(value, bytes) else value.encode() for _, value in sent)
            through_proxy = lines + b", 192.0.2.9" if lines else b"192.0.2.9"
            answers.append(ask(port, "GET", PATH, [("x-forwarded-for", through_proxy)]).status)
        assert answers == [200, 200, 200, 429]
        assert ask(port, "GET", PATH, [("x-forwarded-for", "192.0.2.10")]).status == 200


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (["junk0", "junk1", "junk2", "junk3"], [403] * 4),
        (["9.9.9.9"] * 4, [200, 200, 200, 429]),
        ([f"6.6.6.{number}, 9.9.9.9" for number in range(4)], [200, 200, 200, 429]),
        ([f"2001:db8::{number}" for number in range(4)], [200, 200, 200, 429]),
        ([f"::ffff:9.9.9.{number // 4}" for number in range(4)], [200, 200, 200, 429]),
    ],
)
def test_an_address_that_uvicorn_has_read(serve, sent, expected):
    """By itself it believes proxies of this machine, and does not look whether it is an address: then there is none."""
    with serve(key=address("free")) as port:
        answers = [ask(port, "GET", PATH, {"x-forwarded-for": value}).status for value in sent]
    assert answers == expected


def test_a_unix_socket(serve, tmp_path):
    """It has no peer's address, and so no caller; behind a trusted proxy it has the one that this names."""
    uds = str(tmp_path / "app.sock")
    with serve(key=address("free"), uvicorn={"uds": uds, **UVICORN_TRUSTS_NOBODY}) as at:
        assert statuses(at, {}, 1) == [403]
    with serve(key=address("free", trusted=["unix"]), uvicorn={"uds": uds, **UVICORN_TRUSTS_NOBODY}) as at:
        assert statuses(at, {"x-forwarded-for": "192.0.2.9"}) == [200, 200, 200, 429]


def test_keys_in_another_header(serve, gold):
    """By its name, in any case."""
    with serve(key=header("X-Shop-Key")) as port:
        assert ask(port, "GET", PATH, {"x-shop-key": gold["x-api-key"]}).status == 200
        assert ask(port, "GET", PATH, gold).status == 403


def test_subjects_are_not_in_redis(valkey, serve):
    """Nor in the log: they are digests there."""
    with serve(key=lambda request: Identity("anna@example.com", "free")) as port:
        assert statuses(port, {}, 1) == [200]
    with valkey.client() as client:
        names = client.keys()
        values = [client.dump(name) for name in names]
    assert b"~" in b" ".join(names)
    assert b"anna" not in b" ".join(names + values)
