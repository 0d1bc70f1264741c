"""Applications behind a limiter with an injected clock: the catalogue is made by a blocking one, on one server."""

import pytest
from helpers.clock import FakeClock
from helpers.twins import RunningLimiter
from helpers.web import ITEM, STAGE, Used

from ratelimit import Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def catalog(valkey, clock):
    """A plan whose limit for one method is strict, and wide for all else; identities have the plan "free"."""
    with valkey.client() as client, Limiter(client, deadline=5, clock=clock) as limiter:
        catalog = limiter.catalog
        strict = PlanStage(STAGE, throttles={ITEM: Throttle(1, 3)})
        catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(100_000, "DAY"), [strict]))
        catalog.put_plan(UsagePlan("small", Throttle(1, 3), None, [STAGE]))
        catalog.put_plan(UsagePlan("free", Throttle(1, 3), None, [STAGE]))
        catalog.put_stage(Stage(STAGE, Throttle(1, 10_000)))
        catalog.limiter = limiter
        yield catalog


@pytest.fixture
def gold(catalog):
    """The fields of a request with a key of the plan with a strict limit."""
    return {"x-api-key": catalog.create_key(plans=["gold"]).value}


@pytest.fixture
def small(catalog):
    """The same of one that admits three requests, whatever they are."""
    return {"x-api-key": catalog.create_key(plans=["small"]).value}


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def gateway(request, server):
    """A limiter of either kind, with a key of a plan whose bucket holds 2."""
    with RunningLimiter(lambda kind: kind.from_url(server.url, deadline=5), request.param) as made:
        plan = UsagePlan("gold", Throttle("1/3600", 2), Quota(1000, "DAY"), [STAGE])
        made.run(lambda: made.limiter.catalog.put_plan(plan))
        made.key = made.run(lambda: made.limiter.catalog.create_key(plans=["gold"])).value
        yield made


@pytest.fixture
def used(catalog):
    return Used(catalog.limiter)
