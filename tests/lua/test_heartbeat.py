"""heartbeat.lua, called by hand: who lives, and how many."""

import pytest
from redis.exceptions import ResponseError

from ratelimit.scripts import load

REPLICAS = "{ratelimit}:replicas"
NOW = 1_772_625_600_000_000
SECOND = 1_000_000
LIVES = ("life---1", "life---2", "life---3")


@pytest.fixture
def redis(backend):
    with backend.client() as client:
        yield client


def beat(client, life=LIVES[0], now=NOW, *further):
    return client.eval(load("heartbeat").source, 1, REPLICAS, now, life, *further)


def members(client):
    return {member.decode(): score for member, score in client.zrange(REPLICAS, 0, -1, withscores=True)}


def test_each_process_counts_once(redis):
    """Itself included, however often it says so."""
    assert [beat(redis, life, NOW + at) for at, life in enumerate((*LIVES, *LIVES))] == [1, 2, 3, 3, 3, 3]
    assert members(redis) == {life: NOW + 3 + at for at, life in enumerate(LIVES)}


def test_who_was_not_heard_for_15_seconds_does_not_count(redis):
    """Up to then it does, to the microsecond; then it is removed. It may come back."""
    beat(redis, LIVES[0], NOW)
    assert beat(redis, LIVES[1], NOW + 15 * SECOND - 1) == 2
    assert beat(redis, LIVES[1], NOW + 15 * SECOND) == 1
    assert members(redis) == {LIVES[1]: NOW + 15 * SECOND}
    assert beat(redis, LIVES[0], NOW + 16 * SECOND) == 2


def test_who_leaves_is_gone_at_once(redis):
    """And is told how many are left; whoever had left before, too."""
    for life in LIVES:
        beat(redis, life)
    assert [beat(redis, LIVES[0], NOW, "leave") for _ in range(2)] == [2, 2]
    assert members(redis) == dict.fromkeys(LIVES[1:], NOW)
    assert [beat(redis, life, NOW, "leave") for life in LIVES[1:]] == [1, 0]
    assert not redis.exists(REPLICAS)


def test_a_clock_that_went_back_counts_too_many_rather_than_too_few(redis):
    """Who was heard later than now counts until the clock is there again; one's own time is the present."""
    for life in LIVES:
        beat(redis, life)
    assert beat(redis, LIVES[0], NOW - 3_600 * SECOND) == 3
    assert members(redis)[LIVES[0]] == NOW - 3_600 * SECOND
    assert beat(redis, LIVES[0], 1) == 3
    assert members(redis)[LIVES[0]] == 1


def test_the_set_expires_a_minute_after_the_last_one(redis):
    """By the server's clock, which is also the score; not by a caller's."""
    beat(redis)
    assert redis.pttl(REPLICAS) == -1
    redis.delete(REPLICAS)
    seconds, microseconds = redis.time()
    assert [beat(redis, life, 0) for life in LIVES] == [1, 2, 3]
    assert 55_000 < redis.pttl(REPLICAS) <= 60_000
    assert 0 <= members(redis)[LIVES[0]] - (seconds * SECOND + microseconds) < 60 * SECOND
    redis.pexpire(REPLICAS, 10_000)
    assert beat(redis, LIVES[0], 0, "leave") == 2
    assert 55_000 < redis.pttl(REPLICAS) <= 60_000


@pytest.mark.parametrize("arguments", [(), ("x", LIVES[0]), (NOW,), (NOW, "short"), (NOW, LIVES[0], "go")])
def test_arguments_that_do_not_match_are_an_error(redis, arguments):
    """And nothing is written."""
    with pytest.raises(ResponseError, match="RATELIMIT ARGUMENTS"):
        redis.eval(load("heartbeat").source, 1, REPLICAS, *arguments)
    assert redis.keys("*") == []


def test_another_type_is_an_error(redis):
    """It stays as it is."""
    redis.set(REPLICAS, "1")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        beat(redis)
    assert redis.get(REPLICAS) == b"1"
