"""The programs in documents, and how they are run."""

import re
import subprocess
import sys

import pytest

from helpers.paths import ROOT

PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
NEED_INTEGRATIONS = {"docs/metrics.md"}
"""Documents whose programs need packages of the group `integrations`, so that tests/integrations runs them."""
SERVED = {"docs/django.md", "docs/integrations.md"}
"""Documents whose programs are applications: see tests/integrations/test_document.py."""


def programs_of(name):
    """Each Python block of a document, with the text block right below it, which is its output."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return [
        pytest.param(code, output, id=f"{name}-{number}")
        for number, (code, output) in enumerate(PROGRAM.findall(text), 1)
    ]


def run_program(code, output, folder):
    """Run a program in a folder: it warns of nothing, and prints what its document says, if it says so."""
    command = [sys.executable, "-W", "error", "-c", code]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    if output:
        assert ran.stdout == output
