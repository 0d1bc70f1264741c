"""What users test with: a clock that is moved by hand, decisions that are made up, limiters that answer these."""

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from ratelimit import AsyncLimiter, ConfigError, Decision, Identity, Limiter, Reason
from ratelimit.testing import (
    AsyncStubLimiter,
    ManualClock,
    StubCall,
    StubLimiter,
    allowed,
    invalid_key,
    quota_exceeded,
    throttled,
    unavailable,
)

STAGE, METHOD = "petstore/prod", "GET /pets"


class Stub:
    """Either twin, called in one way."""

    def __init__(self, kind, *decisions):
        self.limiter = kind(*decisions)

    def check(self, *args, **keywords):
        return self._result(self.limiter.check(*args, **keywords))

    def peek(self, *args, **keywords):
        return self._result(self.limiter.peek(*args, **keywords))

    @staticmethod
    def _result(made):
        return asyncio.run(made) if inspect.isawaitable(made) else made


@pytest.fixture(params=[StubLimiter, AsyncStubLimiter])
def kind(request):
    return request.param


def test_a_stub_admits_unless_it_is_told_otherwise(kind):
    decision = Stub(kind).check("k", STAGE, METHOD)
    assert (decision.allowed, decision.status) == (True, 200)
    assert decision.headers() == {
        "RateLimit": '"plan:test";r=9;t=6',
        "RateLimit-Policy": '"plan:test";q=10;w=60',
    }


def test_decisions_come_in_turn_and_the_last_one_stays(kind):
    first, second = allowed(), throttled()
    stub = Stub(kind, first, second)
    assert [stub.check("k", STAGE, METHOD) for _ in range(4)] == [first, second, second, second]


def test_the_answer_that_says_most_of_the_call_holds(kind):
    """Method and stage and key over a key over any; among equals the latest."""
    stub = Stub(kind, throttled(1))
    stub.limiter.answer(throttled(2), key="k")
    stub.limiter.answer(throttled(3), key="k", method=METHOD)
    stub.limiter.answer(throttled(4), method="POST /pets")
    stub.limiter.answer(throttled(5), stage="petstore/test")
    stub.limiter.answer(throttled(6), key="k", stage="petstore/test", method=METHOD)
    waits = [
        stub.check(*call).retry_after
        for call in (
            ("other", STAGE, METHOD),
            ("k", STAGE, "GET /orders"),
            ("k", STAGE, METHOD),
            ("other", STAGE, "POST /pets"),
            ("other", "petstore/test", METHOD),
            ("k", "petstore/test", METHOD),
        )
    ]
    assert waits == [1, 2, 3, 4, 5, 6]
    stub.limiter.answer(throttled(7), key="k")
    stub.limiter.answer(throttled(8))
    assert stub.check("k", STAGE, "GET /orders").retry_after == 7
    assert stub.check("other", STAGE, "GET /orders").retry_after == 8


def test_calls_are_recorded(kind):
    stub = Stub(kind)
    stub.check("k", STAGE, METHOD)
    stub.check(None, STAGE, METHOD, cost=3)
    stub.peek("k", STAGE, METHOD, 2)
    assert stub.limiter.calls == [
        StubCall("k", STAGE, METHOD),
        StubCall(None, STAGE, METHOD, 3),
        StubCall("k", STAGE, METHOD, 2, is_peek=True),
    ]


@pytest.mark.parametrize(
    ("args", "error"),
    [(("k", STAGE, METHOD, -1), ValueError), (("k", STAGE, METHOD, 1.5), TypeError), ((7, STAGE, METHOD), TypeError)],
)
def test_what_a_limiter_raises_a_stub_raises(kind, args, error):
    """So a test finds a wrong call; it is not recorded."""
    stub = Stub(kind)
    with pytest.raises(error):
        stub.check(*args)
    assert stub.limiter.calls == []


@pytest.mark.parametrize("decisions", [(), (None,), (429,), (allowed(), "throttled")])
def test_an_answer_is_a_decision(decisions):
    with pytest.raises(ConfigError, match=r"decisions: must be decisions, such as throttled\(\): at least one"):
        StubLimiter().answer(*decisions)


