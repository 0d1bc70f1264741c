"""The conformance matrix: how keys are resolved (K..).

K10, K14 and K15 are about HTTP headers and authorizers, which the middlewares answer for. All refusals here are one
403 with different details for logs.
"""

import pytest
from helpers.gateway import (
    GET_PETS,
    GET_X,
    GOLD,
    HEALTH,
    OK,
    VALUES,
    A,
    B,
    Gateway,
    admitted,
    call,
    case,
    ids_of,
    invalid,
    play,
    throttled,
)

from ratelimit import NotFound, UsagePlan

FREE = UsagePlan("free", stages=[A])
ELSEWHERE = UsagePlan("elsewhere", stages=["a/test"])
NO_PLAN = invalid("no_plan_for_stage")


def change(action):
    """A step that changes the catalogue; `action` gets it and the id of k1."""
    return lambda gateway: action(gateway.catalog, gateway.ids["k1"])


def unmetered(who):
    """An open method, called as `who`: the account's limit alone applies, and nothing is counted for k1."""

    def step(gateway):
        before = gateway.hash_of("k1")
        decision = gateway.check(who, HEALTH)
        assert decision.allowed
        assert [limit.name for limit in decision.limits] == ["account"]
        assert gateway.hash_of("k1") == before

    return step


def metered(who, plan_id, times):
    def step(gateway):
        assert gateway.used(who, plan_id) == times
        assert gateway.check(who, GET_PETS).limits == ()

    return step


def gone(gateway):
    """The deleted key is in no listing, and holds no plan back from being deleted."""
    listed = gateway.catalog.keys()
    assert [key.name for key in listed] == ["k2"]
    with pytest.raises(NotFound):
        gateway.catalog.get_key(gateway.ids["k1"])
    assert gateway.hash_of("k1") == {}
    gateway.catalog.delete_key(gateway.ids["k2"])
    gateway.catalog.delete_plan("gold")


KEYS = [
    case("K01", call(None, GET_PETS, invalid("missing"))),
    case("K02", call("", GET_PETS, invalid("missing"))),
    case("K03", call("x" * 30, GET_PETS, invalid("unknown"))),
    case(
        "K04",
        call("k1", GET_PETS, OK),
        change(lambda catalog, key_id: catalog.update_key(key_id, enabled=False)),
        call("k1", GET_PETS, invalid("disabled")),
        change(lambda catalog, key_id: catalog.update_key(key_id, enabled=True)),
        call("k1", GET_PETS, OK),
    ),
    case("K05", call("k1", GET_PETS, NO_PLAN), keys={"k1": []}),
    case(
        "K06",
        call("k1", ("a/test", "GET /pets"), OK),
        call("k1", GET_PETS, NO_PLAN),
        plans=(GOLD, ELSEWHERE),
        keys={"k1": ["elsewhere"]},
    ),
    case(
        "K07",
        call("k1", GET_X, OK),
        call("k1", GET_PETS, NO_PLAN),
        plans=(GOLD, UsagePlan("b", stages=[B])),
        keys={"k1": ["b"]},
    ),
    case("K08", lambda gateway: call(gateway.ids["k1"], GET_PETS, invalid("unknown"))(gateway)),
    case("K09", call(VALUES["k1"].swapcase(), GET_PETS, invalid("unknown"))),
    case("K11", unmetered(None)),
    case(
        "K12",
        call("k1", GET_PETS, *5 * [OK], throttled("plan:gold", 0.1)),
        unmetered("k1"),
    ),
    case(
        "K13",
        admitted("k1", GET_PETS, 1000),
        metered("k1", "free", 1000),
        plans=(FREE,),
        account=None,
        keys={"k1": ["free"]},
    ),
    case(
        "K16",
        call("k1", GET_PETS, OK),
        change(lambda catalog, key_id: catalog.delete_key(key_id)),
        call("k1", GET_PETS, invalid("unknown")),
        gone,
    ),
]


@pytest.mark.parametrize("each", KEYS, ids=lambda each: each.id)
def test_keys(each, limiter, backend, clock):
    """Each case of the matrix about keys holds, on every server."""
    play(each, Gateway(limiter, backend.client(), clock, **each.world))


@pytest.mark.parametrize("who", [None, "", "x" * 30, "no-key", "disabled", "no plan"])
def test_all_refusals_look_the_same_to_a_caller(who, limiter, backend, clock):
    """Whatever is wrong with a key, the status is 403, without headers, limits or a time to wait."""
    gateway = Gateway(limiter, backend.client(), clock, keys={"k1": ["gold"], "k2": []})
    gateway.catalog.update_key(gateway.ids["k1"], enabled=False)
    decision = gateway.check({"disabled": "k1", "no plan": "k2"}.get(who, who), GET_PETS)
    assert (decision.status, decision.headers(), decision.limits) == (403, {}, ())
    assert (decision.limited_by, decision.retry_after, decision.source) == (None, None, "redis")


def test_no_case_is_lost():
    """Every case of the matrix about keys is here, but for those that the top of this file names."""
    assert ids_of(KEYS) == {f"K{n:02}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16)}
