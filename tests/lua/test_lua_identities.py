"""What the scripts do about an identity's expiry, and about those that are counted, command by command.

Run on a dict, whose clock stands at NOW: 0.123456 s into a half minute.
"""

import hashlib
from base64 import urlsafe_b64encode
from copy import deepcopy

import pytest
from helpers.lua_tools import PlainServer, SortedSet
from vectors.packing import (
    COUNTED,
    DAY,
    IDENTITY,
    METHOD,
    OTHER_IDENTITY,
    PLAN,
    STAGE,
    TEN,
    TODAY,
    bucket,
    count,
    doubles,
    state,
    together,
    version_token,
)

NOW = 1_772_625_600_123_456
HALF_MINUTE = 1_772_625_600_000_000
SLOW = (100, 1, 10_000_000)
"""100, one in 10 s: fills in 1000 s."""
TOKEN = version_token(stamp="--------")
DIGEST, OTHER_DIGEST = (name[name.index("~") + 1 : -1].encode() for name in (IDENTITY, OTHER_IDENTITY))
UNTIL_MIDNIGHT = DAY // 2 // 1000 - 124
"""Milliseconds, rounded down."""


def request(*further, plan=TEN, quota=(-1, 0, 0, 0), least=60_000_000, now=0, flags=33, tail=(), token=TOKEN):
    head = doubles(now, 1, least, flags, *plan, *quota) + token
    return head + doubles(*(number for each in further for number in each), *tail)


def check(server, *arguments, keys=()):
    return server.eval([key.encode() for key in (IDENTITY, *keys)], list(arguments))


def stored(plan_state=None):
    """The hash of an identity that was charged before."""
    return {IDENTITY.encode(): {b"r": TOKEN, PLAN.encode(): plan_state or state(500_000, last=NOW - 1)}}


def expiry_of(server, key=IDENTITY):
    return server.expiries.get(key.encode(), (None, None))[1]


DAILY = (100, TODAY, TODAY + 1, TODAY + 2)
MONTHLY = (100, TODAY - 3, TODAY + 28, TODAY + 59)


