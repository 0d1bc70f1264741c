"""Callers without a stored key: what they are admitted, what Redis holds of them, for how long, and how many."""

import asyncio
import logging
import os
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
from helpers.check_worker import ask
from helpers.paths import ROOT
from helpers.processes import GATE
from helpers.redis_snapshot import exact_snapshot, names_in, snapshot_without_denials
from helpers.replica import FOREVER, METHOD, OTHER, SLOW, STAGE, remaining, replica
from helpers.twins import RunningLimiter

from ratelimit import (
    Catalog,
    ConfigError,
    Identity,
    IdentityUsage,
    Method,
    NotFound,
    PlanStage,
    Quota,
    Reason,
    Stage,
    Throttle,
    UsagePlan,
)
from ratelimit.registry.key_values import Digester
from ratelimit.registry.windows import day_of

SUBJECT = "user:42"
USER = Identity(SUBJECT, "free")
HASH = "ratelimit:{~jZrdFy2t_aol4-D45-7CFw}"
"""Its hash, without a pepper: as in lua/PROTOCOL.md."""
CATALOG = "{ratelimit}:catalog"
HEALTH = "GET /health"
DAY = "ratelimit:denials:20516"
FREE = UsagePlan("free", Throttle(SLOW, 3), Quota(10, "DAY"), [STAGE])
IS_ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])


def users(number, plan="free"):
    return [Identity(f"user:{at}", plan) for at in range(number)]


def names(client):
    """The names of all keys, without the sums of denials, and the processes that live."""
    return {key.decode() for key in names_in(client) if not key.startswith(b"ratelimit:denials:")}


def outcome(decision):
    return decision.status, decision.limited_by or decision.detail


@contextmanager
def limiter_of(server, *plans, is_async=False, **options):
    """Either twin, on a server that has these plans."""
    with server.client() as client:
        catalog = Catalog(client, clock=options.get("clock"))
        for plan in plans:
            catalog.put_plan(plan)
    options = {"deadline": 10.0, "denial_cache": False, "on_unavailable": "closed", **options}
    with RunningLimiter(lambda kind: kind.from_url(server.url, **options), is_async) as limiter:
        yield limiter


# What it is admitted, and what Redis holds of it


@IS_ASYNC
def test_an_identity_has_the_limits_of_its_plan(server, clock, is_async):
    """Each a bucket and a quota of its own; peek takes nothing."""
    with limiter_of(server, FREE, is_async=is_async, clock=clock) as limiter:
        one, other = users(2)
        for left in (2, 1, 0):
            decision = limiter.check(one, STAGE, METHOD)
            assert (decision.status, remaining(decision)) == (200, {"plan:free": left, "quota:free": 7 + left})
        denied = limiter.check(one, STAGE, METHOD)
        assert (outcome(denied), denied.retry_after) == ((429, "plan:free"), 1000.0)
        peeked = limiter.run(lambda: limiter.limiter.peek(other, STAGE, METHOD))
        assert (peeked.status, remaining(peeked)) == (200, {"plan:free": 3, "quota:free": 10})
        assert remaining(limiter.check(other, STAGE, METHOD, 2)) == {"plan:free": 1, "quota:free": 8}


@IS_ASYNC
def test_redis_holds_one_hash_of_it(server, is_async):
    """With a version token, whose stamp is eight dashes, and a state; the subject stands nowhere."""
    with limiter_of(server, FREE, is_async=is_async) as limiter, server.client() as client:
        before = exact_snapshot(server)
        assert limiter.run(lambda: limiter.limiter.peek(USER, STAGE, METHOD)).allowed
        assert exact_snapshot(server) == before
        assert limiter.check(USER, STAGE, METHOD).allowed
        assert names(client) == {CATALOG, HASH}
        token = client.hget(CATALOG, "epoch") + b"0000000001" + b"--------"
        assert client.hgetall(HASH) == {b"r": token, b"p:free": client.hget(HASH, "p:free")}
        assert len(client.hget(HASH, "p:free")) == 56
        everything = repr(exact_snapshot(server))
        assert SUBJECT not in everything
        assert limiter.check(USER, STAGE, METHOD).allowed
        assert limiter.run(lambda: limiter.limiter.catalog.identity_usage(USER)).used == 2


