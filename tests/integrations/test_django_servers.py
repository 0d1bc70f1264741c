"""Servers of Django in other states: without Redis, forked, with middlewares for blocking code.

Their limiters are made from a URL, as most are, unless a test says otherwise.
"""

import asyncio
import json

import pytest

pytest.importorskip("corsheaders", reason="not installed: the group `integrations`")

from helpers.clock import FakeClock
from helpers.django_project.limits import charged, key, limits
from helpers.django_project.servers import KINDS, THREADS, django_server
from helpers.http_load import statuses
from helpers.servers import Server
from helpers.web import ITEM, STAGE, ask, request_bytes, send

from ratelimit import Throttle, UsagePlan

PROJECT = "helpers.django_project.project"
FORBIDDEN = b'{"type":"about:blank","title":"Forbidden","status":403}'


def by_url(redis, stage=STAGE):
    return {"LIMITER": redis.url, "STAGE": stage}


ANSWERED_WITHOUT_REDIS = {
    "a route": ("GET", "/v1/items/1", 503),
    "a view in a loop": ("GET", "/loop/1", 503),
    "no route": ("GET", "/nowhere", 503),
    "a redirect": ("GET", "/trail", 503),
    "REST framework": ("GET", "/api/things/", 503),
    "a verb that a view does not take": ("PUT", "/pets/1", 503),
    "exempt": ("GET", "/exempt", 200),
}


@pytest.mark.parametrize("kind", KINDS)
def test_redis_goes_away(kind):
    """503 and never 500, whatever is sent as a key; what is exempt is answered."""
    redis = Server("valkey")
    with limits(redis) as limiter:
        gold = key(limiter)
        with django_server(kind, redis.url, *KINDS[kind], RATELIMIT=by_url(redis)) as server:
            assert ask(server.port, "GET", "/v1/items/1", gold).status == 200
            redis.stop()
            for name, (verb, path, status) in ANSWERED_WITHOUT_REDIS.items():
                reply = ask(server.port, verb, path, gold)
                assert (name, reply.status) == (name, status)
                if status == 503:
                    assert json.loads(reply.body)["type"].endswith("#temporary-reduced-capacity")
            odd = [[("x-api-key", "x" * 40)] * 2, [("x-api-key", "z" * 100_000)], [("x-api-key", b"\xff" * 40)], []]
            replies = [send(server.port, request_bytes("GET", "/v1/items/1", fields)) for fields in odd]
            # The last three cannot be keys: they are denied without a look.
            assert [reply.status for reply in replies] == [503, 403, 403, 403]
            assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", KINDS)
def test_redis_is_away_from_the_start(kind, tmp_path):
    """The server starts, says so at ERROR, and answers: 503, and what is exempt."""
    url = f"unix://{tmp_path}/none.sock"
    setting = {"LIMITER": url, "STAGE": STAGE}
    with django_server(kind, url, *KINDS[kind], RATELIMIT=setting) as server:
        replies = [ask(server.port, "GET", path, {"x-api-key": "x" * 40}) for path in ("/v1/items/1", "/exempt") * 2]
        assert [reply.status for reply in replies] == [503, 200] * 2
        assert server.log().count("ERROR ratelimit: the limiter is not ready: StoreUnavailable") == 1
        assert "Traceback" not in server.log()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_that_nobody_has_configured(kind, valkey):
    """The server starts and says so at ERROR, once; its callers get 403 until there is a plan."""
    with limits(valkey) as limiter:
        gold = key(limiter)
        with django_server(kind, valkey.url, *KINDS[kind], RATELIMIT=by_url(valkey, "pet/store")) as server:
            assert [ask(server.port, "GET", "/v1/items/1", gold).status for _ in range(3)] == [403] * 3
            said = [line for line in server.log().splitlines() if line.startswith("ERROR ratelimit:")]
            assert len(said) == 1
            assert "no plan opens the stage 'pet/store'" in said[0]
            limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), None, [STAGE, "pet/store"]))
            assert ask(server.port, "GET", "/v1/items/1", gold).status == 200


def test_preloaded_workers(valkey):
    """Case 19: a limiter that has worked before the fork works after it, in threads, and with views in loops."""
    with limits(valkey, clock=FakeClock()) as limiter:
        gold = key(limiter)
        options = ("--workers=2", "--threads=4", "--preload")
        with django_server("wsgi", valkey.url, *options, WARM_UP_EARLY=True) as server:
            for path in ("/get/", "/loop/1"):
                counts = asyncio.run(statuses(server.port, path, gold["x-api-key"], 60, 12))
                assert counts == {200: 60}
            pids = {ask(server.port, "GET", "/pid", gold).body for _ in range(30)}
            assert str(server.process.pid).encode() not in pids
        assert charged(limiter, gold) == 150


@pytest.mark.parametrize("workers", ["wsgi", "asgi", "gevent"])
def test_the_first_requests_come_at_once(workers, valkey):
    """With the deadline of 50 ms: all of them wait until the limiter is warm, and none is 503."""
    kind, options = ("wsgi", ("--worker-class=gevent",)) if workers == "gevent" else (workers, KINDS[workers])
    with limits(valkey) as limiter:
        gold = key(limiter)
        with django_server(kind, valkey.url, *options, RATELIMIT=by_url(valkey)) as server:
            assert asyncio.run(statuses(server.port, "/get/", gold["x-api-key"], 64, 32)) == {200: 64}
        assert charged(limiter, gold) == 64


