"""Shadows: a plan that is tried out sees what the plan in force admits, never denies, and counts what it would have."""

import asyncio
from collections import Counter

import pytest
from helpers.lua_mutation import bug
from helpers.redis_snapshot import exact_snapshot
from helpers.replica import METHOD, OTHER, STAGE, replica
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratelimit import (
    AsyncLimiter,
    ConfigError,
    Conflict,
    NotFound,
    PlanStage,
    Quota,
    Stage,
    Throttle,
    UsagePlan,
)
from ratelimit.engine.compile import compile_limits
from ratelimit.engine.reference_model import Reference

SECOND = "petstore/test"
UNLISTED = "GET /whatever"
SLOW = "1/1000000"


def hash_of(client, key, namespace="ratelimit"):
    return client.hgetall(f"{namespace}:{{{key.id}}}")


def shadow_fields(client, key):
    return {name: value for name, value in hash_of(client, key).items() if name.startswith(b"s:")}


def counts(catalog, plan_id="gold"):
    return {row.key_id: (row.seen, row.throttled, row.exceeded) for row in catalog.shadow_counts(plan_id)}


@pytest.fixture
def trial(limiter, backend):
    """Gold, 20 at once and 100 a day, tries out "next": 3 at once and 5 a day. A limiter, a key and a client."""
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 3), Quota(5, "DAY"), [STAGE]))
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 20), Quota(100, "DAY"), [STAGE, SECOND], shadow="next"))
    with backend.client() as client:
        yield limiter, limiter.catalog.create_key(plans=["gold"]), client


def use(limiter, key, times, cost=1, stage=STAGE):
    return sum(limiter.check(key.value, stage, METHOD, cost).allowed for _ in range(times))


# What it does


def test_a_shadow_never_denies(trial):
    """20 are admitted as without it; of them it saw 20 and would have throttled 17."""
    limiter, key, _ = trial
    decisions = [limiter.check(key.value, STAGE, METHOD) for _ in range(21)]
    assert [decision.allowed for decision in decisions] == [True] * 20 + [False]
    assert {limit.name for decision in decisions for limit in decision.limits} == {"plan:gold", "quota:gold"}
    assert counts(limiter.catalog) == {key.id: (20, 17, 0)}


def test_a_throttle_comes_before_a_quota(trial):
    """A request that meets both is counted once, as throttled: the order in which a plan would name them."""
    limiter, key, _ = trial
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 3), Quota(3, "DAY"), [STAGE]))
    assert use(limiter, key, 5) == 5
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 100), Quota(3, "DAY"), [STAGE]))
    assert counts(limiter.catalog) == {key.id: (5, 2, 0)}
    assert use(limiter, key, 1) == 1
    (row,) = limiter.catalog.shadow_counts("gold")
    assert (row.seen, row.throttled + row.exceeded, row.denied) == (6, 3, 3)


def test_the_most_denied_come_first(trial):
    """Keys that the shadow saw, by how often it would have denied them; those it never saw are left out."""
    limiter, key, _ = trial
    other, third, idle = (limiter.catalog.create_key(plans=["gold"]) for _ in range(3))
    assert (use(limiter, key, 4), use(limiter, other, 9), use(limiter, third, 2)) == (4, 9, 2)
    rows = limiter.catalog.shadow_counts("gold")
    assert [(one.key_id, one.seen, one.denied) for one in rows] == [(other.id, 9, 6), (key.id, 4, 1), (third.id, 2, 0)]
    assert idle.id not in counts(limiter.catalog)


def test_a_stage_that_the_shadow_does_not_open_is_not_seen(trial):
    """Requests there have nothing to do with the trial."""
    limiter, key, client = trial
    assert use(limiter, key, 2, stage=SECOND) == 2
    assert shadow_fields(client, key) == {}
    assert counts(limiter.catalog) == {}


