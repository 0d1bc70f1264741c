"""A full server: what prepared checks are counted as, and that a wrong limit is seen."""

import pytest

from benchmarks.contenders.contender import exactly
from benchmarks.suite import full_server, host
from benchmarks.suite.workers import workers


@pytest.mark.parametrize(
    ("replies", "together", "admitted"),
    [
        ([b"state", b"state"], False, 2),
        ([[1, 5, 0, 0], [2, 5, 0, 0]], False, 2),
        ([[0, 5, 0, 0, 9], [3, 5, 0, 0, 9], [-1, 5]], False, 0),
        ([[b"state", [0, 5, 0, 0, 9], -5]], True, 1),
    ],
    ids=["usual", "unusual", "denied or to be sent again", "of one call"],
)
def test_what_counts_as_admitted(replies, together, admitted):
    """New states, and lists that begin with 1 or 2."""
    assert full_server._admitted(replies, together) == admitted


@pytest.mark.parametrize(("given", "wrong"), [(0, 0), (-1, 1), (1, 1)], ids=["exact", "one too few", "one too many"])
def test_totals_are_exact_and_a_wrong_limit_is_seen(monkeypatch, given, wrong):
    """All checks of 1 and 2 processes are admitted and the next is not; a limit that is off by one says so."""
    monkeypatch.setattr(full_server, "PROCESSES", (1, 2))
    monkeypatch.setattr(full_server, "exactly", lambda calls: exactly(calls + given))
    with host.placed_server(host.MAIN, host.FREE) as server, workers(2, full_server._serve) as pool:
        result = full_server._setting(pool, server, 1, 100, lambda *_, **__: None)
    assert full_server._wrong(result) == wrong
    assert [run["processes"] for run in result["runs"]] == [1, 1, 2, 2]
