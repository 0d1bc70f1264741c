"""What the scripts send to Redis, command by command: how often they write, and how long shared buckets are kept.

Run on a dict, whose clock stands at NOW: 0.123456 s into a half minute.
"""

import struct

import pytest
from helpers.lua_tools import PlainServer
from vectors.packing import (
    ACCOUNT,
    DAY,
    KEY,
    METHOD,
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


def request(*further, now=0, cost=1, flags=1, plan=TEN, version=7):
    head = struct.pack("<11d", now, cost, 0, flags, *plan, -1, 0, 0, 0) + version_token(version)
    return head + b"".join(struct.pack("<3d", *each) for each in further)


def stored(level=500_000, *, last=NOW - 1, **more):
    return {KEY.encode(): {b"r": version_token(), PLAN.encode(): state(level, last=last, **more)}}


def written(server):
    """The commands that write, without their values."""
    return [call for call in server.calls if call[0] not in {"TIME", "HMGET", "GET"}]


def ask(server, *arguments, keys=(KEY, ACCOUNT)):
    return server.eval([key.encode() for key in keys], list(arguments))


def ask_at_once(server, *asked):
    """Each (KEYS, ARGV, layout) as for check.lua, in one call."""
    keys, arguments = together(asked)
    return ask(server, *arguments, keys=keys)


def ask_by(script, server, request):
    """A check of KEY that meets the account's bucket, alone by either script."""
    if script == "check":
        return ask(server, request, PLAN.encode())
    return ask_at_once(server, ((KEY, ACCOUNT), (request, PLAN.encode()), bytes((0, 1))))


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
    reply = ask_by(script, server, request(SLOW))
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
@pytest.mark.parametrize(("per", "milliseconds"), [(1_000_000, 60_142), (1_005_000, 60_143)])
def test_milliseconds_are_rounded_down(script, per, milliseconds):
    """7 tokens per second and a burst of 1 fill in 142857.1 us: 60142 ms."""
    server = PlainServer(stored(), script)
    ask_by(script, server, request((1, 7, per)))
    assert written(server)[-1][3:] == (b"PX", milliseconds)


def test_a_first_check_sets_the_whole_expiry():
    """Also where the key was charged nothing yet, and where a denial moves a bucket to the present."""
    server = PlainServer({KEY.encode(): {b"r": version_token()}})
    ask(server, request(SLOW), PLAN.encode())
    assert written(server)[-1][3:] == (b"PX", 1_060_000)
    moved = bucket(0, per=10_000_000, last=NOW + 2_000_001)
    server = PlainServer(stored() | {ACCOUNT.encode(): moved})
    assert ask(server, request(SLOW), PLAN.encode())[0] == 0
    assert written(server) == [("SET", ACCOUNT.encode(), bucket(0, per=10_000_000, last=NOW), b"PX", 1_060_000)]


def test_a_bucket_below_zero_is_kept_until_it_is_full():
    """A journal took 10 tokens more than there were; a denial moves it to the present: 110 tokens, one in 5 s."""
    moved = bucket(-100_000_000, per=10_000_000, last=NOW + 2_000_001)
    server = PlainServer(stored() | {ACCOUNT.encode(): moved})
    assert ask(server, request((100, 2, 10_000_000)), PLAN.encode())[0] == 0
    assert written(server)[-1][3:] == (b"PX", 610_000)


@pytest.mark.parametrize(
    ("limits", "level", "milliseconds"), [((1, 1, 999), 0, 60_000), ((2, 1, 1000), 999, 60_002), ((5, 0, 1), 4, 60_000)]
)
def test_a_denial_that_moves_a_bucket_sets_its_expiry(limits, level, milliseconds):
    """To the time in which it fills, and a minute more; one that never fills is kept for the minute."""
    moved = bucket(level, per=limits[2], last=NOW + 2_000_001)
    server = PlainServer(stored() | {ACCOUNT.encode(): moved})
    assert ask(server, request(limits), PLAN.encode())[0] == 0
    held = bucket(level, per=limits[2], last=NOW)
    assert written(server) == [("SET", ACCOUNT.encode(), held, b"PX", milliseconds)]


def test_a_denial_before_a_windows_start_writes_nothing():
    """Within the tolerance of clocks the count goes on in the window that has not begun: nothing has moved."""
    midnight = (TODAY + 1) * DAY
    used_up = {KEY.encode(): {b"r": version_token(), PLAN.encode(): count(100, first=TODAY + 1)}}
    for before_us, writes in ((1_000_000, []), (2_000_001, ["HSET"])):
        server = PlainServer({KEY.encode(): dict(used_up[KEY.encode()])})
        limits = struct.pack("<11d", midnight - before_us, 1, 0, 1, 0, 0, 0, 100, TODAY, TODAY + 1, TODAY + 2)
        assert ask(server, limits + version_token(), PLAN.encode(), keys=[KEY])[0] == 0
        assert [call[0] for call in written(server)] == writes


@pytest.mark.parametrize("script", ["check", "check_many"])
def test_under_a_callers_clock_there_is_no_expiry(script):
    """Not for a bucket that is there, and not for one that is not."""
    for before in ({}, {ACCOUNT.encode(): bucket(500_000, last=NOW)}):
        server = PlainServer(stored() | before, script)
        ask_by(script, server, request(TEN, now=NOW))
        assert written(server)[-1] == ("SET", ACCOUNT.encode(), bucket(400_000, last=NOW))


def test_many_checks_read_once_and_write_once():
    """Ten of two keys that share two buckets: one HMGET and HSET for each key, one GET and SET for each bucket."""
    other = KEY.replace("k1", "k2")
    shared = {STAGE.encode(): bucket(5_000_000, last=HALF_MINUTE - 1), ACCOUNT.encode(): bucket(5_000_000, last=NOW)}
    server = PlainServer(stored() | {other.encode(): dict(stored()[KEY.encode()])} | shared, "check_many")
    large = (100, 1, 100_000)
    one = (request(large, large, plan=large), PLAN.encode()), bytes((0, 2))
    reply = ask_at_once(server, *[((key, STAGE, ACCOUNT), *one) for key in (KEY, other) * 5])
    assert [len(each) for each in reply] == [56 + 48] * 10
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
    reply = ask_at_once(server, *[((KEY, ACCOUNT), (request(TEN), PLAN.encode()), bytes((0, 1)))] * 3)
    assert reply == [[0, NOW, doubles(500_000, NOW, 0, NOW)]] * 3
    assert written(server) == []


def test_what_a_denied_one_would_have_cost_is_there_for_the_next():
    """Of costs 4, 2 and 1 under a bucket of 5, the first and the last are admitted, and one HSET says so."""
    server = PlainServer(stored(), "check_many")
    asked = [((KEY,), (request(cost=cost), PLAN.encode()), bytes(2)) for cost in (4, 2, 1)]
    first, second, third = ask_at_once(server, *asked)
    assert first == state(100_000, last=NOW, day_used=4)
    assert second == [0, NOW, doubles(100_000, NOW)]
    assert third == state(0, last=NOW, day_used=5)
    assert written(server) == [("HSET", KEY.encode(), PLAN.encode(), third)]


def test_buckets_in_the_hash_are_written_with_the_plans_state():
    """One HSET with all fields that a question is about."""
    before = stored()
    before[KEY.encode()][METHOD.encode()] = bucket(500_000, last=NOW)
    server = PlainServer(before, "check_many")
    ask_at_once(server, *[((KEY,), (request(TEN), PLAN.encode(), METHOD.encode()), bytes((1, 0)))] * 2)
    fields = server.state[KEY.encode()]
    assert written(server) == [
        ("HSET", KEY.encode(), PLAN.encode(), fields[PLAN.encode()], METHOD.encode(), fields[METHOD.encode()])
    ]
    assert fields[METHOD.encode()] == bucket(300_000, last=NOW)


GOOD = bytes((0, 1)), version_token(), b"", request(TEN), PLAN.encode()


def but(place, value):
    return (*GOOD[:place], value, *GOOD[place + 1 :])


@pytest.mark.parametrize(
    ("keys", "arguments"),
    [
        ((), ()),
        ((KEY,), ()),
        ((KEY,), GOOD[1:]),
        ((), (b"", b"")),
        ((KEY, ACCOUNT), but(0, b"")),
        ((KEY, ACCOUNT), but(0, b"\0")),
        ((KEY, ACCOUNT), but(0, bytes((0, 1, 0)))),
        ((KEY, ACCOUNT), but(0, bytes((0, 0)))),
        ((KEY, ACCOUNT), but(0, bytes((1, 1)))),
        ((KEY, ACCOUNT), but(1, version_token()[:25])),
        ((KEY, ACCOUNT), but(1, version_token() * 2)),
        ((KEY, ACCOUNT), but(2, bytes((1,)))),
        ((KEY, ACCOUNT), but(2, bytes((1, 0, 1, 0)))),
        ((KEY, ACCOUNT), but(3, GOOD[3][:113])),
        ((KEY, ACCOUNT), GOOD[:4]),
        ((KEY, ACCOUNT), (*GOOD, METHOD.encode())),
        ((KEY,), GOOD),
        ((KEY, ACCOUNT, STAGE), GOOD),
    ],
    ids=[
        "nothing",
        "a key alone",
        "a list too few",
        "two lists",
        "no question",
        "half a question",
        "a question and a half",
        "a shared bucket fewer than there is",
        "a field more than there is",
        "a version token of 25 bytes",
        "a version token too many",
        "half a number",
        "a number too many",
        "a request of 113 bytes",
        "a field too few",
        "a field too many",
        "a key too few",
        "a key too many",
    ],
)
def test_what_does_not_fit_together_is_an_error(keys, arguments):
    """RATELIMIT ARGUMENTS, before anything is asked."""
    server = PlainServer(stored(), "check_many")
    assert ask(server, *arguments, keys=keys) == "RATELIMIT ARGUMENTS"
    assert server.calls == []
    assert len(ask(server, *GOOD, keys=(ACCOUNT, KEY))[0]) == 56 + 24


def test_a_question_that_there_is_not_is_left_out():
    """So is who is of the same key; others are answered."""
    server = PlainServer(stored() | {b"other": dict(stored()[KEY.encode()])}, "check_many")
    numbers = bytes((1, 0, 3, 1, 1, 1, 0, 1))
    arguments = bytes((0, 0)), version_token() * 4, numbers, request(), PLAN.encode()
    admitted = state(400_000, last=NOW, day_used=1)
    assert ask(server, *arguments, keys=("other", KEY, KEY, KEY)) == [admitted, -5, -5, -5]


@pytest.mark.parametrize("number", [0, 2, 255])
def test_a_question_that_there_is_not_comes_first(number):
    """It is left out, and those after it are answered, also the one whose key is the first of all."""
    key, other = KEY.encode(), b"other"
    server = PlainServer(stored() | {other: dict(stored()[key])}, "check_many")
    numbers = bytes((number, 0, 1, 0, number, 0, 1, 0))
    arguments = bytes((0, 0)), version_token() * 4, numbers, request(), PLAN.encode()
    admitted = state(400_000, last=NOW, day_used=1)
    assert ask(server, *arguments, keys=("none", KEY, "none", "other")) == [-5, admitted, -5, admitted]
    arguments = bytes((0, 1)), version_token() * 3, bytes((1, 0, number, 0, 1, 0)), request(TEN), PLAN.encode()
    replies = ask(server, *arguments, keys=(ACCOUNT, KEY, "none", "other"))
    assert [len(replies[0]), replies[1], len(replies[2])] == [80, -5, 80]


def test_templates_that_name_the_same_fields_read_and_write_once():
    """Two costs of one key, in turn: one HMGET, one GET, one HSET, one SET."""
    server = PlainServer(stored() | {ACCOUNT.encode(): bucket(500_000, last=HALF_MINUTE - 1)}, "check_many")
    server.state[KEY.encode()][METHOD.encode()] = bucket(500_000, last=NOW)
    asked = [
        ((KEY, ACCOUNT), (request(TEN, TEN, cost=cost), PLAN.encode(), METHOD.encode()), bytes((1, 1)))
        for cost in (1, 2, 1)
    ]
    replies = ask_at_once(server, *asked)
    assert replies[-1] == state(100_000, last=NOW, day_used=4) + bucket(100_000, last=NOW) * 2
    assert [call[:2] for call in server.calls] == [
        ("TIME",),
        ("GET", ACCOUNT.encode()),
        ("HMGET", KEY.encode()),
        ("HSET", KEY.encode()),
        ("SET", ACCOUNT.encode()),
    ]
    assert server.state[KEY.encode()][METHOD.encode()] == bucket(100_000, last=NOW)


def test_what_was_read_for_a_denial_is_not_read_again():
    """The account's bucket denies a cost of 3, and admits one of 2 that comes in another template."""
    server = PlainServer(stored() | {ACCOUNT.encode(): bucket(200_000, last=NOW)}, "check_many")
    asked = [((KEY, ACCOUNT), (request(TEN, cost=cost), PLAN.encode()), bytes((0, 1))) for cost in (3, 2)]
    denied, admitted = ask_at_once(server, *asked)
    assert (denied[0], admitted) == (0, state(300_000, last=NOW, day_used=2) + bucket(0, last=NOW))
    assert [call[0] for call in server.calls].count("GET") == 1


def test_templates_of_two_plans_keep_their_states_apart():
    """A key may have another plan on another stage: its fields are others, though there are as many."""
    silver = b"p:silver"
    server = PlainServer(stored(), "check_many")
    server.state[KEY.encode()][silver] = state(300_000, last=NOW - 1)
    asked = [((KEY,), (request(), plan), bytes(2)) for plan in (PLAN.encode(), silver, PLAN.encode(), silver)]
    assert ask_at_once(server, *asked) == [
        state(400_000, last=NOW, day_used=1),
        state(200_001, last=NOW, day_used=1),
        state(300_000, last=NOW, day_used=2),
        state(100_001, last=NOW, day_used=2),
    ]
    held = server.state[KEY.encode()]
    assert (held[PLAN.encode()], held[silver]) == (
        state(300_000, last=NOW, day_used=2),
        state(100_001, last=NOW, day_used=2),
    )


def test_a_key_whose_bucket_is_unusual_leaves_out_no_other():
    """Of two keys the first has a method's bucket in another P."""
    other = KEY.replace("k1", "k2")
    server = PlainServer(stored() | {other.encode(): dict(stored()[KEY.encode()])}, "check_many")
    server.state[KEY.encode()][METHOD.encode()] = bucket(5, per=7, last=NOW)
    server.state[other.encode()][METHOD.encode()] = bucket(500_000, last=NOW)
    asked = [((key,), (request(TEN), PLAN.encode(), METHOD.encode()), bytes((1, 0))) for key in (KEY, other)]
    left_out, admitted = ask_at_once(server, *asked)
    assert (left_out, admitted) == (-5, state(400_000, last=NOW, day_used=1) + bucket(400_000, last=NOW))


def test_a_callers_clock_is_any_that_is_not_0():
    """A microsecond after 1970."""
    server = PlainServer(stored(500_000, last=0, day=0) | {ACCOUNT.encode(): bucket(500_000, last=0)}, "check_many")
    charged = state(400_000, last=1, day=0, day_used=1), bucket(400_000, last=1)
    asked = (KEY, ACCOUNT), (request(TEN, now=1), PLAN.encode()), bytes((0, 1))
    assert ask_at_once(server, asked) == [b"".join(charged)]
    assert written(server)[-1] == ("SET", ACCOUNT.encode(), charged[1])


def test_having_just_loaded_the_catalogue_is_nothing_unusual():
    """Flag 2 is for check.lua's answer -2, and of no account here."""
    server = PlainServer(stored(), "check_many")
    asked = (KEY,), (request(flags=3), PLAN.encode()), bytes(2)
    assert ask_at_once(server, asked) == [state(400_000, last=NOW, day_used=1)]


def test_no_checks_are_no_error():
    """An empty list is answered with an empty list."""
    assert ask_at_once(PlainServer({}, "check_many")) == []


def test_a_check_that_fails_spoils_no_other():
    """Wrong types, states that are none, requests that are none: each is -5, and the checks beside it are answered."""
    broken = {f"ratelimit:{{{name}}}".encode(): value for name, value in BROKEN.items()}
    shared = {STAGE.encode(): b"not a bucket", ACCOUNT.encode(): {b"a": b"hash"}}
    good = (KEY,), (request(), PLAN.encode()), bytes(2)
    asked = [good]
    plain, of_a_method = (request(), PLAN.encode()), (request(TEN), PLAN.encode(), METHOD.encode())
    asked += [
        ((key.decode(),), *((of_a_method, bytes((1, 0))) if b"method" in key else (plain, bytes(2)))) for key in broken
    ]
    sound = [f"ratelimit:{{sound{at}}}" for at in range(len(QUESTIONS))]
    asked += [(((sound[at], *more)), sent, shape) for at, (more, sent, shape) in enumerate(QUESTIONS)]
    asked.append(good)
    state_of = stored() | broken | shared | {name.encode(): dict(stored()[KEY.encode()]) for name in sound}
    server = PlainServer(state_of, "check_many")
    first, *others, last = ask_at_once(server, *asked)
    assert others == [-5] * (len(broken) + len(sound))
    assert (first, last) == (state(400_000, last=NOW, day_used=1), state(300_000, last=NOW, day_used=2))
    assert written(server) == [("HSET", KEY.encode(), PLAN.encode(), last)]


BROKEN = {
    "string": b"no hash",
    "none": {},
    "nobody": {PLAN.encode(): state()},
    "short": {b"r": version_token()[:25], PLAN.encode(): state()},
    "stamp": {b"r": version_token(stamp="another-"), PLAN.encode(): state()},
    "newer": {b"r": version_token(8), PLAN.encode(): state()},
    "older": {b"r": version_token(6), PLAN.encode(): state()},
    "fresh": {b"r": version_token()},
    "method": {b"r": version_token(), PLAN.encode(): state(), METHOD.encode(): bytes(25)},
    "long": {b"r": version_token(), PLAN.encode(): state() + b"\0"},
}
"""Keys' hashes about which check.lua has to be asked."""


def raw(*numbers, tail=b""):
    return struct.pack("<11d", *numbers) + version_token() + tail


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
