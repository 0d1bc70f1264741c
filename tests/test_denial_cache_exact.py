"""The denial cache tells what the script would: which limit, how long, how much is left; where it cannot, it asks."""

from contextlib import contextmanager

import pytest
from promises import METHOD, OTHER, STAGE
from test_denial_cache import replica

from ratelimit import ConfigError, Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan

SECOND_US = 1_000_000


@contextmanager
def both(backend, clock, plan):
    """A function that checks a key, and one that returns what is said to a check: by a limiter, and by Redis.

    To be used where Redis denies: that changes nothing.
    """
    with (
        replica(backend, clock, max_age=10**6) as knows,
        replica(backend, clock, denial_cache=False) as asks,
    ):
        asks.catalog.put_plan(plan)
        key = asks.catalog.create_key(plans=["gold"], expires_at=(clock() + 86_400 * SECOND_US) / SECOND_US).value
        clock.advance_us(1)

        def check(cost, method=METHOD):
            return knows.check(key, STAGE, method, cost)

        def told(cost, method=METHOD):
            known = check(cost, method)
            said = asks.check(key, STAGE, method, cost)
            limits = {limit.name: limit for limit in said.limits}
            assert [limits.get(limit.name) for limit in known.limits] == list(known.limits)
            assert _outcome(known) == _outcome(said)
            return known.source

        yield check, told


def _outcome(decision):
    return decision.reason, decision.detail, decision.limited_by, decision.retry_after


def test_what_another_limit_never_admits(backend, clock):
    """The quota is out for 5 units; 11 are more than the bucket can hold: no wait helps, and the bucket is named."""
    with both(backend, clock, UsagePlan("gold", Throttle(10, 10), Quota(12, "DAY"), [STAGE])) as (check, told):
        assert check(8).allowed
        clock.advance_us(2 * SECOND_US)
        assert not check(5).allowed
        assert [told(5), told(10), told(11)] == ["denial_cache", "denial_cache", "redis"]


def test_what_another_limit_refuses_for_longer(backend, clock):
    """The quota's window ends in a minute, the bucket has 8 units only in an hour: an hour it is."""
    with both(backend, clock, UsagePlan("gold", Throttle("1/3600", 10), Quota(12, "DAY"), [STAGE])) as (check, told):
        assert check(9).allowed
        clock.set("2026-03-04T23:59:00")
        assert not check(4).allowed
        assert check(3).allowed
        assert told(8) == "redis"


def test_what_was_admitted_meanwhile(backend, clock):
    """Five units were refused, three of the rest are taken: five have to wait for longer than was said."""
    with both(backend, clock, UsagePlan("gold", Throttle(1, 10), None, [STAGE])) as (check, told):
        assert check(7).allowed
        assert check(5).retry_after == 2.0
        assert told(5) == "denial_cache"
        assert check(3).allowed
        assert [told(5), told(5)] == ["redis", "denial_cache"]
        assert check(5).retry_after == 5.0


def test_an_admission_elsewhere_leaves_what_it_did_not_touch(backend, clock):
    """A method's own bucket stays known to be out while other methods are admitted."""
    plan = UsagePlan("gold", Throttle(10, 10), None, [PlanStage(STAGE, {OTHER: Throttle("1/100", 1)})])
    with both(backend, clock, plan) as (check, told):
        assert check(1, OTHER).allowed
        assert not check(1, OTHER).allowed
        assert check(1).allowed
        assert told(1, OTHER) == "denial_cache"


def test_costs_in_turn(backend, clock):
    """At 3 tokens a second the wait of one says nothing exact of that of three: both are asked once, then known."""
    with both(backend, clock, UsagePlan("gold", Throttle(3, 5), None, [STAGE])) as (check, told):
        assert check(5).allowed
        sources = [told(cost) for cost in (1, 3, 1, 3, 1, 3)]
        assert sources == ["redis", "redis", "denial_cache", "denial_cache", "denial_cache", "denial_cache"]


def test_a_key_that_expires_is_refused_as_such(backend, clock):
    """Not as one that has to wait: from the microsecond on at which it expires."""
    with both(backend, clock, UsagePlan("gold", Throttle("1/1000000", 1), None, [STAGE])) as (check, told):
        assert check(1).allowed
        assert not check(1).allowed
        clock.advance_us(86_400 * SECOND_US - 2)
        assert told(1) == "denial_cache"
        clock.advance_us(1)
        assert told(1) == "redis"
        assert check(1).detail == "disabled"


