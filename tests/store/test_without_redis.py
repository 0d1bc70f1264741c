"""Redis goes away and comes back: who is served by which policy, and what is charged, exactly."""

import logging
from contextlib import ExitStack
from random import Random

import pytest
from helpers.forks import run_in_child
from helpers.outages import GONE, OutageGateway
from helpers.replica import FOREVER, METHOD, OTHER, SLOW, STAGE
from helpers.waiting import wait_for

from ratelimit import Identity, Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan

HEALTH = "GET /health"
POLICIES = ("local", "open", "closed")
SOURCES = {"local": "local", "open": "fail_open", "closed": "fail_closed"}
IS_ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
GOLD = UsagePlan("gold", Throttle(1, 20), Quota(100, "DAY"), [STAGE])


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def make(request, server, clock):
    """Makes a gateway of either twin, with a clock that is moved by hand unless `clock` is None."""
    made = []

    def make(*plans, stage=None, account=None, clock=clock, **options):
        gateway = OutageGateway(server, request.param, clock, **options)
        made.append(gateway)
        for plan in plans:
            gateway.catalog.put_plan(plan)
        if stage is not None:
            gateway.catalog.put_stage(stage)
        if account is not None:
            gateway.catalog.set_account_throttle(account)
        gateway.begin()
        return gateway

    yield make
    for gateway in made:
        gateway.proxy.accept()
        gateway.__exit__(None, None, None)


def key_of(gateway, *plans):
    """A key that the limiter has met."""
    key = gateway.catalog.create_key(plans=list(plans))
    gateway.meet(key)
    return key


def sources(gateway, key, times=1, **options):
    return [source for _, source in gateway.checks(times, key, **options)]


def test_what_is_admitted_without_redis_is_charged_once_it_is_back(make, clock):
    """20 tokens and a quota of 100, one process: all of it can be spent, and no more. Nobody checks meanwhile."""
    gateway = make(GOLD)
    key = key_of(gateway, "gold")
    assert gateway.checks(5, key.value) == [(200, "redis")] * 5
    with gateway.away():
        clock.advance(2)
        assert gateway.checks(18, key.value) == [(200, "local")] * 17 + [(429, "local")]
        denied = gateway.check(key.value)
        assert (denied.reason, denied.limited_by, denied.retry_after) == (Reason.THROTTLED, "plan:gold", 1.0)
        assert (denied.cause, denied.degraded, denied.time_us) == ("not_sent", True, None)
        assert [(each.name, each.limit, each.remaining) for each in denied.limits] == [
            ("plan:gold", 20, 0),
            ("quota:gold", 100, 78),
        ]
        clock.advance_us(999_999)
        assert gateway.checks(1, key.value) == [(429, "local")]
        clock.advance_us(1)
        assert gateway.checks(2, key.value) == [(200, "local"), (429, "local")]
        assert gateway.owed == 18
        assert gateway.used("gold", key) == 5
    assert gateway.used("gold", key) == 23
    after = gateway.peek(key.value)
    assert (after.source, after.allowed) == ("redis", False)
    assert [each.remaining for each in after.limits] == [0, 77]
    gateway.run(gateway.limiter._tick)
    wait_for(lambda: gateway.client.hgetall(f"ratelimit:denials:{clock() // 86_400_000_000}"))


def test_what_is_charged_is_not_overlooked_by_what_denies_locally(make, clock):
    """A denial is recorded while an entry still waits; charging it makes the recorded states untrue."""
    gateway = make(UsagePlan("gold", Throttle(1, 20), None, [STAGE]))
    key = key_of(gateway, "gold")
    assert gateway.checks(5, key.value) == [(200, "redis")] * 5
    gateway.check(key.value, cost=16)
    assert [each.remaining for each in gateway.check(key.value, cost=16).limits] == [15]
    prepared = gateway.limiter._checker.prepared(key.value, STAGE, METHOD)
    with gateway.without_redis.local.lock:
        assert gateway.without_redis.journal.add(prepared, key.value, STAGE, METHOD, 10, clock(), 0)
        assert gateway.check(key.value, cost=16).source == "denial_cache"
    gateway.run(gateway.limiter._tick)
    wait_for(lambda: not gateway.waiting)
    after = gateway.check(key.value, cost=16)
    assert (after.source, [each.remaining for each in after.limits]) == ("redis", [5])


