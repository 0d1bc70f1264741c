"""The first thing that has to work."""

from ratelimit import Quota, Throttle, UsagePlan


def test_a_burst_is_admitted_and_the_next_call_told_when(limiter, clock):
    """Five of six calls pass, the sixth is told the exact time."""
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), ["petstore/prod"]))
    key = limiter.catalog.create_key("me", plans=["gold"])
    decisions = [limiter.check(key.value, "petstore/prod", "GET /pets") for _ in range(6)]
    assert [decision.allowed for decision in decisions] == [True] * 5 + [False]
    assert decisions[5].retry_after == 0.1
    assert decisions[5].limited_by == "plan:gold"
