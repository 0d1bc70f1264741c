"""Loads on leased shared limits: what is counted of them, and that what is promised is near."""

from contextlib import closing

import pytest

from benchmarks.suite import host
from benchmarks.suite.clusters import shared_limits
from benchmarks.suite.clusters.shared_limits import Cell


@pytest.fixture(scope="module")
def wire():
    server = host.Server(host.MAIN)
    with closing(shared_limits.Wire(server)) as made:
        yield made
    server.stop()


def test_the_exact_bucket():
    """Two at once, a third after a second; a denied one takes nothing."""
    cell = Cell(1, 1, 2, 1.0)
    checks = [(0, 0, "denied"), (0, 0, "admitted"), (1, 0, "admitted"), (2, 0, "admitted"), (1_000_001, 0, "admitted")]
    assert shared_limits.exact_admissions(cell, checks) == 3


def test_a_load_within_the_limit_is_admitted(wire):
    """All of it, and most checks send nothing."""
    outcome = shared_limits.run(wire, Cell(4, 1000, 1000, 0.8, seconds=1.0))
    assert outcome["admitted"] == outcome["exact"] == outcome["checks"]
    assert outcome["messages"] <= 0.2
    assert outcome["waited"] <= 0.05
    assert outcome["p50_trips"] == 0


def test_a_load_beyond_the_limit_uses_it(wire):
    """Not more than there is, and little less."""
    outcome = shared_limits.run(wire, Cell(4, 1000, 100, 2.0, seconds=1.0))
    assert 0.97 <= outcome["admitted"] / outcome["exact"] <= 1.0
    assert outcome["checks"] > outcome["exact"]


def test_what_is_lost_as_a_full_bucket_empties_is_lost_once(wire):
    """Beyond the limit, a load that lasts longer is short of as many units as before, and not of more each second."""
    short, longer = (shared_limits.run(wire, Cell(20, 1000, 100, 2.0, denied=0.3, seconds=s))["short"] for s in (1, 3))
    assert 0 < short <= 20
    assert longer <= short + 5


def test_figures_and_tables(wire):
    """One row, and three figures."""
    outcome = shared_limits.run(wire, Cell(2, 100, 100, 0.5, seconds=1.0))
    assert len(list(shared_limits.figures([outcome]))) == 3
    (table,) = shared_limits.tables([outcome])
    assert table.row_count == 1
