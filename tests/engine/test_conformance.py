"""The conformance matrix: throttles (T..) and the control plane (C..). Keys and quotas are in files of their own.

T22 (many callers at once, in eight processes) is in tests/properties/test_concurrency.py. C06 to C08 are about the
import of keys from CSV.
"""

import pytest
from helpers.gateway import (
    DAILY,
    GET_PETS,
    GET_X,
    GOLD,
    HEALTH,
    METHODS,
    OK,
    POST_PETS,
    STAGES,
    TEN_FIVE,
    VALUES,
    A,
    B,
    Gateway,
    call,
    case,
    ids_of,
    play,
    throttled,
    wait,
)
from helpers.redis_snapshot import snapshot_without_denials

from ratelimit import ConfigError, Conflict, PlanStage, Quota, Stage, Throttle, UsagePlan

BY_PLAN = throttled("plan:gold", 0.1)
FIVE_AND_NO_MORE = call("k1", GET_PETS, *5 * [OK], BY_PLAN)
ONE_ONE = Throttle(1, 1)


def gold(throttle=TEN_FIVE, stages=(A, B), **more):
    return {"plans": (UsagePlan("gold", throttle, DAILY, stages, **more),)}


def stage_throttle(throttle):
    return {"stages": (Stage(A, throttle, METHODS), STAGES[1])}


THROTTLES = [
    case("T01", FIVE_AND_NO_MORE),
    case("T02", FIVE_AND_NO_MORE, wait(0.1), call("k1", GET_PETS, OK, BY_PLAN)),
    case("T03", FIVE_AND_NO_MORE, wait(60), FIVE_AND_NO_MORE),
    case(
        "T04",
        call("k1", GET_PETS, OK),
        wait(9.9),
        call("k1", GET_PETS, throttled("plan:gold", 0.1)),
        wait(0.1),
        call("k1", GET_PETS, OK, throttled("plan:gold", 10.0)),
        **gold(Throttle(0.1, 1)),
    ),
    case("T05 burst above rate", call("k1", GET_PETS, *20 * [OK], BY_PLAN), **gold(Throttle(10, 20))),
    case("T05 burst below rate", call("k1", GET_PETS, OK, throttled("plan:gold", 0.5)), **gold(Throttle(2, 1))),
    case("T07", FIVE_AND_NO_MORE, call("k2", GET_PETS, OK)),
    case("T08", call("k1", GET_PETS, *3 * [OK]), call("k1", GET_X, OK, OK, BY_PLAN)),
    case(
        "T09",
        call("k1", GET_PETS, *3 * [OK]),
        call("k1", GET_X, *3 * [OK]),
        call("k1", GET_PETS, OK, OK, throttled("plan:gold:GET /pets", 0.1)),
        **gold(throttle_scope="key_method"),
    ),
    case(
        "T09 methods that nobody lists share one bucket",
        call("k1", (A, "GET /one"), *3 * [OK]),
        call("k1", (A, "GET /two"), OK, OK, throttled("plan:gold:*", 0.1)),
        **gold(throttle_scope="key_method"),
    ),
    case(
        "T10",
        call("k1", GET_PETS, OK, throttled("plan:gold:GET /pets", 1.0)),
        call("k1", POST_PETS, *5 * [OK], BY_PLAN),
        **gold(stages=[PlanStage(A, {"GET /pets": ONE_ONE})]),
    ),
    case(
        "T10 a method entry may be the larger one",
        call("k1", GET_PETS, *7 * [OK], throttled("plan:gold:GET /pets", 1.0)),
        **gold(stages=[PlanStage(A, {"GET /pets": Throttle(1, 7)})]),
    ),
    case(
        "T12",
        call("k1", (A, "GET /"), OK, throttled("plan:gold:GET /", 1.0)),
        **gold(stages=[PlanStage(A, {"GET /": ONE_ONE})]),
    ),
    case(
        "T13",
        call("k1", GET_PETS, OK, OK, throttled("stage:a/prod:GET /pets", 1.0)),
        **stage_throttle(Throttle(1, 2)),
    ),
    case(
        "T13 methods that nobody lists share one bucket",
        call("k1", (A, "GET /one"), OK),
        call("k1", (A, "GET /two"), OK, throttled("stage:a/prod:*", 1.0)),
        call("k1", GET_PETS, OK),
        **stage_throttle(Throttle(1, 2)),
    ),
    case("T15", call("k1", GET_PETS, OK), call("k1", POST_PETS, OK), **stage_throttle(ONE_ONE)),
    case(
        "T16",
        call("k1", GET_PETS, OK),
        call("k2", GET_PETS, throttled("stage:a/prod:GET /pets", 1.0)),
        **stage_throttle(ONE_ONE),
    ),
    case("T17", call(None, HEALTH, OK, throttled("stage:a/prod:GET /health", 1.0)), **stage_throttle(ONE_ONE)),
    case(
        "T18",
        call("k1", GET_PETS, OK),
        call("k2", GET_X, OK),
        call("k1", GET_X, throttled("account", 1.0)),
        account=Throttle(1, 2),
    ),
    case(
        "T19 the first layer is named, the longest wait is told",
        call("k1", GET_PETS, OK, throttled("plan:gold", 1.0)),
        **gold(Throttle(10, 1)),
        **stage_throttle(ONE_ONE),
    ),
    case(
        "T19 stage before account",
        call("k1", GET_PETS, OK, throttled("stage:a/prod:GET /pets", 2.0)),
        **stage_throttle(ONE_ONE),
        account=Throttle(0.5, 1),
    ),
    case(
        "T21",
        FIVE_AND_NO_MORE,
        wait(-5),
        call("k1", GET_PETS, BY_PLAN, reanchors=True),
        wait(0.1),
        call("k1", GET_PETS, OK, BY_PLAN),
    ),
    case(
        "T21 a small step back is not noticed",
        FIVE_AND_NO_MORE,
        wait(-2),
        call("k1", GET_PETS, throttled("plan:gold", 2.1)),
        wait(2.1),
        call("k1", GET_PETS, OK, BY_PLAN),
    ),
]


