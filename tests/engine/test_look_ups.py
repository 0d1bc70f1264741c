"""Look-ups of asyncio: beside the checks, as one command, and with a bound of their own."""

import asyncio
import logging
from math import inf

import pytest
from helpers.batching import batcher_of, echo, open_batcher
from helpers.replica import FOREVER, METHOD, STAGE
from redis.exceptions import ResponseError

from ratelimit import AsyncLimiter, Limiter, Quota, Throttle, UsagePlan
from ratelimit.effects import BatchableReads, KeyLookUps, TooManyLookUpsError
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.store.aio import batcher as batcher_module
from ratelimit.store.aio import exchanges
from ratelimit.store.aio.batcher import CheckBatcher

pytestmark = pytest.mark.asyncio


def look_up(number):
    return KeyLookUps([("HMGET", "about", "version"), ("MGET", f"value{number}")])


@pytest.fixture
def sent(monkeypatch):
    """How many commands each write had."""
    sizes, put = [], CheckBatcher._write

    def counted(batcher, packets, answered):
        sizes.append(len(packets))
        put(batcher, packets, answered)

    monkeypatch.setattr(CheckBatcher, "_write", counted)
    return sizes


async def test_they_leave_beside_what_came_between_them(server, sent):
    """Twenty scripts and twenty look-ups in turn, in one tick: one write, in which the look-ups are two commands."""
    async with open_batcher(server) as batcher:
        sent.clear()
        calls = [each for number in range(20) for each in (echo(number), look_up(number))]
        replies = await asyncio.gather(*map(batcher.call, calls))
        assert replies[::2] == list(range(20))
        assert replies[1::2] == [[[None], [None]]] * 20
        assert sent == [22]


async def test_each_has_its_own_values(server):
    """Of one MGET, however many ask for a value and in whatever order; also two values by one."""
    async with server.async_client() as client, open_batcher(server) as batcher:
        await client.mset({f"value{number}": f"stored{number}" for number in range(0, 300, 2)})
        await client.hset("about", "version", "7")
        numbers = [*range(299, -1, -1), *range(300)]
        replies = await asyncio.gather(*(batcher.call(look_up(number)) for number in numbers))
        values = [None if number % 2 else f"stored{number}".encode() for number in numbers]
        assert replies == [[[b"7"], [value]] for value in values]
        assert await batcher.call(KeyLookUps([("MGET", "value1", "value0")])) == [[None, b"stored0"]]


async def test_who_looks_up_what_is_none_fails_alone(server):
    """An error is returned to the callers of its command; MGET has one error for all."""
    async with server.async_client() as client, open_batcher(server) as batcher:
        await client.set("text", "1")
        calls = [look_up(1), KeyLookUps([("HGET", "text", "r")]), KeyLookUps([("HGET", "hash", "r")])]
        first, second, third = await asyncio.gather(*map(batcher.call, calls), return_exceptions=True)
        assert (first, third) == ([[None], [None]], [None])
        assert type(second) is StoreError
    asking = exchanges.look_ups([look_up(1), KeyLookUps([("HGET", "hash", "r")])])
    next(asking)
    with pytest.raises(StopIteration) as finished:
        asking.send([[None], b"r", error := ResponseError("NOPERM")])
    assert finished.value.value == [error, [b"r"]]


async def test_a_command_is_bounded(server):
    """Six hundred values take three commands: nobody else waits for all of them."""
    async with server.async_client() as client, open_batcher(server) as batcher:
        await client.config_resetstat()
        await asyncio.gather(*(batcher.call(look_up(number)) for number in range(600)))
        assert (await client.info("commandstats"))["cmdstat_mget"]["calls"] == 3


async def test_a_flood_of_either_kind_leaves_room_for_the_other(server, sent, monkeypatch):
    """With each write of checks some look-ups leave, not more than take about as long to answer."""
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", 3600.0)  # a busy machine is no network
    async with open_batcher(server) as batcher:
        batcher._left_out = 0
        sent.clear()
        calls = [*(look_up(number) for number in range(500)), *(echo(number) for number in range(500))]
        done = []
        futures = [batcher.call(call) for call in calls]
        for at, future in enumerate(futures):
            future.add_done_callback(lambda _, at=at: done.append(at))
        await asyncio.gather(*futures)
        checks = [place for place, at in enumerate(done) if at >= 500]
        looks = [place for place, at in enumerate(done) if at < 500]
        assert max(sent) == 64 + 2
        assert checks[-1] < looks[-1]  # the checks are done before the look-ups are,
        assert 64 <= sum(place < checks[-1] for place in looks) <= 200  # and of those some are by then
        assert looks[0] < checks[100]


async def test_the_one_who_has_waited_longest_is_refused(server, monkeypatch, caplog):
    """Beyond the bound of look-ups, and no other call: they have bounds of their own. It is said once."""
    monkeypatch.setattr(batcher_module, "_MAX_WAITING", 5)
    monkeypatch.setattr(batcher_module, "_MAX_LOOK_UPS_WAITING", 5)
    async with open_batcher(server) as batcher:
        futures = [batcher.call(look_up(number)) for number in range(8)]
        others = [*map(batcher.call, [echo(number) for number in range(5)])]
        others += [batcher.call(BatchableReads([("GET", f"value{number}")])) for number in range(5)]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(error) for error in done[:3]] == [TooManyLookUpsError] * 3
        assert str(done[0]) == ("5 look-ups of keys are waiting to be sent: more unknown keys come than can be read")
        assert done[3:] == [[[None], [None]]] * 5
        assert await asyncio.gather(*others) == [*range(5), *[[None]] * 5]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        again = [batcher.call(look_up(number)) for number in range(6)]
        assert isinstance((await asyncio.gather(*again, return_exceptions=True))[0], TooManyLookUpsError)
        assert len(caplog.records) == 2  # the crowd before was gone


