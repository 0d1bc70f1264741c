"""Arguments that no caller should send: a clear answer or error, and no trace in Redis."""

from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction

import fakeredis
import pytest
from helpers.gateway import GET_PETS, HEALTH, METHODS, VALUES, A, B, Gateway, exceeded, invalid, outcome
from helpers.gateway import STAGES as WITHOUT_THROTTLE
from helpers.gateway import throttled as throttled_by
from helpers.redis_snapshot import snapshot_without_denials

from ratelimit import Limiter, Quota, Stage, Throttle, UsagePlan

STAGES = (Stage(A, Throttle(50, 50), METHODS), WITHOUT_THROTTLE[1])
TEXTS = [
    "",
    " ",
    "*",
    ":",
    "\0",
    "a/prod\0",
    "{}",
    "{a/prod}",
    "a/prod\n",
    "A/PROD",
    "a/prod:GET /pets",
    "GET /pets\n",
    "GET /pets\r\nSET x 1",
    "get /pets",
    "GET /health ",
    "GET /{",
    "GET /café",
    "\ud800",
    "GET /\udfff",
    "x" * 10_240,
]


@pytest.fixture
def gateway(limiter, backend, clock):
    """Limits of every kind for k1: plan, stage, account, quota."""
    return Gateway(limiter, backend.client(), clock, stages=STAGES)


@pytest.fixture
def local(clock):
    """The same in one place alone: for what is refused before Redis is asked."""
    client = fakeredis.FakeRedis()
    with Limiter(client, deadline=5, clock=clock) as limiter:
        yield Gateway(limiter, client, clock, stages=STAGES)


@contextmanager
def untouched(gateway):
    """Fail if Redis is not left as it was."""
    before = snapshot_without_denials(gateway.client)
    yield
    assert snapshot_without_denials(gateway.client) == before


