"""`ratelimit migrate`: a namespace moves to another server or cluster and back, whenever it is interrupted."""

import contextlib
import tempfile
import time
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.redis_snapshot import snapshot
from helpers.servers import NAMES, Server
from helpers.waiting import wait_for

from ratelimit import (
    AsyncCatalog,
    Catalog,
    ConfigError,
    Identity,
    Limiter,
    Method,
    PlanStage,
    Quota,
    Reason,
    Stage,
    StoreError,
    Throttle,
    UsagePlan,
)
from ratelimit.admin.migration.migrate import Migration, NamespaceCounts, Pause
from ratelimit.engine.protocol import STATE
from ratelimit.registry.key_values import generated_value
from ratelimit.registry.windows import DAY_US
from ratelimit.store.blocking.executor import BlockingExecutor

STAGE, METHOD = "petstore/prod", "GET /pets/{id}"
VALUE = "my-own-key-value-0001"
SOON = 0.001
"""Seconds to wait for gateways where there are none."""
OF_PROCESSES = (b"{ratelimit}:replicas", b"{ratelimit}:journal")


def fill(client, clock, keys=3):
    """Store something of every kind that a namespace may hold."""
    throttle = Throttle(1, 50)
    catalog = Catalog(client, clock=clock)
    catalog.put_plan(UsagePlan("silver", throttle, None, [STAGE]))
    stages = [PlanStage(STAGE, {METHOD: throttle})]
    catalog.put_plan(UsagePlan("gold", throttle, Quota(9, "DAY"), stages, alerts=[20], shadow="silver"))
    catalog.put_stage(Stage(STAGE, throttle, {METHOD: Method(throttle)}))
    catalog.set_account_throttle(throttle)
    made = [catalog.create_key(f"key {at}", f"{VALUE}{at}", ["gold"]) for at in range(keys)]
    catalog.rotate_key(made[0].id, grace_s=1e6, value=VALUE)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        for _ in range(2):
            for caller, method in [(VALUE, METHOD), (f"{VALUE}1", METHOD), (f"{VALUE}1", "GET /x")]:
                assert limiter.check(caller, STAGE, method).allowed
            assert limiter.check(Identity("user:1", "silver"), STAGE, METHOD).allowed
            assert not limiter.check(VALUE, STAGE, METHOD, cost=10).allowed  # counted, and added in sums
            clock.advance_us(DAY_US)
        assert limiter.check(VALUE, STAGE, METHOD).allowed
    catalog.remove_key_from_plan(made[2].id, "gold")
    return catalog


USED = 3
"""Units in windows of quotas after `fill`: a key's third check began a window, the other key's two are yesterday's."""


def contents(client):
    """All that is stored, and what expires, but for what belongs to processes, and its version and marks."""
    state = {
        name: (kind, value, left >= 0)
        for name, (kind, value, left) in (
            client.snapshot() if isinstance(client, AllNodes) else snapshot(client)
        ).items()
        if name not in OF_PROCESSES
    }
    kind, fields, expires = state.pop(b"{ratelimit}:catalog")
    apart = {b"schema", b"version", b"stamp", b"copy"}
    return state, (kind, {name: value for name, value in fields.items() if name not in apart}, expires)


def decisions(client, clock):
    """What the next checks are answered, in full."""
    with Limiter(client, deadline=5, clock=clock, namespace="ratelimit") as limiter:
        requests = [(VALUE, METHOD, 1), (f"{VALUE}1", METHOD, 1), (f"{VALUE}1", "GET /x", 7), (f"{VALUE}2", METHOD, 1)]
        return [limiter.peek(caller, STAGE, method, cost) for caller, method, cost in requests]


@pytest.fixture
def other(started, request):
    """A second server without slots, of each kind in turn, emptied."""
    key = "other", request.param
    if key not in started:
        started[key] = Server(request.param)
    with started[key].client() as client:
        client.flushall()
    return started[key]


@pytest.fixture
def source(valkey, clock):
    with valkey.client() as client:
        fill(client, clock)
    return valkey


def catalogs(*servers_and_clock):
    *servers, clock = servers_and_clock
    return [Catalog(server.client(), clock=clock) for server in servers]


