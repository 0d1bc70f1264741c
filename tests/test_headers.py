"""HTTP fields of decisions, read back with a parser of Structured Fields that is not ours."""

import http_sf
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelimit import Limiter, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan

STAGE, METHOD = "a/prod", "GET /pets"
LARGEST_INTEGER = 999_999_999_999_999
"""Of Structured Fields: fifteen digits (RFC 9651, 3.3.1)."""


def a_key(limiter, throttle=None, quota=None, stages=(STAGE,), **more):
    """Make a plan of these limits and a key in it; return the key's value."""
    limiter.catalog.put_plan(UsagePlan("gold", throttle, quota, stages, **more))
    return limiter.catalog.create_key(plans=["gold"]).value


def fields(decision):
    """The two fields, parsed: [(name, parameters)] of RateLimit and of RateLimit-Policy."""
    headers = decision.headers()
    assert all(text.isascii() and text.isprintable() for text in headers.values())
    state, policy = (http_sf.parse(headers[name].encode(), tltype="list") for name in ("RateLimit", "RateLimit-Policy"))
    assert [name for name, _ in state] == [name for name, _ in policy] == [limit.name for limit in decision.limits]
    return state, policy


def test_an_allowed_request_is_told_of_every_limit(limiter):
    """All limits are listed in the order of the decision, and there is no Retry-After."""
    key = a_key(limiter, Throttle(10, 5), Quota(100, "DAY"))
    limiter.catalog.put_stage(Stage(STAGE, Throttle(2, 50)))
    limiter.catalog.set_account_throttle(Throttle(1000, 2000))
    decision = limiter.check(key, STAGE, METHOD)
    assert fields(decision) == (
        [
            ("plan:gold", {"r": 4, "t": 1}),
            ("stage:a/prod:*", {"r": 49, "t": 1}),
            ("account", {"r": 1999, "t": 1}),
            ("quota:gold", {"r": 99, "t": 43_200}),
        ],
        [
            ("plan:gold", {"q": 5, "w": 1}),
            ("stage:a/prod:*", {"q": 50, "w": 25}),
            ("account", {"q": 2000, "w": 2}),
            ("quota:gold", {"q": 100, "w": 86_400}),
        ],
    )
    assert set(decision.headers()) == {"RateLimit", "RateLimit-Policy"}


def test_a_throttled_request_is_told_when_to_come_back(limiter):
    """Retry-After is the wait in whole seconds; limits that would have admitted show what they have."""
    key = a_key(limiter, Throttle("0.4", 2), Quota(100, "DAY"))
    limiter.check(key, STAGE, METHOD, cost=2)
    decision = limiter.check(key, STAGE, METHOD)
    assert (decision.reason, decision.retry_after) == (Reason.THROTTLED, 2.5)
    assert decision.headers()["Retry-After"] == "3"
    assert fields(decision) == (
        [("plan:gold", {"r": 0, "t": 3}), ("quota:gold", {"r": 98, "t": 43_200})],
        [("plan:gold", {"q": 2, "w": 5}), ("quota:gold", {"q": 100, "w": 86_400})],
    )


@pytest.mark.parametrize(
    ("quota", "days", "wait"),
    [
        (Quota(1, "DAY"), 1, 43_200),
        (Quota(1, "WEEK"), 7, 302_400),
        (Quota(1, "MONTH"), 31, 27 * 86_400 + 43_200),
        (Quota(1, "MONTH", 14), 28, 10 * 86_400 + 43_200),
    ],
    ids=["day", "week", "March", "February 15 to March 14"],
)
def test_an_exhausted_quota_is_told_with_its_period(quota, days, wait, limiter):
    """`w` is the length of the window in force, a month's own; `t` and Retry-After end with it."""
    key = a_key(limiter, quota=quota)
    assert limiter.check(key, STAGE, METHOD).headers()["RateLimit"] == f'"quota:gold";r=0;t={wait}'
    decision = limiter.check(key, STAGE, METHOD)
    assert decision.reason is Reason.QUOTA_EXCEEDED
    assert decision.headers()["Retry-After"] == str(wait)
    assert fields(decision) == (
        [("quota:gold", {"r": 0, "t": wait})],
        [("quota:gold", {"q": 1, "w": days * 86_400})],
    )


