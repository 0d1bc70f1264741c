"""What is recorded is what is read."""

import pytest

from chaos.history import Check, Event, History, Recorder, read

BEGINS, ENDS = "fault begins", "fault ends"

CHECK = Check(
    process="a",
    key="ample",
    cost=1,
    sent_us=10,
    received_us=20,
    allowed=True,
    reason="ALLOWED",
    source="redis",
    cause=None,
    time_us=15,
    waited_us=0,
)


def test_a_history_is_read_as_it_was_written(tmp_path):
    """Checks by when they were answered, whoever wrote first."""
    path = tmp_path / "history.jsonl"
    first, second = Recorder(path), Recorder(path)
    first.run(scenario="x", keys={})
    later = CHECK._replace(received_us=30)
    second.check(later)
    first.event("revoked", key="ample")
    first.check(CHECK)
    first.close()
    second.close()
    history = read(path)
    assert (history.run, history.checks) == ({"scenario": "x", "keys": {}}, [CHECK, later])
    assert [(event.name, event.about) for event in history.events] == [("revoked", {"key": "ample"})]


def test_events_of_the_same_moment_stay_in_the_order_of_writing(tmp_path):
    path = tmp_path / "history.jsonl"
    lines = ['{"scenario": "x"}', *(f'{{"at_us": 1, "name": "a", "about": {{"x": {x}}}}}' for x in (2, 1, 3))]
    path.write_text("\n".join(lines) + "\n")
    assert [event.about["x"] for event in read(path).events] == [2, 1, 3]


@pytest.mark.parametrize("line", ['"text"', '{"at_us": 1}', "[1, 2]"])
def test_what_is_no_line_of_a_history_is_an_error(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"scenario": "x"}}\n{line}\n')
    with pytest.raises((ValueError, TypeError)):
        read(path)


def test_when_the_fault_was():
    """From the first begin to the last end; without an end it lasts."""
    begin, end, other = (Event(at, name, {"what": "x"}) for at, name in ((5, BEGINS), (8, ENDS), (6, BEGINS)))
    assert History({}).fault is None
    assert History({}, [CHECK], [begin, other, end]).fault == (5, 8)
    assert History({}, [CHECK], [begin]).fault == (5, 20)


def test_who_knows_what_was_charged():
    """Nobody, of a check without a reply, one that was cancelled, and one whose server was deposed meanwhile."""
    causes = ("not_sent", "refused", "unknown", "lost", "deposed")
    unsure = [CHECK._replace(allowed=False, reason="UNAVAILABLE", cause=cause).may_be_charged for cause in causes]
    assert unsure == [False, False, True, False, True]
    assert CHECK._replace(reason="CANCELLED").may_be_charged
    assert not CHECK.may_be_charged
