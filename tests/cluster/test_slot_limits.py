"""Shared limits, leases of keys, identities and alerts where each lies in a slot of its own."""

import asyncio
import threading
import time
from contextlib import contextmanager

import pytest
from helpers.clock import FakeClock
from helpers.replica import METHOD, STAGE
from helpers.slot_data import NodesAway, copy_all
from helpers.slot_gateway import do_at_once, slot_limiter

from ratelimit import AsyncLimiter, Catalog, Identity, Limiter, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.engine.pending_alerts import announce
from ratelimit.model import Method
from ratelimit.registry.redis_keys import RedisKeys

NAMES = RedisKeys("ratelimit")
SLOW = "1/1000"
"""Tokens per second: none comes while a test runs."""


@pytest.fixture
def clock():
    return FakeClock()


def gateway(*, account=None, stage=None, keys=1, **plan):
    """What fills a catalogue with one plan, and returns the values of its keys."""

    def fill(catalog):
        limits = {"throttle": None, "quota": Quota(10**6, "DAY")} | plan
        catalog.put_plan(UsagePlan("gold", stages=[STAGE], **limits))
        if stage is not None:
            catalog.put_stage(Stage(STAGE, stage))
        if account is not None:
            catalog.set_account_throttle(account)
        return [catalog.create_key(plans=["gold"]).value for _ in range(keys)]

    return fill


def in_threads(count, call):
    """Call with each number below `count`, all at once."""
    start = threading.Barrier(count)

    def caller(number):
        start.wait()
        call(number)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def another(slots, **options):
    """Another limiter on the same server, as of another process."""
    options = {"deadline": 5, "on_unavailable": "closed"} | options
    with slots.client() as client, Limiter(client, **options) as limiter:
        limiter._namespace.before_refresh = lambda: None
        do_at_once(limiter)
        yield limiter


@pytest.mark.parametrize("cost", [1, 3])
def test_exactly_the_shared_limit_is_admitted_to_many_threads(slots, plain, cost):
    """By two limiters, as if they were two processes; what the keys' own limits deny is there for others."""
    fill = gateway(account=Throttle(SLOW, 300), keys=8, throttle=Throttle(SLOW, 60))
    with slot_limiter(slots, plain, fill) as (first, keys), another(slots) as second:
        admitted, unavailable = [], []

        def caller(number):
            limiter = (first, second)[number % 2]
            for _ in range(100):
                decision = limiter.check(keys[number % 8], STAGE, METHOD, cost)
                (admitted if decision.allowed else []).append(cost)
                (unavailable if decision.status == 503 else []).append(decision)

        in_threads(8, caller)
        assert not unavailable
        for limiter in (first, second):  # what one still holds another may use
            limiter._store.run(limiter._checker.slots.shared.upkeep(last=True))
        until_s = time.monotonic() + 2  # what was denied is denied from memory for a second at most
        while sum(admitted) < 300 - 300 % cost and time.monotonic() < until_s:
            for key in keys:
                while first.check(key, STAGE, METHOD, cost).allowed:
                    admitted.append(cost)
        assert sum(admitted) == 300 - 300 % cost
        assert not any(first.check(key, STAGE, METHOD, cost).allowed for key in keys)


def test_exactly_the_shared_limit_is_admitted_to_many_tasks(slots, plain):
    fill = gateway(account=Throttle(SLOW, 150), stage=Throttle(SLOW, 100), keys=20)
    with slot_limiter(slots, plain, fill) as (_, keys):

        async def run():
            async with slots.async_client() as client, AsyncLimiter(client, deadline=5) as limiter:
                for key in keys:  # the first check of each takes its time, and what is prepaid lapses
                    await limiter.peek(key, STAGE, METHOD)
                decisions, end = [], time.monotonic() + 20
                # What was prepaid lapses where this machine is busy, and is given back: then some are denied too early.
                while sum(map(bool, decisions)) < 100 and time.monotonic() < end:
                    decisions += await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in keys))
                return decisions + [await limiter.check(key, STAGE, METHOD) for key in keys]

        decisions = asyncio.run(run())
        assert sum(decision.allowed for decision in decisions) == 100
        assert decisions[-1].limited_by == f"stage:{STAGE}:*"
        assert {decision.reason for decision in decisions} == {Reason.ALLOWED, Reason.THROTTLED}


