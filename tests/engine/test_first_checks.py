"""The first checks of a process: few round trips, and nobody goes by a catalogue that is not there yet."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from helpers.proxy import Proxy

from ratelimit import AsyncLimiter, Catalog, Limiter, Method, Quota, Stage, Throttle, UsagePlan

STAGE, METHOD, OPEN = "petstore/prod", "GET /pets", "GET /health"
AT_ONCE = 8


@pytest.fixture
def key(server):
    """A key whose plan opens the stage of a method that needs none."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 5), Quota(100, "DAY"), [STAGE]))
        catalog.put_stage(Stage(STAGE, methods={OPEN: Method(key_required=False)}))
        return catalog.create_key(plans=["gold"])


def open_to_all(decisions):
    return [(decision.status, decision.limits) for decision in decisions] == [(200, ())] * AT_ONCE


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a key"])
def test_tasks_of_a_new_process_find_an_open_method_open(with_key, server, key):
    """All of them, and the plan of the key is not charged."""

    async def run():
        async with AsyncLimiter.from_url(server.url, deadline=10.0) as limiter:
            value = key.value if with_key else None
            return await asyncio.gather(*(limiter.check(value, STAGE, OPEN) for _ in range(AT_ONCE)))

    assert open_to_all(asyncio.run(run()))


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a key"])
def test_threads_of_a_new_process_find_an_open_method_open(with_key, server, key):
    """All of them, in each of ten new processes' limiters."""
    for _ in range(10):
        with Limiter.from_url(server.url, deadline=10.0) as limiter, ThreadPoolExecutor(AT_ONCE) as pool:
            start, value = Barrier(AT_ONCE), key.value if with_key else None

            def check(_, limiter=limiter, start=start, value=value):
                start.wait()
                return limiter.check(value, STAGE, OPEN)

            assert open_to_all(pool.map(check, range(AT_ONCE)))


@pytest.fixture
def relay(server):
    with Proxy(server.socket) as relay:
        yield relay


@pytest.fixture
def check(relay):
    """Runs checks of a new process, one after the other, in either twin; its only round trips are theirs."""

    def run(*requests, twin="blocking", url=relay.url):
        def silent(limiter):
            limiter._namespace.before_refresh = lambda: None  # no push that has the catalogue read
            return limiter

        async def run_async():
            async with AsyncLimiter.from_url(url, deadline=10.0) as limiter:
                return [await silent(limiter).check(*request) for request in requests], len(relay.round_trips)

        if twin == "asyncio":
            decisions, trips = asyncio.run(run_async())
        else:
            with Limiter.from_url(url, deadline=10.0) as limiter:
                decisions, trips = [silent(limiter).check(*request) for request in requests], len(relay.round_trips)
        del relay.round_trips[trips:]  # what it does when it is closed
        return decisions

    return run


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
@pytest.mark.parametrize("scripts", ["known", "unknown"])
def test_the_first_check_takes_three_round_trips(scripts, twin, server, key, relay, check):
    """What depends on nothing; the key's record; the check, by its source if the server does not know it."""
    with server.client() as client:
        client.script_flush()
        if scripts == "known":
            Catalog(client).load_scripts()
    (decision,) = check((key.value, STAGE, METHOD), twin=twin)
    assert decision.allowed
    assert list(map(sorted, relay.round_trips)) == [
        ["EVALSHA", "EVALSHA", "GET", "HGETALL", "INFO", "MGET"],
        ["GET", "HGET"],
        ["EVALSHA" if scripts == "known" else "EVAL"],
    ]


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_the_first_check_without_a_key_takes_two(twin, key, relay, check):
    (decision,) = check((None, STAGE, OPEN), twin=twin)
    assert decision.allowed
    assert len(relay.round_trips) == 2


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_a_key_that_is_new_to_a_process_takes_three(twin, server, key, relay, check):
    """Its entry in the index, its record, the check; a key that is known takes one, and a source is sent once."""
    with server.client() as client:
        client.script_flush()
        other = Catalog(client).create_key(plans=["gold"])
    first, again = (key.value, STAGE, METHOD), (other.value, STAGE, METHOD)
    assert all(check(first, first, again, again, twin=twin))
    assert len(relay.round_trips) == 3 + 1 + 3 + 1
    assert ["EVAL" in commands for commands in relay.round_trips] == [False, False, True] + [False] * 5


def test_a_user_who_may_not_send_scripts_has_a_first_check(server, key, check):
    """Nor look whether they are there: EVALSHA says it."""
    with server.client() as client:
        Catalog(client).load_scripts()
        client.execute_command("ACL", "SETUSER", "hardened", "on", ">secret", "~*", "&*", "+@all", "-eval", "-script")
        try:
            (decision,) = check((key.value, STAGE, METHOD), url=f"unix://hardened:secret@{server.socket}")
            assert decision.allowed
        finally:
            client.acl_deluser("hardened")


def test_what_the_first_check_may_not_read_besides_does_not_matter(server, key, check):
    """INFO is for a warning alone."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info")
        try:
            (decision,) = check((key.value, STAGE, METHOD), url=f"unix://limited:secret@{server.socket}")
            assert decision.allowed
        finally:
            client.acl_deluser("limited")


def test_many_first_checks_load_the_catalogue_once(server, relay):
    """Of 200 tasks that start at once, each with a key of its own, one loads it; all are admitted."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 5), None, [STAGE]))
        keys = [catalog.create_key(plans=["gold"]).value for _ in range(200)]
        client.script_flush()

    async def run():
        async with AsyncLimiter.from_url(relay.url, deadline=10.0) as limiter:
            limiter._namespace.before_refresh = lambda: None
            return await asyncio.gather(*(limiter.check(value, STAGE, METHOD) for value in keys))

    assert all(asyncio.run(run()))
    assert relay.commands["HGETALL"] == 1
    assert relay.commands["INFO"] == 1
    assert relay.commands["MGET"] <= 2 + 200 // 64


def test_a_first_check_that_failed_is_followed_by_another_first_check(server, key, relay, check):
    """With the server's words; the next one needs no more round trips than any first one."""
    with server.client() as client, Limiter.from_url(relay.url, deadline=10.0) as limiter:
        limiter._namespace.before_refresh = lambda: None
        dump = client.dump("{ratelimit}:catalog")
        client.set("{ratelimit}:catalog", "no hash")
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.cause, "WRONGTYPE" in decision.error) == ("refused", True)
        client.restore("{ratelimit}:catalog", 0, dump, replace=True)
        relay.round_trips.clear()
        assert limiter.check(key.value, STAGE, METHOD).allowed
        assert len(relay.round_trips) == 3
