"""Leases: what a replica prepays and spends in its process, given back where that mints nothing."""

import os

import pytest
from helpers.leases import TERM_S, gold_key, used
from helpers.replica import METHOD, STAGE, caching_replica

from ratelimit import (
    AsyncLimiter,
    Catalog,
    ConfigError,
    Method,
    PlanStage,
    Quota,
    Reason,
    Stage,
    Throttle,
    UsagePlan,
)

NEXT_DAY = {"2026-03-04": "2026-03-05", "2026-03-31": "2026-04-01"}


def warm(limiter, clock, key, checks=64, step_us=100):
    """Ask so often that leases grow; return the sources of the answers."""
    sources = []
    for _ in range(checks):
        decision = limiter.check(key.value, STAGE, METHOD)
        assert decision.reason is Reason.ALLOWED
        sources.append(decision.source)
        clock.advance_us(step_us)
    return sources


def test_a_hot_key_is_leased(backend, clock):
    """Sizes double up to the rate seen times the term: at 10,000/s and 0.1 s, 60 checks take 7 trips."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        sources = warm(limiter, clock, key, 60)
        assert sources.count("redis") == 7
        assert sources[:2] == ["redis", "redis"]
        assert used(backend, key)[0] == 64  # four are held, and charged already


def test_what_is_leased_is_told(backend, clock):
    """A leased decision says so; it tells of limits as at the grant, with what is held as part of what remains."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        before = limiter.check(key.value, STAGE, METHOD)
        after = limiter.check(key.value, STAGE, METHOD)
        assert (after.source, after.allowed, after.status, after.time_us, after.degraded) == (
            "lease",
            True,
            200,
            None,
            False,
        )
        assert [limit.name for limit in after.limits] == ["plan:gold", "quota:gold"]
        assert after.limits[1].remaining == before.limits[1].remaining - 1 == 1_000_000 - 42


def test_closing_gives_back_what_was_not_spent(backend, clock):
    """After close, exactly what was admitted is metered and counted; the bucket has no more than it would have had."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        assert used(backend, key)[:2] > (40, 40)
    count, day_used, level = used(backend, key)
    assert (count, day_used) == (40, 40)
    assert level <= 100_000 * 1000


def test_what_the_bucket_refilled_meanwhile_is_not_given_back(backend, clock):
    """Units that come back later than the bucket takes to refill them come back to the quota alone."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        clock.advance(10)
        full = 100_000 * 1000
        before = used(backend, key)[2]
        with limiter._checker.leases._lock:
            (lease,) = limiter._checker.leases._held
        assert 0 < lease.units * 1000 < 10_000_000
        limiter._tick()
        assert used(backend, key) == (40, 40, before)
        assert before < full


