"""Traces that broke simpler rules of a denial cache, shrunk to what is needed: each is answered as the script does.

The account has 3 tokens a second and a burst of 4, unless a trace says otherwise. `test_denial_cache_seeded` takes the
rules out, and shows that each trace then fails.
"""

import asyncio
import copy
from itertools import product

import pytest
from helpers.denial_cache import ABOVE, both, by_two_clocks, said
from helpers.replica import METHOD, STAGE

from ratelimit import AsyncLimiter, Catalog, Quota, Stage, StoreTimeout, Throttle, UsagePlan

KNOWN = "denial_cache"
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
FREE = UsagePlan("gold", None, None, [STAGE])
ACCOUNT = Throttle(3, 4)


def slow():
    """A bucket of 5, a token a second."""
    return UsagePlan("gold", Throttle(1, 5), None, [STAGE])


def charged_but_not_kept(backend, clock):
    """1. A check is admitted whose place was dropped meanwhile: what was kept since then is untrue as well."""
    with both(backend, clock, FREE, account=ACCOUNT) as world:
        other = world.catalog.create_key(plans=["gold"])
        assert [world.source(5), world.source(5)] == ["redis", KNOWN]
        assert world.check(1, key=other).allowed  # its first: no usual reply
        assert world.check(1).allowed
        assert world.source(5) == KNOWN
        clock.advance(1)
        sent = world.send(1)
        world.send(1, key=other).given_up()  # never carried out, as it happens
        assert world.source(5) == "redis"
        assert sent.carried_out().arrived().allowed
        assert [world.source(5), world.source(5)] == ["redis", KNOWN]


def raised_while_a_denial_was_on_its_way(backend, clock):
    """2. Denied by the quota, which is raised after a step back of the clock: the denial has a later time than that."""
    plan = UsagePlan("gold", None, Quota(5, "DAY"), [STAGE])
    for steps in ((-3, 0, 3), (-3, 3, 0), (0, 0, 0)):
        with both(backend, clock, plan) as world:
            assert world.check(5).allowed
            world.knows._namespace.on_change_message(f"key:{world.key.id}")
            sent = world.send(1).carried_out()
            clock.advance(steps[0])
            world.catalog.set_remaining("gold", world.key.id, 5)
            clock.advance(steps[1])
            assert not sent.arrived().allowed
            clock.advance(steps[2])
            assert world.source(1) == "redis"


def admitted_behind_a_denial(backend, clock):
    """3. The clock goes back by a second between a denial and an admission: the later time is not the later state."""
    with both(backend, clock, slow()) as world:
        assert world.check(1).allowed
        clock.advance(2)
        world.knows._namespace.on_change_message(f"key:{world.key.id}")
        assert world.source(6) == "redis"
        clock.advance(-1)
        assert world.check(3).allowed
        clock.advance(1)
        world.source(6)
        assert world.check(6).limits[0].remaining == 3


def an_hour_back_and_forth(backend, clock):
    """4. What was known is as young again as it was, and a bucket has filled in an hour that came twice."""
    with both(backend, clock, FREE, account=ACCOUNT) as world:
        other = world.catalog.create_key(plans=["gold"])
        assert world.check(4).allowed
        assert world.source(4) == KNOWN
        clock.advance_us(-HOUR_US)
        assert not world.check(1, key=other).allowed
        clock.advance_us(HOUR_US)
        assert world.source(4) == "redis"


def the_servers_clock_an_hour_back(backend, clock):
    """5. Half a minute of checks, ten a second, after the server's clock was set back: asked once in `max_age`."""
    plan = UsagePlan("gold", Throttle("1/100000", 1), None, [STAGE])
    with both(backend, clock, plan, account=Throttle("1/100000", 1), max_age=5.0) as world:
        own = copy.copy(clock)
        by_two_clocks(world.knows, own)
        assert world.check(1).allowed
        assert world.source(1) == KNOWN
        clock.advance_us(-HOUR_US)
        sources = []
        for _ in range(300):
            clock.advance_us(100_000)
            own.advance_us(100_000)
            sources.append(world.check(1).source)
        assert sources.count("redis") == 6


