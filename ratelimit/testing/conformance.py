"""Tests of a deployment: `pytest --pyargs ratelimit.testing.conformance --ratelimit-url=redis://...`.

The scripts decide there as lua/vectors.json says, on each primary of a cluster, and a limiter is exact. All of it
happens in namespaces of its own, which are deleted afterwards; other keys are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import MovedError

from ratelimit import Limiter, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.testing import vectors
from ratelimit.testing.cleanup import delete_namespace
from ratelimit.testing.clock import ManualClock
from ratelimit.testing.primaries import clients_of_primaries

VECTORS = vectors.vectors()
STAGE, SHARED_STAGE, METHOD = "petstore/prod", "petstore/shared", "GET /pets"
THREADS, CHECKS_EACH, BURST = 8, 50, 100
_PATIENCE_S = 5.0


@pytest.fixture(scope="session")
def primaries(ratelimit_url: str) -> Iterator[list[Any]]:
    """A client of each primary, which replies with bytes: of one server, its client alone."""
    with clients_of_primaries(ratelimit_url, _PATIENCE_S) as clients:
        yield clients


@pytest.fixture(scope="session")
def namespace(primaries: list[Any]) -> Iterator[str]:
    """A namespace that nobody else has."""
    name = f"ratelimit-conformance-{uuid4().hex[:12]}"
    yield name
    for client in primaries:
        delete_namespace(client, name)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(primaries: list[Any], namespace: str, vector: dict[str, Any]) -> None:
    """The script answers as lua/vectors.json says, and leaves exactly what that says: on each primary."""
    for client in primaries:
        own = _on(client, vector, namespace)
        names = vectors.names_of(own)
        try:
            vectors.write(client, own["before"])
            assert vectors.answer(client, own) == {part: own[part] for part in ("reply", "error") if part in own}
            assert vectors.held(client, names) == own["after"]
        finally:
            for name in names:
                client.delete(name)


def _on(client: Any, vector: dict[str, Any], namespace: str) -> dict[str, Any]:
    """Return a vector whose names are in a slot of the primary of a client: one script touches them all."""
    for number in count():
        own = vectors.in_one_slot(vector, namespace, f"{number}-")
        names = vectors.names_of(own)
        try:
            if names:
                client.exists(*names)
        except MovedError:
            continue
        return own
    raise AssertionError  # for each slot there is a number


@pytest.fixture(scope="session")
def clock() -> ManualClock:
    """The clock of the limiter."""
    return ManualClock()


@pytest.fixture(scope="session")
def limiter(ratelimit_url: str, namespace: str, clock: ManualClock) -> Iterator[Limiter]:
    """A limiter by that clock, which makes no decision in its process."""
    with Limiter.from_url(
        ratelimit_url, namespace=namespace, clock=clock, deadline=_PATIENCE_S, denial_cache=False
    ) as made:
        made.catalog.put_plan(UsagePlan("gold", Throttle("1/3600", BURST), Quota(1000, "DAY"), [STAGE]))
        made.catalog.put_plan(UsagePlan("free", stages=[SHARED_STAGE]))
        made.catalog.put_stage(Stage(SHARED_STAGE, Throttle("1/3600", BURST)))
        yield made


@pytest.fixture
def key(limiter: Limiter) -> str:
    """The value of a new key."""
    return limiter.catalog.create_key(plans=["gold"]).value


def test_a_limiter_may_do_what_it_needs(limiter: Limiter) -> None:
    """Connections, permissions and scripts: what is missing is in the error."""
    limiter.warm_up(_PATIENCE_S)


def test_many_at_once_admit_what_the_plan_allows(limiter: Limiter, key: str) -> None:
    """Not one more, not one less."""
    with ThreadPoolExecutor(THREADS) as pool:
        decisions = list(pool.map(lambda _: limiter.check(key, STAGE, METHOD), range(THREADS * CHECKS_EACH)))
    assert sum(decision.allowed for decision in decisions) == BURST
    assert {decision.reason for decision in decisions} == {Reason.ALLOWED, Reason.THROTTLED}


def test_many_keys_at_once_share_what_their_stage_allows(limiter: Limiter) -> None:
    """Not one more, not one less: in one process also where it prepays shared limits, as on a cluster."""
    keys = [limiter.catalog.create_key(plans=["free"]).value for _ in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        decisions = list(pool.map(lambda key: limiter.check(key, SHARED_STAGE, METHOD), keys * CHECKS_EACH))
    assert sum(decision.allowed for decision in decisions) == BURST
    assert {decision.limited_by for decision in decisions} == {None, f"stage:{SHARED_STAGE}:*"}


def test_a_denial_ends_at_the_exact_time(limiter: Limiter, clock: ManualClock, key: str) -> None:
    """A microsecond before `retry_after` it denies, at it it admits."""
    assert limiter.check(key, STAGE, METHOD, BURST).allowed
    wait = limiter.check(key, STAGE, METHOD).retry_after
    assert wait == 3600
    clock.advance(wait)
    clock.advance_us(-1)
    assert limiter.check(key, STAGE, METHOD).retry_after == 0.000001
    clock.advance_us(1)
    assert limiter.check(key, STAGE, METHOD).allowed


def test_a_denial_consumes_nothing(limiter: Limiter, key: str) -> None:
    """The bucket denies, and the quota is not charged."""
    assert not limiter.check(key, STAGE, METHOD, BURST + 1).allowed
    statuses = limiter.peek(key, STAGE, METHOD).limits
    assert [(status.name, status.remaining) for status in statuses] == [("plan:gold", BURST), ("quota:gold", 1000)]


def test_a_disabled_key_is_denied_by_the_next_check(limiter: Limiter) -> None:
    """Whatever a process remembers of it."""
    key = limiter.catalog.create_key(plans=["gold"])
    assert limiter.check(key.value, STAGE, METHOD).allowed
    limiter.catalog.update_key(key.id, enabled=False)
    assert limiter.check(key.value, STAGE, METHOD).detail == "disabled"


def test_the_server_evicts_nothing(primaries: list[Any], record_property: Callable[[str, object], None]) -> None:
    """An evicted key is a lost key."""
    for client in primaries:
        memory = client.info("memory")
        record_property("maxmemory_policy", memory["maxmemory_policy"])
        assert memory["maxmemory_policy"] == "noeviction" or not memory["maxmemory"]
