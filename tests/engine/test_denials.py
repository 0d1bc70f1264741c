"""Refusals: counted by the clients, by day, plan, key and reason, and added to Redis in sums."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers.proxy import Proxy
from helpers.replica import METHOD, OTHER, STAGE, replica
from helpers.waiting import wait_for

from ratelimit import (
    AsyncLimiter,
    Limiter,
    Method,
    Quota,
    Reason,
    Stage,
    StoreError,
    StoreUnavailable,
    Throttle,
    UsagePlan,
)
from ratelimit.local import denial_counters
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.store import error_mapping

TODAY, TOMORROW = "2026-03-04", "2026-03-05"
DAY, NEXT_DAY = "ratelimit:denials:20516", "ratelimit:denials:20517"
KEPT_S = 91 * 86_400
NOTHING = Throttle(0, 0)


def counted(client, name=DAY):
    """What Redis holds of a day: {"plan|key|reason": requests}."""
    return {field.decode(): int(count) for field, count in client.hgetall(name).items()}


@contextmanager
def refusing(backend, clock=None, **options):
    """A replica, and a key that is always throttled; nothing is flushed but by `_tick` and at the end."""
    with replica(backend, clock=clock, **options) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", NOTHING, Quota(9, "DAY"), [STAGE]))
        yield limiter, limiter.catalog.create_key(plans=["gold"])


def refuse(limiter, key, times=1):
    for _ in range(times):
        assert limiter.check(key.value, STAGE, METHOD).reason is Reason.THROTTLED


# What is counted


def test_refusals_are_counted_by_day_plan_key_and_reason(backend, clock):
    """Nothing is in Redis before a flush; then each sum is, exactly, and `usage` tells it day by day."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle("1/1000000", 3), Quota(2, "DAY"), [STAGE]))
        catalog.put_plan(UsagePlan("silver", NOTHING, None, ["admin/prod"]))
        one, other = (catalog.create_key(plans=["gold", "silver"]) for _ in range(2))
        for key, stage, times in ((one, STAGE, 5), (other, STAGE, 2), (other, "admin/prod", 4)):
            for _ in range(times):
                limiter.check(key.value, stage, METHOD)
        limiter.check(one.value, STAGE, METHOD, cost=4)  # above the burst
        assert not client.exists(DAY)
        limiter._tick()
        sums = {f"gold|{one.id}|QUOTA_EXCEEDED": 3, f"gold|{one.id}|THROTTLED": 1, f"silver|{other.id}|THROTTLED": 4}
        assert counted(client) == sums
        assert 0 <= KEPT_S - client.ttl(DAY) < 60
        limiter._tick()
        assert counted(client) == sums
        clock.set("2026-03-05T00:00:00")
        for _ in range(2):
            limiter.check(one.value, STAGE, METHOD, cost=2)
        limiter._tick()
        assert counted(client) == sums
        assert counted(client, NEXT_DAY) == {f"gold|{one.id}|THROTTLED": 2}
        assert catalog.usage("gold", TODAY, TOMORROW).denied == {
            one.id: [{"QUOTA_EXCEEDED": 3, "THROTTLED": 1}, {"THROTTLED": 2}],
            other.id: [{}, {}],
        }
        assert catalog.usage("silver", TODAY, TODAY, other.id).denied == {other.id: [{"THROTTLED": 4}]}


def test_a_refusal_by_a_shared_limit_is_counted_for_who_asked(backend, clock):
    """A stage's and the account's buckets refuse under the plan and the key of the request."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        limiter.catalog.put_stage(Stage(STAGE, None, {METHOD: Method(NOTHING)}))
        key = limiter.catalog.create_key(plans=["gold"])
        refuse(limiter, key, 2)
        limiter.catalog.set_account_throttle(NOTHING)
        assert limiter.check(key.value, STAGE, OTHER).limited_by == "account"
        limiter._tick()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 3}


def test_a_refusal_without_a_key_is_counted(backend, clock):
    """A method that needs no key, throttled: of no plan and no key."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_stage(Stage(STAGE, NOTHING, {METHOD: Method(key_required=False)}))
        assert limiter.check(None, STAGE, METHOD).reason is Reason.THROTTLED
        limiter._tick()
        assert counted(client) == {"||THROTTLED": 1}


