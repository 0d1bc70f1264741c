"""return_lease.lua, called by hand: what each state gets back, to the unit."""

import struct

import pytest
from helpers.lua_mutation import bug

from ratelimit.scripts import load

HASH, DAYS, SHARED, NOTE = "ns:{k1}", "ns:{k1}:days", "ns:account", "l:one"
P, R, BURST = 1_000_000, 3, 100  # 3 tokens a second
DAY = 20_516
CHARGED = DAY * 86_400_000_000 + 40_000_000_000
WINDOW = DAY * 64 + 1
BALANCE = 900


def state(window=WINDOW, day=DAY, **other):
    """10 tokens are left, 50 units were used, all of them today."""
    fields = {"per": P, "level": 10 * P, "last": CHARGED, "calendar": window * 2**20 + day, "used": 50, "granted": 0}
    return struct.pack("<7d", *{**fields, "day_used": 50, **other}.values())


def bucket(**other):
    return struct.pack("<3d", *{"per": P, "level": 10 * P, "last": CHARGED, **other}.values())


@pytest.fixture
def redis(backend):
    with backend.client() as client:
        token = "epoch--10000000007stamp--1"
        client.hset(HASH, mapping={"p:gold": state(), "b:gold:m": bucket(), NOTE: note(), "r": token})
        client.set(SHARED, bucket())
        yield client


def note(units=20, at=CHARGED, window=WINDOW, day=DAY):
    """What is noted of a lease."""
    return struct.pack("<4d", units, at, window, day)


def return_lease(
    redis, units=20, after_us=1_000_000, waited_us=None, version_token="epoch--10000000007", shared=(SHARED,)
):
    """Return units of a lease, `after_us` after the charge by the server and `waited_us` by the caller."""
    now, waited = CHARGED + after_us, after_us if waited_us is None else waited_us
    head = struct.pack("<6d", now, units, waited, BURST, R, P)
    further = struct.pack("<6d", BURST, R, P, BURST, R, P)
    fields = (version_token, "p:gold", NOTE, "b:gold:m")
    keys = (HASH, DAYS, *shared)
    return redis.eval(load("return_lease").source, len(keys), *keys, head + further, *fields)


def levels(redis):
    """The levels of the plan's bucket, the method's and the shared one."""
    states = (*redis.hmget(HASH, "p:gold", "b:gold:m"), redis.get(SHARED))
    return [struct.unpack_from("<2d", each)[1] for each in states]


def counts(redis):
    """What is used of the quota, and of the day."""
    *_, used, _, day_used = struct.unpack("<7d", redis.hget(HASH, "p:gold"))
    return used, day_used


def test_each_bucket_gets_what_it_has_not_refilled(redis):
    """20 units, a second in which 3 were refilled: 17 of them; the counts get all 20."""
    return_lease(redis)
    assert levels(redis) == [27 * P] * 3
    assert counts(redis) == (30, 30)


@pytest.mark.parametrize(("after_us", "credit"), [(0, 20 * P), (6_666_666, 2), (6_666_667, 0), (60_000_000, 0)])
def test_the_credit_falls_with_time(redis, after_us, credit):
    """By R each microsecond until nothing is left to credit; the counts get all units at any time."""
    return_lease(redis, after_us=after_us)
    assert levels(redis) == [10 * P + credit] * 3
    assert counts(redis) == (30, 30)


def test_no_bucket_gets_above_its_burst(redis):
    """A credit fills a bucket at most."""
    redis.hset(HASH, "p:gold", state(level=95 * P))
    return_lease(redis, after_us=0)
    assert levels(redis) == [100 * P, 30 * P, 30 * P]


@pytest.mark.parametrize(("after_us", "waited_us"), [(1_000_000, 0), (-3_000_000, 1_000_000), (500_000, 1_000_000)])
def test_the_longer_of_two_times_counts(redis, after_us, waited_us):
    """The server's clock may have been set back since the charge, the caller's was not; whichever says more."""
    return_lease(redis, after_us=after_us, waited_us=waited_us)
    assert levels(redis) == [27 * P] * 3


@pytest.mark.parametrize("since", ["epoch--2", "00000008", "short", None], ids=repr)
def test_no_bucket_gets_anything_once_the_catalogue_changed(redis, since):
    """Without the charge, a smaller burst might have cut what there was; a count is not cut, and gets all."""
    if since is None:
        redis.hdel(HASH, "r")
    else:
        tokens = {"epoch--2": "epoch--20000000007stamp--1", "00000008": "epoch--10000000008stamp--1"}
        redis.hset(HASH, "r", tokens.get(since, since))
    return_lease(redis)
    assert levels(redis) == [10 * P] * 3
    assert counts(redis) == (30, 30)