def test_everything_moves_to_slots_and_back(source, slots, clock):
    """To the byte; what is decided on both sides is the same; what was there before answers 503."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as other:
        before, decided = contents(client), decisions(client, clock)
        report = here.migrate(there, finish=True, max_age=SOON)
        assert report.is_finished
        assert report.counts == NamespaceCounts(keys=3, values=4, plans=2, used=USED)
        assert abs(report.clock_difference_s) < 1
        assert contents(other) == before
        assert len(contents(other)[0]) > 15
        with Limiter(client, deadline=5, clock=clock) as limiter:
            decision = limiter.check(VALUE, STAGE, METHOD)
        assert (decision.reason, decision.source) == (Reason.UNAVAILABLE, "fail_closed")
        assert "moved it to another server" in decision.error
        # And back, over what is left there.
        client.delete("{ratelimit}:plan:silver:keys", "ratelimit:account")
        client.set("ratelimit:{gone}:record", "x")
        assert there.migrate(here, finish=True, max_age=SOON, stale_catalogue_s=SOON).is_finished
        assert contents(client) == before
        assert decisions(client, clock) == decided


class AllNodes:
    """What the primaries of a cluster hold, as of one server, for `contents`."""

    def __init__(self, cluster):
        self._clients = [node.client() for node in cluster.primaries]

    def snapshot(self):
        return {name: value for client in self._clients for name, value in snapshot(client).items()}


def test_everything_moves_to_a_cluster_and_back(source, cluster, clock):
    """Over all of its nodes, by the command too; the same is decided there."""
    here, there = Catalog(source.client(), clock=clock), Catalog(cluster.client(), clock=clock)
    with source.client() as client:
        before, decided = contents(client), decisions(client, clock)
        assert run("migrate", source.url, cluster.url).exit_code == 0
        assert here.migrate(there, finish=True, max_age=SOON).counts.used == USED
        assert contents(AllNodes(cluster)) == before
        assert all(cluster.key_count().values())
        there_decided = decisions(cluster.client(), clock)
        assert [(each.status, each.limited_by, each.limits) for each in there_decided] == [
            (each.status, each.limited_by, each.limits) for each in decided
        ]
        assert there.migrate(here, finish=True, max_age=SOON, stale_catalogue_s=SOON).is_finished
        assert contents(client) == before
        assert decisions(client, clock) == decided


@pytest.mark.parametrize("other", NAMES[:2], indirect=True)
def test_servers_may_be_of_different_versions(source, other, clock):
    """The newer and the older: nothing is copied in a form of one version."""
    here, there = catalogs(source, other, clock)
    with source.client() as client, other.client() as copy:
        before, decided = contents(client), decisions(client, clock)
        assert here.migrate(there, finish=True, max_age=SOON).is_finished
        assert contents(copy) == before
        assert decisions(copy, clock) == decided


def test_expiries_are_kept(source, slots, clock):
    """Of what is copied, of what is copied again, and of what ceases to expire."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:
        client.set("ratelimit:digest:a", "k:12345678", px=100_000)
        client.hset("ratelimit:denials:9", "a|b|c", 1)
        client.expire("ratelimit:denials:9", 50)
        here.migrate(there)
        assert 95_000 < copy.pttl("ratelimit:digest:a") <= 100_000
        assert 45 < copy.ttl("ratelimit:denials:9") <= 50
        assert here.migrate(there).copied == 0
        client.set("ratelimit:digest:a", "l:12345678", px=10_000)
        client.persist("ratelimit:denials:9")
        assert here.migrate(there).copied == 2
        assert copy.get("ratelimit:digest:a") == b"l:12345678"
        assert 5_000 < copy.pttl("ratelimit:digest:a") <= 10_000
        assert copy.ttl("ratelimit:denials:9") == -1


