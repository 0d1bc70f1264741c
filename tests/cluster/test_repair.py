"""`doctor(repair=True)`: whatever an administrator left half done is finished or undone, and told; twice is as once."""

import json
import shlex
import struct

import pytest
from helpers.agreement import contents, disagreements
from helpers.commands import run
from helpers.deployments import only
from helpers.interception import Interrupted, Killed
from helpers.key_files import ALPHA, BETA, file, with_plans

from ratelimit import Catalog, NotFound, StoreError
from ratelimit.admin.doctor.repair import RepairSummary, repair_all

HASH = "ratelimit:{%s}"
RECORD, DIGEST, KEYS, GOLD = (
    "ratelimit:{%s}:record",
    "ratelimit:digest:%s",
    "{ratelimit}:keys",
    "{ratelimit}:plan:gold01:keys",
)


def repair(catalog):
    return catalog._run(repair_all(catalog._namespace))


def test_nothing_is_to_be_done(catalog, client):
    for number in range(3):
        catalog.create_key(f"key {number}", plans=["gold01"])
    catalog.delete_key(catalog.create_key(plans=["gold01"]).id)
    assert repair(catalog) == RepairSummary(records=4)
    assert disagreements(client) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog, key: catalog.create_key("other", BETA, ["gold01"]),
        lambda catalog, key: catalog.add_key_to_plan(key.id, "trial7"),
        lambda catalog, key: catalog.move_key(key.id, "gold01", "trial7"),
        lambda catalog, key: catalog.remove_key_from_plan(key.id, "gold01"),
        lambda catalog, key: catalog.rotate_key(key.id, value=BETA),
        lambda catalog, key: catalog.delete_key(key.id),
        lambda catalog, key: catalog.import_keys(file(f"Key,Name,UsagePlanIds\n{ALPHA},x,trial7\n{BETA},y,gold01\n")),
    ],
    ids=["create", "join", "move", "leave", "rotate", "delete", "import"],
)
def test_killed_at_each_request(client, change):
    """Whatever the step, one repair leaves everything in agreement, the second has nothing to do."""
    number, repaired = 0, 0
    while True:
        client.flushall()
        catalog = with_plans(Catalog(client))
        key = catalog.create_key("mine", ALPHA, ["gold01"])
        Interrupted(catalog, number, after=True)
        try:
            change(catalog, key)
        except Killed:
            pass
        else:
            assert number > 3
            assert repaired >= 1
            return
        other = Catalog(client)
        repaired += repair(other).is_changed
        assert disagreements(client) == []
        assert not repair(other).is_changed
        number += 1


def test_a_repair_is_killed(client):
    """At any request: the next one goes on."""
    number = 0
    while True:
        client.flushall()
        catalog = with_plans(Catalog(client))
        Interrupted(catalog, 4, after=True)
        with pytest.raises(Killed):
            catalog.create_key("mine", ALPHA, ["gold01"])
        assert disagreements(client)
        other = Catalog(client)
        Interrupted(other, number, after=True)
        try:
            repair(other)
        except Killed:
            repair(Catalog(client))
            assert disagreements(client) == []
        else:
            assert number > 10
            return
        number += 1


def digest_of(client, key):
    (digest,) = json.loads(client.get(RECORD % key.id))["digests"]
    return DIGEST % digest


def test_a_key_that_is_in_no_list(catalog, client):
    """Its value leads to it: it is listed again."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.zrem(KEYS, key.id)
    client.srem(GOLD, key.id)
    assert repair(catalog) == RepairSummary(records=1, keys=1)
    assert [each.id for each in catalog.list_keys().items] == [key.id]
    assert disagreements(client) == []


def test_a_deletion_that_its_node_has_lost(catalog, client):
    """Nothing leads to the key: the deletion is finished."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.zrem(KEYS, key.id)
    client.srem(GOLD, key.id)
    client.unlink(digest_of(client, key))
    assert repair(catalog) == RepairSummary(records=1, deleted=1)
    with pytest.raises(NotFound):
        catalog.get_key(key.id)
    assert disagreements(client) == []


