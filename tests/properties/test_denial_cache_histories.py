"""Random histories: with the denial cache and without it they are the same; and in any order, no answer is too strict.

Of one process, each decision from memory is in every field the script's. Of several, and while checks are on their way:
nobody is denied whom the script would admit, no wait is told that is too long, and nothing that is left is kept back.
"""

import copy
import os
from math import inf

import pytest
from helpers.clock import FakeClock
from helpers.denial_cache import ABOVE, Sent, by_two_clocks, said
from helpers.replica import METHOD, OTHER, STAGE
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratelimit import ConfigError, Limiter, Method, PlanStage, Quota, Reason, Stage, StoreTimeout, Throttle, UsagePlan
from ratelimit.decision import Decision

pytestmark = pytest.mark.slow

ADMIN, OPEN = "admin/prod", "GET /health"
REQUESTS = ((STAGE, METHOD), (STAGE, OTHER), (STAGE, "GET /unlisted"), (ADMIN, METHOD))
MAX_AGE_S, MAX_AGE_US = 2.0, 2_000_000
HOUR_US = 3_600_000_000
EXAMPLES = os.environ.get("RATELIMIT_EXAMPLES")


def bounded(examples):
    """So many examples, always the same; as many as are asked for in a longer run."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        derandomize=EXAMPLES is None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


rates = st.sampled_from(["1", "3", "7/3", "1/10", "1/10", "1/7", "10", "1000000/7"])
throttle = st.builds(Throttle, rates, st.integers(1, 6))
throttles = st.sampled_from([None, 1, 1, 1]).flatmap(lambda some: throttle if some else st.none())
quotas = st.none() | st.builds(Quota, st.integers(1, 20), st.sampled_from(["DAY", "WEEK"]))
costs = st.sampled_from([1] * 8 + [2, 2, 3, 4, 5, 7, 21])
some_costs = st.lists(costs, min_size=2, max_size=7)
which = st.sampled_from([0, 0, 0, 1, 1, 2])
requests = st.sampled_from(REQUESTS)
few_requests = st.sampled_from(REQUESTS[:1] * 4 + REQUESTS)
forward = st.sampled_from([0, 1, 999, 333_333, 333_334, 500_000, 1_000_000, 1_000_000, 1_500_000, 3_000_000])
anywhere = st.sampled_from([HOUR_US, 12 * HOUR_US, -1, -1_000_000, -1_000_000, -3_000_000, -HOUR_US, 24 * HOUR_US])


def plan_of(throttle, quota, scope, entry, lease=0.0):
    if throttle is None:
        scope, entry = "key", None
    entries = {} if entry is None else {OTHER: entry}
    return UsagePlan("gold", throttle, quota, [PlanStage(STAGE, entries)], throttle_scope=scope, lease=lease)


plans = st.builds(plan_of, throttles, quotas, st.sampled_from(["key", "key_method"]), throttles)
stages = st.builds(
    lambda all_of_it, method, opened: Stage(
        STAGE, all_of_it, {METHOD: Method(method), OPEN: Method(opened, key_required=False)}
    ),
    throttles,
    throttles,
    throttles,
)
worlds = st.fixed_dictionaries({"plan": plans, "stage": stages, "account": throttles})


def set_up(limiter, world, keys=3):
    """The same keys, by their values, for whichever namespace it is."""
    catalog = limiter.catalog
    catalog.put_plan(world["plan"])
    catalog.put_plan(UsagePlan("inner", Throttle("1/2", 3), None, [ADMIN]))
    catalog.put_stage(world["stage"])
    catalog.set_account_throttle(world["account"])
    return [catalog.create_key(value=f"value-of-key-number-{at}", plans=["gold", "inner"]) for at in range(keys)]


@pytest.fixture
def valkey(running):
    """One real server: what is tried here is in the process."""
    with running["valkey"].client() as client:
        yield client


# Whole histories, with and without


steps = st.one_of(
    *[st.tuples(st.just("check"), which, requests, some_costs)] * 8,
    st.tuples(st.just("open"), some_costs),
    st.tuples(st.just("peek"), which, requests, costs),
    *[st.tuples(st.just("step"), forward)] * 3,
    *[st.tuples(st.just("step"), anywhere)] * 2,
    st.tuples(st.just("remaining"), which, st.integers(0, 9)),
    st.tuples(st.just("plan"), plans),
    st.tuples(st.just("account"), throttles),
    st.tuples(st.just("enabled"), which, st.booleans()),
    st.tuples(st.just("expires"), which, st.sampled_from([None, 1, 500_000, 3_000_000])),
)


class OneOfTwo:
    """A limiter in a namespace of its own, to which the same happens as to the other."""

    def __init__(self, client, clock, name, world, **options):
        self.limiter = Limiter(client, deadline=5.0, clock=clock, namespace=name, **options)
        self.limiter._namespace.before_refresh = lambda: None
        self.keys = set_up(self.limiter, world)
        self.clock = clock
        self.answers = []
        self.limiter.check(self.keys[0].value, STAGE, METHOD, ABOVE)

    def do(self, name, *about):
        """Take a step, but for those of the clock."""
        return getattr(self, name)(*about)

    def _said(self, decision):
        self.answers.append(decision.source)
        return said(decision)

    def check(self, key, request, costs):
        return [self._said(self.limiter.check(self.keys[key].value, *request, cost)) for cost in costs]

    def open(self, costs):
        return [self._said(self.limiter.check(None, STAGE, OPEN, cost)) for cost in costs]

    def peek(self, key, request, cost):
        return self._said(self.limiter.peek(self.keys[key].value, *request, cost))

    def remaining(self, key, left):
        try:
            self.limiter.catalog.set_remaining("gold", self.keys[key].id, left)
        except ConfigError as error:
            return str(error).replace(self.keys[key].id, "")  # the plan has no quota
        return None

    def plan(self, plan):
        self.limiter.catalog.put_plan(plan)

    def account(self, throttle):
        self.limiter.catalog.set_account_throttle(throttle)

    def enabled(self, key, enabled):
        self.limiter.catalog.update_key(self.keys[key].id, enabled=enabled)

    def expires(self, key, ahead):
        expires_at = None if ahead is None else (self.clock() + ahead) / 1_000_000
        self.limiter.catalog.update_key(self.keys[key].id, expires_at=expires_at)


def test_with_and_without_it_histories_are_the_same(valkey):
    """Field by field, whatever is asked, changed and done to the clock. And it is not by asking that it is so."""
    sources = []

    @bounded(100)
    @given(world=worlds, history=st.lists(steps, min_size=20, max_size=60), max_age=st.sampled_from([2.0, 1e6]))
    def same(world, history, max_age):
        valkey.flushall()
        clock = FakeClock()
        knows = OneOfTwo(valkey, clock, "knows", world, max_age=max_age)
        asks = OneOfTwo(valkey, clock, "asks", world, max_age=max_age, denial_cache=False)
        for name, *about in history:
            if name == "step":
                clock.advance_us(*about)
            else:
                assert knows.do(name, *about) == asks.do(name, *about)
        sources.extend(knows.answers)

    same()
    assert sources.count("denial_cache") > 1000


# In any order


in_flight = st.one_of(
    *[st.tuples(st.just("ask"), which, which, few_requests, some_costs)] * 8,
    *[st.tuples(st.just("send"), which, which, few_requests, costs)] * 6,
    *[st.tuples(st.just("carry_out"), which)] * 4,
    *[st.tuples(st.just("arrive"), which)] * 3,
    *[st.tuples(st.just("all_arrive"))] * 3,
    *[st.tuples(st.just("fail"), which)] * 2,
    *[st.tuples(st.just("give_up"), which)] * 2,
    *[st.tuples(st.just("step"), forward)] * 5,
    *[st.tuples(st.just("back"), st.sampled_from([1, 333_333, 500_000, 1_000_000, 3_000_000, HOUR_US]))] * 3,
    st.tuples(st.just("remaining"), which, st.integers(0, 9)),
    st.tuples(st.just("plan"), plans),
    st.tuples(st.just("enabled"), which, st.booleans()),
    *[st.tuples(st.just("hear"), which)] * 4,
    st.tuples(st.just("lose_push"), which),
    st.tuples(st.just("lease"), which, costs),
    st.tuples(st.just("give_back")),
)


class Gateway:
    """One process or several, each with its checks on their way and its pushes that it did not hear yet."""

    def __init__(self, client, world, processes, two_clocks, has_leases):
        self.clock = FakeClock()
        self.own = copy.copy(self.clock) if two_clocks else self.clock
        self.asks = self._limiter(client, denial_cache=False)
        self.keys = set_up(self.asks, world)
        self.leased = None
        if has_leases:
            self.asks.catalog.put_plan(UsagePlan("leased", Throttle(1000, 1000), None, [STAGE], lease=1.0))
            self.leased = self.asks.catalog.create_key(plans=["leased"]).value
        self.processes = [self._limiter(client, max_age=MAX_AGE_S) for _ in range(processes)]
        self.flights = []
        self.unheard = [[] for _ in self.processes]
        self.known = self.exactly_known = 0
        self.most_us = self.clock()
        for limiter in self.processes:
            if two_clocks:
                by_two_clocks(limiter, self.own)
            limiter.check(self.keys[0].value, STAGE, METHOD, ABOVE)

    def _limiter(self, client, **options):
        made = Limiter(client, deadline=5.0, clock=self.clock, **options)
        made._namespace.before_refresh = lambda: None
        return made

    # Checks

    def ask(self, process, key, request, costs):
        """Some checks, each answered before the next."""
        for cost in costs:
            before = list(self.flights)
            self.send(process, key, request, cost)
            for sent in [each for each in self.flights if each not in before]:
                while not sent.is_over:
                    sent.carried_out().arrived()
                self.flights.remove(sent)

    def send(self, process, key, request, cost):
        """As a limiter asks: by what this process knows, else a check is on its way."""
        limiter = self.processes[process % len(self.processes)]
        arguments = (self.keys[key].value, *request, cost)
        decision = limiter._checker.begin(*arguments)
        if isinstance(decision, Decision):
            self._judge(limiter, decision, arguments)
            return
        sent = Sent(limiter, *arguments)
        if not sent.is_over:
            self.flights.append(sent)

    def _judge(self, limiter, decision, arguments):
        unheard = self.unheard[self.processes.index(limiter)]
        if any(self.own() - at_us < MAX_AGE_US for _, at_us in unheard):
            return  # of what administrators changed it may not know yet
        expected = self.asks.peek(*arguments)
        assert decision.source == "denial_cache"
        assert not expected.allowed
        self.known += 1
        if self.own is self.clock and len(self.processes) == 1 and not self.flights:
            self.exactly_known += 1
            assert said(decision) == said(expected)
        if expected.reason is not Reason.INVALID_KEY:
            assert or_never(decision.retry_after) <= or_never(expected.retry_after)
            for limit, right in zip(decision.limits, expected.limits, strict=True):
                assert (limit.name, limit.limit, limit.window) == (right.name, right.limit, right.window)
                assert limit.remaining >= right.remaining
                assert or_never(limit.reset_after) <= or_never(right.reset_after)
                assert or_never(limit.retry_after) <= or_never(right.retry_after)

    def _flight(self, which, *, carried_out):
        flights = [each for each in self.flights if each.is_carried_out is carried_out]
        return flights[which % len(flights)] if flights else None

    def carry_out(self, which):
        if sent := self._flight(which, carried_out=False):
            sent.carried_out()

    def arrive(self, which):
        if sent := self._flight(which, carried_out=True):
            sent.arrived()
            self._take_off(sent)

    def all_arrive(self):
        while self.flights:
            for sent in list(self.flights):
                (sent if sent.is_carried_out else sent.carried_out()).arrived()
                self._take_off(sent)

    def fail(self, which):
        if self.flights:
            sent = self.flights.pop(which % len(self.flights))
            with pytest.raises(StoreTimeout):
                sent.failed(StoreTimeout("no answer"))

    def give_up(self, which):
        if self.flights:
            self.flights.pop(which % len(self.flights)).given_up()

    def _take_off(self, sent):
        if sent.is_over:
            self.flights.remove(sent)

    # Time

    def step(self, us):
        self.clock.advance_us(us)
        if self.own is not self.clock:
            self.own.advance_us(us)
        self.most_us = max(self.most_us, self.clock())

    def back(self, us):
        """Of one process as far as one likes, of several by what buckets tolerate; a server's own clock not at all."""
        if self.own is self.clock and (len(self.processes) == 1 or self.most_us - (self.clock() - us) <= 2_000_000):
            self.clock.advance_us(-us)

    # Administrators, somewhere else

    def _changed(self, message):
        for unheard in self.unheard:
            unheard.append((message, self.own()))

    def remaining(self, key, left):
        try:
            self.asks.catalog.set_remaining("gold", self.keys[key].id, left)
        except ConfigError:
            return
        self._changed(f"key:{self.keys[key].id}")

    def plan(self, plan):
        self.asks.catalog.put_plan(plan)
        self._changed(str(self.asks._namespace.snapshot.version))

    def enabled(self, key, enabled):
        self.asks.catalog.update_key(self.keys[key].id, enabled=enabled)
        self._changed(f"key:{self.keys[key].id}")

    def hear(self, process):
        """Hear all that was not lost on its way."""
        process %= len(self.processes)
        for message, _ in self.unheard[process]:
            if message is not None:
                self.processes[process]._namespace.on_change_message(message)
        self.unheard[process] = [each for each in self.unheard[process] if each[0] is None]

    def lose_push(self, process):
        unheard = self.unheard[process % len(self.processes)]
        unheard[:] = [(None, at_us) for _, at_us in unheard]

    def lease(self, process, cost):
        if self.leased:
            self.processes[process % len(self.processes)].check(self.leased, STAGE, METHOD, cost)

    def give_back(self):
        for limiter in self.processes:
            limiter._tick(last=True)


def or_never(seconds):
    return inf if seconds is None else seconds


@pytest.mark.parametrize(
    ("processes", "two_clocks", "examples", "from_memory", "exactly"),
    [(1, False, 220, 300, 200), (2, False, 160, 300, 0), (1, True, 90, 200, 0), (2, True, 90, 200, 0)],
    ids=["one process", "two processes", "one by two clocks", "two by two clocks"],
)
def test_no_answer_is_too_strict(valkey, processes, two_clocks, examples, from_memory, exactly):
    """Whatever the order in which checks are carried out and answered, or are not, and pushes are heard, or are not."""
    total = [0, 0]

    @bounded(examples)
    @given(
        world=worlds,
        history=st.lists(in_flight, min_size=30, max_size=80),
        has_leases=st.sampled_from([False, False, True]),
    )
    def holds(world, history, has_leases):
        valkey.flushall()
        gateway = Gateway(valkey, world, processes, two_clocks, has_leases)
        for name, *about in history:
            getattr(gateway, name)(*about)
        total[0] += gateway.known
        total[1] += gateway.exactly_known

    holds()
    assert total[0] > from_memory
    assert total[1] >= exactly
