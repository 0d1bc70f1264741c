"""A server that lost a change of the catalogue: restarted from a snapshot, or a replica that had lagged took over."""

import pytest
from helpers.lua_mutation import bug

from ratelimit import Catalog, Limiter, Throttle, UsagePlan
from ratelimit.registry.snapshot import CatalogSnapshot

STAGE, METHOD = "petstore/prod", "GET /pets"
CATALOG = "{ratelimit}:catalog"


def plan(burst):
    return UsagePlan("gold", Throttle(1, burst), stages=[STAGE])


def burst(limiter, key):
    decision = limiter.check(key.value, STAGE, METHOD)
    assert decision.cause is None
    return decision.limits[0].limit


@pytest.fixture
def lost(backend):
    """A client, a key, and a function that has the server hold the catalogue as it was when the plan's burst was 10.

    Under a burst of 20, which followed, the key was charged.
    """
    with backend.client() as client, Limiter(client, deadline=5) as gateway:
        catalog = Catalog(client)
        catalog.put_plan(plan(10))
        key = catalog.create_key(plans=["gold"])
        snapshot = client.dump(CATALOG)
        catalog.put_plan(plan(20))
        gateway._namespace.on_change_message("changed")
        assert burst(gateway, key) == 20
        yield client, key, lambda: client.restore(CATALOG, 0, snapshot, replace=True)


def keys_of_a_lost_version_are_served(client, key, lose):
    """By a replica that knew what is lost, and by a new one; and the key goes by what there is from then on."""
    with Limiter(client, deadline=5) as gateway:
        assert burst(gateway, key) == 20
        lose()
        gateway._namespace.on_change_message(None)
        assert burst(gateway, key) == 10
    assert client.hget(f"ratelimit:{{{key.id}}}", "r")[8:18] == b"%010d" % int(client.hget(CATALOG, "version"))
    with Limiter(client, deadline=5) as new:
        assert burst(new, key) == 10


def a_version_given_twice_is_told_apart(client, key, lose):
    """A replica that knew the lost version goes by the one that has its number now, once it hears of it."""
    with Limiter(client, deadline=5) as gateway:
        assert burst(gateway, key) == 20
        lost_version = client.hget(CATALOG, "version")
        lose()
        Catalog(client).put_plan(plan(30))
        assert client.hget(CATALOG, "version") == lost_version
        gateway._namespace.on_change_message("changed")
        assert burst(gateway, key) == 30


def test_keys_of_a_lost_version_are_served(lost):
    keys_of_a_lost_version_are_served(*lost)


def test_a_version_given_twice_is_told_apart(lost):
    a_version_given_twice_is_told_apart(*lost)


def test_a_lost_version_that_closes_all_is_noticed(lost):
    right = "if not nothing_newer and (is_newer"
    with bug(right, "if is_newer or not nothing_newer and (is_newer"), pytest.raises(AssertionError):
        keys_of_a_lost_version_are_served(*lost)


def test_versions_that_are_taken_for_each_other_are_noticed(lost, monkeypatch):
    monkeypatch.setattr(
        CatalogSnapshot, "version_key", property(lambda snapshot: (snapshot.epoch, str(snapshot.version), ""))
    )
    with pytest.raises(AssertionError):
        a_version_given_twice_is_told_apart(*lost)