def test_it_expires_when_it_says_no_more_than_no_hash(server):
    """A minute after the bucket is full and the quota's window is over."""
    plans = UsagePlan("free", Throttle(10, 5), None, [STAGE]), UsagePlan("slow", Throttle(SLOW, 3), None, [STAGE])
    plans += (UsagePlan("daily", Throttle(10, 5), Quota(10, "DAY"), [STAGE]),)
    with limiter_of(server, *plans) as limiter, server.client() as client:
        for plan, most_ms in (("free", 60_500), ("slow", 3_060_000)):
            assert limiter.check(Identity(plan, plan), STAGE, METHOD).allowed
            name = f"ratelimit:{{~{Digester()(f'identity:{plan}')}}}"
            assert most_ms - 5_000 < client.pttl(name) <= most_ms
        before, _ = client.time()
        decision = limiter.check(Identity("daily", "daily"), STAGE, METHOD)
        after, _ = client.time()
        expires_s = client.pttl(f"ratelimit:{{~{Digester()('identity:daily')}}}") / 1000
        midnight = (day_of(decision.time_us) + 1) * 86_400
        assert before < midnight + 60 - expires_s < after + 6


@pytest.mark.parametrize(("max_age", "seconds"), [(5.0, 60.0), (30.0, 60.0), (100.0, 200.0), (1e300, 2**52 / 1e6)])
def test_it_outlives_every_catalogue_that_is_not_up_to_date(server, max_age, seconds):
    """Twice the time after which a replica looks, and a minute at least: there may be no expiry for half a minute."""
    unlimited = UsagePlan("free", None, None, [STAGE])
    with limiter_of(server, unlimited, max_age=max_age) as limiter, server.client() as client:
        assert limiter.check(USER, STAGE, METHOD).allowed
        assert seconds - 5 < client.pttl(HASH) / 1000 <= seconds


def test_two_plans_of_one_subject_share_a_hash(server):
    """They count apart, and neither brings the expiry of the other forward."""
    plans = UsagePlan("free", Throttle(10, 5), None, [STAGE]), UsagePlan("slow", Throttle(SLOW, 3), None, [STAGE])
    with limiter_of(server, *plans) as limiter, server.client() as client:
        assert remaining(limiter.check(Identity(SUBJECT, "slow"), STAGE, METHOD)) == {"plan:slow": 2}
        until = client.pttl(HASH)
        assert remaining(limiter.check(USER, STAGE, METHOD)) == {"plan:free": 4}
        assert until - 5_000 < client.pttl(HASH) <= until
        assert set(client.hkeys(HASH)) == {b"r", b"p:slow", b"p:free"}


def test_the_pepper_is_part_of_the_name(server):
    """As of key values: who reads Redis cannot test guesses of subjects. The newest one of several counts."""
    expected = f"ratelimit:{{~{Digester('new')(f'identity:{SUBJECT}')}}}"
    with server.client() as client:
        Catalog(client, pepper="new").put_plan(FREE)
    for pepper in ("new", ["new", "old"]):
        with limiter_of(server, pepper=pepper) as limiter, server.client() as client:
            assert limiter.check(USER, STAGE, METHOD).allowed
            assert names(client) == {CATALOG, expected}
    assert expected != HASH


def test_a_method_with_a_bucket_of_its_own(server, clock):
    """It stands in the same hash, as of a key."""
    special = UsagePlan("free", Throttle(SLOW, 3), None, [PlanStage(STAGE, {METHOD: Throttle(SLOW, 1)})])
    with limiter_of(server, special, clock=clock) as limiter, server.client() as client:
        assert outcome(limiter.check(USER, STAGE, METHOD)) == (200, None)
        assert outcome(limiter.check(USER, STAGE, METHOD)) == (429, f"plan:free:{METHOD}")
        assert outcome(limiter.check(USER, STAGE, OTHER)) == (200, None)
        assert set(client.hkeys(HASH)) == {b"r", b"p:free", f"b:free:{STAGE}:{METHOD}".encode()}