@pytest.mark.parametrize("each", THROTTLES, ids=lambda each: each.id)
def test_throttles(each, limiter, backend, clock):
    """Each case of the matrix about throttles holds, on every server."""
    play(each, Gateway(limiter, backend.client(), clock, **each.world))


SILVER = UsagePlan("silver", stages=["a/test"])
WITH_SILVER = {"plans": (GOLD, SILVER)}
IN_BOTH = {**WITH_SILVER, "keys": {"k1": ["gold", "silver"]}}
OPENING_A = UsagePlan("silver", stages=["a/test", A])


def toml(text):
    """A change that applies a plan file."""

    def change(gateway, folder):
        (folder / "plans.toml").write_text(text)
        gateway.catalog.apply(folder / "plans.toml")

    return change


CONTROL = [
    ("C01 19 characters", lambda g, _: g.catalog.create_key(value="x" * 19), ConfigError, "value", {}),
    ("C01 129 characters", lambda g, _: g.catalog.create_key(value="x" * 129), ConfigError, "value", {}),
    ("C01 duplicate", lambda g, _: g.catalog.create_key(value=VALUES["k1"]), Conflict, "value", {}),
    (
        "C02 key joins",
        lambda g, _: g.catalog.add_key_to_plan(g.ids["k1"], "silver"),
        Conflict,
        "plans",
        {"plans": (GOLD, OPENING_A)},
    ),
    (
        "C02 key is made in both",
        lambda g, _: g.catalog.create_key(plans=["gold", "silver"]),
        Conflict,
        "plans",
        {"plans": (GOLD, OPENING_A)},
    ),
    ("C02 stage joins", lambda g, _: g.catalog.put_plan(OPENING_A), Conflict, "plans", IN_BOTH),
    (
        "C02 stage joins in a file",
        toml('[plans.gold]\nstages = ["a/prod"]\n[plans.silver]\nstages = ["a/prod"]\n'),
        Conflict,
        "plans",
        IN_BOTH,
    ),
    ("C03 DAY", lambda *_: Quota(100, "DAY", 1), ConfigError, "offset", {}),
    ("C03 WEEK", lambda *_: Quota(100, "WEEK", 7), ConfigError, "offset", {}),
    ("C03 MONTH", lambda *_: Quota(100, "MONTH", 28), ConfigError, "offset", {}),
    ("C03 negative", lambda *_: Quota(100, "MONTH", -1), ConfigError, "offset", {}),
    (
        "C03 in a file",
        toml('[plans.gold]\nquota = { limit = 100, period = "WEEK", offset = 7 }\n'),
        ConfigError,
        "plans.gold.quota.offset",
        {},
    ),
    (
        "C03 no limit",
        toml('[plans.gold]\nquota = { period = "DAY" }\n'),
        ConfigError,
        "plans.gold.quota.limit",
        {},
    ),
    (
        "C04 no plan throttle",
        lambda *_: UsagePlan("gold", stages=[PlanStage(A, {"GET /pets": ONE_ONE})]),
        ConfigError,
        "throttle",
        {},
    ),
    ("C04 wildcard */*", lambda *_: PlanStage(A, {"*/*": ONE_ONE}), ConfigError, "throttles", {}),
    ("C04 wildcard verb", lambda *_: PlanStage(A, {"* /pets": ONE_ONE}), ConfigError, "throttles", {}),
    ("C04 wildcard path", lambda *_: PlanStage(A, {"GET /*": ONE_ONE}), ConfigError, "throttles", {}),
]


