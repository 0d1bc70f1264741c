"""The scripts of administrators, called by hand: what each replies, and all that it leaves in Redis."""

import json

import pytest
from helpers.lua_tools import PlainServer
from redis.exceptions import ResponseError
from vectors.packing import DAY, LARGEST, NOW, TODAY, WINDOW, doubles, state, version_token

from ratelimit.scripts import load

HASH, DAYS, RECORD = "ns:{k1}", "ns:{k1}:days", "ns:{k1}:record"
CATALOG, FORMER = "{ns}:catalog", "ns:catalog"
PLAIN_NOW = 1_772_625_600_123_456
"""The time of PlainServer."""


@pytest.fixture
def redis(backend):
    with backend.client() as client:
        yield client


def run(redis, script, keys, *arguments):
    return redis.eval(load(script).source, len(keys), *keys, *arguments)


def fails(redis, script, keys, *arguments):
    """The text of the error."""
    with pytest.raises(ResponseError) as caught:
        run(redis, script, keys, *arguments)
    return str(caught.value)


def days(**used):
    """Closed days, in fields that end so."""
    return {name.encode(): doubles(number, -1) for name, number in used.items()}


class TestArchive:
    """archive.lua."""

    def test_closed_days_move_and_old_ones_go(self, redis):
        """Three move; of those in the archive the ones before the first day to keep go."""
        others = {b"r": version_token(), b"p:gold": state(), b"b:d:1": b"x", b"d:gold": b"y", b"d:gold:7x": b"z"}
        closed = {b"d:gold:20500": b"a", b"d:gold:20499": b"b", b"d:my:plan:20501": b"c"}
        redis.hset(HASH, mapping=others | closed)
        redis.hset(DAYS, mapping={"gold:20498": "d", "gold:20400": "e", "gold:x": "f", "20": "g"})
        assert run(redis, "archive", [HASH, DAYS], 20_500) == [3, 3]
        assert redis.hgetall(HASH) == others
        kept = {b"gold:20500": b"a", b"my:plan:20501": b"c", b"gold:x": b"f", b"20": b"g"}
        assert redis.hgetall(DAYS) == kept

    def test_nothing_to_do(self, redis):
        """No hash, no archive."""
        assert run(redis, "archive", [HASH, DAYS], 20_500) == [0, 0]
        assert redis.keys() == []


class TestRepair:
    """repair.lua."""

    def repaired(self, redis, token=None, record="text"):
        if token is not None:
            redis.hset(HASH, "r", token)
        redis.hset(HASH, "other", 1)
        if record is not None:
            redis.set(RECORD, record)
        return run(redis, "repair", [HASH], "text", version_token()), redis.hget(HASH, "r")

    @pytest.mark.parametrize("token", [None, b"", version_token()[:25], version_token() + b"x"])
    def test_a_token_that_is_none_is_written(self, redis, token):
        """It is absent, or has another length."""
        assert self.repaired(redis, token) == (1, version_token())

    def test_a_token_stays(self, redis):
        """Whichever it is."""
        assert self.repaired(redis, version_token(8)) == (0, version_token(8))

    @pytest.mark.parametrize("record", [None, "another"])
    def test_a_key_that_was_changed_meanwhile_is_left(self, redis, record):
        """Its record is another one, or is gone."""
        assert self.repaired(redis, record=record) == (0, None)


class TestShadowCounts:
    """shadow_counts.lua."""

    def test_counts(self, redis):
        """Seen, throttled, exceeded; no state is zeros."""
        assert run(redis, "shadow_counts", [HASH], "s:p:next") == [0, 0, 0]
        redis.hset(HASH, "s:p:next", doubles(1, 2, 3, 4, 5, 6, 7, 8))
        assert run(redis, "shadow_counts", [HASH], "s:p:next") == [8, 6, 7]