@IS_ASYNC
def test_shared_limits_are_shared_with_keys(server, clock, is_async):
    """A stage's bucket counts everybody; a method that needs no key meets it alone."""
    unlimited = UsagePlan("free", None, None, [STAGE])
    with limiter_of(server, unlimited, is_async=is_async, clock=clock) as limiter, server.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_stage(Stage(STAGE, Throttle(SLOW, 3), {HEALTH: Method(Throttle(SLOW, 1), key_required=False)}))
        key = catalog.create_key(plans=["free"]).value
        for caller in (key, *users(2)):
            assert limiter.check(caller, STAGE, METHOD).allowed
        for caller in (key, *users(3)):
            assert outcome(limiter.check(caller, STAGE, METHOD)) == (429, f"stage:{STAGE}:*")
        assert outcome(limiter.check(Identity("user:9", "nope"), STAGE, HEALTH)) == (200, None)
        assert outcome(limiter.check(USER, STAGE, HEALTH)) == (429, f"stage:{STAGE}:{HEALTH}")


def test_there_are_no_shadows_alerts_and_leases_of_identities(server, clock):
    """Nobody reads these of a caller whom no list names. A lease would save nothing: few are busy."""
    plan = UsagePlan("free", Throttle(1, 50), Quota(100, "DAY"), [STAGE], alerts=[1], shadow="trial", lease=1)
    trial = UsagePlan("trial", Throttle(1, 1), None, [STAGE])
    with limiter_of(server, trial, plan, clock=clock) as limiter, server.client() as client:
        for left in range(49, 29, -1):
            decision = limiter.check(USER, STAGE, METHOD)
            assert (decision.source, decision.limits[0].remaining) == ("redis", left)
        assert names(client) == {CATALOG, HASH}
        assert set(client.hkeys(HASH)) == {b"r", b"p:free"}


# Who is denied


@IS_ASYNC
def test_a_plan_that_opens_nothing_is_403_and_one_warning(server, caplog, is_async):
    """One for each plan, whoever comes; nothing is stored."""
    with limiter_of(server, FREE, is_async=is_async) as limiter, server.client() as client:
        with caplog.at_level(logging.WARNING, "ratelimit"):
            for user in (*users(3, "gold"), *users(3)):
                decision = limiter.check(user, "petstore/test", METHOD)
                assert (decision.status, decision.detail) == (403, "no_plan_for_stage")
                assert decision.reason is Reason.INVALID_KEY
        why = "denied with 403 (no_plan_for_stage)"
        assert [record.getMessage() for record in caplog.records if record.name == "ratelimit"] == [
            f"identities of plan 'gold' are {why}: there is no such plan",
            f"identities of plan 'free' are {why}: that plan does not open the stage 'petstore/test'",
        ]
        assert names(client) == {CATALOG}


