"""What users run on a cluster of theirs: the conformance tests, and the fixtures of the pytest plugin."""

import pytest
from helpers.paths import ROOT

from ratelimit.testing.conformance import VECTORS

pytest_plugins = ["pytester"]

OPTIONS = ("-p", "ratelimit_pytest", "-p", "no:cacheprovider", "-W", "error", "-q")
CONFORMANCE = ("--pyargs", "ratelimit.testing.conformance")
OF_A_LIMITER = 7
"""How many of the conformance tests are no vectors."""


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Without the plugins of this environment, of which some import redis themselves."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def with_keys_of_others(cluster):
    """Write what others have on each primary; return all that is there."""
    for number in range(12):
        name = f"ratelimit:{{k{number}}}"
        cluster.node_of(name).admin.set(name, "of others")
    assert all(cluster.key_count().values())
    return contents(cluster)


def contents(cluster):
    return {name: node.admin.get(name) for node in cluster.primaries for name in node.admin.keys("*")}


def test_a_cluster_conforms(pytester, cluster):
    """Each vector on each primary, and all promises of a limiter; others' keys stay as they were, nothing is left."""
    before = with_keys_of_others(cluster)
    result = pytester.runpytest_subprocess(*OPTIONS, *CONFORMANCE, f"--ratelimit-url={cluster.url}")
    result.assert_outcomes(passed=len(VECTORS) + OF_A_LIMITER)
    assert contents(cluster) == before


def test_vectors_are_tried_on_each_primary(pytester, valkey_cluster):
    """Each has run as many scripts more as there are vectors."""
    before = scripts_run(valkey_cluster)
    result = pytester.runpytest_subprocess(
        *OPTIONS, *CONFORMANCE, f"--ratelimit-url={valkey_cluster.url}", "-k", "vector"
    )
    result.assert_outcomes(passed=len(VECTORS), deselected=OF_A_LIMITER)
    after = scripts_run(valkey_cluster)
    assert {node: after[node] - before[node] for node in before} == dict.fromkeys(before, len(VECTORS))


def scripts_run(cluster):
    return {
        node: node.admin.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"] for node in cluster.primaries
    }


def test_a_cluster_one_of_whose_primaries_evicts_does_not_conform(pytester, valkey_cluster):
    node = valkey_cluster.primaries[1]
    node.admin.config_set("maxmemory", "64mb")
    node.admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        result = pytester.runpytest_subprocess(
            *OPTIONS, *CONFORMANCE, f"--ratelimit-url={valkey_cluster.url}", "-k", "evicts"
        )
    finally:
        node.admin.config_set("maxmemory", 0)
        node.admin.config_set("maxmemory-policy", "noeviction")
    result.assert_outcomes(failed=1, deselected=len(VECTORS) + OF_A_LIMITER - 1)


TESTS = """
    import pytest
    from ratelimit import Throttle, UsagePlan

    STAGE, METHOD = "petstore/prod", "GET /pets"

    def key_of(limiter):
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate=1, burst=1), stages=[STAGE]))
        return limiter.catalog.create_key(plans=["gold"]).value

    def test_a_limiter_with_a_clock(ratelimit_limiter, ratelimit_clock):
        key = key_of(ratelimit_limiter)
        assert [ratelimit_limiter.check(key, STAGE, METHOD).allowed for _ in range(2)] == [True, False]
        ratelimit_clock.advance(1)
        assert ratelimit_limiter.check(key, STAGE, METHOD).allowed

    def test_an_asyncio_limiter(ratelimit_async_limiter, ratelimit_limiter):
        import asyncio

        async def check(key):
            async with ratelimit_async_limiter as limiter:
                return [(await limiter.check(key, STAGE, METHOD)).allowed for _ in range(2)]

        assert asyncio.run(check(key_of(ratelimit_limiter))) == [True, False]
"""


def test_fixtures_on_a_cluster(pytester, cluster):
    """What their namespaces held is deleted on all nodes; nothing else is."""
    before = with_keys_of_others(cluster)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess(*OPTIONS, f"--ratelimit-url={cluster.url}")
    result.assert_outcomes(passed=2)
    assert contents(cluster) == before
