"""charge_journal.lua, called by hand: what each entry leaves in Redis, to the unit.

10 requests a second are 1 token per 100 000 us: a bucket of 5 holds 500 000 units.
"""

import struct

import pytest
from helpers.redis_snapshot import snapshot
from redis.exceptions import ResponseError
from vectors.packing import (
    ACCOUNT,
    COUNTED,
    DAILY,
    DAY,
    DAYS,
    IDENTITY,
    JOURNAL,
    KEY,
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

from ratelimit.scripts import load

OTHER_LIFE = "life---2"
CHARGED, BEFORE, KEY_CHANGED, CATALOG_BEHIND = 5, 6, -1, -2
TOKEN = 100_000
"""Units of one token."""


def charge(
    client,
    cost=1,
    sequence=1,
    *,
    spent=NOW,
    life=LIFE,
    now=NOW,
    flags=1,
    plan=TEN,
    quota=(-1, 0, 0, 0),
    own=(),
    shared=(),
    tail=(),
    last_key=(),
    key=KEY,
    kept=0,
    keys=None,
    argv=None,
    **token,
):
    """Charge an entry; return the reply. The windows are those around `spent`, for a quota by the day."""
    if quota[0] >= 0 and len(quota) == 1:
        day = spent // DAY
        quota = (quota[0], day, day + 1, day + 2)
    limits = {"plan": plan, "quota": quota, "own": own, "shared": shared, "tail": tail}
    times = {"spent": spent, "now": now, "kept": kept}
    entry_keys, entry = journal_entry(cost, sequence, life=life, flags=flags, key=key, **limits, **times, **token)
    sent_keys, sent = [*entry_keys, *last_key] if keys is None else keys, entry if argv is None else argv
    return client.eval(load("charge_journal").source, len(sent_keys), *sent_keys, *sent)


@pytest.fixture
def redis(backend):
    with backend.client() as client:
        client.hset(KEY, "r", version_token())
        yield client


def plan_state(client, key=KEY):
    """Per, level, last_us; window, day; used, granted, day_used."""
    per, level, last, calendar, *counts = map(int, struct.unpack("<7d", client.hget(key, PLAN)))
    return per, level, last, *divmod(calendar, 2**20), *counts


def level_of(client, name=None):
    """The level of the plan's bucket, or of another one."""
    packed = client.hget(KEY, PLAN) if name is None else client.hget(KEY, name) or client.get(name)
    return struct.unpack_from("<2d", packed)[1]


def unchanged(client, reply, *args, **keywords):
    """Whether an entry gets this reply, or an error that says so, and nothing is written."""
    before = snapshot(client)
    try:
        answer = charge(client, *args, **keywords)
    except ResponseError as error:
        answer = str(error)
    is_as_said = str(reply) in answer if isinstance(answer, str) else answer == reply
    return is_as_said and snapshot(client) == before


# Once


@pytest.mark.parametrize("times", [1, 2, 7])
def test_an_entry_is_charged_once(redis, times):
    """However often it is sent: 3 of 5 tokens once, in every limit; then nothing is written."""
    limits = {"quota": DAILY, "own": [(METHOD, *TEN)], "shared": [(ACCOUNT, *TEN)]}
    assert charge(redis, 3, **limits) == [CHARGED, NOW]
    before = snapshot(redis)
    for _ in range(times - 1):
        assert charge(redis, 3, now=NOW + 60_000_000, **limits) == [BEFORE, NOW + 60_000_000]
    assert snapshot(redis) == before
    assert [level_of(redis), level_of(redis, METHOD), level_of(redis, ACCOUNT)] == [2 * TOKEN] * 3
    assert plan_state(redis)[3:] == (WINDOW, TODAY, 3, 0, 3)


def test_a_lower_number_was_charged_before(redis):
    """Numbers rise within a life: what is not above the highest is not charged."""
    assert charge(redis, sequence=7) == [CHARGED, NOW]
    for sequence in (7, 6, 1):
        assert unchanged(redis, [BEFORE, NOW], sequence=sequence)
    assert charge(redis, sequence=8) == [CHARGED, NOW]
    assert level_of(redis) == 3 * TOKEN


def test_lives_number_their_entries_by_themselves(redis):
    """The same number of another life is another entry."""
    assert [charge(redis, life=life)[0] for life in (LIFE, OTHER_LIFE, LIFE, OTHER_LIFE)] == [5, 5, 6, 6]
    assert level_of(redis) == 3 * TOKEN
    assert {
        field: struct.unpack("<2d", value) for field, value in redis.hgetall(KEY).items() if field[:2] == b"j:"
    } == {
        b"j:life---1": (1, NOW),
        b"j:life---2": (1, NOW),
    }


def test_entries_without_a_key_are_charged_once(redis):
    """Their ids have a hash of their own; only shared limits are charged."""
    shared = [(ACCOUNT, *TEN)]
    assert charge(redis, 2, flags=0, plan=(0, 0, 0), shared=shared) == [CHARGED, NOW]
    assert unchanged(redis, [BEFORE, NOW], 2, flags=0, plan=(0, 0, 0), shared=shared)
    assert level_of(redis, ACCOUNT) == 3 * TOKEN
    assert redis.hgetall(JOURNAL) == {b"j:life---1": doubles(1, NOW)}
    assert charge(redis, 2, shared=shared) == [CHARGED, NOW]  # another hash, so another entry


def test_ids_are_removed_after_a_day(redis):
    """Those of other lives, once they are older than a day, when anything of the hash is charged."""
    charge(redis)
    charge(redis, life=OTHER_LIFE, now=NOW + DAY)
    assert redis.hexists(KEY, "j:life---1")
    charge(redis, sequence=2, life=OTHER_LIFE, now=NOW + DAY + 1)
    assert not redis.hexists(KEY, "j:life---1")
    assert redis.hget(KEY, "j:life---2") == doubles(2, NOW + DAY + 1)


def test_an_id_of_ones_own_that_is_old_still_counts(redis):
    """It says so until another entry is charged; then it is the new one, and stays."""
    charge(redis, sequence=3)
    assert unchanged(redis, [BEFORE, NOW + 2 * DAY], sequence=3, now=NOW + 2 * DAY)
    assert charge(redis, sequence=4, now=NOW + 2 * DAY) == [CHARGED, NOW + 2 * DAY]
    assert redis.hget(KEY, "j:life---1") == doubles(4, NOW + 2 * DAY)


# Buckets


@pytest.mark.parametrize(
    ("cost", "level"), [(4, 1), (5, 0), (6, -1), (9, -4), (10, -5), (11, -5), (10**6, -5), (2**53, -5)]
)
def test_a_bucket_is_charged_down_to_minus_its_burst(redis, cost, level):
    """5 tokens, in one step: no further than -5, whatever the cost."""
    charge(redis, cost, own=[(METHOD, *TEN)], shared=[(ACCOUNT, *TEN)])
    assert [level_of(redis), level_of(redis, METHOD), level_of(redis, ACCOUNT)] == [level * TOKEN] * 3


def test_a_bucket_is_refilled_first(redis):
    """From -5 in 0.7 s to +2, then 4 off: -2; what it could not hold is lost."""
    redis.hset(KEY, PLAN, state(-5 * TOKEN, last=NOW - 700_000))
    charge(redis, 4)
    assert plan_state(redis)[:3] == (TOKEN, -2 * TOKEN, NOW)
    charge(redis, 4, 2, now=NOW + DAY)
    assert plan_state(redis)[:3] == (TOKEN, TOKEN, NOW + DAY)


def test_each_bucket_goes_on_from_its_own_state(redis):
    """One of a method at 2 that was refilled to 3, a shared one at -1: 1 off each."""
    redis.hset(KEY, METHOD, bucket(2 * TOKEN, last=NOW - 100_000))
    redis.set(ACCOUNT, bucket(-TOKEN))
    charge(redis, own=[(METHOD, *TEN)], shared=[(ACCOUNT, *TEN)])
    assert redis.hget(KEY, METHOD) == bucket(2 * TOKEN)
    assert redis.get(ACCOUNT) == bucket(-2 * TOKEN)


def test_a_bucket_below_minus_its_burst_is_not_raised(redis):
    """A smaller burst at the same rate leaves the level as it is: a charge takes nothing off, and gives nothing."""
    redis.hset(KEY, PLAN, state(-4 * TOKEN))
    charge(redis, 1, plan=(3, 1, TOKEN))
    assert level_of(redis) == -4 * TOKEN
    charge(redis, 2, 2, plan=(3, 1, TOKEN), now=NOW + 150_000)
    assert level_of(redis) == -3 * TOKEN  # -2.5, and 2 off


@pytest.mark.parametrize(
    ("level", "burst", "per", "new_level"),
    [
        (-150_000, 5, 400_000, -600_000 - 400_000),
        (-1, 5, 3, -1 - 3),  # rounded down
        (-500_000, 3, 400_000, -3 * 400_000),  # no lower than the new burst
    ],
)
def test_a_level_below_zero_follows_a_change_of_plan(redis, level, burst, per, new_level):
    """In units of the new rate, rounded down; no lower than minus the new burst. Then 1 off."""
    redis.hset(KEY, PLAN, state(level))
    charge(redis, 1, plan=(burst, 1, per))
    assert plan_state(redis)[:2] == (per, new_level)


def test_levels_of_the_largest_buckets_stay_exact(redis):
    """Of 9007 tokens in 10^12ths so many are missing to full that their sum is 2^53, and not more."""
    large = (9007, 1, 10**12)
    charge(redis, 10**6, plan=large)
    assert level_of(redis) == 9007 * 10**12 - 2**53
    small_step = NOW + 1
    charge(redis, 1, 2, plan=large, now=small_step)
    assert level_of(redis) == 9007 * 10**12 - 2**53


def test_a_clock_that_went_back_re_anchors(redis):
    """By more than 2 s: the level stays, and last_us is now; by less the later time stays."""
    redis.hset(KEY, PLAN, state(0, last=NOW + 2_000_001))
    charge(redis, 1)
    assert plan_state(redis)[:3] == (TOKEN, -TOKEN, NOW)
    redis.hset(KEY, PLAN, state(0, last=NOW + 2_000_000))
    charge(redis, 1, 2)
    assert plan_state(redis)[:3] == (TOKEN, -TOKEN, NOW + 2_000_000)


def test_a_bucket_that_never_fills_is_charged_too(redis):
    """Of rate 0, should the plan have become that meanwhile."""
    charge(redis, 2, plan=(5, 0, 1), shared=[(ACCOUNT, 5, 0, 1)])
    assert (level_of(redis), level_of(redis, ACCOUNT)) == (3, 3)


def test_a_plan_without_a_bucket_keeps_what_it_had(redis):
    """The state of a bucket that does not apply to the request stays."""
    redis.hset(KEY, PLAN, state(3 * TOKEN, last=NOW - 5))
    charge(redis, 2, plan=(0, 0, 0), own=[(METHOD, *TEN)])
    assert plan_state(redis)[:3] == (TOKEN, 3 * TOKEN, NOW - 5)
    assert level_of(redis, METHOD) == 3 * TOKEN


# Quotas


@pytest.mark.parametrize(
    ("stored", "spent_days_ago", "left"),
    [
        (count(99), 0, (WINDOW, 102)),  # its own window: 99 + 3, above the limit
        (count(50, first=TODAY - 1), 1, (WINDOW - 64, 53)),  # a past window, and it is the state's
        (count(50, first=TODAY - 3), 1, (WINDOW - 64, 3)),  # an older one: rolled to that of yesterday
        (count(50), 1, (WINDOW, 50)),  # today's has begun: not charged
        (None, 1, (WINDOW - 64, 3)),
        (None, 0, (WINDOW, 3)),
    ],
)
def test_a_quota_is_charged_in_the_window_of_the_units_alone(redis, stored, spent_days_ago, left):
    """Never in a later one."""
    if stored:
        redis.hset(KEY, PLAN, stored)
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=NOW - spent_days_ago * DAY)
    per, level, last, window, _, used, _, _ = plan_state(redis)
    assert (window, used) == left
    assert (per, level, last) == (0, 0, 0)
    if not stored:
        assert closed(redis) == {}


