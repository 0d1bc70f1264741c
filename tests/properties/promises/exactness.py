"""Promises 1 and 2: all or nothing, and exact."""

from fractions import Fraction
from math import ceil, floor

from helpers.redis_snapshot import exact_snapshot
from helpers.replica import METHOD, OTHER, SLOW, STAGE, remaining, replica

from ratelimit import Method, PlanStage, Quota, Stage, Throttle, UsagePlan

LIMITS = {
    "plan": "plan:gold",
    "method": f"plan:gold:{METHOD}",
    "stage": f"stage:{STAGE}:*",
    "stage method": f"stage:{STAGE}:{METHOD}",
    "account": "account",
    "quota": "quota:gold",
}
"""Each kind of limit, and the name that decisions call it by."""

OWN_LIMITS = ("plan", "method", "quota")
"""Those that are a key's alone."""

PERIODS = (
    (Quota(3, "DAY"), "2026-03-05T00:00:00"),
    (Quota(3, "WEEK"), "2026-03-08T00:00:00"),
    (Quota(3, "WEEK", 3), "2026-03-11T00:00:00"),
    (Quota(3, "MONTH"), "2026-04-01T00:00:00"),
    (Quota(3, "MONTH", 27), "2026-03-28T00:00:00"),
)
"""Quotas, and when the window ends that holds 2026-03-04 12:00:00."""


def _one_tight_limit(catalog, tight, *, shared=True):
    """Make a limit of each kind: `tight` admits 2, the others 1000. Return a key's value, and a method under all.

    If not `shared`, without those of stage and account, which a cluster prepays: a key's own are as exact there.
    """

    def size(kind):
        return Throttle(SLOW, 2 if kind == tight else 1000)

    entries = {} if tight == "plan" else {METHOD: size("method")}
    quota = Quota(2 if tight == "quota" else 1000, "DAY")
    catalog.put_plan(UsagePlan("gold", size("plan"), quota, [PlanStage(STAGE, entries)]))
    if shared:
        catalog.put_stage(Stage(STAGE, size("stage"), {METHOD: Method(size("stage method"))}))
        catalog.set_account_throttle(size("account"))
    return catalog.create_key(plans=["gold"]).value, OTHER if tight in {"plan", "stage"} else METHOD


# 1. All or nothing


def a_denial_writes_nothing(backend, clock, tight, *, shared=True):
    """Whichever limit refuses, and whatever is asked, every value and expiry in Redis stays as it was."""
    with replica(backend, clock=clock) as limiter:
        key, method = _one_tight_limit(limiter.catalog, tight, shared=shared)
        assert [limiter.check(key, STAGE, method).allowed for _ in range(2)] == [True, True]
        for is_usual in (True, False):
            if not is_usual:
                # A version that the key has not seen, and a throttle that counts other fractions: neither is written.
                if shared:
                    limiter.catalog.set_account_throttle(Throttle("1/700", 2 if tight == "account" else 1000))
                else:
                    limiter.catalog.put_plan(UsagePlan("other"))
            before = exact_snapshot(backend)
            for cost, step in ((1, 0), (1, 1), (2, 999_999), (3, 0), (998, 0), (1, -2_000_000), (0, 0)):
                clock.advance_us(step)
                decision = limiter.check(key, STAGE, method, cost)
                assert not decision.allowed
                assert decision.limited_by == LIMITS[tight]
                left = {name: 0 if name == LIMITS[tight] else 998 for name in remaining(decision)}
                assert remaining(decision) == left
                assert exact_snapshot(backend) == before
            clock.advance_us(1_000_000)
        assert not limiter.check(key, STAGE, method, 2**60).allowed
        assert exact_snapshot(backend) == before


def a_denial_leaves_expiries(backend, tight):
    """At the server's own time, where shared buckets expire, a denial moves no expiry either."""
    with replica(backend) as limiter:
        key, method = _one_tight_limit(limiter.catalog, tight)
        assert [limiter.check(key, STAGE, method).allowed for _ in range(2)] == [True, True]
        before = exact_snapshot(backend)
        assert sum(expiry > 0 for _, expiry in before.values()) == 2
        assert [limiter.check(key, STAGE, method, cost).allowed for cost in (1, 2, 3, 2**60, 0)] == [False] * 5
        assert exact_snapshot(backend) == before


