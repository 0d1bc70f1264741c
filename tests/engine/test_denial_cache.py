"""The denial cache: who is known to be out is refused without asking, to the exact microsecond and not beyond."""

import struct
from contextlib import contextmanager

import pytest
from helpers.denial_cache import ABOVE, both, said, source_of, turn_on
from helpers.replica import METHOD, OTHER, STAGE, caching_replica

from ratelimit import AsyncLimiter, Catalog, Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.local import denial_cache

ELSEWHERE = "orders/prod"
TIGHT = UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), [STAGE, ELSEWHERE])


@contextmanager
def emptied(backend, clock, plan=TIGHT, cost=5, stage=None, **options):
    """A limiter that keeps what it is told, a function that checks a key whose bucket is empty, and the key."""
    with caching_replica(backend, clock, **options) as limiter:
        limiter.catalog.put_plan(plan)
        if stage is not None:
            limiter.catalog.put_stage(stage)
        key = limiter.catalog.create_key(plans=["gold"])
        clock.advance_us(1)

        def check(cost=1, method=METHOD, stage=STAGE, value=key.value):
            decision = limiter.check(value, stage, method, cost)
            return decision.source, decision.allowed, decision.retry_after

        turn_on(limiter, key.value, STAGE, METHOD)
        assert check(cost) == ("redis", True, None)
        yield limiter, check, key


def test_nothing_is_kept_before_a_first_denial(backend, clock):
    """The first denial switches keeping on, the next is kept: a key that was out before is known from the third on."""
    with caching_replica(backend, clock) as limiter:
        limiter.catalog.put_plan(TIGHT)
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert limiter.check(key, STAGE, METHOD, 5).allowed
        cache = limiter._checker.denial_cache
        assert (cache.is_active, len(cache._by_key), cache._shared.states) == (False, 0, {})
        decisions = [limiter.check(key, STAGE, METHOD) for _ in range(4)]
        assert [each.source for each in decisions] == ["redis", "redis", "denial_cache", "denial_cache"]
        assert [each.retry_after for each in decisions] == [0.1] * 4


def test_who_was_just_emptied_is_known_to_be_out(backend, clock):
    """What an admitted check left is kept as well: the very next one is refused without asking."""
    with emptied(backend, clock) as (_, check, _):
        assert check() == ("denial_cache", False, 0.1)


def test_it_answers_until_the_exact_microsecond(backend, clock):
    """At retry_after, not before, Redis is asked and admits."""
    with emptied(backend, clock) as (_, check, _):
        assert check() == ("denial_cache", False, 0.1)
        clock.advance_us(40_000)
        assert check() == ("denial_cache", False, 0.06)
        clock.advance_us(59_999)
        assert check() == ("denial_cache", False, 0.000001)
        clock.advance_us(1)
        assert check() == ("redis", True, None)
        assert check() == ("denial_cache", False, 0.1)


def test_what_it_tells(backend, clock):
    """All limits of the request, and all that the script would say of each."""
    stage = Stage(STAGE, Throttle(2, 20))
    with emptied(backend, clock, stage=stage) as (limiter, _, key), caching_replica(backend, clock) as asks:
        clock.advance_us(50_000)
        expected = asks.peek(key.value, STAGE, METHOD)
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.time_us, decision.degraded) == ("denial_cache", None, False)
        assert said(decision) == said(expected)
        assert (decision.reason, decision.limited_by, decision.status) == (Reason.THROTTLED, "plan:gold", 429)
        assert [tuple(limit) for limit in decision.limits] == [
            ("plan:gold", 5, 0, 0.45, 0.05, 0.5),
            (f"stage:{STAGE}:*", 20, 15, 2.45, 0.0, 10.0),
            ("quota:gold", 100, 95, 43_199.949999, 0.0, 86_400.0),
        ]
        assert decision.headers()["Retry-After"] == "1"
        assert decision.headers()["RateLimit-Policy"] == expected.headers()["RateLimit-Policy"]


