"""Processes that lease shared buckets of one real server, in virtual time, and what holds of all that they spend."""

import random
import socket
import struct
from fractions import Fraction

from helpers.virtual_time import EventLoop, Running, Trip
from ratelimit import Throttle
from ratelimit.engine.limits import Bucket
from ratelimit.local.leased_bucket import TERM_US
from ratelimit.local.shared_leases import Held, SharedDenial, SharedLeases
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.store import resp

DEADLINE_US = 50_000
TOLERANCE_US = 2_000_000
EPOCH = 1_772_625_600_000_000
"""The server's time at which worlds begin, 2026-03-04 12:00:00 UTC."""


class Wire:
    """A connection to a server, as plain as can be: it is asked often."""

    def __init__(self, server):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server.socket)
        self._reader = resp.hiredis.Reader()

    def __call__(self, *command):
        self._socket.sendall(resp.pack([command]))
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(65536))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self):
        self._socket.close()


class Execution:
    """One run of the script on the server: when, of which limit, what was granted, and how much of that was spent."""

    def __init__(self, last_us, throttle, granted):
        self.last_us, self.throttle, self.granted, self.spent = last_us, throttle, granted, 0


class Process:
    """One process: the real `SharedLeases`, with a clock of its own."""

    def __init__(self, world):
        self.world = world
        offset_us = world.random.randrange(10**12)
        self.namespace = Namespace("ratelimit", None, None)
        self.namespace.age_us = lambda: world.loop.now + offset_us
        self.namespace.snapshot = world.snapshot
        self.namespace.load = self.load
        self.leases = SharedLeases(self.namespace)
        self.running = set()
        self.is_crashed = False

    def load(self, *, or_others=False):
        yield "catalogue"
        self.namespace.snapshot = self.world.snapshot
        return self.world.snapshot

    def push(self):
        """The push of a change arrives."""
        self.namespace.snapshot = self.world.snapshot
        self.leases.end()

    def run(self, operation, deadline_us=DEADLINE_US):
        running = Running(self.world.loop, self, operation, deadline_us, self.running.discard)
        if not running.is_over:
            self.running.add(running)
        return running

    def check(self, names, cost, becomes):
        """Start a check; its key's script then `becomes` "admitted", "denied" or "unknown"."""
        return self.run(self._check(names, cost, becomes))

    def _check(self, names, cost, becomes):
        world, leases = self.world, self.leases
        world.checks += 1
        began_us = world.loop.now
        for _ in range(8):
            snapshot = self.namespace.snapshot
            buckets = [world.bucket(name, snapshot) for name in names]
            held = leases.take(buckets, cost, self.namespace.age_us())
            if held is None:
                world.waits += 1
                held = yield from leases.demand(snapshot, buckets, cost)
            if held is not None:
                break
        held = self._unless_failed(held)
        if not isinstance(held, Held):
            world.denied += isinstance(held, SharedDenial)
            if leases.is_due:
                self.run(leases.upkeep(), 1_000_000)
            return
        world.delays_us.append(world.loop.now - began_us)
        spends = [world.spend(self, batch, units) for batch, units in held.parts]
        outcome = "unknown"
        try:
            outcome = yield ("key", becomes)
        finally:
            if outcome == "denied":
                for spend in spends:
                    world.unspend(spend)
            else:
                world.admit(names, cost, outcome)
            if not self.is_crashed:
                leases.settle(held, {"admitted": "spent"}.get(outcome, outcome))
        if leases.is_due:
            self.run(leases.upkeep(), 1_000_000)

    def _unless_failed(self, held):
        """Put back units if other buckets gave no answer: as if none of them did."""
        if not isinstance(held, Held) or held.error is None:
            return held
        self.leases.settle(held, "denied")
        return None

    def crash(self):
        """Lose all: nothing that is out is heard of again."""
        self.is_crashed = True
        for running in [*self.running]:
            running.cancel()

    # What `Running` asks of a world

    @property
    def has_late_replies(self):
        return self.world.has_late_replies and not self.is_crashed

    def send(self, call):
        trip = self.world.trip()
        trip.sent_us = self.namespace.age_us()
        return trip

    def execute(self, call, trip):
        return self.world.execute(self, call, trip.sent_us)

    def other_request(self, running, request):
        if request == "catalogue":
            self.world.loop.at(self.world.loop.now + 500, lambda: running.reply(None))
            return
        _, becomes = request
        self.world.loop.at(self.world.loop.now + self.world.key_us(), lambda: running.reply(becomes))


