"""The targets of a check's CPU time: what is divided by what, and how it is published by machine."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.contenders import floors, ours, peers
from benchmarks.report import machines
from benchmarks.suite import host, latency
from benchmarks.suite.rounds import Sample, ratio_above

CPU_US = {
    floors.RAW.name: (10.0, 20.0, 40.0),  # the second round runs at half the speed of the first, the third at a quarter
    ours.RAW.name: (12.0, 24.0, 48.0),
    ours.CHECK.name: (15.0, 30.0, 60.0),
    peers.THROTTLED_BUCKET.name: (60.0, 120.0, 240.0),
    peers.LIMITS_FIXED.name: (35.0, 70.0, 140.0),
    peers.UPSTASH.name: (20.0, 40.0, 80.0),
}


@pytest.fixture
def benchmarks():
    """pytest-benchmark's entries for made-up CPU times, on one core and on two, where each call costs 5 us more."""
    kinds = {floors.RAW.name: "floor", ours.RAW.name: "floor", ours.CHECK.name: "ours"}
    contenders = {name: SimpleNamespace(kind=kinds.get(name, "peer"), limits="") for name in CPU_US}
    entries = []
    for placement, more in ((host.TOGETHER, 0.0), (host.APART, 5.0)):
        measured = latency.Measured(host.MAIN, "valkey 9", placement, contenders, {})
        measured.samples = {name: [Sample(us + more, us + more) for us in rounds] for name, rounds in CPU_US.items()}
        entries += [{"extra_info": {"contender": name, **measured.summary(name)}} for name in CPU_US]
    return json.loads(json.dumps(entries))


def test_what_both_cannot_avoid_is_subtracted_round_by_round():
    """A round in which the machine is slow counts as every other: its ratio is the same."""
    low, middle, high = ratio_above([10, 100, 10], [15, 150, 16], [60, 600, 40])
    assert (low, middle, high) == pytest.approx((0.1, 0.1, 0.15))


def test_targets_are_above_the_raw_round_trip_and_of_the_floor(benchmarks):
    """(15 - 10)/(60 - 10) and (15 - 10)/(35 - 10) against 0.15, 15/12 against 1.35, 15/10 against 1.8."""
    figures = {figure.name: figure for figure in latency.figures(benchmarks)}
    where = f"{host.MAIN}, {host.TOGETHER}: CPU time of a check"
    expected = {
        f"above the raw round trip / {peers.THROTTLED_BUCKET.name}": (0.1, 0.15),
        f"above the raw round trip / {peers.LIMITS_FIXED.name}": (0.2, 0.15),
        f"above the raw round trip / {peers.UPSTASH.name}": (0.5, None),
        f"/ {ours.RAW.name}": (1.25, 1.35),
        f"/ {floors.RAW.name}": (1.5, 1.8),
        f"/ {peers.THROTTLED_BUCKET.name}": (0.25, None),
    }
    for name, (value, target) in expected.items():
        figure = figures[f"{where} {name}"]
        assert (figure.value, figure.target) == (pytest.approx(value), target)
    assert figures[f"{where} above the raw round trip / {peers.THROTTLED_BUCKET.name}"].reached
    assert not figures[f"{where} above the raw round trip / {peers.LIMITS_FIXED.name}"].reached


def test_one_core_and_cores_apart_stand_beside_each_other_for_every_machine(benchmarks, tmp_path):
    """What a call costs more on two cores cancels out above the raw round trip, and does not in whole calls."""
    path = tmp_path / "machines.json"
    system = {"cores": 2, "system": "Linux 6", "commit": "abc1234"}
    for processor in ("Old CPU", "New CPU", "New CPU"):
        result = {"made": "2026-01-02T03:04:05Z", "machine": {"processor": processor, **system}}
        entries = machines.record(path, result, latency.headlines(benchmarks))
    old, new = machines.tables(entries)
    assert old.title == "CPU time of a check on Old CPU, 2 cores, Linux 6; 2026-01-02, commit abc1234"
    assert new.title.startswith("CPU time of a check on New CPU, 2 cores, Linux 6")
    assert [column.header for column in new.columns] == ["ratio (quartiles)", host.TOGETHER, host.APART]
    rows = {title: cells for title, *cells in zip(*(column.cells for column in new.columns), strict=True)}
    assert rows[f"above the raw round trip / {peers.THROTTLED_BUCKET.name}"] == ["0.10x (0.10 - 0.10)"] * 2
    together, apart = rows[f"whole call / {peers.THROTTLED_BUCKET.name}"]
    assert together == "0.25x (0.25 - 0.25)"
    assert apart != together
    assert rows["whole call / the floor"][0] == "1.25x (1.25 - 1.25)"


def test_a_ratio_of_medians_is_shown_without_quartiles():
    """As of a run that was published before both were subtracted round by round; what is missing stays empty."""
    table = machines.table("one", {"same core": {"a": [None, 0.07, None]}, "cores apart": {"b": [1, 2, 3]}})
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["a", "b"], ["0.07x", ""], ["", "2.00x (1.00 - 3.00)"]]
