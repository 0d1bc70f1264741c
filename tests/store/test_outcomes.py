"""An answer that never came: what may have been counted is unknown, what changes nothing was not sent."""

import asyncio

import pytest
from helpers.proxy import Proxy

from ratelimit import AsyncLimiter, Catalog, Limiter, Throttle, UsagePlan

STAGE, METHOD = "petstore/prod", "GET /pets"
LOOK_UP, SCRIPT = b"MGET", b"EVAL"
CASES = {
    "a check": (SCRIPT, "check", "met", "unknown"),
    "a peek": (SCRIPT, "peek", "met", "not_sent"),
    "a look-up for a check": (LOOK_UP, "check", "new", "not_sent"),
    "a look-up for a peek": (LOOK_UP, "peek", "new", "not_sent"),
    "a first read": (b"HGETALL", "check", None, "not_sent"),
}


@pytest.fixture
def keys(server):
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 5), None, [STAGE]))
        catalog.load_scripts()
        return {name: catalog.create_key(plans=["gold"]).value for name in ("met", "new")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fault", ["swallow", "reset"])
@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_what_became_of_it(twin, fault, case, server, keys):
    """In either twin, whether the reply is late or the connection is lost."""
    commands, call, key, cause = CASES[case]

    with Proxy(server.socket, commands) as proxy:

        def silent(limiter):
            limiter._namespace.before_refresh = lambda: None
            return limiter

        def break_replies():
            proxy.fault = fault

        async def run_async():
            async with AsyncLimiter.from_url(proxy.url, deadline=0.3, on_unavailable="closed") as limiter:
                if key is not None:
                    assert (await silent(limiter).check(keys["met"], STAGE, METHOD)).allowed
                break_replies()
                return await getattr(silent(limiter), call)(keys[key or "met"], STAGE, METHOD)

        def run_blocking():
            with Limiter.from_url(proxy.url, deadline=0.3, on_unavailable="closed") as limiter:
                if key is not None:
                    assert silent(limiter).check(keys["met"], STAGE, METHOD).allowed
                break_replies()
                return getattr(silent(limiter), call)(keys[key or "met"], STAGE, METHOD)

        decision = asyncio.run(run_async()) if twin == "asyncio" else run_blocking()
        assert proxy.faults >= 1
        assert (decision.status, decision.cause) == (503, cause)