def test_a_lease_ends_after_its_term(backend, clock):
    """At the term's last microsecond it is spent, at its end it is not."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        while limiter.check(key.value, STAGE, METHOD).source != "lease":
            clock.advance_us(10)
        (lease,) = limiter._checker.leases._held
        lease.units = 50
        assert lease._ends_us - lease._starts_us == TERM_S * 1_000_000
        clock.now_us = lease._ends_us - 1
        assert limiter.check(key.value, STAGE, METHOD).source == "lease"
        clock.advance_us(1)
        assert limiter.check(key.value, STAGE, METHOD).source == "redis"


@pytest.mark.parametrize("moment", ["2026-03-04T23:59:59.990000", "2026-03-31T23:59:59.990000"])
def test_a_lease_ends_with_its_day_and_window(backend, clock, moment):
    """Ten milliseconds before midnight, leases last ten milliseconds: every day is metered by what it admitted."""
    clock.set(moment)
    key = gold_key(
        backend, clock, UsagePlan("gold", Throttle(1000, 100_000), Quota(1_000_000, "MONTH"), [STAGE], lease=1.0)
    )
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 50, step_us=190)
        (lease,) = limiter._checker.leases._held
        assert lease.units > 0
        assert lease._ends_us == clock.now_us + 10_000 - 50 * 190
        clock.advance_us(10_000 - 50 * 190)
        assert limiter.check(key.value, STAGE, METHOD).source == "redis"
    with backend.client() as client:
        days = (
            Catalog(client, clock=clock).usage("gold", moment[:10], NEXT_DAY[moment[:10]], key_id=key.id).items[key.id]
        )
    assert [units for units, _ in days] == [50, 1]


def test_near_the_limit_checks_are_exact(backend, clock):
    """No lease holds more than an eighth of what is left: a replica gets every unit of the quota, and not one more."""
    key = gold_key(backend, clock, UsagePlan("gold", None, Quota(500, "DAY"), [STAGE], lease=TERM_S))
    with caching_replica(backend, clock) as limiter:
        admitted, most_held = 0, 0
        for _ in range(600):
            admitted += limiter.check(key.value, STAGE, METHOD).allowed
            most_held = max([most_held, *(lease.units for lease in limiter._checker.leases._held)])
            clock.advance_us(100)
        assert (admitted, most_held <= 500 // 8) == (500, True)
        assert used(backend, key)[:2] == (500, 500)


def test_a_cost_above_what_is_held_is_asked_exactly(backend, clock):
    """It is charged as it is, and the lease goes on."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        (lease,) = limiter._checker.leases._held
        held, before = lease.units, used(backend, key)[0]
        assert limiter.check(key.value, STAGE, METHOD, cost=held + 1).source == "redis"
        assert (lease.units, used(backend, key)[0]) == (held, before + held + 1)
        assert limiter.check(key.value, STAGE, METHOD, cost=held).source == "lease"
        assert lease.units == 0


def test_peek_looks_into_the_lease(backend, clock):
    """It says what a check would get, and takes nothing."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        (lease,) = limiter._checker.leases._held
        held = lease.units
        assert held > 0
        assert [limiter.peek(key.value, STAGE, METHOD).source for _ in range(3)] == ["lease"] * 3
        assert lease.units == held


@pytest.mark.parametrize("message", ["key", "keys", None])
def test_a_push_ends_a_lease(backend, clock, message):
    """A change of the key, of many keys, or nobody knows of what: the next check is asked, and sees it."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        (lease,) = limiter._checker.leases._held
        assert lease.units > 0
        with backend.client() as client:
            Catalog(client, clock=clock).update_key(key.id, enabled=False)
        assert limiter.check(key.value, STAGE, METHOD).source == "lease"  # within the term, as documented
        limiter._namespace.on_change_message(f"key:{key.id}" if message == "key" else message)
        assert limiter.check(key.value, STAGE, METHOD).detail == "disabled"


def test_another_key_s_push_ends_no_lease(backend, clock):
    """What was said of one key is nothing to others."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        limiter._namespace.on_change_message("key:another")
        assert limiter.check(key.value, STAGE, METHOD).source == "lease"


def test_a_changed_plan_ends_a_lease(backend, clock):
    """Nothing is spent under the old plan once the new one is known; what is left comes back to the quota."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(7, 9), Quota(1_000_000, "DAY"), [STAGE]))
        limiter._namespace.on_change_message("2")
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.limits[0].limit, decision.limits[0].remaining) == ("redis", 9, 8)
        limiter._tick()
        assert used(backend, key)[:2] == (41, 41)


