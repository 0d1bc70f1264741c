"""What operations do besides sending: wait for something in this process, and start what nobody waits for."""

import asyncio
import threading
from concurrent.futures import Future
from time import monotonic

import pytest

from ratelimit.effects import InBackground, WaitFor
from ratelimit.errors import StoreUnavailable
from ratelimit.store.aio.executor import AsyncExecutor
from ratelimit.store.blocking.executor import BlockingExecutor

DEADLINE_S = 0.2


def waits(future, at_most_s=None):
    yield WaitFor(future, at_most_s)
    return "went on"


def pings(done, closed=None):
    """An operation for the background: one command, then it says so."""
    try:
        (reply,) = yield [("PING",)]
        done.set_result((reply, threading.get_ident()))
    finally:
        if closed is not None:
            closed.append(True)


def starts(operation):
    yield InBackground(operation)
    return monotonic()


@pytest.fixture
def blocking(server):
    with server.client() as client:
        executor = BlockingExecutor(client, DEADLINE_S)
        yield executor
        executor.close()


def run_async(server, scenario):
    async def main():
        async with server.async_client() as client:
            executor = AsyncExecutor(client, DEADLINE_S)
            try:
                return await scenario(executor)
            finally:
                await executor.close()

    return asyncio.run(main())


def done_later(seconds):
    future = Future()
    threading.Timer(seconds, future.set_result, (None,)).start()
    return future


def test_a_thread_waits_for_a_future(blocking):
    assert blocking.run(waits(done_later(0.02)), monotonic()) == "went on"
    done = Future()
    done.set_result(None)
    assert blocking.run(waits(done), monotonic()) == "went on"


def test_a_thread_waits_no_longer_than_its_deadline(blocking):
    """Nothing was sent for it; it may have given itself a shorter time, after which it goes on."""
    began_s = monotonic()
    with pytest.raises(StoreUnavailable, match="deadline") as raised:
        blocking.run(waits(Future()), monotonic())
    assert raised.value.cause == "not_sent"
    assert monotonic() - began_s >= DEADLINE_S / 4
    assert blocking.run(waits(Future(), 0.01), monotonic()) == "went on"


def test_a_thread_starts_an_operation_in_another_one(blocking):
    done = Future()
    blocking.run(starts(pings(done)), monotonic())
    reply, thread = done.result(5)
    assert reply in (b"PONG", "PONG")
    assert thread != threading.get_ident()


def test_threads_that_wait_hold_up_nobody(blocking):
    """Up to three."""
    for _ in range(3):
        blocking.run(starts(waits(Future())), monotonic())
    done = Future()
    blocking.run(starts(pings(done)), monotonic())
    assert done.result(0.9)


def test_what_was_not_started_is_closed(blocking):
    blocking.close()
    done, operation = Future(), waits(Future())
    blocking.run(starts(operation), monotonic())
    with pytest.raises(StopIteration):
        next(operation)
    assert not done.done()


def test_a_task_waits_for_a_future(server):
    async def scenario(executor):
        assert await executor.run(waits(done_later(0.02)), monotonic()) == "went on"
        assert await executor.run(waits(Future(), 0.01), monotonic()) == "went on"
        return await executor.run(waits(done_later(0.02)))

    assert run_async(server, scenario) == "went on"


def test_a_task_waits_no_longer_than_its_deadline(server):
    async def scenario(executor):
        with pytest.raises(StoreUnavailable, match="deadline") as raised:
            await executor.run(waits(Future()), monotonic())
        return raised.value.cause

    assert run_async(server, scenario) == "not_sent"


def test_a_task_starts_another_one(server):
    """It has a second, whatever the deadline of checks."""

    async def scenario(executor):
        done, closed = Future(), []
        await executor.run(starts(pings(done, closed)), monotonic())
        assert not done.done()
        await asyncio.wait_for(asyncio.wrap_future(done), 5)
        later = done_later(2 * DEADLINE_S)
        gone_on = []

        def waits_long():
            yield WaitFor(later)
            gone_on.append(True)

        await executor.run(starts(waits_long()), monotonic())
        await asyncio.sleep(3 * DEADLINE_S)
        return closed, gone_on

    assert run_async(server, scenario) == ([True], [True])


def test_what_runs_in_the_background_ends_with_the_executor(server):
    closed = []

    def waits_long():
        try:
            yield WaitFor(Future())
        finally:
            closed.append(True)

    async def scenario(executor):
        await executor.run(starts(waits_long()), monotonic())
        await asyncio.sleep(0.01)

    run_async(server, scenario)
    assert closed == [True]
