"""What an event loop has to read is read before anything is given up for being late."""

import asyncio
import socket

import pytest

from ratelimit.store.aio.polling import once_quiet

pytestmark = pytest.mark.asyncio


class Reading(asyncio.Protocol):
    """Notes what comes, and has the other end send more, as often as it is to."""

    def __init__(self, other, more):
        self.other, self.more, self.happened = other, more, []

    def data_received(self, data):
        self.happened.append("data")
        if len(self.happened) <= self.more:
            self.other.send(b"more")


@pytest.mark.parametrize(("more", "expected"), [(0, ["data", "quiet"]), (3, [*["data"] * 4, "quiet"])])
async def test_data_that_has_come_is_read_first(more, expected):
    """Also what comes while that is read."""
    loop, (near, far) = asyncio.get_running_loop(), socket.socketpair()
    reading = Reading(far, more)
    transport, _ = await loop.create_connection(lambda: reading, sock=near)
    far.send(b"data")
    quiet = loop.create_future()

    def on_quiet():
        reading.happened.append("quiet")
        quiet.set_result(None)

    once_quiet(loop, lambda: len(reading.happened), on_quiet)
    await quiet
    assert reading.happened == expected
    transport.close()
    far.close()
    await asyncio.sleep(0)


async def test_data_that_never_ends_is_not_waited_for():
    """Others may get replies all the time."""
    loop, arrivals, quiet = asyncio.get_running_loop(), iter(range(1000)), asyncio.Event()
    once_quiet(loop, lambda: next(arrivals), quiet.set)
    await quiet.wait()
    assert next(arrivals) < 20
