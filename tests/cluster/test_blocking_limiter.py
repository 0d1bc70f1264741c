"""A limiter and a catalogue on a cluster: by its URL, or by a client of it."""

import threading
import time

import pytest
from helpers.cluster import slot_of
from helpers.servers import LIBRARY

from ratelimit import Catalog, Limiter, Quota, Throttle, UsagePlan

STAGE, METHOD = "petstore/prod", "GET /pets"
PLAN = UsagePlan("gold", Throttle(1, 100_000), Quota(1_000_000, "MONTH"), stages=[STAGE])


@pytest.mark.parametrize("given", ["url", "client"])
def test_a_key_is_made_and_checked(cluster, given, monkeypatch):
    client = cluster.client(LIBRARY) if given == "client" else None
    if client is not None:
        monkeypatch.setattr(type(client), "execute_command", None)  # nothing is sent through it
    with Limiter(client, deadline=5) if client else Limiter.from_url(cluster.url, deadline=5) as limiter:
        catalog = Catalog(client) if client else limiter.catalog
        catalog.put_plan(PLAN)
        keys = [catalog.create_key(f"k{number}", plans=["gold"]) for number in range(12)]
        limiter.warm_up()
        for remaining in (999_999, 999_998):
            decisions = [limiter.check(key.value, STAGE, METHOD) for key in keys]
            assert {decision.source for decision in decisions} == {"redis"}
            assert {decision.limits[1].remaining for decision in decisions} == {remaining}
        assert len({cluster.node_of(f"ratelimit:{{{key.id}}}") for key in keys}) > 1


def test_checks_are_exact_while_the_slots_of_key_and_catalogue_move(cluster):
    """Each admitted check is counted once, and none is refused."""
    with Limiter.from_url(cluster.url, deadline=5) as limiter:
        limiter.catalog.put_plan(PLAN)
        key = limiter.catalog.create_key("k", plans=["gold"])
        decisions, is_over = [], threading.Event()

        def check():
            while not is_over.is_set():
                decisions.append(limiter.check(key.value, STAGE, METHOD))

        threads = [threading.Thread(target=check) for _ in range(3)]
        for thread in threads:
            thread.start()
        for name in (f"ratelimit:{{{key.id}}}", "{ratelimit}:catalog") * 2:
            slot = slot_of(name)
            target = next(node for node in cluster.primaries if node is not cluster.owner_of(slot))
            for _ in cluster.migration(slot, target):
                time.sleep(0.02)
        is_over.set()
        for thread in threads:
            thread.join()
        assert {(decision.allowed, decision.source) for decision in decisions} == {(True, "redis")}
        assert limiter.peek(key.value, STAGE, METHOD).limits[1].remaining == 1_000_000 - len(decisions)
    cluster.wait_agreed()