def test_a_grant_goes_with_its_window(redis):
    """It stays while the window does, and not in a later one."""
    redis.hset(KEY, PLAN, count(50, granted=-20))
    charge(redis, 3, plan=(0, 0, 0), quota=(100,))
    assert plan_state(redis)[5:7] == (53, -20)
    charge(redis, 3, 2, plan=(0, 0, 0), quota=(100,), spent=NOW + DAY, now=NOW + DAY)
    assert plan_state(redis)[5:7] == (3, 0)


def test_another_period_is_another_window(redis):
    """A count by the day, of a plan that since counts by the week: as for a check, it starts anew."""
    redis.hset(KEY, PLAN, count(50))
    charge(redis, 3, plan=(0, 0, 0), quota=(100, TODAY - 3, TODAY + 4, TODAY + 11))
    assert plan_state(redis)[3:6] == ((TODAY - 3) * 64 + 7, TODAY, 3)


def test_an_estimate_that_is_ahead_resets_no_quota(redis):
    """Spent, it says, tomorrow: 97 of today's were used, and 3 more are. A new count would mint 97."""
    redis.hset(KEY, PLAN, count(97, day_used=97))
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=NOW + DAY)
    assert plan_state(redis)[3:] == (WINDOW, TODAY, 100, 0, 100)