def test_a_plan_that_comes_is_found(server):
    """The rights of identities widen with the push, or when the catalogue is next read."""
    with limiter_of(server, FREE) as limiter, server.client() as client:
        assert outcome(limiter.check(Identity(SUBJECT, "gold"), STAGE, METHOD)) == (403, "no_plan_for_stage")
        limiter.limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        assert outcome(limiter.check(Identity(SUBJECT, "gold"), STAGE, METHOD)) == (200, None)
        assert names(client) == {CATALOG, HASH}


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_lost_catalogue_is_503(server, has_begun):
    """Never 403 from emptiness."""
    with limiter_of(server, FREE, max_age=0.0001) as limiter, server.client() as client:
        if has_begun:
            assert limiter.check(USER, STAGE, METHOD).allowed
        client.flushall()
        decision = limiter.check(USER, STAGE, METHOD)
        assert (decision.status, decision.cause) == (503, "lost")
        assert names(client) == set()


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda client: client.set(HASH, "text"), "refused"),
        (lambda client: client.hset(HASH, "r", b"x" * 26), "refused"),
        (lambda client: client.hset(HASH, "r", b"x"), "refused"),
        (lambda client: client.hset(HASH, "p:free", b"x" * 56), "refused"),
        (lambda client: client.hset(HASH, "p:free", b"short"), "refused"),
        (lambda client: client.set("ratelimit:identities:free:1", "text"), "refused"),
    ],
    ids=["no hash", "another token", "no token", "no state", "a short state", "no set"],
)
@IS_ASYNC
def test_what_redis_cannot_hold_of_it_is_503(server, caplog, spoil, cause, is_async):
    """Nobody is judged by it, nothing is raised, and it stays as it is."""
    bounded = UsagePlan("free", Throttle(SLOW, 3), None, [STAGE], max_identities=5)
    with limiter_of(server, bounded, is_async=is_async) as limiter, server.client() as client:
        assert limiter.check(Identity("user:1", "free"), STAGE, METHOD).allowed
        client.delete("ratelimit:identities:free:1")
        spoil(client)
        before = exact_snapshot(server)
        decision = limiter.check(USER, STAGE, METHOD)
        assert (decision.status, decision.source, decision.cause) == (503, "fail_closed", cause)
        assert SUBJECT not in f"{decision!r} {decision.as_dict()} {caplog.text}"
        assert exact_snapshot(server) == before


def test_denials_are_counted_by_plan_and_reason_alone(server, clock):
    """Whoever was denied, and whoever denied."""
    with replica(server, clock=clock, denial_cache=True, deadline=10.0) as limiter:
        limiter.catalog.put_plan(UsagePlan("free", Throttle(SLOW, 1), None, [STAGE]))
        sources = [[limiter.check(user, STAGE, METHOD).source for _ in range(4)] for user in users(3)]
        others = ["redis"] + ["denial_cache"] * 3
        assert sources == [["redis"] * 3 + ["denial_cache"], others, others]  # it records from a first denial on
        limiter.check(Identity(SUBJECT, "gold"), STAGE, METHOD)
    with server.client() as client:
        assert client.hgetall(DAY) == {b"free||THROTTLED": b"9", b"||no_plan_for_stage": b"1"}


def test_the_denial_cache_says_what_the_script_would(server, clock):
    """Every field; and it lets through what passes."""
    options = {"clock": clock, "deadline": 10.0}
    with replica(server, **options, denial_cache=True, max_age=FOREVER) as limiter, replica(server, **options) as exact:
        limiter.catalog.put_plan(FREE)
        for _ in range(3):
            assert limiter.check(USER, STAGE, METHOD).allowed
        assert [limiter.check(USER, STAGE, METHOD).source for _ in range(2)] == ["redis", "redis"]
        clock.advance(400)
        cached, asked = limiter.check(USER, STAGE, METHOD), exact.check(USER, STAGE, METHOD)
        assert (cached.source, asked.source) == ("denial_cache", "redis")
        for field in ("reason", "limited_by", "retry_after", "limits"):
            assert getattr(cached, field) == getattr(asked, field)
        clock.advance(cached.retry_after)
        assert limiter.check(USER, STAGE, METHOD).allowed


# Fences


@contextmanager
def two_replicas(backend, clock):
    """One beside which the catalogue is changed, and one that does not look by itself."""
    options = {"clock": clock, "deadline": 10.0}
    with replica(backend, **options) as here, replica(backend, **options, max_age=FOREVER) as there:
        yield here, there


def test_an_older_version_never_comes_back(backend, clock):
    """A replica that has not heard of a change is sent to look by the hash, as for a key."""
    with two_replicas(backend, clock) as (here, there):
        here.catalog.put_plan(FREE)
        assert remaining(there.check(USER, STAGE, METHOD)) == {"plan:free": 2, "quota:free": 9}
        here.catalog.put_plan(UsagePlan("free", None, Quota(5, "DAY"), [STAGE]))
        assert remaining(here.check(USER, STAGE, METHOD)) == {"quota:free": 3}
        assert remaining(there.check(USER, STAGE, METHOD)) == {"quota:free": 2}
        here.catalog.put_plan(UsagePlan("free", None, Quota(5, "DAY"), ["petstore/test"]))
        assert outcome(here.check(USER, STAGE, METHOD)) == (403, "no_plan_for_stage")
        assert outcome(here.check(USER, "petstore/test", METHOD)) == (200, None)
        assert outcome(there.check(USER, STAGE, METHOD)) == (403, "no_plan_for_stage")


