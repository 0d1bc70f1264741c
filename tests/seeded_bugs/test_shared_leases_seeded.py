"""The properties of shared leases fail on bugs that these are prone to."""

from contextlib import closing

import pytest
from helpers.shared_script import Script
from helpers.shared_world import Wire
from properties import test_shared_lease_credit as credit
from properties import test_shared_leases_bound as bound
from seeded_bugs.mutations import Lua, Python
from unit import test_late_shared_leases as late

from lua import test_shared_lease as by_hand
from ratelimit import scripts
from ratelimit.errors import StoreTimeout
from ratelimit.local import leased_bucket
from ratelimit.local.leased_bucket import Batch, LeasedBucket
from ratelimit.local.shared_leases import SharedLeases

# ruff: noqa: E501 - a bug on a line

pytestmark = pytest.mark.slow


def lua(name, right, wrong):
    return Lua(name, right, wrong, "shared_lease")


def put_back_twice(bucket, parts, now_us):
    PUT_BACK(bucket, [*parts, *parts], now_us)


def close_as_not_carried_out(bucket, pending, now_us, *, was_carried_out):
    CLOSE_REQUEST(bucket, pending, now_us, was_carried_out=False)


def settle_as_denied(leases, held, outcome):
    SETTLE(leases, held, "denied" if outcome == "unknown" else outcome)


def return_and_hold(bucket, now_us):
    for batch in bucket._batches:
        if batch.units and not batch.is_live(now_us):
            bucket._return(batch, batch.units)
    bucket._batches = [batch for batch in bucket._batches if batch.units]


def mints_nothing(script):
    for seed in range(200):
        credit.mints_nothing(script.client, seed)


CLOSE_REQUEST, PUT_BACK, SETTLE = LeasedBucket.close_request, LeasedBucket.put_back, SharedLeases.settle

IN_THE_SCRIPT = [
    (lua("all is credited", "math.max(0, returned * per - elapsed * rate)", "returned * per"), by_hand.test_two_epochs_later_the_refill_counts),
    (lua("another than the least debt", "math.min(returned * per, least)", "returned * per"), by_hand.test_credits_share_the_least_debt),
    (lua("credits that do not add up", "math.max(0, least - credit), math.max(0, least_before - credit)", "least, least_before"), by_hand.test_credits_share_the_least_debt),
    (lua("the epoch before does not count", "if charged_epoch < epoch then", "if false then"), by_hand.test_what_the_epoch_before_missed_least_counts),
    (lua("any epoch counts", "if charged_epoch >= epoch - 1 then", "if true then"), by_hand.test_two_epochs_later_the_refill_counts),
    (lua("the least debt is the first", "least = math.min(least, debt)", ""), by_hand.test_credits_share_the_least_debt),
    (lua("ahead is free", "level = level - granted * per", "level = level - math.min(granted, waiting) * per"), mints_nothing),
    (lua("more than there is", "if granted > whole then", "if granted > whole + 1 then"), mints_nothing),
    (lua("time counts twice", "level, last, moved = bucket_at(stored_per, level, last,", "level, last, moved = bucket_at(stored_per, level, last - 900,"), mints_nothing),
    (lua("what the server lost is credited", "charged_us >= since and ", ""), by_hand.test_what_the_server_lost_is_not_credited),
    (lua("an old version is adopted", "return { CATALOG_BEHIND, now }", ""), by_hand.test_an_old_catalogue_is_refused),
    (lua("credited to a new limit", "if not is_new and charged_us", "if charged_us"), by_hand.test_a_new_catalogue_is_adopted),
    (lua("credited below zero", " and level >= 0 then", " then"), by_hand.test_below_zero_nothing_is_credited),
]  # fmt: skip

HELD = [("lapse", 0, ("stage",), 40, "denied", 350_000, 20_000, [])]
"""One process holds units, a while later another one takes all there is, then the first one spends what it holds."""
UNKNOWN = [("burst", 0, ("stage",), 40, 1, "unknown", 300), ("burst", 0, ("stage",), 40, 1, "admitted", 300)]
IN_THE_PROCESS = [
    (Python("terms never end", leased_bucket, "TERM_US", 400_000), HELD, {}),
    (Python("live for ever", Batch, "is_live", lambda *_: True), HELD, {}),
    (Python("put back twice", LeasedBucket, "put_back", put_back_twice), HELD, {}),
    (Python("returned and held", LeasedBucket, "drop_over", return_and_hold), HELD, {}),
    (Python("unknown is denied", SharedLeases, "settle", settle_as_denied), UNKNOWN, {}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def scripts_anew():
    scripts.load.cache_clear()
    yield
    scripts.load.cache_clear()


@pytest.mark.parametrize(("bug", "test"), IN_THE_SCRIPT, ids=lambda part: getattr(part, "name", ""))
def test_a_bug_in_the_script_is_found(running, monkeypatch, bug, test):
    """By what was worked out on paper, or among the first histories of one bucket."""
    bug.apply(monkeypatch)
    with running["valkey"].client() as client:
        client.flushall()
        with pytest.raises(AssertionError):
            test(Script(client))


def histories(wire, steps, faults):
    for seed in range(20):
        bound.never_above_the_limit(wire, seed, ((50, 200), (2000, 60)), faults, True, steps)  # noqa: FBT003


@pytest.mark.parametrize(("bug", "steps", "faults"), IN_THE_PROCESS, ids=lambda part: getattr(part, "name", ""))
def test_a_bug_in_the_process_is_found(running, monkeypatch, bug, steps, faults):
    """By a history that holds without it."""
    with closing(Wire(running["valkey"])) as wire:
        histories(wire, steps, faults)
        bug.apply(monkeypatch)
        with pytest.raises(AssertionError):
            histories(wire, steps, faults)


def test_a_return_that_is_repeated_is_found(monkeypatch):
    """By the one call after it."""
    monkeypatch.setattr(LeasedBucket, "close_request", close_as_not_carried_out)
    with pytest.raises(AssertionError):
        late.test_a_return_that_may_have_been_carried_out_is_not_repeated(StoreTimeout("no answer"), 0)