def test_the_usual_check_is_one_script_call(slots, plain, clock):
    """Once units are held: neither the shared limits nor the catalogue are asked."""
    fill = gateway(account=Throttle(1000, 1000), stage=Throttle(1000, 1000))
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        for _ in range(50):
            assert limiter.check(key, STAGE, METHOD).allowed
            clock.advance(0.001)
        away = NodesAway(limiter)
        sources = {limiter.check(key, STAGE, METHOD).source for _ in range(20)}
        own = [names for names in away.requests if names == [NAMES.key_hash(limiter._checker.keys.get(key).record.id)]]
        assert sources == {"lease"}
        assert len(own) == 20
        assert len(away.requests) <= 30
        assert all(names == [NAMES.account] or "stage:" in names[0] for names in away.requests if names != own[0])


@pytest.mark.parametrize("cost", [11, 2**53 - 1, 10**30])
def test_a_cost_that_can_never_pass_is_no_demand(slots, plain, clock, cost):
    """It is 429, and its process does not come to hold what others may use: so another has all that is left."""
    fill = gateway(account=Throttle(1, 10))
    with slot_limiter(slots, plain, fill, clock=clock, denial_cache=False) as (limiter, (key,)):
        decisions = [limiter.check(key, STAGE, METHOD, cost) for _ in range(3)]
        assert [(decision.limited_by, decision.retry_after) for decision in decisions] == [("account", None)] * 3
        assert limiter.check(key, STAGE, METHOD).allowed
        with another(slots, clock=clock) as other:
            assert sum(other.check(key, STAGE, METHOD).allowed for _ in range(10)) >= 8


def test_who_is_out_of_a_shared_limit_costs_no_request(slots, plain, clock):
    fill = gateway(account=Throttle(1, 5), throttle=Throttle(1, 100))
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        for _ in range(8):
            decision = limiter.check(key, STAGE, METHOD)
        assert (decision.limited_by, decision.retry_after) == ("account", 1.0)
        away = NodesAway(limiter)
        decision = limiter.check(key, STAGE, METHOD)
        assert (decision.limited_by, decision.retry_after, decision.source) == ("account", 1.0, "denial_cache")
        assert [limit.remaining for limit in decision.limits][:2] == [95, 0]
        assert away.requests == []
        clock.advance(1)
        assert limiter.check(key, STAGE, METHOD).allowed


def test_a_disabled_key_is_refused_where_a_shared_limit_denies(slots, plain, clock):
    """403 by the very next check, and not 429: the key's script is asked whether the key is still valid."""
    fill = gateway(account=Throttle(1, 1))
    with slot_limiter(slots, plain, fill, clock=clock, denial_cache=False) as (limiter, (key,)):
        assert [limiter.check(key, STAGE, METHOD).status for _ in range(2)] == [200, 429]
        with plain.client() as source:
            Catalog(source).update_key(limiter._checker.keys.get(key).record.id, enabled=False)
            copy_all(source, slots)
        assert limiter.check(key, STAGE, METHOD).detail == "disabled"


def test_denials_by_shared_limits_are_counted(slots, plain, clock):
    fill = gateway(account=Throttle(1, 1))
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        for _ in range(4):
            limiter.check(key, STAGE, METHOD)
        key_id = limiter._checker.keys.get(key).record.id
        counts = {entry[1:]: count for entry, count in limiter._checker.denials._counts.items()}
        assert counts == {("gold", key_id, "THROTTLED"): 3}


def test_requests_without_a_route_meet_shared_limits_alone(slots, plain, clock):
    with slot_limiter(slots, plain, gateway(account=Throttle(1, 3)), clock=clock) as (limiter, (key,)):
        decisions = [limiter._check_shared(key, STAGE) for _ in range(5)]
        assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
        assert limiter._check_shared("no-key-has-ever-had-this-value", STAGE).status == 403