@pytest.mark.parametrize(
    ("limits", "milliseconds"),
    [
        ({}, 60_500),
        ({"least": 120_000_000}, 120_000),
        ({"least": 60_499_999}, 60_500),
        ({"plan": SLOW}, 1_060_000),
        ({"plan": SLOW, "least": 1_060_001_000}, 1_060_001),
        ({"plan": (1, 7, 1_000_000)}, 60_142),
        ({"quota": DAILY}, 60_000 + UNTIL_MIDNIGHT),
        ({"quota": DAILY, "plan": (1000, 1, 100_000_000)}, 60_000 + 100_000_000),
        ({"quota": MONTHLY}, 60_000 + UNTIL_MIDNIGHT + 27 * DAY // 1000),
        ({"plan": (0, 0, 0)}, 60_000),
        ({"plan": (0, 0, 0), "least": 0}, 60_000),
        ({"plan": (10**9, 1, 1)}, 1_060_000),
    ],
    ids=[
        "the bucket",
        "the least",
        "the bucket, a microsecond later",
        "a slow bucket",
        "the least, a millisecond later",
        "rounded down",
        "the window",
        "a bucket beyond the window",
        "a long window",
        "no limit",
        "no limit, and no least",
        "a bucket that counts in whole tokens",
    ],
)
def test_the_latest_of_all_ends_is_the_expiry(limits, milliseconds):
    """A minute after the buckets are full and the window is over; as long as the caller says at least."""
    server = PlainServer({})
    assert check(server, request(**limits), PLAN.encode())[0] == 1
    assert expiry_of(server) == milliseconds


def test_a_bucket_of_a_method_counts_as_well():
    """The slowest of the buckets in the hash."""
    server = PlainServer({})
    check(server, request(SLOW, plan=(0, 0, 0)), PLAN.encode(), METHOD.encode())
    assert expiry_of(server) == 1_060_000


def test_shared_buckets_are_not_in_the_hash():
    """They have expiries of their own."""
    server = PlainServer({})
    check(server, request(SLOW), PLAN.encode(), keys=[STAGE])
    assert (expiry_of(server), expiry_of(server, STAGE)) == (60_500, 1_060_000)
    server = PlainServer({})
    check(server, request(TEN, plan=SLOW), PLAN.encode(), keys=[STAGE])
    assert (expiry_of(server), expiry_of(server, STAGE)) == (1_060_000, 60_500)


def test_the_plans_state_does_not_say_when_a_methods_bucket_was_charged():
    """Its time is that of a usual charge, and 0 before there was one."""
    before = stored(count(0, last=0))
    before[IDENTITY.encode()][METHOD.encode()] = bucket(500_000, last=NOW - 1)
    server = PlainServer(before)
    server.expiries[IDENTITY.encode()] = b"PX", 5
    assert len(check(server, request(TEN, plan=(0, 0, 0)), PLAN.encode(), METHOD.encode())) == 80
    assert expiry_of(server) == 5


@pytest.mark.parametrize(
    ("last", "is_due"), [(HALF_MINUTE - 1, True), (HALF_MINUTE, False), (NOW - 1, False), (NOW, False)]
)
@pytest.mark.parametrize("place", ["the plan's", "a fast one", "a method's", "none"])
def test_an_expiry_is_put_off_once_in_half_a_minute(last, is_due, place):
    """By the bucket that is charged, or the last charge; alone by check.lua, and check_many.lua leaves it to that."""
    if place == "none":
        before, asked = stored(count(0, last=last)), (request(plan=(0, 0, 0)), PLAN.encode())
    elif place == "a fast one":
        before, asked = stored(state(0, per=1, last=last)), (request(plan=(500_000, 1, 1)), PLAN.encode())
    elif place == "the plan's":
        before, asked = stored(state(500_000, last=last)), (request(), PLAN.encode())
    else:
        method = {METHOD.encode(): bucket(500_000, last=last)}
        before, asked = stored(count(0, last=NOW)), (request(TEN, plan=(0, 0, 0)), PLAN.encode(), METHOD.encode())
        before[IDENTITY.encode()] |= method
    server = PlainServer(deepcopy(before))
    server.expiries[IDENTITY.encode()] = b"PX", 5
    check(server, *asked)
    expected = 60_000 if place == "none" else 60_500
    assert expiry_of(server) == (expected if is_due else 5)
    keys, arguments = together([((IDENTITY,), asked, bytes((len(asked) - 2, 0)))])
    many = PlainServer(before, "check_many")
    (reply,) = many.eval([key.encode() for key in keys], arguments)
    assert (reply == -5) is is_due
    assert {call[0] for call in many.calls} <= {"TIME", "HMGET", *([] if is_due else ["HSET"])}


def test_a_method_that_is_charged_later_puts_it_off_too():
    """Its bucket is slower than what was charged in this half minute."""
    fast, slow = METHOD, "b:gold:petstore/prod:POST /pets"
    server = PlainServer({})
    check(server, request(TEN, plan=(0, 0, 0)), PLAN.encode(), fast.encode())
    assert expiry_of(server) == 60_500
    check(server, request(SLOW, plan=(0, 0, 0)), PLAN.encode(), slow.encode())
    assert expiry_of(server) == 1_060_000


def test_a_plan_that_changed_puts_it_off():
    """A larger burst fills later: the version token says that the limits may be others."""
    server = PlainServer(stored())
    server.expiries[IDENTITY.encode()] = b"PX", 60_500
    larger = (1000, 1, 100_000)
    assert len(check(server, request(plan=larger, token=version_token(8, stamp="--------")), PLAN.encode())) == 56
    assert expiry_of(server) == 160_000


def test_an_expiry_is_never_brought_forward():
    """Another plan of the same subject, or the former limits, may need the hash for longer."""
    server = PlainServer(stored(state(500_000, last=HALF_MINUTE - 1)))
    server.expiries[IDENTITY.encode()] = b"PX", 60_501
    check(server, request(), PLAN.encode())
    assert expiry_of(server) == 60_501


@pytest.mark.parametrize("before", [{}, stored(state(0, last=NOW))], ids=["fresh", "known"])
def test_who_is_denied_gets_no_expiry(before):
    """Nothing is written, whether or not there is a hash."""
    server = PlainServer(before)
    plan = TEN if before else (5, 0, 1)
    assert check(server, request(plan=plan), PLAN.encode())[0] == 0
    assert {call[0] for call in server.calls} == {"TIME", "HMGET"}


def test_under_a_callers_clock_nothing_expires():
    """Neither the hash nor what is counted."""
    server = PlainServer({})
    check(server, request(now=NOW, flags=161, tail=(2, 1)), PLAN.encode(), keys=[COUNTED])
    assert server.expiries == {}
    assert server.state[COUNTED.encode()] == {DIGEST: float("inf")}


def test_who_is_counted_is_so_until_its_hash_expires():
    """Those whose hashes have expired go; the set lives as long as the last of them."""
    former = SortedSet({b"gone": NOW, b"there": NOW + 1})
    server = PlainServer({COUNTED.encode(): former})
    assert check(server, request(flags=161, tail=(2, 1)), PLAN.encode(), keys=[COUNTED])[0] == 1
    assert server.state[COUNTED.encode()] == {b"there": NOW + 1, DIGEST: NOW + 60_500_000}
    assert expiry_of(server, COUNTED) == 60_500
    server.expiries[COUNTED.encode()] = b"PX", 60_501
    keys = OTHER_IDENTITY, COUNTED
    reply = server.eval([key.encode() for key in keys], [request(flags=161, tail=(3, 1)), PLAN.encode()])
    assert (reply[0], expiry_of(server, COUNTED)) == (1, 60_501)


@pytest.mark.parametrize(("ends_us", "status"), [(NOW - 1, 1), (NOW, 1), (NOW + 1, 4)])
def test_those_whose_hashes_have_expired_do_not_count(ends_us, status):
    """To the microsecond; and who is one too many leaves nothing."""
    server = PlainServer({COUNTED.encode(): SortedSet({b"other": ends_us})})
    reply = check(server, request(flags=161, tail=(1, 1)), PLAN.encode(), keys=[COUNTED])
    assert reply[0] == status
    if status == 4:
        assert [call[0] for call in server.calls] == ["TIME", "HMGET", "ZCOUNT"]
        assert reply[2] == doubles(500_000, NOW)


def test_who_cannot_be_counted_is_admitted_once_it_is_charged():
    """A set that is none fails a fresh identity before anything is written, and not one that has a state."""
    broken = {COUNTED.encode(): b"no set"}
    server = PlainServer(broken)
    with pytest.raises(TypeError):
        check(server, request(flags=161, tail=(1, 1)), PLAN.encode(), keys=[COUNTED])
    assert server.state == broken
    server = PlainServer(stored(state(500_000, last=HALF_MINUTE - 1)) | broken)
    assert len(check(server, request(flags=161, tail=(1, 1)), PLAN.encode(), keys=[COUNTED])) == 56


@pytest.mark.parametrize("one_in", [1, 2, 64, 2**18])
def test_one_of_so_many_is_counted(one_in):
    """By 18 bits of the digest that are near its end: every process chooses the same."""
    server = PlainServer({})
    for raw in (hashlib.sha256(b"%d" % number).digest()[:16] for number in range(300)):
        digest = urlsafe_b64encode(raw)[:22]
        server.state.clear()
        keys = b"ratelimit:{~%s}" % digest, COUNTED.encode()
        server.eval(keys, [request(now=NOW, flags=161, tail=(2**20, one_in)), PLAN.encode()])
        is_counted = (int.from_bytes(raw) >> 2) % one_in == 0
        assert server.state.get(COUNTED.encode()) == ({digest: float("inf")} if is_counted else None)


@pytest.mark.parametrize("bit", range(18))
def test_each_of_18_bits_counts(bit):
    """A digest whose number has one bit alone is divisible by the powers of 2 up to it."""
    digest = urlsafe_b64encode((2**bit << 2).to_bytes(16))[:22]
    for power in range(19):
        server = PlainServer({})
        keys = b"ratelimit:{~%s}" % digest, COUNTED.encode()
        server.eval(keys, [request(now=NOW, flags=161, tail=(2**20, 2**power)), PLAN.encode()])
        assert (COUNTED.encode() in server.state) == (power <= bit)


@pytest.mark.parametrize(("last", "is_judged"), [(HALF_MINUTE, True), (HALF_MINUTE - 1, False)])
@pytest.mark.parametrize("limits", ["a method's bucket", "none"])
def test_without_a_bucket_of_the_plan(limits, last, is_judged):
    """The method's bucket alone tells when it was charged last; without any limit, the plan's state does."""
    has_bucket = limits != "none"
    of_the_plan = state(per=0, last=0 if has_bucket else last, day_used=1)
    hash_ = {b"r": TOKEN, PLAN.encode(): of_the_plan, METHOD.encode(): bucket(500_000, last=last)}
    further = [TEN] * has_bucket
    asked = (request(*further, plan=(0, 0, 0)), PLAN.encode(), *([METHOD.encode()] * has_bucket))
    keys, arguments = together([((IDENTITY,), asked, bytes((has_bucket, 0)))])
    server = PlainServer({IDENTITY.encode(): hash_}, "check_many")
    (reply,) = server.eval([key.encode() for key in keys], arguments)
    assert (reply != -5) is is_judged


def test_a_character_of_a_digest_that_is_none_counts_as_the_first():
    """So no name of an identity fails a check: one in 64 is counted, by the last of three characters."""
    name_of = "ratelimit:{{~xxxxxxxxxxxxxxxxxx{}x}}".format
    for characters, is_counted in (("AAA", True), ("AA!", True), ("%%A", True), ("AAB", False), ("AA_", False)):
        server = PlainServer({})
        keys = [part.encode() for part in (name_of(characters), COUNTED)]
        server.eval(keys, [request(flags=161, tail=(9, 64)), PLAN.encode()])
        assert (COUNTED.encode() in server.state) is is_counted


@pytest.mark.parametrize(("last", "is_due"), [(HALF_MINUTE, False), (HALF_MINUTE - 1, True)])
def test_a_plans_bucket_beside_a_methods(last, is_due):
    """The plan's was charged last before this half minute: that puts off the expiry; its P is the least there is."""
    hash_ = {b"r": TOKEN, PLAN.encode(): state(3, per=1, last=last), METHOD.encode(): bucket(500_000, last=HALF_MINUTE)}
    asked = (request(TEN, plan=(5, 1, 1)), PLAN.encode(), METHOD.encode())
    server = PlainServer({IDENTITY.encode(): dict(hash_)})
    check(server, *asked)
    assert (expiry_of(server) is not None) is is_due
    keys, arguments = together([((IDENTITY,), asked, bytes((1, 0)))])
    many = PlainServer({IDENTITY.encode(): dict(hash_)}, "check_many")
    (reply,) = many.eval([key.encode() for key in keys], arguments)
    assert (reply == -5) is is_due
