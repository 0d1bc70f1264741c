"""Leases while plans change, clocks are set back, processes fork and threads meet: nothing is minted, nothing hangs."""

import threading
from functools import partial
from unittest.mock import patch

import pytest
from engine.test_leases import warm
from helpers.forks import run_in_child, without_fork_resets
from helpers.leases import TERM_S, gold_key, used
from helpers.lua_mutation import bug
from helpers.replica import METHOD, OTHER, STAGE, caching_replica
from helpers.requests import reply_to

from ratelimit import Catalog, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.namespace import Namespace


def held(limiter):
    return sum(lease.units for lease in limiter._checker.leases._held)


def admitted(limiter, key, checks, method=METHOD):
    return sum(limiter.check(key.value, STAGE, method).allowed for _ in range(checks))


def throttled(rate, burst):
    return UsagePlan("gold", Throttle(rate, burst), None, [STAGE], lease=1.0)


def test_a_smaller_burst_is_not_exceeded_by_what_comes_back(backend, clock):
    """Lowered while units are held, with a rate of the same P: the new burst passes once, not once more."""
    key = gold_key(backend, clock, throttled(1, 1000))
    with caching_replica(backend, clock) as holder, caching_replica(backend, clock) as other:
        warm(holder, clock, key, 100)
        assert held(holder) == 28
        other.catalog.put_plan(throttled(1, 20))
        for limiter in (holder, other):
            limiter._namespace.on_change_message("2")
        assert admitted(other, key, 100) == 20
        holder._tick()
        assert (held(holder), admitted(other, key, 100)) == (0, 0)


def test_a_smaller_burst_of_all_callers_is_not_exceeded_by_what_comes_back(backend, clock):
    """The same for a bucket that others of another plan share."""
    key = gold_key(backend, clock, throttled(1, 1000))
    with caching_replica(backend, clock) as holder, caching_replica(backend, clock) as other:
        other.catalog.put_stage(Stage(STAGE, Throttle(1, 1000)))
        other.catalog.put_plan(UsagePlan("plain", None, None, [STAGE]))
        another = other.catalog.create_key(plans=["plain"])
        warm(holder, clock, key, 100)
        assert held(holder) == 28
        other.catalog.put_stage(Stage(STAGE, Throttle(1, 20)))
        for limiter in (holder, other):
            limiter._namespace.on_change_message("2")
        assert admitted(other, another, 100) == 20
        holder._tick()
        assert (held(holder), admitted(other, another, 100)) == (0, 0)


def test_a_server_s_clock_that_is_set_back_mints_nothing(backend, clock):
    """What the bucket refilled since, by the clock of before and of after, is not given back on top."""
    key = gold_key(backend, clock, UsagePlan("gold", Throttle(100, 1000), None, [STAGE], lease=TERM_S))
    with caching_replica(backend, clock) as holder, caching_replica(backend, clock) as other:
        passed = [10_000_000]
        holder._namespace.age_us = lambda: passed[0]
        for _ in range(200):
            holder.check(key.value, STAGE, METHOD)
            clock.advance_us(100)
            passed[0] += 100
        units = held(holder)
        assert 0 < units <= 100
        other.check(key.value, STAGE, OTHER, cost=other.peek(key.value, STAGE, OTHER).limits[0].remaining)
        clock.advance(-5)
        assert not other.check(key.value, STAGE, OTHER).allowed
        clock.advance(1)
        passed[0] += 1_000_000
        assert admitted(other, key, 200, OTHER) == 100
        holder._tick()
        assert (held(holder), admitted(other, key, 200, OTHER)) == (0, 0)


def test_what_comes_back_to_all_callers_is_there_for_them(backend, clock):
    """Whom a limit of all callers refused is asked again, for it may have got units back meanwhile."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_stage(Stage(STAGE, Throttle(1, 100)))
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 100_000), None, [STAGE], lease=TERM_S))
        catalog.put_plan(UsagePlan("plain", Throttle(1000, 100_000), None, [STAGE]))
        leased, plain = catalog.create_key(plans=["gold"]), catalog.create_key(plans=["plain"])
    with caching_replica(backend, clock) as holder, caching_replica(backend, clock) as other:
        warm(holder, clock, leased, 30)
        units = held(holder)
        assert units == 5
        assert admitted(other, plain, 200) == 100 - 30 - units
        clock.advance_us(1)
        holder._namespace.on_change_message(None)
        holder._tick()
        assert admitted(other, plain, 10) == units


def test_a_lease_outlives_a_look_at_the_catalogue(backend, clock):
    """The check that finds the snapshot as it was is paid from what is held, as the next one is."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        warm(limiter, clock, key, 40)
        units = held(limiter)
        limiter._namespace.loaded_us -= 5_000_000
        sources = [limiter.check(key.value, STAGE, METHOD).source for _ in range(2)]
        assert (sources, held(limiter)) == (["lease", "lease"], units - 2)


