"""shared_lease.lua, called by hand: what is granted, what is credited, what is stored, and what is refused."""

import struct

import pytest
import redis
from helpers.redis_snapshot import exact_snapshot
from helpers.shared_script import KEY, NOW, Script, request, throttle

from ratelimit.engine.shared_lease import EPOCH_US

QUICK, SLOW = throttle(1000, 10), throttle(10, 10)
"""A token is 1,000 units, and full after 10 ms; a token is 100,000 units, and full after 1 s. A unit a microsecond."""
EPOCH = NOW // EPOCH_US
V1, V2, OTHER = "epoch--10000000001", "epoch--10000000002", "epoch--20000000001"


@pytest.fixture
def script(server):
    with server.client() as client:
        yield Script(client)


def test_who_waits_comes_first(script):
    """Exactly what there is."""
    first = script(NOW, QUICK, waiting=3)
    assert (first.status, first.now, first.granted, first.level, first.last) == (1, NOW, 3, 7_000, NOW)
    assert (first.epoch, first.pace, first.credited) == (EPOCH, 0, 0)
    assert script(NOW, QUICK, waiting=9).granted == 7
    assert (script(NOW + 999, QUICK, waiting=1).granted, script(NOW + 1_000, QUICK, waiting=1).granted) == (0, 1)


def test_units_that_serve_nobody_are_not_granted(script):
    """Of 10, checks of 3 can use 9; whether they use the others is seen if all are served."""
    assert script(NOW, QUICK, waiting=12, multiple=3).granted == 9
    assert script(NOW, QUICK, waiting=1, multiple=3).granted == 1


def test_ahead_half_of_what_is_left_at_most(script):
    assert script(NOW, QUICK, waiting=2, ahead=10).granted == 2 + 4
    assert script(NOW + 20_000, QUICK, ahead=3).granted == 3
    assert script(NOW + 40_000, QUICK, waiting=11, ahead=3).granted == 10
    assert script(NOW + 60_000, throttle(1000, 7), ahead=3).granted == 0
    assert script(NOW + 80_000, throttle(1000, 8), ahead=3).granted == 3


def test_ahead_by_the_share_of_the_demand(script):
    """One of four units that were demanded in this epoch, or in the one before."""
    assert script(NOW, QUICK, ahead=10, recent=4, demand=1).granted == 1
    assert script(NOW + EPOCH_US, QUICK, ahead=10, demand=1).granted == 1
    assert script(NOW + 2 * EPOCH_US, QUICK, ahead=10, demand=1).granted == 5


def test_a_process_without_demand_has_no_share(script):
    """Unless nobody has any."""
    assert script(NOW, QUICK, ahead=10, demand=0).granted == 5
    assert script(NOW + 20_000, QUICK, ahead=10, demand=0, recent=4).granted == 0


def test_the_smallest_level_is_a_unit_as_well(script):
    """At a token a microsecond, that is a token."""
    fast = throttle(1_000_000, 10)
    assert (script(NOW, fast, waiting=9).level, script(NOW, fast, waiting=1).granted) == (1, 1)


def test_the_first_epoch_of_all(script):
    """By a caller's clock that is there the bucket is full, and counts begin at 0."""
    reply = script(1, QUICK, epoch=5, waiting=4)
    assert (reply.now, reply.last, reply.granted, reply.epoch) == (1, 1, 4, 0)
    assert script.numbers() == [1_000, 6_000, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0]


def test_a_rate_of_nothing_gives_nothing(script):
    assert script(NOW, throttle(0, 10), waiting=1, ahead=3).granted == 0


def test_what_was_not_refilled_is_credited(script):
    """5,000 units 2,000 us ago: 3,000."""
    script(NOW, QUICK, waiting=5)
    reply = script(NOW + 2_000, QUICK, returned=[(5, NOW, 2_000)])
    assert (reply.credited, reply.level) == (3_000, 10_000)
    assert (script.numbers()[5], script.numbers()[9]) == (0, 0)


def test_the_rate_refills_in_each_microsecond(script):
    """At 3 units, 5,000 have become 2,000 after 1,000 us."""
    limit = throttle(3_000, 30)
    script(NOW, limit, waiting=20)
    assert script(NOW + 1_000, limit, returned=[(5, NOW, 0)]).credited == 2_000


