"""Traps that limiters are known to fall into, one test each.

The numbers are those of the collection they come from; what is missing is about what this limiter does not have.
"""

import struct
from math import inf, nan
from unittest.mock import patch

import pytest
from helpers.redis_snapshot import exact_snapshot
from helpers.replica import METHOD, OTHER, STAGE, remaining
from helpers.single_plan import admitted, plan
from properties.promises import exactness, replicas

from ratelimit import ConfigError, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan

STAGE_BUCKET = f"ratelimit:stage:{STAGE}:*"
KEPT_MS = 60_000
"""How long a shared bucket is kept beyond the moment at which it is full."""


# Arithmetic and capacity


def test_trap_1_a_burst_far_below_the_rate(backend, clock):
    """At 1000/s with a burst of 100, no more than 100 + rate * time pass, however dense the calls."""
    with plan(backend, clock, Throttle(1000, 100)) as (_, check):
        total = 0
        for _ in range(500):
            total += check().allowed
            clock.advance_us(280)
        assert total == 100 + 499 * 280 // 1000


def test_trap_1_a_bucket_that_fills_within_milliseconds_is_kept(backend):
    """The bucket fills in 0.1 s, yet its state is there after the check."""
    with plan(backend, None, stage=Throttle(1000, 100)) as (_, check), backend.client() as client:
        assert check().allowed
        assert KEPT_MS - 900 < client.pttl(STAGE_BUCKET) <= KEPT_MS + 100


def test_trap_2_a_token_in_less_than_a_millisecond(backend, clock):
    """At 10,000/s with a burst of 1, the next call within the same millisecond is denied, for 100 us."""
    with plan(backend, clock, Throttle(10_000, 1)) as (_, check):
        assert check().allowed
        clock.advance_us(60)
        assert check().retry_after == 0.00004
        clock.advance_us(40)
        assert check().allowed


@pytest.mark.parametrize(("burst", "expected"), [(0, (False, None)), (1, (True, None))])
def test_trap_3_a_high_rate_with_a_burst_of_0_or_1(backend, clock, burst, expected):
    """Both limit, and neither divides by zero."""
    with plan(backend, clock, Throttle(5000, burst)) as (_, check):
        first = check()
        assert (first.allowed, first.retry_after) == expected
        second = check()
        assert (second.allowed, second.retry_after) == (False, 0.0002 if burst else None)


@pytest.mark.parametrize("throttle", [Throttle(0, 5), Throttle(0, 0)])
def test_trap_4_a_rate_of_0(backend, clock, throttle):
    """Denies all, for ever, without an error, and its status is that of no quota."""
    with plan(backend, clock, throttle, Quota(5, "DAY")) as (_, check):
        decision = check()
        assert (decision.reason, decision.limited_by, decision.retry_after) == (Reason.THROTTLED, "plan:gold", None)
        limit = decision.limits[0]
        assert (limit.limit, limit.remaining) == (throttle.burst, 0)
        assert (limit.reset_after, limit.retry_after, limit.window) == (None, None, None)


def test_trap_5_a_quota_of_0(backend, clock):
    """Denies all: 0 is never unlimited."""
    with plan(backend, clock, None, Quota(0, "MONTH")) as (_, check):
        decision = check()
        assert (decision.reason, decision.retry_after) == (Reason.QUOTA_EXCEEDED, None)
        assert remaining(decision) == {"quota:gold": 0}


@pytest.mark.parametrize(("rate", "wait"), [("1/86400", 86_400.0), (0.1, 10.0)])
def test_trap_6_rates_below_one(backend, clock, rate, wait):
    """One a day is one a day, not none."""
    with plan(backend, clock, Throttle(rate, 1)) as (_, check):
        assert check().allowed
        assert check().retry_after == wait
        clock.advance(wait)
        assert check().allowed


def test_trap_8_the_whole_burst_at_one_moment(backend, clock):
    """Exactly the burst is admitted, not one less."""
    with plan(backend, clock, Throttle("17/30", 100)) as (_, check):
        assert admitted(check, 103) == 100


@pytest.mark.parametrize("rate", ["17/30", "90/60", 30])
def test_trap_9_due_and_one_microsecond_before(backend, clock, rate):
    """Denied before, admitted on time."""
    exactness.retry_after_is_exact(backend, clock, rate, 10, 3)


