"""A state of Redis that is asked by check.lua, or by check_many.lua: on a real server, or on a dict."""

import struct

from redis.exceptions import ResponseError
from vectors.packing import PLAN, together

from helpers.lua_tools import PlainServer, SortedSet
from ratelimit.scripts import load

RETRY_INDIVIDUALLY = -5
PLAIN_NOW = 1_772_625_600_123_456
"""The time of PlainServer."""
HALF_MINUTE_US = 30_000_000
"""How often an expiry is put off at most."""


def one_by_one(ask, asked):
    return [ask("check", prepared.keys, prepared.arguments) for prepared in asked]


def at_once(ask, asked):
    """As a gateway does: all in one call, and those that were left out alone, in order."""
    return completed(ask, asked, told_at_once(ask, asked))


def told_at_once(ask, asked):
    """The replies of check_many.lua itself."""
    replies = ask("check_many", *together([(each.keys, each.arguments, each.layout) for each in asked]))
    assert len(replies) == len(asked)
    return replies


def completed(ask, asked, replies):
    """The same, with those that were left out asked alone."""
    return [
        ask("check", prepared.keys, prepared.arguments) if reply == RETRY_INDIVIDUALLY else reply
        for prepared, reply in zip(asked, replies, strict=True)
    ]


def needlessly_left_out(state, asked, replies, expected):
    """The checks that were left out, though check.lua admitted them by its fast path, and they meet none that was.

    `expected` is what it replied one by one.
    """
    met, found = set(), []
    for prepared, reply, right in zip(asked, replies, expected, strict=True):
        if reply != RETRY_INDIVIDUALLY:
            continue
        fields = state.get(prepared.keys[0], {})
        is_usual = isinstance(right, bytes) and fields.get("r") == prepared.arguments[0][88:114]
        if is_usual and not met & set(prepared.keys) and not is_expiry_due(prepared, fields):
            found.append(prepared)
        met |= set(prepared.keys)
    return found


def is_expiry_due(prepared, fields):
    """Whether the check of an identity has to put off an expiry: it charges what was not charged of late."""
    request, _, *own = prepared.arguments
    now, _, _, flags, _, _, plan_per = struct.unpack_from("<7d", request)
    if flags < 32:
        return False
    states = [fields[PLAN]] if plan_per or not own else []
    states += [fields.get(field.decode()) for field in own]
    now = now or PLAIN_NOW
    return any(state is None or struct.unpack_from("<d", state, 16)[0] < now - now % HALF_MINUTE_US for state in states)


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
        self._servers = {script: PlainServer({}, script) for script in ("check", "check_many")}
        self.hold(state)

    def hold(self, state):
        """Begin anew with a state."""
        kept = {
            key.encode(): value
            if isinstance(value, bytes)
            else type(value)({name.encode(): part for name, part in value.items()})
            for key, value in state.items()
        }
        expiries = {}
        for server in self._servers.values():
            server.state, server.expiries = kept, expiries

    def end_after(self, instructions):
        """See `PlainServer`."""
        for server in self._servers.values():
            server.end_after(instructions)

    def ask(self, script, keys, arguments):
        try:
            return self._servers[script].eval([key.encode() for key in keys], list(arguments))
        except TypeError:
            return "WRONGTYPE"

    def held(self):
        return self._servers["check"].state, self._servers["check"].expiries
