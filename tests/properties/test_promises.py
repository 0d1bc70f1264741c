"""The five promises, on every backend. What each one says exactly: `promises` and the two beside it."""

import pytest
from helpers.proxy import Proxy
from properties.promises import connections, exactness, replicas

RATES = (
    (1, 10, 1),
    (10, 5, 2),
    ("1/3", 5, 1),
    (0.1, 5, 3),
    ("3/2", 10, 7),
    ("7/86400", 10, 1),
    ("1/86400", 10, 3),
    ("90/60", 4, 1),
    (999_983, 1_000_000, 1),
    (999_983, 1_000_000, 999_979),
    ("1000000/7", 10, 1),
    (3_000_000, 100, 1),
    ("1/1000000", 9007, 100),
    (1_000_000, 2**53 - 2_000_003, 2**40 + 1),
)
limits = pytest.mark.parametrize("tight", exactness.LIMITS)


@limits
def test_a_denial_writes_nothing(backend, clock, tight):
    """Promise 1: whichever limit refuses, every value and expiry stays as it was."""
    exactness.a_denial_writes_nothing(backend, clock, tight)


@limits
def test_a_denial_leaves_expiries(backend, tight):
    """Promise 1: nor does a denial move an expiry, at the server's own time."""
    exactness.a_denial_leaves_expiries(backend, tight)


@limits
def test_a_large_step_back_is_all_that_a_denial_writes(backend, clock, tight):
    """Promise 1: the one exception re-anchors, and moves no token."""
    exactness.a_large_step_back_is_all_that_a_denial_writes(backend, clock, tight)


def test_a_peek_writes_nothing(backend, clock):
    """Promise 1: a peek has no exception at all."""
    exactness.a_peek_writes_nothing(backend, clock)


def test_an_admission_charges_every_limit(backend, clock):
    """Promise 1: all means all."""
    exactness.an_admission_charges_every_limit(backend, clock)


@pytest.mark.parametrize(("rate", "burst", "cost"), RATES)
def test_retry_after_is_exact(backend, clock, rate, burst, cost):
    """Promise 2: a microsecond early is denied, on time is admitted."""
    exactness.retry_after_is_exact(backend, clock, rate, burst, cost)


@pytest.mark.parametrize(
    ("rate", "tick_us", "checks"),
    [("90/60", 333_333, 300), (0.1, 7_000_001, 300), ("7/86400", 1_000_000_000, 300), ("1000000/7", 1, 300)],
)
def test_steady_traffic_loses_nothing(backend, clock, rate, tick_us, checks):
    """Promise 2: fractions of a token add up."""
    exactness.steady_traffic_loses_nothing(backend, clock, rate, tick_us, checks)


def test_steady_traffic_loses_nothing_in_the_long_run(server, clock):
    """Promise 2: not in ten thousand checks either."""
    exactness.steady_traffic_loses_nothing(server, clock, "1/3", 1_234_567, 10_000)


@pytest.mark.parametrize(("quota", "end"), exactness.PERIODS)
def test_a_quota_turns_at_the_microsecond(backend, clock, quota, end):
    """Promise 2: the last microsecond of a window is of that window."""
    exactness.a_quota_turns_at_the_microsecond(backend, clock, quota, end)


def test_another_period_is_another_count(backend, clock):
    """Promise 2: a window is known by both its ends."""
    exactness.another_period_is_another_count(backend, clock)


def test_a_clock_that_flaps_mints_nothing(backend, clock):
    """Promise 2: small steps back are no new time."""
    exactness.a_clock_that_flaps_mints_nothing(backend, clock)


def test_a_clock_that_went_back_locks_nobody_out(backend, clock):
    """Promise 2: large steps back are the new time."""
    exactness.a_clock_that_went_back_locks_nobody_out(backend, clock)


def test_a_change_of_plan_mints_nothing(backend, clock):
    """Promise 2: what a bucket holds survives a change of its rate, rounded down."""
    exactness.a_change_of_plan_mints_nothing(backend, clock)


def test_every_unit_is_metered(backend, clock):
    """Promise 2: usage is counted as exactly as limits are."""
    exactness.every_unit_is_metered(backend, clock)


@pytest.mark.parametrize(
    "skews", [(-600, 0, 600), (-40 * 86_400, 0, 40 * 86_400)], ids=["10 minutes apart", "80 days apart"]
)
def test_skewed_replicas_decide_alike(server, skews):
    """Promise 3: the server's time is the only one."""
    replicas.skewed_replicas_decide_alike(server, skews)


def test_a_key_expires_by_the_servers_clock(server):
    """Promise 3: also for keys."""
    replicas.a_key_expires_by_the_servers_clock(server)


@pytest.mark.parametrize("fault", Proxy.FAULTS)
def test_a_check_is_carried_out_once(server, fault):
    """Promise 4: whatever happens to the reply."""
    connections.a_check_is_carried_out_once(server, fault, "from_url")


@pytest.mark.parametrize("how", ["async", "retries"])
@pytest.mark.parametrize("fault", Proxy.FAULTS)
def test_a_check_is_carried_out_once_whatever_the_client(valkey, fault, how):
    """Promise 4: by asyncio, and by a client that would try eleven times."""
    connections.a_check_is_carried_out_once(valkey, fault, how)


def test_a_check_whose_script_was_forgotten_is_carried_out_once(server):
    """Promise 4: also the EVAL that follows a NOSCRIPT is sent once."""
    connections.a_check_is_carried_out_once(server, "swallow", "from_url", forgotten=True)


@pytest.mark.parametrize("fault", ["swallow", "reset"])
def test_a_batch_is_carried_out_once(server, fault):
    """Promise 4: also checks that share a write."""
    connections.a_batch_is_carried_out_once(server, fault)


def test_what_is_known_of_a_batch_is_told(valkey):
    """Promise 4: what is known is not reported as unknown, and what was counted not as refused."""
    connections.what_is_known_of_a_batch_is_told(valkey)


@pytest.mark.parametrize("revocation", replicas.REVOCATIONS)
def test_the_next_check_obeys(backend, clock, revocation):
    """Promise 5: a change to a key is in force everywhere at once."""
    replicas.the_next_check_obeys(backend, clock, revocation)


def test_enabling_is_obeyed_too(backend, clock):
    """Promise 5: in both directions."""
    replicas.enabling_is_obeyed_too(backend, clock)


@pytest.mark.parametrize("change", replicas.CATALOG_CHANGES)
def test_an_older_version_never_comes_back(backend, clock, change):
    """Promise 5: a stale replica is told so by the key."""
    replicas.an_older_version_never_comes_back(backend, clock, change)


def test_a_lost_push_is_caught_up(backend, clock):
    """Promise 5: within `max_age`."""
    replicas.a_lost_push_is_caught_up(backend, clock)


def test_a_push_is_heard(server):
    """Promise 5: and usually at once."""
    replicas.a_push_is_heard(server)


def test_another_life_of_the_catalogue_is_noticed(backend, clock):
    """Promise 5: versions are compared within one life of the catalogue only."""
    replicas.another_life_of_the_catalogue_is_noticed(backend, clock)
