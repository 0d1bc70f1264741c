"""A state that holds what no script can have written admits nobody, and nothing makes a sound one of it.

Any number of any state, of the plan, a method, a stage or a shadow: not whole, not finite, out of range, below zero
where nothing is. A check says CORRUPT or denies, and writes nothing; so do the scripts that correct counts.
"""

import struct

import pytest
from helpers.lua_mutation import bug
from redis.exceptions import ResponseError
from vectors.packing import (
    ACCOUNT,
    DAILY,
    KEY,
    METHOD,
    NOW,
    PLAN,
    TEN,
    TODAY,
    bucket,
    doubles,
    state,
    together,
    version_token,
)

from ratelimit.scripts import load

pytestmark = pytest.mark.slow

NAN, INF = float("nan"), float("inf")
UNSOUND = (NAN, INF, -INF, 0.5, -0.5, 1e300, -1e300, 2.0**56, -(2.0**56))
NEVER_BELOW_ZERO = {"per", "calendar", "used", "day_used"}
PLAN_FIELDS = ("per", "level", "last", "calendar", "used", "granted", "day_used")
BUCKET_FIELDS = ("per", "level", "last")
SHADOW_FIELDS = ("per", "level", "last", "window", "used", "throttled", "exceeded", "seen")
WINDOW = TODAY * 64 + 1
SHADOW, SHADOW_METHOD = "s:p:next", "s:b:next:petstore/prod:GET /pets"

WORLDS = {
    "bucket and quota": {"plan": TEN, "quota": DAILY},
    "bucket": {"plan": TEN},
    "quota": {"quota": DAILY},
    "neither": {},
    "method": {"quota": DAILY, "own": [(METHOD, *TEN)]},
    "shared": {"plan": TEN, "shared": [(ACCOUNT, *TEN)]},
    "all": {"quota": DAILY, "own": [(METHOD, *TEN)], "shared": [(ACCOUNT, *TEN)]},
}


def stored(world):
    """What Redis holds in a world: ample room everywhere."""
    plan = {"window": WINDOW, "used": 3, "granted": 2, "day": TODAY, "day_used": 3}
    fields = {"r": version_token(), PLAN: state(400_000, **plan) if world.get("plan") else state(0, per=0, **plan)}
    fields |= {place: bucket(400_000) for place, *_ in world.get("own", ())}
    return {KEY: fields} | {place: bucket(400_000) for place, *_ in world.get("shared", ())}


def broken(packed, *changes):
    """A state with other numbers in some places."""
    numbers = list(struct.unpack(f"<{len(packed) // 8}d", packed))
    for at, number in changes:
        numbers[at] = number
    return doubles(*numbers)


def prepared(world, cost=1, flags=1):
    """KEYS, ARGV and layout of a check."""
    own, shared = world.get("own", ()), world.get("shared", ())
    quota = world.get("quota", (-1, 0, 0, 0))
    request = doubles(NOW, cost, 0, flags, *world.get("plan", (0, 0, 0)), *quota) + version_token()
    request += doubles(*(number for _, *rule in (*own, *shared) for number in rule))
    keys = (KEY, *(place for place, *_ in shared))
    return keys, (request, PLAN, *(place for place, *_ in own)), bytes((len(own), len(shared)))


class Held:
    """A server that holds states."""

    def __init__(self, client):
        self._client = client

    def put(self, held):
        self._client.flushdb()
        for key, value in held.items():
            if isinstance(value, bytes):
                self._client.set(key, value)
            else:
                self._client.hset(key, mapping=value)

    def all(self):
        is_hash = {key: self._client.type(key) == b"hash" for key in self._client.keys("*")}
        return {key: self._client.hgetall(key) if is_hash[key] else self._client.get(key) for key in is_hash}

    def value(self, key, field):
        return self._client.hget(key, field) if field else self._client.get(key)

    def run(self, script, keys, arguments):
        try:
            return self._client.eval(load(script).source, len(keys), *keys, *arguments)
        except ResponseError as error:
            return str(error)

    def is_refused(self, held, world, script, flags=1):
        """Whether a check of 1 admits nobody where this is stored, and leaves it as it is."""
        self.put(held)
        before = self.all()
        call = prepared(world, flags=flags)
        reply = self.run("check", *call[:2]) if script == "check" else self.run("check_many", *together([call]))
        reply = reply[0] if script == "check_many" else reply
        is_refused = (
            str(reply).startswith("RATELIMIT CORRUPT ") or reply == -5 or (isinstance(reply, list) and reply[0] == 0)
        )
        return is_refused and self.all() == before


