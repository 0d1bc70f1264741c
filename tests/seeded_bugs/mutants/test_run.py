"""A run of the mutation test, of a script into which a line was put that nothing reads."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from ratelimit.scripts import folder

pytestmark = pytest.mark.slow
RUN = """\
import runpy
from pathlib import Path

from ratelimit import scripts

scripts.folder = lambda: Path({!r})
runpy.run_module("seeded_bugs.mutants", run_name="__main__")
"""


@pytest.mark.timeout(600)
def test_a_change_that_nothing_finds_is_told(tmp_path):
    """All others are found. The run fails, and says where the change is and what it does."""
    shutil.copytree(folder(), tmp_path / "lua")
    script = tmp_path / "lua" / "shadow_counts.lua"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace("return { seen,", "local unread = 7\nreturn { seen,"), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", RUN.format(str(tmp_path / "lua")), "--script", "shadow_counts"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    lines = [line.split("  ", 2)[2] for line in run.stdout.splitlines() if "lua/shadow_counts.lua:" in line]
    assert [line.partition("  ")[2] for line in lines] == [
        "`7` becomes `6` in `local unread = 7`",
        "`7` becomes `8` in `local unread = 7`",
    ]
    total = int(run.stdout.split(" mutants in ")[0].split()[-1])
    assert f"killed {total - 2} of {total}" in run.stdout