@pytest.mark.parametrize(
    ("cost", "error"),
    [
        (-1, ValueError),
        (-(10**30), ValueError),
        (0.5, TypeError),
        (1.0, TypeError),
        (float("nan"), TypeError),
        (float("inf"), TypeError),
        (True, TypeError),
        (False, TypeError),
        ("1", TypeError),
        (b"1", TypeError),
        (None, TypeError),
        ([1], TypeError),
        (Decimal(1), TypeError),
        (Fraction(1, 2), TypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize("who", ["k1", None, "x" * 30], ids=["key", "no key", "unknown key"])
def test_a_cost_that_is_no_whole_number_is_refused(cost, error, who, local):
    """A wrong cost is the programmer's error: it raises, says what would do, whoever calls."""
    with untouched(local), pytest.raises(error, match="cost must be a whole number >= 0") as caught:
        local.check(who, GET_PETS, cost)
    assert type(caught.value) is error


@pytest.mark.parametrize("cost", [2**53 - 1, 2**53, 2**64, 10**30, 10**5000], ids=lambda cost: f"2^{cost.bit_length()}")
@pytest.mark.parametrize(
    ("who", "where", "world", "expected"),
    [
        ("k1", GET_PETS, {}, throttled_by("plan:gold")),
        (None, HEALTH, {"stages": STAGES}, throttled_by("stage:a/prod:GET /health")),
        (None, HEALTH, {}, throttled_by("account")),
        ("k1", GET_PETS, {"plans": (UsagePlan("gold", None, Quota(9, "DAY"), [A]),)}, throttled_by("account")),
        (
            "k1",
            GET_PETS,
            {"plans": (UsagePlan("gold", None, Quota(2**53 - 2, "DAY"), [A]),), "account": None},
            exceeded("quota:gold"),
        ),
    ],
    ids=["plan", "stage", "account", "account before quota", "quota"],
)
def test_a_cost_above_every_limit_can_never_pass(cost, who, where, world, expected, limiter, backend, clock):
    """However large a cost is, it is refused by the first limit, with no time to wait, and nothing is consumed."""
    gateway = Gateway(limiter, backend.client(), clock, **world)
    with untouched(gateway):
        assert outcome(gateway.check(who, where, cost)) == expected


def test_a_huge_cost_without_limits_keeps_the_meter_exact(limiter, backend, clock):
    """Metering stops at the largest whole number that is exact, whatever is asked of a plan that limits nothing."""
    free = UsagePlan("free", stages=[A])
    gateway = Gateway(limiter, backend.client(), clock, plans=(free,), account=None, keys={"k1": ["free"]})
    assert gateway.check("k1", GET_PETS, 5)
    assert gateway.used("k1", "free") == 5
    for _ in range(2):
        assert gateway.check("k1", GET_PETS, 10**30)
        assert gateway.used("k1", "free") == 2**53 - 1


KEYS = [
    *filter(None, TEXTS),
    "x" * 19,
    "x" * 129,
    VALUES["k1"] + "\n",
    VALUES["k1"] + " ",
    "\0" + VALUES["k1"],
    VALUES["k1"] + "\ud800",
    VALUES["k1"].replace("K", "\u212a"),  # the Kelvin sign, whose lower case is "k"
    "{" * 30,
    "rl_live_" + "*" * 30,
    "EVAL 'return 1' 0                  ",
]


def test_any_text_as_key_is_answered(gateway):
    """A text that is no key's value is a plain 403."""
    with untouched(gateway):
        for key in KEYS:
            assert outcome(gateway.check(key, GET_PETS)) == invalid("unknown"), key
            assert outcome(gateway.check(key, (key, key))) == invalid("unknown"), key
        for nothing in (None, ""):
            assert outcome(gateway.check(nothing, GET_PETS)) == invalid("missing")


@pytest.mark.parametrize(("who", "detail"), [("k1", "no_plan_for_stage"), (None, "missing"), ("x" * 30, "unknown")])
def test_any_text_as_stage_is_answered(who, detail, gateway):
    """A stage that nobody configured is open to no key, and gets nothing in Redis."""
    with untouched(gateway):
        for stage in TEXTS:
            assert outcome(gateway.check(who, (stage, "GET /pets"))) == invalid(detail), stage
            assert outcome(gateway.check(who, (stage, stage))) == invalid(detail), stage


@pytest.mark.parametrize("scope", ["key", "key_method"])
def test_any_text_as_method_shares_one_bucket(scope, limiter, backend, clock):
    """All methods that nobody lists are one: callers cannot mint state, nor read their text in an answer."""
    plan = UsagePlan("gold", Throttle(50, 50), Quota(100, "DAY"), [A, B], throttle_scope=scope)
    gateway = Gateway(limiter, backend.client(), clock, plans=(plan,), stages=STAGES)
    assert gateway.check("k1", (A, "GET /unlisted"))
    keys, fields = set(snapshot_without_denials(gateway.client)), set(gateway.hash_of("k1"))
    for used, method in enumerate(TEXTS, start=2):
        decision = gateway.check("k1", (A, method))
        assert decision.allowed
        assert [(limit.name, limit.limit - limit.remaining) for limit in decision.limits] == [
            ("plan:gold" if scope == "key" else "plan:gold:*", used),
            ("stage:a/prod:*", used),
            ("account", used),
            ("quota:gold", used),
        ]
    assert (set(snapshot_without_denials(gateway.client)), set(gateway.hash_of("k1"))) == (keys, fields)


@pytest.mark.parametrize("method", ["GET /health ", "GET /health\n", "get /health", "GET /health/", " GET /health"])
def test_only_the_very_method_is_open(method, local):
    """A method without a key is open under its exact name alone."""
    with untouched(local):
        assert outcome(local.check(None, (A, method))) == invalid("missing")


NOT_TEXT = [b"x" * 30, b"", 5, 0, 1.5, True, False, [], ["x"], {}, object()]


@pytest.mark.parametrize("value", NOT_TEXT, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("place", ["key", "stage", "method"])
def test_what_is_no_text_is_refused(value, place, local):
    """Anything but text is the programmer's error, and named; only None stands for a key that was not sent."""
    arguments = {"key": VALUES["k1"], "stage": A, "method": "GET /pets", place: value}
    wanted = "text, an Identity or None" if place == "key" else "text"
    with untouched(local), pytest.raises(TypeError, match=f"{place} must be {wanted}, not {type(value).__name__}"):
        local.limiter.check(**arguments)


@pytest.mark.parametrize("place", ["stage", "method"])
def test_stage_and_method_are_needed(place, local):
    """None as stage or method is refused."""
    arguments = {"key": VALUES["k1"], "stage": A, "method": "GET /pets", place: None}
    with untouched(local), pytest.raises(TypeError, match=f"{place} must be text, not NoneType"):
        local.limiter.check(**arguments)


def test_the_gateway_of_these_tests_has_every_kind_of_limit(gateway):
    """A plain request is admitted by all four: what is refused above is refused for what it sends."""
    decision = gateway.check("k1", GET_PETS)
    assert decision.allowed
    assert [limit.name.split(":")[0] for limit in decision.limits] == ["plan", "stage", "account", "quota"]
