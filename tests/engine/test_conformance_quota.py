"""The conformance matrix: quotas (Q..).

Q12 to Q14 (a changed remainder) and Q18, Q19 (usage) are tested with `Catalog.usage` and `set_remaining`; Q20 (the
store is down) with the policies for that.
"""

import pytest
from helpers.gateway import (
    DAILY,
    GET_PETS,
    GET_X,
    GOLD,
    OK,
    QUOTA_ONLY,
    TEN_FIVE,
    TO_MIDNIGHT,
    A,
    B,
    Gateway,
    admitted,
    at,
    call,
    case,
    exceeded,
    ids_of,
    left,
    play,
    throttled,
    wait,
)

from ratelimit import Quota, UsagePlan

DAY = 86_400.0
# A hundred calls, a tenth of a second apart, end ten seconds past noon.
PACED_TO_MIDNIGHT = exceeded("quota:gold", TO_MIDNIGHT - 10.0)
HUNDRED = admitted("k1", GET_PETS, 100, every=0.1)


def quota(*args, throttle=None):
    return {"plans": (UsagePlan("gold", throttle, Quota(*args), [A, B]),)}


def put(plan):
    return lambda gateway: gateway.catalog.put_plan(plan)


def window(opens, days):
    """Steps of a quota of 1: used up in the last microsecond of a window, anew when the next one opens, to its end."""
    return (
        at(opens),
        lambda gateway: gateway.clock.advance_us(-1),
        call("k1", GET_PETS, OK, exceeded("quota:gold", 1e-6)),
        at(opens),
        call("k1", GET_PETS, OK, exceeded("quota:gold", days * DAY)),
    )


def switch_off_and_on(gateway):
    gateway.catalog.update_key(gateway.ids["k1"], enabled=False)
    gateway.catalog.update_key(gateway.ids["k1"], enabled=True)


def leave_and_join(gateway):
    gateway.catalog.remove_key_from_plan(gateway.ids["k1"], "gold")
    gateway.catalog.add_key_to_plan(gateway.ids["k1"], "gold")


def keeping_usage(change):
    """Steps around a change that must forgive nothing: two of three are used, one is left after it."""
    plan = UsagePlan("gold", None, Quota(3, "DAY"), [A])
    return (
        put(plan),
        call("k1", GET_PETS, OK, OK),
        change,
        call("k1", GET_PETS, OK, exceeded("quota:gold", TO_MIDNIGHT)),
    )


QUOTAS = [
    case("Q01", HUNDRED, call("k1", GET_PETS, PACED_TO_MIDNIGHT)),
    case("Q02", HUNDRED, call("k1", GET_PETS, PACED_TO_MIDNIGHT), call("k2", GET_PETS, OK)),
    case(
        "Q03",
        admitted("k1", GET_PETS, 60, every=0.1),
        admitted("k1", GET_X, 40, every=0.1),
        call("k1", GET_PETS, PACED_TO_MIDNIGHT),
        call("k1", GET_X, PACED_TO_MIDNIGHT),
    ),
    case(
        "Q04",
        call("k1", GET_PETS, *5 * [OK], *5 * [throttled("plan:gold", 0.1)]),
        left("k1", GET_PETS, plan=0, quota=95),
        wait(0.1),
        call("k1", GET_PETS, OK),
        left("k1", GET_PETS, plan=0, quota=94),
    ),
    case(
        "Q06",
        call("k1", GET_PETS, *5 * [OK], throttled("plan:gold", TO_MIDNIGHT)),
        **quota(5, "DAY", throttle=TEN_FIVE),
    ),
    case(
        "Q06 the quota alone, once there are tokens",
        call("k1", GET_PETS, *5 * [OK]),
        wait(0.1),
        call("k1", GET_PETS, exceeded("quota:gold", TO_MIDNIGHT - 0.1)),
        **quota(5, "DAY", throttle=TEN_FIVE),
    ),
    case(
        "Q07",
        at("2026-03-04T23:59:59.999"),
        call("k1", GET_PETS, OK, OK, exceeded("quota:gold", 0.001)),
        at("2026-03-05T00:00:00"),
        call("k1", GET_PETS, OK, OK, exceeded("quota:gold", DAY)),
        **quota(2, "DAY"),
    ),
    case("Q08 offset 0, Sunday", *window("2026-03-01", 7), **quota(1, "WEEK", 0)),
    case("Q08 offset 1, Monday", *window("2026-03-02", 7), **quota(1, "WEEK", 1)),
    case("Q08 now, offset 0", call("k1", GET_PETS, OK, exceeded("quota:gold", 3.5 * DAY)), **quota(1, "WEEK", 0)),
    case("Q08 now, offset 1", call("k1", GET_PETS, OK, exceeded("quota:gold", 4.5 * DAY)), **quota(1, "WEEK", 1)),
    case("Q09", *window("2026-02-15", 28), **quota(1, "MONTH", 14)),
    case("Q09 now", call("k1", GET_PETS, OK, exceeded("quota:gold", 10.5 * DAY)), **quota(1, "MONTH", 14)),
    case("Q09 a leap year's February", *window("2028-02-28", 29), **quota(1, "MONTH", 27)),
    case("Q09 over the year's end", *window("2025-12-15", 31), **quota(1, "MONTH", 14)),
    case(
        "Q11",
        admitted("k1", GET_PETS, 100),
        call("k1", GET_PETS, exceeded("quota:gold", 3.5 * DAY)),
        **quota(100, "WEEK"),
    ),
    case(
        "Q15",
        admitted("k1", GET_PETS, 100),
        call("k1", GET_PETS, exceeded("quota:gold", TO_MIDNIGHT)),
        put(UsagePlan("gold", None, Quota(200, "DAY"), [A, B])),
        admitted("k1", GET_PETS, 100),
        call("k1", GET_PETS, exceeded("quota:gold", TO_MIDNIGHT)),
        plans=(QUOTA_ONLY,),
    ),
    case(
        "Q15 lowered below what is used",
        admitted("k1", GET_PETS, 100),
        put(UsagePlan("gold", None, Quota(50, "DAY"), [A, B])),
        call("k1", GET_PETS, exceeded("quota:gold", TO_MIDNIGHT)),
        left("k1", GET_PETS, quota=0),
        plans=(QUOTA_ONLY,),
    ),
    case("Q17 rename", *keeping_usage(put(UsagePlan("gold", None, Quota(3, "DAY"), [A], name="Gold, new")))),
    case("Q17 disable and enable", *keeping_usage(switch_off_and_on)),
    case("Q17 remove and add again", *keeping_usage(leave_and_join)),
    case(
        "Q17 tokens are kept too",
        call("k1", GET_PETS, *5 * [OK]),
        leave_and_join,
        switch_off_and_on,
        put(UsagePlan("gold", TEN_FIVE, DAILY, [A], name="Gold, new")),
        call("k1", GET_PETS, throttled("plan:gold", 0.1)),
        plans=(GOLD,),
    ),
]


@pytest.mark.parametrize("each", QUOTAS, ids=lambda each: each.id)
def test_quotas(each, limiter, backend, clock):
    """Each case of the matrix about quotas holds, on every server."""
    play(each, Gateway(limiter, backend.client(), clock, **each.world))


def test_no_case_is_lost():
    """Every case of the matrix about quotas is here, but for those that the top of this file names."""
    assert ids_of(QUOTAS) == {f"Q{n:02}" for n in (1, 2, 3, 4, 6, 7, 8, 9, 11, 15, 17)}
