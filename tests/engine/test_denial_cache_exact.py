"""The denial cache tells what the script would, in every field: which limit, how long, how much is left of each.

A check whose last word is "denial_cache" was held against the script by `source_of`.
"""

import pytest
from helpers.denial_cache import both, said, turn_on
from helpers.replica import FOREVER, METHOD, OTHER, STAGE, caching_replica

from ratelimit import ConfigError, Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.local import denial_cache

SECOND_US = 1_000_000
KNOWN = "denial_cache"


def gold(throttle=None, quota=None, entries=None, **more):
    return UsagePlan("gold", throttle, quota, [PlanStage(STAGE, entries or {})], **more)


def test_what_another_limit_never_admits(backend, clock):
    """The quota is out for 5 units; 11 are more than the bucket can hold: no wait helps, and the bucket is named."""
    with both(backend, clock, gold(Throttle(10, 10), Quota(12, "DAY"))) as world:
        assert world.check(8).allowed
        clock.advance_us(2 * SECOND_US)
        assert [world.source(cost) for cost in (5, 10, 11, 5, 13)] == [KNOWN] * 5


def test_what_another_limit_refuses_for_longer(backend, clock):
    """The quota's window ends in a minute, the bucket has 8 units only in an hour: an hour it is."""
    with both(backend, clock, gold(Throttle("1/3600", 10), Quota(12, "DAY"))) as world:
        assert world.check(9).allowed
        clock.set("2026-03-04T23:59:00")
        assert world.source(4) == KNOWN
        assert world.check(3).allowed
        assert world.source(8) == KNOWN


def test_two_limits_and_two_costs(backend, clock):
    """Finding A: the quota is out for any cost, the account for two units only: whichever comes first is named."""
    with both(backend, clock, gold(None, Quota(2, "DAY")), account=Throttle(10, 1)) as world:
        assert world.check().allowed
        clock.advance_us(100_000)
        assert world.check().allowed
        assert [world.source(cost) for cost in (1, 2, 3)] == [KNOWN] * 3
        clock.advance_us(100_000)
        assert [world.source(cost) for cost in (1, 2, 3)] == [KNOWN] * 3
        assert (world.check(1).limited_by, world.check(2).limited_by) == ("quota:gold", "account")


def test_above_a_limit_and_a_while_later(backend, clock):
    """Finding C: a cost above the burst, nearly five seconds later, and one above the quota over midnight."""
    with both(backend, clock, gold(Throttle(1, 5), Quota(20, "DAY")), max_age=50_000) as world:
        assert world.check(5).allowed
        clock.advance_us(4_900_000)
        assert world.source(6) == KNOWN
        assert [tuple(limit)[2:4] for limit in world.check(6).limits] == [(4, 0.1), (15, 43_195.099999)]
        assert world.source(21) == KNOWN
        clock.set("2026-03-05T00:00:00")
        assert [world.source(21), world.source(21)] == ["redis", KNOWN]
        assert world.check(21).limits[1][2:4] == (20, 86_400.0)


def test_policies_do_not_flicker(backend, clock):
    """Finding E: admitted, denied, known and looked at, a request has one RateLimit-Policy, byte for byte."""
    stage = Stage(STAGE, Throttle(4, 9))
    with both(backend, clock, gold(Throttle(1, 3), Quota(20, "DAY")), stage=stage, account=Throttle(2, 50)) as world:
        decisions = [world.check(2), world.check(2), world.check(9), world.asks.peek(world.key.value, STAGE, METHOD)]
        assert [each.source for each in decisions] == ["redis", KNOWN, KNOWN, "redis"]
        assert len({each.headers()["RateLimit-Policy"] for each in decisions}) == 1
        assert [len(each.limits) for each in decisions] == [4] * 4