def test_a_value_that_its_node_has_lost(catalog, client):
    """It leads to its key again."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.unlink(digest_of(client, key))
    assert repair(catalog) == RepairSummary(records=1, claims=1)
    assert client.get(digest_of(client, key)).startswith(key.id)
    assert disagreements(client) == []


def test_a_value_of_nobody(catalog, client):
    """It is free again."""
    client.set(DIGEST % "x", "nobody1234:token123")
    assert repair(catalog) == RepairSummary(claims=1)
    assert disagreements(client) == []


def test_two_keys_with_one_value(catalog, client):
    """A human is told, and nothing is changed."""
    one, other = catalog.create_key("one", ALPHA), catalog.create_key("other", BETA)
    record = json.loads(client.get(RECORD % other.id))
    record["digests"] = json.loads(client.get(RECORD % one.id))["digests"]
    client.unlink(digest_of(client, other))
    client.set(RECORD % other.id, json.dumps(record))
    before = contents(client)
    summary = repair(catalog)
    assert summary == RepairSummary(records=2, two_keys=((one.id, other.id),))
    assert contents(client) == before
    assert repair(catalog) == summary


@pytest.mark.parametrize("stored", ["{", b"\xff\xfe", "[]", json.dumps({"id": "another1234"})], ids=str)
def test_a_record_that_cannot_be_read(catalog, client, slots, stored):
    """Its key is named and left as it is; what can be done of others is done, and the command's exit code is 1."""
    broken, *others = [catalog.create_key(plans=["gold01"]) for _ in range(3)]
    client.set(RECORD % broken.id, stored)
    (claim,) = [name for name in client.keys(DIGEST % "*") if client.get(name).startswith(broken.id)]
    for key in others:
        client.unlink(digest_of(client, key))
    client.set(DIGEST % "x", "nobody1234:token123")
    client.zadd(KEYS, {"nobody1234": 1})
    summary = repair(catalog)
    assert summary == RepairSummary(records=2, keys=1, claims=3, unreadable=(broken.id,))
    assert client.exists(claim)
    assert set(client.zrange(KEYS, 0, -1)) == {broken.id, *(key.id for key in others)}
    assert client.sismember(GOLD, broken.id)
    (finding,) = [each for each in Catalog(client).doctor(repair=True).findings if broken.id in each.message]
    assert (finding.severity, finding.check) == ("error", "unfinished")
    result = run("doctor", "--repair", RATELIMIT_URL=slots.url)
    assert broken.id in result.output
    assert result.exit_code == 1
    client.unlink(RECORD % broken.id)
    assert repair(catalog).unreadable == ()
    assert disagreements(client) == []


INTENTS = "{ratelimit}:intents"


def unfinished(catalog):
    """What the doctor says of changes of keys, after a repair."""
    return [each for each in catalog.doctor(repair=True).findings if each.check == "unfinished"]


def follow(finding, slots):
    """Carry out the first command of a finding, `redis-cli`, as a shell would take it."""
    words = shlex.split(finding.mend.partition("&&")[0], comments=True)
    assert words[:2] == ["redis-cli", "-c"]
    slots.admin.execute_command(*words[2:])


@pytest.mark.parametrize("stored", ["{", "[]", "\u20ac", '{"token": 1}'])
def test_an_intent_that_makes_no_sense(catalog, client, stored):
    """It is taken for one that touches all plans whose sets have the key: one repair ends it."""
    key = catalog.create_key(plans=["gold01"])
    client.hset(INTENTS, key.id, stored)
    client.sadd("{ratelimit}:plan:trial7:keys", key.id)
    assert repair(catalog) == RepairSummary(records=1, keys=1)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert catalog.get_key(key.id).plans == ("gold01",)
    assert disagreements(client) == []


def test_a_plan_cannot_be_changed_until_then(catalog, client):
    """The error says what to do."""
    key = catalog.create_key(plans=["gold01"])
    client.hset(INTENTS, key.id, "{")
    with pytest.raises(StoreError, match="ratelimit doctor --repair"):
        catalog.add_key_to_plan(key.id, "trial7")
    catalog.update_key(key.id, enabled=False)
    catalog.rotate_key(key.id)
    repair(catalog)
    catalog.add_key_to_plan(key.id, "trial7")
    assert disagreements(client) == []


