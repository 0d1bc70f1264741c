"""What administrators do besides changing keys, where keys lie in slots: read, load scripts, upgrade, clean up."""

import re

import pytest
from helpers.agreement import disagreements
from helpers.deployments import PASSWORD, granted
from helpers.key_files import ALPHA, file, with_plans

from ratelimit import Catalog, Ceilings, Limiter, NotFound, Quota, RepairSummary, Stage, StoreError, Throttle, UsagePlan
from ratelimit.admin.doctor.repair import repair_all
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.scripts import folder
from ratelimit.testing.cleanup import delete_namespace


def cluster_words(user):
    """What lua/ACL.md grants to a user of a cluster besides."""
    text = (folder() / "ACL.md").read_text(encoding="utf-8")
    (words,) = re.findall(rf"^redis-cli -h NODE ACL SETUSER {user} (.*)$", text, re.MULTILINE)
    return words.split()


def test_an_administrator_may_do_all_that_is_needed(slots, tmp_path):
    """The user of lua/ACL.md: keys, plans, import, durable changes, repair; and its doctor reads all."""
    is_redis_6 = slots.name == "redis6"
    for user in ("admin", "doctor"):
        words = [*granted(user, is_redis_6=is_redis_6), *cluster_words(user)]
        slots.admin.execute_command("ACL", "SETUSER", words[0], "reset", *words[1:])
    slots.admin.execute_command("ACL", "LOG", "RESET")
    with slots.client(username="admin", password=PASSWORD) as made:
        catalog = with_plans(Catalog(made, ceilings=Ceilings(keys=100)))
        key = catalog.create_key("mine", ALPHA, ["gold01"])
        catalog.put_stage(Stage("a/prod", Throttle(1, 1)))
        catalog.move_key(key.id, "gold01", "trial7", durable=True)
        catalog.rotate_key(key.id)
        catalog.import_keys(file("Key,Name,UsagePlanIds\ntenantNumber000000000001,x,gold01\n"))
        catalog.delete_key(key.id, durable=True)
        catalog.put_plan(UsagePlan("gold01", stages=["a/prod", "d/prod"]))  # looks for keys that lists have lost
        repair = catalog._run(repair_all(catalog._namespace))
        assert repair == RepairSummary(records=2)
    with slots.client(username="doctor", password=PASSWORD) as made:
        unread = [each for each in Catalog(made).doctor(gateway_user="admin").findings if each.severity == "unknown"]
    refused = slots.admin.execute_command("ACL", "LOG")
    assert [entry["object"] for entry in refused] == []
    assert {each.check for each in unread} <= ({"permissions", "excess-permissions"} if is_redis_6 else set())


def test_a_set_that_names_too_many(catalog, client, slots):
    """A key in the set of a plan that its record does not name has left it, for all readers."""
    catalog.put_plan(UsagePlan("tried", Throttle(1, 5), Quota(10, "DAY"), ["b/prod"], shadow="trial7"))
    key = catalog.create_key("mine", ALPHA, ["tried"])
    with slots.client() as made, Limiter(made, deadline=5, on_unavailable="closed") as limiter:
        assert limiter.check(ALPHA, "b/prod", "GET /x").allowed
    assert [each.key_id for each in catalog.shadow_counts("tried")] == [key.id]
    catalog.remove_key_from_plan(key.id, "tried")
    client.sadd("{ratelimit}:plan:tried:keys", key.id, "nobody1234")
    assert catalog.shadow_counts("tried") == []
    day = "2020-01-01"
    assert catalog.usage("tried", day, day).items == {}
    with pytest.raises(NotFound, match="not in plan"):
        catalog.set_remaining("tried", key.id, 5)


def test_scripts_are_loaded_into_every_primary(valkey_cluster):
    with valkey_cluster.client() as client:
        loaded = Catalog(client).load_scripts()
    assert list(loaded) == list(GATEWAY_SCRIPTS)
    for node in valkey_cluster.primaries:
        assert node.admin.script_exists(*loaded.values()) == len(loaded) * [True]


@pytest.mark.parametrize("dry_run", [False, True])
def test_schema_1_is_refused(client, dry_run):
    """With what to do instead; one that was interrupted on one server as well. Nothing is changed."""
    catalog = Catalog(client)
    assert not catalog.upgrade(dry_run=dry_run).is_needed
    client.hset("ratelimit:catalog", mapping={"epoch": "12345678", "version": "3"})
    client.set("ratelimit:digest:x", "someone123")
    before = {name: client.dump(name) for name in client.keys("*")}
    with pytest.raises(StoreError, match=r"of schema 1, .*ratelimit migrate"):
        catalog.upgrade(dry_run=dry_run)
    assert {name: client.dump(name) for name in client.keys("*")} == before
    client.flushall()
    with_plans(catalog)
    client.hset("{ratelimit}:catalog", "upgrading", "1")
    with pytest.raises(StoreError, match=r"of schema 1, .*ratelimit migrate"):
        catalog.upgrade(dry_run=dry_run)


def test_a_namespace_is_deleted(valkey_cluster):
    """On all nodes, and no other name."""
    with valkey_cluster.client() as client:
        catalog = with_plans(Catalog(client))
        for number in range(30):
            catalog.create_key(f"key {number}", plans=["gold01"])
        assert all(valkey_cluster.key_count().values())
        client.set("other", "x")
        delete_namespace(client, "ratelimit")
        assert sum(valkey_cluster.key_count().values()) == 1
        assert client.get("other") in (b"x", "x")


def test_lists_and_export(catalog, client, tmp_path):
    """Pages over many slots, without what is no key."""
    keys = [catalog.create_key(f"key {number}", plans=["gold01"]) for number in range(12)]
    catalog.delete_key(keys[3].id)
    client.zadd("{ratelimit}:keys", {"nobody1234": 1})
    page = Catalog(client).list_keys(limit=5)  # by one who does not know of slots yet
    assert [key.name for key in page.items] == [f"key {number}" for number in (11, 10, 9, 8, 7)]
    rest = catalog.list_keys(limit=50, cursor=page.cursor)
    assert [key.name for key in rest.items] == [f"key {number}" for number in (6, 5, 4, 2, 1, 0)]
    assert catalog.export_keys(tmp_path / "keys.csv") == 11
    assert catalog.capacity().active_keys["gold01"] == 11
    catalog.doctor(repair=True)
    assert disagreements(client) == []