@pytest.fixture
def held(backend):
    with backend.client() as client:
        yield Held(client)


def unsound(fields):
    """Each number that none of these fields may hold, with its place."""
    for at, name in enumerate(fields):
        yield from ((at, number) for number in UNSOUND)
        if name in NEVER_BELOW_ZERO:
            yield from ((at, number) for number in (-1.0, -5.0, TODAY - 2.0**20))


def places(world):
    """Each state of a world: how it is replaced, and its fields."""
    for key, value in stored(world).items():
        if isinstance(value, bytes):
            yield (key, None), value, BUCKET_FIELDS
        else:
            for field in value.keys() - {"r"}:
                yield (key, field), value[field], PLAN_FIELDS if field == PLAN else BUCKET_FIELDS


def with_state(world, place, packed):
    key, field = place
    held = stored(world)
    if field is None:
        held[key] = packed
    else:
        held[key][field] = packed
    return held


@pytest.mark.parametrize("script", ["check", "check_many"])
@pytest.mark.parametrize("world", WORLDS)
def test_a_number_that_no_script_wrote(held, world, script):
    """In any place of any state that is read: nobody is admitted, and nothing is written. Sound, all is admitted."""
    rules = WORLDS[world]
    assert not held.is_refused(stored(rules), rules, script)
    for place, packed, fields in places(rules):
        for at, number in unsound(fields):
            held_now = with_state(rules, place, broken(packed, (at, number)))
            assert held.is_refused(held_now, rules, script), (place, fields[at], number)


@pytest.mark.parametrize("world", WORLDS)
def test_a_peek_says_no_more(held, world):
    """Nor does it say that such a state would admit."""
    rules = WORLDS[world]
    for place, packed, fields in places(rules):
        for at, number in unsound(fields):
            held_now = with_state(rules, place, broken(packed, (at, number)))
            assert held.is_refused(held_now, rules, "check", flags=65), (place, fields[at], number)


def test_shadow_states(held):
    """Of a shadow that has a bucket of the method: its state and the bucket are refused by name, and nobody passes."""
    request = doubles(NOW, 1, 0, 21, *TEN, -1, 0, 0, 0) + version_token() + doubles(*TEN, *DAILY)
    fields = {"r": version_token(), PLAN: state(400_000), SHADOW_METHOD: bucket(400_000)}
    fields[SHADOW] = doubles(0, 0, 0, WINDOW, 3, 0, 0, 3)
    for place, names in ((SHADOW, SHADOW_FIELDS), (SHADOW_METHOD, BUCKET_FIELDS)):
        for at, number in unsound(names):
            if place == SHADOW and number < 0 and number not in UNSOUND:
                continue  # a shadow denies nobody, whatever it has counted
            held.put({KEY: fields | {place: broken(fields[place], (at, number))}})
            before = held.all()
            reply = held.run("check", (KEY,), (request, PLAN, SHADOW, SHADOW_METHOD))
            assert reply == f"RATELIMIT CORRUPT {place}", (place, names[at], number)
            assert held.all() == before
    held.put({KEY: fields})
    assert held.run("check", (KEY,), (request, PLAN, SHADOW, SHADOW_METHOD))[0] == 1


