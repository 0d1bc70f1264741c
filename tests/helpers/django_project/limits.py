"""The catalogue behind a server of the project."""

import contextlib

from helpers.web import ITEM, STAGE
from ratelimit import Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan

NEVER = Throttle("1/100000", 3)
"""Three requests, and no more while a test runs."""


@contextlib.contextmanager
def limits(redis, **options):
    """A limiter whose plan "gold" is strict about one method; "small", for keys, and "free" admit three requests.

    What Redis does not decide is 503.
    """
    with redis.client() as client, Limiter(client, deadline=5, **options) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(100_000, "DAY"), [PlanStage(STAGE, {ITEM: NEVER})]))
        for plan in ("small", "free"):
            catalog.put_plan(UsagePlan(plan, NEVER, None, [STAGE]))
        catalog.put_stage(Stage(STAGE, Throttle(1, 1_000_000), on_unavailable="closed"))
        yield limiter


def key(limiter, plan="gold"):
    """The fields of a request with a new key."""
    return {"x-api-key": limiter.catalog.create_key(plans=[plan]).value}


def charged(limiter, fields, method="GET /other", limit="quota:gold"):
    """Units that a key has used of a limit."""
    (status,) = [each for each in limiter.peek(fields["x-api-key"], STAGE, method).limits if each.name == limit]
    return status.limit - status.remaining
