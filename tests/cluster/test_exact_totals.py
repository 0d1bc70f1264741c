"""A key's limits are exact on a cluster, whatever becomes of slots and nodes meanwhile."""

import io
import random
import time
from datetime import UTC, datetime, timedelta

import pytest
from helpers.cluster import slot_of
from helpers.cluster_worker import ask_each
from helpers.processes import PROCESSES
from helpers.replica import METHOD, STAGE

from ratelimit import Catalog, Limiter, Quota, UsagePlan
from ratelimit.engine.protocol import STATE

KEYS, QUOTA, ROUNDS = 10_000, 3, 1
VALUES = [f"tenantNumber{number:012}" for number in range(KEYS)]
SLOTS_AT_ONCE = 40
START_S = 8
"""Within so long eight processes have started on a busy machine."""


def with_keys(cluster, count=KEYS):
    """Import keys, whose quota's window does not end while a test runs."""
    client = cluster.client()
    catalog = Catalog(client)
    catalog.put_plan(UsagePlan("gold", None, Quota(QUOTA, "MONTH", (datetime.now(UTC).day + 13) % 28), [STAGE]))
    rows = "".join(f"{value},tenant,gold\n" for value in VALUES[:count])
    report = catalog.import_keys(io.BytesIO(f"Key,Name,UsagePlanIds\n{rows}".encode()))
    assert len(report.ids) == count
    assert not report.warnings
    client.close()
    return report.ids


def move_slots(cluster, random_, targets, slots):
    """Move some slots that hold keys, one key at a time, each to another primary; return how many keys moved."""
    moved = 0
    for slot in random_.sample(slots, SLOTS_AT_ONCE):
        target = random_.choice([node for node in targets if node is not cluster.owner_of(slot)])
        moved += sum(step for step in cluster.migration(slot, target, batch=1) if isinstance(step, int))
    return moved


def stored_used(cluster, ids):
    """What each key's state says was used of its quota, by the node that owns it."""
    used = []
    for key_id in ids:
        name = f"ratelimit:{{{key_id}}}"
        node = cluster.node_of(name)
        with node.client() as client:
            used.append(int(STATE.unpack(client.hget(name, "p:gold"))[4]))
    return used


@pytest.mark.timeout(300)
def test_totals_are_exact_while_slots_move(patient_cluster, processes):
    """Eight processes over 10,000 keys, a node that joins, takes slots, gives them back and leaves: not one unit off.

    No check fails, and none is refused that has units left.
    """
    cluster = patient_cluster
    ids = with_keys(cluster)
    started_at = time.time() + START_S
    tasks = [(cluster.url, VALUES, ROUNDS, seed, started_at) for seed in range(PROCESSES)]
    running = processes.starmap_async(ask_each, tasks, chunksize=1)
    time.sleep(START_S)
    random_ = random.Random(8)
    slots = sorted({slot_of(f"ratelimit:{{{key_id}}}") for key_id in ids})
    keys_moved = changes = 0
    while not running.ready():
        node = cluster.add_node()
        others = [other for other in cluster.primaries if other is not node]
        keys_moved += move_slots(cluster, random_, [node], slots)
        cluster.wait_agreed()
        for slot in cluster.slots_of(node):
            cluster.migrate_slot(slot, random_.choice(others))
        cluster.wait_agreed()
        cluster.remove_node(node)
        keys_moved += move_slots(cluster, random_, others, slots)
        changes += 1
    outcomes, admitted = {}, [0] * KEYS
    for counts, by_outcome in running.get():
        for at, count in enumerate(counts):
            admitted[at] += count
        for outcome, count in by_outcome.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    assert changes >= 1
    assert keys_moved > 80
    assert outcomes == {"ALLOWED": KEYS * QUOTA, "QUOTA_EXCEEDED": KEYS * (PROCESSES * ROUNDS - QUOTA)}
    assert set(admitted) == {QUOTA}
    cluster.wait_agreed()
    assert set(stored_used(cluster, ids[:500])) == {QUOTA}
    used = Catalog(cluster.client()).usage("gold", *span(), limit=500).items
    assert {sum(day for day, _ in days) for days in used.values()} == {QUOTA}


def span():
    today = datetime.now(UTC).date()
    return today - timedelta(days=2), today + timedelta(days=2)


def test_a_check_meets_one_node(valkey_cluster):
    """Its script runs once, at one of the three: a cluster spends no more on a check than one server."""
    with_keys(valkey_cluster, 200)
    with Limiter.from_url(valkey_cluster.url, deadline=10, denial_cache=False) as limiter:
        for value in VALUES[:200]:
            limiter.check(value, STAGE, METHOD)
        before = sum(calls(valkey_cluster).values())
        for value in VALUES[:200]:
            assert limiter.check(value, STAGE, METHOD).time_us is not None
        assert sum(calls(valkey_cluster).values()) == before + 200


def calls(cluster):
    """How many scripts each node has run."""
    return {
        node: sum(
            about["calls"] for name, about in node.admin.info("commandstats").items() if name.startswith("cmdstat_eval")
        )
        for node in cluster.primaries
    }