def test_the_longer_wait_counts(script):
    """By the caller's own clock it was 4,000 us."""
    script(NOW, QUICK, waiting=9)
    assert script(NOW + 2_000, QUICK, returned=[(5, NOW, 4_000)]).credited == 1_000


def test_a_busy_bucket_credits_all(script):
    """It missed more than that to full all the time, so it would have one more now."""
    script(NOW, SLOW, waiting=10)
    assert script(NOW + 125_000, SLOW, waiting=1).granted == 1
    assert script(NOW + 225_000, SLOW, returned=[(1, NOW + 125_000, 0)]).credited == 100_000


def test_what_the_epoch_before_missed_least_counts(script):
    """It was full when these were charged."""
    script(NOW, SLOW, waiting=10)
    assert script(NOW + 130_000, SLOW, returned=[(1, NOW, 0)]).credited == 0


def test_late_in_the_epoch_before_as_well(script):
    """By 5,000 us it is the epoch before; 101,000 units were refilled since."""
    script(NOW + 120_000, SLOW, waiting=10)
    script(NOW + 125_000, SLOW)
    assert script(NOW + 221_000, SLOW, returned=[(1, NOW + 120_000, 0)]).credited == 0


def test_a_bucket_that_was_busy_in_both_epochs_credits_all(script):
    """It missed 875,000 at the beginning of the one, and 850,000 of the other; now there are 100,000 more."""
    script(NOW, SLOW, waiting=10)
    assert script(NOW + 125_000, SLOW, waiting=1).granted == 1
    assert script(NOW + 250_000, SLOW, returned=[(1, NOW + 125_000, 0)]).credited == 100_000
    assert (script.numbers()[5], script.numbers()[9]) == (750_000, 750_000)


def test_credits_share_the_least_debt(script):
    """1,500 units were missing at the least since both were charged."""
    script(NOW + 124_000, QUICK, waiting=10)
    assert script(NOW + 125_500, QUICK, waiting=1).granted == 1
    assert script(NOW + 132_500, QUICK, waiting=1).granted == 1
    assert script(NOW + 134_500, QUICK, waiting=9).granted == 8
    both = [(1, NOW + 125_500, 0), (1, NOW + 132_500, 0)]
    assert script(NOW + 135_500, QUICK, returned=both).credited == 1_500
    assert script(NOW + 135_500, QUICK, returned=both).credited == 0


def test_two_epochs_later_the_refill_counts(script):
    """Nobody knows what it missed least."""
    script(NOW, SLOW, waiting=1)
    script(NOW + 120_000, SLOW, waiting=10)
    script(NOW + 125_000, SLOW)
    assert script(NOW + 250_000, SLOW, returned=[(1, NOW, 0), (3, NOW, 0)]).credited == 50_000


def test_no_more_than_was_missing(script):
    script(NOW, QUICK, waiting=1)
    assert script(NOW, QUICK, returned=[(9, NOW, 0)]).level == 10_000
    script(NOW, QUICK, waiting=1)
    reply = script(NOW, QUICK, returned=[(1, NOW, 0), (1, NOW, 0)])
    assert (reply.credited, reply.level) == (1_000, 10_000)


def test_nothing_can_be_returned(script):
    script(NOW, QUICK, waiting=1)
    assert script(NOW, QUICK, returned=[(0, NOW, 0)]).credited == 0


def test_what_the_server_lost_is_not_credited(script):
    """Nor what was charged in the future."""
    script(NOW, QUICK, waiting=5)
    script.client.delete(KEY)
    script(NOW + 1_000, QUICK, waiting=10)
    assert script(NOW + 1_500, QUICK, returned=[(5, NOW, 0), (5, NOW + 1_600, 0)]).credited == 0


def test_below_zero_nothing_is_credited(script):
    """A journal may have charged less there than was spent."""
    script(NOW, QUICK, waiting=1)
    value = script.client.get(KEY)
    script.client.set(KEY, struct.pack("<3d", 1_000, -3_000, NOW) + value[24:])
    reply = script(NOW + 1, QUICK, waiting=1, returned=[(1, NOW, 0)])
    assert (reply.granted, reply.credited, reply.level) == (0, 0, -2_999)
    assert script(NOW + 2_999, QUICK, returned=[(1, NOW + 2_999, 0)]).level == -1


