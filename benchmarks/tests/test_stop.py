"""What is counted of a stop, and of whom."""

from benchmarks.contenders import ours
from benchmarks.suite.network import far, stop


def recorded(calls):
    """A recorder of a stop from second 1 to second 6, of these calls: (began, ended, answered)."""
    recorder = stop.Recorder(5.0)
    recorder.stop_s, recorder.continue_s = 1.0, 6.0
    recorder._calls = calls
    return recorder.summary()


def test_calls_count_where_they_end_and_waits_where_they_met_the_stop():
    """Who hung through it is no caller of quiet times."""
    summary = recorded([(0.5, 0.501, True), (0.9, 6.1, True), (2.0, 2.05, False), (6.5, 6.501, True)])
    rates = {phase: each["per_second"] for phase, each in summary["phases"].items()}
    assert rates == {"before": 1.0, "stopped": 0.2, "after": 1.0}
    assert [round(each["max_ms"]) for each in summary["phases"].values()] == [1, 5200, 1]
    assert sum(summary["timeline"]) * stop.BUCKET_S == 4


def test_when_nobody_waits_and_when_redis_is_back():
    """The first call that began after the stop and was answered at once; the first that Redis answered again."""
    calls = [(0.99, 1.05, False), (1.05, 1.1, False), (1.15, 1.151, False), (6.0, 6.0, False), (6.01, 6.02, True)]
    summary = recorded(calls)
    assert (round(summary["opened_ms"]), round(summary["back_ms"])) == (150, 20)
    summary = recorded([(0.5, 6.2, False)])
    assert (summary["opened_ms"], summary["back_ms"]) == (None, None)


def test_figures_and_tables():
    """Of each way; who never comes back is shown so."""
    run, never = recorded([(0.5, 0.6, True), (1.1, 1.1, False), (6.0, 6.0, True)]), recorded([(0.5, 0.6, True)])
    names = [contender.name for contender in stop.CONTENDERS]
    runs = {way: {name: [run if name == ours.CHECK.name else never] for name in names} for way in stop.WAYS}
    result = {"stopped_s": 5.0, "rounds": 1, "runs": runs}
    figures = {figure.name: figure for figure in stop.figures(result)}
    assert len(figures) == 8
    assert sum(figure.target is not None for figure in figures.values()) == 5
    assert [table.row_count for table in stop.tables(result)] == [3, 3]
    far_run = {"contender": ours.CHECK.name, "per_second": 6000, "rounds": [
        {"p50": 30_000, "p99": 45_000, "p99.9": 60_000, "unanswered": 0}
    ]}  # fmt: skip
    (figure,) = far.figures({"rtt_ms": 30.0, "runs": [far_run]})
    assert (figure.value, figure.reached) == (1.5, True)
    (table,) = far.tables({"rtt_ms": 30.0, "runs": [far_run]})
    assert table.row_count == 1