@pytest.mark.slow
def test_limits_are_divided_among_replicas(make, clock):
    """Among four: a quarter of what is left, not rounded up; a cost above that passes later; then it is charged."""
    gateway = make(GOLD, replicas=4)
    key = key_of(gateway, "gold")
    assert gateway.checks(1, key.value) == [(200, "redis")]
    with gateway.away():
        assert gateway.checks(5, key.value) == [(200, "local")] * 4 + [(429, "local")]  # 19 / 4
        denied = gateway.check(key.value, cost=16)
        assert denied.retry_after == 16 * 4 - 3
        assert [each.remaining for each in denied.limits] == [0, 20]  # 99 // 4 - 4
        clock.advance(denied.retry_after)
        assert gateway.checks(1, key.value, cost=16) == [(200, "local")]
        denied = gateway.check(key.value, cost=5)
        assert (denied.limited_by, denied.reason) == ("plan:gold", Reason.THROTTLED)
        never = gateway.check(key.value, cost=26)  # a quarter of 100 is 25
        assert (never.allowed, never.retry_after) == (False, None)
    assert gateway.used("gold", key) == 21


@pytest.mark.slow
def test_the_latest_state_of_each_limit_counts(make, clock):
    """Two methods with buckets of their own, and a quota that both consume: seen last with the other method."""
    stages = [PlanStage(STAGE, {METHOD: Throttle(1, 10), OTHER: Throttle(1, 10)})]
    gateway = make(UsagePlan("gold", Throttle(1, 10), Quota(12, "DAY"), stages))
    key = key_of(gateway, "gold").value
    assert gateway.checks(3, key) == [(200, "redis")] * 3
    clock.advance_us(1)
    assert gateway.checks(4, key, method=OTHER) == [(200, "redis")] * 4
    with gateway.away():
        assert gateway.checks(6, key) == [(200, "local")] * 5 + [(429, "local")]
        assert gateway.check(key).limited_by == "quota:gold"
        assert gateway.peek(key, method=OTHER).limits[0].remaining == 6


@pytest.mark.slow
def test_shared_limits_hold_for_all_keys_together(make):
    """The account has 6 left, as another key of another plan has seen it; methods that need no key count as well."""
    stage = Stage(STAGE, Throttle(SLOW, 10), {HEALTH: Method(Throttle(SLOW, 3), key_required=False)})
    silver = UsagePlan("silver", None, None, [STAGE])
    gateway = make(GOLD, silver, stage=stage, account=Throttle(SLOW, 8))
    gold, other = key_of(gateway, "gold"), key_of(gateway, "silver")
    assert gateway.checks(1, gold.value) == [(200, "redis")]
    assert gateway.checks(1, other.value) == [(200, "redis")]
    with gateway.away():
        assert gateway.checks(1, None, method=HEALTH) == [(200, "local")]
        assert gateway.checks(2, gold.value) == [(200, "local")] * 2
        assert gateway.checks(4, other.value) == [(200, "local")] * 3 + [(429, "local")]
        assert gateway.check(gold.value).limited_by == "account"
        assert gateway.check(None, method=HEALTH).limited_by == "account"
    assert (gateway.used("gold", gold), gateway.used("silver", other)) == (3, 4)
    after = gateway.peek(gold.value)
    assert {each.name: each.remaining for each in after.limits} == {
        "plan:gold": 17,
        f"stage:{STAGE}:*": 3,
        "account": 0,
        "quota:gold": 97,
    }