@pytest.mark.parametrize("rate", ["90/60", "30/60"])
def test_trap_10_less_than_a_token_per_tick(backend, clock, rate):
    """Nothing is lost between calls that come faster than tokens."""
    exactness.steady_traffic_loses_nothing(backend, clock, rate, 100_000, 200)


def test_trap_11_huge_numbers_are_exact(backend, clock):
    """A thousand million a month in costs of 2 * 10^8, and a token a year: nothing wraps."""
    with plan(backend, clock, Throttle("1/31536000", 100), Quota(10**9, "MONTH")) as (limiter, check):
        assert check(100).allowed
        assert check(1).retry_after == 31_536_000.0
        limiter.catalog.put_plan(UsagePlan("gold", None, Quota(10**9, "MONTH"), [STAGE]))
        left = [remaining(check(2 * 10**8))["quota:gold"] for _ in range(5)]
        assert left == [799_999_900, 599_999_900, 399_999_900, 199_999_900, 199_999_900]


def test_trap_11_what_cannot_be_exact_is_refused_at_load():
    """A bucket whose products would reach 2^53 cannot be made."""
    with pytest.raises(ConfigError, match=r"2\^53"):
        Throttle("1/31536000", 10**6)


@pytest.mark.parametrize("cost", [2**53, 2**60, 10**30])
def test_trap_11_a_cost_above_the_largest_quota_never_passes(backend, clock, cost):
    """Not even where the quota is the largest that can be: it is not taken for a smaller cost."""
    with plan(backend, clock, None, Quota(2**53 - 1, "MONTH")) as (_, check):
        decision = check(cost)
        assert (decision.reason, decision.retry_after) == (Reason.QUOTA_EXCEEDED, None)
        assert remaining(decision) == {"quota:gold": 2**53 - 1}


def test_trap_13_a_cost_of_0_writes_nothing(backend, clock):
    """It is a peek: it starts no window and extends none."""
    exactness.a_peek_writes_nothing(backend, clock)


@pytest.mark.parametrize("cost", [-1, -5, nan, inf, 1.0, True, "1", "9" * 400, None, b"1"], ids=repr)
def test_trap_14_costs_that_are_none(backend, clock, cost):
    """TypeError or ValueError, and nothing is written: least of all more tokens."""
    with plan(backend, clock, Throttle(1, 5)) as (_, check):
        assert check(4).allowed
        before = exact_snapshot(backend)
        with pytest.raises(ValueError if cost in {-1, -5} else TypeError, match="whole number >= 0"):
            check(cost)
        assert exact_snapshot(backend) == before


@pytest.mark.parametrize("cost", [-5, -0.5, 0.5, nan, -inf])
def test_trap_14_costs_that_are_none_sent_to_the_script(backend, clock, cost):
    """The script refuses them too: gateways in other languages call it, and it must never mint tokens."""
    with plan(backend, clock, Throttle(1, 5)) as (_, check):
        assert check(4).allowed
        before = exact_snapshot(backend)
        with patch("ratelimit.validation.cost", lambda _: None):
            decision = check(cost)
        assert exact_snapshot(backend) == before
        assert decision.reason is Reason.UNAVAILABLE
        assert "RATELIMIT ARGUMENTS" in decision.error


def test_trap_16_remaining_and_reset_stay_in_range(backend, clock):
    """Whatever is lowered while in use: 0 <= remaining <= limit and reset >= 0, of every limit."""
    with plan(backend, clock, Throttle(5, 10), Quota(10, "DAY")) as (limiter, check):
        assert admitted(check, 8) == 8
        for throttle, quota in (
            (Throttle(5, 1), Quota(1, "DAY")),
            (Throttle("1/3", 100), Quota(100, "DAY")),
            (Throttle(1, 3), Quota(0, "WEEK")),
            (Throttle(1, 3), Quota(8, "DAY")),
        ):
            limiter.catalog.put_plan(UsagePlan("gold", throttle, quota, [STAGE]))
            for step in (0, 1, 86_400_000_000, -86_400_000_001):
                clock.advance_us(step)
                for limit in check().limits:
                    assert 0 <= limit.remaining <= limit.limit
                    assert limit.reset_after >= 0