@pytest.mark.parametrize("rate", ["10", "3", "3000000/1000007", "1/3"])
def test_any_cost_is_answered(backend, clock, rate):
    """Larger and smaller ones, in any order and at any rate, to the microsecond; above the burst for ever."""
    with both(backend, clock, UsagePlan("gold", Throttle(rate, 5), Quota(100, "DAY"), [STAGE])) as world:
        assert world.check(5).allowed
        for step in (0, 1, 33_333):
            clock.advance_us(step)
            assert [world.source(cost) for cost in (2, 1, 5, 3, 6, 1, 4)] == ["denial_cache"] * 7
        assert world.check(6).retry_after is None


def test_what_fits_is_asked(backend, clock):
    """Two units are left: three are refused, two are admitted by Redis, one more is refused."""
    with emptied(backend, clock, cost=3) as (_, check, _):
        assert check(3) == ("denial_cache", False, 0.1)
        assert check(2) == ("redis", True, None)
        assert check(1) == ("denial_cache", False, 0.1)


def test_a_quota_is_waited_for_together(backend, clock):
    """Every cost up to the limit waits for the same moment."""
    plan = UsagePlan("gold", None, Quota(10, "DAY"), [STAGE])
    with emptied(backend, clock, plan, cost=10, max_age=100_000) as (limiter, check, key):
        assert check() == ("denial_cache", False, 43_200 - 0.000001)
        assert check(10) == ("denial_cache", False, 43_200 - 0.000001)
        assert check(11) == ("denial_cache", False, None)
        assert limiter.check(key.value, STAGE, METHOD).reason is Reason.QUOTA_EXCEEDED
        clock.advance(43_200)
        assert check(11) == ("redis", False, None)  # of the next window nothing is known
        assert check(10) == ("redis", True, None)


def test_the_longest_wait_of_several_limits(backend, clock):
    """The first limit that refuses is named, the longest wait is told."""
    stage = Stage(STAGE, Throttle(1, 5))
    with emptied(backend, clock, stage=stage) as (limiter, check, key):
        assert check() == ("denial_cache", False, 1.0)
        clock.advance_us(10_000)
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.limited_by, decision.retry_after) == ("denial_cache", "plan:gold", 0.99)
        clock.advance_us(90_000)  # the plan's bucket would admit by now
        decision = limiter.check(key.value, STAGE, METHOD)
        assert (decision.source, decision.limited_by, decision.retry_after) == ("denial_cache", f"stage:{STAGE}:*", 0.9)


def test_a_limit_answers_for_all_who_meet_it(backend, clock):
    """The plan's bucket is known wherever the key meets it, once the request was asked; another key's is another."""
    with emptied(backend, clock, max_age=60) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance(10)
        for method, stage in ((METHOD, STAGE), (OTHER, STAGE), (METHOD, ELSEWHERE)):
            assert check(method=method, stage=stage)[1]
        assert check(2)[1]
        for method, stage in ((METHOD, STAGE), (OTHER, STAGE), (METHOD, ELSEWHERE)):
            assert check(method=method, stage=stage) == ("denial_cache", False, 0.1)
        assert check(value=other)[:2] == ("redis", True)
        assert check(value=other)[:2] == ("redis", True)


def test_what_is_known_of_one_key_is_not_told_another(backend, clock):
    """Two keys of one plan, one of them out: the other one is let in."""
    with emptied(backend, clock, UsagePlan("gold", Throttle(10, 5), None, [STAGE])) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert check()[0] == "denial_cache"
        assert check(value=other)[:2] == ("redis", True)
        assert check(value=other)[:2] == ("redis", True)


def test_a_shared_limit_answers_for_each_key_that_the_script_judged(backend, clock):
    """Whoever meets the stage's empty bucket is refused; whom the script did not judge of late is asked about."""
    with emptied(backend, clock, stage=Stage(STAGE, Throttle(1, 7)), max_age=60) as (limiter, check, _):
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert check(value=other) == ("redis", True, None)
        clock.advance_us(500_000)  # both have tokens of their own, the stage has one
        assert check() == ("redis", True, None)
        assert check(value=other) == ("denial_cache", False, 0.499999)
        assert check() == ("denial_cache", False, 0.499999)
        limiter._namespace.on_change_message("key:" + limiter._checker.keys.get(other).record.id)
        assert [check(value=other)[0] for _ in range(2)] == ["redis", "denial_cache"]