def test_what_was_admitted_meanwhile(backend, clock):
    """Five units were refused, three of the rest are taken: five have to wait for longer than was said."""
    with both(backend, clock, gold(Throttle(1, 10))) as world:
        assert world.check(7).allowed
        assert world.source(5) == KNOWN
        assert world.check(5).retry_after == 2.0
        assert world.check(3).allowed
        assert world.source(5) == KNOWN
        assert world.check(5).retry_after == 5.0


def test_what_others_took_meanwhile(backend, clock):
    """Another process takes what this one does not know of: less is told than there was, never less than there is."""
    with both(backend, clock, gold(Throttle(1, 10))) as world:
        assert world.check(7).allowed
        assert world.asks.check(world.key.value, STAGE, METHOD, 3).allowed
        cached, right = world.check(5), world.asks.peek(world.key.value, STAGE, METHOD, 5)
        assert (cached.source, cached.limits[0].remaining, right.limits[0].remaining) == (KNOWN, 3, 0)
        assert (cached.retry_after, right.retry_after) == (2.0, 5.0)
        clock.advance_us(2 * SECOND_US)
        assert world.source(5) == "redis"
        assert world.source(5) == KNOWN


def test_methods_with_buckets_of_their_own(backend, clock):
    """A method's own bucket stays known to be out while other methods are admitted, and their quota counts for both."""
    plan = gold(Throttle(10, 10), Quota(4, "DAY"), {OTHER: Throttle("1/100", 1)})
    with both(backend, clock, plan) as world:
        assert world.check(1, OTHER).allowed
        assert world.source(1, OTHER) == KNOWN
        for _ in range(3):
            assert world.check().allowed
            assert world.source(1, OTHER) == KNOWN
        assert [world.source(1), world.source(1, OTHER), world.source(2, OTHER)] == [KNOWN] * 3
        assert world.check(1, OTHER).retry_after > 100


def test_a_bucket_for_each_method(backend, clock):
    """Under "key_method" methods are limited each for itself, and what is known of one says nothing of another."""
    plan = gold(Throttle("1/50", 2), Quota(6, "DAY"), {OTHER: Throttle("1/100", 1)}, throttle_scope="key_method")
    with both(backend, clock, plan, stage=Stage(STAGE, Throttle("1/200", 5))) as world:
        assert world.check(2).allowed
        assert world.source(1) == KNOWN
        assert world.source(1, OTHER) == "redis"
        assert [world.source(1, OTHER), world.source(1)] == [KNOWN, KNOWN]
        assert [world.source(cost, "GET /unlisted") for cost in (1, 2)] == [KNOWN, KNOWN]  # as any that nobody lists


def test_two_plans_of_one_key(backend, clock):
    """Each has a bucket and a quota of its own; what both stages share is the account."""
    inner = UsagePlan("inner", Throttle("1/10", 3), Quota(9, "WEEK"), ["admin/prod"])
    with both(backend, clock, gold(Throttle("1/10", 2)), inner, account=Throttle("1/100", 4)) as world:
        assert world.check(2).allowed
        assert [world.source(1), world.source(2)] == [KNOWN, KNOWN]
        assert [world.source(2, stage="admin/prod"), world.source(1, stage="admin/prod")] == ["redis", KNOWN]
        assert [world.source(1), world.source(3), world.source(2, stage="admin/prod")] == [KNOWN] * 3


@pytest.mark.parametrize("cost", [1, 2])
def test_a_key_that_expires_is_refused_as_such(backend, clock, cost):
    """Trace 7. Not as one that has to wait: from the microsecond on at which it expires."""
    with both(backend, clock, gold(Throttle("1/1000000", 1)), expires_us=86_400 * SECOND_US) as world:
        assert world.check(1).allowed
        clock.advance_us(86_400 * SECOND_US - 2)
        assert world.source(cost) == KNOWN
        clock.advance_us(1)
        assert world.source(cost) == "redis"
        assert world.check(cost).detail == "disabled"


