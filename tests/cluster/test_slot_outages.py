"""Nodes that are away: each is felt by its own keys alone. One server with slots stands for all of them."""

import gc
from contextlib import ExitStack
from random import Random

import pytest
from helpers.clock import FakeClock
from helpers.replica import METHOD, STAGE
from helpers.slot_data import NodesAway
from helpers.slot_gateway import another_limiter, slot_limiter
from redis.exceptions import ResponseError

from ratelimit import Catalog, ConfigError, Identity, Limiter, Quota, Stage, Throttle, UsagePlan
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.limiter.checker import Checker
from ratelimit.model import MICROSECONDS, Method
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.scripts import ScriptCall
from ratelimit.store import error_mapping

NAMES = RedisKeys("ratelimit")
ALONE = {"denial_cache": False, "on_unavailable": "local", "stale_catalogue_s": 300}


@pytest.fixture
def clock():
    return FakeClock()


def is_catalog(name):
    return name == NAMES.catalog


def is_shared(name):
    return name.startswith(f"{NAMES.namespace}:stage:") or name == NAMES.account


def one_plan(catalog, *, stage=None, account=None, burst=5000, quota=5000):
    catalog.put_plan(UsagePlan("gold", Throttle(1, burst), Quota(quota, "DAY"), [STAGE]))
    if stage is not None:
        catalog.put_stage(Stage(STAGE, stage))
    if account is not None:
        catalog.set_account_throttle(account)
    return catalog.create_key(plans=["gold"]).value


# The catalogue's node


def test_checks_go_on_by_the_known_catalogue(slots, plain, clock):
    """Attempts to read it are paced, and no check has a request of its own for it."""
    with slot_limiter(slots, plain, one_plan, clock=clock, max_age=5, stale_catalogue_s=60) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        away = NodesAway(limiter, is_catalog)
        clock.advance(5)
        for _ in range(55):
            for _ in range(20):
                decision = limiter.check(key, STAGE, METHOD, 1)
                assert (decision.allowed, decision.source) == (True, "redis")
            clock.advance(1)
        attempts = sum(NAMES.catalog in names for names in away.requests)
        assert attempts == 55
        # Too old: then it is `on_unavailable` that decides.
        decision = limiter.check(key, STAGE, METHOD)
        assert (decision.status, decision.cause) == (503, "not_sent")
        away.is_away = lambda name: False
        assert limiter.check(key, STAGE, METHOD).allowed


def test_a_change_is_read_at_once_when_the_node_is_back(slots, plain, clock):
    with slot_limiter(slots, plain, one_plan, clock=clock, max_age=5) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        away = NodesAway(limiter, is_catalog)
        clock.advance(6)
        assert limiter.check(key, STAGE, METHOD).allowed
        with plain.client() as source:
            Catalog(source).put_plan(UsagePlan("gold", Throttle(1, 7), None, [STAGE]))
            slots.admin.execute_command("RESTORE", NAMES.catalog, 0, source.dump(NAMES.catalog), "REPLACE")
        assert [limit.limit for limit in limiter.check(key, STAGE, METHOD).limits] == [5000, 5000]
        away.is_away = lambda name: False
        clock.advance(1)
        assert [limit.limit for limit in limiter.check(key, STAGE, METHOD).limits] == [7]


@pytest.mark.parametrize("field", ["schema", "epoch"])
def test_a_catalogue_that_answers_and_cannot_be_used_is_no_outage(slots, plain, clock, field):
    """Nobody goes on by the plans that were known before."""
    with slot_limiter(slots, plain, one_plan, clock=clock, max_age=5, on_unavailable="open") as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        good = slots.admin.hget(NAMES.catalog, field)
        slots.admin.hset(NAMES.catalog, field, "99")
        clock.advance(5)
        for _ in range(3):
            decision = limiter.check(key, STAGE, METHOD)
            assert (decision.status, decision.source) == (503, "fail_closed")
        slots.admin.hset(NAMES.catalog, field, good)
        clock.advance(1)
        assert limiter.check(key, STAGE, METHOD).allowed


def test_a_process_that_never_read_the_catalogue_cannot_decide(slots, plain, clock):
    with slot_limiter(slots, plain, one_plan, clock=clock) as (limiter, key):
        NodesAway(limiter, is_catalog)
        assert limiter.check(key, STAGE, METHOD).status == 503


@pytest.mark.parametrize("wrong", [0, -1, "300", float("nan"), None, True])
def test_for_how_long_is_validated(plain, wrong):
    with plain.client() as client, pytest.raises(ConfigError, match="stale_catalogue_s"):
        Limiter(client, stale_catalogue_s=wrong)


# A shared limit's node


def shared_plan(catalog):
    return one_plan(catalog, stage=Throttle(1, 10), burst=4, quota=100)