LEVELS = [
    # limiter, stage, plan, what counts
    ("local", None, None, "local"),
    ("open", None, None, "open"),
    ("closed", None, None, "closed"),
    ("closed", None, "open", "open"),
    ("closed", "local", None, "local"),
    ("open", "closed", "local", "closed"),
    ("open", "local", "closed", "closed"),
    ("closed", "open", "local", "local"),
    ("local", "open", "open", "open"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("limiter", "stage", "plan", "counts"), LEVELS)
def test_the_stricter_of_plan_and_stage_counts(limiter, stage, plan, counts, make):
    """Over the limiter's; of a caller of whom no plan is known, the stage's."""
    gold = UsagePlan("gold", Throttle(1, 20), None, [STAGE], on_unavailable=plan)
    of_stage = Stage(STAGE, methods={HEALTH: Method(key_required=False)}, on_unavailable=stage)
    gateway = make(gold, stage=of_stage, on_unavailable=limiter)
    key = key_of(gateway, "gold").value
    assert sources(gateway, key) == ["redis"]
    with gateway.away():
        assert sources(gateway, key) == [SOURCES[counts]]
        assert sources(gateway, None, method=HEALTH) == [SOURCES[stage or limiter]]
        unknown = {"local": "fail_closed"}.get(stage or limiter, SOURCES[stage or limiter])
        assert sources(gateway, GONE + "2") == [unknown]


@pytest.mark.parametrize("policy", POLICIES)
def test_who_is_served(policy, make, clock):
    """Known 403s stay 403 by every policy; who was never met is admitted by "open" alone."""
    denying = Stage("denying/prod", unlisted="deny")
    gateway = make(
        UsagePlan("gold", Throttle(1, 20), None, [STAGE, "denying/prod"]), stage=denying, on_unavailable=policy
    )
    never_met = gateway.catalog.create_key(plans=["gold"])
    disabled = gateway.catalog.create_key(plans=["gold"], enabled=False)
    expiring = gateway.catalog.create_key(plans=["gold"], expires_at=clock() / 1e6 + 60)
    key, planless = key_of(gateway, "gold"), key_of(gateway)
    for each in (disabled, expiring):
        gateway.meet(each)
    absent, user = "k" * 30, Identity("user:1", "gold")
    gateway.check(absent)
    gateway.check(user)

    def answer(caller, **options):
        decision = gateway.check(caller, **options)
        if decision.status == 403:  # some are known without Redis at any time
            return decision.detail
        assert decision.degraded
        assert decision.cause == "not_sent"
        return decision.status, decision.source

    served = (503 if policy == "closed" else 200, SOURCES[policy])
    unmet = (200, "fail_open") if policy == "open" else (503, "fail_closed")
    with gateway.away(key.value):
        assert answer(key.value) == served
        assert answer(user) == served
        assert answer(Identity("user:2", "gold")) == served
        assert answer(never_met.value) == unmet
        assert answer(None) == answer("") == "missing"
        assert answer("short") == "unknown"
        assert answer(absent) == "unknown"
        assert answer(disabled.value) == "disabled"
        assert answer(planless.value) == "no_plan_for_stage"
        assert answer(user, stage="other/prod") == "no_plan_for_stage"
        assert answer(key.value, stage="denying/prod") == "method_not_listed"
        assert answer(expiring.value) == served
        clock.advance(60)
        assert answer(expiring.value) == "disabled"
        shared = gateway.run(lambda: gateway.limiter._check_shared(None, STAGE))
        assert (shared.status, shared.detail) == (403, "missing")
        shared = gateway.run(lambda: gateway.limiter._check_shared(key.value, STAGE))
        assert (shared.status, shared.source) == served


@pytest.mark.slow
def test_a_limit_that_was_never_seen_is_divided(make):
    """An identity never met: 20 / 4 tokens, 10 // 4 units of a quota."""
    gateway = make(GOLD, UsagePlan("free", None, Quota(10, "DAY"), [STAGE]), replicas=4)
    gateway.check(Identity("user:1", "gold"))
    with gateway.away():
        assert gateway.checks(6, Identity("user:2", "gold")) == [(200, "local")] * 5 + [(429, "local")]
        assert gateway.checks(3, Identity("user:2", "free")) == [(200, "local")] * 2 + [(429, "local")]
    assert gateway.peek(Identity("user:2", "free")).limits[0].remaining == 8
    assert gateway.peek(Identity("user:2", "gold")).limits[0].remaining == 15


@pytest.mark.slow
def test_known_denials_stay_denials_when_all_else_is_admitted(make, clock):
    """By the last states that were seen, refilled since; what is admitted is charged later, below zero."""
    gateway = make(GOLD, on_unavailable="open", denial_cache=False)
    key = key_of(gateway, "gold")
    assert gateway.checks(20, key.value) == [(200, "redis")] * 20
    with gateway.away():
        denied = gateway.check(key.value)
        assert (denied.status, denied.source, denied.retry_after) == (429, "local", 1.0)
        clock.advance(1)
        opened = gateway.check(key.value)
        assert [(each.name, each.remaining) for each in opened.limits] == [("plan:gold", 1), ("quota:gold", 80)]
        assert gateway.checks(9, key.value) == [(200, "fail_open")] * 9
    assert gateway.used("gold", key) == 30
    assert gateway.peek(key.value).retry_after == 10.0


@pytest.mark.slow
@IS_ASYNC
def test_a_process_that_has_begun_without_redis(is_async, server):
    """It knows no catalogue: 503, or all are admitted."""
    for policy, expected in (
        ("local", (503, "fail_closed")),
        ("closed", (503, "fail_closed")),
        ("open", (200, "fail_open")),
    ):
        gateway = OutageGateway(server, is_async, on_unavailable=policy)
        gateway.proxy.refuse()
        with gateway:
            decision = gateway.check("k" * 30)
            assert (decision.status, decision.source, decision.cause) == (*expected, "not_sent")
            gateway.proxy.accept()


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["local", "open"])
def test_what_is_known_is_trusted_for_a_while(policy, make, clock):
    """Longer than `max_age`, which only says how soon Redis is asked; not longer than `local_max_age`."""
    gateway = make(GOLD, max_age=1.0, local_max_age=100.0, on_unavailable=policy)
    key = key_of(gateway, "gold").value
    assert sources(gateway, key) == ["redis"]
    with gateway.away():
        clock.advance(100)
        assert sources(gateway, key) == [SOURCES[policy]]
        clock.advance_us(1)
        assert gateway.checks(1, key) == [(200, "fail_open") if policy == "open" else (503, "fail_closed")]
        assert gateway.checks(1, "short") == [(403, "local") if policy == "open" else (503, "fail_closed")]
    assert sources(gateway, key) == ["redis"]