def test_an_intent_of_a_deleted_key_that_makes_no_sense(catalog, client):
    """Nothing is left of the key in the set of any plan."""
    key = catalog.create_key(plans=["gold01"])
    client.hset(INTENTS, key.id, "{")
    client.sadd("{ratelimit}:plan:trial7:keys", key.id)
    catalog.delete_key(key.id)
    repair(catalog)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert disagreements(client) == []


def test_an_intent_that_is_no_text(catalog, client, slots):
    """No step can be guarded by it: its key is named, and the remedy leaves nothing to be said."""
    key = catalog.create_key(plans=["gold01"])
    client.hset(INTENTS, key.id, b"\xff")
    client.set(DIGEST % "x", "nobody1234:token123")
    assert repair(catalog) == RepairSummary(records=1, claims=1, unreadable_intents=(key.id,))
    finding, _ = unfinished(catalog)
    assert (finding.severity, key.id in finding.message) == ("error", True)
    follow(finding, slots)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert catalog.get_key(key.id).plans == ("gold01",)
    assert disagreements(client) == []


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("is_hash", [False, True])
def test_a_claim_that_cannot_be_read(catalog, client, slots, is_hash, ended):
    """It is named, not its key, and left as it is; the remedy has the value lead to its key again."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    name = digest_of(client, key)
    catalog.create_key(plans=["gold01"])
    if ended:
        record = json.loads(client.get(RECORD % key.id))
        client.set(RECORD % key.id, json.dumps({**record, "digests": {**record["digests"], "x": 1}}))
        name = DIGEST % "x"
    client.unlink(name)
    client.hset(name, "a", "b") if is_hash else client.set(name, b"\xff")
    client.hset(INTENTS, key.id, json.dumps({"token": "x", "touched": [], "digest": ""}))
    client.zadd(KEYS, {"nobody1234": 1})
    assert repair(catalog) == RepairSummary(records=2, keys=2, unreadable_names=(name,))
    (finding,) = unfinished(catalog)
    assert (finding.severity, name in finding.message) == ("error", True)
    follow(finding, slots)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert disagreements(client) == []


def test_a_key_in_no_list_whose_claim_cannot_be_read(catalog, client, slots):
    """The claim may be the key's, so the key is listed again, not deleted."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.zrem(KEYS, key.id)
    client.srem(GOLD, key.id)
    client.set(digest_of(client, key), b"\xff")
    repair(catalog)
    (finding,) = unfinished(catalog)
    follow(finding, slots)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert [each.id for each in catalog.list_keys().items] == [key.id]
    assert disagreements(client) == []


def test_a_deletion_whose_claim_cannot_be_read(catalog, client):
    """It is finished, and the claim named."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    name = digest_of(client, key)
    client.set(name, b"\xff")
    client.hset(INTENTS, key.id, json.dumps({"token": "x", "touched": [], "digest": name.rpartition(":")[2]}))
    client.unlink(RECORD % key.id)
    assert repair(catalog) == RepairSummary(keys=1, unreadable_names=(name,))


def test_a_record_of_another_type(catalog, client, slots):
    """It is there, though it is no string: its values are not taken for dead, and the remedy ends it."""
    broken, other = (catalog.create_key(plans=["gold01"]) for _ in range(2))
    name = digest_of(client, broken)
    client.unlink(digest_of(client, other))
    client.unlink(RECORD % broken.id)
    client.hset(RECORD % broken.id, "a", "b")
    client.hset(INTENTS, broken.id, json.dumps({"token": "x", "touched": [], "digest": ""}))
    assert repair(catalog) == RepairSummary(records=1, claims=1, unreadable=(broken.id,))
    assert client.exists(name)
    finding, _ = unfinished(catalog)
    assert broken.id in finding.message
    client.unlink(RECORD % broken.id)
    assert [each.severity for each in unfinished(catalog)] == ["ok"]
    assert disagreements(client) == []


@pytest.mark.parametrize("name", [KEYS, GOLD, INTENTS, HASH])
def test_a_member_that_is_no_id(catalog, client, name):
    """What holds it is named, and all else is done."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.unlink(digest_of(client, key))
    if name == HASH:
        name = HASH % key.id
        client.hset(name, b"\xff", 1)
    elif name == INTENTS:
        client.hset(name, b"\xff", "{}")
    elif name == KEYS:
        client.zadd(name, {b"\xff": 1})
    else:
        client.sadd(name, b"\xff")
    assert repair(catalog) == RepairSummary(records=1, claims=1, unreadable_names=(name,))
    finding = unfinished(catalog)[0]
    assert (finding.severity, name in finding.message) == ("error", True)


