"""Peppers: one replaces another while both work, and a wrong one is noticed at once."""

import asyncio
from contextlib import contextmanager, suppress
from unittest.mock import patch

import pytest
from helpers.redis_snapshot import snapshot
from helpers.replica import METHOD, STAGE, replica

from ratelimit import AsyncLimiter, Catalog, ConfigError, Conflict, UsagePlan
from ratelimit.registry.key_values import Digester
from ratelimit.scripts import ScriptCall

OLD, NEW, BOTH = "the old pepper", "the new pepper", ["the new pepper", "the old pepper"]
WRONG = r"^pepper: is not the one"
VALUE = "a-value-of-our-own-0001"


@contextmanager
def replicas(backend, clock, *peppers):
    """One replica for each pepper, or list of them."""
    if not peppers:
        yield []
        return
    with (
        replica(backend, clock=clock, pepper=peppers[0]) as first,
        replicas(backend, clock, *peppers[1:]) as others,
    ):
        yield [first, *others]


@pytest.fixture
def old_key(client, clock):
    """A plan, and a key of it that was stored under the old pepper."""
    catalog = Catalog(client, pepper=OLD, clock=clock)
    catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
    return catalog.create_key("old", plans=["gold"])


def ask(limiter, key):
    decision = limiter.check(key.value, STAGE, METHOD)
    return decision.detail or decision.reason.value


def probes(client):
    return client.hget("{ratelimit}:catalog", "pepper").decode().split()


def index(client):
    return {name.decode().removeprefix("ratelimit:digest:") for name in client.keys("ratelimit:digest:*")}


def probe(pepper):
    return Digester(pepper).probes[0]


def while_one_replaces_another_both_work(backend, clock, client, old_key):
    """Old keys open to all but those that know the new pepper alone; new keys to all that know the new one."""
    with replicas(backend, clock, OLD, BOTH) as (old, both):
        new_key = both.catalog.create_key("new", plans=["gold"])
        assert [ask(limiter, old_key) for limiter in (old, both)] == ["ALLOWED", "ALLOWED"]
        assert [ask(limiter, new_key) for limiter in (old, both)] == ["unknown", "ALLOWED"]
        assert index(client) == {Digester(OLD)(old_key.value), Digester(NEW)(new_key.value)}
        assert probes(client) == [probe(NEW), probe(OLD)]
    with replicas(backend, clock, OLD, BOTH, NEW) as (old, both, new):
        assert [ask(limiter, old_key) for limiter in (old, both, new)] == ["ALLOWED", "ALLOWED", "unknown"]
        assert [ask(limiter, new_key) for limiter in (old, both, new)] == ["unknown", "ALLOWED", "ALLOWED"]


def test_while_one_replaces_another_both_work(backend, clock, client, old_key):
    """New first, then old: old keys open, new ones are stored under the new; old replicas go on for old keys."""
    while_one_replaces_another_both_work(backend, clock, client, old_key)


def test_reading_alone_changes_no_probe(backend, clock, client, old_key):
    """Until a key is stored under the new pepper, replicas that have both write nothing about it."""
    with replicas(backend, clock, BOTH) as (both,):
        before = snapshot(client)
        assert both.peek(old_key.value, STAGE, METHOD).allowed
        assert both.catalog.get_plan("gold").id == "gold"
        assert snapshot(client) == before
    assert probes(client) == [probe(OLD)]
    with replicas(backend, clock, NEW) as (new,), pytest.raises(ConfigError, match=WRONG):
        ask(new, old_key)


def test_an_old_replica_still_makes_keys(backend, clock, client, old_key):
    """After the new pepper is in use, keys that an old replica makes open to it and to those that have both."""
    with replicas(backend, clock, OLD, BOTH) as (old, both):
        both.catalog.create_key(plans=["gold"])
        key = old.catalog.create_key(plans=["gold"])
        assert [ask(limiter, key) for limiter in (old, both)] == ["ALLOWED", "ALLOWED"]
        assert probes(client) == [probe(NEW), probe(OLD)]


def test_a_rotated_key_moves_to_the_new_pepper(backend, clock, client, old_key):
    """Its new value is stored under the new pepper; the old value opens it for the grace, and then is gone."""
    with replicas(backend, clock, BOTH) as (both,):
        assert ask(both, old_key) == "ALLOWED"
        key = both.catalog.rotate_key(old_key.id, grace_s=10)
        assert index(client) == {Digester(OLD)(old_key.value), Digester(NEW)(key.value)}
        assert [ask(both, each) for each in (old_key, key)] == ["ALLOWED", "ALLOWED"]
        clock.advance(10)
        assert [ask(both, each) for each in (old_key, key)] == ["unknown", "ALLOWED"]
        usage = both.catalog.usage("gold", "2026-03-04", "2026-03-04")
        assert usage.items == {old_key.id: [(4, None)]}
    with replicas(backend, clock, NEW) as (new,):
        assert ask(new, key) == "ALLOWED"


def test_a_value_is_one_keys_under_whichever_pepper(backend, clock, client):
    """Who has both peppers does not give a value out twice."""
    old = Catalog(client, pepper=OLD, clock=clock)
    old.put_plan(UsagePlan("gold", None, None, [STAGE]))
    first = old.create_key(value=VALUE, plans=["gold"])
    with replicas(backend, clock, BOTH) as (both,):
        with pytest.raises(Conflict, match=first.id):
            both.catalog.create_key(value=VALUE)
        other = both.catalog.create_key()
        with pytest.raises(Conflict, match=first.id):
            both.catalog.rotate_key(other.id, value=VALUE)
        assert ask(both, first) == "ALLOWED"


