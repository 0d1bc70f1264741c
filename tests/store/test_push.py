"""Pushed changes: in force on every replica at once, and where a push is lost, within `max_age`."""

import asyncio
import gc
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from unittest.mock import patch

import pytest
from helpers.forks import run_in_child, without_fork_resets
from helpers.lua_mutation import bug
from helpers.propagation_worker import METHOD, SEEN, STAGE, watch
from helpers.waiting import wait_for
from redis.client import PubSub

from ratelimit import AsyncLimiter, Catalog, Limiter, Stage, Throttle, UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.store import pubsub
from ratelimit.store.blocking.endpoint import Endpoint

CHANNEL = b"ratelimit:changes"
REPLICAS, ROUNDS = 4, 20
MAX_AGE = 5.0
PATIENCE = 5.0
"""Seconds to wait for what should happen at once, or half a second after a connection was killed."""
FOREVER = 1e9
"""As `max_age`: a replica that does not look by itself."""


def plan(burst):
    return UsagePlan("gold", Throttle(1, burst), None, [STAGE])


@pytest.fixture
def admin(server):
    """An administrator's client and catalogue, and a key of a plan with a burst of 100."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(plan(100))
        yield client, catalog, catalog.create_key(plans=["gold"])


def burst(limiter, key):
    (limit,) = limiter.peek(key.value, STAGE, METHOD).limits
    return limit.limit


def listeners(client):
    return dict(client.pubsub_numsub(CHANNEL))[CHANNEL]


@contextmanager
def listening(server, client, **options):
    """A limiter that has been told once and listens."""
    before = listeners(client)
    with Limiter.from_url(server.url, deadline=10.0, **options) as limiter:
        limiter.peek("x" * 30, STAGE, METHOD)
        wait_for(lambda: listeners(client) == before + 1)
        yield limiter


# Four processes


def test_a_change_is_in_force_on_all_replicas(server, processes, admin):
    """On each of four, by push alone, and never later than `max_age` after the commit; none goes back to an old one."""
    client, catalog, _ = admin
    keys = [catalog.create_key(plans=["gold"]).value for _ in range(REPLICAS)]
    last = 100 + ROUNDS
    tasks = [(server.url, at, key, last, 0.001, FOREVER) for at, key in enumerate(keys)]
    running = [processes.apply_async(watch, task) for task in tasks]

    def all_see(burst):
        for process in running:
            if process.ready():
                process.get()  # raises what it ended with
        return client.hvals(SEEN) == [burst] * REPLICAS

    committed = {}
    for number in range(100, last + 1):
        catalog.put_plan(plan(number))
        committed[number] = time.monotonic()
        wait_for(partial(all_see, str(number).encode()), seconds=30)
    turns = [turn for process in running for turn in process.get()]
    bursts = list(range(101, last + 1))
    assert [turn.burst for turn in turns] == bursts * REPLICAS
    late = [turn for turn in turns if turn.last_old - committed[turn.burst] > MAX_AGE]
    assert late == []


# What is pushed


CHANGES = {
    "plan": (lambda catalog: catalog.put_plan(plan(4)), "plan:gold"),
    "stage": (lambda catalog: catalog.put_stage(Stage(STAGE, Throttle(1, 4))), f"stage:{STAGE}:*"),
    "account": (lambda catalog: catalog.set_account_throttle(Throttle(1, 4)), "account"),
}


def a_change_is_heard(server, client, catalog, key, change, seconds=PATIENCE):
    make, name = CHANGES[change]
    with listening(server, client, max_age=FOREVER) as limiter:
        assert burst(limiter, key) == 100
        make(catalog)
        wait_for(lambda: limits(limiter, key).get(name) == 4, seconds)


def limits(limiter, key):
    return {limit.name: limit.limit for limit in limiter.peek(key.value, STAGE, METHOD).limits}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_heard(server, admin, change):
    """Of a plan, a stage or the account, by a replica that would not look by itself."""
    a_change_is_heard(server, *admin, change)


def test_a_change_through_its_own_catalogue_needs_no_push(server, admin, clock):
    """A limiter goes by what its own catalogue changed at the very next check."""
    _, _, key = admin
    with Limiter.from_url(server.url, deadline=10.0, clock=clock, max_age=FOREVER) as limiter:
        limiter._namespace.before_refresh = lambda: None
        for number in (100, 7, 3):
            limiter.catalog.put_plan(plan(number))
            assert burst(limiter, key) == number


def test_a_limiter_whose_catalogue_came_first_is_pushed_to(server, admin):
    """What the catalogue has loaded is fresh, yet nobody listens: the first check begins with that."""
    client, catalog, key = admin
    with Limiter.from_url(server.url, deadline=10.0, max_age=FOREVER) as limiter:
        limiter.catalog.plans()
        assert burst(limiter, key) == 100
        wait_for(lambda: client.pubsub_numsub(CHANNEL)[0][1] == 1)
        catalog.put_plan(plan(7))
        wait_for(lambda: burst(limiter, key) == 7)


def test_what_stays_as_it_is_is_not_pushed(admin):
    """A plan that is put again as it was makes no version and no noise; a change is told with its version."""
    client, catalog, _ = admin
    with client.pubsub(ignore_subscribe_messages=True) as on_change_message:
        on_change_message.subscribe(CHANNEL)
        on_change_message.get_message(timeout=1)
        version = int(client.hget("{ratelimit}:catalog", "version"))
        catalog.put_plan(plan(100))
        catalog.put_plan(plan(50))
        message = on_change_message.get_message(timeout=2)
        assert (message["channel"], message["data"]) == (CHANNEL, str(version + 1).encode())
        assert on_change_message.get_message(timeout=0.05) is None


# What is lost


def test_a_lost_push_is_caught_up(server, admin, clock):
    """A replica whose listener has stopped goes by the change `max_age` after it last looked, and not before."""
    client, catalog, key = admin
    with listening(server, client, clock=clock, max_age=MAX_AGE) as limiter:
        limiter._listener.stop()
        assert burst(limiter, key) == 100
        clock.advance(MAX_AGE)
        assert burst(limiter, key) == 100
        catalog.put_plan(plan(4))
        clock.advance_us(4_999_999)
        assert burst(limiter, key) == 100
        clock.advance_us(1)
        assert burst(limiter, key) == 4


def test_a_push_that_is_lost_with_its_connection_is_caught_up(server, admin, clock):
    """Connections of listeners are killed while the plan changes: `max_age` later the change is in force."""
    client, catalog, key = admin
    with listening(server, client, clock=clock, max_age=MAX_AGE) as limiter:
        assert burst(limiter, key) == 100
        client.client_kill_filter(_type="pubsub")
        catalog.put_plan(plan(4))
        clock.advance(MAX_AGE)
        assert burst(limiter, key) == 4


def listeners_reconnect(server, client, catalog, key, seconds=PATIENCE):
    with listening(server, client, max_age=FOREVER) as limiter:
        for number in (4, 5):
            client.client_kill_filter(_type="pubsub")
            catalog.put_plan(plan(number))  # nobody hears it
            wait_for(lambda number=number: burst(limiter, key) == number, seconds)
            wait_for(lambda: listeners(client) == 1)
        catalog.put_plan(plan(6))
        wait_for(lambda: burst(limiter, key) == 6)


def test_listeners_reconnect(server, admin):
    """After their connection was killed they listen again, and learn what was said while they did not."""
    listeners_reconnect(server, *admin)


def test_a_replica_that_lagged_brings_no_old_plan_back(server, admin, clock):
    """Another replica has applied the new plan to a key: the one that heard nothing is told so by the next check."""
    client, catalog, key = admin
    with (
        listening(server, client, clock=clock, max_age=FOREVER) as lagging,
        listening(server, client, clock=clock, max_age=FOREVER) as current,
    ):
        lagging._listener.stop()
        assert lagging.check(key.value, STAGE, METHOD, 40).limits[0].remaining == 60
        catalog.put_plan(plan(10))
        wait_for(lambda: burst(current, key) == 10)
        assert burst(lagging, key) == 100  # nothing was applied to the key yet: a peek writes nothing
        assert current.check(key.value, STAGE, METHOD).limits[0][1:3] == (10, 9)
        assert lagging.check(key.value, STAGE, METHOD).limits[0][1:3] == (10, 8)
        assert burst(lagging, key) == 10


# Threads and tasks


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "ratelimit-push"]


def test_a_limiter_has_one_thread_until_it_is_closed(server, admin):
    """It starts with the first check, whoever makes it, and ends with close, which may be called again."""
    client, _, key = admin
    assert threads() == []
    limiter = Limiter.from_url(server.url, deadline=10.0)
    assert threads() == []
    together = [threading.Thread(target=burst, args=(limiter, key)) for _ in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len(threads()) == 1
    wait_for(lambda: listeners(client) == 1)
    for _ in range(2):
        limiter.close()
        assert threads() == []
    wait_for(lambda: listeners(client) == 0)


def test_a_limiter_that_was_never_used_has_no_thread(server):
    """There is nothing to end."""
    with Limiter.from_url(server.url):
        assert threads() == []
    assert threads() == []


def test_a_thread_whose_connection_was_killed_ends_at_once(server, admin):
    """Whether it has noticed yet or waits to reconnect: close ends it, and leaves no connection behind."""
    client, _, _ = admin

    def connections():
        return {each["id"] for each in client.client_list()}

    Endpoint.of(client.connection_pool).connect(5)  # all that it will have stand, so that none is added meanwhile
    before = connections()

    def is_gone():
        client.client_kill_filter(_type="pubsub")  # again, should it have reconnected meanwhile
        return listeners(client) == 0

    for _ in range(5):
        with listening(server, client) as limiter:
            wait_for(is_gone)
            limiter.close()
            assert threads() == []
            wait_for(lambda: listeners(client) == 0)  # else the next round would count on a subscription that ends
    gc.collect()  # a connection that was left behind warns now, and a warning is an error
    wait_for(lambda: connections() <= before)


def test_a_limiter_that_is_forgotten_is_let_go(server, admin):
    """Without close, its thread ends by itself once nobody has the limiter any more."""
    client, _, key = admin
    with server.client() as own:
        limiter = Limiter(own)
        assert burst(limiter, key) == 100
        wait_for(lambda: listeners(client) == 1)
        del limiter
        wait_for(lambda: gc.collect() >= 0 and threads() == [])  # its thread holds it while it does what is due


def child_of_one_that_starts_to_listen(server, key):
    with Limiter.from_url(server.url, deadline=10.0) as limiter:
        with limiter._listener._lock, limiter._listener._stopped._cond:
            ended = run_in_child(lambda: burst(limiter, key) == 100)
        assert burst(limiter, key) == 100
    return ended


def test_a_fork_while_another_thread_starts_to_listen(server, admin):
    """The child has locks of its own: that thread does not exist there, and would never let go."""
    assert child_of_one_that_starts_to_listen(server, admin[-1]) == 0


@pytest.mark.slow
def test_locks_that_a_child_takes_over_are_noticed(on_valkey):
    server, *admin = on_valkey
    with without_fork_resets():
        assert child_of_one_that_starts_to_listen(server, admin[-1]) is None


# The twin


@asynccontextmanager
async def listening_twin(server, client, **options):
    async with AsyncLimiter.from_url(server.url, deadline=10.0, **options) as limiter:
        await limiter.peek("x" * 30, STAGE, METHOD)
        await asyncio.to_thread(wait_for, lambda: listeners(client) == 1)
        yield limiter


async def burst_of_twin(limiter, key):
    (limit,) = (await limiter.peek(key.value, STAGE, METHOD)).limits
    return limit.limit


async def until(limiter, key, number, seconds):
    """Wait until a twin goes by a burst."""
    deadline = time.monotonic() + seconds
    while await burst_of_twin(limiter, key) != number:
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.002)


def tasks():
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("ratelimit-")]


def the_twin_hears(server, client, catalog, key, seconds=PATIENCE):
    async def run():
        async with listening_twin(server, client, max_age=FOREVER) as limiter:
            for number in (4, 5):
                await asyncio.to_thread(catalog.put_plan, plan(number))
                await until(limiter, key, number, seconds)
            await asyncio.to_thread(client.client_kill_filter, _type="pubsub")
            await asyncio.to_thread(catalog.put_plan, plan(6))
            await until(limiter, key, 6, seconds)
            await asyncio.to_thread(wait_for, lambda: listeners(client) == 1)

    asyncio.run(run())


def test_the_twin_hears_and_reconnects(server, admin):
    """A task of the event loop listens, and does so again when its connection was killed."""
    the_twin_hears(server, *admin)


@pytest.mark.parametrize("hears", [listeners_reconnect, the_twin_hears], ids=["thread", "task"])
def test_listeners_survive_what_nobody_expects(hears, server, admin, monkeypatch):
    """An exception of any kind while listening, as of a client's own connection class, ends one connection at most."""
    right, raised = pubsub._text, []

    def said(message):
        if not raised:
            raised.append(message)
            raise RuntimeError("not expected")
        return right(message)

    monkeypatch.setattr(pubsub, "_text", said)
    hears(server, *admin)
    assert raised


