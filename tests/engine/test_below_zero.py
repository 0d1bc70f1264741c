"""Levels below zero, down to which a journal is charged: what a check, a peek and the denial cache say about them.

10 requests a second, burst 5. `source_of` holds all that the cache says against the script.
"""

import struct

import pytest
from helpers.denial_cache import both
from helpers.journal import journal_charger
from helpers.replica import METHOD, STAGE, replica

from ratelimit import Identity, Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.engine.protocol import JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE

TEN = Throttle(10, 5)
WHERE = {
    "plan": {"plan": UsagePlan("gold", TEN, None, [STAGE])},
    "method": {"plan": UsagePlan("gold", Throttle(1, 200), None, [PlanStage(STAGE, {METHOD: TEN})])},
    "stage": {"plan": UsagePlan("gold", Throttle(1, 200), None, [STAGE]), "stage": Stage(STAGE, TEN)},
    "account": {"plan": UsagePlan("gold", Throttle(1, 200), None, [STAGE]), "account": TEN},
}


@pytest.fixture(params=WHERE)
def world(request, backend, clock):
    """Two limiters, of which one knows denials, and a key whose bucket is somewhere."""
    settings = dict(WHERE[request.param])
    with both(backend, clock, settings.pop("plan"), **settings) as made:
        yield made


def bucket_of(decision):
    """The one bucket of 5."""
    (bucket,) = [limit for limit in decision.limits if limit.limit == 5]
    return bucket


@pytest.mark.parametrize(("cost", "below"), [(5, 0), (6, 1), (9, 4), (10, 5), (99, 5)])
@pytest.mark.parametrize("asked", [1, 2, 5])
def test_the_wait_counts_from_below_zero(world, clock, cost, below, asked):
    """`below` and what is asked, a tenth of a second each: a microsecond before it is denied, at it admitted."""
    journal_charger(world.asks, world.key.value)(cost)
    wait_us = (below + asked) * 100_000
    for decision in (world.asks.peek(world.key.value, STAGE, METHOD, asked), world.check(asked), world.check(asked)):
        bucket = bucket_of(decision)
        assert (decision.reason, decision.retry_after, bucket.retry_after) == (
            Reason.THROTTLED,
            wait_us / 1e6,
            wait_us / 1e6,
        )
        assert (bucket.remaining, bucket.reset_after) == (0, (5 + below) / 10)
    assert decision.source == "denial_cache"
    clock.advance_us(wait_us - 1)
    assert world.source(asked) == "denial_cache"
    assert world.check(asked).retry_after == 1e-06
    clock.advance_us(1)
    assert world.asks.peek(world.key.value, STAGE, METHOD, asked).allowed
    assert world.source(asked) == "redis"
    assert world.check(asked).reason is Reason.THROTTLED


def test_what_is_left_is_never_below_zero(world, clock):
    """Until the bucket is above zero again, nothing is; in the headers too."""
    journal_charger(world.asks, world.key.value)(99)
    for tenths, left in enumerate([0] * 6 + [1, 2, 3, 4, 5, 5]):
        decision = world.asks.peek(world.key.value, STAGE, METHOD)
        assert bucket_of(decision).remaining == left, tenths
        assert all(";r=-" not in value and not value.startswith("-") for value in decision.headers().values())
        clock.advance_us(100_000)


def test_a_journal_is_charged_once(world):
    """The same entry any number of times; then another one."""
    charge = journal_charger(world.asks, world.key.value)
    assert [charge(2, sequence=10**6) for _ in range(3)] == [JOURNAL_CHARGED, *[JOURNAL_CHARGED_BEFORE] * 2]
    assert bucket_of(world.asks.peek(world.key.value, STAGE, METHOD)).remaining == 3
    assert charge(2, sequence=10**6 + 1) == JOURNAL_CHARGED
    assert bucket_of(world.asks.peek(world.key.value, STAGE, METHOD)).remaining == 1


def test_a_quota_that_was_passed_has_nothing_left(backend, clock):
    """105 of 100: 0, until the window ends; then all of the next one."""
    with both(backend, clock, UsagePlan("gold", None, Quota(100, "DAY"), [STAGE])) as world:
        journal_charger(world.asks, world.key.value)(105)
        for _ in range(2):
            decision = world.check()
            assert (decision.reason, decision.retry_after) == (Reason.QUOTA_EXCEEDED, 43_199.999999)
            assert decision.limits[0].remaining == 0
        assert world.source() == "denial_cache"
        clock.set("2026-03-05T00:00:00")
        assert world.check().limits[0].remaining == 99