def test_a_window_begins_with_its_first_microsecond(redis):
    """By the server's clock; and of a key without a count one that has not begun is as good as any."""
    redis.hset(KEY, PLAN, count(97, day_used=97))
    midnight = (TODAY + 1) * DAY
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=midnight, now=midnight)
    assert plan_state(redis)[3:6] == (WINDOW + 64, TODAY + 1, 3)
    redis.hdel(KEY, PLAN)
    charge(redis, 3, 2, plan=(0, 0, 0), quota=(100,), spent=NOW + 2 * DAY)
    assert plan_state(redis)[3:6] == (WINDOW + 128, TODAY, 3)


def test_a_quota_of_nothing_is_charged(redis):
    """Should the plan have become that meanwhile."""
    assert charge(redis, 3, plan=(0, 0, 0), quota=(0,)) == [CHARGED, NOW]
    assert plan_state(redis)[3:6] == (WINDOW, TODAY, 3)
    assert unchanged(redis, "RATELIMIT ARGUMENTS", 3, 2, quota=(0, TODAY + 1, TODAY + 2, TODAY + 3))


def test_a_count_stays_exact(redis):
    """No further than 2^53 - 1."""
    redis.hset(KEY, PLAN, count(2**53 - 3, day_used=2**53 - 2))
    charge(redis, 5, plan=(0, 0, 0), quota=(100,))
    assert plan_state(redis)[5:] == (2**53 - 1, 0, 2**53 - 1)


