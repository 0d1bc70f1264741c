"""Journals of several processes: nothing is charged twice and, sent in order, nothing is lost, whatever gets lost.

Requests and replies are lost or come late, entries are sent again, processes fork, and a copy of the data that is older
takes over. The script is the real one, on a real server. What Redis holds is compared after every step.
"""

import os
import struct
from collections import deque
from dataclasses import dataclass, field
from itertools import count

import pytest
from helpers.journal import prepared_check
from helpers.lua_mutation import bug
from helpers.replica import STAGE, replica
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ratelimit import Identity, Method, Quota, Stage, Throttle, UsagePlan
from ratelimit.engine.protocol import JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE
from ratelimit.scripts import load

HEALTH = "GET /health"
IDENTITY = Identity("user:1", plan="free")
AMPLE = 1_000_000
EXAMPLES = int(os.environ.get("RATELIMIT_EXAMPLES", "100"))
TARGETS = ("key", "identity", "nobody")
"""Whose requests are charged: of nobody only limits that all share."""

_lives, _spendings = count(1), count(1)
processes = st.integers(0, 5)
events = st.lists(
    st.one_of(
        st.tuples(st.just("spend"), processes, st.sampled_from(TARGETS), st.integers(1, 9)),
        st.tuples(st.just("spend"), processes, st.sampled_from(TARGETS), st.integers(1, 9)),
        st.tuples(st.just("send"), processes, st.sampled_from(("answered", "answered", "lost", "reply lost", "late"))),
        st.tuples(st.just("send"), processes, st.sampled_from(("answered", "reply lost", "late"))),
        st.tuples(st.just("arrive"), st.integers(0, 9)),
        st.tuples(st.just("fork"), processes),
        st.tuples(st.just("copy")),
        st.tuples(st.just("fail over")),
    ),
    min_size=20,
    max_size=40,
)


@dataclass(eq=False)
class Entry:
    """What was admitted, and is to be charged.

    spending         what was admitted: one thing, also if several entries say so
    is_acknowledged  whether its process has heard that it was charged
    """

    target: str
    cost: int
    life: str
    sequence: int
    spending: int
    is_acknowledged: bool = False


@dataclass
class Process:
    """A process with its journal: entries are sent in order, each until there is an answer."""

    life: str = field(default_factory=lambda: f"{next(_lives):08}")
    sequence: int = 0
    journal: deque = field(default_factory=deque)

    def spend(self, target, cost, spending=None):
        self.sequence += 1
        entry = Entry(target, cost, self.life, self.sequence, spending or next(_spendings))
        self.journal.append(entry)
        return entry

    def next_entry(self):
        return self.journal[0]

    def fork(self):
        """The child takes another life, and leaves the journal to its parent."""
        return type(self)()


class World:
    """A server with the limits of three targets, and what its data must say."""

    def __init__(self, client, limiter):
        self._client, self._namespace = client, limiter._namespace
        catalog = limiter.catalog
        for plan in ("gold", "free"):
            catalog.put_plan(UsagePlan(plan, None, Quota(AMPLE, "MONTH"), [STAGE]))
        catalog.put_stage(Stage(STAGE, None, {HEALTH: Method(key_required=False)}))
        catalog.set_account_throttle(Throttle(1, AMPLE))
        key = catalog.create_key(plans=["gold"])
        self._prepared = {
            "key": prepared_check(limiter, key.value),
            "identity": prepared_check(limiter, IDENTITY),
            "nobody": prepared_check(limiter, None, STAGE, HEALTH),
        }
        self._hashes = {target: check._redis_keys[0] for target, check in self._prepared.items() if check.key_id}
        self._sha = client.script_load(load("charge_journal").source)
        self._empty = {name: packed for name, packed in self._dump().items() if name.decode() == self._hashes["key"]}

    def start(self):
        """Begin a trace: nothing is charged."""
        self._restore(self._empty)
        self.charged, self.lost = set(), set()
        self._copy = self._empty, set()
        self._late = []

    def execute(self, entry):
        """Have Redis charge an entry; return the status. It is never charged twice in what Redis holds."""
        call = self._prepared[entry.target].to_journal_call(
            self._namespace, entry.cost, self._namespace.wall_us(), entry.life, entry.sequence
        )
        status, _ = self._client.evalsha(self._sha, len(call.keys), *call.keys, *call.args)
        if status == JOURNAL_CHARGED:
            assert entry.spending not in {each.spending for each in self.charged}, "charged twice"
            self.charged.add(entry)
        else:
            assert status == JOURNAL_CHARGED_BEFORE
            assert entry in self.charged or entry in self.lost, "taken for charged, and is not"
        return status

    def send(self, process, fate):
        """Have a process send the entry that is next."""
        if not process.journal:
            return
        entry = process.next_entry()
        if fate == "late":
            self._late.append(entry)
        elif fate != "lost":
            self.execute(entry)
        if fate == "answered":
            entry.is_acknowledged = True
            process.journal.remove(entry)

    def arrive(self, which):
        """Have something arrive that was sent long ago; its sender may have sent it again, and heard of that."""
        if self._late:
            self.execute(self._late.pop(which % len(self._late)))

    def copy(self):
        self._copy = self._dump(), set(self.charged)

    def fail_over(self):
        """Let the copy take over: what was charged since is lost, and for good what its process need not send again."""
        dump, charged = self._copy
        self._restore(dump)
        self.lost |= {entry for entry in self.charged - charged if entry.is_acknowledged}
        self.charged = set(charged)

    def check(self):
        """Compare what Redis holds with the sum of what is charged."""
        sums = dict.fromkeys(TARGETS, 0)
        for entry in self.charged:
            sums[entry.target] += entry.cost
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.hget(self._hashes["key"], "p:gold").hget(self._hashes["identity"], "p:free")
            key_state, identity_state, account = pipeline.get("ratelimit:account").execute()
        for target, state in (("key", key_state), ("identity", identity_state)):
            assert (struct.unpack("<7d", state)[4::2] if state else (0, 0)) == (sums[target],) * 2
        per, level, _ = struct.unpack("<3d", account) if account else (1, AMPLE, 0)
        assert AMPLE - level / per == sum(sums.values())

    def _dump(self):
        return {name: self._client.dump(name) for name in self._client.keys("*")}

    def _restore(self, dump):
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.flushdb()
            for name, packed in dump.items():
                pipeline.restore(name, 0, packed)
            pipeline.execute()