def test_only_what_differs_is_written_again(source, slots, clock):
    """Members, fields and entries that came, changed or went; a key of another type now, and one that is gone."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:
        assert here.migrate(there).copied > 15
        assert here.migrate(there).copied == 0
        client.zadd("{ratelimit}:keys", {"x": 1.5, "y": 2**53})
        client.zrem("{ratelimit}:keys", next(iter(client.zrange("{ratelimit}:keys", 0, 0))))
        client.sadd("{ratelimit}:plan:gold:keys", "x")
        client.hset("ratelimit:denials:9", mapping={"a|b|c": 1, "d|e|f": 2})
        client.xadd("ratelimit:alerts", {"key": "x"})
        client.delete("ratelimit:account")
        client.sadd("ratelimit:account", "of another type")
        client.delete(*client.keys("ratelimit:digest:*")[:1])
        assert here.migrate(there).copied == 6
        client.hset("ratelimit:denials:9", "a|b|c", 5)
        client.hdel("ratelimit:denials:9", "d|e|f")
        client.xtrim("ratelimit:alerts", maxlen=1, approximate=False)
        assert here.migrate(there).copied == 2
        client.delete("ratelimit:alerts")
        client.xadd("ratelimit:alerts", {"key": "y"}, id="5-5")  # before what the copy has
        assert here.migrate(there).copied == 1
        assert contents(copy) == contents(client)


def test_what_is_large_is_copied_in_pages(valkey, slots, clock):
    """Thousands of members, fields and entries."""
    (here, there), many = catalogs(valkey, slots, clock), range(3000)
    here.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
    with valkey.client() as client, slots.client() as copy:
        client.zadd("{ratelimit}:keys", {f"k{number}": number for number in many})
        client.sadd("{ratelimit}:plan:gold:keys", *(f"k{number}" for number in many))
        client.hset("ratelimit:denials:9", mapping={f"gold|k{number}|throttled": number for number in many})
        for number in many:
            client.xadd("ratelimit:alerts", {"key": f"k{number}"})
        here.migrate(there, finish=True, max_age=SOON)
        assert contents(copy) == contents(client)
        assert copy.zcard("{ratelimit}:keys") == copy.xlen("ratelimit:alerts") == len(many)


def test_a_shared_bucket_is_copied_without_its_leases(source, slots, clock):
    """On slots its value is longer."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:
        plain = client.get("ratelimit:account")
        assert len(plain) == 24
        client.set("ratelimit:account", plain + b"of leases")
        here.migrate(there)
        assert copy.get("ratelimit:account") == plain
        assert here.migrate(there).copied == 0


class KilledError(Exception):
    """The process has ended."""


def stop_after(requests, here, there, monkeypatch):
    """Run a migration as if its process ended after so many requests; return whether it was finished before."""
    left = iter(range(requests))
    execute = BlockingExecutor._execute

    def counted(executor, request, wait):
        if next(left, None) is None:
            raise KilledError
        return execute(executor, request, wait)

    with monkeypatch.context() as patched:
        patched.setattr(BlockingExecutor, "_execute", counted)
        try:
            return here.migrate(there, finish=True, max_age=SOON).is_finished
        except KilledError:
            return False