def test_the_keys_own_limits_stay_exact_while_a_shared_limit_is_judged_locally(slots, plain, clock):
    with slot_limiter(slots, plain, shared_plan, clock=clock, on_unavailable="local") as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        NodesAway(limiter, is_shared)
        clock.advance(0.2)  # what is held is over
        decisions = [limiter.check(key, STAGE, METHOD) for _ in range(5)]
        assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
        assert {decision.source for decision in decisions[:3]} == {"local"}
        assert {decision.cause for decision in decisions[:3]} == {"not_sent"}
        assert decisions[-1].limited_by == "plan:gold"
        own = {limit.name: limit.remaining for limit in decisions[2].limits}
        assert (own["plan:gold"], own["quota:gold"]) == (0, 96)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_shared_limit_that_is_away_admits_this_process_its_part(slots, plain, clock, replicas):
    """The last known level, divided; and then no more than its part of the rate."""

    def fill(catalog):
        return one_plan(catalog, stage=Throttle(1, 10))

    options = {"clock": clock, "on_unavailable": "local", "replicas": replicas}
    with slot_limiter(slots, plain, fill, **options) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD, 2).allowed
        NodesAway(limiter, is_shared)
        clock.advance(0.2)
        admitted = sum(limiter.check(key, STAGE, METHOD).allowed for _ in range(20))
        assert admitted == 8 // replicas
        decision = limiter.check(key, STAGE, METHOD)
        assert (decision.limited_by, decision.source) == (f"stage:{STAGE}:*", "local")
        clock.advance(decision.retry_after - 0.000_001)
        assert not limiter.check(key, STAGE, METHOD).allowed
        clock.advance(0.000_001)
        assert limiter.check(key, STAGE, METHOD).allowed


def test_a_part_is_what_it_was_while_other_shared_limits_answer(slots, plain, clock):
    """That another stage's node answers ends no outage of this one's: 20 of a fifth of the burst, then 2 a second."""

    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 1000), None, [STAGE, "other/prod"]))
        catalog.put_stage(Stage(STAGE, Throttle(10, 100)))
        catalog.put_stage(Stage("other/prod", Throttle(1000, 1000)))
        return catalog.create_key(plans=["gold"]).value

    options = {"clock": clock, "on_unavailable": "local", "replicas": 5}
    with slot_limiter(slots, plain, fill, **options) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        clock.advance(1)
        NodesAway(limiter, lambda name: is_shared(name) and STAGE in name)
        outages, admitted = limiter._without_redis.local, 0
        for _ in range(50):
            admitted += limiter.check(key, STAGE, METHOD).allowed
            assert limiter.check(key, "other/prod", METHOD).source == "redis"
            clock.advance(0.2)
        assert (admitted, outages.outage) == (39, 1)


@pytest.mark.parametrize("error", [StoreUnavailable, StoreTimeout])
def test_a_whole_outage_spends_a_shared_part_once(slots, plain, clock, error):
    def fill(catalog):
        return one_plan(catalog, stage=Throttle("1/1000", 20))

    with slot_limiter(slots, plain, fill, clock=clock, on_unavailable="local") as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        clock.advance(0.2)
        NodesAway(limiter, lambda name: True, error)
        assert sum(limiter.check(key, STAGE, METHOD).allowed for _ in range(40)) == 19


def test_who_is_over_a_limit_of_its_own_spends_nothing_of_a_part(slots, plain, clock):
    def fill(catalog):
        return one_plan(catalog, stage=Throttle("1/1000", 10), burst=3), catalog.create_key(plans=["gold"]).value

    with slot_limiter(slots, plain, fill, clock=clock, on_unavailable="local", denial_cache=False) as (limiter, keys):
        first, second = keys
        assert [limiter.check(first, STAGE, METHOD, cost).allowed for cost in (3, 1)] == [True, False]
        assert limiter.check(second, STAGE, METHOD).allowed
        NodesAway(limiter, is_shared)
        clock.advance(0.2)
        for _ in range(20):
            denied = limiter.check(first, STAGE, METHOD)
            remaining = {limit.name: limit.remaining for limit in denied.limits}
            assert (denied.limited_by, remaining[f"stage:{STAGE}:*"]) == ("plan:gold", 6)
        assert limiter.check(second, STAGE, METHOD, 2).allowed


def test_an_outage_begins_by_what_redis_said_and_not_by_a_part(slots, plain, clock):
    def fill(catalog):
        return one_plan(catalog, stage=Throttle(1, 10))

    options = {"clock": clock, "on_unavailable": "local", "replicas": 2}
    with slot_limiter(slots, plain, fill, **options) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD, 2).allowed
        NodesAway(limiter, is_shared)
        clock.advance(0.2)
        for _ in range(4):
            assert limiter.check(key, STAGE, METHOD).allowed
            limiter._without_redis.answered()
        assert not limiter.check(key, STAGE, METHOD).allowed


