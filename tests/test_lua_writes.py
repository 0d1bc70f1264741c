"""What the scripts send to Redis, command by command: how often they write, and how long shared buckets are kept.

Run on a dict, whose clock stands at NOW: 0.123456 s into a half minute.
"""

import struct

import pytest
from lua_tools import PlainServer
from vector_bytes import ACCOUNT, KEY, METHOD, PLAN, STAGE, TEN, bucket, identity, state

NOW = 1_772_625_600_123_456
HALF_MINUTE = 1_772_625_600_000_000
SLOW = (100, 1, 10_000_000)
"""100, one in 10 s: fills in 1000 s."""


def request(*further, now=0, cost=1, flags=1, plan=TEN, version=7):
    head = struct.pack("<11d", now, cost, 0, flags, *plan, -1, 0, 0, 0) + identity(version)
    return head + b"".join(struct.pack("<3d", *each) for each in further)


def stored(level=500_000, *, last=NOW - 1, **more):
    return {KEY.encode(): {b"r": identity(), PLAN.encode(): state(level, last=last, **more)}}


def written(server):
    """The commands that write, without their values."""
    return [call for call in server.calls if call[0] not in {"TIME", "HMGET", "GET"}]


def ask(server, *arguments, keys=(KEY, ACCOUNT)):
    return server.eval([key.encode() for key in keys], list(arguments))


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (None, ("PX", 1_060_000)),
        (bucket(500_000_000, per=10_000_000, last=HALF_MINUTE - 1), ("PX", 1_060_000)),
        (bucket(500_000_000, per=10_000_000, last=HALF_MINUTE), None),
        (bucket(500_000_000, per=10_000_000, last=NOW), None),
        (bucket(500_000_000, per=10_000_000, last=NOW + 1), ("PX", 1_060_000)),
        (bucket(5_000_000, last=NOW), ("PX", 1_060_000)),
    ],
    ids=["none", "the half minute before", "this half minute", "now", "ahead of the clock", "another P"],
)
@pytest.mark.parametrize("script", ["check", "check_many"])
def test_an_expiry_is_set_anew_once_in_half_a_minute(before, command, script):
    """If there was none, after the last half minute, or if anything is unusual; else SETRANGE leaves it as it is."""
    server = PlainServer(stored() | ({ACCOUNT.encode(): before} if before else {}), script)
    layout = [] if script == "check" else [bytes((0, 1))]
    reply = ask(server, *layout, request(SLOW), PLAN.encode())
    if reply == [-5]:
        assert written(server) == []
        return
    (of_the_key, shared) = written(server)
    held = server.state[ACCOUNT.encode()]
    assert of_the_key == ("HSET", KEY.encode(), PLAN.encode(), server.state[KEY.encode()][PLAN.encode()])
    if command:
        assert shared == ("SET", ACCOUNT.encode(), held, b"PX", command[1])
    else:
        assert shared == ("SETRANGE", ACCOUNT.encode(), b"0", held)


@pytest.mark.parametrize("script", ["check", "check_many"])
def test_milliseconds_are_rounded_down(script):
    """7 tokens per second and a burst of 1 fill in 142857.1 us: 60142 ms."""
    server = PlainServer(stored(), script)
    layout = [] if script == "check" else [bytes((0, 1))]
    ask(server, *layout, request((1, 7, 1_000_000)), PLAN.encode())
    assert written(server)[-1][3:] == (b"PX", 60_142)


def test_a_first_check_sets_the_whole_expiry():
    """Also where the key was charged nothing yet, and where a denial moves a bucket to the present."""
    server = PlainServer({KEY.encode(): {b"r": identity()}})
    ask(server, request(SLOW), PLAN.encode())
    assert written(server)[-1][3:] == (b"PX", 1_060_000)
    moved = bucket(0, per=10_000_000, last=NOW + 2_000_001)
    server = PlainServer(stored() | {ACCOUNT.encode(): moved})
    assert ask(server, request(SLOW), PLAN.encode())[0] == 0
    assert written(server) == [("SET", ACCOUNT.encode(), bucket(0, per=10_000_000, last=NOW), b"PX", 1_060_000)]


@pytest.mark.parametrize("script", ["check", "check_many"])
def test_under_a_callers_clock_there_is_no_expiry(script):
    """Not for a bucket that is there, and not for one that is not."""
    for before in ({}, {ACCOUNT.encode(): bucket(500_000, last=NOW)}):
        server = PlainServer(stored() | before, script)
        layout = [] if script == "check" else [bytes((0, 1))]
        ask(server, *layout, request(TEN, now=NOW), PLAN.encode())
        assert written(server)[-1] == ("SET", ACCOUNT.encode(), bucket(400_000, last=NOW))


