"""Checks whose limits are spread over slots decide as one script does that judges them all."""

import random
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import pytest
from helpers.clock import FakeClock
from helpers.slot_data import copy_all
from helpers.slot_gateway import do_at_once

from ratelimit import Catalog, Identity, Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.local.leased_bucket import LeasedBucket
from ratelimit.model import Method

A, B = "a/prod", "b/prod"
METHODS = ("GET /pets", "POST /pets", "GET /health", "GET /other")


def fill(catalog):
    """A gateway where any limit may be the first that denies; return callers."""
    catalog.put_plan(
        UsagePlan("gold", Throttle(2, 6), Quota(60, "DAY"), [PlanStage(A, {"POST /pets": Throttle(1, 3)}), B])
    )
    catalog.put_plan(UsagePlan("free", None, Quota(25, "DAY"), [A]))
    catalog.put_plan(UsagePlan("bare", None, None, [A, B]))
    catalog.put_plan(UsagePlan("each", Throttle(1, 4), None, [A, B], throttle_scope="key_method"))
    health = Method(key_required=False)
    catalog.put_stage(Stage(A, Throttle(3, 9), {"GET /pets": Method(Throttle(2, 5)), "GET /health": health}))
    catalog.set_account_throttle(Throttle(4, 12))
    keys = [catalog.create_key(plans=[plan]).value for plan in ("gold", "gold", "free", "bare", "each")]
    return [*keys, Identity("user:1", plan="free"), None, "no-key-has-ever-had-this-value"]


def is_shared(limit_name):
    return (limit_name or "").startswith(("stage:", "account"))


def described(decision):
    """What has to be the same: the decision, and the numbers of a caller's own limits."""
    own = [limit for limit in decision.limits if not is_shared(limit.name)]
    limited_by = "shared" if is_shared(decision.limited_by) else decision.limited_by
    return decision.reason, decision.detail, limited_by, own


def assert_same(decision, expected):
    """Of a shared limit that need not be asked the last state is told: it may deny as well, and for longer."""
    assert described(decision) == described(expected)
    assert [limit.name for limit in decision.limits] == [limit.name for limit in expected.limits]
    if is_shared(decision.limited_by):
        assert {limit.name: limit.retry_after for limit in expected.limits}[decision.limited_by] != 0
    if decision.retry_after is None:
        assert expected.retry_after is None
    elif expected.retry_after is not None:
        assert decision.retry_after <= expected.retry_after
    assert decision.headers().get("RateLimit-Policy") == expected.headers().get("RateLimit-Policy")


def give_back(limiter):
    """Have a limiter return what it holds of shared limits: what is held when time passes is worth less later."""
    with patch.object(LeasedBucket, "_target", lambda *_: 0):
        limiter._store.run(limiter._checker.slots.shared.upkeep(last=True))


@contextmanager
def pair(spread_server, plain_server):
    """A limiter on one server and one on slots, with the same data and one clock; with the callers."""
    clock = FakeClock()
    with ExitStack() as stack:
        plain_client = stack.enter_context(plain_server.client())
        callers = fill(Catalog(plain_client))
        copy_all(plain_client, spread_server)
        made = []
        for client in (plain_client, stack.enter_context(spread_server.client())):
            options = {"clock": clock, "deadline": 5, "on_unavailable": "closed"}
            limiter = stack.enter_context(Limiter(client, **options))
            limiter._namespace.before_refresh = lambda: None
            do_at_once(limiter)
            made.append(limiter)
        yield *made, clock, callers


def play(pair, seed):
    """Make a random history of requests of both, each of which has to be decided alike."""
    plain, spread, clock, callers = pair
    chance = random.Random(seed)
    reasons = set()
    for _ in range(250):
        if chance.random() < 0.3:
            give_back(spread)
            clock.advance(chance.choice([0.001, 0.05, 0.2, 0.5, 1, 3, 20]))
        caller, stage = chance.choice(callers), chance.choice([A, B])
        request = caller, stage, chance.choice(METHODS), chance.choice([1, 1, 1, 2, 3, 7])
        look = chance.random() < 0.15
        expected, decision = [(each.peek if look else each.check)(*request) for each in (plain, spread)]
        assert_same(decision, expected)
        reasons.add((decision.reason, decision.limited_by, decision.source))
    assert len(reasons) > 8, reasons


@pytest.mark.parametrize("seed", range(12))
def test_whole_histories_are_decided_as_on_one_server(slots, plain, seed):
    """One process: nobody else is in between, so what it holds is what it took."""
    with pair(slots, plain) as both:
        play(both, seed)


@pytest.mark.parametrize("seed", range(100, 103))
def test_whole_histories_are_decided_as_on_one_server_by_a_cluster(valkey_cluster, plain, seed):
    with pair(valkey_cluster, plain) as both:
        play(both, seed)