def test_what_leases_give_back_to_a_shared_limit_admits_at_once(backend, clock):
    """Trace 13. A replica with leases stops: whom the stage's bucket refused before is admitted by the next check."""
    stage = Stage(STAGE, throttle=Throttle("1/100", 1000))
    plain = UsagePlan("gold", Throttle(10_000, 100_000), None, [STAGE])
    leased = UsagePlan("leased", plain.throttle, None, [STAGE], lease=1.0)
    with emptied(backend, clock, plain, stage=stage) as (limiter, check, _), caching_replica(backend, clock) as holder:
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


def test_what_leases_that_went_give_back_admits_at_once(backend, clock):
    """A plan leases no more; what another replica still holds of its quota comes back, and is there at once."""
    leased = UsagePlan("gold", None, Quota(400, "DAY"), [STAGE], lease=1.0)
    with caching_replica(backend, clock) as limiter, caching_replica(backend, clock) as holder:
        limiter.catalog.put_plan(leased)
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert limiter.check(key, STAGE, METHOD, cost=401).limited_by == "quota:gold"
        for _ in range(100):
            decision = holder.check(key, STAGE, METHOD)
            clock.advance_us(1000)
        assert decision.source == "lease"
        limiter.catalog.put_plan(UsagePlan("gold", None, Quota(400, "DAY"), [STAGE]))
        while limiter.check(key, STAGE, METHOD).allowed:
            pass
        assert not limiter.check(key, STAGE, METHOD).allowed
        holder.close()
        assert limiter.check(key, STAGE, METHOD).allowed
        clock.advance(5)
        while limiter.check(key, STAGE, METHOD).allowed:
            pass
        assert [limiter.check(key, STAGE, METHOD).source for _ in range(2)] == ["denial_cache"] * 2


def test_under_a_shadow_a_leased_plan_is_asked(backend, clock):
    """Nobody takes a lease any more, and some replica may still give one back."""
    with caching_replica(backend, clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("next", Throttle(1, 1), None, [ELSEWHERE]))
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/100", 1), None, [STAGE], lease=1.0, shadow="next"))
        key = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance_us(1)
        assert limiter.check(key, STAGE, METHOD).allowed
        assert [limiter.check(key, STAGE, METHOD).source for _ in range(4)] == ["redis"] * 4


def test_beside_leases_own_limits_still_refuse(backend, clock):
    """A key's own bucket is its own: it refuses from memory, unless a shared one that others may raise does too."""
    with both(
        backend,
        clock,
        UsagePlan("gold", Throttle("1/100", 3), None, [STAGE]),
        UsagePlan("leased", Throttle(10, 10), None, [ELSEWHERE], lease=1.0),
        stage=Stage(STAGE, Throttle("1/100", 4)),
    ) as world:
        assert world.check(3).allowed
        assert [world.source(1), world.source(2), world.source(1)] == ["denial_cache", "redis", "denial_cache"]


def test_buckets_of_one_method_in_two_stages_are_two(backend, clock):
    """Their names are alike, they are not."""
    entry = {METHOD: Throttle(1, 1)}
    plan = UsagePlan("gold", Throttle(100, 100), None, [PlanStage(STAGE, entry), PlanStage(ELSEWHERE, entry)])
    with emptied(backend, clock, plan, cost=1) as (_, check, _):
        assert check(stage=ELSEWHERE)[1]
        clock.advance(1)
        assert check()[:2] == ("redis", True)
        assert check()[:2] == ("denial_cache", False)
        assert check(stage=ELSEWHERE)[:2] == ("redis", True)


def test_an_open_method_is_refused_as_well(backend, clock):
    """Without a key, by the limits that all callers share; also after others' checks."""
    stage = Stage(STAGE, None, {METHOD: Method(Throttle(1, 1), key_required=False)})
    with caching_replica(backend, clock) as limiter, caching_replica(backend, clock, denial_cache=False) as asks:
        limiter.catalog.put_stage(stage)
        clock.advance_us(1)
        sources = [limiter.check(None, STAGE, METHOD).source for _ in range(4)]
        assert sources == ["redis", "redis", "redis", "denial_cache"]
        assert [source_of(limiter, asks, None, STAGE, METHOD, cost) for cost in (1, 2)] == ["denial_cache"] * 2


