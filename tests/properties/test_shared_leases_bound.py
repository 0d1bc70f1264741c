"""Whatever happens to processes that lease shared limits: never above the limit, by one term more over any interval.

Real processes' code, a real server's script, virtual time: so every interleaving is one that could be.
"""

from contextlib import closing

import pytest
from helpers.shared_world import Wire, World, throttle
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

PROCESSES = 4
LIMITS = [(2000, 60), (2000, 20), (500, 100), (7, 9), (3000, 400), (50, 200), (0, 5), (100, 3), ("0.3", 8)]
NAMES = st.sampled_from([("stage",), ("account",), ("stage", "account")])
WHICH = st.integers(0, PROCESSES - 1)
COSTS = st.one_of(st.just(1), st.just(1), st.integers(1, 12))
BECOMES = st.sampled_from(["admitted"] * 4 + ["denied"] * 2 + ["unknown"])
WAITS = st.sampled_from([0, 200, 1_000, 5_000, 30_000, 99_000, 101_000, 140_000, 400_000])
CHANGE = st.tuples(st.just("change"), st.sampled_from(["stage", "account"]), st.sampled_from(LIMITS))
LAPSE = st.tuples(
    st.just("lapse"),
    WHICH,
    NAMES,
    st.integers(3, 40),
    st.sampled_from(["admitted", "denied"]),
    st.sampled_from([0, 5_000, 30_000, 70_000, 350_000]),
    st.sampled_from([20_000, 100_000, 150_000, 250_000]),
    st.lists(CHANGE, max_size=1),
)
STEPS = st.one_of(
    st.tuples(st.just("check"), WHICH, NAMES, COSTS, BECOMES),
    st.tuples(st.just("burst"), WHICH, NAMES, st.integers(2, 40), COSTS, BECOMES, st.integers(50, 3_000)),
    st.tuples(st.just("burst"), WHICH, NAMES, st.integers(2, 40), st.just(1), st.just("admitted"), st.integers(0, 500)),
    st.tuples(st.just("step"), WAITS),
    st.tuples(st.just("step"), WAITS),
    st.tuples(st.just("drain"), WHICH, NAMES),
    LAPSE,
    CHANGE,
    st.tuples(st.just("push"), WHICH),
    st.tuples(st.just("tick"), WHICH),
    st.tuples(st.just("close"), WHICH),
    st.tuples(st.just("cancel"), WHICH),
    st.tuples(st.just("crash"), WHICH),
    st.tuples(st.just("clock_back"), st.sampled_from([1_000, 50_000, 1_900_000, 2_100_000, 60_000_000])),
)
FAULTS = st.fixed_dictionaries(
    {},
    optional={name: st.sampled_from([0.05, 0.3]) for name in ("lost", "unanswered", "refused", "slow", "late")},
)


def history(world, steps):
    """Take the steps, then let everything end."""
    for name, *about in steps:
        STEP[name](world, *about)
    world.loop.run()
    world.verify()


def check(world, which, names, cost, becomes):
    world.processes[which].check(names, cost, becomes)


def burst(world, which, names, times, cost, becomes, every_us):
    process = world.processes[which]
    for number in range(times):
        world.loop.at(world.loop.now + number * every_us, lambda: process.check(names, cost, becomes))
    world.loop.run(world.loop.now + times * every_us)


def drain(world, which, names):
    """Take what the limits have left, in as few checks as there are bits."""
    for exponent in range(8, -1, -1):
        world.processes[which].check(names, 2**exponent, "admitted")
        world.loop.run(world.loop.now + 1_500)


def saturate(world, which, names, for_us):
    """Take all there is, for so long."""
    ends_us = world.loop.now + for_us
    for at_us in range(world.loop.now, ends_us, 1_000):
        cost = 2 ** (at_us // 1_000 % 4)
        world.loop.at(at_us, lambda cost=cost: world.processes[which].check(names, cost, "admitted"))
    world.loop.run(ends_us)


def lapse(world, which, names, times, becomes, wait_us, then_us, meanwhile):
    """Have a process give back what it held, while another one takes all there is."""
    other = (which + 1) % PROCESSES
    burst(world, which, names, times, 1, becomes, 300)
    step(world, wait_us)
    for _, *about in meanwhile:
        change(world, *about)
    drain(world, other, names)
    burst(world, which, names, 20, 1, "admitted", 50)
    saturate(world, other, names, then_us)
    tick(world, which)
    saturate(world, other, names, 20_000)
    burst(world, which, names, 3, 1, "admitted", 300)


def step(world, microseconds):
    world.loop.run(world.loop.now + microseconds)


def change(world, name, limit):
    world.change({name: throttle(*limit)})


def cancel(world, which):
    for running in [*world.processes[which].running]:
        running.cancel()


def crash(world, which):
    world.processes[which].crash()
    world.processes[which] = world.born()


def close(world, which):
    process = world.processes[which]
    process.run(process.leases.upkeep(last=True), 1_000_000)


def tick(world, which):
    process = world.processes[which]
    process.run(process.leases.upkeep(), 1_000_000)


STEP = {
    "check": check,
    "burst": burst,
    "step": step,
    "drain": drain,
    "lapse": lapse,
    "change": change,
    "push": lambda world, which: world.processes[which].push(),
    "tick": tick,
    "close": close,
    "cancel": cancel,
    "crash": crash,
    "clock_back": lambda world, microseconds: world.set_clock_back(microseconds),
}


@pytest.fixture(scope="module")
def wire(running):
    with closing(Wire(running["valkey"])) as made:
        yield made


def histories(steps):
    """Arguments of histories with such steps."""
    return given(
        seed=st.integers(0, 2**32),
        limits=st.tuples(st.sampled_from(LIMITS), st.sampled_from(LIMITS)),
        faults=FAULTS,
        late=st.booleans(),
        steps=steps,
    )


ANY = histories(st.lists(STEPS, max_size=30))
LAPSES = histories(st.lists(LAPSE, min_size=1, max_size=4))


def never_above_the_limit(wire, seed, limits, faults, late, steps):
    of_stage, of_account = limits
    world = World(wire, seed, {"stage": throttle(*of_stage), "account": throttle(*of_account)}, PROCESSES)
    world.faults, world.has_late_replies = faults, late
    history(world, steps)


@settings(max_examples=300)
@ANY
def test_never_above_the_limit(wire, seed, limits, faults, late, steps):
    """Spent units fit one exact bucket; over any interval W at most burst + rate * (W + term); all or nothing."""
    never_above_the_limit(wire, seed, limits, faults, late, steps)


@settings(max_examples=100)
@LAPSES
def test_what_lapses_mints_nothing(wire, seed, limits, faults, late, steps):
    """The same where one process holds units, and gives back what is left of them, while another one takes all."""
    never_above_the_limit(wire, seed, limits, faults, late, steps)
