"""The floods: whose values they are, and what is counted of whom."""

import asyncio
import re
from itertools import count, islice
from types import SimpleNamespace

import floods
import host
import ours
import pytest
import unknown_keys
from contenders import AMPLE

from ratelimit import AsyncLimiter
from ratelimit.registry.key_values import GENERATED_VALUE, could_be_value


def test_unknown_values_are_well_formed_and_distinct():
    """As generated ones are: nothing but a look-up tells that no key has them."""
    values = list(islice(floods.unknown(count()), 1000))
    assert len(set(values)) == 1000
    assert all(could_be_value(value) and re.fullmatch(GENERATED_VALUE, value) for value in values)


@pytest.mark.parametrize("shape", floods.SHAPES)
def test_a_flood_is_told_what_it_is(shape):
    """Each of 500 values is answered once; callers with keys and new keys are admitted, and their waits are told."""

    async def run():
        async with AsyncLimiter.from_url(server.url, namespace="check", deadline=5.0) as limiter:
            values = list(islice(floods.unknown(count()), 500))
            return await floods.flood(limiter, shape, keys[:20], keys[20:], values, quiet_s=0.05)

    server = host.Server(host.MAIN)
    try:
        keys = ours.CHECK.enrol(server.url, AMPLE, 40)
        found = asyncio.run(run())
    finally:
        server.stop()
    assert found["statuses"] == {403: 500}
    assert (found["alone"]["refused"], found["flooded"]["refused"], found["new_refused"]) == (0, 0, 0)
    assert found["new_asked"] >= 1
    assert 0 < found["alone"]["p50"] <= found["alone"]["p99"] <= found["alone"]["max"]


def test_a_refusal_of_a_known_key_is_counted():
    """And what was counted is taken once."""

    class Refusing:
        async def check(self, *_):
            await asyncio.sleep(0)
            return SimpleNamespace(allowed=False)

    async def run():
        met = floods.Met(Refusing(), ["one", "two"])
        await asyncio.sleep(0.01)
        await met.end()
        return met.take()

    found = asyncio.run(run())
    assert found["refused"] == found["answers"] > 0


def test_figures_and_tables_are_of_what_was_found():
    """One row a round; a flood that came at once has no target for a latency."""
    one = {
        "seconds": 1.0, "idle_seconds": 0.1, "alone": {"p50": 1.0, "p99": 2.0, "max": 3.0, "refused": 0},
        "flooded": {"p50": 2.0, "p99": 5.0, "max": 9.0, "refused": 1}, "statuses": {403: 7, 503: 2},
        "new_ms": 30.0, "new_asked": 9, "new_refused": 0,
    }  # fmt: skip
    times = [0.9, 1.0, 1.1]
    found = {
        "shares": {f"{share:.0%}": {"per_second": [1.0, 2.0, 3.0], "ratio": times} for share in unknown_keys.SHARES},
        "floods": {shape: [one, one] for shape in floods.SHAPES},
        "size": 9,
        "refusals": {kind: {"cpu_us": times, "ratio": times, "server_us": 4.0} for kind in unknown_keys.KINDS},
    }
    figures = {figure.name: figure for figure in unknown_keys.figures(found)}
    in_turn, at_once = (f"{host.MAIN}: a flood of unknown keys, {shape}" for shape in floods.SHAPES)
    assert (figures[f"{in_turn}: p99 of known keys / without it"].value) == 2.5
    assert figures[f"{in_turn}: p99 of known keys / without it"].reached
    assert figures[f"{at_once}: p99 of known keys / without it"].target is None
    assert not figures[f"{at_once}: known keys refused"].reached
    shares, flooded, refusals = unknown_keys.tables(found)
    assert (shares.row_count, flooded.row_count, refusals.row_count) == (5, 4, len(unknown_keys.KINDS))
