"""All small limits and states, through check.lua on a real server: what its replies mean, and will mean later.

The process works out of a reply's states what is left of a limit, when it is whole again and how long a cost waits, by
`engine/limits.py`. Held against exact arithmetic: `engine/reference_model.py`, and for quotas what is written out here.
"""

from fractions import Fraction
from itertools import product
from math import inf

import pytest
from properties.machine_model import as_modelled, as_told, would
from vectors.packing import NOW, PLAN, TODAY, count, doubles, state, version_token

from ratelimit import Quota, Throttle
from ratelimit.engine.limits import Bucket, CompiledLimits, QuotaCount
from ratelimit.engine.protocol import DENIED, PEEK, WOULD_ADMIT
from ratelimit.engine.reference_model import Reference, _Tokens, _Window, _window_at
from ratelimit.registry.windows import DAY_US
from ratelimit.scripts import load

pytestmark = pytest.mark.slow

KEY, FIELD, ACCOUNT = "ratelimit:{k1}", "b:gold:petstore/prod:GET /pets", "ratelimit:account"
TOLERANCE_US = 2_000_000
BUCKETS = {
    "plan": Bucket("plan:gold", Throttle(1, 1)),
    "method": Bucket("plan:gold:GET /pets", Throttle(1, 1), FIELD),
    "shared": Bucket("account", Throttle(1, 1), ACCOUNT, shared=True),
}
RATIOS = ((1, 1), (1, 2), (2, 3), (3, 2), (5, 3), (0, 1))
AHEAD = (-TOLERANCE_US, -7, -2, -1, 0, 1, 3, TOLERANCE_US - 1, TOLERANCE_US, TOLERANCE_US + 1, 10**9)
"""How far a state is ahead of the clock."""
LATER = (0, 1, 2, 3, 5, TOLERANCE_US, TOLERANCE_US + 2)


class Batch:
    """Checks that are asked one after the other, each in a world of its own."""

    def __init__(self, client):
        self._client = client
        self._pipeline = client.pipeline(transaction=False)
        self._places = []
        client.script_load(load("check").source)

    def ask(self, call, fields, shared, now_us, cost, flags):
        """Have a check asked of what is stored so: fields of the key's hash, and the account's bucket."""
        request = call.request(
            now_us=now_us,
            cost=cost,
            valid_until_us=0,
            flags=flags,
            version_token=version_token(),
            estimate_us=lambda: now_us,
        )
        pipeline = self._pipeline
        pipeline.execute_command("HSET", KEY, "r", version_token(), *(part for item in fields.items() for part in item))
        if shared is not None:
            pipeline.execute_command("SET", ACCOUNT, shared)
        keys = (KEY, *call.shared_keys)
        pipeline.execute_command("EVALSHA", load("check").sha, len(keys), *keys, request, *call.fields)
        self._places.append(len(pipeline.command_stack) - 1)

    def replies(self):
        replies = self._pipeline.execute()
        return [replies[at] for at in self._places]


def as_asked(throttle, place):
    """A bucket of such a throttle, in its place; and how its state is stored."""
    bucket = BUCKETS[place]._replace(throttle=throttle)
    per = throttle.ratio[1]

    def stored(level, last):
        if place == "plan":
            return {PLAN: state(level, per=per, last=last, day_used=3)}, None
        own = state(per=0, last=0, day_used=3)
        packed = doubles(per, level, last)
        return ({PLAN: own, FIELD: packed}, None) if place == "method" else ({PLAN: own}, packed)

    return bucket, stored


def expected_of(bucket, level, last, cost, now_us, peeks):
    """The model's verdict, and what it holds afterwards."""
    reference = Reference()
    place = ("" if bucket.shared else "k1", bucket.field_or_key or bucket.name)
    per = bucket.throttle.ratio[1]
    reference._states[place] = _Tokens(Fraction(level, per), last, per)
    ask = would if peeks else Reference.check
    return ask(reference, "k1", [bucket], cost, now_us), reference