# Denials


@pytest.mark.parametrize("kind", exactness.LIMITS)
def test_trap_17_a_smaller_request_after_a_denied_one(backend, clock, kind):
    """8 of 10 used: 5 are denied, and cost nothing, so 2 still pass; by every kind of limit."""

    def ten_for(name):
        return Throttle("1/1000", 10 if kind == name else 50)

    stages = [PlanStage(STAGE, {METHOD: ten_for("method")})]
    with plan(backend, clock, ten_for("plan"), Quota(10 if kind == "quota" else 50, "DAY"), stages) as (limiter, check):
        limiter.catalog.put_stage(Stage(STAGE, ten_for("stage"), {METHOD: Method(ten_for("stage method"))}))
        limiter.catalog.set_account_throttle(ten_for("account"))
        method = OTHER if kind in {"plan", "stage"} else METHOD
        assert [check(cost, method).allowed for cost in (8, 5, 1, 2, 1, 1)] == [True, False, True, False, True, False]


@pytest.mark.parametrize("kind", exactness.LIMITS)
def test_trap_18_a_denied_check_writes_nothing(backend, clock, kind):
    """Value for value, and expiry for expiry."""
    exactness.a_denial_writes_nothing(backend, clock, kind)


def test_trap_21_the_first_limit_is_not_charged_when_the_second_denies(backend, clock):
    """The plan has tokens, its stage has none: the plan keeps them."""
    with plan(backend, clock, Throttle("1/1000", 10), stage=Throttle("1/1000", 2)) as (_, check):
        assert admitted(check, 20) == 2
        assert remaining(check()) == {"plan:gold": 8, f"stage:{STAGE}:*": 0}


def test_trap_22_a_quota_is_raised_and_lowered_while_in_use(backend, clock):
    """Raised, it helps at once by the difference; lowered below what is used, nothing is left, and not less."""
    with plan(backend, clock, None, Quota(5, "DAY")) as (limiter, check):
        assert admitted(check, 7) == 5
        for limit, passing in ((8, 3), (3, 0), (8, 0), (9, 1)):
            limiter.catalog.put_plan(UsagePlan("gold", None, Quota(limit, "DAY"), [STAGE]))
            assert admitted(check, 5) == passing
            assert remaining(check()) == {"quota:gold": 0}


@pytest.mark.parametrize(("entry", "quota", "left"), [(2, 9, (0, 7)), (9, 2, (7, 0))])
def test_trap_23_method_and_quota_do_not_charge_for_each_other(backend, clock, entry, quota, left):
    """Where the method's bucket denies the quota is not charged, and the reverse."""
    stages = [PlanStage(STAGE, {METHOD: Throttle("1/1000", entry)})]
    with plan(backend, clock, Throttle(1, 50), Quota(quota, "DAY"), stages) as (_, check):
        assert admitted(check, 6) == 2
        assert remaining(check()) == dict(zip((f"plan:gold:{METHOD}", "quota:gold"), left, strict=True))


# Windows, expiry, clocks


def test_trap_24_around_the_edge_of_a_window(backend, clock):
    """A calendar quota is hard per window: all of one, all of the next. A bucket beside it bounds both."""
    with plan(backend, clock, Throttle("1/1000", 4), Quota(3, "DAY")) as (_, check):
        clock.set("2026-03-04T23:59:59.999999")
        assert admitted(check, 5) == 3
        clock.advance_us(1)
        assert admitted(check, 5) == 1
        clock.advance(1000 * 9)
        assert admitted(check, 5) == 2


def test_trap_25_a_bucket_that_expired(backend, clock):
    """No state is a full bucket: the check that finds none starts at its cost."""
    with plan(backend, clock, stage=Throttle(1, 5)) as (_, check), backend.client() as client:
        assert admitted(check, 6) == 5
        client.pexpire(STAGE_BUCKET, -1)
        assert remaining(check(2)) == {f"stage:{STAGE}:*": 3}


@pytest.mark.parametrize(("quota", "end"), exactness.PERIODS)
def test_trap_26_a_count_does_not_leak_into_the_next_window(backend, clock, quota, end):
    """A window is known by its calendar days, not by an expiry."""
    exactness.a_quota_turns_at_the_microsecond(backend, clock, quota, end)