def test_a_change_ends_also_a_lease_that_is_being_asked_for(backend, clock):
    """What is heard after a request left may be later than its answer: the answer's own request passes, no other."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        prepared = grown(limiter, clock, key)
        send = partial(limiter._checker._send_leased, 1)
        flow = limiter._checker.leases.check(prepared, prepared.lease, 1, send, denies_unknown=True)
        request = next(flow)
        reply = reply_to(limiter._store, request)
        clock.advance_us(1)
        limiter._namespace.on_change_message(f"key:{key.id}")
        with pytest.raises(StopIteration):
            flow.send(reply)
        assert prepared.lease.units > 0
        assert limiter.check(key.value, STAGE, METHOD).source == "redis"


def grown(limiter, clock, key):
    """The prepared of a hot key whose lease was just used up."""
    warm(limiter, clock, key, 30)
    prepared = limiter._checker.prepared(key.value, STAGE, METHOD)
    while prepared.lease.units:
        assert limiter.check(key.value, STAGE, METHOD).source == "lease"
        clock.advance_us(100)
    return prepared


def test_no_grant_is_overlooked_by_a_thread_that_finds_nothing_held(backend, clock):
    """It looks again under the lock: what was granted in between stays known, and is given back at the end."""
    key = gold_key(backend, clock)
    with caching_replica(backend, clock) as limiter:
        prepared = grown(limiter, clock, key)
        leases = limiter._checker.leases

        class Slow:
            """A lock that lets another thread have its whole turn before it is taken."""

            def __enter__(self):
                leases._lock = lock
                limiter.check(key.value, STAGE, METHOD)
                lock.acquire()

            def __exit__(self, *_):
                lock.release()

        lock, leases._lock = leases._lock, Slow()
        list(leases._return_unspent(prepared, prepared.lease))
        assert prepared.lease.units > 0
        assert list(leases._held) == [prepared.lease]
    count, day_used, _ = used(backend, key)
    assert count == day_used


def test_a_fork_while_another_thread_notes_a_lease(server, clock):
    """The child has locks of its own: that thread does not exist there, and would never let go."""
    key = gold_key(server, clock)
    with caching_replica(server, clock) as limiter:
        warm(limiter, clock, key, 40)
        (lease,) = limiter._checker.leases._held
        taken, over = threading.Event(), threading.Event()

        def hold():
            with limiter._checker.leases._lock, lease._lock:
                taken.set()
                over.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        try:
            assert run_in_child(lambda: limiter.check(key.value, STAGE, METHOD).source == "redis") == 0
        finally:
            over.set()
            thread.join()


def test_a_lease_is_spent_once_by_all_threads(server, clock):
    """However many spend at once, it admits what it held."""
    with caching_replica(server, clock) as limiter:
        key = gold_key(server, clock, UsagePlan("gold", None, Quota(100_000, "DAY"), [STAGE], lease=1.0))
        prepared = grown(limiter, clock, key)
        assert limiter.check(key.value, STAGE, METHOD).source == "redis"
        lease, now_us, spent = prepared.lease, clock(), []
        units = lease.units
        assert units > 20

        def spend():
            spent.append(sum(lease.spend(1, now_us) is not None for _ in range(units)))

        threads = [threading.Thread(target=spend) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (sum(spent), lease.units) == (units, 0)


def catalogues_never_change():
    return bug("string.sub(stored_token, 1, 18) == ARGV[2]", "true", "return_lease")


def changes_of_the_catalogue_are_not_heeded():
    return patch.object(Namespace, "matches_stored_version", lambda *_: True)


@pytest.mark.parametrize(
    ("seeded", "test"),
    [
        (catalogues_never_change, test_a_smaller_burst_is_not_exceeded_by_what_comes_back),
        (
            changes_of_the_catalogue_are_not_heeded,
            test_a_smaller_burst_of_all_callers_is_not_exceeded_by_what_comes_back,
        ),
        (without_fork_resets, test_a_fork_while_another_thread_notes_a_lease),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_a_seeded_bug_is_found(server, clock, seeded, test):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    with seeded(), pytest.raises(AssertionError):
        test(server, clock)
