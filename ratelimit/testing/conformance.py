"""Tests of a deployment: `pytest --pyargs ratelimit.testing.conformance --ratelimit-url=redis://...`.

The scripts decide there as lua/vectors.json says, and a limiter is exact. All of it happens in a namespace of its own,
which is deleted afterwards; other keys are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from ratelimit import Limiter, Quota, Reason, Throttle, UsagePlan
from ratelimit.store.clients import client_from_url
from ratelimit.testing import vectors
from ratelimit.testing.cleanup import delete_namespace
from ratelimit.testing.clock import ManualClock

VECTORS = vectors.vectors()
STAGE, METHOD = "petstore/prod", "GET /pets"
THREADS, CHECKS_EACH, BURST = 8, 50, 100
_PATIENCE_S = 5.0


@pytest.fixture(scope="session")
def namespace(ratelimit_url: str) -> Iterator[str]:
    """A namespace that nobody else has."""
    name = f"ratelimit-conformance-{uuid4().hex[:12]}"
    yield name
    with client_from_url(ratelimit_url, _PATIENCE_S) as client:
        delete_namespace(client, name)


@pytest.fixture(scope="session")
def client(ratelimit_url: str) -> Iterator[Any]:
    """A client that replies with bytes."""
    with client_from_url(ratelimit_url, _PATIENCE_S) as made:
        yield made


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(client: Any, namespace: str, vector: dict[str, Any]) -> None:
    """The script answers as lua/vectors.json says, and leaves exactly what that says."""
    own = vectors.renamed(vector, namespace)
    names = {*own["keys"], *own["before"], *own["after"]}
    try:
        vectors.write(client, own["before"])
        assert vectors.answer(client, own) == {part: own[part] for part in ("reply", "error") if part in own}
        assert vectors.held(client, names) == own["after"]
    finally:
        for name in names:
            client.delete(name)


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


def test_the_server_evicts_nothing(client: Any, record_property: Callable[[str, object], None]) -> None:
    """An evicted key is a lost key."""
    memory = client.info("memory")
    record_property("maxmemory_policy", memory["maxmemory_policy"])
    assert memory["maxmemory_policy"] == "noeviction" or not memory["maxmemory"]
