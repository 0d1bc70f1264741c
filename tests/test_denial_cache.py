"""The denial cache: who is known to be out is refused without asking, to the exact microsecond and not beyond."""

from contextlib import contextmanager

import promises
import pytest
from conftest import FakeClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from promises import METHOD, OTHER, STAGE

from ratelimit import AsyncLimiter, Catalog, Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.core import denial_cache

ELSEWHERE = "orders/prod"
TIGHT = UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), [STAGE, ELSEWHERE])


def replica(backend, clock, **options):
    """As all promises have it, but that it knows denials."""
    return promises.replica(backend, **({"clock": clock, "denial_cache": True} | options))


@contextmanager
def emptied(backend, clock, plan=TIGHT, cost=5, stage=None, **options):
    """A limiter, a function that checks a key whose bucket is empty, and the key."""
    with replica(backend, clock, **options) as limiter:
        limiter.catalog.put_plan(plan)
        if stage is not None:
            limiter.catalog.put_stage(stage)
        key = limiter.catalog.create_key(plans=["gold"])
        clock.advance_us(1)

        def check(cost=1, method=METHOD, stage=STAGE, value=key.value):
            decision = limiter.check(value, stage, method, cost)
            return decision.source, decision.allowed, decision.retry_after

        assert check(cost)[1]
        yield limiter, check, key


def test_it_answers_until_the_exact_microsecond(backend, clock):
    """The first denial is Redis', those after are known; at retry_after, not before, Redis is asked and admits."""
    with emptied(backend, clock) as (_, check, _):
        assert check() == ("redis", False, 0.1)
        assert check() == ("denial_cache", False, 0.1)
        clock.advance_us(40_000)
        assert check() == ("denial_cache", False, 0.06)
        clock.advance_us(59_999)
        assert check() == ("denial_cache", False, 0.000001)
        clock.advance_us(1)
        assert check() == ("redis", True, None)


def test_what_it_tells(backend, clock):
    """Reason, limit and what is left of it are those of the limit that refuses; of the others nothing is known."""
    with emptied(backend, clock) as (limiter, check, key):
        check()
        clock.advance_us(50_000)
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.reason, decision.limited_by, decision.status) == (Reason.THROTTLED, "plan:gold", 429)
        assert (decision.time_us, decision.degraded) == (None, False)
        ((name, limit, remaining, reset_after, retry_after, window),) = decision.limits
        assert (name, limit, remaining, reset_after, retry_after, window) == ("plan:gold", 5, 0, 0.45, 0.05, 0.5)
        assert decision.headers()["Retry-After"] == "1"


def test_higher_costs_wait_longer(backend, clock):
    """To the microsecond where that can be told, for ever above the burst; smaller ones are asked."""
    with emptied(backend, clock) as (_, check, _):
        assert check(2) == ("redis", False, 0.2)
        assert check(3) == ("denial_cache", False, 0.3)
        assert check(6) == ("denial_cache", False, None)
        assert check(1) == ("redis", False, 0.1)
        assert check(2) == ("denial_cache", False, 0.2)


def test_what_cannot_be_told_exactly_is_asked(backend, clock):
    """At 3 tokens in 1,000,007 microseconds, the wait of two more depends on a fraction that no reply tells."""
    plan = UsagePlan("gold", Throttle("3000000/1000007", 5), None, [STAGE])
    with emptied(backend, clock, plan) as (_, check, _):
        assert check(1) == ("redis", False, 0.333336)
        assert check(1)[0] == "denial_cache"
        assert check(2) == ("redis", False, 0.666672)
        assert check(4) == ("denial_cache", False, 1.333343)  # three more are 1,000,007 exactly


def test_a_quota_is_waited_for_together(backend, clock):
    """Every cost up to the limit waits for the same moment."""
    plan = UsagePlan("gold", None, Quota(10, "DAY"), [STAGE])
    with emptied(backend, clock, plan, cost=10, max_age=100_000) as (limiter, check, key):
        assert check() == ("redis", False, 43_200 - 0.000001)
        assert check(10) == ("denial_cache", False, 43_200 - 0.000001)
        assert check(11) == ("denial_cache", False, None)
        assert limiter.check(key.value, STAGE, METHOD).reason is Reason.QUOTA_EXCEEDED
        clock.advance(43_200)
        assert check(10)[:2] == ("redis", True)


