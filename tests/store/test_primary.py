"""Sentinels are asked for the primary: before connecting, each second, and when one of them publishes a failover."""

import asyncio
import gc
import os
import threading
import time
from importlib import import_module

import pytest
from helpers.fake_sentinel import FakeSentinel
from helpers.forks import run_in_child, without_fork_resets
from helpers.loop_thread import LoopThread
from helpers.ports import free_port
from helpers.sentinel import NAME, WatchedPrimary
from helpers.servers import CLIENT, LIBRARY, NAMES
from helpers.waiting import wait_for

from ratelimit import StoreUnavailable
from ratelimit.store import sentinel
from ratelimit.store.aio.primary import AsyncPrimaryFinder
from ratelimit.store.blocking.primary import PrimaryFinder

A, B = ("127.0.0.1", 7001), ("127.0.0.1", 7002)
SECRET = "S3cr3tPw"


class Owner:
    """Whom a finder serves."""

    def __init__(self):
        self.moves = []

    def on_primary(self, address):
        self.moves.append(address)


class Twin:
    """A finder of either kind, called in one way; one of asyncio has an event loop in a thread of its own."""

    def __init__(self, addresses, service=NAME, *, is_async=False, **options):
        self.is_async, self.owner = is_async, Owner()
        self._library = f"{LIBRARY}.asyncio" if is_async else LIBRARY
        manager = import_module(f"{self._library}.sentinel").Sentinel(addresses, **options)
        self._client = manager.master_for(service, redis_class=getattr(import_module(self._library), CLIENT[LIBRARY]))
        if is_async:
            self.loop = LoopThread()
        self.finder = self.run(self._make)

    async def _amake(self):
        return AsyncPrimaryFinder(self._client.connection_pool)

    def _make(self):
        if self.is_async:
            return self._amake()
        return PrimaryFinder(self._client.connection_pool)

    def run(self, function):
        """Call a function where the finder lives, and wait for what it returns if that is to be awaited."""
        return self.loop.call(function) if self.is_async else function()

    def find(self):
        return self.run(self.finder.find)

    def watch(self):
        self.run(lambda: self.finder.watch(self.owner.on_primary))

    def end(self):
        """End the watch, as its owner does."""
        self.run(self.finder.close if self.is_async else lambda: self.finder.unwatch(self.owner.on_primary))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.owner is not None:
            self.end()
        if self.is_async:
            self.loop.close()


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def twin(request):
    """Makes a finder of either kind for these Sentinels."""
    made = []

    def make(*addresses, **options):
        made.append(Twin(addresses, is_async=request.param, **options))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


@pytest.fixture
def never(monkeypatch):
    """The Sentinels are asked once, and not again by themselves."""
    monkeypatch.setattr(sentinel, "INTERVAL_S", 3600)


def test_the_first_answer_is_taken(twin):
    """Nobody else is asked, and nothing of it stays open."""
    with FakeSentinel(A) as first, FakeSentinel(B) as second:
        finder = twin(first.address, second.address)
        assert finder.find() == A
        assert (first.count(b"GET-MASTER-ADDR-BY-NAME"), second.connection_count) == (1, 0)
        wait_for(lambda: first.open_count == 0)


def test_one_that_is_silent_is_passed_over_and_asked_last_from_then_on(twin):
    """It may take a quarter of a second, and costs nothing after that."""
    with FakeSentinel(A) as silent, FakeSentinel(B) as other:
        silent.is_silent = True
        finder = twin(silent.address, ("127.0.0.1", free_port()), other.address)
        assert [finder.find() for _ in range(3)] == [B] * 3
        assert (silent.connection_count, other.connection_count) == (1, 3)


def test_nobody_answers(twin):
    """One error, of the service and of each Sentinel."""
    with FakeSentinel(None) as ignorant, FakeSentinel(A) as silent:
        silent.is_silent = True
        finder = twin(ignorant.address, silent.address, ("127.0.0.1", closed := free_port()))
        with pytest.raises(StoreUnavailable) as caught:
            finder.find()
        assert caught.value.cause == "not_sent"
        message = str(caught.value)
        assert message.startswith(
            f"no Sentinel names a primary of the service {NAME!r} (127.0.0.1:{ignorant.address[1]}: "
        )
        assert "does not know the service" in message
        assert f"127.0.0.1:{silent.address[1]}: " in message
        assert f"127.0.0.1:{closed}: " in message