def test_a_value_that_ceases_to_open_the_key_is_refused_as_such(backend, clock):
    """Trace 7, of a value whose grace ends; its key goes on, and is out."""
    with both(backend, clock, gold(Throttle("1/1000000", 1))) as world:
        older, newer = world.key.value, world.catalog.rotate_key(world.key.id, grace_s=60).value
        assert world.knows.check(newer, STAGE, METHOD).allowed
        sources = [world.knows.check(value, STAGE, METHOD).source for value in (older, older, newer)]
        assert sources == ["redis", KNOWN, KNOWN]
        clock.advance_us(60 * SECOND_US - 1)
        assert world.source(1) == KNOWN
        clock.advance_us(1)
        assert (world.check(1).detail, world.check(1).status) == ("unknown", 403)
        assert world.knows.check(newer, STAGE, METHOD).source == KNOWN


def test_a_clock_that_went_back_voids_what_it_had_said(backend, clock):
    """A step back of more than 2 s re-anchors the bucket: what was refused before, by a later time, holds no more."""
    with both(backend, clock, gold(Throttle(1, 1))) as world:
        clock.advance_us(3 * SECOND_US)
        assert world.check(1).allowed
        assert world.source(1) == KNOWN
        clock.advance_us(-1_900_000)
        assert [world.source(1), world.source(1)] == ["redis", KNOWN]
        assert world.check(1).retry_after == 2.9
        clock.advance_us(-2_000_000)
        assert [world.source(1), world.source(1)] == ["redis", KNOWN]
        assert world.check(1).retry_after == 1.0
        clock.advance_us(2_100_000)
        assert world.check(1).allowed


def test_behind_a_state_by_what_is_tolerated(backend, clock):
    """Up to 2 s behind, a bucket keeps its later time: its waits end there and later, and nothing is refilled."""
    with both(backend, clock, gold(Throttle(1, 4), Quota(9, "DAY"))) as world:
        assert world.check(3).allowed
        clock.advance_us(-1_500_000)
        assert world.check(1).allowed
        for step in (0, 1, 749_999, 749_999, 1, 1, 500_000):
            clock.advance_us(step)
            assert [world.source(cost) for cost in (1, 4, 5)] == [KNOWN] * 3


def test_an_age_without_end_is_refused(backend):
    """Nothing is remembered for ever."""
    with backend.client() as client, pytest.raises(ConfigError, match="max_age"):
        Limiter(client, max_age=float("inf"))


def test_what_is_learnt_of_another_limit_counts_at_once(backend, clock):
    """A method was refused, again and again; then the quota, which others used up: from now on that is the wait."""
    with both(backend, clock, gold(Throttle(1000, 1000), Quota(3, "DAY"), {METHOD: Throttle("1/10", 1)})) as world:
        assert [world.check().retry_after for _ in range(3)] == [None, 10.0, 10.0]
        assert [world.asks.check(world.key.value, STAGE, OTHER).allowed for _ in range(2)] == [True, True]
        assert world.source(1, OTHER) == "redis"
        assert [world.source(1), world.source(1, OTHER)] == [KNOWN, KNOWN]
        assert world.check().retry_after > 10.0


def test_what_had_room_and_has_less_now_counts_too(backend, clock):
    """A method was refused by its bucket, when one unit of the quota was left; another method took that one."""
    with both(backend, clock, gold(Throttle(1000, 1000), Quota(2, "DAY"), {METHOD: Throttle("1/10", 1)})) as world:
        assert world.check().allowed
        assert world.source(1) == KNOWN
        assert world.check().retry_after == 10.0
        assert world.check(1, OTHER).allowed
        assert world.source(1) == KNOWN
        assert world.check().retry_after > 10.0