class TestUsage:
    """usage.lua."""

    def test_nothing(self, redis):
        """Zeros."""
        assert run(redis, "usage", [HASH, DAYS], "gold") == [0, 0, 0, 0, 0]

    def test_all_days_of_one_plan(self, redis):
        """Of the state, of the hash, of the archive; not those of a plan whose id begins in the same way."""
        state_now = state(per=0, last=0, window=WINDOW, used=5, granted=-3, day=TODAY, day_used=4)
        redis.hset(HASH, mapping={"p:gold": state_now, "d:gold:20514": doubles(8, -1), "d:gol:1": "", "d:golden:1": ""})
        redis.hset(DAYS, mapping={"gold:20513": doubles(LARGEST, -LARGEST), "golden:1": "", "gold": "", "gol:12": ""})
        redis.hset(DAYS, "gold:120513", doubles(6, 7))
        reply = run(redis, "usage", [HASH, DAYS], "gold")
        assert reply[:8] == [WINDOW, 5, -3, TODAY, 4, 20_514, 8, -1]
        closed = sorted(zip(reply[8::3], reply[9::3], reply[10::3], strict=True))
        assert closed == [(20_513, LARGEST, -LARGEST), (120_513, 6, 7)]

    @pytest.mark.parametrize(
        "held",
        [
            state()[:55],
            state() + b"x",
            state(used=0.5),
            state(granted=0.5),
            state(day_used=0.5),
            state(day=0.5),
            state(used=LARGEST + 1),
            state(used=-LARGEST - 1),
            state(used=float("nan")),
            state(granted=float("inf")),
        ],
    )
    def test_a_state_that_is_none_is_an_error(self, redis, held):
        """By its length, or by its numbers."""
        redis.hset(HASH, "p:gold", held)
        assert fails(redis, "usage", [HASH, DAYS], "gold") == "RATELIMIT CORRUPT p:gold"

    @pytest.mark.parametrize(
        ("day", "held"),
        [
            ("1x", doubles(1, 1)),
            ("x1", doubles(1, 1)),
            ("", doubles(1, 1)),
            ("1000000", doubles(1, 1)),
            ("1", doubles(1)),
            ("1", doubles(1, 1) + b"x"),
            ("1", doubles(0.5, 1)),
            ("1", doubles(1, 0.5)),
            ("1", doubles(float("nan"), 1)),
        ],
    )
    @pytest.mark.parametrize(("key", "prefix"), [(HASH, "d:gold:"), (DAYS, "gold:")])
    def test_a_day_that_is_none_is_an_error(self, redis, key, prefix, day, held):
        """By its name, its length, or its numbers; in the hash and in the archive."""
        redis.hset(key, prefix + day, held)
        assert fails(redis, "usage", [HASH, DAYS], "gold") == f"RATELIMIT CORRUPT {prefix}{day}"


