"""The property of shared leases fails on bugs that they are prone to."""

from contextlib import closing

import pytest
from helpers.shared_world import Wire
from hypothesis import Phase, settings
from properties.test_shared_leases_bound import ANY, LAPSES, never_above_the_limit
from seeded_bugs.mutations import Lua, Python

from ratelimit import scripts
from ratelimit.local import leased_bucket
from ratelimit.local.leased_bucket import Batch, LeasedBucket
from ratelimit.local.shared_leases import SharedLeases

pytestmark = pytest.mark.slow


def lua(name, right, wrong):
    return Lua(name, right, wrong, "shared_lease")


def keep_claimed_units(bucket, claim, now_us):
    if claim in bucket._claims:
        bucket._claims.remove(claim)
    if claim.parts:
        bucket.put_back(claim.parts, now_us)


def close_as_not_carried_out(bucket, ask, now_us, *, was_carried_out):
    CLOSE_ASK(bucket, ask, now_us, was_carried_out=False)


def settle_as_denied(leases, held, outcome):
    SETTLE(leases, held, "denied" if outcome == "unknown" else outcome)


def return_and_keep(bucket, now_us):
    for batch in bucket._batches:
        if batch.units and not batch.is_live(now_us):
            bucket._return(batch, batch.units)
    bucket._batches = [batch for batch in bucket._batches if batch.units]


CLOSE_ASK, SETTLE = LeasedBucket.close_ask, SharedLeases.settle

BUGS = [
    lua("lapse: all is credited", "math.max(0, returned * per - elapsed * rate)", "returned * per"),
    lua("lapse: credited though it is not the least debt", "math.min(returned * per, least)", "returned * per"),
    lua("lapse: a credit is no credit", "math.max(0, least - credit), math.max(0, least_before - credit)", "least, least_before"),
    lua("lapse: the epoch before does not count", "if charged_epoch < epoch then", "if false then"),
    lua("lapse: any epoch counts", "if charged_epoch >= epoch - 1 then", "if true then"),
    lua("lapse: the least debt is the first", "least = math.min(least, debt)", ""),
    lua("ahead is free", "level = level - granted * per", "level = level - math.min(granted, waiting) * per"),
    lua("more than there is", "if granted > whole then", "if granted > whole + 1 then"),
    lua("elapsed time counts twice", "level, last, moved = bucket_at(", "last = last - 1000 level, last, moved = bucket_at("),
    lua("lapse: another limit, the same debt", "if not is_new and charged_us >= since", "if charged_us >= since - 1000000"),
    Python("lapse: terms never end", leased_bucket, "TERM_US", 400_000),
    Python("lapse: live for ever", Batch, "is_live", lambda *_: True),
    Python("granted twice", LeasedBucket, "leave", keep_claimed_units),
    Python("returned twice", LeasedBucket, "close_ask", close_as_not_carried_out),
    Python("lapse: returned and kept", LeasedBucket, "drop_over", return_and_keep),
    Python("unknown is denied", SharedLeases, "settle", settle_as_denied),
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_seeded_bug_is_found(running, monkeypatch, bug):
    """Among the first histories there is one that fails."""
    scripts.load.cache_clear()
    bug.apply(monkeypatch)
    kind = LAPSES if bug.name.startswith("lapse: ") else ANY
    search = settings(max_examples=600, phases=[Phase.generate], database=None)(kind(never_above_the_limit))
    try:
        with closing(Wire(running["valkey"])) as wire, pytest.raises(AssertionError):
            search(wire)
    finally:
        scripts.load.cache_clear()


def test_nothing_is_found_without(running):
    """So the test above can fail."""
    search = settings(max_examples=100, phases=[Phase.generate], database=None)(ANY(never_above_the_limit))
    with closing(Wire(running["valkey"])) as wire:
        search(wire)
