"""What a check costs the servers of a cluster: what is counted of callgrind's profiles, and the figure."""

import pytest

from benchmarks.suite import callgrind
from benchmarks.suite.clusters import one_check
from benchmarks.suite.clusters.metered_cluster import MeteredCluster

PROFILE = """\
positions: line
events: Ir

fl=(1) networking.c
fn=(1) readQueryFromClient
10 5
+2 7
cfi=(2) server.c
cfn=(2) processCommand
calls=3 20
+1 300

fn=(3) aeProcessEvents
7 11
cfn=(1)
calls=2 10
* 400
cfn=(4) serverCron
calls=1 90
-1 6000

fn=(5) resumed
8 1
cfn=(1)
calls=1 10
8 50

totals: 6774
"""


def test_what_calls_of_a_function_spent():
    """With what they called, from wherever they were called; a name stands in a profile once."""
    assert callgrind.spent_in(PROFILE, "readQueryFromClient") == 450
    assert callgrind.spent_in(PROFILE, "processCommand") == 300
    assert callgrind.spent_in(PROFILE, "serverCron") == 6000


def test_a_function_that_is_not_there_is_no_zero():
    """A server of another version may have given it another name: then nothing is counted, and it says so."""
    with pytest.raises(RuntimeError, match="the server has no function writeToClient"):
        callgrind.spent_in(PROFILE, "writeToClient")


def test_a_key_is_sent_to_the_node_that_owns_it():
    """Slots are divided in three: those of these keys are 5061, 7365 and 15495."""
    cluster = MeteredCluster([], [7000, 7001, 7002])
    assert [cluster.node_of(key) for key in ("x{bar}", "c", "a")] == [0, 1, 2]


def test_the_ratio_has_the_target():
    """The sum over the nodes, of what one server spends; beside it a second in which nothing is asked."""
    one = {"per_check": 100.0, "idle_per_s": 7.0}
    three = {"per_check": 106.0, "idle_per_s": 9.0}
    result = {"counts": {"valkey 9": {one_check.ONE_SERVER: one, one_check.CLUSTER: three}}}
    ratio, idle = one_check.figures(result)
    assert (ratio.value, ratio.target, ratio.reached) == (pytest.approx(1.06), 1.05, False)
    assert (idle.value, idle.target) == (9.0, None)
    (table,) = one_check.tables(result)
    assert table.row_count == 1


def test_without_valgrind_it_says_so(monkeypatch):
    """No figure, and the reason instead of a table."""
    monkeypatch.setattr(callgrind, "VALGRIND", None)
    result = one_check.measure()
    assert list(one_check.figures(result)) == []
    assert callgrind.ABSENT in next(one_check.tables(result))