def test_interrupted_after_each_request_and_run_again(source, slots, clock, monkeypatch):
    """In the end all is there; never do both sides decide, and until the target does the migration can be cancelled."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:
        before, decided = contents(client), decisions(client, clock)
        schema = client.hget("{ratelimit}:catalog", "schema")
        requests = 0
        while True:
            is_finished = stop_after(requests, here, there, monkeypatch)
            marks = client.hget("{ratelimit}:catalog", "schema"), copy.hget("{ratelimit}:catalog", "schema")
            assert marks in {
                (schema, None), (schema, b"arriving 2"), (b"moved 2", b"arriving 2"), (b"moved 2", b"2")
            }  # fmt: skip
            if marks[1] == b"2":
                break
            if requests % 3 == 0:
                assert not here.cancel_migration(there).is_finished
                assert copy.dbsize() == 0
                assert contents(client) == before
                assert decisions(client, clock) == decided
            requests += 1
        assert requests > 30
        assert is_finished or stop_after(10**6, here, there, monkeypatch)
        assert contents(copy) == before


def test_a_run_that_goes_on_after_the_pause_waits_again(source, slots, clock):
    """The first one may have ended before all gateways stopped."""
    here, there = catalogs(source, slots, clock)
    steps = Migration(here._namespace, there._namespace).run(finish=True, max_age=7, stale_catalogue_s=9)
    step = next(steps)
    while not isinstance(step, Pause):
        step = steps.send((there if step.side == "target" else here)._run(step.operation))
    steps = Migration(here._namespace, there._namespace).run(finish=True, max_age=8, stale_catalogue_s=9)
    step = next(steps)
    while not isinstance(step, Pause):
        step = steps.send((there if step.side == "target" else here)._run(step.operation))
    assert step.seconds == 8


class Slow:
    """A run of a migration, or a cancellation, that goes on step by step."""

    def __init__(self, steps, here, there):
        self._steps, self._sides = steps, {"source": here, "target": there}
        self._step = next(steps)

    def go(self, steps=10**6):
        """Go on by so many steps; return whether it has ended."""
        with contextlib.suppress(StopIteration):
            for _ in range(steps):
                if isinstance(self._step, Pause):
                    self._step = next(self._steps)
                else:
                    self._step = self._steps.send(self._sides[self._step.side]._run(self._step.operation))
            return False
        return True

    def pause(self):
        """Go on until gateways are waited for; return for how many seconds."""
        while not isinstance(self._step, Pause):
            assert not self.go(1)
        return self._step.seconds


def marks(source, target):
    """Marks of source and target."""
    return tuple(client.hget("{ratelimit}:catalog", "schema") for client in (source, target))


RIVALS = {"finish": ["finish"], "cancel": ["cancel"], "cancel, finish": ["cancel", "finish"]}


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("hung", ["finish", "cancel"])
def test_a_run_that_hung_changes_nothing_that_another_one_handed_over(valkey, valkey_slots, clock, hung, rival):
    """Wherever it hung: what the target decided since then stays, and never do both sides decide."""
    here, there = catalogs(valkey, valkey_slots, clock)
    hand_over = {"finish": True, "max_age": SOON}
    with valkey.client() as client, valkey_slots.client() as copy:
        handed_over = steps = 0
        while True:
            client.flushall()
            copy.flushall()
            here.put_plan(UsagePlan("gold", Throttle(1, 1), Quota(9, "DAY"), [STAGE]))
            key = here.create_key("a", VALUE, ["gold"])
            client.set("ratelimit:account", "as it was")
            migration = Migration(here._namespace, there._namespace)
            slow = Slow(migration.run(finish=True, max_age=1, stale_catalogue_s=1), here, there)
            if hung == "cancel":
                slow.pause()
                slow = Slow(migration.cancel(), here, there)
            if slow.go(steps):
                break
            for what in RIVALS[rival]:
                with contextlib.suppress(ConfigError):
                    here.migrate(there, **hand_over) if what == "finish" else here.cancel_migration(there)
            before = None
            if marks(client, copy)[1] == b"2":
                handed_over += 1
                there.delete_key(key.id)
                copy.delete("ratelimit:account")
                before = contents(copy)
            with contextlib.suppress(ConfigError, StoreError):
                slow.go()
            at_source, at_target = marks(client, copy)
            assert (at_source, at_target) != (b"2", b"2"), steps
            assert (at_source, at_target) != (b"moved 2", None), steps
            assert before is None or contents(copy) == before, steps
            steps += 1
        assert steps > 5
        assert bool(handed_over) == ("finish" in rival)


@pytest.mark.parametrize("other", NAMES[:1], indirect=True)
def test_only_the_target_that_a_source_was_handed_over_to_counts(source, valkey_slots, other, clock):
    """Another one, empty or with a copy that was begun, neither cancels what is finished nor decides as well."""
    here, there, wrong = catalogs(source, valkey_slots, other, clock)
    with source.client() as client, valkey_slots.client() as copy:
        here.migrate(there, finish=True, max_age=SOON)
        refused(here, wrong, "^source: has handed namespace 'ratelimit' over", cancel=True)
        assert marks(client, copy) == (b"moved 2", b"2")
        assert not copy.hexists("{ratelimit}:catalog", "copy")
        there.migrate(here, finish=True, max_age=SOON, stale_catalogue_s=SOON)
        copy.flushall()
        here.migrate(wrong)
        here.migrate(there, finish=True, max_age=SOON)
        refused(here, wrong, "^source: has handed namespace 'ratelimit' over", cancel=True)
        with pytest.raises(ConfigError, match=r"^source: has handed namespace 'ratelimit' over"):
            here.migrate(wrong, finish=True, max_age=SOON)
        assert marks(client, copy) == (b"moved 2", b"2")


def test_a_cancellation_is_interrupted_after_each_step_and_done_again(source, valkey_slots, clock):
    """A source that has moved is never without its copy; nobody hands over what is being cancelled."""
    here, there = catalogs(source, valkey_slots, clock)
    migration = Migration(here._namespace, there._namespace)
    with source.client() as client, valkey_slots.client() as copy:
        before, steps, seen, is_ended = contents(client), 0, set(), False
        while not is_ended:
            Slow(migration.run(finish=True, max_age=1, stale_catalogue_s=1), here, there).pause()
            is_ended = Slow(migration.cancel(), here, there).go(steps)
            seen.add(marks(client, copy))
            if marks(client, copy)[1] == b"arriving cancelled 2":
                refused(here, there, "^target: holds a copy whose migration is being cancelled")
                refused(there, here, "^source: holds an unfinished copy")
            here.cancel_migration(there)
            assert copy.dbsize() == 0
            assert contents(client) == before
            assert not client.hexists("{ratelimit}:catalog", "copy")
            steps += 1
        assert seen == {
            (b"moved 2", b"arriving 2"), (b"moved 2", b"arriving cancelled 2"), (b"2", b"arriving cancelled 2"),
            (b"2", None),
        }  # fmt: skip


def test_gateways_of_a_cluster_are_waited_for_as_long_as_they_go_on(valkey, valkey_slots, clock):
    """They may not reach the catalogue for longer than they would not compare it."""
    here, there = catalogs(valkey, valkey_slots, clock)

    def waited_s(here, there, max_age, stale_catalogue_s):
        migration = Migration(here._namespace, there._namespace)
        steps = migration.run(finish=True, max_age=max_age, stale_catalogue_s=stale_catalogue_s)
        return Slow(steps, here, there).pause()

    here.put_plan(UsagePlan("gold"))
    assert waited_s(here, there, 5, 300) == 5
    assert here.migrate(there, finish=True, max_age=SOON).is_finished
    assert waited_s(there, here, 5, 300) == 300
    assert waited_s(there, here, 400, 300) == 400


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog, key_id: catalog.update_key(key_id, enabled=False),
        lambda catalog, key_id: catalog.delete_key(key_id),
        lambda catalog, key_id: catalog.rotate_key(key_id),
        lambda catalog, key_id: catalog.remove_key_from_plan(key_id, "gold"),
    ],
    ids=["disable", "delete", "rotate", "leave a plan"],
)
def test_an_administrator_who_missed_the_move_changes_nothing_of_a_source_in_slots(valkey, valkey_slots, clock, change):
    """What it revoked there would open at the target; it is refused with the reason instead."""
    here, there = catalogs(valkey_slots, valkey, clock)
    here.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
    key = here.create_key("a", VALUE, ["gold"])
    with valkey.client() as client, valkey_slots.client() as source:
        client.flushall()
        mover = Catalog(source, clock=clock)
        mover.migrate(there, finish=True, max_age=SOON, stale_catalogue_s=SOON)
        before = contents(source)
        with pytest.raises(StoreError, match="moved it to another server"):
            change(here, key.id)
        assert contents(source) == before


def test_gateways_stop_by_themselves(valkey, slots):
    """One at the source is notified at once; one that was started with the target decides as soon as that does."""
    with valkey.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 50), None, [STAGE]))
        catalog.create_key(value=VALUE, plans=["gold"])
    here, there = Catalog(valkey.client()), Catalog(slots.client())
    with Limiter(valkey.client(), deadline=5) as old, Limiter(slots.client(), deadline=5, max_age=0.05) as new:
        assert old.check(VALUE, STAGE, METHOD).allowed
        assert old.check(VALUE, STAGE, METHOD).allowed
        here.migrate(there)
        assert new.check(VALUE, STAGE, METHOD).reason is Reason.UNAVAILABLE
        began = time.monotonic()
        here.migrate(there, finish=True, max_age=0.5)
        assert time.monotonic() - began >= 0.5
        assert old.check(VALUE, STAGE, METHOD).reason is Reason.UNAVAILABLE
        wait_for(lambda: new.check(VALUE, STAGE, METHOD).allowed)
        assert new.peek(VALUE, STAGE, METHOD).limits[0].remaining < 49


def test_who_still_writes_is_noticed(source, slots, clock):
    """A gateway that missed the notification spends after the last copy: the counts differ, nothing is handed over."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:

        def spend(what, done):
            if what == "Copying what changed":
                name = next(name for name in client.keys("ratelimit:{*}") if client.hexists(name, "p:gold"))
                *state, used, granted, day_used = STATE.unpack(client.hget(name, "p:gold"))
                client.hset(name, "p:gold", STATE.pack(*state, used + 1, granted, day_used + 1))

        with pytest.raises(StoreError, match="Something still writes"):
            here.migrate(there, finish=True, max_age=SOON, progress=spend)
        assert copy.hget("{ratelimit}:catalog", "schema") == b"arriving 2"
        assert here.migrate(there, finish=True, max_age=SOON).counts.used > USED
        assert contents(copy) == contents(client)