def test_peek_asks(backend, clock):
    """Looking is looking at Redis: for one as for several."""
    with emptied(backend, clock) as (limiter, check, key):
        assert check()[0] == "denial_cache"
        assert [limiter.peek(key.value, STAGE, METHOD, cost).source for cost in (1, 3)] == ["redis"] * 2
        assert limiter.check(key.value, STAGE, METHOD, 0).source == "redis"
        assert check()[0] == "denial_cache"


def test_it_can_be_switched_off(backend, clock):
    """Then every denial is Redis'."""
    with caching_replica(backend, clock, denial_cache=False) as limiter:
        limiter.catalog.put_plan(TIGHT)
        key = limiter.catalog.create_key(plans=["gold"]).value
        assert [limiter.check(key, STAGE, METHOD, cost).source for cost in (ABOVE, 5, 1, 1, 1)] == ["redis"] * 5
        assert not limiter._checker.denial_cache.is_active


def test_denials_are_counted_as_any_other(backend, clock):
    """Usage shows the sum of those that Redis gave and those that were known."""
    with emptied(backend, clock) as (limiter, check, key):
        sources = [check()[0] for _ in range(7)]
        assert sources == ["denial_cache"] * 7
        limiter._tick()
        (denied,) = limiter.catalog.usage("gold", "2026-03-04", "2026-03-04", key_id=key.id).denied[key.id]
        assert denied == {"THROTTLED": 8}  # with the one that had it keep


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
        assert check()[:2] == ("denial_cache", False)
        on_change_message = client.pubsub()
        on_change_message.subscribe("ratelimit:changes")
        on_change_message.get_message(timeout=5)
        with backend.client() as another, Limiter(another, clock=clock) as admin:
            admin._namespace.before_refresh = lambda: None
            change(admin, key)
        assert check()[0] == "denial_cache"
        said = on_change_message.get_message(timeout=5)["data"].decode()
        on_change_message.close()
        assert said in {message.format(key.id), "2"}
        limiter._namespace.on_change_message(message.format(key.id))
        assert check()[:2] == ("redis", True)


@pytest.mark.parametrize("message", ["keys", None, "no such message"])
def test_what_may_be_anything_lifts_everything(backend, clock, message):
    """An import of many keys, a reconnected listener, a message that nobody knows."""
    with emptied(backend, clock) as (limiter, check, _):
        assert check()[0] == "denial_cache"
        limiter._namespace.on_change_message(message)
        assert check() == ("redis", False, 0.1)
        assert check() == ("denial_cache", False, 0.1)


def test_another_key_s_push_lifts_nothing(backend, clock):
    """Nor does it make anybody look at the plans."""
    with emptied(backend, clock) as (limiter, check, _):
        limiter._namespace.on_change_message("key:another")
        assert check()[0] == "denial_cache"
        assert not limiter._namespace.is_stale(5_000_000, clock())


def test_without_a_push_it_lives_max_age(backend, clock):
    """A lost push is covered: after max_age Redis is asked, also if it was just looked at for other reasons."""
    plan = UsagePlan("gold", Throttle("1/100", 5), None, [STAGE])
    with emptied(backend, clock, plan, max_age=2.0) as (limiter, check, key):
        assert check() == ("denial_cache", False, 100.0)
        clock.advance_us(1_999_999)
        assert check()[0] == "denial_cache"
        clock.advance_us(1)
        limiter.peek(key.value, STAGE, METHOD)
        assert check() == ("redis", False, 98.0)
        assert check() == ("denial_cache", False, 98.0)


def test_keeping_ends_when_nobody_is_denied(backend, clock):
    """Twice max_age after the last denial that Redis gave: then nothing is kept until it gives another."""
    with emptied(backend, clock, max_age=2.0) as (limiter, check, _):
        clock.advance_us(3_999_999)  # since the denial that had it keep
        assert [check(cost)[:2] for cost in (5, 1)] == [("redis", True), ("denial_cache", False)]
        clock.advance_us(1)
        assert check()[:2] == ("redis", False)
        assert limiter._checker.denial_cache.is_active  # it was denied
        clock.advance_us(4_000_000)
        assert check(5)[1]
        assert not limiter._checker.denial_cache.is_active
        assert [check()[0] for _ in range(3)] == ["redis", "redis", "denial_cache"]


