"""What replies to CLUSTER SLOTS say, and when they are refreshed."""

import pytest

from ratelimit.errors import StoreUnavailable
from ratelimit.store.addresses import name_of
from ratelimit.store.breaker import BreakerState
from ratelimit.store.cluster.slots import SLOTS
from ratelimit.store.cluster.topology import NodeFailures, RefreshRound, RefreshSchedule, Topology

NODE = ("10.0.0.1", 7000)
FIRST = [0, 8191, [b"10.0.0.1", 7000, b"id1", []], [b"10.0.0.2", 7001, b"id2", []]]
SECOND = [8192, 16383, [b"10.0.0.3", 7002, b"id3", []], [b"10.0.0.4", 7003, b"id4", []]]


def test_nodes_and_owners():
    topology = Topology.from_slots([FIRST, SECOND], NODE, b"cluster_state:ok\r\ncluster_current_epoch:6\r\n")
    assert topology.epoch == 6
    assert topology.primaries == (("10.0.0.1", 7000), ("10.0.0.3", 7002))
    assert topology.replicas == (("10.0.0.2", 7001), ("10.0.0.4", 7003))
    assert [topology.owner[slot] for slot in (0, 8191, 8192, 16383)] == [
        *[("10.0.0.1", 7000)] * 2,
        *[("10.0.0.3", 7002)] * 2,
    ]
    assert topology.problem() is None
    assert name_of(topology.primaries[0]) == "10.0.0.1:7000"


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_without_a_name_is_where_it_was_queried(host):
    """As with `cluster-preferred-endpoint-type unknown-endpoint`, or before it has met others."""
    assert Topology.from_slots([[0, 16383, [host, 7005, b"id"]]], NODE).primaries == (("10.0.0.1", 7005),)


def test_addresses_are_mapped_to_others_than_the_cluster_reports():
    topology = Topology.from_slots([FIRST], NODE, remap=lambda address: ("localhost", address[1] + 1))
    assert topology.owner[0] == ("localhost", 7001)
    assert topology.replicas == (("localhost", 7002),)


def test_without_permission_for_the_epoch_there_is_none():
    assert Topology.from_slots([FIRST], NODE, RuntimeError("NOPERM")).epoch == 0


@pytest.mark.parametrize(
    "reply", [None, 7, [[0]], [[16384, 16390, [b"h", 1]]], [[0, 1, []]], [[b"x", 1, [b"h", 1]]], b"OK"]
)
def test_what_is_no_list_of_slots_is_refused(reply):
    with pytest.raises(StoreUnavailable, match=r"10\.0\.0\.1:7000 answered CLUSTER SLOTS"):
        Topology.from_slots(reply, NODE)


def test_missing_slots_are_named_with_the_remedy():
    topology = Topology.from_slots([[5, 9, FIRST[2]], [11, 100, FIRST[2]], [102, 200, FIRST[2]], SECOND], NODE)
    problem = topology.problem()
    assert problem.cause == "refused"
    assert f"{5 + 1 + 1 + 8192 - 201} of the cluster's {SLOTS} slots have no primary (0-4, 10, 101, ...)" in str(
        problem
    )
    assert "redis-cli --cluster fix" in str(problem)


def test_a_node_that_is_in_no_cluster_is_named_with_the_remedy():
    assert "redis-cli --cluster create" in str(Topology.from_slots([], NODE).problem())


def test_another_owner_of_one_slot():
    topology = Topology.from_slots([FIRST, SECOND], NODE)
    moved = topology.with_owner(7, ("10.0.0.2", 7001))
    assert (moved.owner[6], moved.owner[7]) == (("10.0.0.1", 7000), ("10.0.0.2", 7001))
    assert topology.owner[7] == ("10.0.0.1", 7000)
    assert ("10.0.0.2", 7001) in moved.primaries
    assert ("10.0.0.2", 7001) not in moved.replicas
    assert not moved.has_failed
    assert Topology.from_slots([FIRST], NODE, "cluster_state:fail").with_owner(7, NODE).has_failed