class World:
    """Processes, one server, its shared buckets by name, and everything that was spent."""

    def __init__(self, wire, seed, throttles, processes, source=None):
        self.random = random.Random(seed)
        self.loop = EventLoop()
        self.wire = wire
        self.clock_us = EPOCH  # the server's time at virtual time 0
        self.has_late_replies = True
        self.faults = {}  # chances of "lost", "unanswered", "refused", "slow", "late"
        self.delays_us = []  # of those that got their units
        self.checks = self.waits = self.denied = self.messages = 0
        self.executions, self.by_ask, self.spends, self.admitted = {}, {}, [], []
        self.versions = {}
        self.throttles = {}
        self.snapshot = None
        self._buckets = {}
        self._last_us = 0
        self._source = source
        self._sha = None
        wire("FLUSHALL")
        self.change(throttles)
        self.processes = [self.born() for _ in range(processes)]

    def born(self):
        return Process(self)

    def change(self, throttles):
        """Make a new version of the catalogue; processes learn of it by a push, or from the server."""
        self.throttles = {**self.throttles, **throttles}
        version = len(self.versions) + 1
        self.snapshot = CatalogSnapshot("epoch--1", version, stamp=f"stamp-{version}")
        self.versions[self.snapshot.version_token] = dict(self.throttles)

    def bucket(self, name, snapshot):
        key = name, snapshot.version_token
        if key not in self._buckets:
            throttle = self.versions[snapshot.version_token][name]
            self._buckets[key] = Bucket(name, throttle, f"ratelimit:{name}", shared=True)
        return self._buckets[key]

    # The server

    def set_clock_back(self, microseconds):
        self.clock_us -= microseconds

    def execute(self, process, call, sent_us):
        self.messages += 1
        now_us = self.clock_us + self.loop.now
        (key,), (request,) = call.keys, call.args
        # Two requests of one microsecond would be told apart by nothing.
        if now_us == self._last_us:
            self.clock_us += 1
            now_us += 1
        self._last_us = now_us
        request = struct.pack("<d", now_us) + request[8:]
        if self._sha is None:
            self._sha = self.wire("SCRIPT", "LOAD", self._source or call.script.source)
        reply = self.wire("EVALSHA", self._sha, 1, key, request)
        if reply[0] == 1:
            granted, _, last_us, *_ = struct.unpack("<6d", reply[2])
            throttle = self.versions[request[88:106].decode()][key.removeprefix("ratelimit:")]
            execution = Execution(int(last_us), throttle, int(granted))
            self.executions.setdefault(key, []).append(execution)
            self.by_ask.setdefault((key, id(process), sent_us, execution.last_us), []).append(execution)
        return reply

    # The network

    def trip(self):
        chance = self.random.random()
        trip = Trip(self._leg_us(), self._leg_us())
        for fault, share in self.faults.items():
            chance -= share
            if chance < 0:
                if fault == "refused":
                    return Trip(0, 0, is_refused=True)
                if fault == "lost":
                    trip.there_us = None
                elif fault == "unanswered":
                    trip.back_us = None
                elif fault == "slow":
                    trip.there_us += self.random.randrange(3_000, 60_000)
                elif fault == "late":
                    trip.back_us += self.random.randrange(40_000, 250_000)
                break
        return trip

    def _leg_us(self):
        return round(self.random.lognormvariate(5.7, 0.3))

    def key_us(self):
        return self._leg_us() + self._leg_us()

    # What is spent

    def spend(self, process, batch, units):
        # Two of one microsecond, while the bucket's time stands still, are told apart by nothing.
        those = self.by_ask[batch.bucket.bucket.field_or_key, id(process), batch.sent_us, batch.charged_us]
        execution = next((each for each in those if each.spent + units <= each.granted), those[-1])
        execution.spent += units
        spend = [batch.bucket.bucket.field_or_key, self.loop.now, units, execution]
        self.spends.append(spend)
        return spend

    def unspend(self, spend):
        spend[3].spent -= spend[2]
        spend[2] = 0

    def admit(self, names, cost, outcome):
        self.admitted.append((tuple(names), cost, outcome))

    # What holds

    def verify(self):
        """Spent units fit one exact bucket when they were charged, and by one term more over any interval."""
        for key, executions in self.executions.items():
            verify_replay(key, executions)
            verify_intervals(
                [(at, units) for name, at, units, _ in self.spends if name == key and units],
                max(execution.throttle.burst for execution in executions),
                max(execution.throttle.rate for execution in executions),
            )
        spent = {}
        for key, _, units, _ in self.spends:
            spent[key] = spent.get(key, 0) + units
        admitted = {}
        for names, cost, _ in self.admitted:
            for name in names:
                admitted[f"ratelimit:{name}"] = admitted.get(f"ratelimit:{name}", 0) + cost
        assert {key: units for key, units in spent.items() if units} == admitted, "all or nothing"


def verify_replay(key, executions):
    """Spend each execution's units in an exact bucket, by the bucket's own time and with the limits as they changed."""
    level = last_us = None
    for number, execution in enumerate(executions):
        throttle = execution.throttle
        assert 0 <= execution.spent <= execution.granted, f"{key}: spent twice"
        if level is None:
            level = Fraction(throttle.burst)
        else:
            elapsed_us = max(0, execution.last_us - last_us)
            level = min(Fraction(throttle.burst), level + elapsed_us * throttle.rate / 1_000_000)
        last_us = execution.last_us
        level -= execution.spent
        assert level >= 0, f"{key}: {-level} more than the limit at execution {number}"


def verify_intervals(spends, burst, rate):
    """Over any W at most burst + rate * (W + term)."""
    # Most of sum(i..j) - rate * (at_j - at_i): kept as the best start so far.
    best, total = None, Fraction(0)
    for at_us, units in spends:
        start = total - rate * at_us / 1_000_000
        best = start if best is None else min(best, start)
        total += units
        most = total - rate * at_us / 1_000_000 - best
        assert most <= burst + rate * TERM_US / 1_000_000, f"{float(most)} in an interval"


def throttle(rate, burst):
    return Throttle(rate, burst)