@pytest.mark.parametrize("key", [None, "x" * 30], ids=["missing", "unknown"])
def test_an_invalid_key_gets_no_fields(key, limiter):
    """A 403 tells nothing about any limit."""
    a_key(limiter, Throttle(10, 5))
    decision = limiter.check(key, STAGE, METHOD)
    assert (decision.status, decision.headers()) == (403, {})


def test_a_plan_without_limits_gets_no_fields(limiter):
    """An unlimited request has no fields: there is nothing to tell."""
    assert limiter.check(a_key(limiter), STAGE, METHOD).headers() == {}


def test_a_request_that_cannot_be_decided_gets_no_fields(tmp_path):
    """A 503 tells nothing about limits, and no time: nobody knows when Redis answers again."""
    client = redis.Redis(unix_socket_path=str(tmp_path / "nobody"), retry=Retry(NoBackoff(), 0))
    decision = Limiter(client).check("x" * 30, STAGE, METHOD)
    assert (decision.status, decision.headers()) == (503, {})


NEVER = [
    ("rate 0", {"throttle": Throttle(0, 5)}, 1, {"r": 0}, {"q": 5}),
    ("burst 0", {"throttle": Throttle(10, 0)}, 1, {"r": 0}, {"q": 0, "w": 1}),
    ("quota 0", {"quota": Quota(0, "DAY")}, 1, {"r": 0}, {"q": 0, "w": 86_400}),
    ("cost above burst", {"throttle": Throttle(10, 5)}, 6, {"r": 5, "t": 0}, {"q": 5, "w": 1}),
    ("cost above quota", {"quota": Quota(5, "DAY")}, 6, {"r": 5, "t": 43_200}, {"q": 5, "w": 86_400}),
]


@pytest.mark.parametrize(("limits", "cost", "state", "policy"), [row[1:] for row in NEVER], ids=[r[0] for r in NEVER])
def test_what_never_passes_is_not_told_to_come_back(limits, cost, state, policy, limiter):
    """Where waiting cannot help there is no Retry-After, and what stays at nothing for ever has no `t`."""
    decision = limiter.check(a_key(limiter, **limits), STAGE, METHOD, cost)
    assert decision.retry_after is None
    assert "Retry-After" not in decision.headers()
    [(_, found_state)], [(_, found_policy)] = fields(decision)
    assert (found_state, found_policy) == (state, policy)


@pytest.mark.parametrize("path", ['/a"b', "/a\\b", '/\\"', '/"', "/a\\", "/{id}?x=1;y=2,z"])
def test_names_with_quotes_and_backslashes_are_escaped(path, limiter):
    """A method's name comes out of the parser as it went in, wherever it appears."""
    method = f"GET {path}"
    key = a_key(limiter, Throttle(10, 5), stages=[PlanStage(STAGE, {method: Throttle(1, 2)})])
    limiter.catalog.put_stage(Stage(STAGE, Throttle(1, 3)))
    state, policy = fields(limiter.check(key, STAGE, method))
    assert state == [(f"plan:gold:{method}", {"r": 1, "t": 1}), (f"stage:a/prod:{method}", {"r": 2, "t": 1})]
    assert policy == [(f"plan:gold:{method}", {"q": 2, "w": 2}), (f"stage:a/prod:{method}", {"q": 3, "w": 3})]


