"""Buckets that all callers share, when an administrator changes their size: what they hold must not expire early."""

import struct

import pytest
from helpers.replica import METHOD, SLOW, STAGE, replica

from ratelimit import Method, Stage, Throttle, UsagePlan

STATE = struct.Struct("<3d")
BUCKETS = {
    "stage": f"ratelimit:stage:{STAGE}:*",
    "method": f"ratelimit:stage:{STAGE}:{METHOD}",
    "account": "ratelimit:account",
}


def resize(catalog, where, burst):
    throttle = Throttle(SLOW, burst)
    if where == "account":
        catalog.set_account_throttle(throttle)
    elif where == "stage":
        catalog.put_stage(Stage(STAGE, throttle))
    else:
        catalog.put_stage(Stage(STAGE, None, {METHOD: Method(throttle)}))


@pytest.mark.parametrize("where", BUCKETS)
def test_a_larger_bucket_outlives_its_old_expiry(backend, where):
    """Empty with a burst of 10, it is empty with one of 1000, and stays so until charges let it expire again."""
    bucket = BUCKETS[where]
    with replica(backend) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        resize(limiter.catalog, where, 10)
        prepared = limiter.catalog.create_key(plans=["gold"]).value, STAGE, METHOD
        assert limiter.check(*prepared, cost=10).allowed
        assert client.pttl(bucket) > 0
        resize(limiter.catalog, where, 1000)
        assert client.pttl(bucket) == -1
        refused = limiter.check(*prepared)
        assert (refused.allowed, refused.limits[0].limit, refused.limits[0].remaining) == (False, 1000, 0)
        assert client.pttl(bucket) == -1  # nothing was charged

        # As if the last charge had been in an earlier half minute, and had left five tokens.
        per, _, last_us = STATE.unpack(client.get(bucket))
        client.set(bucket, STATE.pack(per, 5 * per, last_us - 31_000_000))
        assert limiter.check(*prepared).limits[0].remaining == 4
        assert client.pttl(bucket) > 0


def test_what_stays_as_it_is_keeps_its_expiry(backend):
    """A change of a plan, or of the stage's neighbour, lets a bucket expire as it would have."""
    with replica(backend) as limiter, backend.client() as client:
        limiter.catalog.put_plan(UsagePlan("gold", None, None, [STAGE]))
        resize(limiter.catalog, "stage", 10)
        assert limiter.check(limiter.catalog.create_key(plans=["gold"]).value, STAGE, METHOD).allowed
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 2), None, [STAGE]))
        limiter.catalog.put_stage(Stage("other/prod", Throttle(1, 5)))
        resize(limiter.catalog, "account", 10)
        assert client.pttl(BUCKETS["stage"]) > 0