@pytest.mark.slow
def test_peeks_consume_nothing(make):
    gateway = make(GOLD)
    key = key_of(gateway, "gold")
    gateway.check(key.value)
    with gateway.away():
        assert [gateway.peek(key.value).limits[0].remaining for _ in range(3)] == [19] * 3
        assert gateway.check(key.value, cost=0).limits[0].remaining == 19
        assert gateway.waiting == 0
        assert not gateway.peek(key.value, cost=21).allowed
        assert gateway.checks(1, key.value, cost=19) == [(200, "local")]
    assert gateway.used("gold", key) == 20


def test_an_unknown_outcome_is_spent_and_not_charged_again(make):
    """Redis counted 3 whose replies were lost: this process spends them, too, and Redis is not charged with them."""
    gateway = make(GOLD, deadline=0.2)
    key = key_of(gateway, "gold")
    assert gateway.checks(1, key.value) == [(200, "redis")]
    gateway.proxy.on("EVALSHA", "drop", times=3)
    decisions = [gateway.check(key.value) for _ in range(3)]
    assert [(each.source, each.cause) for each in decisions] == [("local", "unknown")] * 3
    assert [each.limits[0].remaining for each in decisions] == [18, 17, 16]
    assert gateway.waiting == 0
    wait_for(lambda: gateway.peek(key.value).source == "redis")
    assert gateway.used("gold", key) == 4


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["drop", "reset", "half"])
def test_an_answer_about_the_journal_is_lost(fault, make):
    """It is asked again, and charged once; what is admitted meanwhile is charged as well."""
    gateway = make(GOLD, deadline=0.3)
    key = key_of(gateway, "gold")
    assert gateway.checks(1, key.value) == [(200, "redis")]
    gateway.go_away()
    assert gateway.checks(4, key.value) == [(200, "local")] * 4
    gateway.proxy.on("EVALSHA", fault, times=3)
    gateway.come_back()
    wait_for(lambda: gateway.peek(key.value).source == "redis")
    assert gateway.used("gold", key) == 5


@pytest.mark.slow
def test_closing_charges_what_it_can(make):
    gateway = make(GOLD, deadline=1)
    key = key_of(gateway, "gold")
    gateway.check(key.value)
    gateway.go_away()
    assert gateway.checks(4, key.value) == [(200, "local")] * 4
    gateway.limiter._without_redis.local.waiting, waiting = {}, gateway.limiter._without_redis.local.waiting
    gateway.proxy.accept()
    wait_for(lambda: gateway.peek(key.value).source == "redis")
    gateway.limiter._without_redis.local.waiting = waiting
    gateway.run(gateway.limiter.aclose if hasattr(gateway.limiter, "aclose") else gateway.limiter.close)
    assert gateway.used("gold", key) == 5


@pytest.mark.slow
def test_a_child_owes_nothing(server, clock):
    """What the parent admitted is charged by the parent, once; the child has what is left of its part."""
    gateway = OutageGateway(server, is_async=False, clock=clock)
    gateway.catalog.put_plan(GOLD)
    with gateway:
        gateway.begin()
        key = key_of(gateway, "gold")
        assert gateway.checks(10, key.value) == [(200, "redis")] * 10
        gateway.go_away()
        assert gateway.checks(6, key.value) == [(200, "local")] * 6

        def child():
            admitted = [gateway.limiter.check(key.value, STAGE, METHOD).allowed for _ in range(5)]
            return admitted == [True] * 4 + [False] and gateway.waiting == 1

        assert run_in_child(child) == 0
        gateway.come_back()
        assert gateway.used("gold", key) == 16