def test_a_revoked_key_is_refused_under_either_pepper(backend, clock, client, old_key):
    """Deleted or disabled by a replica that has both, at the next check of one that has the old pepper alone."""
    with replicas(backend, clock, OLD, BOTH) as (old, both):
        assert ask(old, old_key) == "ALLOWED"
        both.catalog.update_key(old_key.id, enabled=False)
        assert ask(old, old_key) == "disabled"
        both.catalog.delete_key(old_key.id)
        assert ask(old, old_key) == "unknown"
        assert index(client) == set()


def test_three_peppers_in_a_row(backend, clock, client, old_key):
    """A second replacement goes as the first one did, and all that keys were stored under stay known."""
    with replicas(backend, clock, BOTH) as (both,):
        new_key = both.catalog.create_key(plans=["gold"])
    with replicas(backend, clock, ["newest", NEW, OLD], ["newest", NEW], [NEW, OLD]) as (three, two, former):
        newest_key = three.catalog.create_key(plans=["gold"])
        keys = (old_key, new_key, newest_key)
        assert [ask(three, key) for key in keys] == ["ALLOWED"] * 3
        assert [ask(two, key) for key in keys] == ["unknown", "ALLOWED", "ALLOWED"]
        assert [ask(former, key) for key in keys] == ["ALLOWED", "ALLOWED", "unknown"]
    assert probes(client) == [probe("newest"), probe(NEW), probe(OLD)]


@pytest.mark.parametrize("wrong", ["another", None, "", "The old pepper", ["another", "and another"]])
def test_a_wrong_pepper_fails_at_once(backend, clock, client, old_key, wrong):
    """The first check says so, and so do all others and the catalogue: no key is told to be unknown, none is made."""
    with replicas(backend, clock, wrong) as (limiter,):
        before = snapshot(client)
        for attempt in (
            lambda: limiter.check(old_key.value, STAGE, METHOD),
            lambda: limiter.check(old_key.value, STAGE, METHOD),
            lambda: limiter.peek(old_key.value, STAGE, METHOD),
            lambda: limiter.check("x" * 30, STAGE, METHOD),
            lambda: limiter.catalog.create_key(plans=["gold"]),
            lambda: limiter.catalog.rotate_key(old_key.id),
            lambda: limiter.catalog.put_plan(UsagePlan("silver")),
            lambda: limiter.catalog.usage("gold", "2026-03-04", "2026-03-04"),
        ):
            with pytest.raises(ConfigError, match=WRONG) as caught:
                attempt()
            assert old_key.value not in str(caught.value)
            assert "another" not in str(caught.value)
        assert snapshot(client) == before


def test_a_wrong_pepper_fails_at_once_in_asyncio_too(backend, clock, old_key):
    """The twin raises the same, and works with a list of peppers."""

    async def ask_twin(pepper):
        made = backend.async_client()
        async with AsyncLimiter(made, deadline=5.0, pepper=pepper, clock=clock) as limiter:
            limiter._namespace.before_refresh = lambda: None
            try:
                return (await limiter.check(old_key.value, STAGE, METHOD)).reason.value
            finally:
                await made.aclose()

    assert asyncio.run(ask_twin(BOTH)) == "ALLOWED"
    with pytest.raises(ConfigError, match=WRONG):
        asyncio.run(ask_twin("another"))


def test_redis_holds_no_pepper_and_no_value(backend, clock, client, old_key):
    """What is stored are digests alone, and a probe's digest is no key's."""
    with replicas(backend, clock, BOTH) as (both,):
        new_key = both.catalog.create_key(plans=["gold"])
        ask(both, new_key)
    for secret in (OLD, NEW, old_key.value, new_key.value):
        assert secret not in repr(snapshot(client))
    assert not index(client) & set(probes(client))


def test_two_administrators_lose_no_probe(backend, clock, client, old_key):
    """Each introduces another pepper at the same moment: both are known afterwards."""
    with replicas(backend, clock, ["one", OLD], ["other", OLD]) as (one, other):

        def delayed(flow):
            """Have the other one's key made between what this one reads and what it commits."""
            request = next(flow)
            with suppress(StopIteration):
                while True:
                    if isinstance(request, ScriptCall):
                        made.append(other.catalog.create_key(plans=["gold"]))
                    request = flow.send((yield request))

        made = []
        one._store.run(delayed(one.catalog._keys.create_key(plans=["gold"])))
    assert len(client.smembers("{ratelimit}:plan:gold:keys")) == 1 + 1 + len(made)
    assert set(probes(client)) == {probe("one"), probe("other"), probe(OLD)}


def _newest_last(digester, value):
    return digester.all(value)[-1]


def _newest_alone(digester, value):
    return [digester(value)]


@pytest.mark.parametrize(("name", "wrong"), [("__call__", _newest_last), ("all", _newest_alone)])
def test_a_bug_is_noticed(backend, clock, client, old_key, name, wrong):
    """Keys stored under the old pepper, or looked for under the new one alone, fail the test of a replacement."""
    with patch.object(Digester, name, wrong), pytest.raises(AssertionError):
        while_one_replaces_another_both_work(backend, clock, client, old_key)
