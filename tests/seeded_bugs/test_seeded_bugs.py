"""Each promise's function fails when the code has a bug: one is put in, in memory alone, and the function is run."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from properties.machine import LimiterMachine
from seeded_bugs.bugs import BUGS, FOUND_BY_THE_MACHINE

from ratelimit import scripts


@pytest.fixture
def valkey(running):
    """One real server is enough to tell a bug."""
    with running["valkey"].client() as client:
        client.flushall()
    scripts.load.cache_clear()
    yield running["valkey"]
    scripts.load.cache_clear()


@pytest.mark.parametrize(("bug", "promise"), BUGS, ids=[bug.name for bug, _ in BUGS])
def test_the_promise_notices(valkey, clock, monkeypatch, bug, promise):
    """With the bug the promise's function raises AssertionError; without it, it passes."""
    promise(valkey, clock)
    with valkey.client() as client:
        client.flushall()
    scripts.load.cache_clear()
    clock.set("2026-03-04T12:00:00")
    bug.apply(monkeypatch)
    with pytest.raises(AssertionError):
        promise(valkey, clock)


@pytest.mark.parametrize("bug", FOUND_BY_THE_MACHINE, ids=lambda bug: bug.name)
def test_the_state_machine_notices(valkey, monkeypatch, bug):
    """The machine finds bugs without being told where to look."""
    bug.apply(monkeypatch)
    with valkey.client() as client:
        # Without threads: what they do is not the same twice, and Hypothesis repeats what fails.
        attributes = {"client": client, "async_client": staticmethod(valkey.async_client), "check_in_threads": None}
        machine = type("Machine", (LimiterMachine,), attributes)
        chosen = settings(
            max_examples=200,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,  # the first will do
            suppress_health_check=list(HealthCheck),
        )
        with pytest.raises(AssertionError):
            run_state_machine_as_test(machine, settings=chosen)
