"""Plan files and the JSON in Redis: what they say, and how they are refused."""

import json
import tomllib
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import ConfigError, Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.catalog.files import read_plan_file
from ratelimit.registry import plan_documents
from ratelimit.registry.lazy_documents import DocumentSummary

FULL = """
[account]
rate = 10_000
burst = 5_000

[stages."petstore/prod"]
throttle = { rate = 100, burst = 50 }
unlisted = "deny"
on_unavailable = "closed"

[stages."petstore/prod".methods]
"GET /pets" = { throttle = { rate = 0.5, burst = 2 } }
"GET /health" = { key_required = false }

[plans.gold]
name = "Gold, for partners"
throttle = { rate = 0.1, burst = 5 }
quota = { limit = 1000, period = "WEEK", offset = 1 }
throttle_scope = "key_method"
alerts = [80, 100]
shadow = "free"
max_identities = 10_000
on_unavailable = "open"

[plans.gold.stages."petstore/prod".throttles]
"GET /pets/{id}" = { rate = "1/3", burst = 1 }

[plans.gold.stages."petstore/test"]

[plans.free]
stages = ["petstore/dev"]
"""


def read(tmp_path, text):
    path = tmp_path / "plans.toml"
    path.write_text(text, encoding="utf-8")
    return read_plan_file(path)


def test_a_plan_file_says_all_of_the_model(tmp_path):
    """Every field of the format arrives in the model, exact: 0.1 is one tenth."""
    document = read(tmp_path, FULL)
    assert document.account == Throttle(10_000, 5000)
    assert document.stages == {
        "petstore/prod": Stage(
            "petstore/prod",
            Throttle(100, 50),
            {"GET /pets": Method(Throttle(Fraction(1, 2), 2)), "GET /health": Method(key_required=False)},
            "deny",
            "closed",
        )
    }
    special = PlanStage("petstore/prod", {"GET /pets/{id}": Throttle(Fraction(1, 3), 1)})
    assert document.plans == {
        "gold": UsagePlan(
            "gold",
            Throttle(Fraction(1, 10), 5),
            Quota(1000, "WEEK", 1),
            [special, "petstore/test"],
            "Gold, for partners",
            "key_method",
            [80, 100],
            "free",
            max_identities=10_000,
            on_unavailable="open",
        ),
        "free": UsagePlan("free", stages=["petstore/dev"]),
    }


@pytest.mark.parametrize(
    ("written", "rate"),
    [
        ("0.1", Fraction(1, 10)),
        ("0.3", Fraction(3, 10)),
        ("1e-1", Fraction(1, 10)),
        ("1_000.25", Fraction(4001, 4)),
        ("10", Fraction(10)),
        ("10.0", Fraction(10)),
        ("'2/3'", Fraction(2, 3)),
        ("0.30000000000", Fraction(3, 10)),
        ("1.00000000000000001e3", None),
    ],
)
def test_a_rate_is_taken_as_it_is_written(tmp_path, written, rate):
    """No float comes between the file and the fraction: more digits than a float has are seen, and too many told."""
    text = f"[account]\nrate = {written}\nburst = 1"
    if rate is None:
        with pytest.raises(ConfigError, match="cannot be computed exactly"):
            read(tmp_path, text)
    else:
        assert read(tmp_path, text).account.rate == rate


def test_an_empty_file_says_nothing(tmp_path):
    """No plans, no stages, no account throttle."""
    assert read(tmp_path, "") == plan_documents.Document()


