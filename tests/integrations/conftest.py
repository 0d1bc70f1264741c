"""Applications behind a limiter with an injected clock: the catalogue is made by a blocking one, on one server."""

import pytest
from helpers.clock import FakeClock
from helpers.web import ITEM, STAGE

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


class Used:
    """How much of its limits a key has used, by their names."""

    def __init__(self, limiter):
        self._limiter = limiter

    def __call__(self, fields, method="GET /other"):
        decision = self._limiter.peek(fields["x-api-key"], STAGE, method)
        return {limit.name: limit.limit - limit.remaining for limit in decision.limits}


@pytest.fixture
def used(catalog):
    return Used(catalog.limiter)
