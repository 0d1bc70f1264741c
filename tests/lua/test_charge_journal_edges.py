"""charge_journal.lua at its edges: what does not fit together, days and windows at their borders, all that is written.

Run on a dict, whose clock stands at PLAIN_NOW where the caller's is 0.
"""

import pytest
from helpers.lua_tools import PlainServer
from helpers.worlds import PLAIN_NOW
from vectors.packing import (
    ACCOUNT,
    ARGUMENTS,
    DAY,
    DAYS,
    IDENTITY,
    KEY,
    LARGEST,
    LIFE,
    METHOD,
    NOW,
    PLAN,
    STREAM,
    TEN,
    TODAY,
    WINDOW,
    bucket,
    count,
    doubles,
    journal_entry,
    state,
    version_token,
)

WEEK = (TODAY - 3, TODAY + 4, TODAY + 11)
"""Three days of the quota's window are over."""
NO_PLAN, NO_QUOTA = (0, 0, 0), (-1, 0, 0, 0)


def encoded(parts):
    return [part if isinstance(part, bytes) else part.encode() for part in parts]


def charge(
    hash_=None,
    archive=None,
    *,
    plan=NO_PLAN,
    quota=NO_QUOTA,
    now=NOW,
    spent=NOW,
    cost=1,
    sequence=1,
    own=(),
    shared=(),
    flags=1,
    key=KEY,
    held=None,
    kept=0,
):
    """Charge an entry to a key with these fields; return the reply and the dict's server."""
    stamp = "--------" if flags == 33 else "stamp--1"
    fields = {name.encode(): value for name, value in ({"r": version_token(stamp=stamp)} | (hash_ or {})).items()}
    stored = {key.encode(): fields} | {name.encode(): value for name, value in (held or {}).items()}
    if archive:
        stored[DAYS.encode()] = {name.encode(): value for name, value in archive.items()}
    server = PlainServer(stored, "charge_journal")
    limits = {"plan": plan, "quota": quota, "own": own, "shared": shared}
    times = {"spent": spent, "now": now, "kept": kept}
    keys, argv = journal_entry(cost, sequence, life=LIFE, flags=flags, key=key, stamp=stamp, **limits, **times)
    return server.eval(encoded(keys), encoded(argv)), server


def left(server, key=KEY):
    """The fields of a hash, without its version token and the entry's number."""
    fields = server.state.get(key.encode(), {})
    return {name.decode(): value for name, value in fields.items() if name not in {b"r", b"j:life---1"}}


@pytest.mark.parametrize(
    ("numbers", "is_valid"),
    [
        ({"sequence": LARGEST}, True),
        ({"sequence": LARGEST + 1}, False),
        ({"spent": 0}, True),
        ({"spent": -1}, False),
        ({"spent": NOW + 1}, True),
        ({"spent": LARGEST}, True),
        ({"spent": LARGEST + 1}, False),
        ({"quota": (0, TODAY, TODAY + 1, TODAY + 2)}, True),
        ({"quota": (0, TODAY + 1, TODAY + 2, TODAY + 3)}, False),
        ({"quota": (0, TODAY - 1, TODAY, TODAY + 1)}, False),
    ],
)
def test_numbers_at_their_edges(numbers, is_valid):
    """The largest sequence, any time since 1970, a quota of 0 whose window does not hold it."""
    reply, _ = charge(**numbers)
    assert reply == ([5, NOW] if is_valid else ARGUMENTS)


