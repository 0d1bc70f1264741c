"""Programs in documents that need more packages than the core of the tests."""

import pytest
from helpers.documents import NEED_INTEGRATIONS, programs_of, run_program


@pytest.mark.parametrize(("code", "output"), [each for name in sorted(NEED_INTEGRATIONS) for each in programs_of(name)])
def test_a_program_prints_what_its_document_says(code, output, tmp_path):
    run_program(code, output, tmp_path)
