"""What the suite consists of: names are right, and nothing is claimed of which no seeded bug shows that it can fail."""

import pytest

from chaos.bugs import BUGS
from chaos.checker import MEASURES, TIMED
from chaos.run import EXACT
from chaos.scenarios import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_scenario_claims_what_can_be_measured(scenario):
    """In each of its policies; and says in words what it does."""
    assert scenario.policies
    for policy in scenario.policies:
        bounds = scenario.all_bounds(policy)
        assert bounds.keys() <= MEASURES.keys()
        assert len(bounds) >= 6
    assert scenario.claim.endswith(".")
    assert not scenario.fault.endswith(".")


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_bug_breaks_what_is_claimed(bug):
    """In a scenario and under a policy that are run."""
    scenario = SCENARIOS[bug.scenario]
    assert bug.policy in scenario.policies
    assert bug.claim in scenario.all_bounds(bug.policy)


def test_each_exact_claim_has_a_bug():
    """That it finds: else it may hold because it says nothing."""
    assert EXACT.keys() <= {bug.claim for bug in BUGS.values()}
    assert MEASURES.keys() >= TIMED
