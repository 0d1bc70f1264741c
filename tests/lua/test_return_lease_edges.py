"""return_lease.lua and heartbeat.lua at their edges: one unit, none, what is absent, what is no state; each command.

Run on a dict, whose clock stands at PLAIN_NOW where the caller's is 0.
"""

import pytest
from helpers.lua_tools import PlainServer
from helpers.worlds import PLAIN_NOW
from vectors.packing import (
    ACCOUNT,
    DAILY,
    DAYS,
    KEY,
    METHOD,
    NOW,
    PLAN,
    TODAY,
    WINDOW,
    bucket,
    count,
    doubles,
    state,
    version_token,
)

NOTE = "l:one"
SLOW = (100, 1, 1_000_000)
"""Burst 100, one a second: a unit is 1,000,000."""
FROM_A_SECOND = 1_000_000


def note(units=20, at=NOW):
    return doubles(units, at, WINDOW, TODAY)


def before(**fields):
    """A hash with a lease of 20 units that is out; 10 tokens are left, 50 units were used."""
    held = {"r": version_token(), NOTE: note(), PLAN: own_state(), **fields}
    return {name.encode(): value for name, value in held.items() if value is not None}


def own_state(level=10 * 10**6, per=10**6, **more):
    return state(level, per=per, window=WINDOW, used=50, day_used=50, **more)


def give_back(
    hash_, units=20, *, now=NOW + FROM_A_SECOND, waited=FROM_A_SECOND, plan=SLOW, own=(), shared=None, days=None
):
    """(reply, the dict's server), which notes each command."""
    stored = {KEY.encode(): hash_} | ({ACCOUNT.encode(): shared} if isinstance(shared, bytes) else {})
    if days:
        stored[DAYS.encode()] = days
    server = PlainServer(stored, "return_lease")
    further = SLOW * (len(own) + (shared is not None))
    keys = [KEY, DAYS, *([ACCOUNT] if shared is not None else [])]
    sent = [doubles(now, units, waited, *plan, *further), version_token()[:18], *map(str.encode, (PLAN, NOTE, *own))]
    return server.eval([key.encode() for key in keys], sent), server


def fields(server):
    return {name.decode(): value for name, value in server.state[KEY.encode()].items() if name != b"r"}


def written(server):
    return [call[0] for call in server.calls if call[0] not in {"HMGET", "HGET", "GET", "TIME"}]


def test_by_the_servers_clock():
    """0 stands for it, and no other time does."""
    charged = {NOTE: note(at=PLAIN_NOW - FROM_A_SECOND), PLAN: own_state(last=PLAIN_NOW - FROM_A_SECOND)}
    reply, server = give_back(before(**charged), now=0, waited=0)
    assert reply == 20
    assert fields(server)[PLAN] == state(
        29 * 10**6, per=10**6, last=PLAIN_NOW - FROM_A_SECOND, window=WINDOW, used=30, day_used=30
    )
    reply, server = give_back(before(**{NOTE: note(at=0), PLAN: own_state(last=0)}), now=1, waited=0)
    assert (reply, server.calls[0][0]) == (20, "HMGET")


@pytest.mark.parametrize("noted", [1, 20])
def test_one_unit(noted):
    """Of a lease of one, or of more."""
    reply, server = give_back(before(**{NOTE: note(noted)}), units=1, now=NOW, waited=0)
    assert reply == 1
    assert fields(server) == {PLAN: state(11 * 10**6, per=10**6, window=WINDOW, used=49, day_used=49)}


def test_no_unit():
    """The note goes, and nothing else is written."""
    reply, server = give_back(before(), units=0)
    assert (reply, written(server)) == (0, ["HDEL"])


@pytest.mark.parametrize(
    ("waited", "credit"), [(20 * 10**6 - 2, 2), (20 * 10**6 - 1, 1), (20 * 10**6, 0), (20 * 10**6 + 1, 0)]
)
def test_the_last_of_the_credit(waited, credit):
    """A unit of a bucket each microsecond until nothing is left."""
    _, server = give_back(before(), waited=waited)
    assert fields(server)[PLAN][8:16] == doubles(10 * 10**6 + credit)


@pytest.mark.parametrize(("level", "credited"), [(1, 20 * 10**6 + 1), (0, 20 * 10**6), (-1, -1)])
def test_a_level_below_zero_gets_nothing(level, credited):
    """An empty bucket does."""
    _, server = give_back(before(**{PLAN: own_state(level)}), now=NOW, waited=0)
    assert fields(server)[PLAN][8:16] == doubles(credited)


@pytest.mark.parametrize("per", [0, 1])
def test_small_scales(per):
    """Without a bucket of the plan its state keeps its level; one that counts in whole tokens is credited."""
    held = own_state(10, per=per, last=NOW)
    _, server = give_back(before(**{PLAN: held}), now=NOW, waited=0, plan=(100, 1, per))
    assert fields(server)[PLAN] == state(10 + 20 * per, per=per, window=WINDOW, used=30, day_used=30)