def test_an_alert_is_pending_where_the_stream_lies_in_another_slot(redis):
    """The key's hash is passed in its stead, and keeps it until somebody has written it to the stream."""
    redis.hset(KEY, PLAN, count(79, granted=10))
    charge(redis, 25, quota=DAILY, tail=(80, 80, 100, 100), last_key=[KEY], flags=9)
    pending = {name: value for name, value in redis.hgetall(KEY).items() if name.startswith(b"a:gold:")}
    figures = {struct.unpack("<3d", value)[:2] for value in pending.values()}
    assert (set(pending), figures) == ({f"a:gold:{WINDOW}:{share}".encode() for share in (80, 100)}, {(104, 110)})
    assert redis.hget(KEY, "a:gold") == doubles(WINDOW, 100)


def test_an_alert_is_reported(redis):
    """If the charge takes the count to its share; with the figures of that window. And not again by the next one."""
    redis.hset(KEY, PLAN, count(0, granted=10))
    alerts = {"quota": DAILY, "tail": (80, 80, 100, 100), "last_key": [STREAM], "flags": 9}
    charge(redis, 79, **alerts)
    assert redis.xlen(STREAM) == 0
    charge(redis, 1, 2, **alerts)
    charge(redis, 25, 3, **alerts)
    charge(redis, 25, 4, **alerts)
    told = [
        (entry[b"percent"], entry[b"used"], entry[b"limit"], entry[b"window_day"]) for _, entry in redis.xrange(STREAM)
    ]
    assert told == [(b"80", b"80", b"110", b"20516"), (b"100", b"105", b"110", b"20516")]
    assert redis.hget(KEY, "a:gold") == doubles(WINDOW, 100)
    redis.hset(KEY, PLAN, count(90, first=TODAY + 1))
    charge(redis, 100, 5, **alerts)  # not charged to the quota: tomorrow's has begun
    assert redis.xlen(STREAM) == 2


