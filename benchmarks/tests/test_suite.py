"""The whole suite as one command: what a failing part does to the others, and what the parts must offer."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command_line
from benchmarks.report import results
from benchmarks.report.results import Figure
from benchmarks.suite.parts import PARTS, Part


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Return the suite's `main` with parts and folder of the test's own, and the folder."""
    monkeypatch.setattr(command_line.host, "server_descriptions", dict)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(command_line, "FOLDER", tmp_path)

    def run(*arguments, **parts):
        chosen = {name: Part(part, name, "", long) for name, (part, long) in parts.items()}
        monkeypatch.setattr(command_line, "PARTS", chosen)
        command_line.main(arguments)

    return run, tmp_path


def part(value):
    """A part whose result has `value`, or that fails with it."""

    def measure(full):
        if isinstance(value, Exception):
            raise value
        return {"value": value, "full": full}

    return SimpleNamespace(
        measure=measure, figures=lambda result: [Figure("one", result["value"], "x")], tables=lambda _: ["a table"]
    )


def test_a_part_that_fails_says_so_and_the_others_are_kept(command, capsys):
    """The results hold the other parts and the reason; the exit code is not 0."""
    run, folder = command
    with pytest.raises(SystemExit) as ended:
        run(bad=(part(RuntimeError("no server")), False), good=(part(5), False))
    assert "failed: bad: RuntimeError: no server" in str(ended.value.code)
    content, figures = results.load(folder / "latest.json")
    assert content["good"] == {"value": 5, "full": False}
    assert "bad" not in content
    assert content["machine"]["failed"] == {"bad": "RuntimeError: no server"}
    assert [figure.value for figure in figures] == [5]
    assert "RuntimeError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "measured"),
    [
        ((), {"short"}),
        (("--full",), {"short", "long"}),
        (("--only", "long"), {"long"}),
        (("--full", "--only", "short"), {"short"}),
    ],
)
def test_long_parts_run_in_the_full_run_or_when_named(command, arguments, measured):
    """Without options the long ones are left out; with --only, what is named runs, and nothing else."""
    run, folder = command
    run(*arguments, short=(part(1), False), long=(part(2), True))
    content = json.loads((folder / "latest.json").read_text())
    assert {"short", "long"} & set(content) == measured
    assert {result["full"] for name, result in content.items() if name in measured} == {"--full" in arguments}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_offers_what_the_suite_and_the_document_need(name):
    """Figures and tables; what measures it, except latency, which pytest-benchmark does."""
    needed = {"figures", "tables"} | (set() if name == "latency" else {"measure"})
    assert {each for each in needed if not callable(getattr(PARTS[name].module, each, None))} == set()
