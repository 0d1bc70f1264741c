"""How many checks an event loop has on their way: as many as fill the round trip.

A pipeline that holds each reply back for a round trip stands for the network. What is counted is round trips.
"""

import asyncio
import time

import pytest
from helpers.batching import AMPLE_S, batcher_of, echo, open_batcher
from unit.test_batch import charged_before, left, prepared

from ratelimit.errors import StoreUnavailable
from ratelimit.store.aio import batcher as batcher_module
from ratelimit.store.aio.pipeline.stream import StreamPipeline

ROUND_TRIP_S = 0.1
"""Long, so that on a busy machine a few more do not matter."""

pytestmark = pytest.mark.asyncio


@pytest.fixture
def far(monkeypatch):
    """Every server is far away."""
    receive = StreamPipeline.data_received

    def received_later(pipeline, data):
        asyncio.get_running_loop().call_later(ROUND_TRIP_S, receive, pipeline, data)

    monkeypatch.setattr(StreamPipeline, "data_received", received_later)


@pytest.fixture
def writes(monkeypatch):
    """Of each write: when it was made, how many calls it had, and how many batches were on their way with it."""
    made, write = [], batcher_module.CheckBatcher._write

    def noted(batcher, packets, on_replies):
        made.append((time.monotonic(), len(packets), len(batcher._scripts.in_flight)))
        write(batcher, packets, on_replies)

    monkeypatch.setattr(batcher_module.CheckBatcher, "_write", noted)
    return made


async def test_the_round_trip_is_measured_from_the_start(server, far):
    """By the first reply on a connection, before any check is sent."""
    async with server.async_client() as client:
        batcher = batcher_of(client)
        batcher.endpoint.connect()
        await batcher.endpoint.wait_complete(AMPLE_S)
        assert batcher.endpoint.pipeline.round_trip_s >= ROUND_TRIP_S
        await batcher.close()


async def test_a_burst_takes_few_round_trips(server, far, writes):
    """Ten thousand checks at once are sent in batches, of which as many are on their way as the server can answer."""
    async with open_batcher(server, deadline_s=2.5 * ROUND_TRIP_S + AMPLE_S) as batcher:
        writes.clear()
        futures = [batcher.call(echo(number)) for number in range(10_000)]
        assert await asyncio.gather(*futures) == list(range(10_000))
        sizes = [size for _, size, _ in writes if size > 1]
        assert sum(sizes) == 10_000
        assert max(sizes) == 64
        # All are on their way before the first reply comes.
        assert [in_flight for _, _, in_flight in writes] == list(range(1, len(writes) + 1))


async def test_a_burst_of_new_keys_is_not_served_batch_by_batch(server, far, writes):
    """Each batch leaves all of them out, so that they are sent again; the batches behind do not wait for that."""
    calls = [prepared(f"old{place % 3}" if place < 2 else f"new{place}") for place in range(640)]
    charged_before(server, calls[:2])
    with server.client() as client:
        for call in calls:
            client.hset(call.keys[0], "r", client.hget("ratelimit:{old0}", "r"))
    async with open_batcher(server) as batcher:
        writes.clear()
        replies = await asyncio.gather(*map(batcher.call, calls))
        assert sorted(left(reply) for reply in replies)[-30:] == list(range(30))
        assert max(in_flight for _, _, in_flight in writes) == 10


async def test_few_do_not_wait_for_those_before_them(server, far, writes):
    """One call after the other, some milliseconds apart: they leave after a part of a round trip, not after a whole."""
    async with open_batcher(server) as batcher:
        writes.clear()
        futures = []
        for number in range(10):
            futures.append(batcher.call(echo(number)))
            await asyncio.sleep(ROUND_TRIP_S / 20)
        assert len(writes) > 2
        assert writes[2][0] - writes[0][0] < ROUND_TRIP_S
        assert await asyncio.gather(*futures) == list(range(10))


async def test_near_by_two_batches_are_on_their_way(server, monkeypatch):
    """Where the round trip is short, more would only make checks wait in the server."""
    most, write = 0, batcher_module.CheckBatcher._write

    def counted(batcher, packets, on_replies):
        nonlocal most
        most = max(most, len(batcher._scripts.in_flight))
        write(batcher, packets, on_replies)

    monkeypatch.setattr(batcher_module.CheckBatcher, "_write", counted)
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", 3600.0)  # a busy machine is no network
    async with open_batcher(server) as batcher:
        batcher._left_out = 0
        await asyncio.gather(*(batcher.call(echo(number)) for number in range(1000)))
    assert most == 2


async def test_what_cannot_be_sent_in_time_is_refused(server, far):
    """A queue that the server cannot empty in time is as late as anything else: not sent, and told so in time."""
    async with open_batcher(server) as batcher:
        batcher._max_in_flight = lambda: 1
        batcher._deadline_s = 2.5 * ROUND_TRIP_S
        futures = [batcher.call(echo(number)) for number in range(640)]
        done = await asyncio.gather(*futures, return_exceptions=True)
        assert type(done[-1]) is StoreUnavailable
        batcher._deadline_s = AMPLE_S
        async with asyncio.timeout(AMPLE_S):
            while True:
                if await answer_or_none(batcher) == 1:
                    break
                await asyncio.sleep(0.01)  # a busy machine may have looked like a silent server


async def answer_or_none(batcher):
    try:
        return await batcher.call(echo(1))
    except StoreUnavailable:
        return None
