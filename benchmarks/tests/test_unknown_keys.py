"""Floods of unknown keys: whose values they are, and what is counted of whom."""

import asyncio
import re
from itertools import count, islice
from types import SimpleNamespace

import pytest

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE
from benchmarks.suite import host, unknown_keys
from ratelimit import AsyncLimiter
from ratelimit.registry.key_values import GENERATED_VALUE, could_be_value


def test_unknown_values_are_well_formed_and_distinct():
    """As generated ones are: only a look-up shows that no key has them."""
    values = list(islice(unknown_keys.unknown(count()), 1000))
    assert len(set(values)) == 1000
    assert all(could_be_value(value) and re.fullmatch(GENERATED_VALUE, value) for value in values)


@pytest.mark.parametrize("shape", unknown_keys.SHAPES)
def test_each_value_of_a_flood_is_denied_once(shape):
    """Each of 500 values is answered once; callers with keys and new keys are admitted, and their waits measured."""

    async def run():
        async with AsyncLimiter.from_url(server.url, namespace="check", deadline=5.0) as limiter:
            values = list(islice(unknown_keys.unknown(count()), 500))
            return await unknown_keys.flood(limiter, shape, keys[:20], keys[20:], values, quiet_s=0.05)

    server = host.Server(host.MAIN)
    try:
        keys = ours.CHECK.enrol(server.url, AMPLE, 40)
        result = asyncio.run(run())
    finally:
        server.stop()
    assert result["statuses"] == {403: 500}
    assert (result["alone"]["denied"], result["flooded"]["denied"], result["new_denied"]) == (0, 0, 0)
    assert result["new_checked"] >= 1
    assert 0 < result["alone"]["p50"] <= result["alone"]["p99"] <= result["alone"]["max"]


def test_a_denial_of_a_cached_key_is_counted():
    """And what was counted is taken once."""

    class Denying:
        async def check(self, *_):
            await asyncio.sleep(0)
            return SimpleNamespace(allowed=False)

    async def run():
        cached = unknown_keys.CachedCallers(Denying(), ["one", "two"])
        await asyncio.sleep(0.01)
        await cached.end()
        return cached.take()

    result = asyncio.run(run())
    assert result["denied"] == result["answers"] > 0


def test_figures_and_tables_are_of_what_was_result():
    """One row a round; a flood that came at once has no target for a latency."""
    one = {
        "seconds": 1.0, "idle_seconds": 0.1, "alone": {"p50": 1.0, "p99": 2.0, "max": 3.0, "denied": 0},
        "flooded": {"p50": 2.0, "p99": 5.0, "max": 9.0, "denied": 1}, "statuses": {403: 7, 503: 2},
        "new_ms": 30.0, "new_checked": 9, "new_denied": 0,
    }  # fmt: skip
    times = [0.9, 1.0, 1.1]
    result = {
        "shares": {f"{share:.0%}": {"per_second": [1.0, 2.0, 3.0], "ratio": times} for share in unknown_keys.SHARES},
        "floods": {shape: [one, one] for shape in unknown_keys.SHAPES},
        "size": 9,
        "denials": {kind: {"cpu_us": times, "ratio": times, "server_us": 4.0} for kind in unknown_keys.KINDS},
    }
    figures = {figure.name: figure for figure in unknown_keys.figures(result)}
    in_turn, at_once = (f"{host.MAIN}: a flood of unknown keys, {shape}" for shape in unknown_keys.SHAPES)
    assert (figures[f"{in_turn}: p99 of known keys / without it"].value) == 2.5
    assert figures[f"{in_turn}: p99 of known keys / without it"].reached
    assert figures[f"{at_once}: p99 of known keys / without it"].target is None
    assert not figures[f"{at_once}: known keys denied"].reached
    shares, flooded, denials = unknown_keys.tables(result)
    assert (shares.row_count, flooded.row_count, denials.row_count) == (5, 4, len(unknown_keys.KINDS))
