"""One node of a real cluster does not answer: its keys feel it, and nobody else."""

import time
from collections import Counter
from contextlib import ExitStack
from threading import Thread

import pytest
from helpers.limiter_twin import TWINS
from helpers.replica import METHOD, STAGE
from helpers.twins import RunningLimiter

from ratelimit import Catalog, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.redis_keys import RedisKeys

NAMES = RedisKeys("ratelimit")
AWAY_S = 3.0
"""Longer than breakers, deadlines and `max_age` take; too short for a replica to stand in."""


@pytest.fixture
def keys(own_cluster):
    """Keys of a plan with two stages, one of which has a limit that all callers share."""
    for node in own_cluster.nodes:
        node.admin.config_set("cluster-node-timeout", 60_000)
    with own_cluster.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(10**5, 10**6), Quota(10**9, "DAY"), [STAGE, "other/prod"]))
        catalog.put_stage(Stage(STAGE, Throttle(10**5, 10**6)))
        return [catalog.create_key(plans=["gold"]) for _ in range(30)]


@pytest.fixture(params=TWINS)
def limiter(own_cluster, keys, request):
    options = {"max_age": 0.5, "deadline": 1, "on_unavailable": "closed", "denial_cache": False}
    url = own_cluster.url
    with RunningLimiter(lambda kind: kind.from_url(url, **options), request.param == "asyncio") as made:
        made.keys = keys
        yield made


def checks_elsewhere(cluster, limiter, away, stage):
    """Check keys of other nodes, met before, while a node is away; return decisions with their seconds."""
    keys = [key.value for key in limiter.keys if cluster.node_of(NAMES.key_hash(key.id)) is not away]
    assert keys
    for key in keys:
        assert limiter.check(key, stage, METHOD).allowed
    away.pause()
    try:
        decisions, end = [], time.monotonic() + AWAY_S
        while time.monotonic() < end:
            for key in keys:
                began = time.monotonic()
                decisions.append((limiter.check(key, stage, METHOD), time.monotonic() - began))
            time.sleep(0.02)
    finally:
        away.resume()
    return decisions


@pytest.mark.slow
def test_the_catalogues_node_is_felt_by_its_own_keys_alone(own_cluster, limiter):
    away = own_cluster.node_of(NAMES.catalog)
    decisions = checks_elsewhere(own_cluster, limiter, away, "other/prod")
    assert {decision.status for decision, _ in decisions} == {200}
    assert {decision.source for decision, _ in decisions} == {"redis"}
    slow = [seconds for _, seconds in decisions if seconds > 0.1]
    assert len(slow) <= 0.01 * len(decisions), slow


@pytest.mark.slow
def test_a_stages_node_is_felt_by_nobody_else(own_cluster, limiter):
    """Requests that do not meet that limit lose nothing."""
    away = own_cluster.node_of(NAMES.stage_bucket(STAGE, "*"))
    decisions = checks_elsewhere(own_cluster, limiter, away, "other/prod")
    assert {decision.status for decision, _ in decisions} == {200}


RATE, BURST, TERM_S = 50, 100, 0.1


@pytest.mark.slow
@pytest.mark.parametrize("end", ["pause", "kill"])
def test_a_stages_limit_holds_while_a_keys_node_is_away(own_cluster, keys, end):
    """Whoever asks for keys of that node, and whoever for others: together they get what the stage admits."""
    with own_cluster.client() as client:
        Catalog(client).put_stage(Stage(STAGE, Throttle(RATE, BURST)))
    owners = {key.value: own_cluster.node_of(NAMES.key_hash(key.id)) for key in keys}
    needed = [own_cluster.node_of(name) for name in (NAMES.catalog, NAMES.stage_bucket(STAGE, "*"))]
    away = next(node for node in own_cluster.primaries if node not in needed)
    assert set(owners.values()) > {away}
    options = {"deadline": 1, "replicas": 4, "denial_cache": False}
    admitted, sources = Counter(), set()

    def check_all(limiter, until):
        while time.monotonic() < until:
            for value, owner in owners.items():
                decision = limiter.check(value, STAGE, METHOD)
                admitted[owner is away] += decision.allowed
                sources.add((owner is away, decision.source))

    with ExitStack() as stack:
        limiters = [
            stack.enter_context(RunningLimiter(lambda kind: kind.from_url(own_cluster.url, **options), is_async))
            for is_async in (False, True) * 2
        ]
        for limiter in limiters:
            for value in owners:
                assert limiter.check(value, STAGE, METHOD, 0).allowed
        getattr(away, end)()
        began = time.monotonic()
        try:
            threads = [Thread(target=check_all, args=(limiter, began + AWAY_S)) for limiter in limiters]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took_s = time.monotonic() - began
        finally:
            away.resume()
    assert sum(admitted.values()) <= BURST + RATE * (took_s + TERM_S)
    assert sum(admitted.values()) > BURST
    assert admitted[True] > 0
    assert (True, "local") in sources
    assert {source for is_away, source in sources if not is_away} <= {"redis", "lease", "denial_cache"}
