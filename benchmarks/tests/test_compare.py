"""The comparison of two results."""

import json

import pytest

from benchmarks.report import compare
from benchmarks.report.results import SCHEMA, Figure


def written(path, *figures, **about):
    content = {"schema": SCHEMA, "machine": about, "figures": [vars(figure) for figure in figures]}
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("better", "old", "new", "verdict"),
    [
        ("lower", 1.0, 1.1, ""),  # 10 % is allowed
        ("lower", 1.0, 1.11, "worse"),
        ("lower", 1.0, 0.5, "better"),
        ("higher", 1.0, 0.95, ""),
        ("higher", 1.0, 0.9, "worse"),  # a ninth worse
        ("higher", 1.0, 2.0, "better"),
        ("lower", 0, 0, ""),
        ("lower", 0, 1, "worse"),  # one wrong decision where there was none
        ("lower", 1, 0, "better"),
        ("higher", 1, 0, "worse"),
    ],
)
def test_verdict(better, old, new, verdict):
    """More than 10 % in the wrong direction is worse, whichever direction that is; so is leaving 0."""
    assert compare.verdict(*(Figure("one", value, "x", better) for value in (old, new))) == verdict


def test_a_change_inside_the_spread_of_the_rounds_is_noise():
    """Where quartiles overlap, a median that moved by more than 10 % proves nothing."""
    old = Figure("one", 1.0, "x", low=0.9, high=1.25)
    assert compare.verdict(old, Figure("one", 1.3, "x", low=1.2, high=1.4)) == "noise"
    assert compare.verdict(old, Figure("one", 1.3, "x", low=1.26, high=1.4)) == "worse"


def test_exit_code_shows_what_got_worse(tmp_path):
    """0 if nothing got worse, 1 if something did; figures that only one file has do not count."""
    old = written(tmp_path / "old.json", Figure("a", 1.0, "x"), Figure("gone", 1.0, "x"))
    same = written(tmp_path / "same.json", Figure("a", 1.05, "x"), Figure("new", 9.0, "x"))
    worse = written(tmp_path / "worse.json", Figure("a", 1.2, "x"))
    assert compare.main([old, same]) == 0
    assert compare.main([old, worse]) == 1
    assert compare.main([worse, old]) == 0


def test_files_that_are_no_results_are_refused(tmp_path, capsys):
    """Exit code 2, and the reason, for a missing file, for other JSON and for nothing in common."""
    good = written(tmp_path / "good.json", Figure("a", 1.0, "x"))
    other = tmp_path / "other.json"
    other.write_text("[1]")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    alien = written(tmp_path / "alien.json", Figure("b", 1.0, "x"))
    for path in (str(tmp_path / "missing.json"), str(other), str(broken), alien):
        assert compare.main([good, path]) == 2
    assert "not a result" in capsys.readouterr().out


def test_another_machine_is_shown(tmp_path, capsys):
    """A difference of machine or server is shown, since it explains a difference of figures."""
    old = written(tmp_path / "old.json", Figure("a", 1.0, "x"), cores=2)
    new = written(tmp_path / "new.json", Figure("a", 1.0, "x"), cores=4)
    assert compare.main([old, new]) == 0
    assert "cores: 2 -> 4" in capsys.readouterr().out