@pytest.mark.parametrize(
    ("change", "kind", "field", "world"), [row[1:] for row in CONTROL], ids=[c[0] for c in CONTROL]
)
def test_the_control_plane_refuses(change, kind, field, world, limiter, backend, clock, tmp_path):
    """Each refused change of the matrix raises the right error, names the field, and leaves Redis as it was."""
    gateway = Gateway(limiter, backend.client(), clock, **world)
    before = snapshot_without_denials(gateway.client)
    with pytest.raises(ConfigError) as caught:
        change(gateway, tmp_path)
    assert type(caught.value) is kind
    # Errors out of a plan file carry the file's path in front of the field's.
    assert str(caught.value).removeprefix(f"{tmp_path / 'plans.toml'}: ").startswith(f"{field}: ")
    assert snapshot_without_denials(gateway.client) == before


@pytest.mark.parametrize("length", [20, 128])
def test_values_at_the_limits_of_length_work(length, limiter, backend, clock):
    """C01: 20 and 128 characters are accepted, and the key is found by them."""
    gateway = Gateway(limiter, backend.client(), clock)
    gateway.catalog.create_key(value="x" * length, plans=["gold"])
    call("x" * length, GET_PETS, OK)(gateway)


@pytest.mark.parametrize("quota", [("DAY", 0), ("WEEK", 6), ("MONTH", 27)], ids=str)
def test_offsets_at_the_limits_are_accepted(quota, limiter, backend):
    """C03: the largest offset of each period is stored and read back."""
    plan = UsagePlan("gold", quota=Quota(100, *quota))
    limiter.catalog.put_plan(plan)
    assert limiter.catalog.get_plan("gold") == plan


def test_no_case_is_lost():
    """Every throttle and control plane case of the matrix is here, but for those that the top of this file names."""
    assert ids_of(THROTTLES) == {f"T{n:02}" for n in (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 15, 16, 17, 18, 19, 21)}
    assert {row[0].split()[0] for row in CONTROL} == {"C01", "C02", "C03", "C04"}