def test_what_a_walk_missed_is_noticed(source, slots, clock, monkeypatch):
    """Slots of a source that move meanwhile may hide keys from its SCAN, when they are counted as well."""
    here, there = catalogs(source, slots, clock)
    hidden = here.keys()[0].id
    is_own = type(here._namespace.names).is_own
    monkeypatch.setattr(
        type(here._namespace.names), "is_own", lambda self, name: is_own(self, name) and hidden not in name
    )
    with pytest.raises(StoreError, match="slots of the source moved"):
        here.migrate(there, finish=True, max_age=SOON)
    monkeypatch.undo()
    assert here.migrate(there, finish=True, max_age=SOON).is_finished


def refused(here, there, match, *, cancel=False):
    """A migration is refused, and nothing is written on either side."""
    run_ = here.cancel_migration if cancel else here.migrate
    with pytest.raises(ConfigError, match=match):
        run_(there)


def test_what_is_refused(source, slots, clock):
    """With the side, what is wrong with it, and nothing written."""
    here, there = catalogs(source, slots, clock)
    with source.client() as client, slots.client() as copy:
        refused(there, here, "^source: has no namespace 'ratelimit'")
        refused(here, here, "^target: holds this same namespace")
        refused(here, Catalog(copy, namespace="another"), "^namespace: is 'another'")
        copy.set("ratelimit:account", "remains")
        refused(here, there, "^target: holds keys such as 'ratelimit:account'")
        copy.flushall()
        there.put_plan(UsagePlan("silver"))
        refused(here, there, "^target: holds another namespace")
        refused(here, there, "^target: holds no unfinished copy", cancel=True)
        copy.flushall()
        assert copy.dbsize() == 0
        here.migrate(there)
        refused(there, here, "^source: holds an unfinished copy")
        refused(there, here, "no namespace at the source", cancel=True)
        here.migrate(there, finish=True, max_age=SOON)
        refused(here, there, "^target: holds no unfinished copy", cancel=True)
        copy.flushall()
        refused(here, there, "^source: has handed namespace 'ratelimit' over")
        assert client.hget("{ratelimit}:catalog", "schema") == b"moved 2"
        assert copy.dbsize() == 0