def test_limits_that_callers_share_are_not_tried_out(trial):
    """The shadow is a plan: a stage's and the account's buckets are charged once, by the plan in force."""
    limiter, key, _ = trial
    limiter.catalog.put_stage(Stage(STAGE, Throttle(SLOW, 2)))
    assert use(limiter, key, 4) == 2
    assert counts(limiter.catalog) == {key.id: (2, 0, 0)}


@pytest.mark.parametrize("denied_by", ["plan", "quota", "stage"])
def test_a_denied_check_leaves_the_shadow_untouched(trial, backend, clock, denied_by):
    """Promise 1: whichever limit denies, nothing in Redis changes, and the shadow saw nothing."""
    limiter, key, client = trial
    throttle, quota = Throttle(SLOW, 2 if denied_by == "plan" else 9), Quota(2 if denied_by == "quota" else 9, "DAY")
    limiter.catalog.put_plan(UsagePlan("gold", throttle, quota, [STAGE], shadow="next"))
    limiter.catalog.put_stage(Stage(STAGE, Throttle(SLOW, 2 if denied_by == "stage" else 9)))
    assert use(limiter, key, 2) == 2
    before, seen = exact_snapshot(backend), shadow_fields(client, key)
    clock.advance(1)
    assert use(limiter, key, 3) == 0
    limiter.peek(key.value, STAGE, METHOD)
    assert exact_snapshot(backend) == before
    clock.advance(-10)  # the plan's own limits are re-anchored, the shadow's are not
    assert use(limiter, key, 1) == 0
    assert shadow_fields(client, key) == seen
    assert counts(limiter.catalog) == {key.id: (2, 0, 0)}


def test_a_peek_is_not_seen(trial, backend):
    """Nothing is written."""
    limiter, key, _ = trial
    before = exact_snapshot(backend)
    assert limiter.peek(key.value, STAGE, METHOD).allowed
    assert exact_snapshot(backend) == before


def test_a_key_that_moves_keeps_its_counts(trial):
    """Counts belong to key and shadow: out of the plan they are not reported, back in it they go on."""
    limiter, key, _ = trial
    assert use(limiter, key, 4) == 4
    limiter.catalog.remove_key_from_plan(key.id, "gold")
    assert counts(limiter.catalog) == {}
    limiter.catalog.add_key_to_plan(key.id, "gold")
    assert use(limiter, key, 1) == 1
    assert counts(limiter.catalog) == {key.id: (5, 2, 0)}


def test_a_key_in_the_successor_has_limits_of_its_own_there(trial):
    """What a shadow counted is not charged to the plan when it comes into force."""
    limiter, key, _ = trial
    assert use(limiter, key, 4) == 4
    limiter.catalog.remove_key_from_plan(key.id, "gold")
    limiter.catalog.add_key_to_plan(key.id, "next")
    assert use(limiter, key, 4) == 3


@pytest.mark.parametrize("quota", [None, Quota(100, "WEEK", 3), Quota(100, "MONTH")])
def test_a_shadow_has_windows_of_its_own(trial, clock, quota):
    """Whatever windows the plan in force has, its shadow's quota of a day counts on every day."""
    limiter, key, _ = trial
    limiter.catalog.put_plan(UsagePlan("next", None, Quota(3, "DAY"), [STAGE]))
    limiter.catalog.put_plan(UsagePlan("gold", None, quota, [STAGE], shadow="next"))
    for day in range(1, 6):
        assert use(limiter, key, 5) == 5
        assert counts(limiter.catalog) == {key.id: (5 * day, 0, 2 * day)}
        clock.advance(86_400)


def test_a_method_with_a_bucket_of_its_own_starts_full(trial):
    """That the successor's other bucket is empty means nothing to it."""
    limiter, key, _ = trial
    entries = PlanStage(STAGE, {METHOD: Throttle(SLOW, 3)})
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 2), None, [entries]))
    for _ in range(3):
        assert limiter.check(key.value, STAGE, OTHER).allowed
    assert use(limiter, key, 3) == 3
    assert counts(limiter.catalog) == {key.id: (6, 1, 0)}