# Metering


def closed(client):
    """Days that are over, of the hash and of the archive: units, and what was left."""
    in_hash = {field.decode(): value for field, value in client.hgetall(KEY).items() if field.startswith(b"d:")}
    archived = {field.decode(): value for field, value in client.hgetall(DAYS).items()}
    assert not any(field.startswith("d:") for field in archived)
    return {field: tuple(map(int, struct.unpack("<2d", value))) for field, value in (in_hash | archived).items()}


@pytest.mark.parametrize(("used", "granted", "left"), [(40, 0, 60), (40, 10, 70), (40, -10, 50), (120, 0, 0)])
@pytest.mark.parametrize("day", [1, TODAY - 2])
def test_a_day_that_is_over_is_closed(redis, used, granted, left, day):
    """As by a check: with what was left of the quota when the new day was first charged."""
    redis.hset(KEY, PLAN, count(used, first=TODAY - 2, granted=granted, day=day, day_used=30))
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=NOW - DAY)
    assert closed(redis) == {f"d:gold:{day}": (30, left)}
    assert plan_state(redis)[3:] == ((TODAY - 1) * 64 + 1, TODAY - 1, 3, 0, 3)


def test_a_later_window_keeps_what_was_left(redis):
    """A quota by the day, and units of the day before yesterday: yesterday's has its own."""
    redis.hset(KEY, PLAN, count(5, day_used=5))
    redis.hset(DAYS, mapping={"gold:20514": doubles(30, 1), "gold:20515": doubles(30, 70)})
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=NOW - 2 * DAY)
    assert closed(redis) == {"gold:20514": (33, 0), "gold:20515": (30, 70)}


@pytest.mark.parametrize(("before", "left"), [(0, 0), (2, 0), (-1, 97)])
def test_no_less_than_nothing_was_left(redis, before, left):
    """A day that follows one on which the quota was used up; -1 is one without a quota, which says nothing."""
    week = (100, TODAY - 3, TODAY + 4, TODAY + 11)
    redis.hset(KEY, PLAN, count(60, first=TODAY - 3, days=7, day_used=20))
    redis.hset(DAYS, "gold:20514", doubles(40, before))
    charge(redis, 3, plan=(0, 0, 0), quota=week, spent=NOW - DAY)
    assert closed(redis) == {"gold:20514": (40, before), "d:gold:20515": (3, left)}
    charge(redis, 3, 2, plan=(0, 0, 0), quota=week, spent=NOW - 2 * DAY)
    assert closed(redis) == {"gold:20514": (43, min(before, 0)), "d:gold:20515": (3, max(0, left - 3))}


@pytest.mark.parametrize("where", ["hash", "archive"])
def test_units_of_a_day_that_is_over_count_for_it(redis, where):
    """In the hash or once it is in the archive; so much less was left of the quota."""
    field = "d:gold:20515" if where == "hash" else "gold:20515"
    redis.hset(KEY, PLAN, count(5, day_used=5))
    redis.hset(KEY if where == "hash" else DAYS, field, doubles(30, 70))
    charge(redis, 3, plan=(0, 0, 0), quota=(100,), spent=NOW - DAY)
    assert closed(redis) == {field: (33, 67)}
    assert plan_state(redis)[3:] == (WINDOW, TODAY, 5, 0, 5)


def test_less_was_left_on_later_days_of_the_window_as_well(redis):
    """A quota by the week, from Sunday: spent on Monday, so Tuesday ended with less; not the week before."""
    week = (100, TODAY - 3, TODAY + 4, TODAY + 11)
    redis.hset(KEY, PLAN, count(60, first=TODAY - 3, days=7, day_used=20))
    redis.hset(DAYS, mapping={"gold:20512": doubles(9, 1), "gold:20514": doubles(20, 80)})
    redis.hset(KEY, "d:gold:20515", doubles(20, 60))
    charge(redis, 3, plan=(0, 0, 0), quota=week, spent=NOW - 2 * DAY)
    assert closed(redis) == {"gold:20512": (9, 1), "gold:20514": (23, 77), "d:gold:20515": (20, 57)}
    assert plan_state(redis)[5] == 63


