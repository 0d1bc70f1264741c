"""The document says what was measured, broken claims first, and its links lead somewhere."""

import re

import pytest

from chaos import report
from chaos.checker import Verdict
from chaos.history import Check, Recorder, read
from chaos.scenarios import SCENARIOS

SECOND_US = 1_000_000
MACHINE = {"processor": "x", "cores": 2, "system": "y", "python": "z", "packages": {"redis": "8"}, "commit": "abc+"}
SERVERS = {"valkey": {"version": "valkey 9"}}


@pytest.fixture
def result(tmp_path):
    """Of two runs, the second of which broke a claim, and of a bug."""
    path = tmp_path / "history.jsonl"
    recorder = Recorder(path)
    recorder.run(scenario="SIGSTOP", policy="closed", seed=7, server="valkey", keys={}, deadline_s=0.05)
    recorder.event("fault begins", what="x")
    for number in range(20):
        sent_us = number * SECOND_US // 10
        said = (True, "ALLOWED", "redis", None) if number % 2 else (False, "UNAVAILABLE", "fail_closed", "unknown")
        recorder.check(Check("a", "ample", 1, sent_us, sent_us + 1000, *said, None, 0))
    recorder.event("fault ends", what="x")
    recorder.close()
    history = read(path)
    good, bad = Verdict("raised", 0, 0, "checks"), Verdict("over quota", 3, 2, "units")
    runs = [
        report.summary(SCENARIOS[name], history, verdicts, path, 1.0) | {"attempts": attempts}
        for name, verdicts, attempts in (("SIGSTOP", [good], 1), ("crash, old snapshot", [good, bad], 2))
    ]
    bug = {"bug": "b", "scenario": "SIGSTOP", "policy": "closed", "claim": "raised"}
    return {
        "made": "2026-01-01",
        "seed": 7,
        "server": "valkey",
        "seconds": 2.0,
        "machine": MACHINE | {"servers": SERVERS},
        "runs": runs,
        "bugs": [bug | {"measured": 5, "bound": 0, "found": True}],
    }


def test_the_document(result, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the group `bench`, which is not installed here")
    target = tmp_path / "reliability.md"
    written = report.write(result, SCENARIOS, target)
    text = target.read_text()
    assert {path.name for path in written} == {"reliability.md", "SIGSTOP.svg", "crash-old-snapshot.svg"}
    assert all(path.stat().st_size > 500 for path in written)
    assert "2 runs, 40 checks. All claims held in 1 of them." in text
    broken, holds = re.findall(r"^\| \[(.+?)\]\(#(.+?)\) \| closed \| (\S+) \|", text, re.MULTILINE)
    assert broken == ("crash, old snapshot", "crash-old-snapshot", "**broken**")
    assert holds == ("SIGSTOP", "sigstop", "holds")
    assert "| over quota | 3 units | 2 units | **broken** |" in text
    assert "20 checks: 10 503, 10 admitted by Redis; without an answer: 10 unknown." in text
    assert "(seed 7, attempt 2)" in text
    assert "| b | SIGSTOP | closed | raised | 5 | 0 | found |" in text
    assert 'make chaos SEED=7 ONLY="SIGSTOP"' in text
    assert set(re.findall(r"\(reliability/(\S+)\)", text)) == {path.name for path in written} - {"reliability.md"}
    assert max(map(len, re.findall(r"^.$", text, re.MULTILINE)), default=0) == 0, "a line of one character"


def test_numbers_are_for_readers():
    assert [report.number(value) for value in (0, 12, 1234.5, 0.25, 1e9)] == ["0", "12", "1,234", "0.2", "never"]


def test_percentiles():
    """Of nothing, 0."""
    values = list(range(1, 101))
    assert [report.percentile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 100]
    assert report.percentile([], 0.5) == 0


def test_links_to_headings():
    """They are as GitHub makes them, which leaves out apostrophes."""
    assert report.slug("crash, old snapshot") == "crash-old-snapshot"
    assert report.slug("cluster: the catalogue's node stops") == "cluster-the-catalogues-node-stops"