def a_key_that_only_shared_limits_refuse(backend, clock):
    """6. Disabled, and said so: it is refused for that, though the account is known to be out."""
    with both(backend, clock, FREE, account=ACCOUNT) as world:
        assert world.check(4).allowed
        assert world.source(1) == KNOWN
        world.asks.catalog.update_key(world.key.id, enabled=False)
        world.knows._namespace.on_change_message(f"key:{world.key.id}")
        assert [world.check(1).detail for _ in range(2)] == ["disabled"] * 2


def a_key_that_expires(backend, clock):
    """7. From that microsecond on it is refused for that, though it is known to be out."""
    with both(backend, clock, FREE, account=Throttle("1/1000", 4), expires_us=2 * SECOND_US) as world:
        assert world.check(4).allowed
        clock.advance_us(2 * SECOND_US - 2)
        assert world.source(1) == KNOWN
        clock.advance_us(1)
        assert world.source(1) == "redis"
        assert world.check(1).detail == "disabled"


def looked_at_behind_its_time(backend, clock):
    """8. A peek after a step back tells what a check would re-anchor, and re-anchors nothing."""
    with both(backend, clock, slow()) as world:
        assert world.check(4).allowed
        clock.advance(-3)
        assert world.knows.peek(world.key.value, STAGE, METHOD, 7).limits[0].remaining == 1
        clock.advance(1)
        assert world.source(7) == "redis"
        assert world.check(7).limits[0].remaining == 1


def carried_out_for_nobody(backend, clock):
    """9. A caller goes away, or hears nothing: its check may be charged, so what it met is asked about."""
    with both(backend, clock, FREE, account=ACCOUNT) as world:
        for end in ("given up", "failed"):
            assert [world.source(5), world.source(5)] == ["redis", KNOWN]
            sent = world.send(1).carried_out()
            if end == "failed":
                with pytest.raises(StoreTimeout):
                    sent.failed(StoreTimeout("no answer"))
            else:
                sent.given_up()
        assert world.source(5) == "redis"
        assert world.check(5).limits[0].remaining == 2


def no_answer_to_a_usual_check(backend, clock):
    """9, as a limiter asks by itself: the reply is lost on its way."""
    plan = UsagePlan("gold", Throttle("1/100", 5), None, [STAGE], on_unavailable="closed")
    with both(backend, clock, plan, account=ACCOUNT) as world:
        assert world.check(1).allowed
        assert world.source(5) == KNOWN
        right = world.knows._store.call

        def lost(call, started_s):
            right(call, started_s)
            raise StoreTimeout("no answer")

        world.knows._store.call = lost
        assert world.check(1).status == 503
        world.knows._store.call = right
        assert world.source(5) == "redis"


def a_denial_overtaken_by_an_admission(backend, clock):
    """10. The denial was judged first and arrives last: what was admitted after it counts. Finding D."""
    for step, keeps in ((0, True), (1, True), (0, False), (1, False)):
        with both(backend, clock, FREE, account=ACCOUNT) as world:
            clock.advance(2)
            if not keeps:
                world.knows._checker.denial_cache.is_active = False
            sent = world.send(5).carried_out()
            clock.advance_us(step)
            assert world.check(4).allowed
            assert not sent.arrived().allowed
            world.source(5)
            assert world.check(5).limits[0].remaining == 0


def later_than_max_age(backend, clock):
    """11. A check is carried out after another, at the same time of the server, and its reply comes too late."""
    plan = UsagePlan("gold", Throttle("1/1000", 5), None, [STAGE])
    with both(backend, clock, plan, account=Throttle("1/1000", 4), max_age=5.0) as world:
        own = copy.copy(clock)
        by_two_clocks(world.knows, own)
        sent = world.send(1)
        own.advance_us(4_900_000)
        assert [world.source(5), world.source(5)] == ["redis", KNOWN]
        assert world.check(5).limited_by == "account"
        assert sent.carried_out()
        own.advance_us(100_000)
        assert sent.arrived().allowed
        world.knows.peek(world.key.value, STAGE, METHOD)  # the catalogue was to be looked at again
        assert world.source(5) == "redis"
        assert world.check(5).limited_by == "plan:gold"


def executed_before_a_step_back(backend, clock):
    """12. And delivered after it: what it tells is of a time that comes again, after the bucket was re-anchored."""
    with both(backend, clock, FREE, account=ACCOUNT) as world:
        sent = world.send(2).carried_out()
        clock.advance(-3)
        assert sent.arrived().allowed
        assert world.source(5) == "redis"
        clock.advance(3)
        world.source(5)
        assert world.check(5).limits[0].remaining == 4