def test_the_longest_wait_of_several_limits(backend, clock):
    """The first limit that refuses is named, the longest wait is told."""
    stage = Stage(STAGE, Throttle(1, 5))
    with emptied(backend, clock, stage=stage) as (limiter, check, key):
        assert check() == ("redis", False, 1.0)
        clock.advance_us(10_000)
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.limited_by, decision.retry_after) == ("denial_cache", "plan:gold", 0.99)
        clock.advance_us(90_000)  # the plan's bucket would admit by now
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.limited_by, decision.retry_after) == ("denial_cache", f"stage:{STAGE}:*", 0.9)


def test_a_limit_answers_for_all_who_meet_it(backend, clock):
    """The plan's bucket for all methods that meet the same limits; elsewhere others may refuse as well: it is asked."""
    with emptied(backend, clock, max_age=60) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance(10)
        for method, stage in ((METHOD, STAGE), (OTHER, STAGE), (METHOD, ELSEWHERE)):
            assert check(method=method, stage=stage)[1]
        assert check(2)[1]
        assert check() == ("redis", False, 0.1)
        assert check(method=OTHER)[0] == "denial_cache"
        assert [check(stage=ELSEWHERE)[0] for _ in range(2)] == ["redis", "denial_cache"]
        assert check(value=other)[:2] == ("redis", True)
        assert check(value=other)[:2] == ("redis", True)


def test_what_is_known_of_one_key_is_not_told_another(backend, clock):
    """Two keys of one plan, one of them out: the other one is let in."""
    with emptied(backend, clock, UsagePlan("gold", Throttle(10, 5), None, [STAGE])) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert [check()[0] for _ in range(2)] == ["redis", "denial_cache"]
        assert check(value=other)[:2] == ("redis", True)
        assert check(value=other)[:2] == ("redis", True)


def test_a_shared_limit_answers_for_each_key_once_it_was_asked(backend, clock):
    """Whoever meets the stage's empty bucket is refused, but limits of the key's own may refuse for longer."""
    with emptied(backend, clock, stage=Stage(STAGE, Throttle(1, 7))) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert check(value=other)[1]
        assert check(value=other)[1]
        assert check(value=other)[:2] == ("redis", False)
        one = check.__defaults__[3]
        assert [limiter.check(one, STAGE, METHOD).source for _ in range(2)] == ["redis", "denial_cache"]


def test_what_leases_give_back_to_a_shared_limit_admits_at_once(backend, clock):
    """A replica with leases stops: whom the stage's bucket refused before is admitted by the next check."""
    stage = Stage(STAGE, throttle=Throttle("1/100", 1000))
    plain = UsagePlan("gold", Throttle(10_000, 100_000), None, [STAGE])
    leased = UsagePlan("leased", plain.throttle, None, [STAGE], lease=1.0)
    with emptied(backend, clock, plain, stage=stage) as (limiter, check, _), replica(backend, clock) as holder:
        limiter.catalog.put_plan(leased)
        key = limiter.catalog.create_key(plans=["leased"]).value
        sources = []
        for _ in range(300):
            sources.append(holder.check(key, STAGE, METHOD).source)
            clock.advance_us(1000)
        assert "lease" in sources
        while check()[1]:
            pass
        holder.close()
        assert check() == ("redis", True, None)


def test_buckets_of_one_method_in_two_stages_are_two(backend, clock):
    """Their names are alike, they are not."""
    entry = {METHOD: Throttle(1, 1)}
    plan = UsagePlan("gold", Throttle(100, 100), None, [PlanStage(STAGE, entry), PlanStage(ELSEWHERE, entry)])
    with emptied(backend, clock, plan, cost=1) as (_, check, _):
        assert check(stage=ELSEWHERE)[1]
        clock.advance(1)
        assert check()[:2] == ("redis", True)
        assert check()[:2] == ("redis", False)
        assert check()[0] == "denial_cache"
        assert check(stage=ELSEWHERE)[:2] == ("redis", True)


