"""One call of each contender on each server. No figure is asserted; that the answers are right is."""

from benchmarks.suite import latency
from benchmarks.suite.rounds import percentiles

CALLS = 3000


def _contenders(config):
    return latency.contenders(config.getoption("--more-peers"))


def pytest_generate_tests(metafunc):
    if "contender" in metafunc.fixturenames:
        contenders = _contenders(metafunc.config)
        metafunc.parametrize("contender", contenders, ids=[each.name for each in contenders])


def test_one_call(benchmark, measured, contender):
    """Wall time of single calls, in the table and with percentiles; paired CPU time beside it."""
    call, answer = measured.calls[contender.name]
    benchmark.group = f"{measured.version} ({measured.name}), {measured.placement}"
    last = benchmark.pedantic(call, rounds=CALLS, iterations=1, warmup_rounds=100)
    benchmark.extra_info.update(contender=contender.name, limits=contender.limits, **measured.summary(contender.name))
    if benchmark.stats:  # None under --benchmark-disable
        benchmark.extra_info["wall_us_percentiles"] = {
            name: seconds * 1e6 for name, seconds in percentiles(benchmark.stats.stats.data).items()
        }
    assert last is answer


def test_percentiles_are_values_that_were_seen():
    """The p-th percentile is the smallest value that p per cent of all do not exceed."""
    values = list(range(1, 1001))
    assert percentiles(values) == {"p50": 500, "p99": 990, "p99.9": 999}
    assert percentiles([7]) == {"p50": 7, "p99": 7, "p99.9": 7}