def reported(epoch, slots=(FIRST, SECOND), state="ok"):
    return Topology.from_slots(slots, NODE, f"cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n")


def outcome(last, *topologies):
    """Which of the topologies that nodes report is the best, by its place, and how many nodes were queried for it."""
    refresh = RefreshRound(last)
    count = next((at for at, each in enumerate(topologies, 1) if refresh.add(each)), len(topologies))
    return next(at for at, each in enumerate(topologies) if each is refresh.best), count


def test_the_first_topology_that_is_no_older_than_the_last_counts():
    assert outcome(None, reported(4), reported(5)) == (0, 1)
    assert outcome(reported(4), reported(4), reported(5)) == (0, 1)
    assert outcome(reported(5), reported(4), reported(5), reported(6)) == (1, 2)


def test_without_one_the_newest_counts():
    """As where the cluster has been set up anew."""
    assert outcome(reported(9), reported(4), reported(5), reported(3)) == (1, 3)


def test_a_node_that_has_left_reports_no_topology():
    """Its epoch is no lower, but it reports no slots: that counts only if no other node reports any."""
    assert outcome(reported(5), reported(5, slots=()), reported(5)) == (1, 2)
    assert outcome(None, reported(5, slots=()), reported(4)) == (1, 2)
    assert outcome(None, reported(4), reported(5, slots=())) == (0, 1)
    assert outcome(reported(5), reported(5, slots=())) == (0, 1)


def test_a_node_that_reports_that_the_cluster_is_down_may_be_cut_off():
    """Another is queried, and right if it reports otherwise; if it reports the same, that is enough."""
    down = reported(5, state="fail")
    assert outcome(reported(5), down, reported(6), reported(6)) == (1, 2)
    assert outcome(reported(5), down, reported(4)) == (1, 2)
    assert outcome(reported(5), down, down, reported(6)) == (0, 2)
    assert outcome(reported(5), down, reported(6, state="fail"), reported(6)) == (1, 2)
    assert outcome(reported(5), reported(4), down, down, reported(6)) == (3, 4)
    assert outcome(reported(5), reported(4), down, down) == (0, 3)
    assert outcome(reported(5), down) == (0, 1)


def test_a_node_that_reports_a_slot_without_owner_may_not_be_informed_yet():
    """Another is queried, and right if it reports all owners; if it does not either, that is enough."""
    missing = reported(6, slots=(FIRST,))
    assert outcome(reported(5), missing, reported(5), reported(6)) == (1, 2)
    assert outcome(reported(5), missing, missing, reported(6)) == (0, 2)
    assert outcome(reported(5), missing, reported(6, state="fail"), reported(6)) == (0, 2)
    assert outcome(reported(5), reported(4), missing, reported(6)) == (2, 3)
    assert outcome(None, missing) == (0, 1)


def test_it_is_refreshed_at_once_and_then_every_five_seconds():
    schedule = RefreshSchedule()
    assert schedule.due_in_s(100.0, is_unreachable=False) <= 0
    schedule.begin(100.0)
    assert schedule.due_in_s(100.0, is_unreachable=False) == 5.0
    assert schedule.due_in_s(104.0, is_unreachable=True) <= 0


def test_it_is_refreshed_once_for_all_who_request_it():
    """However many request it, it is refreshed ten times a second at most."""
    schedule = RefreshSchedule()
    schedule.begin(100.0)
    assert [schedule.request(), schedule.request()] == [True, False]
    assert schedule.due_in_s(100.04, is_unreachable=False) == pytest.approx(0.06)
    schedule.begin(100.1)
    assert schedule.due_in_s(100.1, is_unreachable=False) == 5.0
    assert schedule.request()  # one that comes during a refresh may be for what the queried node does not know yet