def test_open_does_not_limit_what_is_away_and_closed_admits_nobody(slots, plain, clock):
    def fill(catalog):
        return one_plan(catalog, stage=Throttle(1, 3), burst=50)

    for policy, expected in (("open", 50), ("closed", 0)):
        slots.admin.flushall()
        with slot_limiter(slots, plain, fill, clock=clock, on_unavailable=policy) as (limiter, key):
            assert limiter.peek(key, STAGE, METHOD).allowed
            NodesAway(limiter, is_shared)
            decisions = [limiter.check(key, STAGE, METHOD) for _ in range(60)]
            assert sum(decision.allowed for decision in decisions) == expected
            source = {"open": "fail_open", "closed": "fail_closed"}[policy]
            assert {decision.source for decision in decisions if decision.allowed or policy == "closed"} <= {source}
        with plain.client() as client:
            client.flushall()


def test_other_limits_of_nodes_that_answer_lose_nothing(slots, plain, clock):
    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1, 100), None, [STAGE, "other/prod"]))
        catalog.put_stage(Stage(STAGE, Throttle(1, 10)))
        return catalog.create_key(plans=["gold"]).value

    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        NodesAway(limiter, is_shared)
        for _ in range(20):
            decision = limiter.check(key, "other/prod", METHOD)
            assert (decision.allowed, decision.source) == (True, "redis")


def test_what_a_key_has_prepaid_is_not_spent_past_a_shared_limit_that_is_away(slots, plain, clock):
    """Its lease holds units of its own limits alone."""

    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 5000), None, [STAGE], lease=1))
        catalog.put_stage(Stage(STAGE, Throttle("1/1000", 500)))
        return catalog.create_key(plans=["gold"]).value

    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, key):
        for _ in range(100):
            assert limiter.check(key, STAGE, METHOD).allowed
            clock.advance(0.001)
        lease = limiter._checker.prepared(key, STAGE, METHOD).lease
        NodesAway(limiter, is_shared)
        clock.advance(0.11)  # what is held of the stage's is over
        assert lease.units > 20
        assert {limiter.check(key, STAGE, METHOD).status for _ in range(lease.units)} == {503}


@pytest.mark.parametrize(("policy", "source"), [("local", "local"), ("open", "fail_open")])
def test_a_key_that_has_prepaid_is_told_that_a_shared_limit_is_away(slots, plain, clock, policy, source):
    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 5000), None, [STAGE], lease=1))
        catalog.put_stage(Stage(STAGE, Throttle("1/1000", 500)))
        return catalog.create_key(plans=["gold"]).value

    with slot_limiter(slots, plain, fill, clock=clock, on_unavailable=policy) as (limiter, key):
        for _ in range(100):
            assert limiter.check(key, STAGE, METHOD).source in {"redis", "lease"}
            clock.advance(0.001)
        lease = limiter._checker.prepared(key, STAGE, METHOD).lease
        away = NodesAway(limiter, is_shared)
        clock.advance(0.11)  # what is held of the stage's is over
        units = lease.units
        decisions = [limiter.check(key, STAGE, METHOD) for _ in range(20)]
        assert lease.units == units - 20
        assert {(each.allowed, each.source, each.cause) for each in decisions} == {(True, source, "not_sent")}
        assert decisions[0].error == "the node is away"
        away.is_away = lambda _: False
        clock.advance(1)
        assert not limiter.check(key, STAGE, METHOD).degraded


def test_what_this_process_decided_without_a_key_is_no_answer_of_redis(slots, plain):
    """So local decisions end in time, for keys as well."""

    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), None, [STAGE]))
        catalog.put_stage(Stage(STAGE, Throttle(1000, 1000), {METHOD: Method(key_required=False)}))
        return catalog.create_key(plans=["gold"]).value

    options = {"on_unavailable": "local", "local_max_age": 20}
    with slot_limiter(slots, plain, fill, **options) as (limiter, key):
        later_us, age_us = 0, limiter._namespace.age_us
        limiter._namespace.age_us = lambda: age_us() + later_us
        requests = [(None, STAGE, METHOD), (key, STAGE, "GET /other")]
        assert all(limiter.check(*request).allowed for request in requests)
        NodesAway(limiter, lambda _: True)
        answers = []
        for _ in range(6):
            later_us += 5 * MICROSECONDS
            answers.append([limiter.check(*request).status for request in requests])
        assert answers == [[200, 200]] * 3 + [[503, 503]] * 3


# A key's node


def test_units_that_were_taken_are_put_back_if_the_key_was_not_asked(slots, plain, clock):
    def fill(catalog):
        return one_plan(catalog, account=Throttle(1, 5)), catalog.create_key(plans=["gold"]).value

    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, (key, other)):
        assert limiter.check(key, STAGE, METHOD).allowed
        assert limiter.check(other, STAGE, METHOD).allowed
        hash_name = NAMES.key_hash(limiter._checker.keys.get(key).record.id)
        away = NodesAway(limiter, lambda name: name == hash_name)
        for _ in range(10):
            assert limiter.check(key, STAGE, METHOD).status == 503
        away.is_away = lambda name: False
        assert sum(limiter.check(other, STAGE, METHOD).allowed for _ in range(10)) == 3