def test_a_finished_migration_is_not_done_again(source, slots, clock):
    """It says so; what was decided at the target since then stays."""
    here, there = catalogs(source, slots, clock)
    here.migrate(there, finish=True, max_age=SOON)
    with slots.client() as copy:
        copy.set("ratelimit:digest:a", "since then")
        report = here.migrate(there, finish=True, max_age=SOON)
        assert (report.is_finished, report.copied, report.counts) == (True, 0, None)
        assert copy.exists("ratelimit:digest:a")


def test_other_keys_of_both_servers_stay(source, slots, clock):
    """Those of other namespaces, whatever their names begin with."""
    here, there = catalogs(source, slots, clock)
    foreign = ["ratelimit2:account", "{ratelimit2}:catalog", "xratelimit:{a}", "ratelimit", "other"]
    with source.client() as client, slots.client() as copy:
        for name in foreign[:4]:
            client.set(name, "x")
        copy.set(foreign[4], "y")
        here.migrate(there)
        assert [copy.exists(name) for name in foreign] == [0, 0, 0, 0, 1]
        here.cancel_migration(there)
        assert copy.keys() == [b"other"]


async def _migrate(source, slots, clock):
    client, copy = source.async_client(), slots.async_client()
    here, there = AsyncCatalog(client, clock=clock), AsyncCatalog(copy, clock=clock)
    try:
        await here.migrate(there)
        await here.cancel_migration(there)
        return await here.migrate(there, finish=True, max_age=SOON)
    finally:
        await client.aclose()
        await copy.aclose()


@pytest.mark.asyncio
async def test_the_asyncio_twin(source, slots, clock):
    """The same, awaited."""
    with source.client() as client, slots.client() as copy:
        before = contents(client)
        assert (await _migrate(source, slots, clock)).counts.used == USED
        assert contents(copy) == before


