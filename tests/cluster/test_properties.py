"""The property tests on a cluster: random histories beside the exact model, and the promises."""

from types import SimpleNamespace

import pytest
from properties.machine import run_machine
from properties.machine_on_cluster import OwnLimits, SharedLimits
from properties.promises import exactness, replicas


@pytest.fixture
def backend(cluster):
    """As of one server."""
    return SimpleNamespace(client=cluster.client, async_client=cluster.async_client, server=cluster)


def test_a_keys_own_limits_equal_the_model(backend):
    """Allowed, limited_by, retry_after, remaining and reset of every limit are the model's, to the microsecond."""
    run_machine(OwnLimits, backend, 25)


def test_shared_limits_keep_their_bound(backend):
    """Over any W seconds at most burst + rate x (W + 0.1 s); beside them a key's own limits are the model's."""
    SharedLimits.seen.clear()
    run_machine(SharedLimits, backend, 25)
    assert min(SharedLimits.seen[kind] for kind in ("shared", "ALLOWED", "THROTTLED", "QUOTA_EXCEEDED")) > 20


own_limits = pytest.mark.parametrize("tight", exactness.OWN_LIMITS)


@own_limits
def test_a_denial_writes_nothing(cluster, clock, tight):
    """Promise 1, by a key's own limits: on no node."""
    exactness.a_denial_writes_nothing(cluster, clock, tight, shared=False)


@own_limits
def test_a_large_step_back_is_all_that_a_denial_writes(cluster, clock, tight):
    """Promise 1: the one exception."""
    exactness.a_large_step_back_is_all_that_a_denial_writes(cluster, clock, tight, shared=False)


def test_a_peek_writes_nothing(cluster, clock):
    """Promise 1: a peek has no exception."""
    exactness.a_peek_writes_nothing(cluster, clock, shared=False)


def test_an_admission_charges_every_limit(cluster, clock):
    """Promise 1: all means all; the numbers of shared limits, too, are exact where one process charges them."""
    exactness.an_admission_charges_every_limit(cluster, clock)


@pytest.mark.parametrize(
    ("rate", "burst", "cost"),
    [("1/3", 5, 1), (0.1, 5, 3), ("7/86400", 10, 1), (999_983, 1_000_000, 999_979), (1_000_000, 2**53 - 2_000_003, 7)],
)
def test_retry_after_is_exact(cluster, clock, rate, burst, cost):
    """Promise 2: a microsecond early is denied, on time is admitted."""
    exactness.retry_after_is_exact(cluster, clock, rate, burst, cost)


@pytest.mark.parametrize(("rate", "tick_us", "checks"), [("90/60", 333_333, 300), ("1000000/7", 1, 300)])
def test_steady_traffic_loses_nothing(cluster, clock, rate, tick_us, checks):
    """Promise 2: fractions of a token add up."""
    exactness.steady_traffic_loses_nothing(cluster, clock, rate, tick_us, checks)


@pytest.mark.parametrize(("quota", "end"), exactness.PERIODS)
def test_a_quota_turns_at_the_microsecond(cluster, clock, quota, end):
    """Promise 2: the last microsecond of a window is of that window."""
    exactness.a_quota_turns_at_the_microsecond(cluster, clock, quota, end)


EXACT = (
    exactness.another_period_is_another_count,
    exactness.a_clock_that_flaps_mints_nothing,
    exactness.a_clock_that_went_back_locks_nobody_out,
    exactness.a_change_of_plan_mints_nothing,
    exactness.every_unit_is_metered,
    replicas.enabling_is_obeyed_too,
    replicas.a_lost_push_is_caught_up,
    replicas.another_life_of_the_catalogue_is_noticed,
)


@pytest.mark.parametrize("promise", EXACT, ids=lambda promise: promise.__name__)
def test_what_holds_on_one_server_holds(cluster, clock, promise):
    """Promises 2 and 5, word for word."""
    promise(cluster, clock)


@pytest.mark.parametrize("revocation", replicas.REVOCATIONS)
def test_the_next_check_obeys(cluster, clock, revocation):
    """Promise 5: a change to a key is in force everywhere at once."""
    replicas.the_next_check_obeys(cluster, clock, revocation)


@pytest.mark.parametrize("change", replicas.CATALOG_CHANGES)
def test_an_older_version_never_comes_back(cluster, clock, change):
    """Promise 5: a stale replica is told so by the key."""
    replicas.an_older_version_never_comes_back(cluster, clock, change)


def test_a_push_is_heard(cluster):
    """Promise 5: and usually at once."""
    replicas.a_push_is_heard(cluster)


def test_a_key_expires_by_the_clock_of_its_node(cluster):
    """Promise 3: not by that of a replica."""
    replicas.a_key_expires_by_the_servers_clock(cluster)
