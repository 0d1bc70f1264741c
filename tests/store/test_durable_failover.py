"""Revocations and failovers, with real servers and Sentinels: what all replicas had acknowledged is never undone."""

import pytest
from helpers import revocations
from helpers.sentinel import WatchedPrimary
from helpers.servers import NAMES
from helpers.twins import RunningLimiter
from helpers.waiting import wait_for

from ratelimit import Catalog, Replication
from ratelimit.admin import durability

pytestmark = pytest.mark.slow
EACH_SERVER = pytest.mark.parametrize("name", NAMES)


def assert_obeyed(outcome):
    """Of the keys that all replicas are reported to have disabled, none is enabled, and none was ever admitted."""
    assert outcome.complete > 0
    assert outcome.complete_undone == 0
    assert outcome.checks[403] > 0
    assert outcome.checks.keys() <= {403, 503}


@EACH_SERVER
@pytest.mark.parametrize("fault", revocations.FAULTS)
def test_a_server_that_needs_a_replica(name, fault):
    """All that was acknowledged is reported to be safe, and is. The former primary refuses what it could only lose."""
    outcome = revocations.outcome_of(name, fault, has_min_replicas=True)
    assert_obeyed(outcome)
    assert outcome.safe == outcome.complete
    assert outcome.refused.total() > 0


@EACH_SERVER
@pytest.mark.parametrize("fault", ["planned failover", "split brain"])
def test_a_server_that_needs_none(name, fault):
    """It disables keys that are enabled again after the failover; none is reported to be acknowledged by all."""
    outcome = revocations.outcome_of(name, fault, has_min_replicas=False)
    assert_obeyed(outcome)
    assert outcome.safe == 0
    assert outcome.undone > 0


@EACH_SERVER
@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
def test_an_administrator_by_way_of_sentinel(name, is_async):
    """It waits for the replicas of the primary that the Sentinel names, before a failover and after."""
    with WatchedPrimary(name) as watched, watched.primary.client() as root:
        key = Catalog(root).create_key()
        with RunningLimiter(lambda kind: kind.from_url(watched.url, deadline=5), is_async) as limiter:

            def replication_of(enabled):
                catalog = limiter.limiter.catalog
                return limiter.run(lambda: catalog.update_key(key.id, enabled=enabled, durable=True)).replication

            complete = Replication(1, 1, has_min_replicas=False)
            wait_for(lambda: replication_of(enabled=True) == complete)
            watched.fail_over()
            watched.wait_demoted()
            wait_for(lambda: replication_of(enabled=False) == complete)
            with watched.replica.client() as promoted:
                assert not Catalog(promoted).get_key(key.id).enabled
                assert promoted.info("commandstats")["cmdstat_wait"]["calls"] > 0


@EACH_SERVER
def test_without_waiting_they_are_undone(name, monkeypatch):
    """Seeded: nobody waits for the replicas, and all are reported to have it."""

    def _acknowledged(_namespace, _key_id, before):
        return Replication(before.connected, before.connected, before.has_min_replicas)
        yield

    monkeypatch.setattr(durability, "_acknowledged", _acknowledged)
    outcome = revocations.outcome_of(name, "split brain", has_min_replicas=True)
    assert outcome.complete_undone > 0
    assert outcome.checks[200] > 0