def test_a_403_is_counted_by_its_detail(backend, clock):
    """Keys that are missing, unknown, disabled or in no plan of the stage: of no plan and no key."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        off = limiter.catalog.create_key(plans=["gold"], enabled=False)
        lonely = limiter.catalog.create_key()
        for value, times in ((None, 1), ("", 1), ("short", 1), ("x" * 30, 2), (off.value, 3), (lonely.value, 4)):
            for _ in range(times):
                assert limiter.check(value, STAGE, METHOD).status == 403
        limiter._tick()
        assert counted(client) == {"||missing": 2, "||unknown": 3, "||disabled": 3, "||no_plan_for_stage": 4}


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda catalog, key: catalog.update_key(key.id, enabled=False), "disabled"),
        (lambda catalog, key: catalog.update_key(key.id, expires_at=1_000_000_000), "disabled"),
        (lambda catalog, key: catalog.delete_key(key.id), "unknown"),
        (lambda catalog, key: catalog.rotate_key(key.id), "unknown"),
        (lambda catalog, key: catalog.remove_key_from_plan(key.id, "gold"), "no_plan_for_stage"),
    ],
    ids=["disabled", "expired", "deleted", "rotated", "removed"],
)
def test_a_403_of_a_key_that_was_served_before_is_counted(backend, clock, change, detail):
    """Who goes on calling with a key that was revoked is counted like everybody else."""
    with replica(backend, clock=clock) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"])
        assert limiter.check(key.value, STAGE, METHOD).allowed
        change(limiter.catalog, key)
        for _ in range(3):
            assert limiter.check(key.value, STAGE, METHOD).detail == detail
        limiter._tick()
        assert counted(client) == {f"||{detail}": 3}


def test_a_peek_and_an_admission_are_not_counted(backend, clock):
    """Only requests that were refused."""
    with refusing(backend, clock) as (limiter, key), backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("free", None, None, ["admin/prod"]))
        limiter.catalog.add_key_to_plan(key.id, "free")
        assert not limiter.peek(key.value, STAGE, METHOD).allowed
        assert not limiter.check(key.value, STAGE, METHOD, cost=0).allowed
        assert not limiter.peek("x" * 30, STAGE, METHOD).allowed
        assert not limiter.peek(None, STAGE, METHOD).allowed
        assert limiter.check(key.value, "admin/prod", METHOD).allowed
        limiter._tick()
        assert not client.exists(DAY)


def test_what_was_unavailable_is_not_counted(backend, clock):
    """A 503 is no refusal of the key's."""
    with refusing(backend, clock) as (limiter, key), backend.client() as client:
        limiter.catalog.set_account_throttle(Throttle(1, 1))
        refuse(limiter, key)
        client.rpush("ratelimit:account", "spoilt")
        assert limiter.check(key.value, STAGE, METHOD).reason is Reason.UNAVAILABLE
        limiter._tick()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 1}


def test_replicas_and_threads_add_up(server):
    """Eight threads of two replicas, and flushes at the same time: the sum is the number of refusals."""
    with refusing(server) as (here, key), replica(server) as there, server.client() as client:
        done = threading.Event()

        def flush():
            while not done.wait(0.001):
                here._tick()
                there._tick()

        with ThreadPoolExecutor(9) as threads:
            flushing = threads.submit(flush)
            asking = [threads.submit(refuse, (here, there)[at % 2], key, 100) for at in range(8)]
            for request in asking:
                request.result()
            done.set()
            flushing.result()
        here._tick()
        there._tick()
        days = client.keys("ratelimit:denials:*")  # two, if midnight came in between
        assert sum(sum(counted(client, day).values()) for day in days) == 800


# When it is flushed


def test_close_flushes(backend, clock):
    """What was counted is in Redis when a limiter is closed."""
    with backend.client() as client:
        with refusing(backend, clock) as (limiter, key):
            refuse(limiter, key, 3)
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 3}
        limiter.close()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 3}