def test_a_new_stamp_alone_changes_no_plans(redis):
    """A record that was changed since, as by another name, keeps what is given back."""
    redis.hset(HASH, "r", "epoch--10000000007stamp--2")
    return_lease(redis)
    assert levels(redis) == [27 * P] * 3


def test_a_shared_bucket_that_is_not_named_gets_nothing(redis):
    """By a caller who knows that the catalogue changed since: others may have charged it under that."""
    return_lease(redis, shared=())
    assert levels(redis) == [27 * P, 27 * P, 10 * P]


def test_a_bucket_of_another_per_gets_nothing(redis):
    """Its units are not the ones that were charged."""
    redis.hset(HASH, "p:gold", state(per=2 * P))
    redis.set(SHARED, bucket(per=2 * P))
    return_lease(redis)
    assert levels(redis) == [10 * P, 27 * P, 10 * P]


def test_a_state_from_before_the_charge_gets_nothing(redis):
    """The server lost the charge, or its clock was set back so far that the state was anchored anew."""
    redis.hset(HASH, "p:gold", state(last=CHARGED - 1))
    return_lease(redis)
    assert levels(redis) == [10 * P] * 3
    assert counts(redis) == (50, 50)


def test_a_bucket_from_before_the_charge_gets_nothing(redis):
    """Each of them on its own: a shared one may have been lost alone."""
    redis.hset(HASH, "b:gold:m", bucket(last=CHARGED - 1))
    redis.set(SHARED, bucket(last=CHARGED - 1))
    return_lease(redis)
    assert levels(redis) == [27 * P, 10 * P, 10 * P]
    assert counts(redis) == (30, 30)


@pytest.mark.parametrize(
    ("other", "left"),
    [
        ({"window": WINDOW + 64}, (50, 30)),
        ({"window": DAY * 64 + 7}, (50, 30)),
        ({"day": DAY + 1}, (30, 50)),
        ({"used": 15, "day_used": 5}, (0, 0)),
    ],
)
def test_counts_of_another_window_or_day_stay(redis, other, left):
    """What was charged to a window or a day comes back to no other one, and no count falls below 0."""
    redis.hset(HASH, "p:gold", state(**other))
    return_lease(redis)
    assert counts(redis) == left


@pytest.mark.parametrize(("key", "field"), [(HASH, f"d:gold:{DAY}"), (DAYS, f"gold:{DAY}")])
def test_a_day_that_is_over_is_corrected_where_it_is(redis, key, field):
    """In the key's hash, or in the archive."""
    redis.hset(HASH, "p:gold", state(day=DAY + 1, day_used=3))
    redis.hset(key, field, struct.pack("<2d", 50, BALANCE))
    return_lease(redis)
    assert struct.unpack("<2d", redis.hget(key, field)) == (30, BALANCE + 20)
    assert counts(redis)[1] == 3


def test_nothing_is_created(redis):
    """No hash, no field, no bucket, no day."""
    redis.delete(HASH, SHARED)
    return_lease(redis)
    assert redis.exists(HASH, SHARED, DAYS) == 0


@pytest.mark.parametrize(("units", "noted", "refunded"), [(20, 20, 20), (5, 20, 5), (21, 20, 20), (0, 20, 0)])
def test_no_more_is_refunded_than_was_charged(redis, units, noted, refunded):
    """By the note, which goes; the caller may know less, or have spent some."""
    redis.hset(HASH, NOTE, note(noted))
    assert return_lease(redis, units, after_us=0) == refunded
    assert levels(redis) == [(10 + refunded) * P] * 3
    assert counts(redis) == (50 - refunded,) * 2
    assert not redis.hexists(HASH, NOTE)


def test_a_lease_is_returned_once(redis):
    """However often it is asked for; and a request for it that comes then would find that it was returned."""
    assert [return_lease(redis, after_us=after_us) for after_us in (0, 1, 2)] == [20, 0, 0]
    assert counts(redis) == (30, 30)
    assert struct.unpack("<4d", redis.hget(HASH, NOTE)) == (0, CHARGED + 1, -1, 0)


