"""Whatever becomes of a lease that was requested, and of what returns it: spent <= charged, in the end they are equal.

Every order of a few events, with the shipped scripts on a server and the shipped bookkeeping of a process. The network
between them is the test's: a request arrives, perhaps after its return; its reply comes late, or never; a return is
lost on the way, or its reply is, or it arrives after the next one; the process crashes.
"""

import itertools
import struct
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
from helpers.leases import TERM_S, gold_key
from helpers.lua_mutation import bug
from helpers.replica import METHOD, SLOW, STAGE, caching_replica
from helpers.requests import reply_to

from ratelimit import Quota, Throttle, UsagePlan
from ratelimit.engine.protocol import DENIED, status
from ratelimit.errors import StoreTimeout, StoreUnavailable
from ratelimit.local.leases import Leases
from ratelimit.scripts import ScriptCall, load

UNITS = 50
LENGTH = 4
"""How many events there are after the caller went away."""
NOON = "2026-03-04T12:00:00"
BURST = 100_000
PLAN = UsagePlan("gold", Throttle(SLOW, BURST), Quota(1_000_000, "DAY"), [STAGE], lease=TERM_S)
"""Its bucket gains less than a tenth of a token in any history: what is charged to it, and comes back, is exact."""


class World:
    """A process with a lease of a key, and the server.

    Attributes:
        spent: Units that were admitted.
        lost: Units of a check whose outcome is unknown, and which was carried out: they are not returned where it may
            have been admitted all the same.
        has_crashed: Whether the process that requested the lease is gone.
    """

    def __init__(self, limiter, client, key, clock):
        self.limiter, self.client, self.clock = limiter, client, clock
        self.leases = limiter._checker.leases
        assert limiter.check(key.value, STAGE, METHOD).allowed
        self.prepared = limiter._checker.prepared(key.value, STAGE, METHOD)
        self.lease = self.prepared.lease
        self.hash = f"ratelimit:{{{key.id}}}"
        self.fresh = client.hgetall(self.hash)

    def begin(self, how, *, denies_unknown):
        """Forget all that was; request a lease, and leave before anything arrived."""
        self.clock.set(NOON)
        self.client.delete(self.hash)
        self.client.hset(self.hash, mapping=self.fresh)
        self._start_process()
        self.denies_unknown = denies_unknown
        self.spent, self.lost, self.has_crashed, self.on_the_way, self.late_reply = 1, 0, False, [], None
        self.may_be_lost = how == "no answer" and not denies_unknown
        flow, self.request = self._request()
        if how == "cancelled":
            flow.close()
        else:
            with pytest.raises(StoreTimeout):
                flow.throw(StoreTimeout(how))
        self.on_late_reply = self.request.on_late_reply

    def _start_process(self):
        self.leases.reset_after_fork()
        self.lease.reset_after_fork()
        self.leases.awaits_late_replies = True

    def _request(self):
        self.lease._size, self.lease._headroom, self.lease._demand = UNITS // 2, UNITS, 10**6
        self.lease._demand_since_us = self.limiter._namespace.age_us() - 100_000
        send = partial(self.limiter._checker._send_leased, 1)
        flow = self.leases.check(self.prepared, self.lease, 1, send, denies_unknown=self.denies_unknown)
        return flow, next(flow)

    def _execute(self, request):
        """Have it carried out now: by the server's clock, however long it was on the way."""
        if isinstance(request, ScriptCall):
            packed, *fields = request.args
            request.args, request.packet = (struct.pack("<d", self.clock()) + packed[8:], *fields), None
        return reply_to(self.limiter._store, request)

    # Events. Each returns whether it has a meaning where it stands.

    def request_arrives(self):
        if self.request is None:
            return False
        self.late_reply, self.request = self._execute(self.request), None
        if status(self.late_reply) > DENIED:
            self.lost = int(self.may_be_lost)
        return True

    def reply_arrives(self):
        if self.late_reply is None or self.has_crashed:
            return False
        self.on_late_reply(self.late_reply)
        self.late_reply = None
        return True

    def is_returned(self):
        return self._return("in time")

    def return_is_not_sent(self):
        return self._return("not sent")

    def return_is_not_answered(self):
        return self._return("not answered")

    def return_is_on_the_way(self):
        return self._return("on the way")

    def _return(self, fate):
        self.clock.advance_us(1_000_000)
        operation, reply, returns = self.leases.return_unspent(), None, 0
        try:
            request = next(operation)
            while True:
                its_fate = "in time"
                if getattr(request, "script", None) is load("return_lease"):
                    its_fate, returns = fate, returns + 1
                if its_fate in ("in time", "not answered"):
                    reply = self._execute(request)
                if its_fate == "on the way":
                    self.on_the_way.append(request)
                if its_fate == "in time":
                    request = operation.send(reply)
                else:
                    error = StoreUnavailable if its_fate == "not sent" else StoreTimeout
                    request = operation.throw(error(its_fate))
        except StopIteration:
            return returns > 0

    def return_arrives(self):
        if not self.on_the_way:
            return False
        self._execute(self.on_the_way.pop(0))
        return True

    def next_check(self):
        """Another check of the key, which requests a lease."""
        if self.lease.units:
            return False
        flow, request = self._request()
        while True:
            try:
                request = flow.send(self._execute(request))
            except StopIteration:
                self.spent += 1
                return True

    def all_is_spent(self):
        held = self.lease.units
        if not held or self.lease.spend(held, self.limiter._namespace.age_us()) is None:
            return False
        self.spent += held
        return True

    def process_crashes(self):
        if self.has_crashed:
            return False
        self._start_process()
        self.has_crashed = True
        return True

    # What holds

    @property
    def charged(self):
        """Units that were charged to the quota, the day and the bucket."""
        (packed,) = self.client.hmget(self.hash, "p:gold")
        per, level, _, _, used, _, day_used = struct.unpack("<7d", packed)
        assert used == day_used == round(BURST - level / per)
        return used

    def is_whole(self):
        """What was spent and what is held was charged; and all is known again, once all was returned."""
        assert self.charged >= self.spent + self.lost + self.lease.units

    def end(self):
        """All that is on the way arrives, but for the request, and all is returned; then the request arrives."""
        while self.return_arrives():
            pass
        self.leases.end(None)
        while self.is_returned():
            pass
        for _ in range(2):
            assert self.has_crashed or self.charged == self.spent + self.lost
            self.request_arrives()
        self.is_whole()
        self.clock.advance(61)
        assert self.next_check()
        assert [field[:2] for field in self.client.hkeys(self.hash) if field[:2] == b"l:"] == [b"l:"]