def test_many_checks_read_once_and_write_once():
    """Ten of two keys that share two buckets: one HMGET and HSET for each key, one GET and SET for each bucket."""
    other = KEY.replace("k1", "k2")
    shared = {STAGE.encode(): bucket(5_000_000, last=HALF_MINUTE - 1), ACCOUNT.encode(): bucket(5_000_000, last=NOW)}
    server = PlainServer(stored() | {other.encode(): dict(stored()[KEY.encode()])} | shared, "check_many")
    large = (100, 1, 100_000)
    one = [request(large, large, plan=large), PLAN.encode()]
    reply = ask(server, bytes((0, 2)) * 10, *one * 10, keys=(KEY, STAGE, ACCOUNT, other, STAGE, ACCOUNT) * 5)
    assert [len(each) for each in reply] == [64 + 48] * 10
    assert sorted(call[:2] for call in server.calls) == sorted(
        [("TIME",)]
        + [(name, key.encode()) for name in ("HMGET", "HSET") for key in (KEY, other)]
        + [("GET", STAGE.encode()), ("GET", ACCOUNT.encode())]
        + [("SET", STAGE.encode()), ("SETRANGE", ACCOUNT.encode())]
    )
    assert server.state[ACCOUNT.encode()] == bucket(5_000_000 + (NOW - NOW) - 10 * 100_000, last=NOW)


def test_many_denied_checks_write_nothing():
    """All are denied by an empty bucket: no command that writes is sent."""
    empty = {ACCOUNT.encode(): bucket(0, last=NOW)}
    server = PlainServer(stored() | empty, "check_many")
    reply = ask(server, bytes((0, 1)) * 3, *[request(TEN), PLAN.encode()] * 3, keys=(KEY, ACCOUNT) * 3)
    assert reply == [[0, NOW, 5, 0, 0, 0, 500_000, 100_000]] * 3
    assert written(server) == []


def test_what_a_denied_one_would_have_cost_is_there_for_the_next():
    """Of costs 4, 2 and 1 under a bucket of 5, the first and the last are admitted, and one HSET says so."""
    server = PlainServer(stored(), "check_many")
    asked = [part for cost in (4, 2, 1) for part in (request(cost=cost), PLAN.encode())]
    first, second, third = ask(server, bytes(6), *asked, keys=(KEY,) * 3)
    assert first == state(100_000, last=NOW, day_used=4)
    assert second == [0, NOW, 1, 400_000, 100_000]
    assert third == state(0, last=NOW, day_used=5)
    assert written(server) == [("HSET", KEY.encode(), PLAN.encode(), third)]


def test_buckets_in_the_hash_are_written_with_the_plans_state():
    """One HSET with all fields that a question is about."""
    before = stored()
    before[KEY.encode()][METHOD.encode()] = bucket(500_000, last=NOW)
    server = PlainServer(before, "check_many")
    ask(server, bytes((1, 0)) * 2, *[request(TEN), PLAN.encode(), METHOD.encode()] * 2, keys=(KEY,) * 2)
    fields = server.state[KEY.encode()]
    assert written(server) == [
        ("HSET", KEY.encode(), PLAN.encode(), fields[PLAN.encode()], METHOD.encode(), fields[METHOD.encode()])
    ]
    assert fields[METHOD.encode()] == bucket(300_000, last=NOW)


GOOD = (bytes((0, 1)), request(TEN), PLAN.encode())


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        ((), ()),
        ((KEY,), ()),
        ((), (b"", *GOOD[1:])),
        ((KEY, ACCOUNT), (b"\x00", *GOOD[1:])),
        ((KEY, ACCOUNT), (bytes((0, 1, 0)), *GOOD[1:])),
        ((KEY,), GOOD),
        ((KEY, ACCOUNT, STAGE), GOOD),
        ((KEY, ACCOUNT), GOOD[:2]),
        ((KEY, ACCOUNT), (*GOOD, METHOD.encode())),
        ((KEY, ACCOUNT), (bytes((1, 1)), *GOOD[1:])),
        ((KEY, ACCOUNT), (GOOD[0], GOOD[1][:113], GOOD[2])),
        ((KEY, ACCOUNT) * 2, (GOOD[0] * 2, *GOOD[1:], b"", GOOD[2])),
        ((KEY, ACCOUNT), (GOOD[0] * 2, *GOOD[1:])),
    ],
    ids=[
        "nothing",
        "a key alone",
        "no layout",
        "half a pair",
        "a pair and a half",
        "a key too few",
        "a key too many",
        "a field too few",
        "a field too many",
        "a field fewer than the layout has",
        "a request of 113 bytes",
        "an empty request in second place",
        "a check too few",
    ],
)
def test_a_malformed_layout_is_an_error(keys, arguments):
    """RATELIMIT ARGUMENTS, before anything but the time is asked."""
    server = PlainServer(stored(), "check_many")
    assert ask(server, *arguments, keys=keys) == "RATELIMIT ARGUMENTS"
    assert server.calls in ([], [("TIME",)])
    assert len(ask(server, *GOOD)[0]) == 64 + 24