def a_large_step_back_is_all_that_a_denial_writes(backend, clock, tight, *, shared=True):
    """Back by more than 2 s, a denial re-anchors the limits, once: no token and no unit comes or goes."""
    with replica(backend, clock=clock) as limiter:
        key, method = _one_tight_limit(limiter.catalog, tight, shared=shared)
        assert [limiter.check(key, STAGE, method).allowed for _ in range(2)] == [True, True]
        full = exact_snapshot(backend)
        denial = limiter.check(key, STAGE, method)
        clock.advance_us(-2_000_001)
        assert remaining(limiter.check(key, STAGE, method)) == remaining(denial)
        after = exact_snapshot(backend)
        assert after != full
        again = limiter.check(key, STAGE, method)
        assert remaining(again) == remaining(denial)
        assert exact_snapshot(backend) == after
        if tight != "quota":
            assert again.retry_after == denial.retry_after == 1000.0
            clock.advance(1000)
            assert limiter.check(key, STAGE, method).allowed


def a_peek_writes_nothing(backend, clock, *, shared=True):
    """A peek says what a check would, admitted or denied, and writes nothing: not even what a step back re-anchors."""
    with replica(backend, clock=clock) as limiter:
        key, method = _one_tight_limit(limiter.catalog, "plan", shared=shared)
        before = exact_snapshot(backend)
        assert limiter.peek(key, STAGE, method).allowed
        assert exact_snapshot(backend) == before
        assert limiter.check(key, STAGE, method).allowed
        before = exact_snapshot(backend)
        assert [limiter.peek(key, STAGE, method, cost).allowed for cost in (1, 2)] == [True, False]
        assert exact_snapshot(backend) == before
        assert [limiter.check(key, STAGE, method).allowed for _ in range(2)] == [True, False]
        before = exact_snapshot(backend)
        for step in (0, 1, 86_400_000_000, -172_800_000_000):
            clock.advance_us(step)
            limiter.peek(key, STAGE, method)
            assert exact_snapshot(backend) == before


def an_admission_charges_every_limit(backend, clock, *, shared=True):
    """What is admitted is charged to each limit that applies, by its cost, once."""
    with replica(backend, clock=clock) as limiter:
        key, method = _one_tight_limit(limiter.catalog, None, shared=shared)
        for used, cost in ((7, 7), (8, 1), (1000, 992)):
            decision = limiter.check(key, STAGE, method, cost)
            assert decision.allowed
            assert list(remaining(decision).values()) == [1000 - used] * (4 if shared else 2)
        assert remaining(limiter.peek(key, STAGE, method)) == remaining(decision)


# 2. Exact


def retry_after_is_exact(backend, clock, rate, burst, cost):
    """1 us before it the check fails, at it the check passes, time after time: no fraction of a token is lost.

    A peek in between says when a token would do.
    """
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate, burst), None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        assert limiter.check(key, STAGE, METHOD, burst).allowed
        start, tokens_per_us = clock(), Fraction(str(rate)) / 1_000_000
        for turn in range(1, 8):
            due = start + ceil(turn * cost / tokens_per_us)
            if due - 1 >= clock():
                denial = limiter.check(key, STAGE, METHOD, cost)
                assert (denial.allowed, denial.retry_after) == (False, (due - clock()) / 1_000_000)
                one_due = start + ceil(((turn - 1) * cost + 1) / tokens_per_us)
                (limit,) = limiter.peek(key, STAGE, METHOD).limits
                assert limit.retry_after == max(0, one_due - clock()) / 1_000_000
                clock.advance_us(due - 1 - clock())
                denial = limiter.check(key, STAGE, METHOD, cost)
                assert (denial.allowed, denial.retry_after) == (False, 0.000001)
                clock.advance_us(1)
            assert limiter.check(key, STAGE, METHOD, cost).allowed


def steady_traffic_loses_nothing(backend, clock, rate, tick_us, checks):
    """Asked at every tick, each of which brings less than a token, a bucket gives out exactly what it gained.

    A peek before each check foretells it. Left alone it is full again, and no fuller.
    """
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate, 3), None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        start, admitted = clock(), 0
        for _ in range(checks):
            expected = limiter.peek(key, STAGE, METHOD).allowed
            assert limiter.check(key, STAGE, METHOD).allowed is expected
            admitted += expected
            clock.advance_us(tick_us)
        gained = Fraction(str(rate)) / 1_000_000 * (clock() - tick_us - start)
        assert admitted == 3 + floor(gained)
        clock.advance_us(ceil(4 / Fraction(str(rate)) * 1_000_000))
        assert [limiter.check(key, STAGE, METHOD).allowed for _ in range(4)] == [True] * 3 + [False]