def test_a_failover_that_is_published(twin, never):
    """Is taken up though nobody would ask again for an hour; whoever listens is told once."""
    with FakeSentinel(A) as publishing:
        finder = twin(publishing.address)
        assert finder.find() == A
        finder.watch()
        wait_for(lambda: publishing.count(b"SUBSCRIBE") == publishing.count(b"MASTER") - 1 == 1)
        publishing.switch(B)
        wait_for(lambda: finder.owner.moves == [B])
        publishing.switch(A)
        wait_for(lambda: finder.owner.moves == [B, A])
        assert (finder.find(), finder.owner.moves) == (A, [B, A])


def test_a_failover_that_nobody_publishes(twin, monkeypatch):
    """Is taken up when the Sentinels are asked again."""
    monkeypatch.setattr(sentinel, "SWITCH_CHANNEL", "nothing")
    with FakeSentinel(A) as mute:
        finder = twin(mute.address)
        assert finder.find() == A
        finder.watch()
        wait_for(lambda: mute.count(b"MASTER") > 1)
        mute.primary = B
        wait_for(lambda: finder.owner.moves == [B], 10)


def test_failovers_of_many_services(twin, never):
    """They are published on one channel, and perhaps all at once: the Sentinels are asked each 50 ms at most."""
    with FakeSentinel(A) as busy:
        finder = twin(busy.address)
        assert finder.find() == A
        finder.watch()
        wait_for(lambda: busy.count(b"MASTER") - 1 == busy.count(b"SUBSCRIBE") == 1)
        busy.primary = B
        began_s = time.monotonic()
        while finder.owner.moves != [B] or time.monotonic() < began_s + 0.3:
            busy.publish()
            time.sleep(0.001)
            assert time.monotonic() < began_s + 5
        assert busy.count(b"MASTER") - 2 <= (time.monotonic() - began_s) / sentinel.PAUSE_S + 1


def test_who_connects_notices_a_failover_too(twin, never):
    """Before the watch does: the owner is told, as there may be connections to the former primary."""
    with FakeSentinel(A) as asked:
        finder = twin(asked.address)
        assert finder.find() == A
        finder.watch()
        wait_for(lambda: asked.count(b"MASTER") - 1 == asked.count(b"SUBSCRIBE") == 1)
        asked.primary = B
        assert (finder.find(), finder.owner.moves) == (B, [B])


def test_one_sentinel_that_was_cut_off(twin):
    """It names the deposed primary for as long as it is; the others know better, whoever is asked first."""
    with FakeSentinel(A) as cut_off, FakeSentinel(A) as second, FakeSentinel(A) as third:
        finder = twin(cut_off.address, second.address, third.address)
        assert finder.find() == A
        finder.watch()
        for each in (second, third):
            each.switch(B)
        wait_for(lambda: finder.owner.moves == [B], 10)
        assert finder.find() == B
        second.drop()
        rounds = cut_off.count(b"MASTER")
        wait_for(lambda: cut_off.count(b"MASTER") > rounds + 1, 10)
        assert finder.owner.moves == [B]


def test_a_silent_sentinel_holds_nobody_up(twin, monkeypatch):
    """The others are asked each second all the same, and what they say counts at once."""
    monkeypatch.setattr(sentinel, "SWITCH_CHANNEL", "nothing")
    with FakeSentinel(A) as silent, FakeSentinel(A) as other:
        finder = twin(silent.address, other.address)
        finder.watch()
        wait_for(lambda: other.count(b"MASTER") == silent.count(b"MASTER") == 1)
        silent.is_silent = True
        wait_for(lambda: other.count(b"MASTER") > 2, 10)
        rounds, began_s = other.count(b"MASTER"), time.monotonic()
        other.primary, other.epoch = B, 2
        wait_for(lambda: finder.owner.moves == [B], 10)
        assert other.count(b"MASTER") - rounds <= 2
        assert time.monotonic() - began_s < 3


def test_sentinels_that_are_slow(twin, monkeypatch):
    """Where none answers in time, they get more of it."""
    monkeypatch.setattr(sentinel, "TIMEOUT_S", 0.02)
    with FakeSentinel(A) as slow:
        slow.delay_s = 0.1
        assert twin(slow.address).find() == A


def test_a_sentinel_that_starts_anew(twin):
    """The watch connects and subscribes once more."""
    with FakeSentinel(A) as restarted:
        finder = twin(restarted.address)
        assert finder.find() == A
        finder.watch()
        wait_for(lambda: restarted.count(b"SUBSCRIBE") == 1 and restarted.count(b"MASTER") > 1)
        restarted.drop()
        wait_for(lambda: restarted.count(b"SUBSCRIBE") > 1)
        restarted.switch(B)
        wait_for(lambda: finder.owner.moves == [B])