def test_what_would_be_denied_leaves_the_buckets(trial, clock):
    """A small step back after it finds them as they were: as a plan in force that had denied it."""
    limiter, key, _ = trial
    limiter.catalog.put_plan(UsagePlan("next", Throttle(1, 2), None, [STAGE]))
    assert use(limiter, key, 1, cost=2) == 1
    clock.advance(1.5)
    assert use(limiter, key, 1, cost=2) == 1  # 1.5 tokens: would be denied
    clock.advance(-1.5)
    assert use(limiter, key, 1) == 1  # no token: would be denied
    assert counts(limiter.catalog) == {key.id: (3, 2, 0)}


def test_what_would_be_denied_makes_no_bucket(trial):
    """A successor that is given a larger burst after it starts full."""
    limiter, key, _ = trial
    assert use(limiter, key, 1, cost=4) == 1
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 20), None, [STAGE]))
    assert use(limiter, key, 1, cost=4) == 1
    assert counts(limiter.catalog) == {key.id: (2, 1, 0)}


LIFTED = {"throttle": (Throttle(SLOW, 5), None), "quota": (None, Quota(5, "DAY"))}


@pytest.mark.parametrize("limit", LIFTED)
def test_a_limit_that_is_lifted_for_a_while_keeps_its_state(trial, limit):
    """What is asked without a throttle, or a quota, is not charged to it when it comes back."""
    limiter, key, _ = trial
    limited = UsagePlan("next", *LIFTED[limit], [STAGE])
    limiter.catalog.put_plan(limited)
    assert use(limiter, key, 2) == 2
    limiter.catalog.put_plan(UsagePlan("next", None, None, [STAGE]))
    assert use(limiter, key, 10) == 10
    limiter.catalog.put_plan(limited)
    assert use(limiter, key, 4) == 4
    assert counts(limiter.catalog) == {key.id: (16, limit == "throttle", limit == "quota")}


# Administration


def test_reset_starts_the_trial_anew(trial):
    """Counts and buckets are gone, for each key of the plan, and the plan's own state stays."""
    limiter, key, client = trial
    other = limiter.catalog.create_key(plans=["gold"])
    assert (use(limiter, key, 5), use(limiter, other, 2)) == (5, 2)
    before = {name: value for name, value in hash_of(client, key).items() if not name.startswith(b"s:")}
    limiter.catalog.reset_shadow("gold")
    assert counts(limiter.catalog) == {}
    assert hash_of(client, key) == before
    assert use(limiter, key, 4) == 4
    assert counts(limiter.catalog) == {key.id: (4, 1, 0)}


def test_reset_takes_the_buckets_of_methods_too(trial):
    """A method's bucket is full again after a reset."""
    limiter, key, client = trial
    entries = PlanStage(STAGE, {METHOD: Throttle(SLOW, 2)})
    limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 9), None, [entries], throttle_scope="key_method"))
    for expected in (1, 1):
        assert use(limiter, key, 3) == 3
        assert limiter.check(key.value, STAGE, OTHER).allowed
        assert counts(limiter.catalog) == {key.id: (4, expected, 0)}
        limiter.catalog.reset_shadow("gold")
        assert shadow_fields(client, key) == {}


def test_asyncio_counts_and_resets_alike(trial, backend, clock):
    """The twin's counts are the same."""
    limiter, key, _ = trial
    assert use(limiter, key, 4) == 4

    async def ask():
        client = backend.async_client()
        async with AsyncLimiter(client, deadline=5.0, clock=clock) as twin:
            assert (await twin.check(key.value, STAGE, METHOD)).allowed
            rows = await twin.catalog.shadow_counts("gold")
            await twin.catalog.reset_shadow("gold")
            empty = await twin.catalog.shadow_counts("gold")
        await client.aclose()
        return rows, empty

    rows, empty = asyncio.run(ask())
    assert [(one.key_id, one.seen, one.throttled) for one in rows] == [(key.id, 5, 2)]
    assert empty == counts(limiter.catalog).get("none", [])