def test_units_of_a_check_whose_outcome_is_unknown_stay_spent(slots, plain, clock):
    def fill(catalog):
        return one_plan(catalog, account=Throttle(1, 5))

    with slot_limiter(slots, plain, fill, clock=clock) as (limiter, key):
        assert limiter.check(key, STAGE, METHOD).allowed
        call, execute = limiter._store.call, limiter._store._execute

        def losing(send):
            def lose_the_reply(request, *wait):
                reply = send(request, *wait)
                if isinstance(request, ScriptCall) and request.keys[0].endswith("}"):
                    raise StoreTimeout("lost")
                return reply

            return lose_the_reply

        limiter._store.call, limiter._store._execute = losing(call), losing(execute)
        assert [limiter.check(key, STAGE, METHOD).status for _ in range(2)] == [503, 503]
        limiter._store.call, limiter._store._execute = call, execute
        assert sum(limiter.check(key, STAGE, METHOD).allowed for _ in range(10)) == 2


KEYS = 6


def hashes_of(limiter, values):
    """The names of the hashes of some keys that a limiter has met."""
    return {NAMES.key_hash(limiter._checker.keys.get(value).record.id) for value in values}


HUNDRED = Throttle("1/1000", 100)


def shared_stage(catalog, *, lease=0, stage=HUNDRED, account=None):
    """Keys whose own limits never deny, under one limit that does."""
    catalog.put_plan(UsagePlan("gold", Throttle(1000, 10**5), Quota(10**6, "DAY"), [STAGE], lease=lease))
    catalog.put_stage(Stage(STAGE, stage))
    if account is not None:
        catalog.set_account_throttle(account)
    return [catalog.create_key(plans=["gold"]).value for _ in range(KEYS)]


@pytest.fixture
def gateways(slots, plain, clock):
    """Opens so many limiters, which have met all keys that `fill` makes; returns them and the keys."""
    with ExitStack() as stack:

        def open_all(count, fill, **options):
            options = {"clock": clock, "on_unavailable": "local", "max_age": 300} | options
            first, keys = stack.enter_context(slot_limiter(slots, plain, fill, **options))
            limiters = [first] + [stack.enter_context(another_limiter(slots, **options)) for _ in range(count - 1)]
            for limiter in limiters:
                assert all(limiter.peek(key, STAGE, METHOD).allowed for key in keys)
            return limiters, keys

        yield open_all


