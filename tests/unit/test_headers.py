"""HTTP fields of decisions, read back with a parser of Structured Fields that is not ours."""

import json

import http_sf
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ratelimit import Decision, Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan

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
    ("refuses, until the next token", Throttle(10, 5), [(0, 5), (0, 1)], 0, 100_000),
    ("refuses a larger cost, until the next token", Throttle(1, 5), [(0, 4), (0, 3)], 1, 1_000_000),
    ("refuses what it never admits, until the next token", Throttle(1, 5), [(0, 4), (0, 6)], 1, 1_000_000),
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
    ("some left, until the next token", Throttle(1, 5), [(0, 2)], 3, 1_000_000),
    ("some left, and most of a token", Throttle("1/10", 5), [(0, 2), (9_000_000, 1)], 2, 1_000_000),
    ("all but one left, until full", Throttle("1/10", 5), [(0, 1)], 4, 10_000_000),
    ("full", Throttle(1, 5), [(0, 1), (1_000_000, 0)], 5, 0),
]


@pytest.mark.parametrize(
    ("throttle", "consumed", "left", "until_us"), [u[1:] for u in UNTIL], ids=[u[0] for u in UNTIL]
)
def test_t_tells_when_there_is_more(throttle, consumed, left, until_us, limiter, clock):
    """`t` is until the bucket has a token more than `r`, rounded up; 1 us before there are as many as `r` says."""
    key = a_key(limiter, throttle)
    for wait_us, cost in consumed:
        clock.advance_us(wait_us)
        decision = limiter.check(key, STAGE, METHOD, cost)
    assert fields(decision)[0] == [("plan:gold", {"r": left, "t": -(-until_us // 1_000_000)})]
    if left < throttle.burst:
        clock.advance_us(until_us - 1)
        assert limiter.peek(key, STAGE, METHOD).limits[0].remaining == left
        clock.advance_us(1)
        assert limiter.peek(key, STAGE, METHOD).limits[0].remaining == left + 1


def test_t_is_the_same_whatever_is_left(limiter):
    """A token each ten seconds: whoever has four, three, two, one or none has one more in ten seconds."""
    key = a_key(limiter, Throttle("1/10", 5))
    headers = [fields(limiter.check(key, STAGE, METHOD))[0] for _ in range(6)]
    assert headers == [[("plan:gold", {"r": left, "t": 10})] for left in (4, 3, 2, 1, 0, 0)]


def test_t_of_a_quota_is_the_end_of_its_window(limiter):
    """Half a day, whatever is left of it, and when nothing is."""
    key = a_key(limiter, quota=Quota(2, "DAY"))
    headers = [fields(limiter.check(key, STAGE, METHOD))[0] for _ in range(3)]
    assert headers == [[("quota:gold", {"r": left, "t": 43_200})] for left in (1, 0, 0)]


@pytest.mark.parametrize("lease", [0, 1.0])
def test_the_policy_is_the_same_for_all_decisions_about_a_request(lease, backend, clock):
    """Admitted as a first and as a usual request, leased, denied by Redis and from memory, only asked about."""
    client = backend.client()
    with Limiter(client, clock=clock) as limiter:
        limiter._namespace.before_refresh = lambda: None
        stage = Stage(STAGE, Throttle(1000, 4000), {METHOD: Method(Throttle(1000, 3000))})
        limiter.catalog.put_stage(stage)
        limiter.catalog.set_account_throttle(Throttle("1/7", 2000))
        plan = UsagePlan("gold", Throttle("1/10", 1000), Quota(10_000, "MONTH"), [STAGE], lease=lease)
        limiter.catalog.put_plan(plan)
        key = limiter.catalog.create_key(plans=["gold"]).value
        policies, sources = set(), set()
        for _ in range(30):
            clock.advance_us(1000)
            for decision in (limiter.check(key, STAGE, METHOD), limiter.peek(key, STAGE, METHOD, 3)):
                policies.add(decision.headers()["RateLimit-Policy"])
                sources.add((decision.source, decision.allowed))
        for cost in (1001, 900, 900, 900, 900, 20_000):
            decision = limiter.check(key, STAGE, METHOD, cost)
            policies.add(decision.headers()["RateLimit-Policy"])
            sources.add((decision.source, decision.allowed))
            assert [limit.name for limit in decision.limits] == [
                "plan:gold",
                f"stage:{STAGE}:{METHOD}",
                "account",
                "quota:gold",
            ]
        assert len(policies) == 1
        wanted = {("redis", True), ("redis", False)}
        assert sources == wanted | ({("lease", True)} if lease else {("denial_cache", False)})
    client.close()


@pytest.mark.parametrize(
    ("limits", "cost", "violated"),
    [
        ({"throttle": Throttle(10, 5)}, 6, ["plan:gold"]),
        ({"throttle": Throttle(10, 9), "quota": Quota(5, "DAY")}, 6, ["quota:gold"]),
        ({"throttle": Throttle(10, 5), "quota": Quota(5, "DAY")}, 6, ["plan:gold", "quota:gold"]),
    ],
)
def test_a_problem_names_what_was_violated(limits, cost, violated, limiter):
    """As the draft's problem type has it, from Redis and from memory; ready for JSON."""
    key = a_key(limiter, **limits)
    assert limiter.check(key, STAGE, METHOD).problem() is None
    for _ in range(3):
        problem = json.loads(json.dumps(limiter.check(key, STAGE, METHOD, cost).problem()))
        assert problem == {
            "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "title": "The request exceeds what its caller may use",
            "status": 429,
            "violated-policies": violated,
        }


def test_a_problem_says_nothing_of_why_a_key_is_not_accepted(limiter):
    """One answer for all: 403."""
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, ["other/prod"]))
    key = limiter.catalog.create_key(plans=["gold"]).value
    problems = [limiter.check(one, STAGE, METHOD).problem() for one in (None, "no-key-of-this-namespace", key)]
    assert problems == [{"type": "about:blank", "title": "Forbidden", "status": 403}] * 3


def test_a_problem_of_a_store_that_does_not_answer():
    """503, with the draft's type for less capacity than usual."""
    problem = Decision(Reason.UNAVAILABLE, source="fail_closed", cause="unknown").problem()
    assert problem == {
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "The request cannot be decided on at present",
        "status": 503,
    }


def test_a_decision_as_a_dict(limiter):
    """Plain values for a log, without a key's value."""
    key = a_key(limiter, Throttle(10, 5))
    limiter.check(key, STAGE, METHOD, 5)
    data = limiter.check(key, STAGE, METHOD).as_dict()
    assert key not in json.dumps(data)
    assert data == {
        "allowed": False,
        "reason": "THROTTLED",
        "status": 429,
        "detail": None,
        "limited_by": "plan:gold",
        "retry_after": 0.1,
        "limits": [
            {
                "name": "plan:gold",
                "limit": 5,
                "remaining": 0,
                "reset_after": 0.5,
                "retry_after": 0.1,
                "window": 0.5,
            }
        ],
        "source": "redis",
        "degraded": False,
        "time_us": 1_772_625_600_000_000,
        "cause": None,
        "error": None,
    }


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