def test_a_day_on_which_nothing_was_used_yet_is_made(redis):
    """What was left is that of the day before in the window, or all of the quota."""
    week = (100, TODAY - 3, TODAY + 4, TODAY + 11)
    redis.hset(KEY, PLAN, count(20, first=TODAY - 3, days=7, day_used=0))
    charge(redis, 3, plan=(0, 0, 0), quota=week, spent=NOW - 3 * DAY)
    assert closed(redis) == {"d:gold:20513": (3, 97)}
    charge(redis, 4, 2, plan=(0, 0, 0), quota=week, spent=NOW - DAY)
    assert closed(redis) == {"d:gold:20513": (3, 97), "d:gold:20515": (4, 93)}
    charge(redis, 5, 3, plan=(0, 0, 0), quota=week, spent=NOW - 2 * DAY)
    assert closed(redis) == {"d:gold:20513": (3, 97), "d:gold:20514": (5, 92), "d:gold:20515": (4, 88)}


def test_without_a_quota_only_the_day_counts(redis):
    """What was left of a quota then stays as it was."""
    redis.hset(KEY, PLAN, state(0, day_used=5))
    redis.hset(KEY, "d:gold:20514", doubles(30, 70))
    charge(redis, 3, spent=NOW - 2 * DAY)
    charge(redis, 3, 2, spent=NOW - DAY)
    assert closed(redis) == {"d:gold:20514": (33, 70), "d:gold:20515": (3, -1)}
    assert plan_state(redis)[4:] == (TODAY, 0, 0, 5)


def test_days_do_not_go_beyond_the_servers(redis):
    """An estimate that is ahead counts for today, or for the day that the state is at."""
    redis.hset(KEY, PLAN, state(0, day=TODAY - 1, day_used=5))
    charge(redis, 3, spent=NOW + DAY)
    assert closed(redis) == {"d:gold:20515": (5, -1)}
    assert plan_state(redis)[4:] == (TODAY, 0, 0, 3)
    redis.hset(KEY, PLAN, state(0, day=TODAY + 1, day_used=5))
    charge(redis, 3, 2, spent=NOW + 2 * DAY)
    assert plan_state(redis)[4:] == (TODAY + 1, 0, 0, 8)


# Versions


@pytest.mark.parametrize(
    ("stored", "flags", "reply"),
    [
        (None, 1, KEY_CHANGED),
        (version_token(stamp="stamp--2"), 1, KEY_CHANGED),
        (version_token(stamp="stamp--2"), 3, KEY_CHANGED),
        (version_token(8), 1, CATALOG_BEHIND),
        (version_token(6, epoch="epoch--2"), 1, CATALOG_BEHIND),
    ],
)
def test_whoever_is_behind_looks_again(redis, stored, flags, reply):
    """As for a check; nothing is written."""
    redis.delete(KEY)
    if stored:
        redis.hset(KEY, "r", stored)
    assert unchanged(redis, [reply, NOW], flags=flags)


@pytest.mark.parametrize(("stored", "flags"), [(version_token(6), 1), (version_token(8), 3), (version_token(), 1)])
def test_the_version_that_was_charged_under_is_noted(redis, stored, flags):
    """A newer one, or one that is all there is."""
    redis.hset(KEY, "r", stored)
    assert charge(redis, flags=flags) == [CHARGED, NOW]
    assert redis.hget(KEY, "r") == version_token()


def test_what_was_charged_before_needs_no_look(redis):
    """Though the key changed since."""
    charge(redis)
    redis.hset(KEY, "r", version_token(9, stamp="stamp--2"))
    assert unchanged(redis, [BEFORE, NOW])


# Identities


def identity(client, cost=1, sequence=1, **options):
    return charge(client, cost, sequence, **{"flags": 33, "key": IDENTITY, "stamp": "--------", **options})


def test_an_identity_is_made(redis):
    """As by its first charge: with the version it was charged under."""
    assert identity(redis, 7, quota=DAILY) == [CHARGED, NOW]
    assert redis.hget(IDENTITY, "r") == version_token(stamp="--------")
    assert plan_state(redis, IDENTITY) == (TOKEN, -2 * TOKEN, NOW, WINDOW, TODAY, 7, 0, 7)
    assert identity(redis, 7, quota=DAILY) == [BEFORE, NOW]