def test_set_remaining_makes_nothing_sound(held):
    """In the window of the count, and in a later one, in which nothing of it would be left."""
    packed = state(400_000, window=WINDOW, used=3, granted=2, day=TODAY, day_used=3)
    for at, number in unsound(PLAN_FIELDS):
        for windows in ((TODAY, TODAY + 1, TODAY + 2), (TODAY - 1, TODAY + 3, TODAY + 4)):
            held.put({KEY: {"r": version_token(), PLAN: broken(packed, (at, number))}})
            before = held.all()
            reply = held.run("set_remaining", (KEY,), (PLAN, doubles(NOW, 100, *windows, 50)))
            assert reply == f"RATELIMIT CORRUPT {PLAN}", (PLAN_FIELDS[at], number)
            assert held.all() == before


def test_return_lease_makes_nothing_sound(held):
    """Neither of the plan's state, nor of a bucket, nor of a day that is over: each stays as it is."""
    closed, note = f"d:gold:{TODAY}", doubles(2, NOW, WINDOW, TODAY)
    whole = {
        (KEY, PLAN): (state(100_000, window=WINDOW, used=30, day=TODAY, day_used=30), PLAN_FIELDS),
        (KEY, METHOD): (bucket(100_000), BUCKET_FIELDS),
        (KEY, closed): (doubles(30, 70), ("day_used", "balance")),
        (ACCOUNT, None): (bucket(100_000), BUCKET_FIELDS),
    }
    request = doubles(NOW, 2, 0, *TEN, *TEN, *TEN)
    keys = (KEY, f"{KEY}:days", ACCOUNT)
    arguments = (request, version_token()[:18], PLAN, "l:one", METHOD)

    def return_lease(changed):
        states = {at: changed.get(at, packed) for at, (packed, _) in whole.items()}
        fields = {field: packed for (_, field), packed in states.items() if field}
        held.put({KEY: {"r": version_token(), "l:one": note} | fields, ACCOUNT: states[ACCOUNT, None]})
        assert held.run("return_lease", keys, arguments) in (0, 2)
        return {(key, field): held.value(key, field) for key, field in whole}

    right = return_lease({})
    assert all(right[place] != packed for place, (packed, _) in whole.items())
    for place, (packed, names) in whole.items():
        for at, number in unsound(names):
            wrong = broken(packed, (at, number))
            assert return_lease({place: wrong})[place] == wrong, (place, names[at], number)


WHOLE, ABOVE, BELOW = "sum % 1 == 0 and ", "sum >= -1 and ", "sum < MAX_SUM and "
USUAL_SUM = f"""\
  if not ({WHOLE}{ABOVE}{BELOW}used >= 0 and day_used >= 0) then covered = false end
"""
HELD_SUM = "if not (per == numbers[at - 6] and sum % 1 == 0 and sum >= 0 and sum < MAX_SUM) then"
PASSED_HELD = "if not (per == numbers[at - 6]) then"
IS_BUCKET = "(per + level + last) % 1 == 0 and per > 0 and per <= MAX_INTEGER"
IS_PLAN_STATE = (
    "(per + level + last + calendar + used + granted + day_used) % 1 == 0 and per >= 0 and per <= MAX_INTEGER"
)
PLAN_IS_SOUND = (
    " or not is_plan_state(struct.unpack('<ddddddd', hash_values[2])) then\n    return corrupt(plan_field)\n  end"
)


