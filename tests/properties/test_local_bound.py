"""However often Redis goes and comes back: what N replicas admit is within the bound, and charged once."""

from math import inf

import pytest
from helpers.outage_model import CALLER, Replica, Server
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import Quota, Throttle
from ratelimit.engine.limits import Bucket, CompiledLimits
from ratelimit.local.local_limits import LocalLimits, Spending

SECOND_US = 1_000_000


class Deployment:
    """N replicas that divide limits among N0, and all that they admitted."""

    def __init__(self, throttle, quota, count, replicas):
        self.server = Server(throttle, quota)
        self.replicas = [Replica(self.server, replicas) for _ in range(count)]
        self.events = []
        self.certain = self.unknown = 0

    def check(self, which, cost, outcome="certain"):
        """`outcome` is of a check that is cut off: "certain" that Redis did not count it, else "counted" or "lost"."""
        replica = self.replicas[which]
        spending = Spending.CERTAIN if outcome == "certain" else Spending.UNKNOWN
        is_cut = replica.is_cut
        if is_cut and outcome == "counted":
            self.server.check(cost)
        admitted = replica.check(cost, spending)
        if admitted:
            self.events.append((self.server.now_us, cost))
            if is_cut and spending is Spending.CERTAIN:
                self.certain += cost
        return admitted

    def excess(self):
        """The most by which an interval passes burst + rate * length, in units of 1/P token."""
        server, worst = self.server, 0
        for first, (began_us, _) in enumerate(self.events):
            total = 0
            for now_us, cost in self.events[first:]:
                total += cost
                worst = max(worst, (total * server.per) - (server.full + server.rate * (now_us - began_us)))
        return worst

    def bound(self):
        """(burst + rate * T) * N, in the same units times N0; T from the first event to the last."""
        span_us = self.events[-1][0] - self.events[0][0] if self.events else 0
        return (self.server.full + self.server.rate * span_us) * len(self.replicas)


WHICH = st.integers(0, 3)
COSTS = st.sampled_from([1, 1, 1, 2, 3, 7, 10])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("check"), WHICH, COSTS, st.sampled_from(["certain", "certain", "counted", "lost"])),
        st.tuples(st.just("run"), WHICH, st.integers(1, 12)),
        st.tuples(st.just("wait"), st.sampled_from([1, 1_000, 90_000, SECOND_US, 9 * SECOND_US, 3_600 * SECOND_US])),
        st.tuples(st.just("cut"), WHICH),
        st.tuples(st.just("join"), WHICH),
        st.tuples(st.just("all"), st.booleans()),
        st.tuples(st.just("replay"), WHICH, st.sampled_from([None, None, "unsent", "lost", "dropped"])),
        st.tuples(st.just("divide"), WHICH, st.integers(1, 5)),
    ),
    max_size=60,
)


def run(deployment, steps, *, may_divide=False):  # noqa: C901 - one case for each kind of step
    replicas = deployment.replicas
    for name, *details in steps:
        match name, details:
            case "check", (which, cost, outcome):
                deployment.check(which, cost, outcome)
            case "run", (which, times):
                for _ in range(times):
                    deployment.check(which, 1)
            case "wait", (us,):
                deployment.server.now_us += us
            case (("cut" | "join"), (which,)):
                replicas[which].is_cut = name == "cut"
            case "all", (is_cut,):
                for replica in replicas:
                    replica.is_cut = is_cut
            case "replay", (which, fault):
                replicas[which].replay(fault)
            case "divide", (which, parts):
                if may_divide:
                    replicas[which].replicas = parts


SIZES = st.tuples(st.sampled_from([1, 2, 7, 12]), st.sampled_from([1, 3, 10, 100]))


