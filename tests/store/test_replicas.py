"""How many processes share limits: each sends a heartbeat, and learns how many do."""

import logging

import pytest
from helpers.clock import MonotonicClock
from helpers.forks import run_in_child
from helpers.outages import OutageGateway
from helpers.replica import METHOD, STAGE
from helpers.twins import RunningLimiter
from helpers.waiting import wait_for

from ratelimit import Catalog, Limiter, StoreUnavailable, Throttle, UsagePlan
from ratelimit.local.process_life import PROCESS
from ratelimit.local.replicas import INTERVAL_US, Replicas
from ratelimit.registry.namespace import Namespace

REPLICAS = "{ratelimit}:replicas"
IS_ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])


def key_of(client, **names):
    catalog = Catalog(client, **names)
    catalog.put_plan(UsagePlan("gold", Throttle("1/1000", 40), None, [STAGE]))
    return catalog.create_key(plans=["gold"]).value


def members(client, namespace="ratelimit"):
    return {name.decode() for name in client.zrange(f"{{{namespace}}}:replicas", 0, -1)}


def hear(client, *lives, age_s=0):
    seconds, us = client.time()
    client.zadd(REPLICAS, dict.fromkeys(lives, (seconds - age_s) * 1000000 + us))


@IS_ASYNC
@pytest.mark.parametrize("scripts", ["known", "unknown"])
def test_a_process_is_counted_with_its_first_check(scripts, is_async, server):
    """Or soon after it, where the server does not know the script; those not heard for 15 s do not count."""
    with OutageGateway(server, is_async) as gateway:
        key = key_of(gateway.client)
        if scripts == "known":
            gateway.catalog.load_scripts()
        hear(gateway.client, "another1", "another2", "another3")
        hear(gateway.client, "longgone", age_s=16)
        gateway.check(key)
        if scripts == "unknown":
            wait_for(lambda: gateway.without_redis.replicas.count == 4)
        assert gateway.without_redis.replicas.count == 4
        assert members(gateway.client) == {PROCESS.name, "another1", "another2", "another3"}
        gateway.begin()
        wait_for(lambda: gateway.peek(key).source == "redis")
        gateway.go_away()
        assert gateway.checks(10, key) == [(200, "local")] * 9 + [(429, "local")]  # 39 / 4
        gateway.come_back()
    with server.client() as client:
        assert members(client) == {"another1", "another2", "another3"}


def test_limiters_of_one_process_are_one(server):
    """It leaves when the last of them is closed; a child that is forked is another process."""
    names = {"namespace": "alone"}  # limiters of other tests may be open yet
    with server.client() as client:
        key = key_of(client, **names)
        Catalog(client, **names).load_scripts()
        one, other = (Limiter.from_url(server.url, deadline=5, **names) for _ in range(2))
        for limiter in (one, other):
            assert limiter.check(key, STAGE, METHOD).allowed
        assert (members(client, **names), other._without_redis.replicas.count) == ({PROCESS.name}, 1)

        def child():
            with Limiter.from_url(server.url, deadline=5, **names) as limiter:
                return limiter.check(key, STAGE, METHOD).allowed and limiter._without_redis.replicas.count == 2

        assert run_in_child(child) == 0
        assert members(client, **names) == {PROCESS.name}
        one.close()
        assert members(client, **names) == {PROCESS.name}
        other.close()
        assert members(client, **names) == set()


def test_a_user_who_may_not(server, caplog):
    """Checks go on; one warning, and `replicas` is what limits are divided by."""
    with server.client() as client:
        key = key_of(client)
        Catalog(client).load_scripts()
        rules = ("~ratelimit:*", "~{ratelimit}:catalog", "resetchannels", "&ratelimit:*")
        client.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">secret", "+@all", *rules)
        url = f"unix://gateway:secret@{server.socket}"
        try:
            with (
                caplog.at_level(logging.WARNING, "ratelimit"),
                Limiter.from_url(url, deadline=5, replicas=3) as limiter,
            ):
                assert limiter.check(key, STAGE, METHOD).allowed
                for _ in range(3):
                    limiter._tick()
                assert limiter._without_redis.replicas.count == 3
        finally:
            client.execute_command("ACL", "DELUSER", "gateway")
    assert len([each for each in caplog.messages if "cannot be counted among the replicas" in each]) == 1
    assert "by `replicas`" in caplog.text


@pytest.fixture
def replicas():
    namespace = Namespace("n", None, None)
    namespace.age_us = MonotonicClock()
    return Replicas(namespace, 2)


def renewed(replicas, reply):
    """Whether a heartbeat was due; `reply` is the number in its reply."""
    operation = replicas.renew()
    if next(operation, None) is None:
        return False
    with pytest.raises(StopIteration):
        operation.send(reply)
    return True


def test_each_five_seconds(replicas):
    """As is said when Redis fails: at the next time."""
    clock = replicas._namespace.age_us
    assert renewed(replicas, 3)
    clock.now += INTERVAL_US - 1
    assert not renewed(replicas, 3)
    clock.now += 1
    operation = replicas.renew()
    next(operation)
    with pytest.raises(StoreUnavailable):
        operation.throw(StoreUnavailable("gone"))
    assert renewed(replicas, 3)
    assert not renewed(replicas, 3)


def test_of_the_last_counts_the_largest_is_believed(replicas):
    """After an outage not all have been heard at once; four counts later, those who are gone are forgotten."""
    counts = []
    for reply in (1, 12, 1, 1, 1, 1, 1):
        renewed(replicas, reply)
        counts.append(replicas.count)
        replicas._namespace.age_us.now += INTERVAL_US
    assert counts == [2, 12, 12, 12, 12, 2, 2]


@IS_ASYNC
def test_a_process_that_hears_no_pushes_lives(is_async, server):
    """Its user may not subscribe. It says that it lives all the same."""
    with server.client() as client:
        key = key_of(client)
        client.execute_command("ACL", "SETUSER", "gateway", "reset", "on", ">secret", "+@all", "-subscribe", "~*")
        url = f"unix://gateway:secret@{server.socket}"
        try:
            with RunningLimiter(lambda kind: kind.from_url(url, deadline=5), is_async) as limiter:
                assert limiter.check(key, STAGE, METHOD).allowed
                client.delete(REPLICAS)
                limiter.limiter._without_redis.replicas._due_us = None
                wait_for(lambda: members(client) == {PROCESS.name})
        finally:
            client.execute_command("ACL", "DELUSER", "gateway")
