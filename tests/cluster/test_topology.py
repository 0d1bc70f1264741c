"""What CLUSTER SLOTS says, and when it is asked for."""

import pytest

from ratelimit.errors import StoreUnavailable
from ratelimit.store.cluster.slots import SLOTS
from ratelimit.store.cluster.topology import Refresh, Topology, Views, name_of

ASKED = ("10.0.0.1", 7000)
FIRST = [0, 8191, [b"10.0.0.1", 7000, b"id1", []], [b"10.0.0.2", 7001, b"id2", []]]
SECOND = [8192, 16383, [b"10.0.0.3", 7002, b"id3", []], [b"10.0.0.4", 7003, b"id4", []]]


def test_nodes_and_owners():
    topology = Topology.from_slots([FIRST, SECOND], ASKED, b"cluster_state:ok\r\ncluster_current_epoch:6\r\n")
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
def test_a_node_without_a_name_is_where_it_was_asked(host):
    """As with `cluster-preferred-endpoint-type unknown-endpoint`, or before it has met others."""
    assert Topology.from_slots([[0, 16383, [host, 7005, b"id"]]], ASKED).primaries == (("10.0.0.1", 7005),)


def test_addresses_may_be_others_than_the_cluster_tells():
    topology = Topology.from_slots([FIRST], ASKED, remap=lambda address: ("localhost", address[1] + 1))
    assert topology.owner[0] == ("localhost", 7001)
    assert topology.replicas == (("localhost", 7002),)


def test_without_permission_for_the_epoch_there_is_none():
    assert Topology.from_slots([FIRST], ASKED, RuntimeError("NOPERM")).epoch == 0


@pytest.mark.parametrize(
    "reply", [None, 7, [[0]], [[16384, 16390, [b"h", 1]]], [[0, 1, []]], [[b"x", 1, [b"h", 1]]], b"OK"]
)
def test_what_is_no_list_of_slots_is_refused(reply):
    with pytest.raises(StoreUnavailable, match=r"10\.0\.0\.1:7000 answered CLUSTER SLOTS"):
        Topology.from_slots(reply, ASKED)


def test_missing_slots_are_named_with_the_remedy():
    topology = Topology.from_slots([[5, 9, FIRST[2]], [11, 100, FIRST[2]], [102, 200, FIRST[2]], SECOND], ASKED)
    problem = topology.problem()
    assert f"{5 + 1 + 1 + 8192 - 201} of the cluster's {SLOTS} slots have no primary (0-4, 10, 101, ...)" in problem
    assert "redis-cli --cluster fix" in problem


def test_a_node_that_is_in_no_cluster_is_named_with_the_remedy():
    assert "redis-cli --cluster create" in Topology.from_slots([], ASKED).problem()


def test_another_owner_of_one_slot():
    topology = Topology.from_slots([FIRST, SECOND], ASKED)
    moved = topology.with_owner(7, ("10.0.0.2", 7001))
    assert (moved.owner[6], moved.owner[7]) == (("10.0.0.1", 7000), ("10.0.0.2", 7001))
    assert topology.owner[7] == ("10.0.0.1", 7000)
    assert ("10.0.0.2", 7001) in moved.primaries
    assert ("10.0.0.2", 7001) not in moved.replicas
    assert not moved.has_failed
    assert Topology.from_slots([FIRST], ASKED, "cluster_state:fail").with_owner(7, ASKED).has_failed


def view(epoch, slots=(FIRST,), state="ok"):
    return Topology.from_slots(slots, ASKED, f"cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n")


def told(last, *all_views):
    """Which of the views counts, by its place, and how many nodes were asked for it."""
    views = Views(last)
    asked = []
    for each in all_views:
        asked.append(each)
        if views.take(each):
            break
    return next(at for at, each in enumerate(asked) if each is views.best), len(asked)


def test_the_first_view_that_is_no_older_than_the_last_counts():
    assert told(None, view(4), view(5)) == (0, 1)
    assert told(view(4), view(4), view(5)) == (0, 1)
    assert told(view(5), view(4), view(5), view(6)) == (1, 2)


def test_without_one_the_newest_counts():
    """As where the cluster has been set up anew."""
    assert told(view(9), view(4), view(5), view(3)) == (1, 3)


def test_the_view_of_a_node_that_has_left_is_none():
    """Its epoch is no lower, but it knows of no slots: it is gone by only where nobody says anything else."""
    assert told(view(5), view(5, slots=()), view(5)) == (1, 2)
    assert told(None, view(5, slots=()), view(4)) == (1, 2)
    assert told(None, view(4), view(5, slots=())) == (0, 1)
    assert told(view(5), view(5, slots=())) == (0, 1)


def test_a_node_that_says_that_the_cluster_is_down_may_be_cut_off():
    """Another is asked, and right if it says otherwise; where that one says so, too, it is enough."""
    down = view(5, state="fail")
    assert told(view(5), down, view(6), view(6)) == (1, 2)
    assert told(view(5), down, view(4)) == (1, 2)
    assert told(view(5), down, down, view(6)) == (0, 2)
    assert told(view(5), down, view(6, state="fail"), view(6)) == (1, 2)
    assert told(view(5), view(4), down, down, view(6)) == (3, 4)
    assert told(view(5), view(4), down, down) == (0, 3)
    assert told(view(5), down) == (0, 1)


def test_it_is_asked_for_at_once_and_then_now_and_then():
    refresh = Refresh()
    assert refresh.due_in_s(100.0, is_silent=False) <= 0
    refresh.begin(100.0)
    assert refresh.due_in_s(100.0, is_silent=False) == 5.0
    assert refresh.due_in_s(104.0, is_silent=True) <= 0


def test_it_is_asked_for_once_for_all_who_doubt_it():
    """The first one's doubt is news; and however many doubt it, nodes are asked ten times a second at most."""
    refresh = Refresh()
    refresh.begin(100.0)
    assert [refresh.doubt(), refresh.doubt()] == [True, False]
    assert refresh.due_in_s(100.04, is_silent=False) == pytest.approx(0.06)
    refresh.begin(100.1)
    assert refresh.due_in_s(100.1, is_silent=False) == 5.0
    assert refresh.doubt()  # who doubts it while a node is being asked, may know more than that node


def test_while_a_primary_is_silent_it_is_asked_for_again_and_again():
    refresh = Refresh()
    refresh.begin(100.0)
    assert refresh.due_in_s(100.0, is_silent=True) == 0.25
