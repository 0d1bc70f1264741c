"""Every write of a record has a new stamp, in the record and in `r`; only what adds a plan raises the version there."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import pytest
from helpers.interception import InterceptedCatalog, before_script
from helpers.lua_mutation import bug

from ratelimit import Catalog, Conflict, Limiter, Quota, Throttle, UsagePlan
from ratelimit.scripts import load

STAGE, METHOD = "a/prod", "GET /pets"
VALUE = "my-own-key-value-0001"
EPOCH = "epoch--1"


def csv(text):
    return io.StringIO(f"Key,Name,Enabled,UsagePlanIds\n{VALUE},{text}\n")


def _given_away(catalog, key):
    catalog.rotate_key(key.id, grace_s=0.000001)
    catalog._namespace.clock.advance(1)
    catalog.create_key(value=VALUE)


CHANGES = {
    "update": lambda catalog, key: catalog.update_key(key.id, name="other"),
    "update, as it is": lambda catalog, key: catalog.update_key(key.id),
    "disable": lambda catalog, key: catalog.update_key(key.id, enabled=False),
    "expiry": lambda catalog, key: catalog.update_key(key.id, expires_at=4e9),
    "rotate": lambda catalog, key: catalog.rotate_key(key.id),
    "rotate with grace": lambda catalog, key: catalog.rotate_key(key.id, grace_s=9),
    "leave": lambda catalog, key: catalog.remove_key_from_plan(key.id, "gold"),
    "import, a name": lambda catalog, _: catalog.import_keys(csv("other,,")),
    "import, disabled": lambda catalog, _: catalog.import_keys(csv("other,false,")),
    "its former value is given away": _given_away,
}
JOINS = {
    "join": lambda catalog, key: catalog.add_key_to_plan(key.id, "silver"),
    "move": lambda catalog, key: catalog.move_key(key.id, "gold", "silver"),
    "import, joins": lambda catalog, _: catalog.import_keys(csv('other,,"gold,silver"')),
    "import, moves": lambda catalog, _: catalog.import_keys(csv("other,,silver")),
}


@pytest.fixture
def catalog(catalog):
    catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
    catalog.put_plan(UsagePlan("silver", stages=["b/prod"]))
    return catalog


def hash_of(key):
    return f"ratelimit:{{{key.id}}}"


def revision(client, key):
    """What a check goes by: epoch, version and stamp of the hash, and the stamp of the record."""
    r = client.hget(hash_of(key), "r").decode()
    assert len(r) == 26
    return r[:8], int(r[8:18]), r[18:], json.loads(client.get(f"{hash_of(key)}:record"))["stamp"]


@pytest.mark.parametrize("name", CHANGES | JOINS)
def test_every_write_of_a_record_has_a_new_stamp(name, catalog, client):
    """In both places, and only what adds a plan raises the version: from that of the key's last charge to today's."""
    key = catalog.create_key("key", VALUE, ["gold"])
    catalog.put_plan(UsagePlan("third"))
    epoch, version, stamp, _ = revision(client, key)
    (CHANGES | JOINS)[name](catalog, key)
    new_epoch, new_version, new_stamp, in_record = revision(client, key)
    assert new_stamp == in_record != stamp
    assert (new_epoch, version) == (epoch, 2)
    assert new_version == (3 if name in JOINS else 2)


@pytest.mark.parametrize("name", [name for name in CHANGES if "given away" not in name])
def test_who_adds_no_plan_rests_on_no_version(name, catalog, backend, clock):
    """Another administrator may change plans meanwhile: nobody starts over."""
    key = catalog.create_key("key", VALUE, ["gold"])
    with backend.client() as rival_client:
        rival = Catalog(rival_client, clock=clock)
        intercepted = InterceptedCatalog(catalog, lambda number: rival.put_plan(UsagePlan(f"p{number}")))
        CHANGES[name](catalog, key)
    assert intercepted.scripts == 1


@pytest.mark.parametrize("name", JOINS)
def test_who_adds_a_plan_rests_on_the_version(name, catalog, backend, clock):
    """A plan that changes meanwhile is looked at again."""
    key = catalog.create_key("key", VALUE, ["gold"])
    with backend.client() as rival_client:
        rival = Catalog(rival_client, clock=clock)
        intercepted = InterceptedCatalog(catalog, before_script(lambda: rival.put_plan(UsagePlan("p")), 1))
        JOINS[name](catalog, key)
    assert intercepted.scripts == 2


def test_a_lost_hash_is_written_anew(catalog, client, clock):
    """Without `r` the key goes by the catalogue that the change was worked out from."""
    key = catalog.create_key("key", VALUE, ["gold"])
    catalog.put_plan(UsagePlan("third"))
    for lose in (lambda: client.delete(hash_of(key)), lambda: client.hset(hash_of(key), "r", "short")):
        lose()
        catalog.update_key(key.id, name="other")
        assert revision(client, key)[1] == 3
        with Limiter(client, deadline=5, clock=clock) as limiter:
            assert limiter.check(VALUE, STAGE, METHOD).allowed


@pytest.mark.parametrize(
    ("stored", "joins", "written"),
    [
        (None, 0, f"{EPOCH}0000000005"),
        (None, 1, f"{EPOCH}0000000005"),
        ("x" * 25, 0, f"{EPOCH}0000000005"),
        (f"{EPOCH}0000000004", 0, f"{EPOCH}0000000004"),
        (f"{EPOCH}0000000004", 1, f"{EPOCH}0000000005"),
        (f"{EPOCH}0000000005", 1, f"{EPOCH}0000000005"),
        (f"{EPOCH}0000000006", 0, f"{EPOCH}0000000006"),
        (f"{EPOCH}0000000006", 1, f"{EPOCH}0000000006"),
        ("another10000000006", 0, "another10000000006"),
        ("another10000000006", 1, f"{EPOCH}0000000005"),
    ],
)
def test_the_operation_of_commit(stored, joins, written, client):
    """STAMP, case by case: the version never falls within an epoch."""
    if stored is not None:
        client.hset("h", "r", stored if len(stored) == 25 else f"{stored}stamp--1")
    command = ["STAMP", 1, "stamp--2", f"{EPOCH}0000000005", str(joins)]
    assert client.eval(load("commit").source, 1, "h", "[]", json.dumps([command])) == [1, 0]
    assert client.hgetall("h") == {b"r": f"{written}stamp--2".encode()}


@pytest.fixture
def busy(server):
    """A key of a plan that admits everything, and functions that run others in threads until they are done."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(plenty(0))
        catalog.put_plan(UsagePlan("silver", stages=["b/prod"]))
        yield catalog.create_key("key", VALUE, ["gold"])