def test_a_denial_asked_before_a_push_is_not_kept(backend, clock):
    """Its answer may be older than the change that was pushed while it was on its way."""
    with emptied(backend, clock) as (limiter, check, _):
        right = limiter._store.call

        def pushed_meanwhile(call, started_s):
            reply = right(call, started_s)
            limiter._namespace.on_change_message("keys")  # of one key alone the record would be dropped as well
            return reply

        limiter._namespace.on_change_message("keys")
        limiter._store.call = pushed_meanwhile
        assert check()[:2] == ("redis", False)
        limiter._store.call = right
        assert [check()[0] for _ in range(2)] == ["redis", "denial_cache"]


def test_it_cannot_grow_without_end(backend, clock, monkeypatch):
    """Beyond the most keys that it knows, the oldest are asked again."""
    monkeypatch.setattr(denial_cache, "_MAX_KEYS", 3)
    with caching_replica(backend, clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/100", 1), None, [STAGE]))
        keys = [limiter.catalog.create_key(plans=["gold"]).value for _ in range(5)]
        clock.advance_us(1)
        turn_on(limiter, keys[0], STAGE, METHOD)
        for value in keys:
            assert [limiter.check(value, STAGE, METHOD).allowed for _ in range(2)] == [True, False]
        assert len(limiter._checker.denial_cache._by_key) == 3
        sources = [limiter.check(value, STAGE, METHOD).source for value in reversed(keys)]
        assert sources == ["denial_cache"] * 3 + ["redis"] * 2


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"short",
        [1],
        [1, 2],
        [1, 2, b"short"],
        [0, 2, b""],
        [0, 2, 3],
        [2, 2, struct.pack("<2d", 1, float("nan"))],
    ],
    ids=repr,
)
def test_a_reply_that_cannot_be_read(backend, clock, reply):
    """Is told as such; what the check was charged, nobody knows: what it met is asked about."""
    with both(backend, clock, UsagePlan("gold", Throttle("1/100", 5), None, [STAGE])) as world:
        assert world.check(1).allowed
        assert world.source(5) == "denial_cache"
        right = world.knows._store.call

        def garbled(call, started_s):
            right(call, started_s)
            return reply

        world.knows._store.call = garbled
        decision = world.check(1)
        assert (decision.status, decision.cause) == (503, "refused")
        world.knows._store.call = right
        assert world.source(5) == "redis"


def test_threads_look_at_the_clock_in_any_order(backend, clock):
    """Who looked at it earlier and comes later drops nothing: the clock by which ages are told never goes back."""
    with emptied(backend, clock, UsagePlan("gold", Throttle("1/100", 5), None, [STAGE])) as (limiter, check, key):
        cache = limiter._checker.denial_cache
        cache._is_injected = False
        other = limiter.catalog.create_key(plans=["gold"]).value
        clock.advance(1)
        assert limiter.check(other, STAGE, METHOD).allowed
        prepared_check = limiter._checker.prepared(other, STAGE, METHOD)
        cache.states_for(prepared_check, clock() - 1)
        assert cache._by_key.get(key.id) is not None
        assert check() == ("denial_cache", False, 99.0)


@pytest.mark.asyncio
async def test_the_twin_knows_as_much(backend, clock):
    """The same in asyncio."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(TIGHT)
        key = catalog.create_key(plans=["gold"]).value
    clock.advance_us(1)
    async with backend.async_client() as client, AsyncLimiter(client, deadline=5.0, clock=clock) as limiter:
        limiter._namespace.before_refresh = lambda: None
        assert not (await limiter.check(key, STAGE, METHOD, ABOVE)).allowed
        assert (await limiter.check(key, STAGE, METHOD, 5)).allowed
        for cost in (1, 2, 6, 1):
            expected = await limiter.peek(key, STAGE, METHOD, cost)
            decision = await limiter.check(key, STAGE, METHOD, cost)
            assert (decision.source, decision.time_us) == ("denial_cache", None)
            assert said(decision) == said(expected)
