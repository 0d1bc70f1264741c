"""Methods that nobody lists, made up by callers: they share what is known, and fill no memory."""

from helpers.replica import METHOD, STAGE

from ratelimit import Limiter, PlanStage, Throttle, UsagePlan

LISTED = "GET /listed"


def test_they_share_what_is_known(backend, clock):
    """A thousand paths of a key that is out: Redis is asked twice; what is remembered is one prepared."""
    with backend.client() as client, Limiter(client, deadline=5, clock=clock) as limiter:
        limiter._namespace.before_refresh = lambda: None  # nobody listens: a subscription lifts what is known
        stages = [PlanStage(STAGE, {LISTED: Throttle(1, 1)})]
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, stages))
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert limiter.check(key, STAGE, METHOD).allowed
        sources = [limiter.check(key, STAGE, f"GET /{number}").source for number in range(1000)]
        assert sources == ["redis"] * 2 + ["denial_cache"] * 998
        assert len(limiter._checker._prepared) == 1
        assert limiter.check(key, STAGE, LISTED).allowed
        assert len(limiter._checker._prepared) == 2


def test_a_method_that_comes_to_be_listed_has_its_own_bucket_at_once(backend, clock):
    """What was remembered of it as one of many is not taken for its own."""
    with backend.client() as client, Limiter(client, deadline=5, clock=clock) as limiter:
        limiter._namespace.before_refresh = lambda: None  # nobody listens: a subscription lifts what is known
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert [limiter.check(key, STAGE, LISTED).limited_by for _ in range(3)] == [None, "plan:gold", "plan:gold"]
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, [PlanStage(STAGE, {LISTED: Throttle(1, 1)})]))
        answers = [limiter.check(key, STAGE, LISTED).limited_by for _ in range(3)]
        assert answers == [None, f"plan:gold:{LISTED}", f"plan:gold:{LISTED}"]
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
        assert limiter.check(key, STAGE, LISTED).limited_by == "plan:gold"