def test_an_old_catalogue_is_refused(script):
    """Nothing is charged, credited or stored; whoever found nothing newer says so."""
    script(NOW, QUICK, waiting=5, version=V2)
    before = exact_snapshot(script.client)
    for version in (V1, OTHER):
        reply = script(NOW, SLOW, waiting=1, returned=[(1, NOW, 0)], version=version)
        assert (reply.status, reply.now) == (-2, NOW)
    assert exact_snapshot(script.client) == before
    assert script(NOW, QUICK, waiting=1, version=V1, flags=2).granted == 1
    assert script.client.get(KEY)[104:] == V1.encode()


def test_a_new_catalogue_is_adopted(script):
    """The level is counted in its units, and what was charged before is not credited."""
    script(NOW, QUICK, waiting=4, version=V1)
    reply = script(NOW, SLOW, version=V2, returned=[(4, NOW, 0)])
    assert (reply.level, reply.credited) == (600_000, 0)
    assert script(NOW + 1, SLOW, version=V2, returned=[(4, NOW - 1, 0)]).credited == 0
    script(NOW + 1, SLOW, version=V2, waiting=1)
    assert script(NOW + 2, SLOW, version=V2, returned=[(1, NOW + 1, 0)]).credited == 99_999


@pytest.mark.parametrize("at_us", [126_000, 251_000])
def test_under_a_new_catalogue_nobody_knows_what_was_missing(script, at_us):
    """In the same epoch, and in a later one: a unit that was refilled since is not credited."""
    script(NOW, SLOW, waiting=10, version=V1)
    script(NOW + 125_000, SLOW, version=V1)
    assert script.numbers()[5] == 875_000
    assert script(NOW + at_us, SLOW, version=V2, waiting=1).granted == 1
    assert (script.numbers()[5], script.numbers()[9]) == (0, 0)
    assert script(NOW + at_us + 101_000, SLOW, version=V2, returned=[(1, NOW + at_us, 0)]).credited == 0


def test_a_bucket_of_one_server_goes_on(script):
    script.client.set(KEY, struct.pack("<3d", 1_000, 2_000, NOW))
    assert script(NOW + 1_000, QUICK, waiting=9).granted == 3
    assert len(script.client.get(KEY)) == 122


def test_the_value_begins_as_that_of_any_shared_bucket(script):
    script(NOW, QUICK, waiting=3)
    assert struct.unpack("<3d", script.client.get(KEY)[:24]) == (1_000, 7_000, NOW)


def test_a_clock_that_goes_back(script):
    """A little, and the bucket's time goes on; more, and it is anchored anew, and knows nothing of the past."""
    script(NOW + 3_000_000, QUICK, waiting=10)
    reply = script(NOW + 1_500_000, QUICK, returned=[(1, NOW + 3_000_000, 0)])
    assert (reply.last, reply.credited, reply.now) == (NOW + 3_000_000, 1_000, NOW + 1_500_000)
    reply = script(NOW, QUICK, returned=[(1, NOW, 0)])
    assert (reply.last, reply.level, reply.credited) == (NOW, 2_000, 1_000)
    assert script(NOW + 500, QUICK, returned=[(1, NOW - 1, 0)]).credited == 0


def test_a_peek_changes_nothing(script):
    """It looks at a newer catalogue's bucket as well."""
    assert script(NOW, QUICK, flags=64).level == 10_000
    assert script.client.keys() == []
    script(NOW, QUICK, waiting=4, version=V2)
    before = exact_snapshot(script.client)
    assert script(NOW + 500, QUICK, flags=64, version=V1).level == 6_500
    reply = script(NOW + 100_000, SLOW, flags=66, version=V1)
    assert (reply.status, reply.granted, reply.last, reply.epoch) == (1, 0, NOW + 100_000, EPOCH)
    assert (reply.level, reply.pace, reply.credited) == (700_000, 0, 0)
    assert exact_snapshot(script.client) == before