def test_an_unknown_shadow_is_refused(trial):
    """NotFound, and the plan stays as it was."""
    limiter, _, _ = trial
    before = limiter.catalog.get_plan("gold")
    with pytest.raises(NotFound, match="'nothing'"):
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE], shadow="nothing"))
    assert limiter.catalog.get_plan("gold") == before


def test_a_plan_is_no_shadow_of_itself():
    """ConfigError, when the plan is made."""
    with pytest.raises(ConfigError, match="another plan"):
        UsagePlan("gold", shadow="gold")


def test_a_plan_that_is_a_shadow_is_not_deleted(trial):
    """It is refused, naming who tries it out, until nobody does."""
    limiter, _, _ = trial
    with pytest.raises(Conflict, match="'next' is the shadow of plan 'gold'"):
        limiter.catalog.delete_plan("next")
    assert [plan.id for plan in limiter.catalog.plans()] == ["gold", "next"]
    limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
    limiter.catalog.delete_plan("next")
    assert [plan.id for plan in limiter.catalog.plans()] == ["gold"]


@pytest.mark.parametrize("ask", ["shadow_counts", "reset_shadow"])
def test_a_plan_without_a_shadow_is_reported(trial, ask):
    """NotFound for an unknown plan, ConfigError for one without a shadow."""
    limiter, _, _ = trial
    with pytest.raises(NotFound):
        getattr(limiter.catalog, ask)("nothing")
    with pytest.raises(ConfigError, match="has no shadow"):
        getattr(limiter.catalog, ask)("next")


# Against the exact model

throttles = st.builds(Throttle, st.sampled_from((1, "1/3", "7/10", 4, SLOW, 0)), st.sampled_from((1, 2, 5, 20, 0)))
quotas = st.one_of(
    st.builds(Quota, st.sampled_from((0, 2, 6, 30)), st.just("DAY")),
    st.builds(Quota, st.sampled_from((3, 12)), st.just("WEEK"), st.integers(0, 6)),
    st.builds(Quota, st.sampled_from((3, 12, 50)), st.just("MONTH"), st.integers(0, 27)),
)


@st.composite
def successors(draw):
    throttle = draw(st.none() | throttles)
    entries = draw(st.dictionaries(st.sampled_from((METHOD, OTHER)), throttles, max_size=2)) if throttle else {}
    opened = draw(st.sampled_from(((STAGE,), (STAGE, SECOND))))
    stages = [PlanStage(stage, entries if stage == STAGE else {}) for stage in opened]
    scope = draw(st.sampled_from(("key", "key_method")))
    return UsagePlan("next", throttle, draw(st.none() | quotas), stages, throttle_scope=scope)


forwards = st.sampled_from((0, 0, 0, 1, 333_333, 1_000_000, 3_000_000, 3_600_000_000, 86_400_000_000, 864_000_000_000))
backwards = st.sampled_from((-1, -500_000, -2_000_000, -2_000_001, -60_000_000, -86_400_000_000))
requests = st.tuples(
    st.sampled_from((STAGE, STAGE, SECOND)),
    st.sampled_from((METHOD, OTHER, UNLISTED)),
    st.sampled_from((1, 1, 1, 2, 4, 7, 0)),
)
GOLD = (Throttle(2, 8), Quota(60, "WEEK", 3))


