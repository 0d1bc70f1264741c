"""Whatever happens to replicas that hold leases: the plan's totals hold, and its bucket by one term more."""

import gc

import pytest
from helpers.leases import gold_key, used
from helpers.replica import METHOD, OTHER, STAGE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit import Limiter, Quota, Throttle, UsagePlan

pytestmark = pytest.mark.slow

QUOTA, TERM_US = 4_000, 10_000
REPLICAS = 3
SIZES = [(200, 400), (200, 50), (600, 400), (600, 100)]
"""Rates and bursts. All of one P, so that a bucket's state does not tell that the plan changed."""

WHICH = st.integers(0, REPLICAS - 1)
WAITS = st.sampled_from([1_000, 9_000, 50_000, 300_000])
BACK = st.sampled_from([1_000, 1_900_000, 2_100_000])
CHANGE = st.tuples(st.just("change"), st.sampled_from(SIZES))
STEPS = st.one_of(
    st.tuples(st.just("check"), WHICH, st.sampled_from([METHOD, OTHER]), st.integers(1, 3)),
    st.tuples(st.just("run"), WHICH, st.sampled_from([METHOD, OTHER]), st.integers(5, 60)),
    st.tuples(st.just("drain"), WHICH),
    st.tuples(
        st.just("lapse"), WHICH, st.lists(st.one_of(CHANGE, st.tuples(st.just("set_back"), BACK)), max_size=2), WAITS
    ),
    st.tuples(st.just("step"), WAITS),
    st.tuples(st.just("set_back"), BACK),
    CHANGE,
    st.tuples(st.just("tick"), WHICH),
    st.tuples(st.just("close"), WHICH),
    st.tuples(st.just("crash"), WHICH),
)


def plan_of(size):
    return UsagePlan("gold", Throttle(*size), Quota(QUOTA, "DAY"), [STAGE], lease=TERM_US / 1e6)


class World:
    """Replicas of one gateway, what they admitted under which plan, and two clocks: the server's can be set back."""

    def __init__(self, client, key, clock):
        self.client, self.key, self.clock = client, key, clock
        self.passed_us = 0  # what no clock can undo
        self.size, self.admitted, self.earlier, self.lost = SIZES[0], [], [], False
        self.replicas = [self.born() for _ in range(REPLICAS)]

    def born(self):
        limiter = Limiter(self.client, deadline=5.0, clock=self.clock)
        limiter._namespace.before_refresh = lambda: None
        limiter._namespace.age_us = lambda: self.passed_us
        return limiter

    def check(self, which, method, cost):
        if self.replicas[which].check(self.key.value, STAGE, method, cost).allowed:
            self.admitted.append((self.passed_us, cost))
        self.step(50)

    def run(self, which, method, times):
        for _ in range(times):
            self.check(which, method, 1)

    def drain(self, which):
        """Take what the limits have left, in as few checks as there are bits."""
        for exponent in range(8, -1, -1):
            self.check(which, OTHER, 2**exponent)

    def lapse(self, which, meanwhile, wait_us):
        """Have a replica give back what it held while something happened, and another one take all there is."""
        other = (which + 1) % REPLICAS
        self.run(which, METHOD, 45)
        for name, about in meanwhile:
            getattr(self, name)(about)
        self.drain(other)
        self.step(wait_us)
        self.drain(other)
        self.tick(which)
        self.drain(other)

    def step(self, microseconds):
        self.clock.advance_us(microseconds)
        self.passed_us += microseconds

    def set_back(self, microseconds):
        self.lost = self.lost or self.held()
        self.clock.advance_us(-microseconds)

    def change(self, size):
        self.replicas[0].catalog.put_plan(plan_of(size))
        self.earlier.append((self.size, self.admitted))
        self.size, self.admitted = size, []
        for limiter in self.replicas:
            limiter._namespace.on_change_message("2")

    def tick(self, which):
        self.replicas[which]._tick()

    def close(self, which):
        self.replicas[which].close()
        self.replicas[which] = self.born()

    def crash(self, which):
        self.lost = self.lost or self.held()
        self.replicas[which] = self.born()

    def held(self):
        return any(limiter._checker.leases._held for limiter in self.replicas)


def hold_to_the_bound(backend, clock, steps):
    """Take the steps, end everything, and look at all that was admitted."""
    clock.set("2026-03-04T12:00:00")
    with backend.client() as client:
        client.flushall()
        key = gold_key(backend, clock, plan_of(SIZES[0]))
        world = World(client, key, clock)
        for name, *about in steps:
            getattr(world, name)(*about)
        for limiter in world.replicas:
            limiter.close()
        gc.collect()  # what crashed closes nothing by itself
        total = 0
        for (rate, burst), admitted in [*world.earlier, (world.size, world.admitted)]:
            total += sum(cost for _, cost in admitted)
            for first, (start_us, _) in enumerate(admitted):
                passed = 0
                for end_us, cost in admitted[first:]:
                    passed += cost
                    assert passed * 1_000_000 <= burst * 1_000_000 + rate * (end_us - start_us + TERM_US)
        assert total <= QUOTA
        if total:
            metered = used(backend, key)[:2]
            assert metered == (total, total) or (world.lost and min(metered) >= total)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=40))
def test_never_more_than_the_plan(backend, clock, steps):
    """Over any interval W at most burst + rate * (W + term), and never more than the quota.

    Whatever was held when a replica crashed, the server's clock went back, or the plan changed. All that was admitted
    is metered; where no lease was lost, and once all is given back, exactly that.
    """
    hold_to_the_bound(backend, clock, steps)
