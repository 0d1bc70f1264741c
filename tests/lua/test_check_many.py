"""lua/check_many.lua: checks that are asked at once, held against check.lua and against the promises."""

import pytest
from helpers.batch_scenarios import scenarios
from helpers.lua_tools import PlainServer, SortedSet
from hypothesis import HealthCheck, given, settings
from properties.promises import batches
from redis.exceptions import ResponseError
from vectors.packing import together

from ratelimit.scripts import load

RETRY_INDIVIDUALLY = -5
PLAIN_NOW = 1_772_625_600_123_456
"""The time of PlainServer."""


def one_by_one(ask, asked):
    return [ask("check", prepared.keys, prepared.arguments) for prepared in asked]


def at_once(ask, asked):
    """As a gateway does: all in one call, and those that were left out alone, in order."""
    replies = ask("check_many", *together([(each.keys, each.arguments, each.layout) for each in asked]))
    assert len(replies) == len(asked)
    return [
        ask("check", prepared.keys, prepared.arguments) if reply == RETRY_INDIVIDUALLY else reply
        for prepared, reply in zip(asked, replies, strict=True)
    ]


class Real:
    """A server that holds a state; shared buckets may have an expiry."""

    def __init__(self, client, state):
        self._client = client
        client.flushall()
        for key, value in state.items():
            if isinstance(value, bytes):
                client.set(key, value, px=10**7)
            elif isinstance(value, SortedSet):
                client.zadd(key, value)
            else:
                client.hset(key, mapping=value)

    def ask(self, script, keys, arguments):
        source = load(script).source
        try:
            return self._client.eval(source, len(keys), *keys, *arguments)
        except ResponseError as error:
            return str(error)

    def held(self):
        """Each key's value, and whether it expires."""
        found = {}
        for key in self._client.keys("*"):
            match self._client.type(key):
                case b"hash":
                    value = self._client.hgetall(key)
                case b"zset":
                    value = self._client.zrange(key, 0, -1, withscores=True)
                case _:
                    value = self._client.get(key)
            found[key] = value, self._client.pttl(key) > 0
        return found


class Plain:
    """The same on a dict, at a server's clock that stands still."""

    def __init__(self, state):
        kept = {
            key.encode(): value
            if isinstance(value, bytes)
            else type(value)({name.encode(): part for name, part in value.items()})
            for key, value in state.items()
        }
        self._servers = {script: PlainServer(kept, script) for script in ("check", "check_many")}
        self._servers["check_many"].expiries = self._servers["check"].expiries

    def ask(self, script, keys, arguments):
        try:
            return self._servers[script].eval([key.encode() for key in keys], list(arguments))
        except TypeError:
            return "WRONGTYPE"

    def held(self):
        return self._servers["check"].state, self._servers["check"].expiries


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=scenarios())
def test_checks_at_once_are_as_one_after_the_other(client, world):
    """The same replies, the same bytes in Redis, and an expiry where there was one, whatever is stored and asked."""
    state, asked = world
    alone = Real(client, state)
    expected = one_by_one(alone.ask, asked), alone.held()
    together = Real(client, state)
    assert (at_once(together.ask, asked), together.held()) == expected


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(world=scenarios(PLAIN_NOW, 0))
def test_by_the_servers_clock_expiries_are_the_same_too(world):
    """Where the clock stands still, also each expiry to the millisecond."""
    state, asked = world
    alone, together = Plain(state), Plain(state)
    assert at_once(together.ask, asked) == one_by_one(alone.ask, asked)
    assert together.held() == alone.held()


@pytest.mark.parametrize(
    "promise",
    [
        batches.checks_at_once_are_charged_one_by_one,
        batches.each_of_many_keys_is_charged,
        batches.methods_of_one_key_count_for_one_quota,
        batches.nobody_is_overtaken,
        batches.checks_at_once_obey,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_promise_holds_for_checks_at_once(backend, clock, promise):
    """Charged one by one, all or nothing, in order; and a revoked key is refused."""
    promise(backend, clock)


def test_an_expiry_outlasts_the_way_to_full(backend):
    """Kept for a minute longer, and not renewed more often than needed."""
    batches.an_expiry_outlasts_the_way_to_full(backend)