async def test_closing_waits_for_them(server):
    """Sent or not."""
    async with open_batcher(server) as batcher:
        futures = [batcher.call(look_up(number)) for number in range(700)]
        await asyncio.sleep(0)
    assert [future.result() for future in futures] == [[[None], [None]]] * 700


async def test_without_a_connection_all_callers_get_the_error(tmp_path):
    """Whatever they wait for."""
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    path = tmp_path / "socket"
    async with redis.asyncio.Redis(unix_socket_path=str(path), retry=Retry(NoBackoff(), 0)) as client:
        batcher = batcher_of(client)
        calls = [echo(1), look_up(1), BatchableReads([("GET", "value")])] * 3
        done = await asyncio.gather(*map(batcher.call, calls), return_exceptions=True)
        assert {type(error) for error in done} == {StoreUnavailable}
        await batcher.close()


# Limiters


@pytest.fixture
def keys(server):
    """Keys of one plan."""
    with server.client() as client, Limiter(client, deadline=5) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(10_000, "DAY"), [STAGE]))
        return [limiter.catalog.create_key(plans=["gold"]).value for _ in range(60)]


async def test_unknown_keys_do_not_break_batches_up(server, keys):
    """Sixty keys that were met and sixty values that no key has, in turn: a few commands."""
    async with server.async_client() as client, AsyncLimiter.from_url(server.url, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None  # no listener, whose start makes a check look once more
        for _ in range(2):
            assert all(await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in keys)))
        await client.config_resetstat()
        values = [each for number, key in enumerate(keys) for each in (key, f"{number:030}")]
        decisions = await asyncio.gather(*(limiter.check(value, STAGE, METHOD) for value in values))
        assert [decision.status for decision in decisions] == [200, 403] * 60
        stats = await client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2  # the two halves of sixty
        assert stats["cmdstat_mget"]["calls"] <= 4  # sixteen beside checks, and all once there are none


async def test_a_flood_at_once_refuses_no_key_that_was_met(server, keys, caplog):
    """Of 30,000 unknown values at once some are denied with 503; keys that were met, and a new one, are admitted."""
    *met, new = keys
    caplog.set_level(logging.WARNING)
    async with AsyncLimiter.from_url(server.url, deadline=60, max_age=FOREVER) as limiter:
        limiter._namespace.before_refresh = lambda: None
        assert all(await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in met)))
        flood = [asyncio.ensure_future(limiter.check(f"{number:030}", STAGE, METHOD)) for number in range(30_000)]
        others = [asyncio.ensure_future(limiter.check(key, STAGE, METHOD)) for key in (*met, new)]
        assert [(await each).status for each in others] == [200] * 60
        decisions = await asyncio.gather(*flood)
    statuses = [decision.status for decision in decisions]
    assert (statuses.count(403), statuses.count(503)) == (10_000 - 1, 20_000 + 1)
    refused = next(decision for decision in decisions if decision.status == 503)
    assert (refused.source, refused.cause) == ("fail_closed", "not_sent")
    said = [record.getMessage() for record in caplog.records if record.name == "ratelimit"]
    assert len(said) == 1  # and not that Redis does not answer
    assert said[0].startswith("10000 look-ups of keys are waiting to be sent: ")


async def test_a_key_whose_record_changed_is_read_in_a_flood(server, keys, monkeypatch):
    """It was met before: what it reads does not wait behind values that nobody has met, nor is refused with them."""
    monkeypatch.setattr(batcher_module, "_MAX_LOOK_UPS", 1)
    monkeypatch.setattr(batcher_module, "_LOOK_UPS_BESIDE_CHECKS", 1)
    monkeypatch.setattr(batcher_module, "_LOOK_UPS_BESIDE_FEW_CHECKS", 1)
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", inf)  # however busy this machine is
    with server.client() as client, Limiter(client, deadline=5) as administrator:
        made = [administrator.catalog.create_key(plans=["gold"]) for _ in range(10)]
        async with AsyncLimiter.from_url(server.url, deadline=5) as limiter:
            limiter._namespace.before_refresh = lambda: None
            assert all(await asyncio.gather(*(limiter.check(key.value, STAGE, METHOD) for key in made)))
            for key in made:
                administrator.catalog.update_key(key.id, name="renamed")
            flood = [asyncio.ensure_future(limiter.check(f"{number:030}", STAGE, METHOD)) for number in range(100)]
            decisions = await asyncio.gather(*(limiter.check(key.value, STAGE, METHOD) for key in made))
            assert [decision.status for decision in decisions] == [200] * 10
            assert sum(each.done() for each in flood) < 50
            assert [decision.status for decision in await asyncio.gather(*flood)] == [403] * 100
