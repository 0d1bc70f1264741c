"""What the asyncio executor does about each answer of a node: a test for each row of the table of reactions.

The nodes are made up. Each call is sent by a check, as a read of one, and as a command of an administrator.
"""

import asyncio
import time

import pytest
from helpers.cluster_calls import CATALOG, count, open_executor, operation
from helpers.fake_cluster import NOT_SERVED
from helpers.fake_server import HANG_UP, SILENCE
from redis.exceptions import ResponseError

from ratelimit.effects import BatchableReads
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.store import clients
from ratelimit.store.aio.executor import async_executor_for
from ratelimit.store.cluster import topology
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS

pytestmark = [pytest.mark.asyncio, pytest.mark.cluster]

KEY = "key"


async def check(executor):
    return await executor.call(count(KEY), time.monotonic())


async def read(executor):
    (reply,) = await executor.run(operation(BatchableReads([("GET", KEY)])), time.monotonic())
    return reply


async def command(executor):
    (reply,) = await executor.run(operation([("GET", KEY)]))
    return reply


async def script(executor):
    return await executor.run(operation(count(KEY)))


@pytest.fixture(params=[check, read, command, script])
def send(request):
    return request.param


async def test_moved(fakes, first, second, send):
    """It goes to the node that is named, and so does the next one; the topology is refreshed once, for all."""
    async with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answer = ResponseError(f"MOVED 1 {second.name}")
        fakes.owner, fakes.epoch = second, 2
        assert await asyncio.gather(*(send(executor) for _ in range(50))) == [2] * 50
        assert await send(executor) == 2
        assert len(first.calls) <= 50
        await asyncio.sleep(0.3)
        assert 1 <= fakes.refreshes - refreshes <= 3


async def test_moved_is_remembered_at_once(fakes, first, second, send):
    """Who comes next goes to the new owner, though no node has reported the topology yet."""
    async with open_executor(fakes) as executor:
        fakes.hides_slots = True
        first.answers.append(ResponseError(f"MOVED 1 {second.name}"))
        assert [await send(executor) for _ in range(5)] == [2] * 5
        assert len(first.calls) == 1


async def test_ask(fakes, first, second, send):
    """It goes to the node that is named behind ASKING; the next one to the owner. The topology is not refreshed."""
    async with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answers.append(ResponseError(f"ASK 1 {second.name}"))
        assert await send(executor) == 2
        assert second.calls[0] == "ASKING"
        assert len(second.calls) == 2
        assert await send(executor) == 1
        await asyncio.sleep(0.2)
        assert fakes.refreshes == refreshes


async def test_ask_of_a_node_that_does_not_know_the_script(fakes, first, second):
    async with open_executor(fakes) as executor:
        for send in (check, script):
            second.calls.clear()
            first.answers.append(ResponseError(f"ASK 1 {second.name}"))
            if send is script:  # sent by its source, it is redirected anew
                first.answers.append(ResponseError(f"ASK 1 {second.name}"))
            second.answers.append(ResponseError("NOSCRIPT No matching script. Please use EVAL."))
            assert await send(executor) == 2
            assert second.calls == ["ASKING", "EVALSHA", "ASKING", "EVAL"]


async def test_a_user_who_may_not_send_asking_gets_that_error(fakes, first, second, send):
    """Not the redirection that the command behind it is answered with."""
    async with open_executor(fakes) as executor:
        first.answer = ResponseError(f"ASK 1 {second.name}")
        second.asking = ResponseError("NOPERM this user has no permissions to run the 'asking' command")
        second.answer = ResponseError(f"MOVED 1 {first.name}")
        with pytest.raises(StoreUnavailable, match="asking") as caught:
            await send(executor)
        assert caught.value.cause == "refused"
        assert len(first.calls) == 1


async def test_tryagain(fakes, first, second, send):
    """It goes to the same node once more, after a pause."""
    async with open_executor(fakes) as executor:
        first.answers.extend([ResponseError("TRYAGAIN Multiple keys request during rehashing of slot")] * 3)
        assert await send(executor) == 1
        assert len(first.calls) == 4
        assert second.calls == []


