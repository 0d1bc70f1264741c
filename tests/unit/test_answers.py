"""What is replied: fields in each dialect, problems, and what scripts of other origins may read. Marks on functions."""

import functools
import json

import pytest

from ratelimit import ConfigError, Decision, LimitStatus, Reason
from ratelimit.integrations import answers
from ratelimit.integrations.marks import UNMARKED, Marks, cost, exempt, marks_of

BUCKET = LimitStatus("plan:gold", 5, 3, 0.4, 0.0, 1.0)
QUOTA = LimitStatus("quota:gold", 1000, 7, 3600.25, 0.0, 86_400.0)
EMPTY = LimitStatus("plan:gold", 5, 0, 25.0, 5.000001, 25.0)
NEVER = LimitStatus("stage:a/prod:*", 4, 4, None, None, None)
ALLOWED = Decision(Reason.ALLOWED, limits=(QUOTA, BUCKET))
DENIED = Decision(Reason.THROTTLED, "plan:gold", 5.000001, (EMPTY, QUOTA))


@pytest.mark.parametrize(
    ("dialect", "decision", "fields"),
    [
        (
            "ietf",
            DENIED,
            {
                "Retry-After": "6",
                "RateLimit": '"plan:gold";r=0;t=5, "quota:gold";r=7;t=3601',
                "RateLimit-Policy": '"plan:gold";q=5;w=25, "quota:gold";q=1000;w=86400',
            },
        ),
        (
            "legacy",
            DENIED,
            {"Retry-After": "6", "X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "5"},
        ),
        (
            "legacy",
            ALLOWED,
            {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1"},
        ),
        (
            "openai",
            DENIED,
            {
                "Retry-After": "6",
                "x-ratelimit-limit-requests": "5",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "25s",
            },
        ),
        (
            "openai",
            Decision(Reason.ALLOWED, limits=(QUOTA,)),
            {
                "x-ratelimit-limit-requests": "1000",
                "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-requests": "1h0m1s",
            },
        ),
        (
            "legacy",
            Decision(Reason.THROTTLED, "stage:a/prod:*", None, (EMPTY, NEVER)),
            {"X-RateLimit-Limit": "4", "X-RateLimit-Remaining": "4"},
        ),
        ("openai", Decision(Reason.ALLOWED, limits=(NEVER,)), dict.fromkeys(
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests"], "4"
        )),
        ("none", DENIED, {"Retry-After": "6"}),
        ("none", ALLOWED, {}),
        ("legacy", Decision(Reason.INVALID_KEY), {}),
        ("openai", Decision(Reason.UNAVAILABLE), {}),
    ],
)  # fmt: skip
def test_fields_in_each_dialect(dialect, decision, fields):
    """One limit in those that have room for one: what denies for longest, else what has least left."""
    assert decision.headers(dialect) == fields


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0000001, "0ms"),
        (0.000001, "1ms"),
        (0.12, "120ms"),
        (0.9999999, "1s"),
        (1.5, "1.5s"),
        (59.999, "59.999s"),
        (59.9999, "1m0s"),
        (360.0, "6m0s"),
        (86_399.5, "24h0m0s"),
        (82_805.0, "23h0m5s"),
    ],
)
def test_durations(seconds, text):
    """As programs for OpenAI's API read them; never shorter than the time is."""
    limit = LimitStatus("account", 1, 0, seconds, 0.0, 1.0)
    assert Decision(Reason.ALLOWED, limits=(limit,)).headers("openai")["x-ratelimit-reset-requests"] == text


@pytest.mark.parametrize("dialect", answers.DIALECTS)
def test_what_is_exposed_is_what_is_sent(dialect):
    """The names for other origins are those of the fields of a decision that denies, whatever the dialect."""
    assert answers.names_in(answers.exposed(dialect)) == {name.lower() for name in DENIED.headers(dialect)}
    assert answers.unexposed(dialect, DENIED.headers(dialect)) == []


@pytest.mark.parametrize(
    ("present", "value"),
    [
        ("", "Retry-After, RateLimit, RateLimit-Policy"),
        ("X-Total", "X-Total, Retry-After, RateLimit, RateLimit-Policy"),
        ("ratelimit, X-Total", "ratelimit, X-Total, Retry-After, RateLimit-Policy"),
        ("*", "*"),
        ("Retry-After,RateLimit,RateLimit-Policy", "Retry-After,RateLimit,RateLimit-Policy"),
    ],
)
def test_names_are_added_to_those_of_the_application(present, value):
    """Each once, in whatever case."""
    assert answers.exposed("ietf", present) == value


def test_what_a_list_lacks():
    """For a warning; an asterisk is all of them."""
    assert answers.unexposed("ietf", ["X-Total", "RATELIMIT"]) == ["Retry-After", "RateLimit-Policy"]
    assert answers.unexposed("ietf", ["*"]) == []


@pytest.mark.parametrize(
    ("decision", "status", "kind"),
    [
        (DENIED, 429, "https://iana.org/assignments/http-problem-types#quota-exceeded"),
        (Decision(Reason.INVALID_KEY, detail="unknown"), 403, "about:blank"),
        (
            Decision(Reason.UNAVAILABLE, error="secret", source="fail_closed"),
            503,
            "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        ),
    ],
)
def test_an_answer_that_denies(decision, status, kind):
    """Problem+json with its fields; HEAD gets the same without the body."""
    answer = answers.denial(decision)
    body = json.loads(answer.body)
    assert (answer.status, body["status"], body["type"]) == (status, status, kind)
    assert "secret" not in answer.body.decode()
    assert "unknown" not in answer.body.decode()
    assert answer.fields == {
        "Content-Type": "application/problem+json",
        "Content-Length": str(len(answer.body)),
        **decision.headers(),
    }
    assert answers.denial(decision, has_body=False) == answer._replace(body=b"")


def test_an_unknown_dialect():
    """The error lists those that there are."""
    with pytest.raises(ConfigError, match="headers: must be one of ietf, legacy, openai, none, not 'github'"):
        answers.validate_dialect("github")


def test_marks_on_functions():
    """They add up, in any order, and stay through decorators that keep attributes."""

    def view():
        return 1

    assert marks_of(view) == UNMARKED == Marks(1, exempt=False)
    assert cost(5)(view) is view
    assert marks_of(view) == Marks(5, exempt=False)
    assert marks_of(exempt(view)) == Marks(5, exempt=True)

    @functools.wraps(view)
    def wrapped():
        return view()

    assert marks_of(wrapped) == marks_of(functools.partial(functools.partial(view))) == Marks(5, exempt=True)


def test_marks_of_the_first_that_has_some():
    """As of a method of a class before those of the class."""

    class View:
        @cost(2)
        def get(self):
            """Costs more than others."""

        def post(self):
            """Costs what the class says."""

    cost(7)(View)
    assert marks_of(View.get, View) == Marks(2)
    assert marks_of(View().get, View) == Marks(2)
    assert marks_of(View.post, View) == Marks(7)
    assert marks_of(None, View.post) == UNMARKED


@pytest.mark.parametrize("units", [0, -1, 1.5, True, "5", None])
def test_a_cost_that_cannot_be(units):
    """It is refused where it is written."""
    with pytest.raises(ConfigError, match="cost: must be"):
        cost(units)


def test_what_takes_no_marks():
    """The error says what to mark instead."""
    with pytest.raises(ConfigError, match="mark the function itself"):
        exempt(len)