def parameters(function):
    """Names, kinds and defaults."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("stub", "real"), [(StubLimiter, Limiter), (AsyncStubLimiter, AsyncLimiter)])
def test_a_stub_has_what_applications_and_adapters_call(stub, real):
    """With the same parameters, awaited or not; only what makes a limiter is left out."""
    public = {name for name, _ in inspect.getmembers(real, callable) if not name.startswith("_")}
    for name in (*public - {"from_url", "embedded"}, "_check_shared"):
        assert parameters(getattr(stub, name)) == parameters(getattr(real, name)), name
        assert inspect.iscoroutinefunction(getattr(stub, name)) is inspect.iscoroutinefunction(getattr(real, name))
    assert (stub().url, stub().server, stub().unmatched) == (None, None, 0)


def test_a_stub_knows_identities(kind):
    """As callers, and in answers."""
    user, other = Identity("user:42", "free"), Identity("user:43", "free")
    stub = Stub(kind)
    stub.limiter.answer(throttled(), key=user)
    assert [stub.check(caller, STAGE, METHOD).status for caller in (user, other, None)] == [429, 200, 200]
    assert [call.key for call in stub.limiter.calls] == [user, other, None]


def test_a_stub_is_a_context_manager_and_warms_up():
    with StubLimiter() as limiter:
        limiter.warm_up()

    async def use():
        async with AsyncStubLimiter() as limiter:
            await limiter.warm_up()
            return await limiter.check("k", STAGE, METHOD)

    assert asyncio.run(use()).allowed


def test_threads_get_each_answer_once():
    stub = StubLimiter(*[throttled(number) for number in range(500)], unavailable())
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: stub.check("k", STAGE, METHOD).retry_after, range(500)))
    assert sorted(waits) == list(range(500))
    assert len(stub.calls) == 500


def test_made_up_decisions_are_whole():
    """Status, fields and problem as of a real one."""
    made = allowed(), throttled(), quota_exceeded(), invalid_key(), unavailable()
    assert [decision.status for decision in made] == [200, 429, 429, 403, 503]
    decision = throttled(2.5, limit="plan:gold:GET /pets", burst=5)
    assert (decision.reason, decision.limited_by, decision.retry_after) == (
        Reason.THROTTLED,
        "plan:gold:GET /pets",
        2.5,
    )
    assert decision.headers() == {
        "Retry-After": "3",
        "RateLimit": '"plan:gold:GET /pets";r=0;t=12',
        "RateLimit-Policy": '"plan:gold:GET /pets";q=5;w=60',
    }
    assert decision.problem()["violated-policies"] == ["plan:gold:GET /pets"]
    quota = quota_exceeded(60, limit="quota:gold", quota=7)
    assert quota.headers() == {
        "Retry-After": "60",
        "RateLimit": '"quota:gold";r=0;t=60',
        "RateLimit-Policy": '"quota:gold";q=7;w=86400',
    }
    assert (invalid_key("disabled").detail, invalid_key("disabled").problem()["title"]) == ("disabled", "Forbidden")
    assert (unavailable("lost").cause, unavailable().source, unavailable().degraded) == ("lost", "fail_closed", True)
    assert throttled(None).headers().keys() == {"RateLimit", "RateLimit-Policy"}
    assert {type(decision) for decision in made} == {Decision}


def test_a_clock_stands_still_until_it_is_moved():
    clock = ManualClock()
    assert clock() == clock() == 1_772_625_600_000_000
    clock.advance(0.5)
    clock.advance_us(1)
    assert clock() == clock.now_us == 1_772_625_600_500_001
    clock.advance(-0.5)
    assert clock() == 1_772_625_600_000_001


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-31T23:59:59",
        "2026-03-31T23:59:59Z",
        "2026-04-01T01:59:59+02:00",
        datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 4, 1, 1, 59, 59, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 3, 31, 23, 59, 59),  # noqa: DTZ001 - without a zone
    ],
)
def test_a_clock_is_set_to_a_time(time):
    clock = ManualClock()
    clock.set(time)
    assert clock() == ManualClock(time)() == 1_775_001_599_000_000