def test_aclose_flushes(backend, clock):
    """The twin counts and flushes alike."""
    with refusing(backend, clock) as (_, key), backend.client() as client:

        async def ask():
            mine = backend.async_client()
            async with AsyncLimiter(mine, deadline=5.0, clock=clock) as twin:
                twin._namespace.before_refresh = lambda: None
                for _ in range(3):
                    assert (await twin.check(key.value, STAGE, METHOD)).reason is Reason.THROTTLED
                    await twin.peek(key.value, STAGE, METHOD)
                assert (await twin.check("x" * 30, STAGE, METHOD)).status == 403
                assert not client.exists(DAY)
            await mine.aclose()

        asyncio.run(ask())
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 3, "||unknown": 1}


def test_refusals_are_flushed_without_being_told(server, clock):
    """A limiter that goes on, and its twin, flush by themselves, about once a second."""
    with refusing(server, clock) as (_, key), server.client() as client:
        with Limiter.from_url(server.url, clock=clock) as limiter:
            refuse(limiter, key, 3)
            wait_for(lambda: counted(client) == {f"gold|{key.id}|THROTTLED": 3})

        async def ask():
            async with AsyncLimiter.from_url(server.url, clock=clock) as twin:
                assert not (await twin.check(key.value, STAGE, METHOD)).allowed
                await asyncio.to_thread(wait_for, lambda: counted(client) == {f"gold|{key.id}|THROTTLED": 4})

        asyncio.run(ask())


# When a flush fails


def a_flush_whose_outcome_is_unknown_is_not_sent_twice(server, fault):
    """Its reply is lost, its sums are not: they are in Redis once, whoever flushes again."""
    with Proxy(server.socket, b"HINCRBY") as proxy, server.client() as client, refusing(server) as (_, key):
        limiter = Limiter.from_url(proxy.url, deadline=0.3)
        limiter._namespace.before_refresh = lambda: None
        refuse(limiter, key, 3)
        proxy.fault = fault
        limiter._tick()
        proxy.wait_for_faults(1)
        proxy.fault = None
        limiter._tick()
        limiter.close()
        (day,) = client.keys("ratelimit:denials:*")
        assert counted(client, day) == {f"gold|{key.id}|THROTTLED": 3}


@pytest.mark.parametrize("fault", ["swallow", "reset"])
def test_a_flush_whose_outcome_is_unknown_is_not_sent_twice(server, fault):
    """Rather a refusal too few than one that never was."""
    a_flush_whose_outcome_is_unknown_is_not_sent_twice(server, fault)


def test_sending_again_is_noticed(server):
    """A flush that takes an unknown outcome for none counts twice, and the test of it fails."""
    with patch.object(denial_counters, "StoreUnavailable", StoreError), pytest.raises(AssertionError):
        a_flush_whose_outcome_is_unknown_is_not_sent_twice(server, "reset")


def test_what_was_not_sent_is_kept(server, clock):
    """While there is no connection to be had, sums are kept, and go on growing; then they are added, once."""
    with refusing(server, clock) as (limiter, key), server.client() as client:
        refuse(limiter, key, 3)
        socket, hidden = Path(server.socket), Path(server.socket + ".hidden")
        client.ping()
        socket.rename(hidden)
        try:
            for connection in client.client_list():
                if int(connection["id"]) != client.client_id():
                    client.client_kill_filter(_id=connection["id"])
            for _ in range(2):
                limiter._tick()
            assert not client.exists(DAY)
        finally:
            hidden.rename(socket)
        limiter.warm_up()
        refuse(limiter, key, 2)
        limiter._tick()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 5}


@contextmanager
def restricted(server, clock, *rules):
    """A limiter whose user in Redis may do all but what `rules` forbid, and a key that is throttled."""
    with refusing(server, clock) as (_, key), server.client() as admin:
        admin.acl_setuser(
            "gateway", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"]
        )
        for rule in rules:
            admin.execute_command("ACL", "SETUSER", "gateway", rule)
        try:
            with (
                server.client(username="gateway", password="secret") as client,
                Limiter(client, deadline=5, clock=clock) as mine,
            ):
                mine._namespace.before_refresh = lambda: None
                yield mine, key, admin
        finally:
            admin.acl_deluser("gateway")


def test_what_was_refused_is_kept(server, clock):
    """A flush that Redis refuses is kept until it does not, and then added, once."""
    with restricted(server, clock, "-hincrby") as (limiter, key, admin):
        refuse(limiter, key, 3)
        for _ in range(2):
            limiter._tick()
        assert not admin.exists(DAY)
        admin.execute_command("ACL", "SETUSER", "gateway", "+hincrby")
        limiter._tick()
        limiter._tick()
        assert counted(admin) == {f"gold|{key.id}|THROTTLED": 3}