def test_a_bucket_that_many_ask_paces_them(script):
    """More than 2,500 requests in an epoch: 50 us for each of those who ask, within bounds."""
    wide = throttle(1_000_000, 1_000_000)

    def pace(asks, askers, limit=wide, **asked):
        script(NOW, limit, waiting=1)
        numbers = script.numbers()
        numbers[6], numbers[8] = askers, asks
        script.client.set(KEY, struct.pack("<13d", *numbers) + V1.encode())
        return script(NOW, limit, epoch=EPOCH, **asked).pace

    assert pace(2_499, 100) == 0
    assert pace(2_500, 100) == 5_000
    assert pace(2_500, 10) == 2_000
    assert pace(2_500, 5_000) == 50_000
    script.client.delete(KEY)
    assert pace(2_500, 100, throttle(10_000, 50)) == 2_500  # in half the time the bucket is full
    script.client.delete(KEY)
    assert pace(2_500, 10, throttle(1_000, 1_000), recent=4, demand=1) == 8_000  # two units of its share
    script.client.delete(KEY)
    assert pace(2_500, 100, recent=4, demand=0) == 5_000  # of which it has none
    script.client.delete(KEY)
    assert pace(2_500, 100, throttle(3_000, 10)) == 1_666  # half of 3,333
    script.client.delete(KEY)
    assert pace(2_500, 100, throttle(0, 10)) == 0  # nothing comes, however long one waits


def test_who_asks_is_counted_once_in_an_epoch(script):
    script(NOW, QUICK)
    script(NOW, QUICK, epoch=EPOCH, recent=3)
    script(NOW, QUICK, recent=2)
    assert script.numbers()[4:9] == [EPOCH, 0, 2, 5, 3]
    script(NOW + EPOCH_US, QUICK, recent=7)
    assert script.numbers()[4:] == [EPOCH + 1, 0, 1, 7, 1, 0, 2, 5, 3]
    script(NOW + EPOCH_US, QUICK, waiting=10, epoch=EPOCH + 1)
    script(NOW + EPOCH_US, SLOW, waiting=1, epoch=EPOCH + 1)
    script(NOW + 3 * EPOCH_US, SLOW, recent=1)
    assert script.numbers()[4:] == [EPOCH + 3, 750_000, 1, 1, 1, 750_000, 0, 0, 0]


def in_a_half_minute(client, steps):
    """Do what has to be in one half minute of the server, again if another began."""
    while True:
        began = client.time()[0] // 30
        steps(began * 30_000_000)
        if client.time()[0] // 30 == began:
            return


def longest_expiry(script, limit, value=None):
    """In milliseconds: of five, as one may pass before it is asked."""
    found = []
    for _ in range(5):
        script.client.delete(KEY)
        if value:
            script.client.set(KEY, value)
        with script.client.pipeline(transaction=True) as pipeline:
            found.append(pipeline.evalsha(script.sha, 1, KEY, request(0, limit)).pttl(KEY).execute()[1])
    return max(found)


def test_it_expires_once_it_is_full(script):
    """By the server's clock: a minute, and what it takes; in whole milliseconds."""
    assert longest_expiry(script, throttle(1_000_000, 1_001_000)) == 61_001
    assert longest_expiry(script, throttle(1_000_000, 1_001_250)) == 61_001
    assert longest_expiry(script, throttle(1_000_000, 1_000_999)) == 61_000
    assert longest_expiry(script, throttle(3_000, 30)) == 60_010
    assert longest_expiry(script, throttle(0, 10)) == 60_000


def test_below_zero_it_takes_longer(script):
    """A million units, less what is refilled while the test runs."""
    seconds, microseconds = script.client.time()
    value = struct.pack("<3d", 100_000, -61_000_000, seconds * 10**6 + microseconds - 60_000_000)
    assert 61_000 < longest_expiry(script, SLOW, value) <= 62_000