def test_another_life_of_the_catalogue_is_noticed(backend, clock):
    """Another epoch sends a replica to look; a catalogue that is no newer is the one that holds."""
    with two_replicas(backend, clock) as (here, there):
        here.catalog.put_plan(FREE)
        assert there.check(USER, STAGE, METHOD).allowed
        with backend.client() as client:
            client.delete(CATALOG)
            Catalog(client, clock=clock).put_plan(UsagePlan("free", None, Quota(5, "DAY"), [STAGE]))
            with replica(backend, clock=clock, deadline=10.0) as anew:
                assert remaining(anew.check(USER, STAGE, METHOD)) == {"quota:free": 3}
            assert remaining(there.check(USER, STAGE, METHOD)) == {"quota:free": 2}
            assert client.hget(HASH, "r")[:8] == client.hget(CATALOG, "epoch")


# Usage


def test_a_day_that_is_over_leaves_nothing(backend, clock):
    """No archive and no field of it: what the hash holds is the last day."""
    with replica(backend, clock=clock, deadline=10.0) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("free", Throttle(10, 5), Quota(100, "MONTH"), [STAGE]))
        for day in range(3):
            assert limiter.check(USER, STAGE, METHOD, 2 + day).allowed
            clock.advance(86_400)
        assert names(client) == {CATALOG, HASH}
        assert set(client.hkeys(HASH)) == {b"r", b"p:free"}
        usage = limiter.catalog.identity_usage(USER)
        assert (usage.day.isoformat(), usage.used, usage.remaining) == ("2026-03-06", 4, 91)


@IS_ASYNC
def test_usage_is_what_the_hash_holds(server, is_async):
    """The sum of what was admitted while it lives; of who is gone, or never came, nothing."""
    with limiter_of(server, FREE, is_async=is_async) as limiter, server.client() as client:
        catalog = limiter.limiter.catalog

        def usage(identity):
            return limiter.run(lambda: catalog.identity_usage(identity))

        assert usage(USER) == IdentityUsage(None, 0, 10, None)
        admitted = sum(cost for cost in (1, 5, 2, 1) if limiter.check(USER, STAGE, METHOD, cost).allowed)
        held = usage(USER)
        assert (admitted, held.used, held.remaining) == (3, 3, 7)
        assert held.day is not None
        assert client.pttl(HASH) <= held.expires_after * 1000
        client.delete(HASH)
        assert usage(USER) == IdentityUsage(None, 0, 10, None)
        assert limiter.check(USER, STAGE, METHOD).allowed
        assert usage(USER).used == 1
        with pytest.raises(NotFound):
            usage(Identity(SUBJECT, "nope"))
        with pytest.raises(ConfigError, match="identity: must be an Identity"):
            usage(SUBJECT)


def test_a_quota_starts_anew_with_its_window(backend, clock):
    """To the microsecond, as of a key."""
    with replica(backend, clock=clock, deadline=10.0) as limiter:
        limiter.catalog.put_plan(UsagePlan("free", None, Quota(2, "DAY"), [STAGE]))
        assert [limiter.check(USER, STAGE, METHOD).allowed for _ in range(3)] == [True, True, False]
        clock.set("2026-03-04T23:59:59.999999")
        denied = limiter.check(USER, STAGE, METHOD)
        assert (denied.reason, denied.retry_after) == (Reason.QUOTA_EXCEEDED, 0.000001)
        assert limiter.catalog.identity_usage(USER).remaining == 0
        clock.advance_us(1)
        assert limiter.catalog.identity_usage(USER).remaining == 2
        assert limiter.check(USER, STAGE, METHOD).allowed