@pytest.mark.parametrize("seconds", [0, 0.001, 0.3], ids=["at once", "busy", "rarely"])
@pytest.mark.parametrize("error", [StoreUnavailable, StoreTimeout])
@pytest.mark.parametrize("policy", ["local", "open"])
def test_a_shared_limit_is_not_exceeded_while_a_keys_node_is_away(gateways, clock, policy, error, seconds):
    """Whoever calls how often: the keys of the node that is away, and those of others, get its burst together."""
    limiters, keys = gateways(3, shared_stage, on_unavailable=policy, denial_cache=False)
    away = hashes_of(limiters[0], keys[: KEYS // 2])
    for limiter in limiters:
        NodesAway(limiter, away.__contains__, error)
    admitted = []
    for _ in range(10):
        for limiter in limiters:
            for key in keys:
                decision = limiter.check(key, STAGE, METHOD)
                admitted += [key] * decision.allowed
                assert decision.allowed or decision.limited_by == f"stage:{STAGE}:*"
            clock.advance(seconds)
    # Where nobody calls for longer than a term, a unit that is given back then is credited to nobody.
    assert len(admitted) == 100 if seconds < 0.1 else 98 <= len(admitted) <= 100
    assert {key in keys[:3] for key in admitted} == {True, False}


@pytest.mark.parametrize("caller", ["key", "identity"])
def test_several_shared_limits_are_paid_by_all_requests_of_any_cost(gateways, clock, caller):
    """The account admits 60 units, the stage 100; whoever calls for three units takes three of both."""

    def fill(catalog):
        return shared_stage(catalog, account=Throttle("1/1000", 60))

    limiters, keys = gateways(2, fill, denial_cache=False)
    identities = [Identity(f"user:{number}", plan="gold") for number in range(KEYS)]
    callers = keys if caller == "key" else identities
    for limiter in limiters:
        names = {limiter._checker.prepare_identity(each, STAGE, METHOD)._redis_keys[0] for each in identities[:3]}
        NodesAway(limiter, (names | hashes_of(limiter, keys[:3])).__contains__)
    units = 0
    for _ in range(4):
        for limiter in limiters:
            for each in callers:
                units += 3 * limiter.check(each, STAGE, METHOD, 3).allowed
                clock.advance(0.001)
    assert units == 60
    assert limiters[0].check(callers[0], STAGE, METHOD).limited_by == "account"


@pytest.mark.parametrize("is_key_away", [False, True])
@pytest.mark.parametrize("policy", ["local", "open"])
@pytest.mark.parametrize("error", [StoreUnavailable, StoreTimeout])
@pytest.mark.parametrize("away", ["stage", "account"])
def test_a_shared_limit_is_not_exceeded_while_another_one_is_away(gateways, clock, away, error, policy, is_key_away):
    """Each is decided by the policy if its own node is away, and by nothing else."""
    small, large = Throttle("1/1000", 60), Throttle("1/1000", 1000)

    def fill(catalog):
        live = {"stage": large, "account": small} if away == "stage" else {"stage": small, "account": large}
        return shared_stage(catalog, **live)

    limiters, keys = gateways(3, fill, on_unavailable=policy, denial_cache=False)
    name = NAMES.account if away == "account" else NAMES.stage_bucket(STAGE, "*")
    for limiter in limiters:
        NodesAway(limiter, ({name} | (hashes_of(limiter, keys[:3]) if is_key_away else set())).__contains__, error)
    decisions = []
    for _ in range(6):
        for limiter in limiters:
            for key in keys:
                decisions.append(limiter.check(key, STAGE, METHOD))
                clock.advance(0.001)
    assert sum(decision.allowed for decision in decisions) == 60
    admitted = [decision for decision in decisions if decision.allowed]
    assert {decision.source for decision in admitted} == {"local" if policy == "local" else "fail_open"}
    assert {decision.limited_by for decision in decisions} == {
        None,
        "account" if away == "stage" else f"stage:{STAGE}:*",
    }


@pytest.mark.parametrize("seed", range(8))
def test_shared_limits_hold_whatever_becomes_of_keys_nodes(gateways, clock, seed):
    """Over any time W at most burst + rate x (W + term): random costs, callers and pauses, nodes that come and go."""
    rate, burst, random_ = 200, 40, Random(seed)
    limiters, keys = gateways(3, lambda catalog: shared_stage(catalog, stage=Throttle(rate, burst)))
    hashes, away = sorted(hashes_of(limiters[0], keys)), set()
    nodes = [NodesAway(limiter, away.__contains__) for limiter in limiters]
    admitted = []
    for _ in range(1500):
        if random_.random() < 0.02:
            away ^= {random_.choice(hashes)}
            error = random_.choice([StoreUnavailable, StoreTimeout])
            for each in nodes:
                each.error = error
        limiter, key, cost = random_.choice(limiters), random_.choice(keys), random_.choice([1, 1, 1, 3, 8])
        if random_.random() < 0.1:
            decision = limiter._check_shared(key, STAGE, cost)
        else:
            decision = limiter.check(key, STAGE, METHOD, cost)
        if decision.allowed:
            admitted.append((clock(), cost))
        clock.advance(random_.choice([0, 0.001, 0.003, 0.02]))
    assert sum(cost for _, cost in admitted) > 5 * burst
    for first, (began_us, _) in enumerate(admitted):
        units = 0
        for at_us, cost in admitted[first:]:
            units += cost
            assert units <= burst + rate * ((at_us - began_us) / MICROSECONDS + 0.1)


def test_who_is_denied_by_a_part_takes_nothing_of_other_shared_limits(gateways, clock):
    """And who is over a limit of its own spends nothing of the part."""

    def fill(catalog):
        keys = shared_stage(catalog, stage=Throttle("1/1000", 20), account=HUNDRED)
        catalog.put_plan(UsagePlan("small", Throttle("1/1000", 2), None, [STAGE]))
        return [*keys, catalog.create_key(plans=["small"]).value]

    (limiter,), keys = gateways(1, fill, replicas=2, denial_cache=False)
    NodesAway(limiter, lambda name: name == NAMES.stage_bucket(STAGE, "*"))
    assert sum(limiter.check(keys[6], STAGE, METHOD).allowed for _ in range(10)) == 2
    assert sum(limiter.check(keys[0], STAGE, METHOD).allowed for _ in range(30)) == 8
    remaining = {limit.name: limit.remaining for limit in limiter.check(keys[0], STAGE, METHOD).limits}
    assert remaining["account"] == 90


def test_who_is_over_a_limit_of_its_own_puts_shared_units_back(gateways):
    """A key whose node is away is denied by its part of its own limits, and takes nothing from others by that."""

    def fill(catalog):
        one_plan(catalog, stage=Throttle("1/1000", 20), burst=3)
        return [catalog.create_key(plans=["gold"]).value for _ in range(6)]

    (limiter,), keys = gateways(1, fill, denial_cache=False)
    away = NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    decisions = [limiter.check(keys[0], STAGE, METHOD) for _ in range(30)]
    assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 27
    assert {(decision.limited_by, decision.source) for decision in decisions[3:]} == {("plan:gold", "local")}
    assert {limit.remaining for limit in decisions[-1].limits if limit.name.startswith("stage")} == {17}
    assert sum(limiter.check(key, STAGE, METHOD).allowed for key in keys[1:] for _ in range(3)) == 15
    away.is_away = lambda name: False
    assert limiter.peek(keys[0], STAGE, METHOD).limits[1].remaining == 2


def test_units_of_an_unknown_outcome_stay_spent_though_the_key_is_denied(gateways):
    """Perhaps the key's script has admitted it."""

    def fill(catalog):
        one_plan(catalog, stage=Throttle("1/1000", 20), burst=3)
        return [catalog.create_key(plans=["gold"]).value for _ in range(7)]

    (limiter,), keys = gateways(1, fill, denial_cache=False)
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__, StoreTimeout)
    assert sum(limiter.check(keys[0], STAGE, METHOD).allowed for _ in range(5)) == 3
    assert sum(limiter.check(key, STAGE, METHOD).allowed for key in keys[1:] for _ in range(3)) == 15


@pytest.mark.parametrize("policy", ["local", "open"])
def test_a_shared_limit_that_denies_is_obeyed_while_a_keys_node_is_away(gateways, clock, policy):
    """With its own name and wait, and with all limits in their order."""

    def fill(catalog):
        return shared_stage(catalog, stage=Throttle(1, 10))

    options = {"on_unavailable": policy, "replicas": 4, "denial_cache": False}
    (limiter,), keys = gateways(1, fill, **options)
    assert limiter.check(keys[1], STAGE, METHOD, 10).allowed
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    decision = limiter.check(keys[0], STAGE, METHOD, 2)
    assert (decision.status, decision.limited_by, decision.source) == (429, f"stage:{STAGE}:*", "local")
    assert (decision.retry_after, decision.cause) == (2.0, "not_sent")
    assert [limit.name for limit in decision.limits] == ["plan:gold", f"stage:{STAGE}:*", "quota:gold"]
    assert [limit.retry_after for limit in decision.limits] == [0, 2, 0]
    clock.advance(1.999_999)
    assert not limiter.check(keys[0], STAGE, METHOD, 2).allowed
    clock.advance(0.000_001)
    admitted = limiter.check(keys[0], STAGE, METHOD, 2)
    assert (admitted.allowed, admitted.source) == (True, "local" if policy == "local" else "fail_open")
    # What was denied has taken nothing of the key's own limits.
    assert admitted.limits[2].remaining == (10**6 // 4 - 2 if policy == "local" else 10**6)


def test_limits_of_a_key_whose_node_is_away_are_its_part_and_shared_ones_are_whole(gateways, clock):
    (limiter,), keys = gateways(1, shared_stage, replicas=4, denial_cache=False)
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    plan, stage, quota = limiter.check(keys[0], STAGE, METHOD, 3).limits
    assert (plan.remaining, stage.remaining, quota.remaining) == (10**5 // 4 - 3, 97, 10**6 // 4 - 3)
    assert stage.reset_after == 3000
    assert plan.reset_after == pytest.approx((10**5 - 25_000 + 3) / 250, abs=0.01)
    peek = limiter.peek(keys[0], STAGE, METHOD, 3)
    assert [limit.remaining for limit in peek.limits] == [plan.remaining, 97, quota.remaining]


def test_what_was_paid_is_charged_once(gateways, clock):
    """The key's own limits are charged when its node answers again, the shared one never again."""
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False)
    away = NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    assert all(limiter.check(keys[0], STAGE, METHOD, 4).allowed for _ in range(10))
    away.is_away = lambda name: False
    limiter._tick()
    limits = {limit.name: limit.remaining for limit in limiter.peek(keys[0], STAGE, METHOD).limits}
    assert (limits[f"stage:{STAGE}:*"], limits["quota:gold"]) == (60, 10**6 - 40)


def test_a_key_with_a_lease_pays_shared_limits_while_its_node_is_away(gateways, clock):
    limiters, keys = gateways(2, lambda catalog: shared_stage(catalog, lease=0.05), denial_cache=False)
    for limiter in limiters:
        NodesAway(limiter, hashes_of(limiter, keys[:3]).__contains__)
    admitted = 0
    for _ in range(20):
        for limiter in limiters:
            for key in keys:
                admitted += limiter.check(key, STAGE, METHOD).allowed
                clock.advance(0.001)
    assert admitted == 100


def test_the_policy_closed_puts_units_back(gateways):
    (limiter,), keys = gateways(1, shared_stage, on_unavailable="closed", denial_cache=False)
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    assert {limiter.check(keys[0], STAGE, METHOD).status for _ in range(200)} == {503}
    assert sum(limiter.check(key, STAGE, METHOD).allowed for key in keys[1:] for _ in range(30)) == 100


def test_unmatched_requests_meet_a_shared_limit_while_the_callers_node_is_away(gateways, clock):
    """Their key is judged by what is known of it, and the stage's limit by itself."""
    limiters, keys = gateways(3, shared_stage, denial_cache=False)
    for limiter in limiters:
        NodesAway(limiter, hashes_of(limiter, keys[:3]).__contains__)
    decisions = {key: [] for key in keys}
    for _ in range(10):
        for limiter in limiters:
            for key in keys:
                decisions[key].append(limiter._check_shared(key, STAGE))
            clock.advance(0.001)
    assert sum(decision.allowed for each in decisions.values() for decision in each) == 100
    assert {decision.source for decision in decisions[keys[0]] if decision.allowed} == {"local"}
    assert not any(decision.degraded for decision in decisions[keys[-1]])
    assert limiters[0]._check_shared("no key of ours", STAGE).status == 403


def test_what_other_limits_said_decides_nothing(gateways):
    """The catalogue may change while a check is under way: its units are put back, and others are taken."""
    (limiter,), keys = gateways(1, shared_stage)
    checker, slots = limiter._checker, limiter._checker.slots
    prepared = checker.prepared(keys[0], STAGE, METHOD)
    verdict = limiter._store.run(slots.ask(prepared, 5))
    with pytest.raises(StoreUnavailable) as raised:
        slots.abandon(prepared, verdict, StoreUnavailable("the node is away"))
    other = checker.prepare_without_key(STAGE, METHOD).spread
    limiter._store.run(slots.ask(prepared, 40))  # that much stays spent
    assert slots.verdict_of(raised.value, other, 1, limiter._namespace.age_us(), peek=True) is None
    slots.give_up(raised.value)
    assert sum(limiter.check(key, STAGE, METHOD).allowed for key in keys for _ in range(20)) == 60


def test_a_part_decides_where_the_shared_limits_node_is_away_too(gateways, clock):
    """As for any outage: half of what was last seen for one of two processes."""
    (limiter,), keys = gateways(1, shared_stage, replicas=2, denial_cache=False)
    NodesAway(limiter, lambda name: name in hashes_of(limiter, keys[:1]) or is_shared(name))
    assert sum(limiter.check(keys[0], STAGE, METHOD).allowed for _ in range(100)) == 50


# Requests that match no route


def test_an_outage_that_an_unmatched_request_began_ends(gateways, clock, caplog):
    """It is logged as any other, and the next outage divides limits among those who are there by then."""
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False)
    away, local = NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__), limiter._without_redis.local
    now_s = 1000.0
    limiter._failures._clock = lambda: now_s
    assert limiter._check_shared(keys[0], STAGE).allowed
    assert (local.is_away, local.replicas) == (True, 1)
    away.is_away = lambda name: False
    now_s += 2
    assert not limiter.check(keys[0], STAGE, METHOD).degraded
    assert not local.is_away
    assert [record.getMessage() for record in caplog.records] == [
        "checks are decided locally (not_sent): StoreUnavailable: the node is away",
        "Redis answers again; decided locally within 2.0 s: 1 (1 not_sent)",
    ]
    limiter._without_redis.replicas.note(4)
    away.is_away = hashes_of(limiter, keys[:1]).__contains__
    assert limiter.check(keys[0], STAGE, METHOD).allowed
    assert (local.is_away, local.replicas) == (True, 4)