@pytest.mark.parametrize(
    ("keys", "fields", "tail"),
    [
        ([KEY, DAYS, ACCOUNT], [], b""),
        ([KEY], [PLAN, METHOD], b""),
        ([KEY, DAYS], [PLAN, METHOD], b""),
        ([KEY, DAYS, ACCOUNT], [PLAN], b""),
        ([KEY, DAYS], [PLAN], bytes(16)),
        ([KEY, DAYS], [PLAN], bytes(24)),
    ],
    ids=[
        "no plan's field",
        "no archive",
        "a method without its bucket",
        "a key without its bucket",
        "an alert without its flag",
        "a bucket without its key",
    ],
)
def test_what_does_not_fit_together_is_an_error(keys, fields, tail):
    """Nothing is read."""
    server = PlainServer({KEY.encode(): {b"r": version_token()}}, "charge_journal")
    request = doubles(NOW, 1, 0, 1, *NO_PLAN, *NO_QUOTA) + version_token() + tail
    assert server.eval(encoded(keys), encoded([request, *fields, LIFE, doubles(1, NOW)])) == ARGUMENTS
    assert server.calls == []


def test_of_nobody_there_is_no_field():
    """An entry without a key has a request, a life and a number."""
    server = PlainServer({}, "charge_journal")
    request = doubles(NOW, 1, 0, 0, *NO_PLAN, *NO_QUOTA) + version_token()
    keys = encoded(["{ratelimit}:journal"])
    assert server.eval(keys, encoded([request, PLAN, LIFE, doubles(1, NOW)])) == ARGUMENTS
    assert server.eval(keys, encoded([request, LIFE, doubles(1, NOW)])) == [5, NOW]


def test_alerts_that_are_too_short():
    """A request that is 16 bytes shorter than its buckets, with flag 8."""
    server = PlainServer({KEY.encode(): {b"r": version_token()}}, "charge_journal")
    request = doubles(NOW, 1, 0, 9, *NO_PLAN, *NO_QUOTA) + version_token() + bytes(8)
    keys = encoded([KEY, DAYS, ACCOUNT, STREAM])
    assert server.eval(keys, encoded([request, PLAN, LIFE, doubles(1, NOW)])) == ARGUMENTS


def test_a_key_without_limits_is_metered():
    """All seven numbers of its state; no day was before."""
    reply, server = charge()
    assert reply == [5, NOW]
    assert left(server) == {PLAN: state(per=0, last=0, day_used=1)}


def test_a_callers_clock_is_any_that_is_not_0():
    """A microsecond after 1970."""
    assert charge(now=1, spent=0)[0] == [5, 1]
    assert charge(now=0)[0] == [5, PLAIN_NOW]


def test_further_buckets_are_charged_from_where_they_stand():
    """2 tokens each; 3 are charged: one below zero."""
    two = bucket(200_000)
    _, server = charge({METHOD: two}, cost=3, own=[(METHOD, *TEN)], shared=[(ACCOUNT, *TEN)], held={ACCOUNT: two})
    assert left(server)[METHOD] == server.state[ACCOUNT.encode()] == bucket(-100_000)


def test_buckets_that_were_never_charged_are_full():
    """5 - 3 tokens."""
    _, server = charge(cost=3, own=[(METHOD, *TEN)], shared=[(ACCOUNT, *TEN)])
    assert left(server)[METHOD] == server.state[ACCOUNT.encode()] == bucket(200_000)


@pytest.mark.parametrize(
    ("limits", "milliseconds"),
    [((5, 1, 100_000), 60_100), ((5, 7, 1_005_000), 60_143), ((5, 7, 1_000_000), 60_142), ((5, 0, 1), 60_000)],
)
def test_a_shared_bucket_expires_once_it_is_full(limits, milliseconds):
    """One token is missing; a minute more."""
    _, server = charge(now=0, spent=PLAIN_NOW, shared=[(ACCOUNT, *limits)])
    assert server.expiries[ACCOUNT.encode()] == (b"PX", milliseconds)


@pytest.mark.parametrize(("plan", "milliseconds"), [(NO_PLAN, 60_000), (TEN, 60_100)])
def test_an_identity_is_kept_until_its_bucket_is_full(plan, milliseconds):
    """One token is missing; a minute more."""
    reply, server = charge(now=0, spent=PLAIN_NOW, flags=33, key=IDENTITY, plan=plan)
    assert reply == [5, PLAIN_NOW]
    assert server.expiries[IDENTITY.encode()][1] == milliseconds