def test_a_deleted_key_gets_nothing_back(backend, clock):
    """Giving back creates nothing."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter, backend.client() as client:
        warm(limiter, clock, key, 40)
        limiter.catalog.delete_key(key.id)
        limiter._namespace.on_change_message(f"key:{key.id}")
        limiter._tick()
        assert client.exists(f"ratelimit:{{{key.id}}}") == 0


def test_shared_and_method_buckets_are_leased_and_given_back(backend, clock):
    """Every limit of the request is prepaid; each bucket gets back what it did not refill."""
    plan = UsagePlan(
        "gold",
        Throttle("1/1000", 1000),
        Quota(10_000, "DAY"),
        [PlanStage(STAGE, {METHOD: Throttle("1/500", 900)})],
        lease=TERM_S,
    )
    key = gold_key(backend, clock, plan)
    with caching_replica(backend, clock) as limiter:
        limiter.catalog.put_stage(Stage(STAGE, Throttle("1/2000", 800)))
        limiter.catalog.set_account_throttle(Throttle("1/3000", 700))
        warm(limiter, clock, key, 40)
    with caching_replica(backend, clock) as limiter:
        left = {limit.name: limit.remaining for limit in limiter.peek(key.value, STAGE, METHOD).limits}
    assert left == {
        f"plan:gold:{METHOD}": 860,
        f"stage:{STAGE}:{METHOD}": 760,
        "account": 660,
        "quota:gold": 9960,
    }


def test_what_is_never_leased(backend, clock):
    """Methods without a key, plans without a term, plans that have a shadow."""
    with caching_replica(backend, clock) as limiter:
        catalog = limiter.catalog
        catalog.put_stage(Stage(STAGE, Throttle(1000, 1000), {"GET /open": Method(key_required=False)}))
        catalog.put_plan(UsagePlan("next", Throttle(1000, 1000), None, [STAGE]))
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 100_000), None, [STAGE], lease=TERM_S, shadow="next"))
        shadowed, plain = catalog.create_key(plans=["gold"]), catalog.create_key(plans=["next"])
        for value, method in ((shadowed.value, METHOD), (plain.value, METHOD), (None, "GET /open")):
            assert {limiter.check(value, STAGE, method).source for _ in range(50)} == {"redis"}


@pytest.mark.parametrize("value", [-1, 0.0005, 1.5, "0.1", True, float("nan"), float("inf"), None])
def test_a_bad_term_is_refused(value):
    """The error names the field and what would be accepted."""
    with pytest.raises(ConfigError, match=r"lease: must be 0 \(none\) or 0.001 to 1.0 seconds"):
        UsagePlan("gold", Throttle(1, 1), lease=value)


def test_a_term_goes_through_the_catalogue_and_the_plan_file(backend, clock, tmp_path):
    """What is written is what is read."""
    file = tmp_path / "plans.toml"
    file.write_text(f'[plans.gold]\nthrottle = {{ rate = 10, burst = 5 }}\nstages = ["{STAGE}"]\nlease = 0.05\n')
    with caching_replica(backend, clock) as limiter:
        limiter.catalog.apply(file)
        assert limiter.catalog.get_plan("gold").lease == 0.05


def test_giving_back_twice_is_impossible(backend, clock):
    """What was taken out of a lease is out; nobody can give it back again."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        (lease,) = limiter._checker.leases._held
        lease.end()
        assert lease.take_unspent(clock()) is not None
        assert lease.take_unspent(clock()) is None
        limiter._tick()
        assert used(backend, key)[0] > 40  # lost with the one that was taken out and not sent


def test_a_child_holds_nothing(server, clock):
    """After a fork, the parent alone spends what is held, and gives it back."""
    key = gold_key(server, clock)
    with caching_replica(server, clock) as limiter:
        warm(limiter, clock, key, 40)
        child = os.fork()
        if child == 0:
            right = limiter.check(key.value, STAGE, METHOD).source == "redis"
            os._exit(0 if right else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert limiter.check(key.value, STAGE, METHOD).source == "lease"
    assert used(server, key)[:2] == (42, 42)


@pytest.mark.asyncio
async def test_the_twin_leases_as_well(backend, clock):
    """The same in asyncio, given back at the end."""
    key = gold_key(backend, clock)
    async with backend.async_client() as client, AsyncLimiter(client, deadline=5.0, clock=clock) as limiter:
        limiter._namespace.before_refresh = lambda: None
        sources = []
        for _ in range(64):
            sources.append((await limiter.check(key.value, STAGE, METHOD)).source)
            clock.advance_us(100)
        assert sources.count("redis") == 7
    assert used(backend, key)[:2] == (64, 64)
