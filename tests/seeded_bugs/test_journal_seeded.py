"""The tests of journals fail on bugs that journals are prone to: in the scripts, and in what reads their states."""

from contextlib import contextmanager
from unittest.mock import patch

import pytest
from engine import test_below_zero as decisions
from helpers.lua_mutation import bug
from vectors.packing import KEY, METHOD, TODAY, bucket, count, doubles, version_token

from lua import test_charge_journal as tests
from lua import test_heartbeat as heartbeats
from ratelimit.engine.limits import LimitNumbers

NAN = float("nan")
_right_reset = LimitNumbers.remaining_and_reset_us


def level_as_it_is(numbers, level, last_us, now_us):
    """What is left, also where it is below zero."""
    _, reset_us = _right_reset(numbers, level, last_us, now_us)
    return int(numbers._refilled(level, last_us, now_us) // numbers.per), reset_us


@contextmanager
def what_is_left_may_be_below_zero():
    with patch.object(LimitNumbers, "remaining_and_reset_us", level_as_it_is):
        yield


JOURNAL_BUGS = {
    "charged again": (
        "if sequence <= unpack_doubles('<dd', id) then",
        "if false then",
        tests.test_an_entry_is_charged_once,
        (2,),
    ),
    "only the same number is known": (
        "if sequence <= unpack_doubles('<dd', id) then",
        "if sequence == unpack_doubles('<dd', id) then",
        tests.test_a_lower_number_was_charged_before,
        (),
    ),
    "the id is written before all is read": (
        "local new_token\nif has_key then",
        "call('HSET', key, id_field, pack_doubles('<dd', sequence, now))\nlocal new_token\nif has_key then",
        tests.test_a_state_that_no_script_wrote_is_an_error,
        (KEY, METHOD, bucket(NAN)),
    ),
    "a bucket is written before all is read": (
        "  if i <= key_buckets then fields[#fields + 1]",
        "  if i > key_buckets then call('SET', field_or_key, new_buckets[i]) else fields[#fields + 1]",
        tests.test_a_state_that_no_script_wrote_is_an_error,
        (KEY, "d:gold:20515", doubles(1, NAN)),
    ),
    "states are not looked at": (
        "or not is_bucket(unpack_doubles('<ddd', state)) then",
        "then",
        tests.test_a_state_that_no_script_wrote_is_an_error,
        (KEY, METHOD, bucket(NAN)),
    ),
    "one id for all lives": (
        "local id_field = 'j:' .. ARGV[#ARGV - 1]",
        "local id_field = 'j:life---1'",
        tests.test_lives_number_their_entries_by_themselves,
        (),
    ),
    "ids are never removed": (
        "if now - charged_us > DAY_US then",
        "if false then",
        tests.test_ids_are_removed_after_a_day,
        (),
    ),
    "ids are removed too early": (
        "if now - charged_us > DAY_US then",
        "if now - charged_us >= DAY_US then",
        tests.test_ids_are_removed_after_a_day,
        (),
    ),
    "ones own id is removed": (
        "if field ~= id_field then call('HDEL'",
        "if field then call('HDEL'",
        tests.test_an_id_of_ones_own_that_is_old_still_counts,
        (),
    ),
    "no lower than empty": (
        "math.max(lowest_level(full), new_level - cost * new_per)",
        "math.max(0, new_level - cost * new_per)",
        tests.test_a_bucket_is_charged_down_to_minus_its_burst,
        (6, -1),
    ),
    "no lower than one token below": (
        "math.max(lowest_level(full), new_level - cost * new_per)",
        "math.max(-new_per, new_level - cost * new_per)",
        tests.test_a_bucket_is_charged_down_to_minus_its_burst,
        (9, -4),
    ),
    "as low as the cost goes": (
        "math.max(lowest_level(full), new_level - cost * new_per)",
        "new_level - cost * new_per",
        tests.test_a_bucket_is_charged_down_to_minus_its_burst,
        (11, -5),
    ),
    "a lower level is raised": (
        "math.min(new_level, math.max(lowest_level(full), new_level - cost * new_per))",
        "math.max(lowest_level(full), new_level - cost * new_per)",
        tests.test_a_bucket_below_minus_its_burst_is_not_raised,
        (),
    ),
    "levels that are not exact": (
        "return math.max(-full, full - 9007199254740992)",
        "return -full",
        tests.test_levels_of_the_largest_buckets_stay_exact,
        (),
    ),
    "a change of plan leaves it lower than the burst": (
        "level = math.max(lowest_level(full), level)",
        "",
        tests.test_a_level_below_zero_follows_a_change_of_plan,
        (-500_000, 3, 400_000, -3 * 400_000 - 1),
    ),
    "not refilled first": (
        "burst, rate, new_per, now)\n  -- One",
        "burst, rate, new_per, old_last)\n  -- One",
        tests.test_a_bucket_is_refilled_first,
        (),
    ),
    "a later window is charged": (
        "if window ~= spent_window and spent_day < stored_start then",
        "if false then",
        tests.test_a_quota_is_charged_in_the_window_of_the_units_alone,
        (count(50), 1, (tests.WINDOW, 50)),
    ),
    "the state's window is charged, whichever it is": (
        "window, used, granted = spent_window, 0, 0",
        "granted = 0",
        tests.test_a_quota_is_charged_in_the_window_of_the_units_alone,
        (count(50, first=TODAY - 3), 1, (tests.WINDOW - 64, 3)),
    ),
    "a window that has not begun is": (
        "and (window == 0 or first_day * DAY_US <= now) then",
        "then",
        tests.test_an_estimate_that_is_ahead_resets_no_quota,
        (),
    ),
    "a grant outlives its window": (
        "window, used, granted = spent_window, 0, 0",
        "window, used = spent_window, 0",
        tests.test_a_grant_goes_with_its_window,
        (),
    ),
    "metered on the day of the charge": (
        "  local charged_day = spent_day\n",
        "  local charged_day = today\n",
        tests.test_units_of_a_day_that_is_over_count_for_it,
        ("hash",),
    ),
    "metered on a day to come": (
        "charged_day = math.min(spent_day, math.max(day, today))",
        "charged_day = spent_day",
        tests.test_days_do_not_go_beyond_the_servers,
        (),
    ),
    "the archive is not looked at": (
        "state = call('HGET', KEYS[own_keys], string.sub(field, 3))",
        "state = nil",
        tests.test_units_of_a_day_that_is_over_count_for_it,
        ("archive",),
    ),
    "later days keep what was left": (
        "first, last = first_day, math.min(day, second_day) - 1",
        "first = first_day",
        tests.test_less_was_left_on_later_days_of_the_window_as_well,
        (),
    ),
    "days of identities are closed": (
        "if day > 0 and not is_identity then",
        "if day > 0 then",
        tests.test_an_identity_has_no_closed_days,
        (),
    ),
    "stamps are not compared": (
        "if not stored_token or string.sub(stored_token, 19) ~= string.sub(version_token, 19) then",
        "if not stored_token then",
        tests.test_whoever_is_behind_looks_again,
        (version_token(stamp="stamp--2"), 1, tests.KEY_CHANGED),
    ),
    "versions are not compared": (
        "string.sub(stored_token, 9, 18) > string.sub(version_token, 9, 18)",
        "false",
        tests.test_whoever_is_behind_looks_again,
        (version_token(8), 1, tests.CATALOG_BEHIND),
    ),
    "the version is not noted": (
        "if new_token then fields[#fields + 1], fields[#fields + 2] = 'r', new_token end",
        "",
        tests.test_the_version_that_was_charged_under_is_noted,
        (version_token(6), 1),
    ),
    "alerts are forgotten": (
        "if has_alerts and is_quota_charged then",
        "if false then",
        tests.test_an_alert_is_reported,
        (),
    ),
    "alerts of what was not charged": (
        "if has_alerts and is_quota_charged then",
        "if has_alerts then",
        tests.test_an_alert_is_reported,
        (),
    ),
    "buckets expire as if they were empty": (
        "rate > 0 and (full - new_level) / rate or 0",
        "rate > 0 and full / rate or 0",
        tests.test_expiries_wait_for_a_bucket_below_zero,
        (),
    ),
    "an identity expires as if its bucket were empty": (
        "math.max(valid_until, plan_fill_us + 2 * EXPIRY_STEP_US), 0",
        "valid_until, plan_per",
        tests.test_the_plans_bucket_keeps_an_identity,
        (),
    ),
    "ids without a key live for ever": (
        "elseif not has_key and not under_callers_clock then",
        "elseif false then",
        tests.test_expiries_wait_for_a_bucket_below_zero,
        (),
    ),
}  # fmt: skip
"""By name: what becomes what in charge_journal.lua, and the test that notices, with arguments."""


@pytest.fixture
def redis(valkey):
    with valkey.client() as client:
        client.hset(KEY, "r", version_token())
        yield client


@pytest.mark.parametrize(("right", "wrong", "test", "arguments"), JOURNAL_BUGS.values(), ids=JOURNAL_BUGS)
def test_a_bug_of_the_script_is_found(redis, right, wrong, test, arguments):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    with bug(right, wrong, "charge_journal"), pytest.raises(AssertionError):
        test(redis, *arguments)


HEARTBEAT_BUGS = {
    "nobody leaves": ("ARGV[3] and '-inf' or now", "now", heartbeats.test_who_leaves_is_gone_at_once),
    "silent ones count": (
        "'-inf', now - SILENT_US",
        "'-inf', now - 2 * SILENT_US",
        heartbeats.test_who_was_not_heard_for_15_seconds_does_not_count,
    ),
    "the set never expires": (
        "if not under_callers_clock then call('PEXPIRE'",
        "if false then call('PEXPIRE'",
        heartbeats.test_the_set_expires_a_minute_after_the_last_one,
    ),
}
"""As `JOURNAL_BUGS`, in heartbeat.lua."""


@pytest.mark.parametrize(("right", "wrong", "test"), HEARTBEAT_BUGS.values(), ids=HEARTBEAT_BUGS)
def test_a_bug_of_heartbeats_is_found(valkey, right, wrong, test):
    """As above."""
    with valkey.client() as client, bug(right, wrong, "heartbeat"), pytest.raises(AssertionError):
        test(client)


def test_a_refund_below_zero_is_found(valkey, clock):
    """By the test of leases."""
    with bug("credit <= 0 or level < 0", "credit <= 0", "return_lease"), pytest.raises(AssertionError):
        decisions.test_a_lease_adds_nothing_below_zero(valkey, clock)


def test_an_expiry_that_comes_before_a_bucket_is_full_is_found(valkey):
    """By the test of a bucket that a denied check moves to the present."""
    right = "(burst * new_per - math.min(0, b_level)) / rate"
    with bug(right, "burst * new_per / rate"), pytest.raises(AssertionError):
        decisions.test_a_bucket_below_zero_is_kept_until_it_is_full(valkey)


def test_less_than_nothing_left_is_found(backend, clock):
    """By the test of what decisions say."""
    with (
        decisions.both(backend, clock, decisions.WHERE["plan"]["plan"]) as world,
        what_is_left_may_be_below_zero(),
        pytest.raises(AssertionError),
    ):
        decisions.test_what_is_left_is_never_below_zero(world, clock)