# Several at once


def test_processes_admit_together_what_one_would(server, processes):
    """Two of them, one identity: a bucket and no more, and as much is metered."""
    with server.client() as client:
        Catalog(client).put_plan(UsagePlan("free", Throttle(SLOW, 500), None, [STAGE]))
        client.delete(GATE)
        asked = [processes.apply_async(ask, (server.url, USER, 400, 2)) for _ in range(2)]
        counts = [each.get(60) for each in asked]
        assert sum(count.get("ALLOWED", 0) for count in counts) == 500
        assert sum(count.get("THROTTLED", 0) for count in counts) == 300
        assert Catalog(client).identity_usage(USER).used == 500


@pytest.mark.parametrize("most", [None, 100, 2**20])
def test_many_at_once_are_each_admitted(server, most):
    """In one tick of an event loop: fresh ones, and then each twice, in the same half minute as before."""
    with limiter_of(server, replace(FREE, max_identities=most), is_async=True) as limiter:

        async def all_at_once(times):
            return await asyncio.gather(*(limiter.limiter.check(user, STAGE, METHOD) for user in users(100) * times))

        for rounds, left in ((1, {2}), (2, {0, 1})):
            decisions = limiter.run(lambda times=rounds: all_at_once(times))
            assert {decision.status for decision in decisions} == {200}
            assert {decision.limits[0].remaining for decision in decisions} == left
        assert {outcome(decision) for decision in limiter.run(lambda: all_at_once(1))} == {(429, "plan:free")}


# How many there may be


@IS_ASYNC
def test_there_are_no_more_than_the_plan_may_have(server, is_async):
    """One too many is denied without a time to wait, and leaves nothing; those that have a state go on."""
    bounded = UsagePlan("free", Throttle(SLOW, 3), None, [STAGE], max_identities=3)
    with limiter_of(server, bounded, is_async=is_async) as limiter, server.client() as client:
        *three, fourth = users(4)
        assert [limiter.check(user, STAGE, METHOD).status for user in three] == [200] * 3
        before = snapshot_without_denials(client)
        for how in ("peek", "check"):
            denied = limiter.run(lambda how=how: getattr(limiter.limiter, how)(fourth, STAGE, METHOD))
            assert (denied.reason, denied.limited_by, denied.retry_after) == (Reason.THROTTLED, "identities", None)
            assert (denied.status, remaining(denied), denied.source) == (429, {"plan:free": 3}, "redis")
            assert "Retry-After" not in denied.headers()
        assert snapshot_without_denials(client).keys() == before.keys()
        assert [limiter.check(user, STAGE, METHOD).status for user in three] == [200] * 3
        assert limiter.run(lambda: limiter.limiter.catalog.identity_count("free")) == 3


def test_who_is_gone_makes_room(server):
    """The count forgets a member when its hash expires, and the set expires with the last of them."""
    counted = "ratelimit:identities:free:1"
    bounded = UsagePlan("free", Throttle(10, 5), None, [STAGE], max_identities=2)
    with limiter_of(server, bounded) as limiter, server.client() as client:
        first, second, third = users(3)
        assert limiter.check(first, STAGE, METHOD).allowed
        assert limiter.check(second, STAGE, METHOD).allowed
        assert 55_000 < client.pttl(counted) <= 60_500
        (digest, ends_us), _ = sorted(client.zrange(counted, 0, -1, withscores=True))
        seconds, microseconds = client.time()
        assert 55 < ends_us / 1e6 - seconds <= 61.5
        assert outcome(limiter.check(third, STAGE, METHOD)) == (429, "identities")
        client.zadd(counted, {digest: seconds * 1_000_000 + microseconds})
        client.delete(f"ratelimit:{{~{digest.decode()}}}")
        assert limiter.check(third, STAGE, METHOD).allowed
        assert client.zscore(counted, digest) is None
        assert limiter.limiter.catalog.identity_count("free") == 2


