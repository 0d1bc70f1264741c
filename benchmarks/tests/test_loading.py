"""Keys that are written quickly are those that the catalogue would have made."""

import pytest

from benchmarks.contenders import loading
from benchmarks.suite import host
from ratelimit import Catalog, Limiter, Quota, Throttle, UsagePlan

STAGE = "petstore/prod"
PLANS = [UsagePlan(name, Throttle(1, 5), Quota(10, "DAY"), [STAGE]) for name in ("gold", "silver")]


@pytest.fixture
def server():
    started = host.Server(host.MAIN)
    yield started
    started.stop()


def in_redis(client):
    """Names with ids and digests left out, and the type of what is there."""
    names = client.keys("*")
    return sorted({(name.split(b"{")[0].split(b"digest:")[0], client.type(name)) for name in names})


def test_loaded_keys_leave_what_made_keys_leave(server):
    """The same names and types in Redis, and records with the same fields, as by `create_key`."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(PLANS[0])
        made = catalog.create_key(plans=["gold"])
        record = client.get(f"ratelimit:{{{made.id}}}:record")
        as_made, encoding = in_redis(client), client.object("encoding", f"ratelimit:{{{made.id}}}")
        client.flushall()
        catalog.put_plan(PLANS[0])
        loading.load_keys(client, "ratelimit", 1, lambda _: "gold")
        (loaded,) = catalog.keys()
        assert in_redis(client) == as_made
        assert client.object("encoding", f"ratelimit:{{{loaded.id}}}") == encoding
        assert len(client.get(f"ratelimit:{{{loaded.id}}}:record")) == len(record)
        assert (loaded.name, loaded.enabled, loaded.plans) == (made.name, made.enabled, made.plans)


def test_each_loaded_key_opens_its_plan(server):
    """2,500 keys in two batches and two plans: all are listed, and each is decided by its own plan."""
    with server.client() as client:
        Catalog(client).put_plan(PLANS[0])
        loading.load_plans(client, "ratelimit", PLANS)
        for batch, keys in (("a", 1500), ("b", 1000)):
            loading.load_keys(client, "ratelimit", keys, lambda number: PLANS[number % 2].id, batch)
        assert client.zcard("{ratelimit}:keys") == 2500
        assert client.scard("{ratelimit}:plan:gold:keys") == 1250
        with Limiter(client, deadline=5.0) as limiter:
            for batch, number, plan in (("a", 0, "gold"), ("a", 1499, "silver"), ("b", 999, "silver")):
                decision = limiter.check(loading.value(number, batch), STAGE, "GET /pets")
                assert decision.allowed
                assert decision.limits[0].name == f"plan:{plan}"
            assert limiter.check(loading.value(1500, "a"), STAGE, "GET /pets").detail == "unknown"