def test_an_urgent_request_is_met_at_once():
    """However short a time ago it was refreshed, and also if a refresh was requested before; but once."""
    schedule = RefreshSchedule()
    schedule.begin(100.0)
    assert [schedule.request(), schedule.request(is_urgent=True), schedule.request(is_urgent=True)] == [
        True,
        True,
        False,
    ]
    assert not schedule.request()
    assert schedule.due_in_s(100.01, is_unreachable=False) <= 0
    schedule.begin(100.01)
    assert schedule.due_in_s(100.01, is_unreachable=False) == 5.0


CLOSED, OPEN = BreakerState(is_open=False, openings=0), BreakerState(is_open=True, openings=1)


def refreshed(schedule, *began_s):
    for each in began_s:
        schedule.begin(each)
        schedule.end()


@pytest.mark.parametrize("breaker", [CLOSED, OPEN])
def test_who_meets_a_node_that_begins_to_fail_waits_for_a_refresh(breaker):
    """For one that began after that: one that ended before, or was under way, says nothing about it."""
    schedule, failures = RefreshSchedule(), NodeFailures()
    refreshed(schedule, 99.9)
    assert not failures.is_refresh_awaited(99.95, schedule)
    schedule.begin(99.99)
    assert failures.note(100.0, breaker)
    assert failures.is_refresh_awaited(100.0, schedule)
    schedule.end()
    assert failures.is_refresh_awaited(100.01, schedule)
    schedule.begin(100.01)
    assert failures.is_refresh_awaited(100.02, schedule)
    schedule.end()
    assert not failures.is_refresh_awaited(100.02, schedule)


@pytest.mark.parametrize(("breaker", "interval_s"), [(CLOSED, 0.9), (OPEN, 0.9), (OPEN, 29.0)])
def test_as_long_as_a_node_is_away_its_callers_do_not_wait(breaker, interval_s):
    """Nor do they request refreshes that are urgent, however seldom they come while its breaker is open."""
    schedule, failures = RefreshSchedule(), NodeFailures()
    failures.note(100.0, breaker)
    refreshed(schedule, 100.0)
    for times in range(1, 100):
        now_s = 100.0 + times * interval_s
        assert not failures.note(now_s, breaker)
        assert not failures.is_refresh_awaited(now_s, schedule)


def test_nobody_waits_long_for_a_refresh_that_does_not_end():
    schedule, failures = RefreshSchedule(), NodeFailures()
    failures.note(100.0, OPEN)
    failures.note(100.9, OPEN)
    assert failures.is_refresh_awaited(100.99, schedule)
    assert not failures.is_refresh_awaited(101.0, schedule)


@pytest.mark.parametrize(
    ("before", "after", "is_new"),
    [
        (OPEN, BreakerState(is_open=True, openings=2), True),  # it was back meanwhile
        (OPEN, BreakerState(is_open=False, openings=1), False),  # it is back, and answers that it is loading
        (CLOSED, OPEN, True),
        (CLOSED, CLOSED, False),
    ],
)
def test_a_node_that_fails_once_more(before, after, is_new):
    """It begins to fail if its breaker opens, or after a second without a failure."""
    failures = NodeFailures()
    failures.note(100.0, before)
    assert failures.note(100.5, after) is is_new
    assert not failures.note(101.4, after)
    assert failures.note(102.4, after) is not after.is_open


def test_while_a_primary_does_not_reply_it_is_refreshed_four_times_a_second():
    schedule = RefreshSchedule()
    schedule.begin(100.0)
    assert schedule.due_in_s(100.0, is_unreachable=True) == 0.25


def test_a_refresh_that_fails_names_each_node_with_its_reason():
    """And its cause is that of a node which refused, rather than that of one which cannot be connected to."""
    refresh = RefreshRound(None)
    refresh.fail(NODE, StoreUnavailable("no connection"))
    refresh.fail(("10.0.0.3", 7002), StoreUnavailable("NOPERM", cause="refused"))
    failure = refresh.failure()
    assert "reports its slots (10.0.0.1:7000: no connection; 10.0.0.3:7002: NOPERM)" in str(failure)
    assert failure.cause == "refused"
