"""The programs in documents, and how they are run."""

import re
import subprocess
import sys

import pytest

from helpers.paths import ROOT

FOLDERS = (".", ".github", "docs", "lua", "benchmarks")
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("**/*.md" if folder == "docs" else "*.md"))
}
PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+\.(?:py|toml))\n")
"""How a block begins that is a file of a session (sessions.py), and no program by itself."""
NEED_INTEGRATIONS = {"docs/metrics.md"}
"""Documents whose programs need packages of the group `integrations`, so that tests/integrations runs them."""
ON_A_CLUSTER = {"docs/cluster.md"}
"""Documents whose programs run on one: tests/cluster."""
SERVED = {"docs/django.md", "docs/integrations.md"}
"""Documents whose programs are applications: see test_document.py and test_django_document.py of tests/integrations."""


def programs_of(name):
    """Each Python block of a document, with the text block right below it, which is its output."""
    return [
        pytest.param(code, output, id=f"{name}-{number}")
        for number, (code, output) in enumerate(PROGRAM.findall(DOCUMENTS[name]), 1)
        if not FILE.match(code)
    ]


def run_program(code, output, folder):
    """Run a program in a folder: it warns of nothing, and prints what its document says, if it says so."""
    command = [sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    if output:
        assert ran.stdout == output