EVENTS = (
    World.request_arrives,
    World.reply_arrives,
    World.is_returned,
    World.return_is_not_sent,
    World.return_is_not_answered,
    World.return_is_on_the_way,
    World.return_arrives,
    World.next_check,
    World.all_is_spent,
    World.process_crashes,
)


@contextmanager
def world(backend, clock):
    """A world with this plan."""
    clock.set(NOON)
    key = gold_key(backend, clock, PLAN)
    with caching_replica(backend, clock, deadline=5) as limiter, backend.client() as client:
        yield World(limiter, client, key, clock)


def histories(made, how, denies_unknown, length=LENGTH):
    """Go through every history of so many events at most; return how many there are."""
    count, growing = 0, [()]
    while growing:
        history = growing.pop()
        made.begin(how, denies_unknown=denies_unknown)
        if not all(event(made) for event in history):
            continue
        try:
            made.is_whole()
            made.end()
        except AssertionError as error:
            names = ", ".join(event.__name__ for event in history)
            raise AssertionError(f"{how}, {denies_unknown}: {names}: {error}") from error
        count += 1
        if len(history) < length:
            growing += [(*history, event) for event in EVENTS]
    return count


@pytest.mark.parametrize(("how", "denies_unknown"), [("cancelled", True), ("no answer", True), ("no answer", False)])
def test_nothing_is_lost_and_nothing_is_minted(server, clock, how, denies_unknown):
    """In every history: spent <= charged, and at the end what was spent was charged, and nothing else."""
    with world(server, clock) as made:
        assert histories(made, how, denies_unknown) == 1635


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_is_minted_in_longer_histories(server, clock):
    """Of one event more."""
    with world(server, clock) as made:
        assert histories(made, "no answer", denies_unknown=False, length=LENGTH + 1) == 9416


def a_note_stays_when_its_lease_is_returned():
    return bug("call('HDEL', KEYS[1], note_field)\n", "", "return_lease")


def what_was_returned_is_granted():
    return bug("if hash_values[key_buckets + 3] or not outdated then", "if not outdated then")


def a_note_of_a_crashed_process_stays():
    return bug("math.abs(now - noted_us) < NOTE_LIFE_US", "true")


def what_was_returned_is_held():
    """When its reply comes after all, and nobody knows yet whether it was returned."""
    return patch.object(
        Leases, "_take_unsettled", lambda self, each: self._unsettled.pop(each.unspent.note_field, None) is not None
    )


def returns_are_sent_once():
    """Also where nobody knows what became of them."""
    add = Leases._add_unsettled
    return patch.object(Leases, "_add_unsettled", lambda self, each: each.due_us and add(self, each))


def ids_are_used_again():
    reset = Leases.reset_after_fork

    def wrong(self):
        reset(self)
        self._note_fields = itertools.repeat("l:one")

    return patch.object(Leases, "reset_after_fork", wrong)


def the_cost_is_returned_as_well():
    """Of a check that may have been admitted."""
    check = Leases.check
    return patch.object(Leases, "check", lambda *args, **_: check(*args, denies_unknown=True))


@pytest.mark.parametrize(
    "seeded",
    [
        a_note_stays_when_its_lease_is_returned,
        what_was_returned_is_granted,
        a_note_of_a_crashed_process_stays,
        what_was_returned_is_held,
        returns_are_sent_once,
        ids_are_used_again,
        the_cost_is_returned_as_well,
    ],
)
def test_a_seeded_bug_is_found(server, clock, seeded):
    """With the bug some history goes wrong; that none does without is for the test above to show."""
    with seeded(), world(server, clock) as made, pytest.raises(AssertionError):
        histories(made, "no answer", denies_unknown=False, length=3)