def a_quota_turns_at_the_microsecond(backend, clock, quota, end):
    """The last microsecond of a window still refuses, the first of the next admits the whole quota again."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", None, quota, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        assert limiter.check(key, STAGE, METHOD, quota.limit).allowed
        now = clock()
        clock.set(end)
        left_us = clock() - now
        clock.advance_us(-left_us)
        assert limiter.check(key, STAGE, METHOD).retry_after == left_us / 1_000_000
        clock.advance_us(left_us - 1)
        assert limiter.check(key, STAGE, METHOD).retry_after == 0.000001
        clock.advance_us(1)
        assert [limiter.check(key, STAGE, METHOD).allowed for _ in range(quota.limit + 1)] == [True] * quota.limit + [
            False
        ]


def another_period_is_another_count(backend, clock):
    """A plan that goes from days to weeks and back starts a count each time, on the same day too."""
    with replica(backend, clock=clock) as limiter:
        key = None
        for period in ("DAY", "WEEK", "DAY"):
            limiter.catalog.put_plan(UsagePlan("gold", None, Quota(3, period), [STAGE]))
            key = key or limiter.catalog.create_key(plans=["gold"]).value
            assert [limiter.check(key, STAGE, METHOD).allowed for _ in range(4)] == [True] * 3 + [False]


def a_clock_that_flaps_mints_nothing(backend, clock):
    """Between two clocks 50 ms apart, 2 s at 10 tokens a second bring 20 tokens, as with one clock."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 10), None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        admitted = 0
        for turn in range(401):
            clock.advance_us(5_000)
            behind = 50_000 * (turn % 2)
            clock.advance_us(-behind)
            admitted += limiter.check(key, STAGE, METHOD).allowed
            clock.advance_us(behind)
        assert admitted == 10 + 20


def a_clock_that_went_back_locks_nobody_out(backend, clock):
    """After a step back of an hour, an empty bucket fills from the new time on: 10 tokens in a second, no more."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 10), Quota(21, "DAY"), [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        for step in (0, -3600_000_000, 1_000_000):
            clock.advance_us(step)
            admitted = sum(limiter.check(key, STAGE, METHOD).allowed for _ in range(12))
            assert admitted == (0 if step < 0 else 10)
        # Back over midnight the count is kept; in the window that starts there it starts anew.
        clock.set("2026-03-03T23:59:57")
        assert limiter.check(key, STAGE, METHOD).limits[1].remaining == 1
        clock.set("2026-03-04T00:00:00")
        assert limiter.check(key, STAGE, METHOD).limits[1].remaining == 20


def a_change_of_plan_mints_nothing(backend, clock):
    """Tokens survive a change of rate, rounded down to what the new rate can count, and no more than the new burst."""
    with replica(backend, clock=clock) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle("1/3", 100), None, [STAGE]))
        key = catalog.create_key(plans=["gold"]).value
        assert limiter.check(key, STAGE, METHOD, 40).allowed
        clock.advance_us(2_900_000)
        assert limiter.check(key, STAGE, METHOD).allowed
        level = 60 + Fraction(29, 30) - 1
        for rate, burst in (("2/7", 100), ("0.3", 100), ("7/86400", 90), (1_000_000, 50), ("1/3", 100), ("1/7", 3)):
            catalog.put_plan(UsagePlan("gold", Throttle(rate, burst), None, [STAGE]))
            per_us = Fraction(str(rate)) / 1_000_000
            level = min(burst, Fraction(floor(level * per_us.denominator), per_us.denominator)) - 1
            (limit,) = limiter.check(key, STAGE, METHOD).limits
            assert (limit.limit, limit.remaining) == (burst, floor(level))
            assert limit.reset_after == ceil((burst - level) / per_us) / 1_000_000


def every_unit_is_metered(backend, clock):
    """The days of a key add up to what was admitted, over midnights and days without traffic."""
    with replica(backend, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 9), Quota(100, "MONTH"), [STAGE]))
        limiter.catalog.put_plan(UsagePlan("free", None, None, ["admin/prod"]))
        key = limiter.catalog.create_key(plans=["gold", "free"])
        for moment, costs, admitted in (
            ("2026-03-04T23:59:59.999999", (3, 2, 9), (True, True, False)),
            ("2026-03-05T00:00:00", (1, 4), (True, False)),
            ("2026-03-05T23:59:59.999999", (1,), (True,)),
            ("2026-03-09T12:00:00", (8,), (True,)),
        ):
            clock.set(moment)
            assert tuple(limiter.check(key.value, STAGE, METHOD, cost).allowed for cost in costs) == admitted
            assert all(limiter.check(key.value, "admin/prod", METHOD, cost).allowed for cost in costs)
        for plan, expected in (("gold", [5, 2, 0, 0, 0, 8]), ("free", [14, 6, 0, 0, 0, 8])):
            usage = limiter.catalog.usage(plan, "2026-03-04", "2026-03-09", key_id=key.id)
            assert [used for used, _ in usage.items[key.id]] == expected