def test_a_middleware_for_blocking_code_under_asgi(valkey):
    """It makes ours one, too, which works in threads: the same methods; and behind a prefix (case 16)."""
    middlewares = [
        "ratelimit.integrations.django.RateLimitMiddleware",
        "django.middleware.common.CommonMiddleware",
        f"{PROJECT}.blocking_only",
    ]
    with limits(valkey) as limiter:
        gold, small = key(limiter), key(limiter, "small")
        with django_server(
            "asgi", valkey.url, "--root-path=/api", MIDDLEWARE=middlewares, RATELIMIT=by_url(valkey)
        ) as server:
            assert [ask(server.port, "GET", "/v1/items/1", gold).status for _ in range(4)] == [200, 200, 200, 429]
            assert [ask(server.port, "GET", "/nowhere", small).status for _ in range(4)] == [404, 404, 404, 429]
            assert ask(server.port, "GET", "/trail", gold).fields["location"] == "/api/trail/"
            assert ask(server.port, "GET", "/loop/1", gold).status == 200
        assert (charged(limiter, gold), charged(limiter, gold, ITEM, f"plan:gold:{ITEM}")) == (5, 3)


def test_behind_a_prefix_under_wsgi(valkey):
    """Case 16: the prefix is no part of a method. The limiter is closed with its process: its denials are in Redis."""
    with limits(valkey) as limiter:
        gold = key(limiter)
        with django_server("wsgi", valkey.url, *THREADS, RATELIMIT=by_url(valkey)) as server:
            mounted = {**gold, "SCRIPT_NAME": "/api"}
            found = [ask(server.port, "GET", "/api/v1/items/1", mounted).status for _ in range(4)]
            assert found == [200, 200, 200, 429]
            assert ask(server.port, "GET", "/api/trail", mounted).fields["location"] == "/api/trail/"
        assert charged(limiter, gold, ITEM, f"plan:gold:{ITEM}") == 3
        with valkey.client() as client:
            (denials,) = client.keys("ratelimit:denials:*")
            assert [(field.split(b"|")[2], count) for field, count in client.hgetall(denials).items()] == [
                (b"THROTTLED", b"1")
            ]


def test_a_body_is_not_waited_for_under_wsgi(valkey):
    """Case 12: a denied request is answered while its body is still to come."""
    with limits(valkey) as limiter, django_server("wsgi", valkey.url, *THREADS, RATELIMIT=by_url(valkey)) as server:
        fields = [*key(limiter).items(), ("Content-Length", "1000000"), ("Content-Type", "application/json")]
        spent = [*key(limiter, "small").items(), *fields[1:]]
        for _ in range(3):
            ask(server.port, "GET", "/get/", spent[:1])
        replies = [
            send(server.port, request_bytes("POST", path, spent)) for path in ("/v1/items/1/change", "/api/plain")
        ]
        assert [reply.status for reply in replies] == [429] * 2


FORWARDED = {
    "made up in front": [f"{number}.6.6.6, 203.0.113.1" for number in range(1, 5)],
    "by a chain of proxies": [f"{number}.6.6.6, 203.0.113.2, 10.1.2.3" for number in range(1, 5)],
    "mapped into IPv6": ["203.0.113.3", "::ffff:203.0.113.3"] * 2,
    "of one network": [f"2001:db8:1:2::{number}" for number in range(1, 5)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_addresses(kind, valkey, tmp_path):
    """Case 21: each caller has three requests, whatever is made up in front of what a trusted proxy has written."""
    setting = {**by_url(valkey), "KEY": f"{PROJECT}.by_address"}
    trusting = {
        "wsgi": (*THREADS, f"--bind=unix:{tmp_path}/socket"),
        "asgi": ("--forwarded-allow-ips=127.0.0.1,10.0.0.0/8",),
    }
    with limits(valkey), django_server(kind, valkey.url, *trusting[kind], RATELIMIT=setting) as server:

        def statuses_of(lines):
            return [ask(server.port, "GET", "/get/", fields).status for fields in lines]

        for name, values in FORWARDED.items():
            assert (name, statuses_of({"X-Forwarded-For": value} for value in values)) == (name, [200, 200, 200, 429])
        twice = [[("X-Forwarded-For", f"{number}.1.1.1"), ("X-Forwarded-For", "203.0.113.4")] for number in range(1, 5)]
        assert statuses_of(twice) == [200, 200, 200, 429]
        junk = statuses_of({"X-Forwarded-For": value} for value in ("junk", "1.2.3", "a" * 5000, "\xff", "unknown"))
        # gunicorn leaves the peer's address to us; uvicorn puts the junk in its place, which is nobody's.
        assert junk == ([200, 200, 200, 429, 429] if kind == "wsgi" else [403] * 5)
        if kind == "wsgi":
            assert ask(f"{tmp_path}/socket", "GET", "/get/", {"X-Forwarded-For": "203.0.113.5"}).status == 403
