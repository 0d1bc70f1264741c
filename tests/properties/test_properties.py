"""Every decision equals the exact model's, whatever happens in between."""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from properties.machine import LimiterMachine

EXAMPLES = os.environ.get("RATELIMIT_EXAMPLES")


@pytest.mark.timeout(0 if EXAMPLES else 180)
def test_every_decision_equals_the_model(backend):
    """Allowed, limited_by, retry_after, remaining and reset of every limit are the model's, to the microsecond."""
    client = backend.client()
    machine = type("Machine", (LimiterMachine,), {"client": client, "async_client": staticmethod(backend.async_client)})
    fewer = 4 if backend.server is None else 1
    chosen = settings(
        max_examples=int(EXAMPLES or 100) // fewer,
        stateful_step_count=40,
        derandomize=EXAMPLES is None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=chosen)
    client.close()