def test_what_is_absent_is_left_so():
    """No state of the plan, of a method, of the account: the units were noted, and nothing is written."""
    reply, server = give_back(before(**{PLAN: None}), own=[METHOD], shared=False)
    assert (reply, written(server)) == (20, ["HDEL"])
    assert server.state == {KEY.encode(): {b"r": version_token()}}


@pytest.mark.parametrize("held", [own_state() + bytes(8), own_state()[:48], own_state(0.5), own_state(float("nan"))])
def test_a_state_that_is_none_stays(held):
    """By its length, or by its numbers."""
    reply, server = give_back(before(**{PLAN: held}))
    assert (reply, fields(server)) == (20, {PLAN: held})


def test_a_state_from_before_the_charge_gets_nothing():
    """It tells that nothing was refunded."""
    reply, server = give_back(before(**{PLAN: own_state(last=NOW - 1)}))
    assert (reply, written(server)) == (0, ["HDEL"])


@pytest.mark.parametrize(
    ("closed", "corrected"),
    [
        ((50, 100), (30, 120)),
        ((20, 0), (0, 20)),
        ((19, -1), (0, -1)),
        ((1, 1), (0, 21)),
        ((0, 5), (0, 25)),
        ((-1, 5), (-1, 5)),
        ((0.5, 5), (0.5, 5)),
        ((5, 0.5), (5, 0.5)),
    ],
)
@pytest.mark.parametrize("archived", [False, True])
def test_a_closed_day(closed, corrected, archived):
    """It has used less, of which there is no less than nothing; more was left, if there was a quota."""
    field, after = f"d:gold:{TODAY}", own_state(day=TODAY + 1)
    days = {f"gold:{TODAY}".encode(): doubles(*closed)} if archived else None
    _, server = give_back(before(**{PLAN: after, field: None if archived else doubles(*closed)}), days=days)
    held = server.state[DAYS.encode()][field[2:].encode()] if archived else fields(server)[field]
    assert held == doubles(*corrected)


@pytest.mark.parametrize("quota", [-1, 0])
def test_the_note_of_a_lease_says_its_window(quota):
    """-1 without a quota; of one of 0 units, of which some were granted, as of any."""
    held = {b"r": version_token(), PLAN.encode(): count(0, granted=5)}
    server = PlainServer({KEY.encode(): held}, "check")
    limits = (quota, *(DAILY[1:] if quota >= 0 else (0, 0, 0)))
    request = doubles(NOW, 2, 0, 257, 0, 0, 0, *limits) + version_token()
    server.eval([KEY.encode()], [request, PLAN.encode(), NOTE.encode(), b""])
    assert fields(server)[NOTE] == doubles(2, NOW, WINDOW if quota >= 0 else -1, TODAY)


def test_further_buckets():
    """Each is credited; in the hash and shared."""
    ten = bucket(10 * 10**6, per=10**6)
    _, server = give_back(before(**{METHOD: ten}), own=[METHOD], shared=ten)
    expected = bucket(29 * 10**6, per=10**6)
    assert (fields(server)[METHOD], server.state[ACCOUNT.encode()]) == (expected, expected)
    assert written(server) == ["HDEL", "HSET", "SETRANGE"]


def test_a_further_bucket_has_limits_of_its_own():
    """Other ones than the plan's: a unit in each two seconds, and a burst of 15."""
    held = bucket(10 * 10**6, per=2 * 10**6)
    server = PlainServer({KEY.encode(): before(), ACCOUNT.encode(): held}, "return_lease")
    numbers = doubles(NOW, 20, 0, *SLOW, 15, 1, 2 * 10**6)
    sent = [numbers, version_token()[:18], PLAN.encode(), NOTE.encode()]
    assert server.eval([KEY.encode(), DAYS.encode(), ACCOUNT.encode()], sent) == 20
    assert server.state[ACCOUNT.encode()] == bucket(30 * 10**6, per=2 * 10**6)
    assert fields(server)[PLAN][8:16] == doubles(30 * 10**6)


@pytest.mark.parametrize(("now", "score", "kept"), [(0, PLAIN_NOW, 60_000), (1, 1, None), (NOW, NOW, None)])
def test_a_heartbeat_is_kept_for_a_minute(now, score, kept):
    """By the server's clock; under a caller's nothing expires."""
    server = PlainServer({}, "heartbeat")
    assert server.eval([b"replicas"], [b"%d" % now, b"life---1"]) == 1
    assert server.state[b"replicas"] == {b"life---1": score}
    assert server.expiries.get(b"replicas", (None, None))[1] == kept