def test_a_clock_that_went_back_voids_what_it_had_said(backend, clock):
    """A step back of more than 2 s re-anchors the bucket: what was refused before, by a later time, holds no more."""
    with replica(backend, clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(3 * SECOND_US)
        assert limiter.check(key, STAGE, METHOD).allowed
        clock.advance_us(-1_900_000)
        assert limiter.check(key, STAGE, METHOD).retry_after == 2.9
        limiter._state.heard("key:another")
        clock.advance_us(-2_000_000)
        assert limiter.check(key, STAGE, METHOD).retry_after == 1.0
        clock.advance_us(2_100_000)
        assert limiter.check(key, STAGE, METHOD).allowed


def test_an_age_without_end_is_refused(backend):
    """Nothing is remembered for ever."""
    with backend.client() as client, pytest.raises(ConfigError, match="max_age"):
        Limiter(client, max_age=float("inf"))


def test_what_is_learnt_of_another_limit_counts_at_once(backend, clock):
    """A method was refused, again and again; then the quota, which others used up: from now on that is the wait."""
    stages = [PlanStage(STAGE, {METHOD: Throttle("1/10", 1)})]
    with replica(backend, clock, max_age=10**6) as knows, replica(backend, clock, denial_cache=False) as others:
        others.catalog.put_plan(UsagePlan("gold", Throttle(1000, 1000), Quota(3, "DAY"), stages))
        key = others.catalog.create_key(plans=["gold"]).value
        assert [knows.check(key, STAGE, METHOD).retry_after for _ in range(3)] == [None, 10.0, 10.0]
        assert [others.check(key, STAGE, OTHER).allowed for _ in range(2)] == [True, True]
        assert knows.check(key, STAGE, OTHER).limited_by == "quota:gold"
        known, said = knows.check(key, STAGE, METHOD), others.check(key, STAGE, METHOD)
        assert (known.source, known.retry_after) == ("denial_cache", said.retry_after)
        assert known.retry_after > 10.0


def test_what_had_room_and_has_less_now_is_asked(backend, clock):
    """A method was refused by its bucket, when one unit of the quota was left; another method took that one."""
    stages = [PlanStage(STAGE, {METHOD: Throttle("1/10", 1)})]
    with both(backend, clock, UsagePlan("gold", Throttle(1000, 1000), Quota(2, "DAY"), stages)) as (check, told):
        assert check(1).allowed
        assert check(1).retry_after == 10.0
        assert check(1, OTHER).allowed
        assert [told(1), told(1)] == ["redis", "denial_cache"]
        assert check(1).retry_after > 10.0


def test_a_limit_that_refused_another_method_is_no_answer_where_others_are_met(backend, clock):
    """The quota is out, as another method was told; this one's own bucket is empty for longer, as Redis alone knows."""
    stages = [PlanStage(STAGE, {METHOD: Throttle("1/90000", 1)})]
    with both(backend, clock, UsagePlan("gold", Throttle(1000, 1000), Quota(2, "DAY"), stages)) as (check, told):
        assert check(1).allowed
        assert [check(1, OTHER).allowed for _ in range(2)] == [True, False]
        assert [told(1), told(1)] == ["redis", "denial_cache"]
        assert check(1).limited_by == f"plan:gold:{METHOD}"


def test_what_others_are_told_of_a_shared_limit_counts_at_once(backend, clock):
    """A key was refused by its own bucket, again and again; then the stage's was empty for another key."""
    with replica(backend, clock, max_age=10**6) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/10", 1), None, [STAGE]))
        limiter.catalog.put_stage(Stage(STAGE, Throttle("1/1000", 2)))
        one, other = (limiter.catalog.create_key(plans=["gold"]).value for _ in range(2))
        clock.advance_us(1)
        waits = [limiter.check(key, STAGE, METHOD).retry_after for key in (one, one, one, one, other, other, one, one)]
        assert waits == [None, 10.0, 10.0, 10.0, None, 1000.0, 1000.0, 1000.0]
        assert limiter.check(one, STAGE, METHOD).source == "denial_cache"


def test_what_was_told_ends_when_it_ends(backend, clock):
    """A key that was refused ten seconds passes after them, whoever else is refused for longer."""
    with replica(backend, clock, max_age=10**6) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/10", 1), None, [STAGE]))
        limiter.catalog.put_plan(UsagePlan("slow", Throttle("1/1000", 1), None, [STAGE]))
        one, other = (limiter.catalog.create_key(plans=[plan]).value for plan in ("gold", "slow"))
        clock.advance_us(1)
        for key in (one, other) * 3:
            limiter.check(key, STAGE, METHOD)
        assert limiter.check(one, STAGE, METHOD).source == "denial_cache"
        clock.advance(10)
        assert limiter.check(one, STAGE, METHOD).allowed
        assert limiter.check(other, STAGE, METHOD).source == "denial_cache"
