"""Tests of a deployment: `pytest --pyargs ratelimit.testing.conformance --ratelimit-url=redis://...`.

The scripts decide there as lua/vectors.json says, and a limiter is exact. All of it happens in a namespace of its own,
which is deleted afterwards; other keys are neither read nor written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from ratelimit import Limiter, Quota, Reason, Throttle, UsagePlan
from ratelimit.scripts import folder, load
from ratelimit.store.clients import client_from_url
from ratelimit.testing.cleanup import delete_namespace
from ratelimit.testing.clock import ManualClock

VECTORS: list[dict[str, Any]] = json.loads((folder() / "vectors.json").read_text(encoding="utf-8"))["vectors"]
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


class Replay:
    """One vector in a namespace of its own."""

    def __init__(self, client: Any, namespace: str, vector: dict[str, Any]) -> None:
        self._client = client
        self._vector = vector
        names = dict.fromkeys((*vector["keys"], *vector["before"], *vector["after"]))
        self._own = {name: name.replace("ratelimit:", f"{namespace}:", 1) for name in names}

    def write(self) -> None:
        """Make the server hold what it holds before."""
        for name, value in self._vector["before"].items():
            if isinstance(value, dict):
                self._client.hset(self._own[name], mapping={each: bytes.fromhex(part) for each, part in value.items()})
            else:
                self._client.set(self._own[name], bytes.fromhex(value))

    def answer(self) -> dict[str, Any]:
        """Run the script; return its reply, or the text of its error."""
        keys = [self._own[name] for name in self._vector["keys"]]
        arguments = [bytes.fromhex(part) for part in self._vector["argv"]]
        try:
            return {"reply": _hexed(self._client.eval(load("check").source, len(keys), *keys, *arguments))}
        except Exception as error:
            text = str(error)
            if not text.startswith("RATELIMIT "):
                raise
            for name, own in self._own.items():
                text = text.replace(own, name)
            return {"error": text}

    def held(self) -> dict[str, Any]:
        """Return all that the server holds of it, as the file writes it; a key that has an expiry is marked so."""
        state: dict[str, Any] = {}
        for name, own in self._own.items():
            kind = self._client.type(own)
            if kind == b"none":
                continue
            if kind == b"hash":
                state[name] = {field.decode(): part.hex() for field, part in self._client.hgetall(own).items()}
            elif kind == b"stream":
                entries = [entry for _, entry in self._client.xrange(own)]
                state[name] = [{each.decode(): text.decode() for each, text in entry.items()} for entry in entries]
            else:
                state[name] = self._client.get(own).hex()
            if self._client.pttl(own) != -1:
                state[name] = {"expires": state[name]}
        return state

    def remove(self) -> None:
        """Delete it."""
        for own in self._own.values():
            self._client.delete(own)


def _hexed(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_hexed(each) for each in reply]
    return reply.hex() if isinstance(reply, bytes) else reply


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(client: Any, namespace: str, vector: dict[str, Any]) -> None:
    """The script answers as lua/vectors.json says, and leaves exactly what that says."""
    replay = Replay(client, namespace, vector)
    try:
        replay.write()
        assert replay.answer() == {part: vector[part] for part in ("reply", "error") if part in vector}
        assert replay.held() == vector["after"]
    finally:
        replay.remove()


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
