"""Each variant of this library measures what its name says: with or without a round trip."""

import host
import ours
import pytest
from contenders import AMPLE


@pytest.fixture(scope="module")
def server():
    found = host.Server(host.MAIN)
    yield found
    found.stop()


def scripts(client):
    return client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)


def asked_of_redis(server, contender, calls=20):
    """How many of the calls, each answered as expected, were a script call."""
    (caller,) = contender.enrol(server.url, AMPLE, 1)
    with contender.connect(server.url, AMPLE) as call, server.client() as client:
        assert [call(caller) for _ in range(2)] == [contender.admits] * 2  # looks at the key, then remembers
        before = scripts(client)
        assert [call(caller) for _ in range(calls)] == [contender.admits] * calls
        return scripts(client) - before


@pytest.mark.parametrize("contender", [ours.CHECK, ours.LAYERS, ours.DENIED, ours.PEEK], ids=lambda one: one.name)
def test_each_call_is_a_round_trip(server, contender):
    """A denied check asks Redis too, whether or not the library could answer from memory."""
    assert asked_of_redis(server, contender) == 20


def test_the_denial_cache_answers_without_redis(server):
    """Once a denial is known no call leaves the process."""
    assert asked_of_redis(server, ours.CACHED) == 0


def test_leased_checks_hardly_ask_redis(server):
    """Most calls are paid from the lease; it adapts to the rate, so the number is not exact."""
    assert asked_of_redis(server, ours.LEASED, calls=200) < 100
