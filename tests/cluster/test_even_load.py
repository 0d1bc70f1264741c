"""Keys and load are even over the nodes of a cluster, within a fifth: nobody chooses where a key lies but its id."""

import asyncio
import io
from datetime import UTC, datetime

from helpers.replica import METHOD, STAGE

from ratelimit import AsyncLimiter, Catalog, Quota, UsagePlan

KEYS, AT_ONCE = 10_000, 50
VALUES = [f"tenantNumber{number:012}" for number in range(KEYS)]


def import_all(cluster):
    with cluster.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", None, Quota(9, "MONTH", (datetime.now(UTC).day + 13) % 28), [STAGE]))
        rows = "".join(f"{value},tenant,gold\n" for value in VALUES)
        report = catalog.import_keys(io.BytesIO(f"Key,Name,UsagePlanIds\n{rows}".encode()))
    assert len(report.ids) == KEYS
    assert not report.warnings


async def check_all(cluster):
    """Check each key once, so many at once; return how many were admitted."""
    async with AsyncLimiter.from_url(cluster.url, deadline=30) as limiter:
        values = iter(VALUES)

        async def some():
            return [(await limiter.check(value, STAGE, METHOD)).allowed for value in values]

        return sum(sum(each) for each in await asyncio.gather(*(some() for _ in range(AT_ONCE))))


def commands(cluster):
    """How many commands each primary has executed, those of scripts included."""
    return {
        node: sum(about["calls"] for about in node.admin.info("commandstats").values()) for node in cluster.primaries
    }


def assert_even(counts):
    mean = sum(counts.values()) / len(counts)
    assert all(abs(count - mean) <= 0.2 * mean for count in counts.values()), counts


def test_keys_and_load_are_even(valkey_cluster):
    """Of 10,000 keys and the first check of each: what is stored, and what is executed, as nodes count it."""
    import_all(valkey_cluster)
    before = commands(valkey_cluster)
    assert asyncio.run(check_all(valkey_cluster)) == KEYS
    load = {node: count - before[node] for node, count in commands(valkey_cluster).items()}
    assert_even(valkey_cluster.key_count())
    assert_even(load)