@pytest.mark.parametrize("code", NOT_SERVED)
async def test_a_node_that_serves_the_slot_no_longer(fakes, first, code, send):
    """The topology is refreshed; another owner gets it."""
    async with open_executor(fakes) as executor:
        first.answer = NOT_SERVED[code]
        fakes.owner, fakes.epoch = fakes.nodes[1], 2
        assert await send(executor) == 2
        assert len(first.calls) == 1


async def test_a_former_owner_that_is_cut_off_from_the_others(fakes, first, second, send):
    """It goes on reporting that it owns the slot, and that the cluster is down: another node reports the failover."""
    async with open_executor(fakes) as executor:
        first.answer, first.old_topology = NOT_SERVED["CLUSTERDOWN"], (first, 1)
        fakes.owner, fakes.epoch = second, 2
        assert await send(executor) == 2


@pytest.mark.parametrize("code", NOT_SERVED)
async def test_without_another_owner_it_fails_with_the_error_of_the_node(fakes, first, second, code, send):
    async with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answer = NOT_SERVED[code]
        with pytest.raises(StoreUnavailable, match=code) as caught:
            await send(executor)
        assert caught.value.cause == ("deposed" if code in ("READONLY", "MASTERDOWN") else "refused")
        assert len(first.calls) == 1
        assert second.calls == []
        assert fakes.refreshes > refreshes


async def test_a_node_that_is_gone_before_anything_was_sent(fakes, first, send):
    """Its successor gets the call."""
    async with open_executor(fakes) as executor:
        fakes.owner, fakes.epoch = fakes.nodes[1], 2
        first.close()
        await asyncio.sleep(0.1)
        assert await send(executor) == 2


async def fail_all(executor, first, failure):
    """Have the first node carry nothing out, in the way that is named."""
    if failure == "closed":
        first.close()
        while not executor.breaker_state().is_open:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
    else:
        first.answer = NOT_SERVED[failure]


@pytest.mark.parametrize("failure", ["closed", "CLUSTERDOWN"])
async def test_a_node_that_fails_just_after_a_refresh(fakes, first, second, failure, send, monkeypatch):
    """The topology is refreshed at once, and no call fails: those that come meanwhile wait for it."""
    monkeypatch.setattr(topology, "REQUESTED_INTERVAL_S", 60.0)
    monkeypatch.setattr(topology, "UNREACHABLE_INTERVAL_S", 60.0)
    async with open_executor(fakes) as executor:
        fakes.owner, fakes.epoch = second, 2
        refreshes = fakes.refreshes
        await fail_all(executor, first, failure)
        calls = []
        for _ in range(50):
            calls.append(asyncio.ensure_future(send(executor)))
            await asyncio.sleep(0)
        assert await asyncio.gather(*calls) == [2] * 50
        assert fakes.refreshes - refreshes <= 2


@pytest.mark.parametrize("failure", ["closed", "CLUSTERDOWN"])
async def test_a_node_that_is_away_and_stays_the_owner(fakes, first, failure, send):
    """Once a refresh has said so, its callers fail without waiting, also while no other refresh ends."""
    async with open_executor(fakes, 10.0) as executor:
        await fail_all(executor, first, failure)
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await send(executor)
        fakes.hides_slots = True
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                await send(executor)
        assert time.monotonic() - began_s < 0.9 * topology.FRESH_S


async def test_a_node_that_is_gone_without_a_successor(fakes, first, second, send):
    async with open_executor(fakes) as executor:
        first.close()
        await asyncio.sleep(0.02)
        with pytest.raises(StoreUnavailable) as caught:
            await send(executor)
        assert caught.value.cause == "not_sent"
        assert second.calls == []


@pytest.mark.parametrize("end", [HANG_UP, SILENCE], ids=["hung up", "silent"])
async def test_what_was_sent_and_not_answered_is_never_sent_again(fakes, first, second, end):
    async with open_executor(fakes, 0.3) as executor:
        first.answers.append(end)
        fakes.owner, fakes.epoch = second, 2
        with pytest.raises(StoreTimeout) as caught:
            await check(executor)
        assert caught.value.cause == "unknown"
        assert first.calls == ["EVALSHA"]
        assert second.calls == []


