"""docs/performance.md, as it is written from a result."""

import json
import re

import pytest

from benchmarks.__main__ import main
from benchmarks.contenders import ours
from benchmarks.report.results import SCHEMA, Figure
from benchmarks.suite.parts import PARTS

MACHINE = {
    "processor": "Some CPU",
    "cores": 2,
    "system": "Linux 1",
    "python": "CPython 3.11",
    "packages": {"redis": "8.1.0", "coredis": None},
    "commit": "abc1234+",
    "load": 0.07,
    "servers": {"valkey": {"version": "valkey 9.1.0"}},
    "full": True,
    "seconds": {"memory": 7.2},
    "failed": {"tail": "TimeoutError: too slow"},
}
FIGURES = [
    Figure("good one", 0.25, "x", target=0.3, low=0.24, high=0.26),
    Figure("bad | one", 5, "x", "higher", 6),
    Figure("no promise", 1, "x"),
]


def state(size):
    return {"state": size, "parts": {}, "used_memory": 700.4, "of_which_by_checks": 200.0, "keys": 3}


@pytest.fixture
def result(tmp_path):
    """Write a result with one part; return the file, and a function that reads what is made of it."""

    def made(size=160):
        active = {"valkey": {ours.CHECK.name: state(size), "limits: two": state(333)}}
        stored = {"keys": 1000, "used_memory": 500.4, "parts": {"record": 200}}
        parts = {"memory": {"active": active, "stored": stored}}
        content = {"schema": SCHEMA, "made": "2026-01-02T03:04:05Z", "machine": MACHINE, **parts}
        content["figures"] = [vars(figure) for figure in FIGURES]
        source = tmp_path / "run.json"
        source.write_text(json.dumps(content))
        assert main(["--document", str(source), "--target", str(tmp_path / "docs" / "performance.md")]) == 0
        return (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")

    return made


def test_missed_targets_are_shown_as_missed_and_first(result):
    """Each figure with a target is there with value, target and verdict; others are not in that table."""
    text = result()
    assert "2 figures have a target: 1 reached it, 1 missed it." in text
    assert "| bad \\| one | 5.00x |  | ≥ 6.00x | **missed** |" in text
    assert "| good one | 0.25x | 0.24 - 0.26 | ≤ 0.30x | reached |" in text
    assert text.index("bad \\| one") < text.index("good one")
    assert "no promise" not in text


def test_numbers_come_from_the_result(result):
    """Another value in the result is another value in the document, and nothing else changes."""
    one, other = result(160), result(161)
    assert [(a, b) for a, b in zip(one.splitlines(), other.splitlines(), strict=True) if a != b] == [
        ("| check | yes | 160 | 3 | 700 | 200 |", "| check | yes | 161 | 3 | 700 | 200 |")
    ]


def test_every_part_is_named_and_what_was_not_measured_is_said(result):
    """A heading for each part, in order; parts that are not in the run say so; a part that failed is named."""
    text = result()
    titles = [part.title for part in PARTS.values()]
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Measured on", "Targets", *titles, "How to repeat it"]
    assert text.count("Not measured in this run.") == len(PARTS) - 1
    assert "**Failed in this run**: tail (TimeoutError: too slow)." in text
    assert "| measured | 2026-01-02T03:04:05Z, full run |" in text
    assert "| commit | abc1234, with changes that are not committed |" in text
    assert "| load average before | 0.07 |" in text
    assert "redis 8.1.0" in text
    assert "coredis" not in text


def test_plots_lie_beside_the_document(result, tmp_path):
    """Each plot that the document shows is there as SVG."""
    pytest.importorskip("matplotlib")
    shown = re.findall(r"!\[[^]]*\]\((performance/[^)]+)\)", result())
    assert shown == ["performance/memory.svg"]
    assert "<svg" in (tmp_path / "docs" / shown[0]).read_text()


def test_what_is_no_result_is_refused(tmp_path, capsys):
    """Exit code 2 and the reason; nothing is written."""
    source = tmp_path / "other.json"
    source.write_text("{}")
    assert main(["--document", str(source), "--target", str(tmp_path / "performance.md")]) == 2
    assert "not a result of this suite" in capsys.readouterr().err
    assert not (tmp_path / "performance.md").exists()