class TestSetRemaining:
    """set_remaining.lua: of a quota of 100 a day 30 are to be left."""

    def set(self, redis, held=None, now=NOW, quota=100, windows=(TODAY, TODAY + 1, TODAY + 2), remaining=30):
        redis.hset(HASH, "r", version_token())
        if held is not None:
            redis.hset(HASH, "p:gold", held)
        return run(redis, "set_remaining", [HASH], "p:gold", doubles(now, quota, *windows, remaining))

    def held(self, redis):
        return {name.decode(): value for name, value in redis.hgetall(HASH).items() if name != b"r"}

    def test_there_is_no_such_key(self, redis):
        """Nothing is made."""
        reply = run(redis, "set_remaining", [HASH], "p:gold", doubles(NOW, 100, TODAY, TODAY + 1, TODAY + 2, 30))
        assert (reply, redis.keys()) == ([-1, NOW], [])

    def test_a_key_that_used_nothing(self, redis):
        """70 fewer are granted than the plan gives; there was no day before."""
        assert self.set(redis) == [1, NOW, 0]
        assert self.held(redis) == {"p:gold": state(per=0, last=0, window=WINDOW, granted=-70)}

    def test_what_was_used_in_this_window_stays(self, redis):
        """100 + granted - 45 is 30; the bucket and the day are as they were."""
        before = state(5, window=WINDOW, used=45, granted=7, day_used=9)
        assert self.set(redis, before) == [1, NOW, 45]
        assert self.held(redis) == {"p:gold": state(5, window=WINDOW, used=45, granted=-25, day_used=9)}

    @pytest.mark.parametrize("window", [WINDOW - 64, TODAY * 64 + 7, 0])
    def test_what_was_used_in_another_window_does_not_count(self, redis, window):
        """Of another start, of another length, none."""
        assert self.set(redis, state(window=window, used=45, day_used=9)) == [1, NOW, 0]
        assert self.held(redis) == {"p:gold": state(window=WINDOW, granted=-70, day_used=9)}

    @pytest.mark.parametrize(
        ("used", "granted", "balance"), [(45, 7, 62), (99, 0, 1), (100, 0, 0), (101, 0, 0), (108, 7, 0)]
    )
    def test_a_day_that_is_over_is_closed(self, redis, used, granted, balance):
        """With what was left of the quota then, of which there is no less than nothing."""
        before = state(window=WINDOW - 64, used=used, granted=granted, day=TODAY - 1, day_used=9)
        assert self.set(redis, before) == [1, NOW, 0]
        after = state(window=WINDOW, granted=-70, day=TODAY, day_used=0)
        assert self.held(redis) == {"p:gold": after, f"d:gold:{TODAY - 1}": doubles(9, balance)}

    def test_a_day_begins_at_midnight(self, redis):
        """The first and the last microsecond of a day are of that day."""
        before = state(window=WINDOW, day=TODAY, day_used=9)
        self.set(redis, before, now=(TODAY + 1) * DAY - 1)
        assert set(self.held(redis)) == {"p:gold"}
        self.set(redis, before, now=(TODAY + 1) * DAY)
        assert set(self.held(redis)) == {"p:gold", f"d:gold:{TODAY}"}

    def test_the_first_day_of_all_is_closed(self, redis):
        """Day 1; before it there is none."""
        self.set(redis, state(window=WINDOW, day=1, day_used=9))
        assert self.held(redis)["d:gold:1"] == doubles(9, 100)
        redis.delete(HASH)
        self.set(redis, state(window=WINDOW, day=0, day_used=9))
        assert set(self.held(redis)) == {"p:gold"}

    def test_a_day_ahead_of_the_clock_stays(self, redis):
        """Days only roll forward."""
        self.set(redis, state(window=WINDOW, day=TODAY + 1, day_used=9))
        assert self.held(redis) == {"p:gold": state(window=WINDOW, granted=-70, day=TODAY + 1, day_used=9)}

    def test_windows_that_are_past(self, redis):
        """Nothing is written."""
        assert self.set(redis, windows=(1, 2, 3)) == [-3, NOW]
        assert self.held(redis) == {}

    @pytest.mark.parametrize("held", [state()[:55], state() + b"x", state(0.5), state(used=-1), state(per=-1)])
    def test_a_state_that_is_none_is_an_error(self, redis, held):
        """By its length, or by its numbers; it stays."""
        redis.hset(HASH, mapping={"r": version_token(), "p:gold": held})
        numbers = doubles(NOW, 100, TODAY, TODAY + 1, TODAY + 2, 30)
        assert fails(redis, "set_remaining", [HASH], "p:gold", numbers) == "RATELIMIT CORRUPT p:gold"
        assert self.held(redis) == {"p:gold": held}

    @pytest.mark.parametrize("number", ["per", "level", "last", "window", "used", "granted", "day_used"])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_largest_numbers_are_valid(self, redis, number, sign):
        """2^53 - 1; what may be below zero also minus that. One more, or a bit below zero, is none."""
        may_be_negative = number in {"level", "last", "granted"}
        if number == "window":
            largest = {"window": 2**33 - 1, "day": 2**20 - 1} if sign > 0 else {"window": 0, "day": 0}
            beyond = {"window": 2**33} if sign > 0 else {"window": 0, "day": -1}
        else:
            largest = {number: sign * LARGEST if sign > 0 or may_be_negative else 0}
            beyond = {number: sign * (LARGEST + 1) if sign > 0 or may_be_negative else -1}
        assert judged(redis, state(**largest)) == "valid"
        assert judged(redis, state(**beyond)) == "RATELIMIT CORRUPT p:gold"

    def test_by_the_servers_clock(self):
        """A time of 0 stands for it, and no other does."""
        held = {HASH.encode(): {b"r": version_token()}}
        for now, expected in ((0, PLAIN_NOW), (NOW, NOW)):
            numbers = doubles(now, 100, TODAY, TODAY + 1, TODAY + 2, 30)
            reply = PlainServer(held, "set_remaining").eval([HASH.encode()], [b"p:gold", numbers])
            assert reply == [1, expected, 0]
        numbers = doubles(1, 100, 0, 1, 2, 30)
        server = PlainServer({HASH.encode(): {b"r": version_token()}}, "set_remaining")
        assert server.eval([HASH.encode()], [b"p:gold", numbers]) == [1, 1, 0]
        expected = state(per=0, last=0, window=1, granted=-70, day=0)
        assert server.state[HASH.encode()][b"p:gold"] == expected


def judged(redis, held):
    """What check.lua, asked for a peek, says of a state of a plan."""
    redis.hset(HASH, mapping={"r": version_token(), "p:gold": held})
    request = doubles(NOW, 1, 0, 65, 5, 1, 100_000, -1, 0, 0, 0) + version_token()
    try:
        return "valid" if run(redis, "check", [HASH], request, "p:gold")[0] in {0, 3} else "neither"
    except ResponseError as error:
        return str(error)