BAD = [
    ("plan = {}", "plan", "is not a field here: did you mean 'plans'?"),
    ("colour = 1", "colour", "is not a field here: known are plans, stages, account"),
    ("plans = 1", "plans", "must be a table, not 1"),
    ("[plans]\ngold = 1", "plans.gold", "must be a table, not 1"),
    ('[plans."a b"]', 'plans."a b".id', "cannot be 'a b': use 1 to 128 letters"),
    ("[plans.gold]\nthrotle = {}", "plans.gold.throtle", "did you mean 'throttle'?"),
    ("[plans.gold]\nthrottle = 5", "plans.gold.throttle", "must be a table, not 5"),
    ("[plans.gold.throttle]\nrate = 1", "plans.gold.throttle.burst", "is missing: add it"),
    ("[plans.gold.throttle]\nburst = 1", "plans.gold.throttle.rate", "is missing: add it"),
    ("[plans.gold.throttle]\nrate = -1\nburst = 1", "plans.gold.throttle.rate", "must not be negative, got -1"),
    ("[plans.gold.throttle]\nrate = nan\nburst = 1", "plans.gold.throttle.rate", "a finite rate, not NaN"),
    ("[plans.gold.throttle]\nrate = true\nburst = 1", "plans.gold.throttle.rate", "must be a rate, not True"),
    ("[plans.gold.throttle]\nrate = 1\nburst = 1.5", "plans.gold.throttle.burst", "must be a whole number, not 1.5"),
    ("[plans.gold.throttle]\nrate = 1\nburst = -1", "plans.gold.throttle.burst", "must be from 0 to 9007199254740991"),
    ("[plans.gold.throttle]\nrate = 1e-9\nburst = 10000", "plans.gold.throttle.rate", "give the rate fewer digits"),
    ("[plans.gold.quota]\nlimit = 1", "plans.gold.quota.period", "is missing: add it"),
    ('[plans.gold.quota]\nperiod = "DAY"', "plans.gold.quota.limit", "is missing: add it"),
    ('[plans.gold.quota]\nlimit = 1\nperiod = "HOUR"', "plans.gold.quota.period", "must be one of DAY, WEEK, MONTH"),
    (
        '[plans.gold.quota]\nlimit = 1\nperiod = "WEEK"\noffset = 7',
        "plans.gold.quota.offset",
        "must be from 0 to 6, not 7 (days, for the period WEEK)",
    ),
    ("[plans.gold]\nstages = 1", "plans.gold.stages", "must be a list of stages, not 1"),
    ('[plans.gold]\nstages = ["prod"]', "plans.gold.stages", "cannot be 'prod': write '<api>/<stage>'"),
    ('[plans.gold]\nstages = ["a/b", "a/b"]', "plans.gold.stages", "lists 'a/b' twice: merge the two entries"),
    ('[plans.gold.stages."a/b"]\nmethods = {}', 'plans.gold.stages."a/b".methods', "known are throttles"),
    (
        '[plans.gold.stages."a/b".throttles]\n"GET /" = 1',
        'plans.gold.stages."a/b".throttles."GET /"',
        "must be a table, not 1",
    ),
    (
        '[plans.gold]\nthrottle = {rate = 1, burst = 1}\nstages."a/b".throttles."GET /*" = {rate = 1, burst = 1}',
        'plans.gold.stages."a/b".throttles',
        "without wildcards: methods not listed share one bucket",
    ),
    (
        '[plans.gold.stages."a/b".throttles]\n"GET /" = {rate = 1, burst = 1}',
        "plans.gold.throttle",
        "a plan with method throttles needs a throttle of its own: add one",
    ),
    ('[plans.gold]\nthrottle_scope = "method"', "plans.gold.throttle_scope", "must be one of key, key_method"),
    ("[plans.gold]\nname = 1", "plans.gold.name", "must be text, not 1"),
    ("[plans.gold]\nname = 1.5", "plans.gold.name", "must be text"),
    ("[plans.gold]\nalerts = [80]", "plans.gold.alerts", "are about a quota, and the plan has none: add one"),
    ('[plans.gold]\nshadow = "gold"', "plans.gold.shadow", "must be another plan"),
    ("[stages.prod]", "stages.prod.id", "cannot be 'prod': write '<api>/<stage>'"),
    ('[stages."a/b"]\nquota = {}', 'stages."a/b".quota', "is not a field here: known are throttle, methods"),
    ('[stages."a/b"]\nunlisted = "denied"', 'stages."a/b".unlisted', "must be one of limit, deny, not 'denied'"),
    (
        '[stages."a/b"]\non_unavailable = "503"',
        'stages."a/b".on_unavailable',
        "must be one of local, open, closed, not '503'",
    ),
    (
        "[plans.gold]\non_unavailable = true",
        "plans.gold.on_unavailable",
        "must be one of local, open, closed",
    ),
    ('[stages."a/b"]\nunlisted = true', 'stages."a/b".unlisted', "must be one of limit, deny, not True"),
    ('[stages."a/b"]\nmethods = []', 'stages."a/b".methods', "must be a table, not []"),
    (
        '[stages."a/b".methods."GET /"]\nkey_required = "no"',
        'stages."a/b".methods."GET /".key_required',
        "must be true or false, not 'no'",
    ),
    ('[stages."a/b".methods."GET /".throttle]\nrate = 1', 'stages."a/b".methods."GET /".throttle.burst', "is missing"),
    ("[account]\nrate = 1", "account.burst", "is missing: add it"),
    ("account = 5", "account", "must be a table, not 5"),
    ("[plans.gold.throttle]\nrate = 1e99999999999999999999\nburst = 1", "", "a number whose exponent is too large"),
    ('[plans]\ngold = {lease = "1", quota = ' + "[" * 3000, "", ""),  # deeper than Python goes
    (f"[plans.gold]\nlease = 1{'0' * 400}", "plans.gold.lease", "must be 0 (none) or 0.001 to 1.0 seconds"),
    ("[plans.gold\n", "", "is not TOML: "),
    ("[plans.gold]\n[plans.gold]", "", "is not TOML: "),
    (f"[account]\nrate = 1\nburst = {'1' * 5000}", "", ""),  # more digits than Python reads
]