def run(world, trace, make=Process):
    """Run a trace, then let every process send all that is left; check after each step, and that all is there."""
    world.start()
    running, entries = [make(), make()], []
    for what, *details in trace:
        if what == "spend":
            which, target, cost = details
            entries.append(running[which % len(running)].spend(target, cost))
        elif what == "send":
            which, fate = details
            world.send(running[which % len(running)], fate)
        elif what == "fork":
            parent = running[details[0] % len(running)]
            running.append(parent.fork())
        elif what == "arrive":
            world.arrive(*details)
        elif what == "copy":
            world.copy()
        else:
            world.fail_over()
        world.check()
    for process in running:
        while process.journal:
            world.send(process, "answered")
            world.check()
    assert {entry for entry in entries if entry not in world.charged} <= world.lost, "lost"
    if "fail over" not in {what for what, *_ in trace}:
        assert world.charged == set(entries)


@pytest.fixture
def world(server, clock):
    """Nothing is refilled: the clock stands still."""
    with server.client() as client, replica(server, clock=clock) as limiter:
        yield World(client, limiter)


def run_random_traces(world, make=Process, *, phases=(Phase.generate, Phase.shrink)):
    """Run random traces, the same each time; of one that fails a short one is printed, with both phases."""

    @settings(
        max_examples=EXAMPLES,
        phases=phases,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(events)
    def run_each(trace):
        run(world, trace, make)

    run_each()


def test_nothing_is_charged_twice_and_nothing_is_lost(world):
    """But what a failover lost after its process had heard that it was charged."""
    run_random_traces(world)


class ChildKeepsItsLife(Process):
    def fork(self):
        return type(self)(self.life, self.sequence)


class ChildSendsTheJournalAnew(Process):
    """It numbers what is left anew."""

    def fork(self):
        child = type(self)()
        for entry in self.journal:
            child.spend(entry.target, entry.cost, entry.spending)
        return child


class LastOneFirst(Process):
    def next_entry(self):
        return self.journal[-1]


class NumberedWhenSent(Process):
    """An entry that is sent again gets another number."""

    def next_entry(self):
        self.sequence += 1
        self.journal[0].sequence = self.sequence
        return self.journal[0]


class OneNumberForAll(Process):
    def spend(self, target, cost, spending=None):
        self.sequence = 0
        return super().spend(target, cost, spending)


BUGS = (ChildKeepsItsLife, ChildSendsTheJournalAnew, LastOneFirst, NumberedWhenSent, OneNumberForAll)


@pytest.mark.parametrize("make", BUGS, ids=lambda make: make.__name__)
def test_a_process_that_breaks_a_rule_is_found(world, make):
    """Each rule for processes in lua/PROTOCOL.md is needed."""
    with pytest.raises(AssertionError):
        run_random_traces(world, make, phases=[Phase.generate])


SCRIPT_BUGS = {
    "ids are not looked at": ("if sequence <= unpack_doubles('<dd', id) then", "if false then"),
    "one id for all lives": ("local id_field = 'j:' .. ARGV[#ARGV - 1]", "local id_field = 'j:same'"),
    "another field is written": ("fill_us = { id_field, pack", "fill_us = { 'j:x', pack"),
}


@pytest.mark.parametrize(("right", "wrong"), SCRIPT_BUGS.values(), ids=SCRIPT_BUGS)
def test_a_bug_of_the_script_is_found(server, clock, right, wrong):
    """What charges twice, or takes for charged what is not."""
    with bug(right, wrong, "charge_journal"), server.client() as client, replica(server, clock=clock) as limiter:
        world = World(client, limiter)
        with pytest.raises(AssertionError):
            run_random_traces(world, phases=[Phase.generate])


def test_ids_that_are_lost_alone_charge_twice(world):
    """As they could be in a Redis key of their own, by a failover: therefore they are in the hash that is charged."""
    world.start()
    process = Process()
    process.spend("key", 5)
    world.send(process, "reply lost")
    (field,) = [name for name in world._client.hkeys(world._hashes["key"]) if name.startswith(b"j:")]
    world._client.hdel(world._hashes["key"], field)
    with pytest.raises(AssertionError, match="charged twice"):
        world.send(process, "answered")