@pytest.mark.parametrize("place", ["shared", "own"])
@pytest.mark.parametrize(
    ("held", "is_valid"),
    [
        ((LARGEST, 0, 0), True),
        ((LARGEST + 1, 0, 0), False),
        ((1, 0, 0), True),
        ((0, 0, 0), False),
        ((-1, 0, 0), False),
        *(((1, sign * LARGEST, 0), True) for sign in (1, -1)),
        *(((1, sign * (LARGEST + 1), 0), False) for sign in (1, -1)),
        *(((1, 0, sign * LARGEST), True) for sign in (1, -1)),
        *(((1, 0, sign * (LARGEST + 1)), False) for sign in (1, -1)),
    ],
)
def test_the_largest_numbers_of_a_bucket_are_valid(redis, place, held, is_valid):
    """2^53 - 1, and minus that but in P; one more is none."""
    fields, keys = {"r": version_token()}, [HASH]
    if place == "own":
        fields["b"] = doubles(*held)
    else:
        keys.append("shared")
        redis.set("shared", doubles(*held))
    redis.hset(HASH, mapping=fields)
    request = doubles(NOW, 1, 0, 65, 0, 0, 0, -1, 0, 0, 0) + version_token() + doubles(5, 1, 100_000)
    arguments = [request, "p:gold", *(["b"] if place == "own" else [])]
    if is_valid:
        assert run(redis, "check", keys, *arguments)[0] in {0, 3}
    else:
        assert fails(redis, "check", keys, *arguments) == f"RATELIMIT CORRUPT {'b' if place == 'own' else 'shared'}"


class TestCommit:
    """commit.lua."""

    def commit(self, redis, keys, guards, *commands):
        return run(redis, "commit", keys, json.dumps(guards), json.dumps(commands))

    def test_guards(self, redis):
        """Of a field, of a text, of what is absent; the reply numbers the first that fails, and nothing is written."""
        redis.hset("h", "f", "old")
        redis.set("s", "text")
        held = [[1, "f", "old"], [1, "g", None], [2, None, "text"], [3, None, None]]
        for at, wrong in enumerate([[1, "f", None], [1, "g", "old"], [2, None, "other"], [3, None, "text"]]):
            guards = [*held[:at], wrong, *held[at + 1 :]]
            assert self.commit(redis, ["h", "s", "no"], guards, ["SET", 3, "new"]) == [0, at + 1]
        assert redis.get("no") is None
        assert self.commit(redis, ["h", "s", "no"], held, ["SET", 3, "new"], ["HSET", 1, "f", "new"]) == [1, 0]
        assert (redis.get("no"), redis.hget("h", "f")) == (b"new", b"new")

    def test_a_command_without_a_key(self, redis):
        """Index 0; what follows stays in its place."""
        with redis.pubsub() as channel:
            channel.subscribe("changes")
            channel.get_message(timeout=5)
            assert self.commit(redis, [], [], ["PUBLISH", 0, "changes", "news"]) == [1, 0]
            assert channel.get_message(timeout=5)["data"] == b"news"

    @pytest.mark.parametrize(
        ("before", "joins", "after"),
        [
            (None, "0", "epoch--10000000007"),
            (None, "1", "epoch--10000000007"),
            ("epoch--10000000009stamp-", "0", "epoch--10000000007"),
            ("epoch--10000000009stamp---", "0", "epoch--10000000009"),
            ("epoch--10000000009stamp---", "1", "epoch--10000000009"),
            ("epoch--10000000008stamp---", "1", "epoch--10000000008"),
            ("epoch--10000000007stamp---", "1", "epoch--10000000007"),
            ("epoch--10000000006stamp---", "1", "epoch--10000000007"),
            ("epoch--10000000006stamp---", "0", "epoch--10000000006"),
            ("epoch--20000000009stamp---", "1", "epoch--10000000007"),
            ("epoch--20000000009stamp---", "0", "epoch--20000000009"),
            ("Epoch--10000000009stamp---", "1", "epoch--10000000007"),
            ("epoch--11000000007stamp---", "1", "epoch--11000000007"),
        ],
    )
    def test_a_stamp(self, redis, before, joins, after):
        """Epoch and version are those that it has, or those of the catalogue if it joins and has no newer ones."""
        if before:
            redis.hset("h", "r", before)
        assert self.commit(redis, ["h"], [], ["STAMP", 1, "new----8", "epoch--10000000007", joins]) == [1, 0]
        assert redis.hgetall("h") == {b"r": f"{after}new----8".encode()}

    def test_a_stamp_has_eight_characters(self, redis):
        """And the version token 26, whatever is sent."""
        self.commit(redis, ["h"], [], ["STAMP", 1, "new----89", "epoch--100000000078", "0"])
        assert redis.hget("h", "r") == b"epoch--10000000007new----8"

    def test_who_may_not_do_all_does_nothing(self, valkey):
        """The first command is permitted, the second is not: neither is done, and the server says why."""
        with valkey.client() as admin:
            admin.execute_command("ACL", "SETUSER", "clerk", "on", ">word", "~*", "+eval", "+set", "+hset", "+hget")
            with valkey.client(username="clerk", password="word") as clerk:
                commands = json.dumps([["SET", 1, "new"], ["DEL", 1]])
                assert "no permissions to run the 'del'" in fails(clerk, "commit", ["s"], "[]", commands)
                assert admin.get("s") is None
                stamp = json.dumps([["STAMP", 2, "new----8", "epoch--10000000007", "0"], ["SET", 1, "new"]])
                assert run(clerk, "commit", ["s", "h"], "[]", stamp) == [1, 0]
            admin.execute_command("ACL", "DELUSER", "clerk")


