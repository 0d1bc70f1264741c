"""Changes of keys and plans in slots: what the model of their protocol leaves out, and results and errors as ever."""

import json
import time
from dataclasses import replace

import pytest
from helpers.administrators import (
    OPERATIONS,
    REFUSED,
    VALUES,
    Site,
    administrator,
    hold_agreement,
    plan_of,
)
from helpers.servers import Server

from ratelimit import ApiKey, Catalog, Ceilings, ConfigError, Conflict, StoreTimeout, StoreUnavailable
from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.scripts import load

MOST_REQUESTS = 60


# Lost and doubled replies.


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_script_carried_out_twice(site, name):
    """As a client does that sends a command again: what was done is done once, and said to be done."""
    actor = administrator(site, name, doubled=True).run()
    assert (actor.error is None) == (name not in REFUSED)
    assert not site.before.intents
    site.repair_all()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_lost_reply(slots, name):
    """After any request: the outcome is unknown or a success, and the same again finds what it wants, or makes it."""
    for count in range(MOST_REQUESTS):
        site = Site(slots)
        actor = administrator(site, name).steps(count)
        is_last = not actor.step(loses_reply=StoreTimeout("lost"))
        actor.run()
        again = administrator(site, name).run()
        if actor.error is not None and actor.effects == 0 and name not in REFUSED:
            assert again.error is None
        site.repair_all()
        site.close()
        if is_last:
            return


def test_a_failed_creation_leaves_its_value_free(site):
    """What failed before the key was live is undone at once: nobody waits until the draft expires."""
    for count in range(MOST_REQUESTS):
        actor = administrator(site, "create with b in q").steps(count)
        if actor.effects:
            break
        actor.step(loses_reply=StoreUnavailable("refused"))
        actor.run()
        assert isinstance(actor.error, StoreUnavailable) or actor.effects
        if actor.effects:
            break
        hold_agreement(site.before)
    site.repair_all()


def test_what_took_effect_is_no_error(slots):
    """What could not be cleaned up after it is left to a repair."""
    for name in ("join q", "leave p", "rotate to b", "delete", "create with b in q"):
        for late in range(1, 5):
            site = Site(slots)
            actor = administrator(site, name)
            while not actor.effects:
                actor.step()
            actor.steps(late - 1)
            actor.step(loses_reply=StoreUnavailable("gone"))
            actor.run()
            assert actor.error is None
            site.repair_all()
            site.close()


@pytest.mark.parametrize("name", ["disable", "rotate to b", "delete"])
def test_the_catalogue_s_node_is_away(site, monkeypatch, name):
    """What is no change of plans takes effect without it; the rest of a deletion is left to a repair."""
    namespace = site.namespace
    site.finish(namespace.load())
    monkeypatch.setattr(Site, "namespace", namespace)
    actor = administrator(site, name)
    lose_replies(monkeypatch, actor, lambda command: "{ratelimit}" in command[1])
    actor.run()
    assert (actor.error, actor.effects) == (None, 1)
    monkeypatch.undo()
    site.repair_all()


def test_a_former_value_s_node_is_away(site, monkeypatch):
    """A key gets another value all the same; the claim of the former one is left to a repair."""
    former = f"ratelimit:digest:{site.digests['a']}"
    actor = administrator(site, "rotate to b")
    lose_replies(monkeypatch, actor, lambda command: command[1] == former)
    actor.run()
    assert (actor.error, actor.effects) == (None, 1)
    assert site.digests["a"] in site.before.claims
    monkeypatch.undo()
    site.repair_all()
    assert site.digests["a"] not in site.before.claims


def test_a_claim_that_could_not_be_read_at_first(site, monkeypatch):
    """A deletion reads it once more, and removes it."""
    claim, lost = f"ratelimit:digest:{site.digests['a']}", []

    def is_lost(command):
        if command == ("GET", claim) and not lost:
            lost.append(command)
            return True
        return False

    actor = administrator(site, "delete")
    lose_replies(monkeypatch, actor, is_lost)
    assert actor.run().error is None
    assert lost
    assert not site.before.claims