def test_an_open_method_is_refused_as_well(backend, clock):
    """Without a key, by the limits that all callers share."""
    stage = Stage(STAGE, None, {METHOD: Method(Throttle(1, 1), key_required=False)})
    with replica(backend, clock) as limiter:
        limiter.catalog.put_stage(stage)
        clock.advance_us(1)
        sources = [limiter.check(None, STAGE, METHOD).source for _ in range(4)]
        assert sources == ["redis", "redis", "denial_cache", "denial_cache"]


def test_peek_asks(backend, clock):
    """Looking is looking at Redis."""
    with emptied(backend, clock) as (limiter, check, key):
        check()
        assert limiter.peek(key.value, STAGE, METHOD).source == "redis"
        assert check()[0] == "denial_cache"


def test_it_can_be_switched_off(backend, clock):
    """Then every denial is Redis'."""
    with emptied(backend, clock, denial_cache=False) as (_, check, _):
        assert [check()[0] for _ in range(3)] == ["redis"] * 3


def test_denials_are_counted_as_any_other(backend, clock):
    """Usage shows the sum of those that Redis gave and those that were known."""
    with emptied(backend, clock) as (limiter, check, key):
        sources = [check()[0] for _ in range(7)]
        assert sources == ["redis"] + ["denial_cache"] * 6
        limiter._tick()
        (denied,) = limiter.catalog.usage("gold", "2026-03-04", "2026-03-04", key_id=key.id).denied[key.id]
        assert denied == {"THROTTLED": 7}


def raised(limiter, key):
    limiter.catalog.set_remaining("gold", key.id, 50)


def another_plan(limiter, _key):
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(10, 50), Quota(1000, "DAY"), [STAGE]))


def moved(limiter, key):
    limiter.catalog.put_plan(UsagePlan("silver", Throttle(10, 5), Quota(1000, "DAY"), [STAGE]))
    limiter.catalog.remove_key_from_plan(key.id, "gold")
    limiter.catalog.add_key_to_plan(key.id, "silver")


@pytest.mark.parametrize(("change", "message"), [(raised, "key:{}"), (moved, "key:{}"), (another_plan, "2")])
def test_a_push_lifts_it(backend, clock, change, message):
    """Quota extended, key moved, plan changed: known until the push, asked from then on. The push is sent."""
    plan = UsagePlan("gold", Throttle(10, 5), Quota(5, "DAY"), [STAGE])
    with emptied(backend, clock, plan, max_age=60) as (limiter, check, key), backend.client() as client:
        clock.advance(1)
        assert check()[:2] == ("redis", False)
        heard = client.pubsub()
        heard.subscribe("ratelimit:changes")
        heard.get_message(timeout=5)
        with backend.client() as another, Limiter(another, clock=clock) as admin:
            admin._state.before_refresh = lambda: None
            change(admin, key)
        assert check()[0] == "denial_cache"
        said = heard.get_message(timeout=5)["data"].decode()
        heard.close()
        assert said in {message.format(key.id), "2"}
        limiter._state.heard(message.format(key.id))
        clock.advance_us(1)
        assert check()[:2] == ("redis", True)


@pytest.mark.parametrize("message", ["keys", None, "no such message"])
def test_what_may_be_anything_lifts_everything(backend, clock, message):
    """An import of many keys, a reconnected listener, a message that nobody knows."""
    with emptied(backend, clock) as (limiter, check, _):
        check()
        assert check()[0] == "denial_cache"
        clock.advance_us(1)
        limiter._state.heard(message)
        clock.advance_us(1)
        assert check() == ("redis", False, 0.099998)


def test_another_key_s_push_lifts_nothing(backend, clock):
    """Nor does it make anybody look at the plans."""
    with emptied(backend, clock) as (limiter, check, _):
        check()
        limiter._state.heard("key:another")
        assert check()[0] == "denial_cache"
        assert not limiter._state.needs_look(5_000_000, clock())


def test_without_a_push_it_lives_max_age(backend, clock):
    """A lost push is covered: after max_age Redis is asked."""
    plan = UsagePlan("gold", Throttle("1/100", 5), None, [STAGE])
    with emptied(backend, clock, plan, max_age=2.0) as (_, check, _):
        assert check() == ("redis", False, 100.0)
        clock.advance_us(1_999_999)
        assert check()[0] == "denial_cache"
        clock.advance_us(1)
        assert check() == ("redis", False, 98.0)


