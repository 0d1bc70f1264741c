"""A plan with leases, replicas that listen to nobody, and what Redis has counted."""

import struct

from helpers.replica import STAGE
from ratelimit import Catalog, Quota, Throttle, UsagePlan

TERM_S = 0.1
AMPLE = UsagePlan("gold", Throttle(1000, 100_000), Quota(1_000_000, "DAY"), [STAGE], lease=TERM_S)


def gold_key(backend, clock, plan=AMPLE):
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(plan)
        return catalog.create_key(plans=["gold"])


def used(backend, key):
    """What is metered of a key today, and what is left of its quota, by Redis alone."""
    with backend.client() as client:
        (packed,) = client.hmget(f"ratelimit:{{{key.id}}}", "p:gold")
        _, level, _, _, count, _, day_used = struct.unpack("<7d", packed)
    return count, day_used, level
