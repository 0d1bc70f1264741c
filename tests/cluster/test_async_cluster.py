"""The asyncio executor on a cluster: each call to the owner of its slot, whatever happens to slots and nodes."""

import asyncio
import contextlib
import random
import time
from signal import SIGCONT

import pytest
import redis
from helpers.cluster import Cluster, slot_of, wait_until
from helpers.cluster_calls import CATALOG, count, counted, open_executor, operation
from helpers.ports import free_port

from ratelimit.effects import (
    AtNode,
    BatchableReads,
    IndependentCommands,
    IndependentReads,
    KeyLookUps,
    PatientCommands,
    Primaries,
)
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.scripts import LeaseCall
from ratelimit.store import clients
from ratelimit.store.aio.executor import async_executor_for
from ratelimit.store.pubsub import AsyncListener

pytestmark = pytest.mark.asyncio

KEYS = [f"key{number}" for number in range(300)]


class Load:
    """Tasks that count on keys, each call once, until they are to end."""

    def __init__(self, executor, keys=KEYS, tasks=40):
        self._executor = executor
        self._calls = [count(key) for key in keys]
        self._is_over = False
        self.done = 0
        self.errors = []
        self.latencies_s = []
        self._tasks = [asyncio.create_task(self._run(number, tasks)) for number in range(tasks)]

    async def _run(self, number, tasks):
        at = number
        while not self._is_over:
            at = (at + tasks) % len(self._calls)
            began_s = time.monotonic()
            try:
                await self._executor.call(self._calls[at], began_s)
            except StoreError as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)
            else:
                self.done += 1
            self.latencies_s.append(time.monotonic() - began_s)

    async def end(self):
        self._is_over = True
        await asyncio.gather(*self._tasks)


async def in_thread(function, *arguments):
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


def other_than(cluster, node):
    return next(each for each in cluster.primaries if each is not node)


async def test_each_call_goes_to_the_owner_of_its_slot(cluster):
    async with open_executor(cluster) as executor:
        replies = await asyncio.gather(*(executor.call(count(key), time.monotonic()) for key in KEYS))
        assert replies == [1] * len(KEYS)
        assert min(cluster.key_count().values()) > 50


async def test_requests_are_divided_and_joined(valkey_cluster):
    """Plain lists, reads and look-ups, with the deadline of a check and without one."""
    for started_s in (None, time.monotonic):
        valkey_cluster.empty()
        async with open_executor(valkey_cluster) as executor:

            async def reply_to(request, executor=executor, started_s=started_s):
                return await executor.run(operation(request), started_s and started_s())

            assert await reply_to([("SET", key, key) for key in KEYS[:20]]) == [b"OK"] * 20
            values = [key.encode() for key in KEYS[:20]]
            assert await reply_to([("MGET", *KEYS[:20], "none"), ("EXISTS", *KEYS[:20])]) == [[*values, None], 20]
            for kind in (BatchableReads, KeyLookUps, IndependentReads):
                assert await reply_to(kind([("MGET", *KEYS[:20]), ("GET", "none")])) == [values, None]
            seconds, _ = (await reply_to([("TIME",)]))[0]
            assert abs(int(seconds) - time.time()) < 60
            assert await reply_to([("DEL", *KEYS[:20])]) == [20]


async def test_a_failed_part_fails_the_request_or_is_in_its_place(valkey_cluster):
    async with open_executor(valkey_cluster) as executor:
        wrong = [("SET", "text", "x"), ("INCR", "text"), ("INCR", "number")]
        with pytest.raises(StoreError, match="not an integer"):
            await executor.run(operation(wrong))
        replies = await executor.run(operation(IndependentCommands(wrong)))
        assert replies[0] == b"OK"
        assert "not an integer" in str(replies[1])
        assert replies[2] == 2
        replies = await executor.run(operation(IndependentReads([("HGET", "text", "f"), ("GET", "text")])))
        assert "WRONGTYPE" in str(replies[0])
        assert replies[1] == b"x"