def test_a_request_without_a_key(backend, clock):
    """Only the stage's bucket, and the account's."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_stage(Stage(STAGE, TEN, {"GET /health": Method(key_required=False)}))
        limiter.catalog.set_account_throttle(Throttle(10, 50))
        charge = journal_charger(limiter, None, STAGE, "GET /health")
        assert [charge(12, sequence=10**6) for _ in range(2)] == [JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE]
        decision = limiter.check(None, STAGE, "GET /health")
        assert (decision.limited_by, decision.retry_after) == (f"stage:{STAGE}:GET /health", 0.6)
        assert [limit.remaining for limit in decision.limits] == [0, 38]


def test_an_identity_never_seen(backend, clock):
    """It is made by the charge, and its first check is one of its bucket's as it stands."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("free", TEN, Quota(100, "DAY"), [STAGE]))
        identity = Identity("user:1", plan="free")
        journal_charger(limiter, identity)(12)
        decision = limiter.check(identity, STAGE, METHOD)
        assert (decision.limited_by, decision.retry_after) == ("plan:free", 0.6)
        assert [limit.remaining for limit in decision.limits] == [0, 88]
        assert limiter.catalog.identity_usage(identity).used == 12


def test_usage_and_grants(backend, clock):
    """What was spent yesterday, and what an administrator leaves of the quota: counts of a key below zero."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", TEN, Quota(100, "WEEK"), [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"])
        charge = journal_charger(limiter, key.value)
        charge(7)
        charge(12, clock() - 86_400_000_000)
        usage = limiter.catalog.usage("gold", "2026-03-03", "2026-03-04", key.id)
        assert list(usage.items[key.id]) == [(12, 88), (7, 81)]
        limiter.catalog.set_remaining("gold", key.id, 1)
        clock.advance(10)
        assert [limiter.check(key.value, STAGE, METHOD).reason for _ in range(2)] == [
            Reason.ALLOWED,
            Reason.QUOTA_EXCEEDED,
        ]


def test_a_plan_on_trial_sees_no_journal(backend, clock):
    """It judges requests one by one as they are admitted; and the plan in force is charged."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("next", Throttle(1, 1), Quota(3, "DAY"), [STAGE]))
        limiter.catalog.put_plan(UsagePlan("gold", TEN, Quota(100, "DAY"), [STAGE], shadow="next"))
        key = limiter.catalog.create_key(plans=["gold"])
        assert journal_charger(limiter, key.value)(6) == JOURNAL_CHARGED
        clock.advance(0.2)
        assert limiter.check(key.value, STAGE, METHOD).limits[0].remaining == 0
        (counts,) = limiter.catalog.shadow_counts("gold")
        assert (counts.seen, counts.throttled, counts.exceeded) == (1, 0, 0)


def test_a_lease_adds_nothing_below_zero(server, clock):
    """Units that come back to a bucket below zero would add to what was forgiven at minus the burst."""
    with server.client() as client, Limiter(client, clock=clock, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 100), Quota(10_000, "DAY"), [STAGE], lease=1.0))
        key = limiter.catalog.create_key(plans=["gold"])
        while (lease := limiter._checker.prepared(key.value, STAGE, METHOD)) is None or not lease.lease.units:
            assert limiter.check(key.value, STAGE, METHOD).allowed
            clock.advance_us(10_000)
        held = lease.lease.units
        used = 10_000 - limiter.catalog.usage("gold", "2026-03-04", "2026-03-04", key.id).items[key.id][0][1]
        with replica(server, clock=clock) as other:
            journal_charger(other, key.value)(500)
        limiter.close()
        per, level, _ = struct.unpack_from("<3d", client.hget(f"ratelimit:{{{key.id}}}", "p:gold"))
        assert level == -100 * per
        (used_now,) = struct.unpack_from("<d", client.hget(f"ratelimit:{{{key.id}}}", "p:gold"), 32)
        assert (held > 0, used_now) == (True, used + 500 - held)


def test_a_bucket_below_zero_is_kept_until_it_is_full(server):
    """By a check that only moves it to the present, because the server's clock went back: -5 to 5 takes 10 s."""
    with server.client() as client, replica(server) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 50), None, [STAGE]))
        limiter.catalog.set_account_throttle(Throttle(1, 5))
        key = limiter.catalog.create_key(plans=["gold"])
        seconds, _ = client.time()
        ahead_us = (seconds + 3_600) * 1_000_000
        client.set("ratelimit:account", struct.pack("<3d", 10**6, -5 * 10**6, ahead_us))
        assert limiter.check(key.value, STAGE, METHOD).limited_by == "account"
        assert struct.unpack("<3d", client.get("ratelimit:account"))[2] < ahead_us
        assert 65_000 < client.pttl("ratelimit:account") <= 70_000