@pytest.mark.parametrize(
    ("right", "wrong", "test"),
    [
        (USUAL_SUM, "", "check"),
        (f"{WHOLE}{ABOVE}{BELOW}used >= 0 and day", f"{ABOVE}{BELOW}used >= 0 and day", "check"),
        (f"{WHOLE}{ABOVE}{BELOW}used >= 0 and day", f"{WHOLE}{BELOW}used >= 0 and day", "check"),
        (f"{WHOLE}{ABOVE}{BELOW}used >= 0 and day", f"{WHOLE}{ABOVE}used >= 0 and day", "check"),
        ("used >= 0 and day_used >= 0) then", "day_used >= 0) then", "check"),
        ("used >= 0 and day_used >= 0) then", "used >= 0) then", "check"),
        (HELD_SUM, PASSED_HELD, "check"),
        (IS_BUCKET, "per > 0 and per <= MAX_INTEGER", "check"),
        (IS_PLAN_STATE, "per >= 0 and per <= MAX_INTEGER", "check"),
        ("and used >= 0 and used <= MAX_INTEGER", "and used <= MAX_INTEGER", "check"),
        ("and granted >= -MAX_INTEGER and granted <= MAX_INTEGER", "and granted >= -MAX_INTEGER", "check"),
        ("and calendar >= 0 and calendar <= MAX_INTEGER", "and calendar <= MAX_INTEGER", "check"),
        (PLAN_IS_SOUND, " then\n    return corrupt(plan_field)\n  end", "check"),
        ("calendar % CALENDAR_BASE == today and calendar >= 0 end", "calendar % CALENDAR_BASE == today end", "check"),
        (USUAL_SUM + "  if quota >= 0 then\n", "  if quota >= 0 then\n", "check_many"),
        (HELD_SUM, PASSED_HELD, "check_many"),
    ],
)  # fmt: skip
def test_a_seeded_bug_is_found(server, right, wrong, test):
    """Each part of what a state is looked at for has a number that passes without it."""

    def in_all_worlds():
        for world in WORLDS:
            test_a_number_that_no_script_wrote(Held(client), world, test)
            if test == "check":
                test_a_peek_says_no_more(Held(client), world)

    with server.client() as client, bug(right, wrong, test), pytest.raises(AssertionError):
        in_all_worlds()


NEGATIVE = (
    ("    if not (cost <= left) then fits = false end", "    if cost > left then fits = false end", "used"),
    ("    if not (price <= level) then fits = false end", "    if price > level then fits = false end", "level"),
    ("if not (numbers[at - 1] <= refilled) then fits", "if numbers[at - 1] > refilled then fits", "held"),
    (
        "if refilled > bucket_full then refilled = bucket_full end",
        "if not (refilled <= bucket_full) then refilled = bucket_full end",
        "refilled",
    ),
)


@pytest.mark.parametrize(("right", "wrong", "name"), NEGATIVE, ids=[each[2] for each in NEGATIVE])
def test_comparisons_say_what_admits(server, right, wrong, name):
    """Were no sums looked at, a number that is none would deny all the same; comparisons of what denies admit it."""
    world, place, at = {
        "used": ("quota", (KEY, PLAN), 4),
        "level": ("bucket", (KEY, PLAN), 1),
        "held": ("shared", (ACCOUNT, None), 1),
        "refilled": ("shared", (ACCOUNT, None), 1),
    }[name]
    rules = WORLDS[world]
    packed = stored(rules)[KEY][PLAN] if place[1] else stored(rules)[ACCOUNT]
    held_now = with_state(rules, place, broken(packed, (at, NAN)))
    with server.client() as client, bug(USUAL_SUM, ""), bug(HELD_SUM, PASSED_HELD):
        # The state is returned as it would be: what matters is that nobody is admitted.
        held = Held(client)
        held.put(held_now)
        reply = held.run("check", *prepared(rules)[:2])
        assert not isinstance(reply, bytes)
        with bug(right, wrong):
            held.put(held_now)
            assert isinstance(held.run("check", *prepared(rules)[:2]), bytes)


@pytest.mark.parametrize(
    ("right", "wrong", "script", "test"),
    [
        (" or not is_plan_state(unpack_doubles('<ddddddd', state))", "", "set_remaining",
         test_set_remaining_makes_nothing_sound),
        (" and is_plan_state(unpack_doubles('<ddddddd', plan_state))", "", "return_lease",
         test_return_lease_makes_nothing_sound),
        (" or not is_bucket(stored_per, level, last)", "", "return_lease", test_return_lease_makes_nothing_sound),
        ("if are_integers(day_used, balance) and day_used >= 0 then", "if true then", "return_lease",
         test_return_lease_makes_nothing_sound),
    ],
)  # fmt: skip
def test_a_bug_in_what_corrects_counts_is_found(server, right, wrong, script, test):
    """Without looking at it, a script makes a sound state of one that is not."""
    with server.client() as client, bug(right, wrong, script), pytest.raises(AssertionError):
        test(Held(client))