@pytest.mark.parametrize("is_reversed", [False, True])
def test_an_intent_that_is_new_while_a_key_is_deleted(site, is_reversed):
    """Nothing is left of it, nor in the set of a plan that it was to join."""
    joining = administrator(site, "join q").steps(2)  # has read, and goes on once the key is deleted
    site.admin.script_load(load("commit").source)
    deletion = administrator(site, "delete", is_reversed=is_reversed).steps(5)
    assert (deletion.trips, deletion.effects) == (2, 1)
    joining.step()
    joining.kill()
    assert site.k1 in site.before.sets["q"]
    assert deletion.run().error is None
    assert (site.before.intents, site.before.sets["q"]) == ({}, frozenset())


def test_a_grace(site):
    """Until it ends the former value opens the key: from when the new one is claimed, by the server's clock."""
    earliest_us = int(time.time() * 1e6)
    site.finish(site.keys.rotate_key(site.k1, 60, VALUES["b"]))
    latest_us = int(time.time() * 1e6)
    site.watch(None)
    digests = site.before.records[site.k1]["digests"]
    assert digests[site.digests["b"]] == 0
    assert earliest_us <= digests[site.digests["a"]] - 60_000_000 <= latest_us
    assert set(site.before.claims) == {site.digests["a"], site.digests["b"]}


def lose_replies(monkeypatch, actor, is_lost):
    """Have nothing come back of an operation's commands that are lost, nor be carried out."""
    send = actor._send

    def lossy(request):
        if isinstance(request, list) and any(map(is_lost, request)):
            raise StoreUnavailable("away")
        return send(request)

    monkeypatch.setattr(actor, "_send", lossy)


# Expiry.


def test_drafts_and_tombstones_last_for_a_day(site):
    """A draft from its first step on; a tombstone when nothing is left of its key elsewhere."""
    actor = administrator(site, "create with b in q")
    while not site.before.records.keys() - {site.k1}:
        actor.step()
    (made,) = site.before.records.keys() - {site.k1}
    day_ms = 86_400_000
    assert day_ms - 10_000 < site.before.ttl[made] <= day_ms
    actor.run()
    assert site.before.ttl[made] == -1
    deletion = administrator(site, "delete")
    while not deletion.effects:
        deletion.step()
    assert site.before.ttl[site.k1] == -1
    deletion.run()
    assert day_ms - 10_000 < site.before.ttl[site.k1] <= day_ms


def test_a_creation_goes_on_after_its_draft_expired(slots):
    """It makes another; nothing is left of the first after a repair, also if that came before."""
    for is_repaired in (False, True):
        for count in range(MOST_REQUESTS):
            site = Site(slots)
            actor = administrator(site, "create with b in q").steps(count)
            drafts = [key for key, record in site.before.records.items() if record.get("state") == "draft"]
            for key in drafts:
                site.admin.pexpire(f"ratelimit:{{{key}}}:record", 1)
                time.sleep(0.003)
            site.watch(None)
            if is_repaired:
                site.repair_all()
            actor.run()
            assert actor.error is None
            site.repair_all()
            is_done = actor.effects and not drafts and count > actor.parts
            site.close()
            if is_done:
                break


def test_a_tombstone_that_expired_is_absent(site):
    """A repair of what names its id removes that: ids never come back."""
    deletion = administrator(site, "delete")
    while not deletion.effects:
        deletion.step()
    deletion.kill()
    assert site.k1 in site.before.listed
    site.admin.delete(f"ratelimit:{{{site.k1}}}:record")
    assert site.finish(repair_key(site.namespace, site.k1)) == (site.k1, "absent", True)
    site.repair_all()
    assert not site.before.listed


def test_an_absent_id_is_let_alone(site):
    """It may be that of a key which is not yet made."""
    report = site.finish(repair_key(site.namespace, "notyetmade"))
    assert report == ("notyetmade", "absent", False)
    assert site.finish(repair_key(site.namespace, site.k1)) == (site.k1, "key", False)


def test_a_change_goes_on_after_its_key_was_repaired(site):
    """Whoever has announced a change finds another record, and begins anew."""
    actor = administrator(site, "join q")
    while not site.before.intents:
        actor.step()
    assert site.finish(repair_key(site.namespace, site.k1)) == (site.k1, "key", True)
    assert not site.admin.exists("{ratelimit}:intents")
    actor.run()
    assert actor.effects == 1


# Peppers.