def test_trap_27_30_expiries_outlast_the_state_and_not_by_much(backend):
    """A shared bucket is kept a minute longer than an empty one takes to fill; renewed once in half a minute."""
    fills_in_ms = 1_000_000
    with plan(backend, None, stage=Throttle("1/10", 100)) as (_, check), backend.client() as client:
        for cost in (40, 59):
            check(cost)
            assert fills_in_ms + KEPT_MS - 1000 < client.pttl(STAGE_BUCKET) <= fills_in_ms + KEPT_MS
        # Charged longest ago that an expiry may not have been renewed since: the state outlasts the way to full.
        for age_s, is_renewed in ((31, True), (0, False)):
            seconds, _ = client.time()
            client.set(STAGE_BUCKET, struct.pack("<3d", 10_000_000, 0, (seconds - age_s) * 1_000_000), px=970_000)
            assert check(0).limits[0].remaining == age_s // 10
            if seconds % 30 < 25:  # else the next half minute might begin between the two
                assert check(1).allowed == (age_s > 9)
                assert (client.pttl(STAGE_BUCKET) > 970_000) == is_renewed


def test_trap_28_no_key_without_expiry_but_the_catalogue_and_api_keys(backend):
    """After traffic of every kind, what does not expire is the catalogue, and what belongs to an API key."""
    with plan(backend, None, Throttle(1, 5), Quota(5, "DAY"), stage=Throttle(1, 5)) as (limiter, check):
        limiter.catalog.set_account_throttle(Throttle(1, 5))
        assert admitted(check, 9) == 5
        limiter.peek("x" * 20, STAGE, METHOD)
        limiter.check("x" * 20, "no/stage", "NO method")
        (key,) = limiter.catalog.keys()
    with backend.client() as client:
        names = {name.decode() for name in client.scan_iter() if client.ttl(name) == -1}
        (digest,) = (name for name in names if name.startswith("ratelimit:digest:"))
        of_the_key = {f"ratelimit:{{{key.id}}}", f"ratelimit:{{{key.id}}}:record", digest}
        of_the_catalogue = {"{ratelimit}:catalog", "{ratelimit}:keys", "{ratelimit}:plan:gold:keys"}
        assert names == of_the_key | of_the_catalogue


def test_trap_31_clients_20_minutes_apart(server):
    """Their decisions are identical."""
    replicas.skewed_replicas_decide_alike(server, (-600, 0, 600))


def test_trap_32_the_servers_clock_steps_back(backend, clock):
    """By an hour: no negative time, and nobody is locked out for it."""
    exactness.a_clock_that_went_back_locks_nobody_out(backend, clock)


def test_trap_32_the_servers_clock_steps_forward(backend, clock):
    """By a day: one full bucket, and no more."""
    with plan(backend, clock, Throttle(10, 10)) as (_, check):
        assert admitted(check, 12) == 10
        clock.advance(86_400)
        assert admitted(check, 12) == 10


def test_trap_34_the_first_window_of_a_plan_is_whole(backend, clock):
    """A plan that begins in the middle of a month has its full quota, and the next month again."""
    with plan(backend, clock, None, Quota(4, "MONTH", 27)) as (_, check):
        assert admitted(check, 6) == 4
        clock.set("2026-03-28T00:00:00")
        assert admitted(check, 6) == 4


def test_a_wait_of_centuries_is_exact(limiter, clock):
    """Its end, in microseconds since 1970, is beyond 2^53: the wait is exact all the same, also locally."""
    limiter._namespace.before_refresh = lambda: None  # no listener, whose start drops the states seen
    clock.advance_us(1)  # an odd number, which no float of that size is
    limiter.catalog.put_plan(UsagePlan("slow", Throttle("0.000001", 9007), None, [STAGE]))
    key = limiter.catalog.create_key(plans=["slow"]).value
    assert limiter.check(key, STAGE, METHOD, 8997).allowed
    denials = [limiter.check(key, STAGE, METHOD, 9007) for _ in range(3)]
    assert [decision.source for decision in denials] == ["redis", "redis", "denial_cache"]
    for decision in denials:
        assert (decision.retry_after, decision.limits[0].retry_after) == (8_997_000_000.0, 8_997_000_000.0)