def test_a_limit_that_refused_another_method_is_no_answer_where_others_are_met(backend, clock):
    """The quota is out, as another method was told; this one's own bucket is empty for longer, as Redis alone knows."""
    entries = {METHOD: Throttle("1/90000", 1)}
    with both(backend, clock, gold(Throttle(1000, 1000), Quota(2, "DAY"), entries)) as world:
        assert world.asks.check(world.key.value, STAGE, METHOD).allowed
        world.catalog.update_key(world.key.id, name="pushed")  # what the first denial told is dropped
        assert [world.check(1, OTHER).allowed for _ in range(2)] == [True, False]
        assert world.source(1, OTHER) == KNOWN
        assert [world.source(1), world.source(1)] == ["redis", KNOWN]
        assert world.check().limited_by == f"plan:gold:{METHOD}"


def test_what_others_are_told_of_a_shared_limit_counts_at_once(backend, clock):
    """A key was refused by its own bucket, again and again; then the stage's was empty for another key."""
    with both(backend, clock, gold(Throttle("1/10", 1)), stage=Stage(STAGE, Throttle("1/1000", 2))) as world:
        other = world.catalog.create_key(plans=["gold"])
        clock.advance_us(1)
        waits = [world.check(key=key).retry_after for key in (None, None, None, other, other, None)]
        assert waits == [None, 10.0, 10.0, None, 1000.0, 1000.0]
        assert [world.source(1), world.source(2, key=other)] == [KNOWN, KNOWN]


def test_what_was_told_ends_when_it_ends(backend, clock):
    """A key that was refused ten seconds passes after them, whoever else is refused for longer."""
    with caching_replica(backend, clock, max_age=FOREVER) as limiter:
        limiter.catalog.put_plan(gold(Throttle("1/10", 1)))
        limiter.catalog.put_plan(UsagePlan("slow", Throttle("1/1000", 1), None, [STAGE]))
        one, other = (limiter.catalog.create_key(plans=[plan]).value for plan in ("gold", "slow"))
        clock.advance_us(1)
        turn_on(limiter, one, STAGE, METHOD)
        for key in (one, other) * 2:
            limiter.check(key, STAGE, METHOD)
        assert limiter.check(one, STAGE, METHOD).source == KNOWN
        clock.advance(10)
        assert limiter.check(one, STAGE, METHOD).allowed
        assert limiter.check(other, STAGE, METHOD).source == KNOWN


def test_a_key_of_many_methods(backend, clock, monkeypatch):
    """Of each key the last few replies are kept, and what is left of them is the latest of each limit that it tells."""
    monkeypatch.setattr(denial_cache, "_MAX_RECORDED", 3)
    methods = [f"GET /{name}" for name in "abcdef"]
    entries = {method: Throttle("1/100", 1) for method in methods}
    with both(backend, clock, gold(Throttle(1000, 1000), Quota(6, "DAY"), entries)) as world:
        for at, method in enumerate(methods):
            clock.advance_us(at % 2)  # some at the same moment
            assert world.check(1, method).allowed
            assert world.source(1, method) == KNOWN
        assert len(world.knows._checker.denial_cache._by_key.get(world.key.id).replies) <= 3
        assert {method: world.source(1, method) for method in methods[-2:]} == dict.fromkeys(methods[-2:], KNOWN)
        for method in methods:
            assert not world.check(1, method).allowed
            assert {world.source(cost, method) for cost in (2, 1, 2)} <= {"redis", KNOWN}


def test_what_is_denied_by_the_script_and_by_the_cache_is_one(backend, clock):
    """The same refusal twice, by Redis and from memory: every field is the same but who made it, and when."""
    with both(backend, clock, gold(Throttle(3, 5), Quota(6, "WEEK", 2)), account=Throttle("7/3", 9)) as world:
        assert world.asks.check(world.key.value, STAGE, METHOD, 5).allowed
        first, second = world.check(2), world.check(2)
        assert (first.source, second.source) == ("redis", KNOWN)
        assert said(first) == said(second)
        assert (first.time_us, second.time_us) == (clock(), None)
