"""Leases whose replies nobody received, on real servers: what was charged was spent or is held, to the unit."""

import asyncio
import os
import signal
from contextlib import contextmanager, suppress
from unittest.mock import patch

import pytest
from helpers.forks import run_in_child
from helpers.leases import gold_key, used
from helpers.limiter_twin import TWINS, limiter_twin
from helpers.lua_mutation import bug
from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE, caching_replica
from helpers.waiting import wait_for

from ratelimit.local import leases
from ratelimit.local.leases import Leases

CANCELS, STALLS = 6, 5
DEADLINE_S, PATIENT_S = 0.3, 10.0
SECOND_US = 1_000_000

both = pytest.mark.parametrize("twin", TWINS)


class Replica:
    """A replica of a gateway behind a proxy; its upkeep is done by hand, and its clock is the test's.

    Attributes:
        spent: How many of its checks were admitted.
        unknown: How many had no reply.
    """

    def __init__(self, made, server, key, clock):
        self.made, self.server, self.key, self.clock = made, server, key, clock
        self.limiter = made.limiter
        self.leases = self.limiter._checker.leases
        self.spent = self.unknown = 0

    def check(self):
        decision = self.made.check()
        self.spent += decision.allowed
        self.unknown += not decision.allowed
        assert decision.allowed or decision.cause == "unknown", decision
        return decision

    def use_up(self):
        """Check until a lease of some size is used up: the next check requests one that is larger than its cost."""
        largest = 0
        while largest < 16 or self.held:
            self.check()
            largest = max(largest, self.held)
            self.clock.advance_us(100)

    @property
    def held(self):
        return sum(lease.units for lease in self.leases._held)

    @property
    def charged(self):
        count, day_used, _ = used(self.server, self.key)
        assert count == day_used
        return count

    @property
    def notes(self):
        with self.server.client() as client:
            return [name for name in client.hkeys(f"ratelimit:{{{self.key.id}}}") if name.startswith(b"l:")]

    def tick(self):
        """Have it return what is due, when nothing is waited for any more."""
        self.clock.advance_us(SECOND_US)
        self.made.run(self.limiter._tick()) if self.made.is_async else self.limiter._tick()

    def settle(self):
        """Do so until nothing is unsettled."""
        wait_for(lambda: self.tick() or not self.leases._unsettled)


@contextmanager
def replica(twin, server, clock, deadline=DEADLINE_S):
    """Yield a `Replica` and its proxy; once it is closed, what it spent was charged, and nothing is noted."""
    key = gold_key(server, clock)
    with (
        Proxy(server.socket, unix=True) as proxy,
        limiter_twin(twin, "url", proxy.url, key.value, clock=clock, deadline=deadline) as made,
    ):
        made.limiter._namespace.before_refresh = lambda: None
        made.run(made.limiter.warm_up()) if made.is_async else made.limiter.warm_up()
        its = Replica(made, server, key, clock)
        yield its, proxy
        proxy.clear()
        healthy(its)
    assert its.charged == its.spent


def is_balanced(its):
    """Whether each unit that was charged was spent, or can be."""
    return its.charged == its.spent + its.held