def test_an_unmatched_request_that_is_answered_503_is_logged(gateways, caplog):
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False, on_unavailable="closed")
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    assert limiter._check_shared(keys[0], STAGE).status == 503
    assert [record.getMessage() for record in caplog.records] == [
        "checks are answered 503 (not_sent): StoreUnavailable: the node is away"
    ]


def test_a_checker_without_a_limiter_answers_503(gateways):
    """Nobody has said how it is to decide what gets no answer."""
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False)
    checker = limiter._checker
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    checker.judge_caller = Checker(limiter._namespace, 5, checker._replicas, **ALONE).judge_caller
    decision = limiter._store.run(checker.check_shared(keys[0], STAGE, 1, key_required=True))
    assert (decision.status, decision.cause) == (503, "not_sent")


# What an error says


@pytest.mark.parametrize(("policy", "status", "source"), [("local", 200, "local"), ("closed", 503, "fail_closed")])
def test_a_script_that_was_refused_a_command_is_an_outage(gateways, policy, status, source):
    """Also where shared limits were asked before."""
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False, on_unavailable=policy)

    def refusal(_):
        return error_mapping.after_sending(ResponseError("ACL failure in script: No permissions"))

    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__, refusal)
    decision = limiter.check(keys[0], STAGE, METHOD)
    assert (decision.status, decision.source, decision.cause) == (status, source, "refused")


