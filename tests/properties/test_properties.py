"""Every decision equals the exact model's, whatever happens in between."""

import pytest
from properties.machine import EXAMPLES, LimiterMachine, run_machine


@pytest.mark.timeout(0 if EXAMPLES else 180)
def test_every_decision_equals_the_model(backend):
    """Allowed, limited_by, retry_after, remaining and reset of every limit are the model's, to the microsecond."""
    run_machine(LimiterMachine, backend, 100)
