"""Traps that limiters are known to fall into, one test each: arithmetic and capacity, 1 to 16.

The numbers are those of the collection they come from; what is missing is about what this limiter does not have.
`test_traps_state` goes on with denials, windows, expiry and clocks.
"""

from math import inf, nan
from unittest.mock import patch

import pytest
from helpers.redis_snapshot import exact_snapshot
from helpers.replica import STAGE, remaining
from helpers.single_plan import admitted, plan
from properties.promises import exactness

from ratelimit import ConfigError, Quota, Reason, Throttle, UsagePlan

STAGE_BUCKET = f"ratelimit:stage:{STAGE}:*"
KEPT_MS = 60_000
"""How long a shared bucket is kept beyond the moment at which it is full."""


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
        assert "RATELIMIT ARGUMENTS" in decision.cause


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