def test_an_identity_is_kept_until_its_quotas_window_ends():
    """Also under a quota of 0, of which a journal takes what was admitted before; and a minute more."""
    today = PLAIN_NOW // DAY
    for quota in (0, 1):
        limits = (quota, today, today + 1, today + 2)
        _, server = charge(now=0, spent=PLAIN_NOW, flags=33, key=IDENTITY, quota=limits)
        assert server.expiries[IDENTITY.encode()][1] == ((today + 1) * DAY - PLAIN_NOW) // 1000 + 60_000


@pytest.mark.parametrize(
    ("used", "granted", "balance"), [(3, 0, 7), (3, 4, 11), (9, 0, 1), (10, 0, 0), (12, 0, 0), (12, 3, 1)]
)
@pytest.mark.parametrize("day", [1, TODAY - 1])
def test_a_day_that_is_over_is_closed(day, used, granted, balance):
    """With what was left of the quota; the first day of all as well."""
    before = count(used, first=TODAY - 1, granted=granted, day=day, day_used=6)
    _, server = charge({PLAN: before}, quota=(10, TODAY, TODAY + 1, TODAY + 2))
    assert left(server) == {PLAN: count(1, day_used=1), f"d:gold:{day}": doubles(6, balance)}


def test_a_quota_of_0_is_charged():
    """What was admitted was."""
    _, server = charge({PLAN: count(3)}, quota=(0, TODAY, TODAY + 1, TODAY + 2))
    assert left(server) == {PLAN: count(4, day_used=1)}


TOMORROW = (TODAY + 1, TODAY + 2, TODAY + 3)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({}, NOW, {"first": TODAY + 1, "used": 1}),
        ({PLAN: count(3)}, NOW, {"first": TODAY, "used": 4}),
        ({PLAN: count(3)}, (TODAY + 1) * DAY - 1, {"first": TODAY, "used": 4}),
        ({PLAN: count(3)}, (TODAY + 1) * DAY, {"first": TODAY + 1, "used": 1}),
        ({PLAN: count(3, first=0, days=1)}, NOW, {"first": 0, "used": 4}),
    ],
    ids=["none yet", "goes on", "until its last microsecond", "has begun", "of 1970"],
)
def test_a_window_that_has_not_begun(before, now, expected):
    """A process whose clock is ahead: the count of the state goes on; where there is none, it begins."""
    _, server = charge(before, now=now, spent=(TODAY + 1) * DAY, quota=(10, *TOMORROW))
    used, first = expected["used"], expected["first"]
    fields = left(server)
    day = now // DAY
    assert fields[PLAN] == count(used, first=first, day=day, day_used=1)


BEFORE = {PLAN: count(30, first=TODAY - 3, days=7, day_used=2)}
"""30 of 100 in this week, 2 of them today."""


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        # day: (units, balance) as offsets from today
        ({-3: (5, 95), -2: (7, 88), -1: (9, 79)}, {-3: (5, 95), -2: (10, 85), -1: (9, 76)}),
        ({-2: (7, 3), -1: (9, 2)}, {-2: (10, 0), -1: (9, 0)}),
        ({-2: (7, 0), -1: (9, 1)}, {-2: (10, 0), -1: (9, 0)}),
        ({-2: (7, -1), -1: (9, -1)}, {-2: (10, -1), -1: (9, -1)}),
        ({-3: (5, 95), -1: (9, 79)}, {-3: (5, 95), -2: (3, 92), -1: (9, 76)}),
        ({-3: (5, -1)}, {-3: (5, -1), -2: (3, 97)}),
        ({-3: (5, 0)}, {-3: (5, 0), -2: (3, 0)}),
        ({-3: (5, 1)}, {-3: (5, 1), -2: (3, 0)}),
        ({}, {-2: (3, 97)}),
        ({-4: (1, 2), 0: (8, 8), 1: (8, 8), 4: (8, 8)}, {-4: (1, 2), -2: (3, 97), 0: (8, 8), 1: (8, 8), 4: (8, 8)}),
    ],
)
def test_a_day_that_was_closed_is_corrected(archived, closed, expected):
    """3 units of the day before yesterday: it has used more, and so much less was left on it and on those after it."""

    def fields(prefix, days):
        return {f"{prefix}gold:{TODAY + day}": doubles(*numbers) for day, numbers in days.items()}

    place = {"archive": fields("", closed)} if archived else {"hash_": fields("d:", closed)}
    place["hash_"] = BEFORE | place.get("hash_", {})
    _, server = charge(**place, cost=3, spent=NOW - 2 * DAY, quota=(100, *WEEK))
    new = {day: numbers for day, numbers in expected.items() if day not in closed}
    known = {day: numbers for day, numbers in expected.items() if day in closed}
    in_hash = {PLAN: count(33, first=TODAY - 3, days=7, day_used=2)} | fields("d:", new)
    if archived:
        assert left(server) == in_hash
        assert left(server, DAYS) == fields("", known)
    else:
        assert left(server) == in_hash | fields("d:", known)
        assert left(server, DAYS) == {}


