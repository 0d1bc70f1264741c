"""Whatever happens to replicas that hold leases: the plan's totals hold, and its bucket by one term more."""

import gc

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from leased import gold_key, used
from promises import METHOD, OTHER, STAGE

from ratelimit import Limiter, Quota, Throttle, UsagePlan

RATE, BURST, QUOTA, TERM_US = 200, 100, 400, 100_000
PLAN = UsagePlan("gold", Throttle(RATE, BURST), Quota(QUOTA, "DAY"), [STAGE], lease=TERM_US / 1e6)
REPLICAS = 3

WHICH = st.integers(0, REPLICAS - 1)
STEPS = st.one_of(
    st.tuples(st.just("check"), WHICH, st.sampled_from([METHOD, OTHER]), st.integers(1, 3)),
    st.tuples(st.just("run"), WHICH, st.sampled_from([METHOD, OTHER]), st.integers(5, 60)),
    st.tuples(st.just("step"), st.integers(1, 300_000)),
    st.tuples(st.just("tick"), WHICH),
    st.tuples(st.just("close"), WHICH),
    st.tuples(st.just("crash"), WHICH),
)


class World:
    """Replicas of one gateway with one clock, and what they admitted."""

    def __init__(self, client, key, clock):
        self.client, self.key, self.clock = client, key, clock
        self.admitted, self.crashed = [], False
        self.replicas = [self.born() for _ in range(REPLICAS)]

    def born(self):
        limiter = Limiter(self.client, clock=self.clock)
        limiter._state.before_refresh = lambda: None
        return limiter

    def check(self, which, method, cost):
        if self.replicas[which].check(self.key.value, STAGE, method, cost).allowed:
            self.admitted.append((self.clock(), cost))
        self.clock.advance_us(50)

    def run(self, which, method, times):
        for _ in range(times):
            self.check(which, method, 1)

    def step(self, microseconds):
        self.clock.advance_us(microseconds)

    def tick(self, which):
        self.replicas[which]._tick()

    def close(self, which):
        self.replicas[which].close()
        self.replicas[which] = self.born()

    def crash(self, which):
        self.crashed = self.crashed or bool(self.replicas[which]._checker.leases._holding)
        self.replicas[which] = self.born()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=40))
def test_never_more_than_the_plan(backend, clock, steps):
    """Over any interval W at most burst + rate * (W + term), and never more than the quota.

    All that was admitted is metered; without a crash, and once all is given back, exactly that.
    """
    clock.set("2026-03-04T12:00:00")
    with backend.client() as client:
        client.flushall()
        key = gold_key(backend, clock, PLAN)
        world = World(client, key, clock)
        for name, *about in steps:
            getattr(world, name)(*about)
        for limiter in world.replicas:
            limiter.close()
        gc.collect()  # what crashed closes nothing by itself
        total = sum(cost for _, cost in world.admitted)
        assert total <= QUOTA
        for first, (start_us, _) in enumerate(world.admitted):
            passed = 0
            for end_us, cost in world.admitted[first:]:
                passed += cost
                assert passed * 1_000_000 <= BURST * 1_000_000 + RATE * (end_us - start_us + TERM_US)
        if world.admitted:
            metered = used(backend, key)[:2]
            assert metered == (total, total) or (world.crashed and min(metered) >= total)