@pytest.mark.parametrize("place", BUCKETS)
def test_buckets(server, place):
    """Each level of each small bucket, below zero too, before, at and behind its time, charged and peeked at; later."""
    with server.client() as client:
        batch, cases = Batch(client), []
        for (rate, per), burst in product(RATIOS, (1, 2, 3)):
            bucket, stored = as_asked(Throttle(Fraction(rate * 10**6, per), burst), place)
            call = CompiledLimits([bucket], PLAN)
            for level, ahead in product(range(-burst * per - 1, burst * per + 2), AHEAD):
                fields, shared = stored(level, NOW + ahead)
                for cost, peeks in product((*range(1, burst + 2), 2**60), (False, True)):
                    batch.ask(call, fields, shared, NOW, cost, PEEK if peeks else 0)
                    cases.append((call, bucket, level, NOW + ahead, cost, peeks))
        replies, later = batch.replies(), {}
        assert len(cases) > 5000
        for reply, (call, bucket, level, last, cost, peeks) in zip(replies, cases, strict=True):
            verdict, reference = expected_of(bucket, level, last, cost, NOW, peeks)
            decision = call.decision(reply, cost)
            assert as_told(decision) == as_modelled(verdict, [bucket], NOW), (bucket, level, last, cost, peeks)
            assert decision.time_us == NOW
            if isinstance(reply, list):
                assert reply[0] in ({DENIED, WOULD_ADMIT} if peeks else {DENIED, 1, 2})
                assert len(reply[2]) == 16
            if not peeks:  # what a peek would re-anchor is not written
                later.setdefault((call, call.numbers(reply)), (bucket, reference))
        for (call, numbers), (bucket, reference) in later.items():
            for wait_us, cost in product(LATER, (1, bucket.throttle.burst, bucket.throttle.burst + 1)):
                verdict = would(reference, "k1", [bucket], cost, NOW + wait_us)
                (status,) = call.statuses(numbers, NOW + wait_us, 0 if verdict.allowed else cost)
                assert status == as_modelled(verdict, [bucket], NOW + wait_us)[3][0], (bucket, numbers, wait_us, cost)
                denial = call.denial(numbers, NOW + wait_us, cost)
                assert (denial is None) == verdict.allowed
                if denial is not None:
                    wait = None if denial[2] == inf else denial[2] - NOW - wait_us
                    assert (denial[:2], wait) == ((0, denial[2]), verdict.retry_us)


WINDOWS = {
    "this": (TODAY, 1),
    "none yet": (0, 0),
    "the last": (TODAY - 1, 1),
    "the next": (TODAY + 1, 1),
    "one in a week": (TODAY + 7, 1),
    "of another period": (TODAY, 7),
}
MOMENTS = (0, 1, DAY_US // 2, DAY_US - TOLERANCE_US - 1, DAY_US - TOLERANCE_US, DAY_US - 1)


def test_quotas(server):
    """Each count of each small quota, with more and less granted, in its window, before and after it."""
    with server.client() as client:
        batch, cases = Batch(client), []
        for limit, used, granted, window, moment in product(
            range(4), range(5), (-2, -1, 0, 1, 3), WINDOWS.values(), MOMENTS
        ):
            now_us = TODAY * DAY_US + moment
            call = CompiledLimits([QuotaCount("quota:gold", Quota(limit, "DAY"))], PLAN)
            fields = {PLAN: count(used, first=window[0], days=window[1], granted=granted, last=0)}
            for cost in (1, 2, 5):
                batch.ask(call, fields, None, now_us, cost, 0)
                cases.append((call, limit, used - granted, window, now_us, cost))
        replies = batch.replies()
        assert len(cases) > 5000
        for reply, (call, limit, used, (first, days), now_us, cost) in zip(replies, cases, strict=True):
            held = _Window(first * DAY_US, (first + days) * DAY_US, used) if days else None
            held = _window_at(held, call.limits[0], now_us)
            left = limit - held.used
            allowed, left = cost <= left, left - cost if cost <= left else max(0, left)
            decision = call.decision(reply, cost)
            assert decision.allowed is allowed
            for then_us in {now_us, min(now_us + 1, held.stop - 1), held.stop - 1}:
                wait = 0.0 if allowed else None if cost > limit else (held.stop - then_us) / 1_000_000
                right = (left, (held.stop - then_us) / 1_000_000, wait)
                numbers = call.numbers(reply)
                (status,) = call.statuses(numbers, then_us, 0 if allowed else cost)
                assert status[2:5] == right, (limit, used, first, days, now_us, cost)
                if then_us == now_us:
                    assert tuple(decision.limits[0])[2:5] == right
                if not allowed:
                    assert call.denial(numbers, then_us, cost)[2] == (inf if wait is None else held.stop)


def test_several_limits(server):
    """A bucket of the plan and its quota: all or nothing, the first one that denies is named, the longest wait told."""
    with server.client() as client:
        batch, cases = Batch(client), []
        bucket, quota = (
            Bucket("plan:gold", Throttle(Fraction(2 * 10**6, 3), 3)),
            QuotaCount("quota:gold", Quota(3, "DAY")),
        )
        call = CompiledLimits([bucket, quota], PLAN)
        for level, ahead, used, granted, cost in product(range(-2, 10), AHEAD, range(5), (-1, 0, 2), (1, 2, 3, 4)):
            packed = state(level, per=3, last=NOW + ahead, window=TODAY * 64 + 1, used=used, granted=granted)
            batch.ask(call, {PLAN: packed}, None, NOW, cost, 0)
            cases.append((level, ahead, used - granted, cost))
        replies = batch.replies()
        assert len(cases) > 5000
        for reply, (level, ahead, used, cost) in zip(replies, cases, strict=True):
            reference = Reference()
            reference._states[("k1", "plan:gold")] = _Tokens(Fraction(level, 3), NOW + ahead, 3)
            reference._states[("k1", "quota:gold")] = _Window(TODAY * DAY_US, (TODAY + 1) * DAY_US, used)
            if cost <= quota.quota.limit:  # more than the limit, where more was granted, is no model's case
                verdict = reference.check("k1", call.limits, cost, NOW)
                assert as_told(call.decision(reply, cost)) == as_modelled(verdict, call.limits, NOW)