class TestUpgrade:
    """upgrade.lua."""

    PAIRS = ("ns:keys", "{ns}:keys", "ns:x%25", "ns:x%2525", "ns:x%", "ns:x%25")
    """The last old name has a new one that is the old name of the pair before."""

    def upgrade(self, redis, version="3", members="", pairs=PAIRS):
        return run(redis, "upgrade", [FORMER, CATALOG, *pairs], version, members, "ns:changes")

    @pytest.fixture(autouse=True)
    def _stored(self, redis):
        redis.hset(FORMER, mapping={"version": 3, "plan:gold": "{}"})
        redis.mset({"ns:keys": "a", "ns:x%25": "b", "ns:x%": "c"})

    def test_all_is_renamed(self, redis):
        """The catalogue and three names; clients hear of it."""
        with redis.pubsub() as channel:
            channel.subscribe("ns:changes")
            channel.get_message(timeout=5)
            assert self.upgrade(redis) == [1, 4]
            assert channel.get_message(timeout=5)["data"] == b"schema 2"
        assert {name: redis.get(name) for name in redis.keys("*") if redis.type(name) == b"string"} == {
            b"ns:catalog": b"moved: schema 2",
            b"{ns}:keys": b"a",
            b"ns:x%2525": b"b",
            b"ns:x%25": b"c",
        }
        catalog = {b"version": b"3", b"plan:gold": b"{}", b"schema": b"2", b"upgrading": b"1"}
        assert redis.hgetall(CATALOG) == catalog

    def test_what_is_absent_is_left_out(self, redis):
        """A name of schema 1 that nothing has."""
        redis.delete("ns:keys", "ns:x%")
        assert self.upgrade(redis) == [1, 2]
        assert sorted(redis.keys()) == sorted([FORMER.encode(), CATALOG.encode(), b"ns:x%2525"])

    @pytest.mark.parametrize(
        ("stored", "version", "members"), [(None, "4", ""), (None, "3", "1"), ("7", "3", ""), ("7", "3", "6")]
    )
    def test_a_catalogue_that_has_changed_is_left(self, redis, stored, version, members):
        """By its version, or because a key joined a plan."""
        if stored:
            redis.hset(FORMER, "members", stored)
        assert self.upgrade(redis, version, members) == [0, 0]
        assert redis.exists(CATALOG, "{ns}:keys") == 0

    def test_members_as_they_were(self, redis):
        """7 joined until then."""
        redis.hset(FORMER, "members", 7)
        assert self.upgrade(redis, members="7") == [1, 4]

    @pytest.mark.parametrize("name", [CATALOG, "{ns}:keys", "ns:x%2525"])
    def test_a_name_that_is_taken_is_an_error(self, redis, name):
        """And nothing is renamed."""
        redis.set(name, "taken")
        assert fails(redis, "upgrade", [FORMER, CATALOG, *self.PAIRS], "3", "", "ns:changes") == (
            f"RATELIMIT OCCUPIED {name}"
        )
        assert redis.exists(FORMER, "ns:keys", "ns:x%25", "ns:x%") == 4
        assert redis.get(name) == b"taken"

    def test_a_name_of_both_schemas_comes_late(self, redis):
        """It is an old name only for the pairs after it: before, it is taken."""
        pairs = (*self.PAIRS[4:], *self.PAIRS[2:4])
        assert fails(redis, "upgrade", [FORMER, CATALOG, *pairs], "3", "", "ns:changes") == "RATELIMIT OCCUPIED ns:x%25"