async def test_nodes_are_named_and_sent_commands(valkey_cluster):
    async with open_executor(valkey_cluster) as executor:
        names = await executor.run(operation(Primaries()))
        assert sorted(names) == sorted(node.address for node in valkey_cluster.primaries)
        await executor.run(operation([("SET", key, "") for key in KEYS]))
        sizes = [(await executor.run(operation(AtNode(name, [("DBSIZE",)]))))[0] for name in names]
        assert sum(sizes) == len(KEYS)
        assert sorted(sizes) == sorted(valkey_cluster.key_count().values())
        with pytest.raises(StoreUnavailable, match="no primary of the cluster"):
            await executor.run(operation(AtNode("127.0.0.1:1", [("DBSIZE",)])))


async def test_patient_commands_wait_at_the_node_of_their_key(valkey_cluster):
    """WAIT counts what was written on its own connection: one replica has it."""
    async with open_executor(valkey_cluster) as executor:
        for key in KEYS[:9]:
            replies = await executor.run(operation(PatientCommands([("SET", key, "x"), ("WAIT", 1, 1000)], 1.0)))
            assert replies == [b"OK", 1]


async def test_totals_are_exact_while_slots_migrate(cluster):
    """Slots go to other nodes and back under load: nothing fails, nothing is counted twice."""
    async with open_executor(cluster) as executor:
        load = Load(executor)
        homes = {slot: cluster.owner_of(slot) for slot in {slot_of(key) for key in KEYS[:60]}}
        for slot, home in homes.items():
            await in_thread(cluster.migrate_slot, slot, other_than(cluster, home))
        await in_thread(cluster.wait_agreed)
        for slot, home in homes.items():
            await in_thread(cluster.migrate_slot, slot, home)
        await load.end()
        assert load.errors == []
        assert counted(cluster, KEYS) == load.done > 1000
    await in_thread(cluster.wait_agreed)


async def test_totals_are_exact_while_a_node_comes_and_goes(own_cluster):
    async with open_executor(own_cluster) as executor:
        load = Load(executor)
        newcomer = await in_thread(own_cluster.add_node)
        await in_thread(own_cluster.wait_agreed)
        homes = {slot: own_cluster.owner_of(slot) for slot in {slot_of(key) for key in KEYS[:60]}}
        for slot in homes:
            await in_thread(own_cluster.migrate_slot, slot, newcomer)
        await in_thread(own_cluster.wait_agreed)
        at_its_height = newcomer.admin.dbsize()
        for slot, home in homes.items():
            await in_thread(own_cluster.migrate_slot, slot, home)
        await in_thread(own_cluster.wait_agreed)
        await in_thread(own_cluster.remove_node, newcomer)
        await asyncio.sleep(0.5)
        await load.end()
        assert at_its_height >= 60
        assert load.errors == []
        assert counted(own_cluster, KEYS) == load.done > 1000
        assert newcomer.address not in await executor.run(operation(Primaries()))
        assert not executor.breaker_state().is_open


async def test_a_stopped_node_fails_its_own_keys_alone(own_cluster):
    async with open_executor(own_cluster, 0.05) as executor:
        victim = own_cluster.node_of("key0")
        ill = [key for key in KEYS if own_cluster.node_of(key) is victim]
        well = [key for key in KEYS if key not in ill]
        victim.pause()
        try:
            lost, load = Load(executor, ill), Load(executor, well)
            await asyncio.sleep(0.8)  # less than the cluster takes to agree that it is gone
            await asyncio.gather(lost.end(), load.end())
        finally:
            victim.resume()
        assert executor.breaker_state().is_open
        assert load.errors == []
        assert load.done > 300
        assert sorted(load.latencies_s)[int(load.done * 0.99)] < 0.05
        assert lost.done == 0
        assert {error.cause for error in lost.errors} <= {"unknown", "not_sent"}