@pytest.mark.parametrize("has_route", [True, False])
def test_requests_without_a_key_follow_the_catalogue(slots, plain, clock, has_route):
    """Another process charged the shared limit under a newer one: that is read, and the request prepared anew."""

    def fill(catalog):
        catalog.put_stage(Stage(STAGE, Throttle(SLOW, 5), {METHOD: Method(key_required=False)}))

    def request(limiter):
        if has_route:
            return limiter.check(None, STAGE, METHOD)
        return limiter._check_shared(None, STAGE, key_required=False)

    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, _):
        assert request(limiter).allowed
        with plain.client() as source:
            Catalog(source).put_stage(Stage(STAGE, Throttle(SLOW, 3), {METHOD: Method(key_required=False)}))
            copy_all(source, slots)
        with another(slots, clock=clock) as newer:
            assert request(newer).allowed
        clock.advance(0.2)  # what is held is over
        decision = request(limiter)
        assert (decision.allowed, decision.limits[0].limit) == (True, 3)


# Leases of keys


def test_a_keys_lease_takes_shared_units_for_each_check(slots, plain, clock):
    """So what is leased of a key is not withheld from others, and the shared limit is never exceeded."""
    fill = gateway(account=Throttle(SLOW, 40), keys=2, throttle=Throttle(100, 1000), lease=1)
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key, other)):
        decisions = []
        for _ in range(30):
            decisions.append(limiter.check(key, STAGE, METHOD))
            clock.advance(0.01)
        assert all(decisions)
        assert {decision.source for decision in decisions} >= {"lease"}
        assert sum(decision.time_us is None for decision in decisions) > 5  # without a script
        assert sum(limiter.check(other, STAGE, METHOD).allowed for _ in range(20)) == 10
        denied = limiter.check(key, STAGE, METHOD)
        assert (denied.reason, denied.limited_by) == (Reason.THROTTLED, "account")
        limiter._store.run(limiter._checker.leases.return_unspent(all_of_them=True))
        quota = limiter.peek(key, STAGE, METHOD).limits[-1]
        assert quota.remaining == 10**6 - 30


def test_what_a_key_has_prepaid_is_no_part_of_what_a_shared_limit_has_left(slots, plain, clock):
    fill = gateway(account=Throttle(SLOW, 500), throttle=Throttle(1000, 5000), lease=1)
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        remaining = []
        for admitted in range(1, 201):
            account = limiter.check(key, STAGE, METHOD).limits[1]
            remaining.append((account.name, account.remaining, 500 - admitted))
            clock.advance(0.001)
        assert limiter._checker.prepared(key, STAGE, METHOD).lease.units > 20
        assert all(name == "account" and left == exact for name, left, exact in remaining), remaining


# Identities


def test_a_bounded_plan_has_as_many_identities_as_it_may(slots, plain, clock):
    with slot_limiter(slots, plain, gateway(max_identities=3), clock=clock) as (limiter, _):
        decisions = [limiter.check(Identity(f"user:{n}", plan="gold"), STAGE, METHOD) for n in range(5)]
        assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
        denied = decisions[-1]
        assert (denied.reason, denied.limited_by, denied.retry_after) == (Reason.THROTTLED, "identities", None)
        assert [limit.name for limit in denied.limits] == ["quota:gold"]
        clock.advance(40)  # known ones are counted anew, and go on
        assert all(limiter.check(Identity(f"user:{n}", plan="gold"), STAGE, METHOD) for n in range(3))
        assert slots.admin.zcard(NAMES.identities("gold", 1)) == 3
        assert not limiter.check(Identity("user:9", plan="gold"), STAGE, METHOD)


def test_another_process_compares_the_count_and_does_not_forget_whom_it_never_met(slots, plain, clock):
    with slot_limiter(slots, plain, gateway(max_identities=2), clock=clock) as (limiter, _):
        for number in range(2):
            assert limiter.check(Identity(f"user:{number}", plan="gold"), STAGE, METHOD).allowed
        with another(slots, clock=clock) as other:
            answers = [other.check(Identity(f"user:{n}", plan="gold"), STAGE, METHOD).allowed for n in range(4)]
            assert answers == [True, True, False, False]


