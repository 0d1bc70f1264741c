"""The promises for checks that are sent together, in one call of a script; and how long shared buckets live."""

import asyncio
import struct
from contextlib import contextmanager
from unittest.mock import patch

from helpers.replica import METHOD, OTHER, SLOW, STAGE, remaining, replica

from ratelimit import AsyncLimiter, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.scripts import load
from ratelimit.store.aio.batcher import CheckBatcher

THIRD = "PUT /pets"
BUCKET = f"ratelimit:stage:{STAGE}:*"
FILLS_MS, KEPT_MS = 1_000_000, 60_000
"""How long the stage's bucket takes to fill, and how much longer it is kept."""


@contextmanager
def at_once(backend, **options):
    """Yield a function that asks several checks in one tick, and a list: how many calls each write had then."""
    sent, put = [], CheckBatcher._write

    def counted(batcher, packets, answered):
        sent.append(len(packets))
        put(batcher, packets, answered)

    async def several(*requests):
        sent.clear()
        return await asyncio.gather(*(limiter.check(*each) for each in requests))

    with backend.client() as client:
        for name in ("check", "check_many"):
            client.script_load(load(name).source)
    with asyncio.Runner() as runner, patch.object(CheckBatcher, "_write", counted):
        client = backend.async_client()
        limiter = AsyncLimiter(client, deadline=5.0, denial_cache=False, **options)
        limiter._namespace.before_refresh = lambda: None
        try:
            yield lambda *requests: runner.run(several(*requests)), sent
        finally:
            runner.run(limiter.aclose())
            runner.run(client.aclose())


def checks_at_once_are_charged_one_by_one(backend, clock):
    """Of ten checks of two keys that leave in one call, a shared bucket of six admits the first six, and is empty."""
    with replica(backend, clock=clock) as limiter, at_once(backend, clock=clock) as (check, sent):
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 50), Quota(100, "DAY"), [STAGE]))
        limiter.catalog.set_account_throttle(Throttle(SLOW, 8))
        keys = [limiter.catalog.create_key(plans=["gold"]).value for _ in range(2)]
        for key in keys:
            check((key, STAGE, METHOD))
        decisions = check(*((keys[turn % 2], STAGE, METHOD) for turn in range(10)))
        assert sent == [1]
        assert [decision.allowed for decision in decisions] == [True] * 6 + [False] * 4
        for turn, decision in enumerate(decisions):
            charged = min(turn // 2 + 1, 3)
            left = {"plan:gold": 49 - charged, "account": max(5 - turn, 0), "quota:gold": 99 - charged}
            assert remaining(decision) == left
        for key in keys:
            assert remaining(limiter.peek(key, STAGE, METHOD)) == {"plan:gold": 46, "account": 0, "quota:gold": 96}


def each_of_many_keys_is_charged(backend, clock):
    """Keys that are met once in a call, by methods with a bucket and without, are charged as ever."""
    with replica(backend, clock=clock) as limiter, at_once(backend, clock=clock) as (check, sent):
        stages = [PlanStage(STAGE, {METHOD: Throttle(SLOW, 20)})]
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 50), Quota(100, "DAY"), stages))
        keys = [limiter.catalog.create_key(plans=["gold"]).value for _ in range(3)]
        for key in keys:
            for method in (METHOD, OTHER):
                assert check((key, STAGE, method))[0].allowed
        for turn in (1, 2, 3):
            for method, of_method in ((METHOD, {f"plan:gold:{METHOD}": 19 - turn}), (OTHER, {"plan:gold": 49 - turn})):
                decisions = check(*((key, STAGE, method) for key in keys))
                assert sent == [1]
                left = of_method | {"quota:gold": 98 - 2 * turn + (method == METHOD)}
                assert [remaining(decision) for decision in decisions] == [left] * 3


def methods_of_one_key_count_for_one_quota(backend, clock):
    """Checks of one key by several methods in one call, two with buckets of their own, meet one quota."""
    with replica(backend, clock=clock) as limiter, at_once(backend, clock=clock) as (check, sent):
        stages = [PlanStage(STAGE, {METHOD: Throttle(SLOW, 20), OTHER: Throttle(SLOW, 30)})]
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 50), Quota(7, "DAY"), stages))
        key = limiter.catalog.create_key(plans=["gold"]).value
        for method in (METHOD, OTHER, THIRD):
            assert check((key, STAGE, method))[0].allowed
        decisions = check(*((key, STAGE, method) for method in (METHOD, METHOD, OTHER, THIRD, METHOD)))
        assert sent == [1]
        assert [remaining(decision).get("quota:gold") for decision in decisions] == [3, 2, 1, 0, 0]
        assert [decision.allowed for decision in decisions] == [True, True, True, True, False]
        assert remaining(limiter.peek(key, STAGE, METHOD)) == {f"plan:gold:{METHOD}": 17, "quota:gold": 0}
        assert remaining(limiter.peek(key, STAGE, OTHER)) == {f"plan:gold:{OTHER}": 28, "quota:gold": 0}
        assert remaining(limiter.peek(key, STAGE, THIRD)) == {"plan:gold": 48, "quota:gold": 0}