@pytest.mark.slow
def test_a_key_that_is_gone_is_dropped_and_said_once(make, caplog):
    gateway = make(GOLD)
    keys = [key_of(gateway, "gold") for _ in range(3)]
    for key in keys:
        gateway.check(key.value)
    with caplog.at_level(logging.WARNING, "ratelimit"), gateway.away():
        for key in keys:
            assert sources(gateway, key.value, 2) == ["local"] * 2
        gateway.catalog.delete_key(keys[0].id)
        gateway.catalog.remove_key_from_plan(keys[1].id, "gold")
        gateway.catalog.rotate_key(keys[2].id)
    assert gateway.used("gold", keys[2]) == 3
    assert len([each for each in caplog.messages if "is not charged to a key" in each]) == 1


@pytest.mark.slow
def test_a_catalogue_that_changed_meanwhile(make, clock):
    """Another process has charged the key under it: it is loaded, and what was admitted is charged under it."""
    gateway = make(GOLD)
    key = key_of(gateway, "gold")
    assert gateway.checks(1, key.value) == [(200, "redis")]
    with gateway.away():
        assert gateway.checks(3, key.value) == [(200, "local")] * 3
        gateway.catalog.put_plan(UsagePlan("gold", Throttle(1, 40), Quota(200, "DAY"), [STAGE]))
        with Limiter(gateway.client, deadline=5, clock=clock) as other:
            assert other.check(key.value, STAGE, METHOD).allowed
    assert gateway.limiter._namespace.snapshot.plans["gold"].throttle.burst == 40
    assert gateway.used("gold", key) == 5
    assert [each.limit for each in gateway.peek(key.value).limits] == [40, 200]


@pytest.mark.slow
def test_units_that_are_held_are_spent_first(make, clock):
    """Also where the catalogue would have to be looked at again."""
    gateway = make(UsagePlan("gold", Throttle(1000, 10_000), None, [STAGE], lease=1.0), max_age=FOREVER)
    key = key_of(gateway, "gold")
    clock.advance_us(1)  # what was pushed before ends no lease
    for _ in range(200):
        gateway.check(key.value)
    (lease,) = gateway.limiter._checker.leases._held
    units = lease.units
    assert units > 0
    gateway.go_away()
    gateway.limiter._namespace.loaded_us = None
    assert gateway.checks(units + 1, key.value) == [(200, "lease")] * units + [(200, "local")]


@pytest.mark.slow
def test_there_is_room_for_so_many_callers(make, caplog):
    gateway = make(GOLD, replicas=1)
    gateway.check(Identity("user:1", "gold"))
    gateway.without_redis.local._max_callers = 2
    with gateway.away():
        statuses = [gateway.check(Identity(f"user:{at}", "gold")).status for at in (1, 2, 3, 1, 2, 4)]
    assert statuses == [200, 200, 503, 200, 200, 503]
    assert len([each for each in caplog.messages if "further ones are answered 503" in each]) == 1


@pytest.mark.slow
def test_the_log_says_what_checks_are_answered_with(make, caplog):
    gateway = make(GOLD)
    key = key_of(gateway, "gold")
    gateway.check(key.value)
    with gateway.away(key.value):
        gateway.check(key.value)
    wait_for(lambda: gateway.check(key.value).source == "redis")
    assert any(each.startswith("checks are decided locally (not_sent): StoreUnavailable: ") for each in caplog.messages)
    assert any(each.startswith("Redis answers again; decided locally within ") for each in caplog.messages)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_four_replicas_while_redis_comes_and_goes(seed, server, clock):
    """What they admit is within the bound, and Redis has counted all of it in the end, each unit once."""
    random, admitted = Random(seed), list[int]()
    replicas = [OutageGateway(server, is_async=False, clock=clock, replicas=4) for _ in range(4)]
    catalog = replicas[0].catalog
    catalog.put_plan(UsagePlan("gold", Throttle(2, 20), Quota(100_000, "DAY"), [STAGE]))
    key = catalog.create_key(plans=["gold"])
    with ExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica)
            replica.begin()
            replica.meet(key)
        began_us, away = clock(), set()
        for _ in range(6):
            for replica in replicas:
                if replica in away and random.random() < 0.6:
                    replica.come_back()
                    away.discard(replica)
                elif replica not in away and random.random() < 0.6:
                    replica.go_away()
                    away.add(replica)
            for replica in random.choices(replicas, k=40):
                if replica.check(key.value).allowed:
                    admitted.append(clock())
            clock.advance(random.choice([0, 1, 3]))
        for replica in away:
            replica.come_back()
        used = replicas[0].used("gold", key)
    span_s = (admitted[-1] - began_us) / 1_000_000
    assert used == len(admitted)
    assert len(admitted) > 20 + 2 * span_s  # there was an excess, which the bound is about
    assert len(admitted) <= 2 * (20 + 2 * span_s)