def plenty(more):
    return UsagePlan("gold", Throttle(1_000_000, 1_000_000 + more), Quota(10**9, "DAY"), [STAGE])


def join_or_leave(catalog, key, turn):
    (catalog.remove_key_from_plan if turn % 2 else catalog.add_key_to_plan)(key.id, "silver")


STEPS = (
    lambda catalog, key, turn: catalog.update_key(key.id, name=f"n{turn}"),
    join_or_leave,
    lambda catalog, _, turn: catalog.put_plan(plenty(turn)),
)


def work(server, key, step):
    with server.client() as own:
        for turn in range(60):
            done = False
            while not done:
                with suppress(Conflict):  # the others changed it sixteen times meanwhile
                    step(Catalog(own), key, turn)
                    done = True


def check_until(done, server):
    with server.client() as own, Limiter(own, deadline=5) as limiter:
        while not done.is_set():
            decision = limiter.check(VALUE, STAGE, METHOD)
            # Who looks eight times, and finds a change each time, gives up.
            assert decision.allowed or "changed 8 times during one check" in decision.error


def watch_until(done, server, key, seen):
    with server.client() as own:
        while not done.is_set():
            seen.append(own.hget(hash_of(key), "r").decode()[:18])


def test_r_never_falls_in_a_race(server, busy):
    """Administrators of a key and of plans, and a gateway that charges, all at once: its version only grows."""
    seen, done = [], threading.Event()
    with ThreadPoolExecutor() as threads:
        background = threads.submit(check_until, done, server), threads.submit(watch_until, done, server, busy, seen)
        workers = [threads.submit(work, server, busy, step) for step in STEPS]
        wait(workers)
        done.set()
    assert [future.exception() for future in (*background, *workers)] == [None] * 5
    assert len(set(seen)) > 1
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("right", "wrong", "case"),
    [
        ("not is_newer(stored, version_token)", "true", (f"{EPOCH}0000000006", 1, f"{EPOCH}0000000006")),
        ("joins == '1' and", "", (f"{EPOCH}0000000004", 0, f"{EPOCH}0000000004")),
        ("not stored or #stored ~= 26", "not stored", ("x" * 25, 0, f"{EPOCH}0000000005")),
        (
            "string.sub(stored, 1, 8) == string.sub(version_token, 1, 8)\n    and",
            "",
            ("zother-10000000006", 1, f"{EPOCH}0000000005"),
        ),
    ],
)
def test_a_seeded_bug_is_found(right, wrong, case, client):
    """With the bug the test of the operation fails."""
    with bug(right, wrong, "commit"), pytest.raises(AssertionError):
        test_the_operation_of_commit(*case, client)