def test_the_twin_catches_up(server, admin, clock):
    """Without its listener, `max_age` after it last looked, and not before."""
    client, catalog, key = admin

    async def run():
        async with listening_twin(server, client, clock=clock, max_age=MAX_AGE) as limiter:
            await limiter._listener.stop()
            assert await burst_of_twin(limiter, key) == 100
            catalog.put_plan(plan(4))
            clock.advance_us(4_999_999)
            assert await burst_of_twin(limiter, key) == 100
            clock.advance_us(1)
            assert await burst_of_twin(limiter, key) == 4

    asyncio.run(run())


def test_the_tasks_of_the_twin_end(server, admin):
    """They start with the first check and end with aclose, also while one waits to reconnect."""
    client, _, key = admin

    async def run(*, killed):
        limiter = AsyncLimiter.from_url(server.url, deadline=10.0)
        assert tasks() == []
        await asyncio.gather(*(burst_of_twin(limiter, key) for _ in range(8)))
        await asyncio.to_thread(wait_for, lambda: listeners(client) == 1)
        names = [task.get_name() for task in tasks()]
        assert names.count("ratelimit-push") == 1
        assert set(names) <= {"ratelimit-push", "ratelimit-connect"}  # what it does now and then has a connection
        if killed:
            client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.05)
        for _ in range(2):
            await limiter.aclose()
            assert tasks() == []

    for killed in (False, True):
        asyncio.run(run(killed=killed))
        wait_for(lambda: listeners(client) == 0)