def test_a_day_of_a_key_without_a_quota_is_corrected():
    """Its units alone, and of that day alone."""
    closed = {f"d:gold:{TODAY - day}": doubles(day, -1) for day in (1, 2, 3)}
    _, server = charge({PLAN: state(per=0, last=0, day_used=2)} | closed, cost=3, spent=NOW - 2 * DAY)
    assert left(server) == {PLAN: state(per=0, last=0, day_used=2)} | closed | {f"d:gold:{TODAY - 2}": doubles(5, -1)}


def test_days_of_a_quota_of_0_are_corrected():
    """Something had been granted: less of that was left on the day, and on the one after it."""
    closed = {f"d:gold:{TODAY - day}": doubles(day, 50) for day in (1, 2)}
    _, server = charge(BEFORE | closed, cost=3, spent=NOW - 2 * DAY, quota=(0, *WEEK))
    changed = {f"d:gold:{TODAY - 2}": doubles(5, 47), f"d:gold:{TODAY - 1}": doubles(1, 47)}
    assert left(server) == {PLAN: count(33, first=TODAY - 3, days=7, day_used=2)} | changed


def test_days_of_a_window_that_is_over_are_corrected_to_its_end():
    """Of yesterday's window two days were; the count of this one stays."""
    quota = (100, TODAY - 2, TODAY, TODAY + 2)
    closed = {f"d:gold:{TODAY - day}": doubles(day, 50) for day in (0, 1, 2, 3)}
    before = {PLAN: count(30, first=TODAY, days=2, day=TODAY + 1, day_used=2)} | closed
    _, server = charge(before, cost=3, now=NOW + DAY, spent=NOW - 2 * DAY, quota=quota)
    changed = {f"d:gold:{TODAY - 2}": doubles(5, 47), f"d:gold:{TODAY - 1}": doubles(1, 47)}
    assert left(server) == before | changed


@pytest.mark.parametrize(("granted", "limit"), [(0, 100), (7, 107), (-7, 93)])
def test_an_alert_tells_the_limit_with_what_was_granted(granted, limit):
    """And is noted under the plan."""
    fields = {b"r": version_token(), PLAN.encode(): count(79, granted=granted)}
    server = PlainServer({KEY.encode(): fields}, "charge_journal")
    request = doubles(NOW, 1, 0, 9, *NO_PLAN, 100, TODAY, TODAY + 1, TODAY + 2) + version_token() + doubles(80, 80)
    sent = encoded([request, PLAN, LIFE, doubles(1, NOW)])
    assert server.eval(encoded([KEY, DAYS, STREAM]), sent) == [5, NOW]
    (entry,) = server.state[STREAM.encode()]
    assert (entry[b"percent"], entry[b"used"], entry[b"limit"]) == (b"80", b"80", b"%d" % limit)
    assert left(server)["a:gold"] == doubles(WINDOW, 80)