def nobody_is_overtaken(backend, clock):
    """A check that has to be asked alone comes before those after it in its call that meet one of the same limits."""
    with replica(backend, clock=clock) as limiter, at_once(backend, clock=clock) as (check, sent):
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 50), None, [STAGE, "other/prod"]))
        limiter.catalog.put_stage(Stage(STAGE, Throttle(SLOW, 4)))
        old, new = (limiter.catalog.create_key(plans=["gold"]).value for _ in range(2))
        for key, cost in ((old, 1), (new, 0)):  # the second is known to the gateway, but was charged nothing yet
            check((key, STAGE, METHOD, cost), (key, "other/prod", METHOD, cost))
        first, second, third = check((new, STAGE, METHOD, 3), (old, STAGE, METHOD), (old, "other/prod", METHOD))
        assert sent == [1, 3]
        assert (first.allowed, remaining(first)[f"stage:{STAGE}:*"]) == (True, 0)
        assert (second.allowed, second.limited_by) == (False, f"stage:{STAGE}:*")
        assert (third.allowed, remaining(third)) == (True, {"plan:gold": 47})


def checks_at_once_obey(backend, clock):
    """A key that is disabled elsewhere, or expires, is refused in the very next call, and the others are answered."""
    with replica(backend, clock=clock) as limiter, at_once(backend, clock=clock, max_age=1e9) as (check, _):
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 50), None, [STAGE]))
        alive, other = (limiter.catalog.create_key(plans=["gold"]) for _ in range(2))
        ended = limiter.catalog.create_key(plans=["gold"], expires_at=clock() / 1_000_000 + 10)
        for key in (alive, other, ended):
            assert check((key.value, STAGE, METHOD))[0].allowed
        requests = [(key.value, STAGE, METHOD) for key in (alive, other, ended)]
        clock.advance(9)
        assert [decision.detail for decision in check(*requests)] == [None, None, None]
        clock.advance(1)
        assert [decision.detail for decision in check(*requests)] == [None, None, "disabled"]
        limiter.catalog.update_key(other.id, enabled=False)
        assert [decision.detail for decision in check(*requests)] == [None, "disabled", "disabled"]


def an_expiry_outlasts_the_way_to_full(backend):
    """At the server's clock a shared bucket is kept a minute longer than it may take to fill, alone and at once.

    That is renewed by a charge if the last one was in an earlier half minute of the clock, and not otherwise.
    """
    with replica(backend) as limiter, at_once(backend) as (check, _), backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        limiter.catalog.put_stage(Stage(STAGE, Throttle("1/10", 100)))
        key = limiter.catalog.create_key(plans=["gold"]).value
        prepared = key, STAGE, METHOD
        for ask in (lambda: [limiter.check(*prepared)], lambda: check(prepared, prepared)):
            assert all(decision.allowed for decision in ask())
            client.delete(BUCKET)
            assert all(decision.allowed for decision in ask())
            assert FILLS_MS + KEPT_MS - 1000 < client.pttl(BUCKET) <= FILLS_MS + KEPT_MS
            for age_s, renewed in ((31, True), (0, False)):
                seconds = client.time()[0]
                while seconds % 30 > 27:  # the next half minute might begin in between
                    seconds = client.time()[0]
                stored = struct.pack("<3d", 10_000_000, 500_000_000, (seconds - age_s) * 1_000_000)
                client.set(BUCKET, stored, px=970_000)
                decisions = ask()
                assert [decision.allowed for decision in decisions] == [True] * len(decisions)
                left = 50 + age_s // 10 - len(decisions)
                assert limiter.peek(*prepared).limits[0].remaining == left
                least, most = (FILLS_MS, FILLS_MS + KEPT_MS) if renewed else (969_000, 970_000)
                assert least < client.pttl(BUCKET) <= most