@pytest.mark.parametrize("end", [Cluster.kill, lambda _, node: node.pause()], ids=["killed", "stopped"])
async def test_after_a_failover_keys_go_on_within_a_second(own_cluster, end):
    async with open_executor(own_cluster, 0.2) as executor:
        victim = own_cluster.node_of("key0")
        ill = [key for key in KEYS if own_cluster.node_of(key) is victim]
        load = Load(executor, ill, 5)
        await asyncio.sleep(0.3)
        end(own_cluster, victim)
        await in_thread(own_cluster.wait_failed_over, victim)
        agreed_s = time.monotonic()
        while True:
            try:
                await executor.call(count(ill[0]), time.monotonic())
                break
            except StoreError:
                await asyncio.sleep(0.01)
        took_s = time.monotonic() - agreed_s
        victim.process.send_signal(SIGCONT)
        await load.end()
        assert took_s < 1
        assert load.errors != []
        assert not executor.breaker_state().is_open
        assert executor.breaker_state().openings >= 1


async def test_a_planned_failover_fails_nothing(cluster):
    """The old primary redirects to the new one: calls go on at once."""
    async with open_executor(cluster) as executor:
        load = Load(executor)
        await asyncio.sleep(0.2)
        await in_thread(cluster.fail_over, cluster.node_of("key0"))
        await asyncio.sleep(0.5)
        await load.end()
        assert load.errors == []
        assert counted(cluster, KEYS) == load.done


async def test_a_cancelled_call_gives_up_its_own_reply_only(valkey_cluster):
    """Storms of cancellations, while slots migrate: each of the others gets its reply, and nothing is counted twice."""
    rng = random.Random(1)
    async with open_executor(valkey_cluster) as executor:
        load = Load(executor)
        cancelled = 0
        slots = [slot_of(key) for key in KEYS[:20]]
        for slot in slots:
            doomed = [asyncio.ensure_future(executor.call(count(key), time.monotonic())) for key in KEYS]
            await asyncio.sleep(rng.random() * 0.002)
            cancelled += sum(future.cancel() for future in doomed)
            await asyncio.gather(*doomed, return_exceptions=True)
            await in_thread(move, valkey_cluster, slot)
        await load.end()
        assert load.errors == []
        extra = counted(valkey_cluster, KEYS) - load.done
        assert cancelled > 0
        assert len(slots) * len(KEYS) - cancelled <= extra <= len(slots) * len(KEYS)
    await in_thread(valkey_cluster.wait_agreed)


def move(cluster, slot):
    cluster.migrate_slot(slot, other_than(cluster, cluster.owner_of(slot)))


async def test_a_late_reply_of_a_lease_is_passed_on_after_a_redirection(valkey_cluster):
    """Its caller has gone meanwhile: the reply still comes to whom it belongs."""
    slot, late = slot_of("key0"), []
    async with open_executor(valkey_cluster) as executor:
        source = valkey_cluster.owner_of(slot)
        target = other_than(valkey_cluster, source)
        valkey_cluster.migrate_slot(slot, target)
        target.admin.script_load(count("key0").script.source)
        target.pause()
        try:
            call = LeaseCall(count("key0").script, ["key0"], [], late.append)
            future = asyncio.ensure_future(executor.call(call, time.monotonic()))
            await asyncio.sleep(0.2)
            future.cancel()
            await asyncio.sleep(0)
        finally:
            target.resume()
        await until(lambda: late)
        assert late == [1]
    await in_thread(valkey_cluster.wait_agreed)


async def until(happened, seconds=10):
    end_s = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end_s, "it never happened"
        await asyncio.sleep(0.01)