def test_what_was_carried_out_in_part_is_not_sent_twice(server, clock):
    """Redis adds the sums and refuses the rest of the flush: what was added is not added again."""
    with restricted(server, clock, "-expire") as (limiter, key, admin):
        refuse(limiter, key, 3)
        for _ in range(3):
            limiter._tick()
        assert counted(admin) == {f"gold|{key.id}|THROTTLED": 3}


def a_flush_that_fills_the_server_is_told_once(server, clock):
    many = 2000
    with refusing(server, clock) as (limiter, _), server.client() as client:
        for number in range(many):
            limiter._checker.denials.add(20_516, "gold", f"key{number}", "THROTTLED")
        day = limiter._namespace.names.denials(20_516)
        used = client.info("memory")["used_memory"]
        try:
            for room in range(0, 4_000_000, 50_000):
                client.config_set("maxmemory", used + room)
                limiter._tick()
                if client.exists(day):
                    break
            assert 0 < client.hlen(day) < many
        finally:
            client.config_set("maxmemory", 0)
        limiter._tick()
        assert counted(client, day) == {f"gold|key{number}|THROTTLED": 1 for number in range(many)}


def test_a_flush_that_fills_the_server_is_told_once(server, clock):
    """Some sums are added, then Redis is out of memory: those that were not are kept, and those alone."""
    a_flush_that_fills_the_server_is_told_once(server, clock)


def test_that_all_is_told_again_is_noticed(server, clock):
    """A flush that takes one refused sum for all of them counts twice."""

    def all_or_nothing(commands, replies):
        failed = next((reply for reply in replies if isinstance(reply, Exception)), None)
        return replies if failed is None else [error_mapping.after_sending(failed)] * len(replies)

    with patch.object(error_mapping, "replies_to", all_or_nothing), pytest.raises(AssertionError):
        a_flush_that_fills_the_server_is_told_once(server, clock)


def test_a_failing_flush_fails_no_check(server, clock):
    """A day that cannot be added to, of another type, is the day's loss alone."""
    with refusing(server, clock) as (limiter, key), server.client() as client:
        client.set(DAY, "spoilt")
        refuse(limiter, key, 2)
        limiter._tick()
        refuse(limiter, key, 2)
        client.delete(DAY)
        limiter._tick()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 2}


# How much is kept

MOST = 10_000


def test_what_is_kept_is_bounded():
    """Beyond 10,000 keys of a flush, refusals are counted without telling the key: none is lost."""
    counting = denial_counters.DenialCounters(RedisKeys("ratelimit"))
    for number in range(MOST + 500):
        counting.add(20_516, "gold", f"key{number}", "THROTTLED")
    commands = next(counting.flush())
    added = {command[2]: command[3] for command in commands if command[0] == "HINCRBY"}
    assert len(added) == MOST + 1
    assert added["gold||THROTTLED"] == 500
    assert sum(added.values()) == MOST + 500


def test_what_is_kept_is_bounded_while_flushes_fail():
    """Refusals that come while a flush fails do not pile up either, and none is lost."""
    counting, total = denial_counters.DenialCounters(RedisKeys("ratelimit")), 0
    for turn in range(3):
        for number in range(MOST):
            counting.add(20_516, "gold", f"key{turn}-{number}", "THROTTLED")
        flushing = counting.flush()
        next(flushing)
        for number in range(MOST):
            counting.add(20_516, "gold", f"late{turn}-{number}", "THROTTLED")
        with suppress(StopIteration):
            flushing.throw(StoreUnavailable("not sent"))
        total += 2 * MOST
        assert sum(counting._counts.values()) == total
        assert len(counting._counts) <= MOST + 1


def test_a_child_does_not_tell_what_its_parent_counted(server, clock):
    """After a fork each process tells its own refusals: none is told twice."""
    with refusing(server, clock) as (limiter, key), server.client() as client:
        refuse(limiter, key, 3)
        child = os.fork()
        if child == 0:
            limiter._tick()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert counted(client) == {}
        limiter._tick()
        assert counted(client) == {f"gold|{key.id}|THROTTLED": 3}
