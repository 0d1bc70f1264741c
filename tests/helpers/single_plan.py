"""The smallest gateway: one plan, one key, one stage."""

from contextlib import contextmanager

from helpers.replica import METHOD, STAGE, replica
from ratelimit import Limiter, Quota, Stage, Throttle, UsagePlan

AMPLE = 1_000_000


@contextmanager
def plan(backend, clock, throttle=None, quota=None, stages=(STAGE,), stage=None):
    """A limiter, and a function that checks a key of a plan with these limits."""
    options = {} if clock is None else {"clock": clock}
    with replica(backend, **options) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", throttle, quota, stages))
        if stage is not None:
            limiter.catalog.put_stage(Stage(STAGE, stage))
        key = limiter.catalog.create_key(plans=["gold"]).value
        yield limiter, lambda cost=1, method=METHOD: limiter.check(key, STAGE, method, cost)


def admitted(check, times):
    return sum(check().allowed for _ in range(times))


@contextmanager
def ample_limiter(server, **options):
    """A limiter on a server, whose client has these options, with the plan "gold", whose limits nothing reaches."""
    with server.client(**options) as client, Limiter(client, denial_cache=False, deadline=5) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, AMPLE), Quota(AMPLE, "DAY"), [STAGE]))
        yield limiter


def used(limiter, key):
    """How many checks of a key of that plan the server has carried out."""
    return AMPLE - limiter.peek(key, STAGE, METHOD).limits[1].remaining