def cancelled(its, proxy):
    """Have a check's task be cancelled while the reply to it is on its way."""
    faults = proxy.faults

    async def cancel():
        task = asyncio.ensure_future(its.limiter.check(its.key.value, STAGE, METHOD))
        await asyncio.to_thread(proxy.wait_for_faults, faults + 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    its.made.run(cancel())


def timed_out(its, _proxy):
    """Have a caller wait for no longer than it wants to."""

    async def wait():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(its.limiter.check(its.key.value, STAGE, METHOD), 0.02)

    its.made.run(wait())


@pytest.mark.parametrize("leave", [cancelled, timed_out])
def test_a_late_reply_of_a_cancelled_check_is_held(server, clock, leave):
    """Six cancels, with the reply still to come: the lease holds what was granted, its caller's own unit included."""
    with replica("asyncio", server, clock, PATIENT_S) as (its, proxy):
        for _ in range(CANCELS):
            its.use_up()
            before = its.charged
            proxy.on("EVALSHA", "delay", seconds=0.1, times=1)
            leave(its, proxy)
            wait_for(lambda: its.held)
            assert its.held == its.charged - before > 1
            assert is_balanced(its)
            assert len(its.notes) == 1
        assert its.leases._unsettled == {}


@pytest.mark.parametrize("leave", [cancelled, timed_out])
def test_a_cancelled_check_whose_reply_is_lost_is_returned(server, clock, leave):
    """Six cancels, and the replies never come: what was granted is returned by its id."""
    with replica("asyncio", server, clock, PATIENT_S) as (its, proxy):
        for number in range(1, CANCELS + 1):
            its.use_up()
            before = its.charged
            proxy.on("EVALSHA", "drop", times=1)
            leave(its, proxy)
            proxy.wait_for_faults(number)
            assert its.charged > before + 1
            its.settle()
            assert (its.charged, its.held) == (before, 0)
            assert is_balanced(its)
            proxy.disconnect()
            proxy.clear()
            healthy(its)
        assert its.unknown == 0


def test_a_reply_that_is_later_than_its_return_is_not_held(server, clock):
    """It was returned by its id: whoever spent it as well would spend what is not charged."""
    with replica("asyncio", server, clock, PATIENT_S) as (its, proxy):
        its.use_up()
        before = its.charged
        late, on_late_reply = [], Leases._on_late_reply
        with patch.object(Leases, "_on_late_reply", lambda *args: (on_late_reply(*args), late.append(args))):
            proxy.on("EVALSHA", "delay", seconds=1.0, times=1)
            cancelled(its, proxy)
            assert its.charged > before + 1
            its.settle()
            assert (its.charged, its.held, late) == (before, 0, [])
            wait_for(lambda: late)
            assert (its.charged, its.held) == (before, 0)


@both
def test_stalls_of_the_server_burn_nothing(server, clock, twin):
    """Five stops, each of which a request for a lease meets: carried out afterwards or not, nothing is missing."""
    with replica(twin, server, clock) as (its, _):
        for stall in range(1, STALLS + 1):
            its.use_up()
            with server.stopped():
                its.check()
            assert its.unknown == stall
            healthy(its)
            its.settle()
            wait_for(lambda: is_balanced(its))


def healthy(its):
    """Check until Redis admits again."""
    for decision in its.made.until_healthy():
        its.spent += decision.allowed


@both
def test_lost_replies_burn_nothing(server, clock, twin):
    """The request was carried out, and then its connection was reset."""
    with replica(twin, server, clock) as (its, proxy):
        for lost in range(1, STALLS + 1):
            its.use_up()
            before = its.charged
            proxy.on("EVALSHA", "reset", times=1)
            its.check()
            assert its.unknown == lost
            assert its.charged > before + 1
            its.settle()
            assert (its.charged, its.held) == (before, 0)
            assert is_balanced(its)


@both
def test_a_request_that_arrives_after_its_return_gets_nothing(server, clock, twin):
    """It lay in the buffer of a server that was stopped, or in the network, while the return came another way."""
    with replica(twin, server, clock) as (its, proxy), server.client() as client:
        its.use_up()
        before, links = its.charged, [*proxy.links]
        proxy.on("EVALSHA", "hold", times=1)
        its.check()
        assert its.unknown == 1
        its.settle()
        assert (its.charged, len(its.notes)) == (before, 1)
        scripts = scripts_run(client)
        proxy._loop.call(lambda: [link.release() for link in {*links, *proxy.links}])
        wait_for(lambda: scripts_run(client) > scripts)
        assert (its.charged, its.held) == (before, 0)


def scripts_run(client):
    """How often the server was sent a script by its hash."""
    return client.info("commandstats")["cmdstat_evalsha"]["calls"]


def test_a_blocking_check_that_is_interrupted_burns_nothing(server, clock):
    """As by Ctrl-C, or by the time limit of a worker."""

    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    with replica("blocking", server, clock, PATIENT_S) as (its, proxy):
        its.use_up()
        before = its.charged
        proxy.on("EVALSHA", "delay", seconds=0.5, times=1)
        former = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(Interrupted):
                its.check()
        finally:
            signal.signal(signal.SIGALRM, former)
        assert its.charged > before + 1
        its.settle()
        assert (its.charged, its.held) == (before, 0)


@both
def test_closing_returns_what_nobody_received(server, clock, twin):
    """Also where its reply might still come."""
    with replica(twin, server, clock) as (its, proxy):
        its.use_up()
        proxy.on("EVALSHA", "reset", times=1)
        its.check()
        assert its.charged > its.spent + its.held
    assert its.notes == []


def test_what_a_crashed_process_held_is_missing_and_its_note_goes(server, clock):
    """Its units count as used: too few are admitted, never too many. The next lease after a minute removes the note."""
    key = gold_key(server, clock)

    def crash():
        with caching_replica(server, clock) as limiter:
            for _ in range(50):
                assert limiter.check(key.value, STAGE, METHOD).allowed
                clock.advance_us(100)
            held = sum(lease.units for lease in limiter._checker.leases._held)
            assert 0 < held == used(server, key)[0] - 50
            os._exit(0)

    assert run_in_child(crash) == 0
    charged = used(server, key)[0]
    assert charged > 50
    with limiter_twin("blocking", "url", server.url, key.value, clock=clock, deadline=PATIENT_S) as made:
        its = Replica(made, server, key, clock)
        its.use_up()
        assert len(its.notes) == 2
        clock.advance(60)
        its.tick()
        its.use_up()
        assert len(its.notes) == 1
    assert (its.notes, its.charged) == ([], charged + its.spent)


def test_a_hot_key_has_one_note_for_each_lease(server, clock):
    """The next request takes the note of the lease that was used up along; an idle key has none after a while."""
    with replica("blocking", server, clock, PATIENT_S) as (its, _):
        for _ in range(5):
            its.use_up()
            its.check()
            assert len(its.notes) == 1
        its.use_up()
        its.tick()
        assert (its.notes, list(its.leases._held)) == ([], [])


def test_what_is_unsettled_is_bounded(server, clock):
    """While Redis does not answer, of 1000 requests; beyond, the oldest are given up."""
    with replica("blocking", server, clock, PATIENT_S) as (its, _), patch.object(leases, "_MAX_UNSETTLED", 3):
        its.use_up()
        prepared = its.limiter._checker.prepared(its.key.value, STAGE, METHOD)
        for number in range(5):
            unspent = leases.UnspentUnits(f"l:{number}", 1, 0)
            its.leases._add_unsettled(leases._RequestedLease(prepared, prepared.lease, unspent, 0, 0))
        assert list(its.leases._unsettled) == ["l:2", "l:3", "l:4"]
        its.settle()


def notes_of_what_was_used_up_stay():
    return bug("hash_values[key_buckets + 4] and { ARGV[key_buckets + 4] } or ", "")


def what_was_returned_is_granted():
    return bug("if hash_values[key_buckets + 3] or not outdated then", "if not outdated then")


def what_was_returned_is_held():
    return patch.object(
        Leases, "_take_unsettled", lambda self, each: self._unsettled.pop(each.unspent.note_field, None) or True
    )


def nothing_is_returned_by_its_id():
    return patch.object(Leases, "_add_unsettled", lambda *_: None)


@pytest.mark.parametrize(
    ("seeded", "test", "arguments"),
    [
        (nothing_is_returned_by_its_id, test_lost_replies_burn_nothing, ("blocking",)),
        (nothing_is_returned_by_its_id, test_stalls_of_the_server_burn_nothing, ("blocking",)),
        (notes_of_what_was_used_up_stay, test_a_hot_key_has_one_note_for_each_lease, ()),
        (what_was_returned_is_granted, test_a_request_that_arrives_after_its_return_gets_nothing, ("asyncio",)),
        (what_was_returned_is_held, test_a_reply_that_is_later_than_its_return_is_not_held, ()),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_seeded_bug_is_found(server, clock, seeded, test, arguments):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    with seeded(), pytest.raises(AssertionError):
        test(server, clock, *arguments)