@pytest.mark.parametrize(
    ("rate", "burst", "cost", "wait_us"),
    [
        (10, 5, 1, 100_000),
        (1, 1, 1, 1_000_000),
        ("0.999999", 1, 1, 1_000_002),
        ("1.000001", 1, 1, 1_000_000),
        ("1/3", 1, 1, 3_000_000),
        ("3/7", 3, 1, 2_333_334),
        (0.1, 4, 4, 40_000_000),
        (1_000_003, 7, 7, 7),
        ("0.000001", 7_000, 7_000, 7_000_000_000_000_000),
    ],
)
def test_retry_after_is_the_truth_rounded_up(rate, burst, cost, wait_us, limiter, clock):
    """Retry-After is the exact wait, rounded up to a second: 1 us before that wait nobody passes, who obeys it does."""
    key = a_key(limiter, Throttle(rate, burst))
    limiter.check(key, STAGE, METHOD, cost=burst)
    decision = limiter.check(key, STAGE, METHOD, cost)
    seconds = -(-wait_us // 1_000_000)
    assert decision.retry_after == wait_us / 1_000_000
    assert decision.headers()["Retry-After"] == str(seconds)
    clock.advance_us(wait_us - 1)
    assert not limiter.check(key, STAGE, METHOD, cost)
    clock.advance_us(seconds * 1_000_000 - wait_us + 1)
    assert limiter.check(key, STAGE, METHOD, cost)


UNTIL = [
    # What is consumed: (microseconds to wait before, cost). Then `remaining`, and the truth that `t` rounds up.
    ("refuses, until it admits", Throttle(10, 5), [(0, 5), (0, 1)], 0, 100_000),
    ("refuses a larger cost, until it admits that", Throttle(1, 5), [(0, 4), (0, 3)], 1, 2_000_000),
    ("nothing left, until the next token", Throttle(0.1, 1), [(0, 1)], 0, 10_000_000),
    ("nothing left of many, until the next token", Throttle("1/7", 5), [(0, 5)], 0, 7_000_000),
    ("nothing left, and part of a token", Throttle("0.5", 3), [(0, 3), (2_500_000, 1)], 0, 1_500_000),
    (
        "nothing left, a third of a microsecond past a second",
        Throttle("3/7", 3),
        [(0, 2), (1_333_333, 1)],
        0,
        1_000_001,
    ),
    ("some left, until full", Throttle(1, 5), [(0, 2)], 3, 2_000_000),
    ("full", Throttle(1, 5), [(0, 1), (1_000_000, 0)], 5, 0),
]


@pytest.mark.parametrize(
    ("throttle", "consumed", "left", "until_us"), [u[1:] for u in UNTIL], ids=[u[0] for u in UNTIL]
)
def test_t_tells_for_how_long_no_more_can_be_used(throttle, consumed, left, until_us, limiter, clock):
    """`t` is until a refusing bucket admits, else until an empty one has a token, else until it is full: rounded up."""
    key = a_key(limiter, throttle)
    for wait_us, cost in consumed:
        clock.advance_us(wait_us)
        decision = limiter.check(key, STAGE, METHOD, cost)
    assert fields(decision)[0] == [("plan:gold", {"r": left, "t": -(-until_us // 1_000_000)})]
    if left == 0:
        clock.advance_us(until_us - 1)
        assert limiter.peek(key, STAGE, METHOD).limits[0].remaining == 0
        clock.advance_us(1)
        assert limiter.peek(key, STAGE, METHOD).limits[0].remaining == 1


@pytest.mark.parametrize(
    ("limits", "largest"),
    [({"quota": Quota(2**53 - 1, "DAY")}, 2**53 - 1), ({"throttle": Throttle(10**6, 2**52)}, 2**52)],
    ids=["quota", "burst"],
)
def test_numbers_too_long_for_the_fields_are_cut(limits, largest, limiter):
    """A limit of more than fifteen digits still makes fields that can be parsed."""
    decision = limiter.check(a_key(limiter, **limits), STAGE, METHOD)
    assert decision.limits[0].limit == largest
    [(_, state)], [(_, policy)] = fields(decision)
    assert (state["r"], policy["q"]) == (LARGEST_INTEGER, LARGEST_INTEGER)