def test_an_identity_has_no_closed_days(redis):
    """Of a later day than that of the units nothing is kept, and an earlier one is forgotten."""
    identity(redis, 2)
    identity(redis, 3, 2, spent=NOW - DAY)
    assert plan_state(redis, IDENTITY)[4:] == (TODAY, 0, 0, 2)
    identity(redis, 4, 3, spent=NOW + DAY, now=NOW + DAY)
    assert plan_state(redis, IDENTITY)[4:] == (TODAY + 1, 0, 0, 4)
    assert set(redis.hgetall(IDENTITY)) == {b"r", b"p:gold", b"j:life---1"}
    assert not redis.exists(DAYS)


def test_an_identity_is_counted(redis):
    """Among those of its plan, however many there may be: it was admitted."""
    assert identity(redis, flags=161, tail=(0, 1), last_key=[COUNTED]) == [CHARGED, NOW]
    assert redis.zrange(COUNTED, 0, -1) == [b"jZrdFy2t_aol4-D45-7CFw"]


# Time


def test_expiries_wait_for_a_bucket_below_zero(redis):
    """-30 to 30 at 0.3 a second takes 200 s, and 60 s more; ids without a key live for a day, a key's hash for ever."""
    shared = [(ACCOUNT, 30, 3, 10_000_000)]
    identity(redis, 100, now=0, shared=shared)
    charge(redis, 100, now=0, flags=0, plan=(0, 0, 0))
    charge(redis, 100, now=0)
    for name, lifetime_ms in ((IDENTITY, 61_000), (ACCOUNT, 260_000), (JOURNAL, DAY // 1000)):
        assert lifetime_ms - 5_000 < redis.pttl(name) <= lifetime_ms
    assert redis.pttl(KEY) == -1
    identity(redis, 1, 2, now=0, kept=300_000_000)
    assert 295_000 < redis.pttl(IDENTITY) <= 300_000


def test_the_plans_bucket_keeps_an_identity(redis):
    """10 of 0.1 a second, from -10 to 10: 200 s, and 60 s more. Of one that never fills 60 s."""
    identity(redis, 100, now=0, plan=(10, 1, 10_000_000))
    assert 255_000 < redis.pttl(IDENTITY) <= 260_000
    redis.delete(IDENTITY)
    identity(redis, 100, now=0, plan=(10, 0, 1), shared=[(ACCOUNT, 10, 0, 1)])
    assert 55_000 < redis.pttl(IDENTITY) <= 60_000
    assert 55_000 < redis.pttl(ACCOUNT) <= 60_000


def test_under_a_callers_clock_nothing_expires(redis):
    """Redis goes by its own."""
    identity(redis, shared=[(ACCOUNT, *TEN)])
    charge(redis, flags=0, plan=(0, 0, 0))
    assert [redis.pttl(name) for name in (IDENTITY, ACCOUNT, JOURNAL)] == [-1] * 3


def test_the_servers_clock(redis):
    """Without a caller's, the reply and the states have the server's."""
    seconds, microseconds = redis.time()
    _, now_us = charge(redis, 5, now=0)
    assert 0 <= now_us - (seconds * 1_000_000 + microseconds) < 60_000_000
    assert plan_state(redis)[:3] == (TOKEN, 0, now_us)


def test_the_edges_of_numbers(redis):
    """The earliest time, and the last number of a life."""
    assert charge(redis, life=OTHER_LIFE, spent=NOW - 1, flags=2, plan=(0, 0, 0)) == [CHARGED, NOW]
    assert charge(redis, sequence=2**53 - 1, spent=0, now=1) == [CHARGED, 1]
    assert plan_state(redis) == (TOKEN, 4 * TOKEN, 1, 0, 0, 0, 0, 1)
    assert unchanged(redis, [BEFORE, NOW], sequence=2**53 - 1)


# What cannot be charged

NAN = float("nan")
EVERYTHING = {"quota": DAILY, "own": [(METHOD, *TEN)], "shared": [(ACCOUNT, *TEN)]}


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        (KEY, PLAN, state(NAN)),
        (KEY, PLAN, state(0.5)),
        (KEY, PLAN, state(-(2.0**54))),
        (KEY, PLAN, state(used=-1)),
        (KEY, PLAN, state()[:-1]),
        (KEY, METHOD, bucket(NAN)),
        (KEY, METHOD, bucket(0) + b"x"),
        (ACCOUNT, None, bucket(0, per=0)),
        (ACCOUNT, None, b""),
        (KEY, "j:life---1", doubles(NAN, NOW)),
        (KEY, "j:life---1", b"1"),
        (KEY, "d:gold:20515", doubles(1, NAN)),
        (KEY, "d:gold:20515", b"1"),
        (DAYS, "gold:20515", doubles(0.5, 1)),
    ],
)
def test_a_state_that_no_script_wrote_is_an_error(redis, key, field, value):
    """It names the field, and nothing is written: not even the id, so that it is charged once it is mended."""
    before_today = {"spent": NOW - DAY, "quota": (100, TODAY - 1, TODAY, TODAY + 1)}
    redis.hset(KEY, PLAN, count(5, day_used=5))
    redis.set(ACCOUNT, bucket(0))
    if field is None:
        redis.set(key, value)
    else:
        redis.hset(key, field, value)
    assert unchanged(redis, f"RATELIMIT CORRUPT {field or key}", **{**EVERYTHING, **before_today})