def test_a_lease_that_was_not_granted_leaves_a_note_of_no_units(redis):
    """Notes that are outdated make room for it."""
    redis.hdel(HASH, NOTE)
    redis.hset(HASH, "l:old", note(at=CHARGED - 60_000_000))
    assert return_lease(redis, after_us=0) == 0
    assert (levels(redis), counts(redis)) == ([10 * P] * 3, (50, 50))
    assert struct.unpack("<4d", redis.hget(HASH, NOTE)) == (0, CHARGED, -1, 0)
    assert not redis.hexists(HASH, "l:old")


def test_a_note_alone_can_be_removed(redis):
    """Of a lease that was spent: 0 units come back; where it is gone, nothing is written."""
    for _ in range(2):
        assert return_lease(redis, 0) == 0
        assert (levels(redis), counts(redis)) == ([10 * P] * 3, (50, 50))
        assert not redis.hexists(HASH, NOTE)


@pytest.mark.parametrize(("notes", "has_room"), [(255, True), (256, False)])
def test_there_are_no_more_notes_than_there_may_be(redis, notes, has_room):
    """256, those of no units included; a lease that is requested meets the same bound."""
    redis.hdel(HASH, NOTE)
    redis.hset(HASH, mapping={f"l:{number}": note(at=CHARGED + 1_000_000) for number in range(notes)})
    head = struct.pack("<11d", CHARGED + 1_000_000, 2, 0, 257, BURST, R, P, -1, 0, 0, 0)
    request = head + b"epoch--10000000007stamp--1"
    reply = redis.eval(load("check").source, 1, HASH, request, "p:gold", "l:new", "")
    assert (reply == [-6, CHARGED + 1_000_000]) is not has_room
    assert redis.hexists(HASH, "l:new") is has_room
    redis.hdel(HASH, "l:new")
    assert return_lease(redis) == 0
    assert redis.hexists(HASH, NOTE) is has_room


@pytest.mark.parametrize(
    "noted", [bytes(31), bytes(32), note(units=-1), note(units=0.5), note(at=float("nan"))], ids=bytes.hex
)
def test_a_note_that_is_none_refunds_nothing(redis, noted):
    """It stays until it is outdated."""
    redis.hset(HASH, NOTE, noted)
    assert return_lease(redis) == 0
    assert (levels(redis), counts(redis)) == ([10 * P] * 3, (50, 50))
    assert redis.hget(HASH, NOTE) == noted


def test_units_that_were_charged_to_no_quota_come_back_to_none(redis):
    """The plan had none then; what the count says is of a former one."""
    redis.hset(HASH, NOTE, note(window=-1))
    return_lease(redis)
    assert counts(redis) == (50, 30)


def test_an_expiry_stays(redis):
    """A shared bucket is written in place."""
    redis.pexpire(SHARED, 50_000)
    return_lease(redis)
    assert 0 < redis.pttl(SHARED) <= 50_000


@pytest.mark.parametrize(
    ("right", "wrong", "test", "arguments"),
    [
        (
            "string.sub(stored_token, 1, 18) == ARGV[2]",
            "true",
            test_no_bucket_gets_anything_once_the_catalogue_changed,
            ("00000008",),
        ),
        (
            "math.max(now - charged_us, waited_us)",
            "now - charged_us",
            test_the_longer_of_two_times_counts,
            (500_000, 1_000_000),
        ),
        ("math.max(now - charged_us, waited_us)", "waited_us", test_the_longer_of_two_times_counts, (1_000_000, 0)),
        ("per > 0 and last < charged_us", "false", test_a_state_from_before_the_charge_gets_nothing, ()),
        ("stored_per ~= its_per or last < charged_us", "false", test_a_bucket_from_before_the_charge_gets_nothing, ()),
        (
            "window == charge_window",
            "true",
            test_counts_of_another_window_or_day_stay,
            ({"window": WINDOW + 64}, (50, 30)),
        ),
        ("math.max(level, its_burst * its_per)", "level + credit", test_no_bucket_gets_above_its_burst, ()),
        ("units = math.min(units, noted_units)\n", "", test_no_more_is_refunded_than_was_charged, (21, 20, 20)),
        ("call('HDEL', KEYS[1], note_field)\n", "", test_a_lease_is_returned_once, ()),
        ("units > 0 and stored_token and", "stored_token and", test_a_note_alone_can_be_removed, ()),
        (" and outdated_notes(KEYS[1], now)", " and {}", test_there_are_no_more_notes_than_there_may_be, (256, False)),
    ],
)
def test_a_seeded_bug_is_found(redis, right, wrong, test, arguments):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    with bug(right, wrong, "return_lease"), pytest.raises(AssertionError):
        test(redis, *arguments)