def test_plans_are_bounded_apart(server):
    """Each by itself; one without a bound is not counted."""
    plans = [UsagePlan(plan, Throttle(10, 5), None, [STAGE], max_identities=1) for plan in ("a", "b")]
    with limiter_of(server, *plans, FREE) as limiter, server.client() as client:
        for plan in ("a", "b", "free"):
            first, second = users(2, plan)
            assert limiter.check(first, STAGE, METHOD).allowed
            assert limiter.check(second, STAGE, METHOD).allowed is (plan == "free")
        catalog = limiter.limiter.catalog
        assert [catalog.identity_count(plan) for plan in ("a", "b", "free")] == [1, 1, None]
        assert {name for name in names(client) if "identities" in name} == {f"ratelimit:identities:{p}:1" for p in "ab"}


def test_none_are_admitted_where_none_may_be(server):
    """A plan for keys alone."""
    with limiter_of(server, UsagePlan("free", None, None, [STAGE], max_identities=0)) as limiter:
        assert outcome(limiter.check(USER, STAGE, METHOD)) == (429, "identities")
        key = limiter.limiter.catalog.create_key(plans=["free"]).value
        assert limiter.check(key, STAGE, METHOD).allowed


def test_of_many_a_sample_is_counted(server):
    """Of a plan with room for 16,384 one in four: what is admitted is a few percent off."""
    bounded = UsagePlan("free", Throttle(10, 5), None, [STAGE], max_identities=16_384)
    with limiter_of(server, bounded, is_async=True) as limiter, server.client() as client:

        async def admitted(first):
            asked = (limiter.limiter.check(Identity(f"n{first + at}", "free"), STAGE, METHOD) for at in range(500))
            return sum(decision.allowed for decision in await asyncio.gather(*asked))

        total = sum(limiter.run(lambda first=first: admitted(first)) for first in range(0, 20_000, 500))
        assert client.zcard("ratelimit:identities:free:4") == 4096
        assert limiter.run(lambda: limiter.limiter.catalog.identity_count("free")) == 16_384
        assert total == sum(1 for name in names(client) if "{~" in name)
        assert abs(total - 16_384) < 16_384 * 0.06


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_that_are_denied_leave_nothing_of_their_own(valkey):
    """A plan that denies: whoever comes, Redis holds the catalogue and one sum of denials."""
    number = int(os.environ.get("RATELIMIT_IDENTITIES", "50000"))
    plan = UsagePlan("free", Throttle(0, 0), Quota(10, "DAY"), [STAGE], max_identities=100)
    with limiter_of(valkey, plan, is_async=True, denial_cache=True) as limiter:

        async def denied(first, many):
            asked = (limiter.limiter.check(Identity(f"user:{first + at}", "free"), STAGE, METHOD) for at in range(many))
            return sum(decision.reason is Reason.THROTTLED for decision in await asyncio.gather(*asked))

        total = sum(
            limiter.run(lambda first=first: denied(first, min(500, number - first))) for first in range(0, number, 500)
        )
    assert total == number
    with valkey.client() as client:
        assert names(client) == {CATALOG}
        (sums,) = client.keys("ratelimit:denials:*")
        assert client.hgetall(sums) == {b"free||THROTTLED": b"%d" % number}


BYTES = dict(
    re.findall(r"^\| (valkey|redis6) \| (\d+) \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
)


def test_the_bytes_of_an_identity_are_those_of_the_handbook(server):
    """Of 20,000 with a throttle and a daily quota, by the server's own account, connections aside."""

    def used(client):
        memory = client.info("memory")
        return memory["used_memory"] - memory["mem_clients_normal"]

    with limiter_of(server, FREE) as limiter, server.client() as client:
        assert limiter.check(USER, STAGE, METHOD).allowed
        before = used(client)
        for user in users(20_000):
            assert limiter.check(user, STAGE, METHOD).allowed
        measured = (used(client) - before) / 20_000
        published = int(BYTES.get(server.name, measured))  # of the machine's own server there is no row
        assert abs(measured - published) < published * 0.05