@pytest.mark.parametrize("key", [KEY, ACCOUNT, DAYS])
def test_another_type_is_an_error(redis, key):
    """Nothing is written, wherever it is met."""
    redis.hset(KEY, PLAN, count(5, day_used=5))
    redis.delete(key)
    redis.lpush(key, "1")
    before_today = {"spent": NOW - DAY, "quota": (100, TODAY - 1, TODAY, TODAY + 1)}
    assert unchanged(redis, "WRONGTYPE", **{**EVERYTHING, **before_today})


def test_an_alert_that_cannot_be_written_fails_no_charge(redis):
    """All is charged by then."""
    redis.set(STREAM, "no stream")
    assert charge(redis, 80, quota=DAILY, tail=(80, 80), last_key=[STREAM], flags=9) == [CHARGED, NOW]


@pytest.mark.parametrize(
    "wrong",
    [
        {"cost": 0},
        {"cost": 0.5},
        {"cost": NAN},
        {"sequence": 0},
        {"sequence": 1.5},
        {"sequence": NAN},
        {"sequence": 2.0**53},
        {"spent": -1},
        {"spent": NAN},
        {"life": "short"},
        {"life": "too long for one"},
        {"flags": 5},
        {"flags": 17},
        {"flags": 65},
        {"flags": 256},
        {"flags": -1},
        {"flags": NAN},
        {"flags": 8, "plan": (0, 0, 0)},
        {"flags": 129},
        {"flags": 41},
        {"flags": 9, "tail": (80,), "last_key": [STREAM]},
        {"flags": 161, "key": IDENTITY, "last_key": [COUNTED]},
        {"flags": 161, "key": IDENTITY, "tail": (1,), "last_key": [COUNTED]},
        {"tail": (1, 2, 3)},
        {"quota": (100, TODAY + 1, TODAY + 2, TODAY + 3)},
        {"quota": (100, TODAY - 1, TODAY, TODAY + 1)},
        {"keys": [KEY]},
        {"keys": [KEY, DAYS, ACCOUNT]},
        {"argv": []},
        {
            "keys": [KEY, DAYS, ACCOUNT],
            "argv": [doubles(NOW, 1, 0, 1, 0, 0, 0, -1, 0, 0, 0) + version_token(), LIFE, doubles(1, NOW)],
        },
        {
            "keys": [JOURNAL],
            "argv": [doubles(NOW, 1, 0, 0, *[0] * 3, -1, *[0] * 3) + version_token(), "x", LIFE, doubles(1, NOW)],
        },
        {"argv": [b"x", PLAN, LIFE, doubles(1, NOW)]},
        {"argv": [bytes(114), PLAN, LIFE, doubles(1)]},
    ],
)
def test_arguments_that_do_not_match_are_an_error(redis, wrong):
    """Numbers that mean nothing, flags of other scripts, lengths: nothing is written."""
    assert unchanged(redis, "RATELIMIT ARGUMENTS", **wrong)