TRACES = (
    charged_but_not_kept,
    raised_while_a_denial_was_on_its_way,
    admitted_behind_a_denial,
    an_hour_back_and_forth,
    the_servers_clock_an_hour_back,
    a_key_that_only_shared_limits_refuse,
    a_key_that_expires,
    looked_at_behind_its_time,
    carried_out_for_nobody,
    no_answer_to_a_usual_check,
    a_denial_overtaken_by_an_admission,
    later_than_max_age,
    executed_before_a_step_back,
)
"""All but the last: number 13, what leases give back, is in `test_denial_cache`."""


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.__name__)
def test_a_trace(backend, clock, trace):
    """Every answer on its way is the script's, but for the moments in which it cannot be known."""
    trace(backend, clock)


def cancelled(backend, clock):
    """9, of a task: cancelled when its check was carried out."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(FREE)
        catalog.set_account_throttle(ACCOUNT)
        key = catalog.create_key(plans=["gold"]).value

    async def main():
        async with backend.async_client() as client, AsyncLimiter(client, deadline=5.0, clock=clock) as limiter:
            limiter._namespace.before_refresh = lambda: None
            assert (await limiter.check(key, STAGE, METHOD)).allowed
            clock.advance(1)
            for cost in (ABOVE, 5):
                assert not (await limiter.check(key, STAGE, METHOD, cost)).allowed
            right, carried_out = limiter._store.call, asyncio.Event()

            async def never_answered(*call):
                await right(*call)
                carried_out.set()
                await asyncio.Event().wait()

            limiter._store.call = never_answered
            task = asyncio.ensure_future(limiter.check(key, STAGE, METHOD))
            await carried_out.wait()
            limiter._store.call = right
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            decision, expected = await limiter.check(key, STAGE, METHOD, 5), await limiter.peek(key, STAGE, METHOD, 5)
            assert said(decision) == said(expected)
            assert decision.limits[0].remaining == 3

    asyncio.run(main())


def test_a_cancelled_task(backend, clock):
    """What its check met is asked about."""
    cancelled(backend, clock)


def a_batch_with_a_denial(server, clock, at_once=8):
    """10, in asyncio: checks of one tick, a denial among them that is told after what was granted later.

    Keys of one stage. The first check of a new key cannot be answered with the others: it is asked again, alone, and so
    are those that met the same limit after it. Of 40 at once, two batches are on their way. Whatever the order, what is
    known then is what holds.
    """
    with server.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(UsagePlan("gold", Throttle(10, 6), Quota(50, "DAY"), [STAGE]))
        catalog.put_stage(Stage(STAGE, Throttle(3, 9)))
        keys = [catalog.create_key(plans=["gold"]).value for _ in range(12)]

    async def main():
        async with server.async_client() as client, AsyncLimiter(client, deadline=5.0, clock=clock) as limiter:
            limiter._namespace.before_refresh = lambda: None
            for key in keys:
                await limiter.peek(key, STAGE, METHOD)
            assert not (await limiter.check(keys[0], STAGE, METHOD, ABOVE)).allowed
            cached = 0
            for turn in range(60):
                met = keys[: 2 + turn // 6]
                costs = [(turn * 5 + at * 3) % 7 + 1 for at in range(at_once)]
                checks = [
                    limiter.check(met[(turn + at) % len(met)], STAGE, METHOD, cost) for at, cost in enumerate(costs)
                ]
                await asyncio.gather(*checks)
                for key, cost in product(met, (1, 3, 7)):
                    expected = await limiter.peek(key, STAGE, METHOD, cost)
                    if not expected.allowed:
                        decision = await limiter.check(key, STAGE, METHOD, cost)
                        assert said(decision) == said(expected)
                        cached += decision.source == KNOWN
                clock.advance_us((0, 1, 333_333, 900_000)[turn % 4])
            assert cached > 400

    asyncio.run(main())


@pytest.mark.parametrize("at_once", [8, 40])
def test_a_batch_with_a_denial(server, clock, at_once):
    """Finding D is gone: a denial that is noted after a later grant of the same batch says what is left after both."""
    a_batch_with_a_denial(server, clock, at_once)
