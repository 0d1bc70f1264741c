"""lua/check_many.lua: checks that are asked at once, held against check.lua and against the promises."""

import pytest
from helpers.batch_scenarios import scenarios
from helpers.worlds import PLAIN_NOW, Plain, Real, at_once, completed, needlessly_left_out, one_by_one, told_at_once
from hypothesis import HealthCheck, given, settings
from properties.promises import batches


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=scenarios())
def test_checks_at_once_are_as_one_after_the_other(client, world):
    """The same replies, the same bytes in Redis, and an expiry where there was one, whatever is stored and asked."""
    state, asked = world
    alone = Real(client, state)
    expected = one_by_one(alone.ask, asked), alone.held()
    together = Real(client, state)
    replies = told_at_once(together.ask, asked)
    assert needlessly_left_out(state, asked, replies, expected[0]) == []
    assert (completed(together.ask, asked, replies), together.held()) == expected


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(world=scenarios(PLAIN_NOW, 0))
def test_by_the_servers_clock_expiries_are_the_same_too(world):
    """Where the clock stands still, also each expiry to the millisecond."""
    state, asked = world
    alone, together = Plain(state), Plain(state)
    assert at_once(together.ask, asked) == one_by_one(alone.ask, asked)
    assert together.held() == alone.held()


@pytest.mark.parametrize(
    "promise",
    [
        batches.checks_at_once_are_charged_one_by_one,
        batches.each_of_many_keys_is_charged,
        batches.methods_of_one_key_count_for_one_quota,
        batches.nobody_is_overtaken,
        batches.checks_at_once_obey,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_promise_holds_for_checks_at_once(backend, clock, promise):
    """Charged one by one, all or nothing, in order; and a revoked key is refused."""
    promise(backend, clock)


def test_an_expiry_outlasts_the_way_to_full(backend):
    """Kept for a minute longer, and not renewed more often than needed."""
    batches.an_expiry_outlasts_the_way_to_full(backend)
