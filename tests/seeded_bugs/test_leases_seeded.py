"""The tests of leases fail on bugs that leases are prone to."""

from contextlib import contextmanager
from unittest.mock import patch

import pytest
from engine import test_leases as tests
from helpers.leases import gold_key, used
from helpers.lua_mutation import bug
from helpers.replica import METHOD, STAGE, caching_replica

from ratelimit.local import leases


def everything_is_given_back():
    """Also what the bucket has refilled since the charge."""
    return bug("units * its_per - elapsed * its_rate", "units * its_per", "return_lease")


def the_count_is_not_given_back():
    return bug("if window == charge_window", "if false", "return_lease")


def a_day_that_is_over_keeps_what_was_not_spent():
    return bug("if closed_day and #closed_day == CLOSED_DAY_SIZE", "if false", "return_lease")


def days_never_end():
    return patch.object(leases, "DAY_US", 86_400_000_000_000)


def a_term_lasts_for_ever():
    return patch.object(leases, "MICROSECONDS", 10**12)


def nearly_all_that_is_left_is_leased():
    return patch.object(leases, "_SHARE", 0.1)


@contextmanager
def a_push_is_not_heard():
    with patch.object(leases.Leases, "end", lambda *_: None):
        yield


def what_a_push_ends_is_spent():
    return patch.object(leases.Lease, "end", lambda _: None)


@pytest.mark.parametrize(
    ("seeded", "test", "arguments"),
    [
        (everything_is_given_back, tests.test_what_the_bucket_refilled_meanwhile_is_not_given_back, ()),
        (the_count_is_not_given_back, tests.test_closing_gives_back_what_was_not_spent, ()),
        (days_never_end, tests.test_a_lease_ends_with_its_day_and_window, ("2026-03-04T23:59:59.990000",)),
        (a_term_lasts_for_ever, tests.test_a_lease_ends_after_its_term, ()),
        (nearly_all_that_is_left_is_leased, tests.test_near_the_limit_checks_are_exact, ()),
        (a_push_is_not_heard, tests.test_a_push_ends_a_lease, ("keys",)),
        (what_a_push_ends_is_spent, tests.test_a_push_ends_a_lease, ("keys",)),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_seeded_bug_is_found(backend, clock, seeded, test, arguments):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    with seeded(), pytest.raises(AssertionError):
        test(backend, clock, *arguments)


def late_return(backend, clock):
    """A lease that ends before midnight, and is given back after the first check of the next day."""
    clock.set("2026-03-04T23:59:59.900000")
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter, caching_replica(backend, clock) as other:
        tests.warm(limiter, clock, key, 40)
        clock.advance(1)
        assert other.check(key.value, STAGE, METHOD).allowed
        limiter._tick()
        usage = limiter.catalog.usage("gold", "2026-03-04", "2026-03-05", key_id=key.id).items[key.id]
        assert [units for units, _ in usage] == [40, 1]
        assert used(backend, key)[:2] == (1, 1)


def test_a_day_that_is_over_gets_back_what_was_not_spent_in_it(backend, clock):
    """The day's figure is what was admitted on it, also where it is corrected on the next; with a bug it is not."""
    late_return(backend, clock)
    with a_day_that_is_over_keeps_what_was_not_spent(), pytest.raises(AssertionError):
        late_return(backend, clock)