@pytest.mark.parametrize(("text", "path", "message"), BAD, ids=lambda item: str(item)[:40])
def test_a_bad_plan_file_is_refused_with_path_and_remedy(tmp_path, text, path, message):
    """The error names the file, the field inside it, what it found and what to do."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    file = tmp_path / "plans.toml"
    assert caught.value.field == str(file)
    assert str(caught.value).startswith(f"{file}: {path}: " if path else f"{file}: ")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """Missing, a folder, not UTF-8: a ConfigError with the path."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "\xff"')
    for path in (tmp_path / "missing.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match="cannot be read: ") as caught:
            read_plan_file(path)
        assert caught.value.field == str(path)


RATES = st.one_of(
    st.fractions(0, 10**6, max_denominator=10**4), st.sampled_from([0, Fraction(1, 10), Fraction(1, 3), 2500])
)
THROTTLES = st.builds(Throttle, RATES, st.integers(0, 1000))
METHODS = st.sampled_from(["GET /", "GET /pets", "POST /pets/{id}", 'PUT /say"it"'])
STAGES = st.sampled_from(["a/b", "petstore/prod", "x.y/z~1"])
PERIODS = st.sampled_from([("DAY", 0), ("WEEK", 0), ("WEEK", 6), ("MONTH", 27)])
QUOTAS = st.builds(lambda limit, period: Quota(limit, *period), st.integers(0, 2**53 - 1), PERIODS)


POLICIES = st.sampled_from([None, "local", "open", "closed"])


@st.composite
def plans(draw):
    throttle, quota = draw(st.none() | THROTTLES), draw(st.none() | QUOTAS)
    listed = st.dictionaries(METHODS, THROTTLES, max_size=2) if throttle else st.just({})
    return UsagePlan(
        draw(st.sampled_from(["gold", "A.1-b_c~d"])),
        throttle,
        quota,
        [PlanStage(stage, draw(listed)) for stage in draw(st.lists(STAGES, unique=True))],
        draw(st.sampled_from(["", "Gold", "Größe — 金", '"quoted" \\ back'])),
        draw(st.sampled_from(["key", "key_method"])),
        draw(st.lists(st.integers(1, 100), max_size=3)) if quota else (),
        draw(st.none() | st.just("other")),
        draw(st.sampled_from([0, 0.5])),
        draw(st.sampled_from([None, 0, 2**30])),
        draw(POLICIES),
    )


@given(plans())
@settings(deadline=None)
def test_a_plan_survives_redis(plan):
    """What is written as JSON reads back as the same plan."""
    text = plan_documents.plan_json(plan)
    assert plan_documents.plan_from_json(plan.id, text) == plan
    assert plan_documents.plan_summary(plan.id, text) == DocumentSummary.of_plan(plan)


METHOD_MODELS = st.builds(
    lambda throttle, needs: Method(throttle, key_required=needs), st.none() | THROTTLES, st.booleans()
)


@given(
    STAGES,
    st.none() | THROTTLES,
    st.dictionaries(METHODS, METHOD_MODELS, max_size=3),
    st.sampled_from(["limit", "deny"]),
    POLICIES,
)
@settings(deadline=None)
def test_a_stage_survives_redis(stage_id, throttle, methods, unlisted, policy):
    """What is written as JSON reads back as the same stage."""
    stage = Stage(stage_id, throttle, methods, unlisted, policy)
    text = plan_documents.stage_json(stage)
    assert plan_documents.stage_from_json(stage_id, text) == stage
    assert plan_documents.stage_summary(stage_id, text) == DocumentSummary.of_stage(stage)


@given(THROTTLES)
def test_a_throttle_survives_redis(throttle):
    """Its rate is written as a fraction, so nothing is rounded."""
    assert plan_documents.throttle_from_json(plan_documents.throttle_json(throttle)) == throttle


def toml(value):
    """JSON data as an inline value of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


@given(plans())
@settings(deadline=None)
def test_a_plan_survives_a_plan_file(plan):
    """The JSON in Redis has the structure of the plan file: as TOML it says the same plan."""
    text = f'[plans]\n"{plan.id}" = {toml(json.loads(plan_documents.plan_json(plan)))}'
    assert plan_documents.document_from(tomllib.loads(text, parse_float=Decimal)).plans == {plan.id: plan}