async def test_keys_of_a_slot_that_migrates_are_at_one_node_or_the_other(valkey_cluster):
    """ASK, for scripts that the other node does not know yet, and for reads; TRYAGAIN until all keys have moved."""
    slot = slot_of("{a}")
    source = valkey_cluster.owner_of(slot)
    target = other_than(valkey_cluster, source)
    source.admin.mset({"{a}1": 1, "{a}2": 2})
    async with open_executor(valkey_cluster) as executor:
        steps = valkey_cluster.migration(slot, target, batch=1)
        for _ in range(3):
            next(steps)
        gone = next(key for key in ("{a}1", "{a}2") if target.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot))
        assert await executor.call(count("{a}new"), time.monotonic()) == 1
        assert await executor.run(operation([("INCR", "{a}new")])) == [2]
        reads = [("GET", "{a}new"), ("GET", "{a}1"), ("GET", "{a}2")]
        assert await executor.run(operation(BatchableReads(reads)), time.monotonic()) == [b"2", b"1", b"2"]
        assert await executor.run(operation(reads)) == [b"2", b"1", b"2"]
        assert gone
        both = asyncio.ensure_future(
            executor.run(operation(BatchableReads([("MGET", "{a}1", "{a}2")])), time.monotonic())
        )
        await asyncio.sleep(0.05)
        assert not both.done()
        assert list(steps) == [1, "assigned"]
        assert await both == [[b"1", b"2"]]
        assert await executor.call(count("{a}new"), time.monotonic()) == 3
        valkey_cluster.migrate_slot(slot, source)
    await in_thread(valkey_cluster.wait_agreed)


async def test_patient_commands_follow_redirections(valkey_cluster):
    slot = slot_of("key1")
    async with open_executor(valkey_cluster) as executor:
        home = valkey_cluster.owner_of(slot)
        steps = valkey_cluster.migration(slot, other_than(valkey_cluster, home))
        for step in steps:
            sent = [("INCR", "key1"), ("WAIT", 1, 1000)]
            replies = await executor.run(operation(PatientCommands(sent, 1.0)))
            assert replies[1:] == [1], step
        assert counted(valkey_cluster, ["key1"]) == replies[0]
        valkey_cluster.migrate_slot(slot, home)
    await in_thread(valkey_cluster.wait_agreed)


async def test_a_slot_without_owner_fails_at_once_and_names_the_remedy(own_cluster):
    slot = slot_of("key0")
    async with open_executor(own_cluster, 5.0) as executor:
        await in_thread(disown, own_cluster, slot)
        with pytest.raises(StoreUnavailable):
            await executor.call(count("key0"), time.monotonic())
        await asyncio.sleep(0.5)
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable, match=rf"1 of the cluster's 16384 slots have no primary \({slot}\)"):
            await executor.call(count("key0"), time.monotonic())
        assert time.monotonic() - began_s < 0.2
        assert await executor.call(count("key1"), time.monotonic()) == 1
        with pytest.raises(StoreUnavailable, match="--cluster fix"):
            await executor.wait_connected(0.5)
        own_cluster.nodes[0].own([slot])
        await until(lambda: own_cluster.owner_of(slot))
        await until_it_answers(executor, "key0")


def disown(cluster, slot):
    """Take a slot from its owner, and have all nodes know."""
    owner = cluster.owner_of(slot)
    for node in (owner, *(each for each in cluster.nodes if each is not owner)):
        with contextlib.suppress(redis.ResponseError):
            node.admin.execute_command("CLUSTER", "DELSLOTS", slot)
    wait_until(lambda: all(len(node.slots()) == 4 for node in cluster.primaries), "nobody owns it")


async def until_it_answers(executor, key):
    end_s = time.monotonic() + 10
    while True:
        try:
            return await executor.call(count(key), time.monotonic())
        except StoreError:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.01)


async def test_no_node_answers(free_address):
    client = clients.async_client_from_url(f"redis://{free_address}?cluster=true", 0.5)
    executor = async_executor_for(client, 0.5, CATALOG)
    with pytest.raises(StoreUnavailable, match="no node of the cluster reports its slots"):
        await executor.call(count("key0"), time.monotonic())
    began_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match=free_address):
        await executor.call(count("key0"), time.monotonic())
    assert time.monotonic() - began_s < 0.1
    assert executor.breaker_state().is_open
    with pytest.raises(StoreUnavailable, match=free_address):
        await executor.run(operation([("GET", "x")]))
    await executor.close()


@pytest.fixture
def free_address():
    return f"127.0.0.1:{free_port()}"