@pytest.mark.parametrize("name", ["create with b in q", "rotate to b", "create with a in p"])
def test_a_pepper_that_is_new(slots, name):
    """It is stored before the first claim under it; values that keys have under the old one are taken."""
    for count in range(MOST_REQUESTS):
        site = Site(slots, pepper="old")
        site.pepper = ["new", "old"]
        site.digests = {value: site.namespace.digest(text) for value, text in VALUES.items()}
        actor = administrator(site, name).steps(count)
        probes = site.admin.hget("{ratelimit}:catalog", "pepper").split()
        assert len(probes) == 2 or not site.before.claims.keys() & set(site.digests.values())
        is_done = actor.is_done
        actor.run()
        assert (actor.error is None) == (name not in REFUSED)
        site.repair_all()
        site.close()
        if is_done:
            return


def test_a_value_ended_under_the_old_pepper_is_free(site):
    """It is taken out of that record first, under each pepper."""
    site.finish(site.keys.rotate_key(site.k1, 0.001, VALUES["b"]))
    time.sleep(0.01)
    site.pepper = ["new", None]
    made = site.finish(site.keys.create_key("", VALUES["a"]))
    assert made.id != site.k1
    record = json.loads(site.admin.get(f"ratelimit:{{{site.k1}}}:record"))
    assert list(record["digests"]) == [site.digests["b"]]


# Plans.


def test_a_stray_in_a_set_is_no_key(site):
    """Whoever was interrupted is in nobody's way; with dry_run nothing is written."""
    actor = administrator(site, "join q")
    while not site.before.sets["q"]:
        actor.step()
    actor.kill()
    before = site.admin.hgetall("{ratelimit}:intents")
    report = site.finish(site.plans.change_catalog(without_plan("q"), dry_run=True))
    assert [change.id for change in report.changes] == ["q"]
    assert site.admin.hgetall("{ratelimit}:intents") == before
    assert administrator(site, "delete plan q").run().error is None
    assert not site.before.intents


def without_plan(plan):
    """A change of the catalogue."""
    return lambda snapshot: replace(
        snapshot, plans={name: each for name, each in snapshot.plans.items() if name != plan}
    )


def test_true_members_are_in_the_way(site):
    """As on one server, in its words."""
    error = administrator(site, "delete plan p").run().error
    assert str(error) == "plan_id: plan 'p' still has 1 key: move or delete them first"
    assert administrator(site, "join q").run().error is None
    error = administrator(site, "q opens s too").run().error
    assert str(error) == (
        f"plans: key {site.k1!r} would be in two plans of stage 'api/s', 'p' and 'q': "
        "a key may be in one plan per stage"
    )


def test_a_failover_that_lost_an_entry(site):
    """The catalogue's node is another one, and lacks a key that is in the plan: it is entered again, and counted."""
    assert administrator(site, "join q").run().error is None
    for name in ("{ratelimit}:keys", "{ratelimit}:plan:q:keys"):
        site.admin.delete(name)
    site.admin.hset("{ratelimit}:catalog", "replid", "another")
    version = site.before.version
    actor = administrator(site, "q opens s too")
    actor.is_watched = False
    assert isinstance(actor.run().error, Conflict)
    site.history[version + 1000] = site.before.plans
    site.watch(None)
    hold_agreement(site.before)
    assert site.before.version == version + 1000


def test_a_deletion_that_a_key_s_node_lost(site):
    """A live record that neither list nor sets nor claims name: the deletion is finished."""
    record = site.admin.get(f"ratelimit:{{{site.k1}}}:record")
    assert administrator(site, "delete").run().error is None
    site.admin.set(f"ratelimit:{{{site.k1}}}:record", record)
    report = site.finish(repair_key(site.namespace, site.k1))
    assert report == (site.k1, "key", True)
    site.repair_all()
    assert not site.before.live()


# As on one server.


@pytest.fixture
def two_catalogs(slots):
    """One where keys lie in slots, one where they do not."""
    plain = Server(slots.name)
    slots.admin.flushall()
    with slots.client() as one, plain.client() as other:
        yield Catalog(one, ceilings=Ceilings(keys=3)), Catalog(other, ceilings=Ceilings(keys=3))
    plain.stop()


