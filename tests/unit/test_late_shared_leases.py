"""A process that stood still for longer than a term denies nobody for units that were its own."""

import struct

import pytest
from helpers.shared_script import NOW, throttle

from ratelimit.effects import WaitFor
from ratelimit.engine.limits import Bucket
from ratelimit.errors import StoreTimeout, StoreUnavailable
from ratelimit.local.shared_leases import Held, SharedLeases
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

BUCKET = Bucket("stage", throttle(1, 10), "ratelimit:stage", shared=True)


class Process:
    def __init__(self):
        self.now = 0
        namespace = Namespace("ratelimit", None, None)
        namespace.age_us = lambda: self.now
        namespace.snapshot = self.snapshot = CatalogSnapshot("epoch--1", 1)
        self.leases = SharedLeases(namespace)

    def demand(self):
        assert self.leases.take([BUCKET], 1, self.now) is None
        return self.leases.demand(self.snapshot, [BUCKET], 1)


def reply(granted, level, pace_us=0):
    return [1, NOW, struct.pack("<6d", granted, level, NOW, 1, pace_us, 0)]


def request_of(call):
    numbers = struct.unpack("<11d", call.args[0][:88])
    return int(numbers[5]), len(call.args[0]) - 106


def result(operation, value):
    """What an operation returns after this reply."""
    try:
        request = operation.send(value)
    except StopIteration as finished:
        return finished.value
    raise AssertionError(f"it goes on, by {request}")


def test_after_a_stall_who_waits_asks_again():
    """All ten units were granted to this process, too late: the next request returns them, and nobody is denied."""
    process = Process()
    first, second = process.demand(), process.demand()
    call = next(first)
    assert isinstance(next(second), WaitFor)
    assert request_of(call) == (1, 0)
    process.now += 150_000
    again = first.send(reply(10, 0))
    assert request_of(again) == (2, 24)
    assert isinstance(result(first, reply(2, 8_000_000)), Held)
    assert isinstance(result(second, None), Held)


def test_units_of_who_went_away_are_there_for_others():
    """Once: what the reply brings goes to who waits, the rest is held."""
    process = Process()
    first, second = process.demand(), process.demand()
    call = next(first)
    next(second)
    first.close()
    call.on_late_reply(reply(3, 7_000_000))
    assert isinstance(result(second, None), Held)
    assert process.leases.figures()["ratelimit:stage"].held == 2


def test_who_is_granted_units_and_goes_away_leaves_them():
    """The next check has them."""
    process = Process()
    first, second = process.demand(), process.demand()
    next(first)
    next(second)
    process.leases.take([BUCKET], 1, process.now)  # often enough for units to be held for the next
    process.leases.take([BUCKET], 1, process.now)
    assert isinstance(result(first, reply(2, 8_000_000)), Held)
    assert process.leases.figures()["ratelimit:stage"].held == 0
    second.close()
    assert process.leases.figures()["ratelimit:stage"].held == 1
    assert isinstance(process.leases.take([BUCKET], 1, process.now), Held)


def test_who_goes_away_while_others_are_granted_units_gets_none():
    """Where it is collected as garbage, that may be at any time."""
    process = Process()
    first, second, third = process.demand(), process.demand(), process.demand()
    next(first)
    waits = next(second)
    next(third)
    waits.future.add_done_callback(lambda _: third.close())
    assert isinstance(result(first, reply(3, 7_000_000)), Held)
    assert isinstance(result(second, None), Held)
    figures = process.leases.figures()["ratelimit:stage"]
    assert figures.held + figures.returned == 1


@pytest.mark.parametrize(("pace_us", "is_due"), [(0, True), (50_000, False)])
def test_a_pace_holds_back_what_is_asked_ahead_and_nobody_who_waits(pace_us, is_due):
    process = Process()
    first = process.demand()
    next(first)
    result(first, reply(5, 5_000_000, pace_us))
    for _ in range(4):
        assert isinstance(process.leases.take([BUCKET], 1, process.now), Held)
    assert process.leases.is_due is is_due
    assert request_of(next(process.demand())) == (1, 0)


def test_a_child_holds_nothing():
    process = Process()
    first = process.demand()
    next(first)
    result(first, reply(5, 5_000_000))
    assert process.leases.figures()["ratelimit:stage"].held == 4
    process.leases.reset_after_fork()
    assert process.leases.figures() == {}
    assert process.leases.take([BUCKET], 1, process.now) is None


@pytest.mark.parametrize(("error", "again"), [(StoreTimeout("no answer"), 0), (StoreUnavailable("refused"), 24)])
def test_a_return_that_may_have_been_carried_out_is_not_repeated(error, again):
    """At most once: one that was certainly not sent is."""
    process = Process()
    first = process.demand()
    next(first)
    result(first, reply(5, 5_000_000))
    process.now += 100_000
    second = process.demand()
    assert request_of(next(second)) == (1, 24)
    with pytest.raises(type(error)):
        second.throw(error)
    assert request_of(next(process.demand())) == (1, again)