@settings(max_examples=400)
@given(st.integers(1, 4), SIZES, STEPS)
def test_excess_is_within_the_bound(replicas, size, steps):
    """(burst + rate * T) * N / N0: N0 below N, at N and above, bursts of 1, costs above the Nth part of a burst."""
    deployment = Deployment(Throttle(*size), None, 4, replicas)
    run(deployment, steps)
    assert deployment.excess() * replicas <= deployment.bound()


@settings(max_examples=200)
@given(SIZES, STEPS)
def test_excess_is_within_the_bound_as_replicas_are_counted_anew(size, steps):
    """The bound is that of the least N0 that any of them divided by."""
    deployment = Deployment(Throttle(*size), None, 4, 5)
    run(deployment, steps, may_divide=True)
    least = min([5, *(details[1] for name, *details in steps if name == "divide")])
    assert deployment.excess() * least <= deployment.bound()


@settings(max_examples=400)
@given(st.integers(1, 4), st.sampled_from([1, 3, 10, 40]), STEPS)
def test_a_quota_is_passed_by_less_than_its_shares(replicas, limit, steps):
    """At most one share of each replica beyond the limit, however often Redis goes and comes back."""
    deployment = Deployment(None, Quota(limit, "MONTH"), 4, replicas)
    run(deployment, [step for step in steps if step[:1] != ("wait",) or step[1] < SECOND_US])
    assert sum(cost for _, cost in deployment.events) <= limit + 4 * (limit // replicas)


@settings(max_examples=300)
@given(st.integers(1, 4), STEPS)
def test_what_was_admitted_without_redis_is_charged_once(replicas, steps):
    """Whatever became of attempts to charge it: no unit twice, and none that Redis may have counted itself."""
    deployment = Deployment(Throttle(1000, 10_000), None, 4, replicas)
    run(deployment, steps)
    for replica in deployment.replicas:
        replica.is_cut = False
        replica.replay_all()
    assert sum(cost for *_, cost in deployment.server.charged) == deployment.certain
    numbers = [(life, sequence) for life, sequence, _ in deployment.server.charged]
    assert len(set(numbers)) == len(numbers)


def flood(deployment, seconds, each_us):
    """Every replica is asked for more than it has, all the time."""
    for _ in range(seconds * SECOND_US // each_us + 1):
        for which in range(len(deployment.replicas)):
            while deployment.check(which, 1):
                pass
        deployment.server.now_us += each_us


@pytest.mark.parametrize(("replicas", "passed"), [(12, 143), (6, 286)])
def test_all_replicas_but_one_are_cut(replicas, passed):
    """12 replicas, 12/s, burst 100, 5 s: the bound is (100 + 12 * 5) * N / N0, and it is nearly met."""
    deployment = Deployment(Throttle(12, 100), None, 12, replicas)
    for replica in deployment.replicas:
        replica.known = deployment.server.states(0)
    for replica in deployment.replicas[1:]:
        replica.is_cut = True
    flood(deployment, 5, 10_000)
    excess = deployment.excess() / deployment.server.per
    assert passed <= excess + 1
    assert excess <= 160 * 12 / replicas


def test_flaps_mint_nothing():
    """Redis is away for 1 s in each 2 s, for 30 s: the journal keeps the bucket down, nobody begins with a burst."""
    deployment = Deployment(Throttle(12, 100), None, 12, 12)
    for flap in range(30):
        for replica in deployment.replicas:
            replica.is_cut = flap % 2 == 1
            if not replica.is_cut:
                replica.replay_all()
        flood(deployment, 1, 50_000)
    assert deployment.excess() / deployment.server.per <= 150


def test_a_cost_above_the_nth_part_of_a_burst_passes_in_time():
    """A bucket of 1/12 of the rate has room for the whole burst: 100 tokens at 1/s, of which 100/12 were there."""
    deployment = Deployment(Throttle(12, 100), None, 1, 12)
    deployment.replicas[0].is_cut = True
    assert not deployment.check(0, 100)
    missing_us = -(-(100 * 12 - 100) * SECOND_US // 12)
    deployment.server.now_us += missing_us - 1
    assert not deployment.check(0, 100)
    deployment.server.now_us += 1
    assert deployment.check(0, 100)
    assert not deployment.check(0, 1)


def test_a_share_is_renewed_once_its_journal_was_charged():
    """A quota of 40, 4 replicas: 10 each. Redis comes back and goes again before the journal was charged, and after."""
    deployment = Deployment(None, Quota(40, "MONTH"), 4, 4)
    replica = deployment.replicas[0]
    replica.is_cut = True
    assert [deployment.check(0, 1) for _ in range(11)] == [True] * 10 + [False]
    replica.is_cut = False
    assert deployment.check(0, 1)
    replica.is_cut = True
    assert not deployment.check(0, 1)  # 39 are left as Redis says, but 10 of them are spent
    replica.is_cut = False
    replica.replay_all()
    replica.local.end_outage()
    replica.is_cut = True
    assert not deployment.check(0, 1)  # nothing was heard since
    replica.local.end_outage()
    replica.is_cut = False
    deployment.server.now_us += 1
    assert deployment.check(0, 1)
    replica.is_cut = True
    assert [deployment.check(0, 1) for _ in range(8)] == [True] * 7 + [False]  # (40 - 12) // 4
    assert deployment.server.used == 12


def test_a_window_that_ends_meanwhile_begins_with_a_fresh_share():
    """A share of the new window is of the whole quota; entries of two windows are charged apart."""
    deployment = Deployment(None, Quota(40, "DAY"), 1, 4)
    replica = deployment.replicas[0]
    assert deployment.check(0, 35)
    replica.is_cut = True
    assert [deployment.check(0, 1) for _ in range(2)] == [True, False]
    deployment.server.now_us += 86_400 * SECOND_US
    assert [deployment.check(0, 1) for _ in range(11)] == [True] * 10 + [False]
    assert [entry.cost for entry in replica.local.callers[CALLER].entries] == [1, 10]
    replica.replay_all()
    assert deployment.server.used == 10


def test_an_entry_that_was_sent_takes_no_more():
    """A reply is lost; what is admitted afterwards is another entry, and both are charged once."""
    deployment = Deployment(Throttle(1000, 10_000), None, 1, 1)
    replica = deployment.replicas[0]
    replica.is_cut = True
    assert deployment.check(0, 3)
    replica.replay("unsent")
    assert deployment.check(0, 4)
    replica.replay("lost")
    replica.replay("unsent")
    assert deployment.check(0, 5)
    replica.replay_all()
    assert [charged[1:] for charged in deployment.server.charged] == [(1, 7), (2, 5)]


def test_an_unknown_outcome_is_spent_and_not_charged():
    """The bucket of this process is lower by it; the journal is empty."""
    deployment = Deployment(Throttle(1, 10), None, 1, 1)
    deployment.replicas[0].is_cut = True
    assert deployment.check(0, 6, "lost")
    assert not deployment.check(0, 5)
    assert len(deployment.replicas[0].journal) == 0


def test_units_of_unknown_outcome_are_not_renewed():
    """Each time Redis goes, one check of unknown outcome: together no more than one share."""
    deployment = Deployment(None, Quota(40, "MONTH"), 4, 4)
    replica, admitted = deployment.replicas[0], 0
    for _ in range(30):
        replica.is_cut = True
        admitted += deployment.check(0, 1, "lost")
        replica.is_cut = False
        deployment.server.now_us += 1
        replica.known = deployment.server.states(replica.namespace.age_us())
        replica.local.end_outage()
    assert admitted == 10


def test_a_child_owes_nothing_and_has_another_name():
    """What the parent admitted is the parent's to charge; the child goes on with what is left of the share."""
    deployment = Deployment(Throttle(1, 12), None, 1, 2)
    replica = deployment.replicas[0]
    replica.is_cut = True
    assert deployment.check(0, 5)
    life = replica.journal.life.name
    replica.local.reset_after_fork()
    replica.journal.life.reset_after_fork()
    assert (len(replica.journal), replica.local.waiting) == (0, {})
    assert replica.local.callers[CALLER].entries == []
    assert replica.journal.life.name != life
    assert not deployment.check(0, 2)
    assert deployment.check(0, 1)


def test_idle_callers_are_forgotten_when_nothing_depends_on_them():
    """Not before the bucket is full, nor while the journal waits, nor while Redis is away."""
    deployment = Deployment(Throttle(1, 12), None, 1, 2)
    replica, server = deployment.replicas[0], deployment.server

    def left():
        replica.local.drop_idle(10, replica.namespace.age_us(), server.now_us)
        return len(replica.local.callers)

    replica.is_cut = True
    assert deployment.check(0, 5)  # of 6, and of a bucket of 12 that gains 1 in 2 s
    server.now_us += 22 * SECOND_US
    assert left() == 1
    replica.is_cut = False
    replica.local.end_outage()
    assert left() == 1
    replica.replay_all()
    server.now_us -= 1
    assert left() == 1
    server.now_us += 1
    assert left() == 0


def test_a_next_outage_begins_with_no_more_than_was_left():
    """12 at 1/s among 2: 6 are spent. Redis comes back, says nothing of this caller, and goes again 4 s later."""
    deployment = Deployment(Throttle(1, 12), None, 1, 2)
    replica = deployment.replicas[0]
    replica.is_cut = True
    assert deployment.check(0, 6)
    deployment.server.now_us += 4 * SECOND_US
    replica.local.end_outage()
    assert [deployment.check(0, 1) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (2, 4, 4),  # 1 of 12, and 12 s at a quarter of 1/s
        (4, 2, 3),  # 1 of 6, and 8 s at a quarter of 1/s
    ],
)
def test_replicas_are_counted_anew_between_outages(before, after, left):
    """What was left is the same number of tokens, and has refilled at the slower of the two rates."""
    deployment = Deployment(Throttle(1, 24), None, 1, before)
    replica = deployment.replicas[0]
    replica.is_cut = True
    assert deployment.check(0, 24 // before - 1)
    replica.local.end_outage()
    deployment.server.now_us += {4: 12, 2: 8}[after] * SECOND_US
    replica.replicas = after
    assert [deployment.check(0, 1) for _ in range(left + 1)] == [True] * left + [False]


def test_a_cost_above_the_share_of_a_quota_can_never_pass_here():
    """No waiting helps: the next window has no larger share. What fits waits for the next window."""
    deployment = Deployment(None, Quota(40, "MONTH"), 1, 4)
    replica, server = deployment.replicas[0], deployment.server
    replica.local.begin_outage(4)

    def ends_us(cost):
        verdict = replica.local.judge(replica.limits, CALLER, cost, Spending.CERTAIN, 0, server.now_us, dict, dict)
        return verdict.denial and verdict.denial[2]

    assert [ends_us(11), ends_us(10), ends_us(1)] == [inf, None, server.window_us]


def test_a_caller_without_room_is_not_judged():
    """Two callers have a place, a third has none until one of them is as new; requests without a key always have."""
    local = LocalLimits(max_callers=2)
    limits = CompiledLimits([Bucket("plan:p", Throttle(1, 1))], "p:p", is_identity=True)
    shared = CompiledLimits([Bucket("account", Throttle(1, 1), "n:account", shared=True)])

    def judge(caller_id, limits=limits, now_us=0):
        local.begin_outage(1)
        return local.judge(limits, caller_id, 1, Spending.CERTAIN, now_us, now_us + 1, dict, dict)

    assert [judge(each) is None for each in ("~a", "~b", "~c", "~a")] == [False, False, True, False]
    assert judge("", shared) is not None
    local.end_outage()
    local.drop_idle(10, SECOND_US, SECOND_US)
    assert judge("~c", now_us=SECOND_US) is not None