def test_results_and_errors_are_those_of_one_server(two_catalogs):
    """Whatever is called, in one order."""
    results = [list(everything(catalog)) for catalog in two_catalogs]
    assert results[0] == results[1]
    assert two_catalogs[0]._namespace.has_slots
    assert not two_catalogs[1]._namespace.has_slots


def everything(catalog):
    """What each of many calls returns or raises, without ids and times."""
    ids = {}

    def attempt(call):
        try:
            value = call()
        except ConfigError as error:
            text = str(error)
        else:
            text = repr(value.plans if isinstance(value, ApiKey) else value) + repr(getattr(value, "enabled", ""))
            if isinstance(value, ApiKey):
                ids.setdefault(value.id, f"key {len(ids)}")
        for key_id, name in ids.items():
            text = text.replace(key_id, name)
        return text

    def key(number):
        return next(key_id for key_id, name in ids.items() if name == f"key {number}")

    yield attempt(lambda: catalog.create_key(plans=["p"]))
    yield attempt(lambda: catalog.put_plan(plan_of("p", "s")))
    yield attempt(lambda: catalog.put_plan(plan_of("q", "t")))
    yield attempt(lambda: catalog.put_plan(plan_of("r", "st")))
    yield attempt(lambda: catalog.create_key("one", VALUES["a"], ["p"]))
    seen = catalog.get_key(key(0))
    yield attempt(lambda: catalog.create_key("two", VALUES["a"]))
    yield attempt(lambda: catalog.create_key("two", VALUES["b"], ["p", "q"], enabled=False))
    yield attempt(lambda: catalog.create_key("none", plans=["p", "r"]))
    yield attempt(lambda: catalog.add_key_to_plan(key(0), "p"))
    yield attempt(lambda: catalog.add_key_to_plan(key(0), "r"))
    yield attempt(lambda: catalog.add_key_to_plan(key(0), "nothing"))
    yield attempt(lambda: catalog.add_key_to_plan("nobody", "q"))
    yield attempt(lambda: catalog.add_key_to_plan(key(0), "q"))
    yield attempt(lambda: catalog.remove_key_from_plan(key(0), "r"))
    yield attempt(lambda: catalog.move_key(key(0), "p", "r"))
    yield attempt(lambda: catalog.remove_key_from_plan(key(0), "q"))
    yield attempt(lambda: catalog.move_key(key(0), "p", "r"))
    yield attempt(lambda: catalog.move_key(key(0), "p", "q"))
    yield attempt(lambda: catalog.update_key(key(0), name="x" * 999, enabled=False))
    yield attempt(lambda: catalog.update_key(key(0), enabled=False, tags={"a": "b"}))
    yield attempt(lambda: catalog.update_key("nobody", enabled=False))
    yield attempt(lambda: catalog.rotate_key(key(0), expected=seen))
    yield attempt(lambda: catalog.rotate_key(key(0), value=VALUES["b"]))
    yield attempt(lambda: catalog.rotate_key(key(0), value=VALUES["a"]))
    yield attempt(lambda: catalog.rotate_key(key(0), 9, value=VALUES["c"], expected=catalog.get_key(key(0))))
    yield attempt(lambda: catalog.create_key(value=VALUES["a"]))
    yield attempt(lambda: catalog.delete_plan("q"))
    yield attempt(lambda: catalog.create_key("three"))
    yield attempt(lambda: catalog.create_key("four"))
    yield attempt(lambda: catalog.delete_key(key(0), expected=seen))
    yield attempt(lambda: catalog.delete_key(key(0)))
    yield attempt(lambda: catalog.delete_key(key(0)))
    yield attempt(lambda: catalog.get_key(key(0)))
    yield attempt(lambda: catalog.create_key("four", VALUES["a"]))
    yield attempt(lambda: catalog.delete_plan("r"))


@pytest.mark.parametrize("name", ["disable", "leave p", "rotate to b", "delete"])
def test_revocations_need_no_memory(site, name):
    """Each step of them, and what grants is refused at its first."""
    site.admin.config_set("maxmemory", 1)
    try:
        assert administrator(site, name).run().error is None
        with pytest.raises(StoreUnavailable, match="OOM"):
            site.finish(site.keys.create_key())
    finally:
        site.admin.config_set("maxmemory", 0)
    assert not site.before.intents
    site.repair_all()