def test_counted_identities_are_those_that_one_server_counts(slots, plain):
    """Of more than 4096 a sample, by bits of the digest; and their entries expire with their hashes."""
    fill = gateway(max_identities=4096 * 8)
    with slot_limiter(slots, plain, fill) as (limiter, _), plain.client() as client, Limiter(client) as usual:
        for number in range(100):
            identity = Identity(f"user:{number}", plan="gold")
            assert limiter.check(identity, STAGE, METHOD).allowed
            assert usual.check(identity, STAGE, METHOD).allowed
        name = NAMES.identities("gold", 8)
        assert 0 < client.zcard(name) < 40
        counted = {member.decode(): score for member, score in client.zrange(name, 0, -1, withscores=True)}
        spread = dict(slots.admin.zrange(name, 0, -1, withscores=True))
        assert counted.keys() == spread.keys()
        assert all(abs(spread[member] - score) < 10**7 for member, score in counted.items())
        assert abs(slots.admin.pttl(name) - client.pttl(name)) < 10_000


def test_an_identity_that_is_out_of_limit_costs_no_request(slots, plain, clock):
    """Also when it was admitted so long ago that it would have to be counted anew."""
    fill = gateway(throttle=Throttle(SLOW, 3), max_identities=3)
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, _):
        user = Identity("user:1", plan="gold")
        assert [limiter.check(user, STAGE, METHOD).allowed for _ in range(5)] == [True] * 3 + [False] * 2
        clock.advance(40)
        for _ in range(2):  # what was known is too old
            assert limiter.check(user, STAGE, METHOD).time_us
        away = NodesAway(limiter)
        for _ in range(10):
            decision = limiter.check(user, STAGE, METHOD)
            assert (decision.limited_by, decision.source) == ("plan:gold", "denial_cache")
        assert away.requests == []


# Alerts


def stream(slots):
    return [entry for _, entry in slots.admin.xrange(NAMES.alerts)]


def test_alerts_are_announced_with_an_id_and_not_kept(slots, plain, clock):
    fill = gateway(quota=Quota(10, "DAY"), alerts=[50, 100])
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        for _ in range(12):
            limiter.check(key, STAGE, METHOD)
        key_id = limiter._checker.keys.get(key).record.id
        entries = stream(slots)
        assert [(entry["percent"], entry["used"], entry["limit"]) for entry in entries] == [
            ("50", "5", "10"),
            ("100", "10", "10"),
        ]
        assert [entry["id"].split(":")[:2] + entry["id"].split(":")[3:] for entry in entries] == [
            [key_id, "gold", "50"],
            [key_id, "gold", "100"],
        ]
        fields = slots.admin.hkeys(NAMES.key_hash(key_id))
        assert [field for field in fields if field.startswith("a:")] == ["a:gold"]


def test_an_alert_that_nobody_announced_is_announced_by_who_finds_it(slots, plain, clock):
    """Its process went away in between; the stream's node may have been away."""
    fill = gateway(quota=Quota(10, "DAY"), alerts=[50])
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)):
        away = NodesAway(limiter, lambda name: name == NAMES.alerts)
        for _ in range(6):
            assert limiter.check(key, STAGE, METHOD).allowed
        assert stream(slots) == []
        away.is_away = lambda name: False
        key_id = limiter._checker.keys.get(key).record.id
        assert limiter._store.run(announce(NAMES, key_id)) == 1
        assert [(entry["percent"], entry["used"]) for entry in stream(slots)] == [("50", "5")]
        assert limiter._store.run(announce(NAMES, key_id)) == 0
        clock.advance(86_400)  # the first charge of a day looks as well
        slots.admin.hset(NAMES.key_hash(key_id), "a:gold:1312961:50", b"\0" * 24)
        assert limiter.check(key, STAGE, METHOD).allowed
        assert len(stream(slots)) == 2


@contextmanager
def doing_nothing(limiter):
    """What is started in the background is never run, as by a process that goes away."""
    started, limiter._store._background.start = limiter._store._background.start, lambda operation: operation.close()
    yield
    limiter._store._background.start = started


def test_checks_do_not_depend_on_what_is_done_in_the_background(slots, plain, clock):
    fill = gateway(account=Throttle(10, 50), quota=Quota(30, "DAY"), alerts=[50], max_identities=5)
    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key,)), doing_nothing(limiter):
        assert sum(limiter.check(key, STAGE, METHOD).allowed for _ in range(40)) == 30
        assert limiter.check(Identity("user:1", plan="gold"), STAGE, METHOD).allowed
