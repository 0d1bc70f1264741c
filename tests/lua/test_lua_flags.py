"""Each number that flags can be, with KEYS and ARGV that fit: which are errors, and what each flag alone is for.

Run on a dict.
"""

import pytest
from helpers.lua_tools import PlainServer
from vectors.packing import (
    COUNTED,
    DAILY,
    DAYS,
    IDENTITY,
    JOURNAL,
    KEY,
    NOW,
    PLAN,
    STREAM,
    doubles,
    version_token,
)

ERROR = "RATELIMIT ARGUMENTS"
SHADOW, SHADOW_METHOD = "s:p:next", "s:b:next:m"
FLAGS = {"key": 1, "newer": 2, "shadow": 4, "alerts": 8, "method": 16, "identity": 32, "peek": 64, "bounded": 128}
FLAGS["lease"] = 256
EVERY = (*range(-40, 1100), 2**20 + 1, 2**53 - 1, float("nan"), float("inf"))
ONE_A_DAY = (1, *DAILY[1:])
"""Its first unit is all of it, so an alert of 100 % is reported at once."""


class Flags:
    """A number as flags: an attribute for each."""

    def __init__(self, number):
        bits = int(number) if abs(number) < 2**53 else 0
        self.number = number
        self.is_known = 0 <= number < 512
        for name, bit in FLAGS.items():
            setattr(self, name, bool(bits & bit))

    def is_of_check(self):
        """Whether check.lua takes them; None if it is for the caller to see to it that they belong together."""
        if not self.is_known:
            return False
        if self.lease:
            return self.number in {257, 265}
        if (self.identity and (not self.key or self.shadow or self.alerts)) or (self.bounded and not self.identity):
            return False
        if (not self.key and (self.shadow or self.alerts or self.method)) or (self.method and not self.shadow):
            return None
        return True

    def is_of_journal(self):
        """Whether charge_journal.lua takes them."""
        if not self.is_known or self.lease or self.shadow or self.method or self.peek:
            return False
        if (not self.key and self.number > 2) or (self.alerts and self.identity):
            return False
        return not self.bounded or self.identity


def key_of(flags):
    return IDENTITY if flags.identity else KEY


def token(flags, version=7):
    return version_token(version, stamp="--------" if flags.identity else "stamp--1")


def request(flags, *tail):
    # With a bucket and a quota of the plan where there is one, so that a flag of a key alone is not all.
    plan = (5, 1, 100_000, *ONE_A_DAY) if flags.key else (0, 0, 0, -1, 0, 0, 0)
    until = 60_000_000 if flags.identity else 0
    return doubles(NOW, 1, until, flags.number, *plan) + token(flags) + doubles(*tail)


def checked(server, flags, version=7):
    """(reply of check.lua, what the dict then holds); `version` is in the version token that is stored."""
    fields = [PLAN] if flags.key else []
    tail = []
    if flags.shadow:
        tail += [3, 1, 100_000, *ONE_A_DAY]
        fields += [SHADOW, *([SHADOW_METHOD] if flags.method else [])]
    tail += [100, 1] * flags.alerts + [9, 1] * flags.bounded
    fields += ["l:lease", "l:none"] if flags.lease else []
    keys = [key_of(flags)] * flags.key + [STREAM] * flags.alerts + [COUNTED] * flags.bounded
    state = {key_of(flags).encode(): {b"r": token(flags, version)}}
    return ran(server, state, keys, [request(flags, *tail), *fields])


def charged(server, flags, version=7):
    """The same of charge_journal.lua."""
    hashes = [key_of(flags)] + [DAYS] * (not flags.identity) if flags.key else [JOURNAL]
    keys = hashes + [STREAM] * flags.alerts + [COUNTED] * flags.bounded
    fields = [PLAN] * flags.key
    state = {key_of(flags).encode(): {b"r": token(flags, version)}}
    tail = [100, 1] * flags.alerts + [9, 1] * flags.bounded
    return ran(server, state, keys, [request(flags, *tail), *fields, "life---1", doubles(1, NOW)])


def ran(server, state, keys, arguments):
    server.state = state
    sent = [part if isinstance(part, bytes) else part.encode() for part in arguments]
    return server.eval([key.encode() for key in keys], sent), server.state


def status_of(reply):
    """What a reply says first: its status, or the error."""
    return reply if isinstance(reply, str) else reply[0]


@pytest.mark.parametrize(
    ("script", "run", "is_valid"),
    [("check", checked, Flags.is_of_check), ("charge_journal", charged, Flags.is_of_journal)],
    ids=["check", "charge_journal"],
)
def test_a_number_is_an_error_or_is_not(script, run, is_valid):
    """Of all of nine bits, and of others, though everything else fits."""
    server, every = PlainServer({}, script), list(map(Flags, EVERY))
    expected = {flags.number: valid for flags in every if (valid := is_valid(flags)) is not None}
    assert len(expected) > 1000
    found = {flags.number: status_of(run(server, flags)[0]) != ERROR for flags in every if flags.number in expected}
    assert found == expected


def test_each_flag_of_a_check_has_its_effect():
    """And no other one."""
    server = PlainServer({}, "check")
    for flags in map(Flags, range(512)):
        if not flags.is_of_check():
            continue
        reply, state = checked(server, flags)
        assert status_of(reply) == (3 if flags.peek else 1), flags.number
        assert (status_of(checked(server, flags, 8)[0]) == -2) == (flags.key and not flags.newer), flags.number
        hash_, charges = state[key_of(flags).encode()], flags.key and not flags.peek
        expected = {b"r"} | ({PLAN.encode()} if charges else set())
        if charges and flags.shadow:
            expected |= {SHADOW.encode()} | ({SHADOW_METHOD.encode()} if flags.method else set())
        if charges and flags.alerts:
            expected |= {b"a:gold"}
        if flags.lease:
            expected |= {b"l:lease"}
        assert set(hash_) == expected, flags.number
        assert (STREAM.encode() in state) == (charges and flags.alerts), flags.number
        assert (COUNTED.encode() in state) == (charges and flags.bounded), flags.number


def test_each_flag_of_a_journal_has_its_effect():
    """And no other one."""
    server = PlainServer({}, "charge_journal")
    for flags in map(Flags, range(256)):
        if not flags.is_of_journal():
            continue
        reply, state = charged(server, flags)
        assert status_of(reply) == 5, flags.number
        assert (status_of(charged(server, flags, 8)[0]) == -2) == (flags.key and not flags.newer), flags.number
        hash_ = state[key_of(flags).encode() if flags.key else JOURNAL.encode()]
        expected = {b"j:life---1"} | ({b"r", PLAN.encode()} if flags.key else set())
        assert set(hash_) == expected | ({b"a:gold"} if flags.alerts else set()), flags.number
        assert (STREAM.encode() in state) == flags.alerts, flags.number
        assert (COUNTED.encode() in state) == flags.bounded, flags.number