def test_the_watch_ends_with_its_finder(twin, never):
    """No thread or task of it is left, and no connection."""
    with FakeSentinel(A) as asked:
        finder = twin(asked.address)
        finder.watch()
        wait_for(lambda: asked.count(b"MASTER") == asked.count(b"SUBSCRIBE") == 1)
        finder.end()
        assert "ratelimit-sentinel" not in [thread.name for thread in threading.enumerate()]
        wait_for(lambda: asked.open_count == 0)
        if finder.is_async:
            left = finder.run(lambda: [task for task in asyncio.all_tasks() if "sentinel" in task.get_name()])
            assert left == []


def test_a_blocking_watch_ends_with_its_owner():
    """Within a second, though nobody ended it. Of asyncio, its loop ends it."""
    with FakeSentinel(A) as asked, Twin([asked.address]) as finder:
        finder.watch()
        wait_for(lambda: asked.count(b"SUBSCRIBE") == 1)
        finder.owner = None
        wait_for(lambda: gc.collect() >= 0 and asked.open_count == 0, 10)  # its thread may hold it for a moment


def test_the_watch_serves_several(twin, never):
    """Each is told once; when one leaves, the others still are, and a watch that has ended can begin anew."""
    with FakeSentinel(A) as asked:
        finder, other = twin(asked.address), Owner()
        assert finder.find() == A
        finder.watch()
        finder.run(lambda: finder.finder.watch(other.on_primary))
        wait_for(lambda: asked.count(b"MASTER") - 1 == asked.count(b"SUBSCRIBE") == 1)
        asked.switch(B)
        wait_for(lambda: finder.owner.moves == other.moves == [B])
        if finder.is_async:
            return
        finder.end()
        asked.switch(A)
        wait_for(lambda: other.moves == [B, A])
        assert finder.owner.moves == [B]
        finder.finder.unwatch(other.on_primary)
        wait_for(lambda: asked.open_count == 0)
        finder.watch()
        wait_for(lambda: asked.open_count == 2)


def test_a_finder_that_never_watched(twin):
    """Is ended as well."""
    twin(("127.0.0.1", free_port())).end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_watches_by_itself(never):
    """With a thread, a lock and connections of its own."""
    with FakeSentinel(A) as asked, Twin([asked.address]) as finder:
        finder.watch()
        wait_for(lambda: asked.count(b"MASTER") == asked.count(b"SUBSCRIBE") == 1)

        def watches():
            finder.finder._tracker.primary = None
            finder.watch()
            wait_for(lambda: finder.finder._tracker.primary is not None)
            return finder.find() == A

        with finder.finder._lock:
            assert run_in_child(watches) == 0
            with without_fork_resets():
                assert run_in_child(watches) is None
        assert (asked.count(b"SUBSCRIBE"), asked.count(b"MASTER")) == (2, 3)


MINIMAL = "resetchannels -@all +sentinel|get-master-addr-by-name"
USERS = (
    f"user watcher on >{SECRET} {MINIMAL} +sentinel|master +subscribe &+switch-master",
    f"user asker on >{SECRET} {MINIMAL}",
)


@pytest.mark.parametrize("name", NAMES)
def test_real_sentinels(twin, name, never):
    """Their replies and messages are those that are expected, to users who may do what the handbook says."""
    with WatchedPrimary(name, *USERS) as watched:
        old, new = (("127.0.0.1", server.port) for server in (watched.primary, watched.replica))
        finder = twin(watched.sentinel, sentinel_kwargs={"username": "watcher", "password": SECRET})
        assert finder.find() == old
        finder.watch()
        watched.fail_over()
        wait_for(lambda: finder.owner.moves == [new], 20)
        assert finder.find() == new
        assert finder.finder._tracker.primary.epoch > 0
        asker = twin(watched.sentinel, sentinel_kwargs={"username": "asker", "password": SECRET})
        assert asker.find() == new
        wrong = twin(watched.sentinel, sentinel_kwargs={"username": "watcher", "password": f"{SECRET}x"})
        with pytest.raises(StoreUnavailable, match="no Sentinel names a primary of the service") as caught:
            wrong.find()
        assert SECRET not in str(caught.value)
        stranger = twin(watched.sentinel, service="others")
        with pytest.raises(StoreUnavailable, match=r"of the service 'others' .*does not know the service"):
            stranger.find()