@pytest.mark.parametrize("library", ["redis", "valkey"])
async def test_clients_of_the_callers_own(valkey_cluster, library):
    """Their connections, retries and topology are not used; they stay open."""
    client = valkey_cluster.async_client(library)
    async with open_executor(valkey_cluster, client=client) as executor:
        load = Load(executor)
        await in_thread(move, valkey_cluster, slot_of("key0"))
        await executor.call(count("key0"), time.monotonic())
        await load.end()
        assert load.errors == []
        assert counted(valkey_cluster, KEYS) == load.done + 1
    await in_thread(valkey_cluster.wait_agreed)
    assert int(await client.get("key0")) >= 1
    await client.aclose()


async def test_each_event_loop_has_connections_of_its_own(valkey_cluster):
    """At once in threads, and one after the other; those of loops that ended are closed."""
    before = connected(valkey_cluster)
    client = clients.async_client_from_url(valkey_cluster.url, 1.0)
    executor = async_executor_for(client, 1.0, CATALOG)

    async def some():
        return await asyncio.gather(*(executor.call(count(key), time.monotonic()) for key in KEYS))

    def loop(_):
        for _ in range(3):
            asyncio.run(some())

    await asyncio.gather(*(in_thread(loop, number) for number in range(4)))
    assert counted(valkey_cluster, KEYS) == 12 * len(KEYS)
    await until(lambda: connected(valkey_cluster) <= before)
    assert executor.breaker_state() == (False, 0)


def connected(cluster):
    return sum(node.admin.info("clients")["connected_clients"] for node in cluster.nodes)


async def test_closing_closes_all(valkey_cluster):
    before = connected(valkey_cluster)
    async with open_executor(valkey_cluster) as executor:
        await executor.run(operation([("SET", key, "") for key in KEYS]))
        assert connected(valkey_cluster) >= before + 9
    await until(lambda: connected(valkey_cluster) <= before)
    assert {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("ratelimit")} == set()


class Channel:
    """The messages that a listener passed on, and None where some may have been missed."""

    def __init__(self, executor, client):
        self.received = []
        self._listener = AsyncListener(client, "changes", self.received.append, self._tick, executor.finder)
        self._listener.start()

    async def _tick(self):
        pass

    async def receives(self, cluster, message):
        """Publish at each node in turn until it is received."""
        for number, node in enumerate(cluster.running):
            node.admin.publish("changes", f"{message}{number}")
        await until(lambda: all(f"{message}{number}" in self.received for number in range(len(cluster.running))))

    async def stop(self):
        await self._listener.stop()


def subscribed_at(cluster):
    return [node for node in cluster.running if node.admin.pubsub_numsub("changes") == [("changes", 1)]]


async def test_pushes_are_received_from_every_node_also_when_that_one_dies(own_cluster):
    """A listener that subscribes at another node passes on that messages may have been missed."""
    client = own_cluster.async_client()
    async with open_executor(own_cluster, client=client) as executor:
        channel = Channel(executor, client)
        await until(lambda: channel.received == [None])
        await channel.receives(own_cluster, "first")
        (node,) = subscribed_at(own_cluster)
        own_cluster.kill(node)
        await until(lambda: channel.received.count(None) == 2)
        await in_thread(own_cluster.wait_failed_over, node)
        await channel.receives(own_cluster, "second")
        await channel.stop()
    await client.aclose()


async def test_pushes_are_received_elsewhere_when_that_node_is_stopped_or_leaves(own_cluster):
    client = own_cluster.async_client()
    async with open_executor(own_cluster, 0.1, client=client) as executor:
        channel = Channel(executor, client)
        await until(lambda: channel.received == [None])
        (node,) = subscribed_at(own_cluster)
        load = Load(executor, tasks=5)
        node.pause()
        try:
            await until(lambda: channel.received.count(None) == 2)
            own_cluster._gone.append(node)
            await until(lambda: subscribed_at(own_cluster))
        finally:
            node.resume()
            own_cluster._gone.remove(node)
        await load.end()
        await channel.stop()
    await client.aclose()