# Identities beyond the bound of their plan


def test_who_is_beyond_the_bound_of_identities_pays_shared_limits(gateways):
    """It is asked as a peek, whose word on shared limits pays for nothing if the answer never comes."""

    def fill(catalog):
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 10**5), None, [STAGE], max_identities=2))
        catalog.put_stage(Stage(STAGE, Throttle("1/1000", 7)))
        return []

    (limiter,), _ = gateways(1, fill, denial_cache=False)
    assert all(limiter.check(Identity(f"user:{number}", plan="gold"), STAGE, METHOD).allowed for number in range(2))
    beyond = [Identity(f"other:{number}", plan="gold") for number in range(50)]
    assert limiter.check(beyond[0], STAGE, METHOD).limited_by == "identities"
    names = {limiter._checker.prepare_identity(each, STAGE, METHOD)._redis_keys[0] for each in beyond}
    execute = limiter._store._execute

    def refuse_scripts(request, *wait):
        if isinstance(request, ScriptCall) and request.keys[0] in names:
            raise StoreUnavailable("the deadline has passed")
        return execute(request, *wait)

    limiter._store._execute = refuse_scripts
    decisions = [limiter.check(each, STAGE, METHOD) for each in beyond]
    assert sum(decision.allowed for decision in decisions) == 5
    assert decisions[-1].limited_by == f"stage:{STAGE}:*"


