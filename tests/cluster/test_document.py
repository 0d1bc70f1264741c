"""docs/cluster.md is true: its programs run on a cluster, and print what it says."""

import pytest
from helpers.documents import ON_A_CLUSTER, programs_of, run_program


@pytest.mark.parametrize(("code", "output"), [program for name in ON_A_CLUSTER for program in programs_of(name)])
def test_a_program_prints_what_its_document_says(code, output, tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("RATELIMIT_URL", cluster.url)
    run_program(code, output, tmp_path)