def test_a_deleted_key_in_a_set(catalog, client):
    """Of a plan, or in the list: it is taken out."""
    client.zadd(KEYS, {"nobody1234": 1})
    client.sadd(GOLD, "nobody1235")
    assert repair(catalog) == RepairSummary(keys=2)
    assert disagreements(client) == []


def test_alerts_that_nobody_announced(catalog, client):
    """They are written to the stream, once."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    field, figures = "a:gold01:1299840:50", struct.pack("<3d", 5, 10, 1_700_000_000_000_000)
    client.hset(HASH % key.id, field, figures)
    assert repair(catalog) == RepairSummary(records=1, alerts=1)
    ((_, entry),) = client.xrange("ratelimit:alerts")
    assert (entry["key"], entry["plan"], entry["percent"], entry["used"]) == (key.id, "gold01", "50", "5")
    assert repair(catalog) == RepairSummary(records=1)
    assert client.xlen("ratelimit:alerts") == 1


def test_the_command(catalog, client, slots):
    """What was done is told, as JSON too; the exit code is that of the findings. Without the option nothing is said."""
    client.set(DIGEST % "x", "nobody1234:token123")
    result = run("doctor", "--repair", RATELIMIT_URL=slots.url)
    told = " ".join(result.output.split())
    assert "Repair: 0 records were looked at: 0 keys were repaired, 1 values lead" in told
    assert result.exit_code == 1  # this server is not set up well
    again = run("doctor", "--repair", "--json", RATELIMIT_URL=slots.url)
    report = json.loads(again.output)
    nothing = {"records": 0, "keys": 0, "claims": 0, "deleted": 0, "alerts": 0, "two_keys": []}
    nothing |= {"unreadable": [], "unreadable_intents": [], "unreadable_names": [], "stopped": ""}
    assert report["repair"] == nothing
    assert "repair" not in json.loads(run("doctor", "--json", RATELIMIT_URL=slots.url).output)


def test_what_is_found_without_a_repair(catalog, client):
    """An intent is told, with the command."""
    key = catalog.create_key("mine", ALPHA, ["gold01"])
    client.hset("{ratelimit}:intents", key.id, json.dumps({"token": "x", "touched": ["trial7"], "digest": ""}))
    finding = only(Catalog(client).doctor(), "unfinished")
    assert (finding.severity, finding.mend) == ("warning", "ratelimit doctor --repair")
    assert only(Catalog(client).doctor(repair=True), "unfinished").severity == "ok"


def test_every_primary_is_examined(valkey_cluster):
    """And walked over; what is wrong with one of them names it, and its command mends it there."""
    with valkey_cluster.client() as made:
        catalog = with_plans(Catalog(made))
        for number in range(20):
            catalog.create_key(f"key {number}", plans=["gold01"])
        report = catalog.doctor(repair=True, deadline=10)
        assert report.repair == RepairSummary(records=20)
        wheres = {finding.where for finding in report.findings if finding.check == "eviction"}
        assert {f"primary {node.address}" for node in valkey_cluster.primaries} <= wheres
        assert len(wheres) == 6
        node = valkey_cluster.primaries[1]
        node.admin.config_set("cluster-require-full-coverage", "yes")
        try:
            finding = only(catalog.doctor(deadline=10), "slots")
        finally:
            node.admin.config_set("cluster-require-full-coverage", "no")
        assert (finding.severity, finding.where) == ("warning", f"primary {node.address}")
        assert finding.mend == f"redis-cli -h 127.0.0.1 -p {node.port} CONFIG SET cluster-require-full-coverage no"


def test_on_one_server(valkey):
    """Nothing is ever half done, and nothing is touched."""
    with valkey.client() as made:
        catalog = with_plans(Catalog(made))
        made.set(DIGEST % "x", "nobody1234:token123")
        assert repair(catalog) == RepairSummary()
        assert made.exists(DIGEST % "x")