def counts_equal_the_model(backend, clock, examples, steps, changes=0):
    """Whatever is asked, the counts are those of the exact model of the successor, fed with what was admitted.

    `changes` is how often the successor is replaced meanwhile. All that the plan in force does equals what it does in
    another namespace, where it has no shadow.
    """
    with replica(backend, clock=clock) as tried, replica(backend, clock=clock, namespace="plain") as plain:

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.lists(successors(), min_size=1 + changes, max_size=1 + changes),
            st.lists(st.tuples(steps, requests), min_size=10, max_size=40),
        )
        def run(plans, events):
            with backend.client() as client:
                client.flushall()
                clock.set("2026-03-04T12:00:00")
                model, seen = Reference(), Counter()
                keys = []
                for limiter, shadow in ((tried, "next"), (plain, None)):
                    limiter.catalog.put_plan(plans[0])
                    limiter.catalog.put_plan(UsagePlan("gold", *GOLD, [STAGE, SECOND], shadow=shadow))
                    keys.append(limiter.catalog.create_key(plans=["gold"]))
                for at, (step, (stage, method, cost)) in enumerate(events):
                    clock.advance_us(step)
                    if at and at % (len(events) // len(plans) + 1) == 0:
                        for limiter in (tried, plain):
                            limiter.catalog.put_plan(plans[at // (len(events) // len(plans) + 1)])
                    decision = tried.check(keys[0].value, stage, method, cost)
                    assert decision == plain.check(keys[1].value, stage, method, cost)
                    assert in_force(client, keys[0], "ratelimit") == in_force(client, keys[1], "plain")
                    successor = tried.catalog.get_plan("next")
                    if decision.allowed and cost and successor.stage(stage):
                        limits = compile_limits(
                            tried._namespace.snapshot, successor, stage, method, tried._namespace.names
                        ).limits
                        verdict = model.check("key", limits, cost, clock())
                        denied = (verdict.limited_by or "").split(":")[0]
                        seen.update(["seen", denied] if denied else ["seen"])
                    expected = (seen["seen"], seen["plan"], seen["quota"])
                    assert counts(tried.catalog).get(keys[0].id, (0, 0, 0)) == expected

        run()


def in_force(client, key, namespace):
    """A key's state without its shadow's and without its revision."""
    return {
        name: value for name, value in hash_of(client, key, namespace).items() if name != b"r" and name[:2] != b"s:"
    }


def examples(backend):
    return 15 if backend.server is None else 50


def test_counts_equal_the_model(backend, clock):
    """Over buckets of plans and methods, both scopes, and all windows."""
    counts_equal_the_model(backend, clock, examples(backend), forwards)


def test_counts_equal_the_model_when_the_clock_steps_back(backend, clock):
    """Small steps back are tolerated, large ones re-anchor, as the plan itself would have it."""
    counts_equal_the_model(backend, clock, examples(backend), forwards | backwards)


def test_counts_equal_the_model_when_the_successor_changes(backend, clock):
    """A trial goes on while the successor is adjusted."""
    counts_equal_the_model(backend, clock, examples(backend), forwards, changes=2)


BUGS = {
    "charged although denied": ("local admits = fits and within_quota", "local admits = fits"),
    "sees what is denied": ("if has_shadow and not peeks and not denied then", "if has_shadow and not peeks then"),
    "window not told apart": ("    if not goes_on then new_used = 0 end\n", ""),
    "the last unit refused": ("within_quota = new_used + cost <= quota", "within_quota = new_used + cost < quota"),
    "its bucket is not charged": ("new_level = new_level - cost * new_per", "new_level = new_level"),
    "windows not kept current": ("if limit >= 0 and (now <", "if false and (now <"),
}


@pytest.mark.parametrize("name", BUGS)
def test_the_model_notices(server, clock, name):
    """Each of these bugs breaks the equality, and the test of it fails."""
    with bug(*BUGS[name]), pytest.raises(AssertionError):
        counts_equal_the_model(server, clock, 100, forwards)


def test_a_bug_in_the_buckets_of_methods_is_noticed(server, clock):
    """A method's first request that meets what another bucket holds is found."""
    with (
        bug("if method_state ~= nil then b_per = 0 end", ""),
        replica(server, clock=clock) as limiter,
    ):
        limiter.catalog.put_plan(UsagePlan("next", Throttle(SLOW, 3), None, [STAGE]))
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE], shadow="next"))
        key = limiter.catalog.create_key(plans=["gold"])
        with server.client() as client, pytest.raises(AssertionError):
            test_a_method_with_a_bucket_of_its_own_starts_full((limiter, key, client))