def test_having_just_loaded_the_catalogue_is_nothing_unusual():
    """Flag 2 is for check.lua's answer -2, and of no account here."""
    server = PlainServer(stored(), "check_many")
    assert ask(server, bytes(2), request(flags=3), PLAN.encode(), keys=(KEY,)) == [state(400_000, last=NOW, day_used=1)]


def test_no_checks_are_no_error():
    """An empty list is answered with an empty list."""
    assert ask(PlainServer({}, "check_many"), b"", keys=()) == []


def test_a_check_that_fails_spoils_no_other():
    """Wrong types, states that are none, requests that are none: each is -5, and the checks beside it are answered."""
    broken = {f"ratelimit:{{{name}}}".encode(): value for name, value in BROKEN.items()}
    shared = {STAGE.encode(): b"not a bucket", ACCOUNT.encode(): {b"a": b"hash"}}
    keys, arguments, layout = [], [], b""
    good = (KEY,), (request(), PLAN.encode()), bytes(2)
    asked = [good]
    plain, of_a_method = (GOOD[1][:114], GOOD[2]), (GOOD[1], GOOD[2], METHOD.encode())
    asked += [
        ((key.decode(),), *((of_a_method, bytes((1, 0))) if b"method" in key else (plain, bytes(2)))) for key in broken
    ]
    sound = [f"ratelimit:{{sound{at}}}" for at in range(len(QUESTIONS))]
    asked += [(((sound[at], *more)), sent, shape) for at, (more, sent, shape) in enumerate(QUESTIONS)]
    asked.append(good)
    for more, sent, shape in asked:
        keys, arguments, layout = [*keys, *more], [*arguments, *sent], layout + shape
    state_of = stored() | broken | shared | {name.encode(): dict(stored()[KEY.encode()]) for name in sound}
    server = PlainServer(state_of, "check_many")
    first, *others, last = ask(server, layout, *arguments, keys=keys)
    assert others == [-5] * (len(broken) + len(sound))
    assert (first, last) == (state(400_000, last=NOW, day_used=1), state(300_000, last=NOW, day_used=2))
    assert written(server) == [("HSET", KEY.encode(), PLAN.encode(), last)]


BROKEN = {
    "string": b"no hash",
    "none": {},
    "nobody": {PLAN.encode(): state()},
    "short": {b"r": identity()[:25], PLAN.encode(): state()},
    "stamp": {b"r": identity(stamp="another-"), PLAN.encode(): state()},
    "newer": {b"r": identity(8), PLAN.encode(): state()},
    "older": {b"r": identity(6), PLAN.encode(): state()},
    "fresh": {b"r": identity()},
    "method": {b"r": identity(), PLAN.encode(): state(), METHOD.encode(): bytes(25)},
    "long": {b"r": identity(), PLAN.encode(): state() + b"\0"},
}
"""Keys' hashes about which check.lua has to be asked."""


def raw(*numbers, tail=b""):
    return struct.pack("<11d", *numbers) + identity() + tail


QUESTIONS = [
    ((STAGE,), (request(TEN), PLAN.encode()), bytes((0, 1))),
    ((ACCOUNT,), (request(TEN), PLAN.encode()), bytes((0, 1))),
    ((), (raw(0, 0, 0, 1, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, -1, 0, 1, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 0.5, 0, 1, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, float("nan"), 0, 1, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, NOW, 1, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, 0, 0, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, 0, 5, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, 0, 9, *TEN, -1, 0, 0, 0), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, 0, 1, *TEN, 9, 1, 2, 3), PLAN.encode()), bytes(2)),
    ((), (raw(0, 1, 0, 1, *TEN, -1, 0, 0, 0, tail=bytes(24)), PLAN.encode()), bytes(2)),
]
"""Further keys, arguments and layout of questions that only check.lua can answer, about keys that are sound."""