async def test_a_node_that_falls_silent_has_a_successor(fakes, first, second):
    """Nothing waits to be sent to it, and so no call requests it: the topology is refreshed."""
    async with open_executor(fakes, 0.1) as executor:
        await asyncio.sleep(0.2)
        first.is_silent = True
        with pytest.raises(StoreTimeout):
            await check(executor)
        while not executor.breaker_state().is_open:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
        fakes.owner, fakes.epoch = second, 2
        end_s = time.monotonic() + 2
        while True:
            try:
                assert await check(executor) == 2
                break
            except StoreError:
                assert time.monotonic() < end_s
                await asyncio.sleep(0.05)


async def pausing(executor, first):
    """A check that the node had sent again so often that it is not sent again at once; and its router."""
    first.answer = ResponseError("TRYAGAIN Multiple keys request during rehashing of slot")
    call = asyncio.ensure_future(check(executor))
    router = executor._senders.get()
    while not router._pausing:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0)
    return call, router


async def test_who_closes_waits_for_calls_that_are_sent_again(fakes, first):
    async with open_executor(fakes) as executor:
        call, _ = await pausing(executor, first)
        first.answer = 1
        await executor.close()
        assert call.done()
        assert await call == 1


async def test_calls_that_would_be_sent_again_end_with_what_is_abandoned(fakes, first, second):
    async with open_executor(fakes, 30.0) as executor:
        call, router = await pausing(executor, first)
        router.abandon()
        with pytest.raises(StoreUnavailable, match="the limiter was closed"):
            await asyncio.wait_for(call, 1)
        assert not router._pausing
        for answer in (NOT_SERVED["CLUSTERDOWN"], ResponseError(f"MOVED 1 {second.name}")):
            late = asyncio.get_running_loop().create_future()
            assert router.take_over(router.nodes.owners[1], (count(KEY), late, time.monotonic()), answer)
            with pytest.raises(StoreUnavailable, match="the limiter was closed"):
                await asyncio.wait_for(late, 1)


async def test_all_else_fails_as_on_one_server(fakes, first, second, send):
    async with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answer = ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        with pytest.raises(StoreUnavailable, match="OOM"):
            await send(executor)
        first.answer = ResponseError("ERR something else")
        with pytest.raises(StoreError, match="something else"):
            await send(executor)
        assert len(first.calls) == 2
        assert second.calls == []
        await asyncio.sleep(0.2)
        assert fakes.refreshes == refreshes


async def test_nodes_that_redirect_a_call_to_each_other_end_it(fakes, first, second, send):
    """It is sent few times, within its deadline."""
    async with open_executor(fakes, 5.0) as executor:
        first.answer = ResponseError(f"MOVED 1 {second.name}")
        second.answer = ResponseError(f"MOVED 1 {first.name}")
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"redirect slot \d+ to each other"):
            await send(executor)
        assert time.monotonic() - began_s < 2
        assert len(first.calls) + len(second.calls) <= MAX_ATTEMPTS


async def test_a_busy_loop_is_no_reason_to_refuse_its_first_calls(fakes):
    """The deadline is for waiting for Redis: what the process takes before it reads the topology is not counted."""
    executor = async_executor_for(clients.async_client_from_url(fakes.url, 0.2), 0.2, CATALOG)
    calls = [executor.call(count(KEY), time.monotonic()) for _ in range(10)]
    for _ in range(4):
        time.sleep(0.3)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0)
    assert await asyncio.gather(*calls) == [1] * 10
    await executor.close()


async def test_addresses_of_redirections_are_mapped(fakes, first, second):
    """As the client that was passed in maps those that the cluster reports."""
    inside = {("10.0.0.1", 7000): first.address, ("10.0.0.2", 7000): second.address}
    by_url = clients.async_client_from_url(fakes.url, 1.0)
    client = ClusterClient(by_url.connection_pool, by_url.start_nodes, lambda address: inside.get(address, address))
    executor = async_executor_for(client, 1.0, CATALOG)
    await executor.wait_connected(5)
    first.answers.append(ResponseError("ASK 1 10.0.0.2:7000"))
    assert await check(executor) == 2
    await executor.close()
