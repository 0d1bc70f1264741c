"""Each variant of this library measures what its name says: with or without a round trip."""

from itertools import takewhile

import pytest

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE
from benchmarks.suite import host
from ratelimit.scripts import load


@pytest.fixture(scope="module")
def server():
    started = host.Server(host.MAIN)
    yield started
    started.stop()


def script_calls(monitor):
    """How many calls of the script of checks a server was sent, up to "ECHO end": not those that say who lives."""
    commands = takewhile(lambda command: command != "ECHO end", (each["command"] for each in monitor.listen()))
    return sum(command.startswith(f"EVALSHA {load('check').sha} ") for command in commands)


def script_calls_of(server, contender, calls=20):
    """How many of the calls, each answered as expected, were a script call."""
    (caller,) = contender.enrol(server.url, AMPLE, 1)
    with contender.connect(server.url, AMPLE) as call, server.client() as client:
        assert [call(caller) for _ in range(2)] == [contender.admits] * 2  # looks the key up, then caches it
        with client.monitor() as monitor:
            assert [call(caller) for _ in range(calls)] == [contender.admits] * calls
            client.echo("end")
            return script_calls(monitor)


@pytest.mark.parametrize("contender", [ours.CHECK, ours.LAYERS, ours.DENIED, ours.PEEK], ids=lambda one: one.name)
def test_each_call_is_a_round_trip(server, contender):
    """A denied check goes to Redis too, whether or not the library could decide locally."""
    assert script_calls_of(server, contender) == 20


def test_the_denial_cache_decides_without_redis(server):
    """Once a denial is cached no call leaves the process, but for one if its listener begins meanwhile."""
    assert script_calls_of(server, ours.CACHED) <= 1


def test_leased_checks_hardly_call_redis(server):
    """Most calls are paid from the lease; it adapts to the rate, so the number is not exact."""
    assert script_calls_of(server, ours.LEASED, calls=200) < 100