def test_the_expiry_is_put_off_each_half_minute_alone(script):
    """What is stored in between keeps the one that there is."""

    def steps(began_us):
        script.client.delete(KEY)
        script(0, SLOW, waiting=5)
        script.client.pexpire(KEY, 5_000)
        assert script(0, SLOW, waiting=1).level == script.numbers()[1] < 500_000
        kept.append(script.client.pttl(KEY))
        script.client.set(KEY, struct.pack("<3d", 100_000, 0, began_us), px=5_000)
        script(0, SLOW)
        kept.append(script.client.pttl(KEY))
        script.client.set(KEY, struct.pack("<3d", 100_000, 0, began_us - 1), px=5_000)
        script(0, SLOW)
        put_off.append(script.client.pttl(KEY))

    kept, put_off = [], []
    in_a_half_minute(script.client, steps)
    assert 0 < kept[-2] <= 5_000
    assert 0 < kept[-1] <= 5_000
    assert 60_900 < put_off[-1] <= 61_000


def test_no_expiry_under_a_callers_clock(script):
    script(NOW, SLOW, waiting=5)
    assert script.client.pttl(KEY) == -1


@pytest.mark.parametrize(
    "value",
    [
        b"",
        struct.pack("<3d", 1_000, 0.5, NOW),
        struct.pack("<3d", 0, 1_000, NOW),
        struct.pack("<2d", 1_000, 0),
        struct.pack("<13d", 1_000, 0, NOW, *[0] * 10),
        struct.pack("<13d", 1_000, 0, NOW, NOW, EPOCH, -1, *[0] * 7) + V1.encode(),
        struct.pack("<13d", 1_000, 0, NOW, NOW, EPOCH, float("nan"), *[0] * 7) + V1.encode(),
        struct.pack("<13d", 1_000, 0, NOW, NOW, EPOCH, *[0] * 7, 2.0**53) + V1.encode(),
    ],
)
def test_a_value_that_no_script_wrote_is_not_judged(script, value):
    script.client.set(KEY, value)
    with pytest.raises(redis.ResponseError, match=f"RATELIMIT CORRUPT {KEY}".replace("*", r"\*")):
        script(NOW, QUICK, waiting=1)
    assert script.client.get(KEY) == value


def test_another_type_is_not_judged(script):
    script.client.hset(KEY, "a", 1)
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        script(NOW, QUICK, waiting=1)


WHOLE = request(NOW, QUICK, waiting=1)


def with_number(at, number):
    return WHOLE[: 8 * at] + struct.pack("<d", number) + WHOLE[8 * at + 8 :]


def with_limit(burst, rate, per):
    return WHOLE[:16] + struct.pack("<3d", burst, rate, per) + WHOLE[40:]


def test_the_least_and_the_largest_limits(script):
    """None at all; and a sum of 2^53 - 1, where tokens count as three at least."""
    assert script.raw(with_limit(0, 1, 1_000)).granted == 0
    script.client.delete(KEY)
    assert script.raw(with_limit(1, 1, (2**53 - 2) // 3)).granted == 1


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        WHOLE[:-1],
        WHOLE[:-24],
        WHOLE + b"1",
        *[with_number(at, 0.5) for at in range(11)],
        *[with_number(at, -1.0) for at in range(10)],
        with_number(1, 1.0),
        with_number(1, 66.0),
        with_number(4, 0.0),
        with_number(6, 0.0),
        with_number(2, 2.0**50),
        with_limit(1, 2, (2**53 - 2) // 3),
        with_number(5, float("nan")),
        request(NOW, QUICK, flags=64, ahead=1),
        request(NOW, QUICK, flags=64, returned=[(1, NOW, 0)]),
        request(NOW, QUICK, returned=[(-1, NOW, 0)]),
        request(NOW, QUICK, returned=[(1, NOW, -1)]),
        request(NOW, QUICK, returned=[(0.5, NOW, 0)]),
    ],
)
def test_arguments_that_are_none(script, packed):
    """Nothing is written."""
    with pytest.raises(redis.ResponseError, match="RATELIMIT ARGUMENTS"):
        script.raw(packed)
    with pytest.raises(redis.ResponseError, match="RATELIMIT ARGUMENTS"):
        script.client.evalsha(script.sha, 2, KEY, KEY, WHOLE)
    with pytest.raises(redis.ResponseError, match="RATELIMIT ARGUMENTS"):
        script.client.evalsha(script.sha, 1, KEY)
    assert script.client.keys() == []