def test_a_denial_asked_before_a_push_is_not_kept(backend, clock):
    """Its answer may be older than the change that was pushed while it was on its way."""
    with emptied(backend, clock) as (limiter, check, _):
        right = limiter._store.call

        def pushed_meanwhile(call):
            reply = right(call)
            limiter._state.heard("keys")  # of one key alone the record would be dropped as well
            return reply

        limiter._store.call = pushed_meanwhile
        assert check()[:2] == ("redis", False)
        limiter._store.call = right
        clock.advance_us(1)
        assert check()[0] == "redis"
        assert check()[0] == "denial_cache"


def test_it_cannot_grow_without_end(backend, clock, monkeypatch):
    """Beyond the most keys that it knows, the oldest are asked again."""
    monkeypatch.setattr(denial_cache, "_MOST_KEYS", 3)
    with replica(backend, clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/100", 1), None, [STAGE]))
        keys = [limiter.catalog.create_key(plans=["gold"]).value for _ in range(5)]
        clock.advance_us(1)
        for value in keys:
            assert [limiter.check(value, STAGE, METHOD).allowed for _ in range(2)] == [True, False]
        assert len(limiter._checker.cache._own) == 3
        sources = [limiter.check(value, STAGE, METHOD).source for value in reversed(keys)]
        assert sources == ["denial_cache"] * 3 + ["redis"] * 2


@pytest.mark.asyncio
async def test_the_twin_knows_as_much(backend, clock):
    """The same in asyncio."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(TIGHT)
        key = catalog.create_key(plans=["gold"]).value
    clock.advance_us(1)
    async with backend.async_client() as client, AsyncLimiter(client, clock=clock) as limiter:
        limiter._state.before_refresh = lambda: None
        assert (await limiter.check(key, STAGE, METHOD, 5)).allowed
        found = [await limiter.check(key, STAGE, METHOD) for _ in range(3)]
        assert [(one.source, one.retry_after) for one in found] == [("redis", 0.1)] + [("denial_cache", 0.1)] * 2


STEPS = st.one_of(
    st.tuples(st.just("check"), st.integers(0, 1), st.sampled_from([METHOD, OTHER]), st.integers(1, 6)),
    st.tuples(st.just("step"), st.sampled_from([1, 50, 99_999, 100_000, 333_333, 2_000_000])),
    st.tuples(st.just("plan"), st.sampled_from(["3/1", "10", "7/3"]), st.integers(1, 8)),
    st.tuples(st.just("remaining"), st.integers(0, 1), st.integers(0, 20)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=40))
def test_it_says_what_redis_would_say(backend, steps):
    """With pushes delivered, it refuses nobody whom the script would admit, and says all that the script would say."""
    clock = FakeClock()
    with backend.client() as client:
        client.flushall()
        with Limiter(client, clock=clock) as knows, Limiter(client, clock=clock, denial_cache=False) as asks:
            for limiter in (knows, asks):
                limiter._state.before_refresh = lambda: None
            catalog = asks.catalog
            catalog.put_plan(_plan("10", 5))
            catalog.put_stage(Stage(STAGE, Throttle("7/2", 9)))
            keys = [catalog.create_key(plans=["gold"]) for _ in range(2)]
            for name, *about in steps:
                clock.advance_us(1)
                if name == "check":
                    which, method, cost = about
                    decision = knows.check(keys[which].value, STAGE, method, cost)
                    if decision.source == "denial_cache":
                        said = asks.check(keys[which].value, STAGE, method, cost)
                        assert not said.allowed
                        for part in ("reason", "limited_by", "retry_after"):
                            assert getattr(decision, part) == getattr(said, part)
                elif name == "step":
                    clock.advance_us(about[0])
                elif name == "plan":
                    catalog.put_plan(_plan(*about))
                    knows._state.heard(str(catalog._state.book.version))
                else:
                    catalog.set_remaining("gold", keys[about[0]].id, about[1])
                    knows._state.heard(f"key:{keys[about[0]].id}")


def _plan(rate, burst):
    return UsagePlan("gold", Throttle(rate, burst), Quota(20, "DAY"), [PlanStage(STAGE, {OTHER: Throttle(rate, 3)})])