def test_the_command(source, slots, clock):
    """It copies, hands over, and says what to do next; passwords are not in its output."""
    urls = source.url, slots.url
    first = run("migrate", *urls)
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.endswith("Gateways go on at FROM. Run this again with --finish to hand over.\n")
    unconfirmed = run("migrate", *urls, "--finish", "--max-age", "7")
    assert unconfirmed.exit_code == 2
    assert "for at least 7 s, or 300 s if FROM is a cluster. Hand over?" in unconfirmed.stderr
    assert "There is no terminal to ask at: give --yes" in unconfirmed.stderr
    assert "is an unfinished copy: gateways of this server answer 503" in doctor_of(slots)
    assert "unfinished copy" not in doctor_of(source)
    cancelled = run("migrate", *urls, "--cancel", "--yes")
    assert cancelled.stdout == "Cancelled: TO holds no copy, and FROM decides. Gateways notice by themselves.\n"
    moved = run(
        "migrate", "--finish", "--yes", "--max-age", "0.1", RATELIMIT_FROM_URL=urls[0], RATELIMIT_TO_URL=urls[1]
    )
    assert " ".join(moved.stdout.split()) == (
        f"Moved, equal on both sides: 3 API keys, 4 key values, 2 plans, {USED} units used of quotas. "
        "TO decides from now on: start gateways and administrators with its URL. FROM answers 503."
    )
    assert moved.stderr.splitlines() == [
        "Copying ...",
        "Gateways of FROM answer 503. Waiting 0.1 s until all of them do ...",
        "Copying what changed ...",
        "Counting at TO ...",
        "Counting at FROM ...",
    ]
    assert "has moved the namespace 'ratelimit' to another server: gateways of this server answer 503" in doctor_of(
        source
    )
    again = run("migrate", *urls, "--finish", "--yes", "--json")
    assert '"finished": true' in again.stdout
    assert run("migrate", *urls, "--finish", "--cancel").exit_code == 2
    lost = run("migrate", "unix://me:hunter2@/nowhere/no.sock", urls[1])
    assert lost.exit_code == 3
    said = " ".join(lost.stderr.split())
    assert "It happened at the source. The source is FROM (unix:///nowhere/no.sock), the target is TO (unix://" in said
    assert said.endswith("Nothing is lost: run the same command again to go on.")
    assert "hunter2" not in lost.output
    wrong = run("migrate", urls[1], urls[1])
    assert wrong.stderr.startswith(f"Error: TO ({slots.url}) holds this same namespace 'ratelimit'")
    assert run("migrate", urls[0], "http://x").stderr.startswith("Error: TO: cannot be used: it does not begin with")


def test_a_key_s_value_in_the_place_of_a_socket(source, slots):
    """It is not in the output of the command, which names both servers."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, generated_value())
        link.symlink_to(slots.url.removeprefix("unix://"))
        refused = run("migrate", f"unix://{link}", source.url)
    assert (refused.exit_code, "nothing to migrate" in " ".join(refused.stderr.split())) == (2, True)
    assert link.name not in refused.output


def doctor_of(server):
    return " ".join(run("doctor", RATELIMIT_URL=server.url).output.split())


def test_a_command_that_is_interrupted_says_how_to_go_on(source, slots, clock, monkeypatch):
    """Also that gateways may be stopped, and how to go back."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ratelimit.catalog.blocking.sleep", interrupted)
    result = run("migrate", source.url, slots.url, "--finish", "--yes")
    assert result.exit_code == 1
    assert (
        "Interrupted. Nothing is lost: run the same command again to go on. Gateways may answer 503 until it is done; "
        "--cancel leads back to FROM."
    ) in " ".join(result.stderr.split())
    assert run("migrate", source.url, slots.url, "--cancel", "--yes").exit_code == 0
    with source.client() as client:
        assert client.hget("{ratelimit}:catalog", "schema") == b"2"


def test_an_upgrade_that_is_not_finished_is_named_with_its_side(source, slots, clock):
    """Nothing is copied before."""
    with source.client() as client, slots.client() as copy:
        client.hset("{ratelimit}:catalog", "upgrading", "1")
        here, there = catalogs(source, slots, clock)
        refused(here, there, "^source: an upgrade is not finished there: run `ratelimit upgrade`")
        assert copy.dbsize() == 0


def test_clocks_that_differ_are_shown(source, slots, clock, monkeypatch):
    """Buckets would jump by as much."""
    times = iter([100_000_000, 97_000_000])

    def server_us():
        yield [("PING",)]
        return next(times)

    monkeypatch.setattr("ratelimit.admin.migration.migrate._server_us", server_us)
    result = run("migrate", source.url, slots.url)
    assert "the clock of TO is 3.0 s behind that of FROM" in " ".join(result.stdout.split())