# Seeded bugs


@pytest.fixture
def on_valkey(running):
    """One server, an administrator's client and catalogue, and a key: enough to tell a bug."""
    with running["valkey"].client() as client:
        client.flushall()
        catalog = Catalog(client)
        catalog.put_plan(plan(100))
        yield running["valkey"], client, catalog, catalog.create_key(plans=["gold"])


def test_deafness_is_noticed(on_valkey):
    """A limiter that hears and does nothing fails the tests of what is heard, of both twins."""
    with patch.object(Namespace, "on_change_message", lambda *_: None):
        with pytest.raises(AssertionError):
            a_change_is_heard(*on_valkey, "plan", seconds=1)
        with pytest.raises(AssertionError):
            the_twin_hears(*on_valkey, seconds=1)


def test_that_a_gap_is_not_minded_is_noticed(on_valkey):
    """A limiter that does not look when it listens again misses what was said meanwhile, and the test fails."""
    get_message = PubSub.get_message

    def of_messages_alone(pubsub, timeout):
        return get_message(pubsub, ignore_subscribe_messages=True, timeout=timeout)

    with patch.object(PubSub, "get_message", of_messages_alone), pytest.raises(AssertionError):
        listeners_reconnect(*on_valkey, seconds=2)


def test_versions_that_are_not_compared_are_noticed(on_valkey, clock):
    """A script that lets a stale caller pass brings an old plan back, and the test fails."""
    server, *admin = on_valkey
    right = "local is_newer = string.sub(stored_token, 9, 18) > string.sub(version_token, 9, 18)"
    with bug(right, "local is_newer = false"), pytest.raises(AssertionError):
        test_a_replica_that_lagged_brings_no_old_plan_back(server, admin, clock)


def test_only_what_changed_is_parsed_again(backend, clock):
    """A change of one plan among many costs a gateway one parsed plan: those that it had met stay the same objects."""
    with backend.client() as client, Limiter(client, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 2), None, [STAGE]))
        limiter.catalog.put_plan(UsagePlan("silver", Throttle(1, 2), None, ["petstore/test"]))
        limiter.catalog.put_stage(Stage(STAGE, Throttle(1, 9)))
        before = limiter._namespace.snapshot
        silver = before.plans["silver"]
        with backend.client() as other:
            Catalog(other).put_plan(UsagePlan("gold", Throttle(1, 3), None, [STAGE]))
            Catalog(other).delete_stage(STAGE)
        limiter._namespace.on_change_message("9")
        limiter.check("k" * 30, STAGE, METHOD)
        snapshot = limiter._namespace.snapshot
        assert snapshot.plans["gold"].throttle == Throttle(1, 3)
        assert snapshot.plans["silver"] is silver
        assert not snapshot.stages
        limiter.catalog.put_stage(Stage(STAGE, Throttle(1, 9)))
        assert limiter._namespace.snapshot.stages == before.stages