# When Redis answers again


def test_the_denial_of_one_shared_limit_is_no_answer_of_another(gateways, clock, caplog):
    """It is not logged that Redis answers again as long as one node is away."""

    def fill(catalog):
        return shared_stage(catalog, account=Throttle("1/1000", 5))

    (limiter,), keys = gateways(1, fill, denial_cache=False)
    away = NodesAway(limiter, lambda name: name == NAMES.stage_bucket(STAGE, "*"))
    now_s = 1000.0
    limiter._shared_failures._clock = lambda: now_s
    for _ in range(3):
        for _ in range(8):
            limiter.check(keys[0], STAGE, METHOD)
        now_s += 2
        clock.advance(2)
    assert not any("answers again" in record.getMessage() for record in caplog.records)
    assert limiter._shared_failures.is_failing
    away.is_away = lambda name: False
    limiter.check(keys[0], STAGE, METHOD)
    assert sum("answers again" in record.getMessage() for record in caplog.records) == 1


# What is left of a failed check


def test_no_error_is_kept_for_a_caller(gateways):
    """Its traceback would keep all that the check has used."""
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False)
    NodesAway(limiter, is_shared)
    decision = limiter.check(keys[0], STAGE, METHOD)
    assert (decision.source, decision.cause, decision.error) == ("local", "not_sent", "the node is away")
    reply = limiter._checker.prepared(keys[0], STAGE, METHOD).last_reply
    assert (reply.cause, reply.error) == ("not_sent", "the node is away")
    assert not any(isinstance(each, BaseException) for each in gc.get_referents(reply))


@pytest.mark.parametrize("policy", ["local", "closed"])
@pytest.mark.parametrize("which", ["key", "shared limits", "one shared limit", "all"])
def test_a_failed_check_leaves_no_reference_cycle(gateways, which, policy):
    """What it has used is gone at once, before garbage is collected."""

    def fill(catalog):
        return shared_stage(catalog, account=HUNDRED)

    (limiter,), keys = gateways(1, fill, denial_cache=False, on_unavailable=policy)
    hashes = hashes_of(limiter, keys[:1])
    is_away = {
        "key": hashes.__contains__,
        "shared limits": is_shared,
        "one shared limit": lambda name: name == NAMES.account,
        "all": lambda name: name in hashes or is_shared(name),
    }[which]
    NodesAway(limiter, is_away)
    assert limiter.check(keys[0], STAGE, METHOD).degraded
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            limiter.check(keys[0], STAGE, METHOD)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_units_are_put_back_if_a_check_cannot_be_judged(gateways):
    (limiter,), keys = gateways(1, shared_stage, denial_cache=False)
    NodesAway(limiter, hashes_of(limiter, keys[:1]).__contains__)
    without_redis = limiter._without_redis

    def unreadable(*_):
        raise StoreError("it was never read")

    without_redis._own_states = unreadable
    assert {limiter.check(keys[0], STAGE, METHOD).status for _ in range(30)} == {503}
    assert sum(limiter.check(keys[1], STAGE, METHOD).allowed for _ in range(120)) == 100


# What is demanded


@pytest.mark.parametrize("lease", [0, 0.5])
@pytest.mark.parametrize("which", ["none", "key", "shared", "both"])
def test_a_check_is_one_demand(gateways, clock, lease, which):
    """Whatever is tried for it."""
    (limiter,), keys = gateways(1, lambda catalog: shared_stage(catalog, lease=lease), denial_cache=False)
    hashes = hashes_of(limiter, keys[:1])
    if which != "none":
        NodesAway(
            limiter,
            lambda name: (which != "shared" and name in hashes) or (which != "key" and is_shared(name)),
        )
    for _ in range(300):
        limiter.check(keys[0], STAGE, METHOD)
        clock.advance(0.001)
    figures = limiter._checker.slots.shared.figures()
    assert {name: each.demanded for name, each in figures.items()} == {NAMES.stage_bucket(STAGE, "*"): 300}
