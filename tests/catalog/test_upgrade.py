"""`ratelimit upgrade`: from schema 1 to schema 2. Everything stays, whenever it is interrupted and begun again."""

import json
import struct

import pytest
from helpers.commands import run
from helpers.redis_snapshot import snapshot

from ratelimit import (
    AsyncCatalog,
    Catalog,
    Limiter,
    Method,
    PlanStage,
    Quota,
    Stage,
    StoreError,
    Throttle,
    UpgradeReport,
    UsagePlan,
)
from ratelimit.registry.key_values import Digester
from ratelimit.registry.windows import DAY_US
from ratelimit.scripts import ScriptCall

STAGE, METHOD, TEMPLATE = "petstore/prod", "GET /pets", "GET /pets/{id}"
ENCODED = "GET /pets/%7Bid%7D"
VALUE = "my-own-key-value-0001"
CATALOG, OLD = "{ratelimit}:catalog", "ratelimit:catalog"
MARK = b"moved: schema 2"


def with_state(client, clock, keys=3):
    """A store with all that this version writes."""
    throttle = Throttle(1, 50)
    catalog = Catalog(client, clock=clock)
    catalog.put_plan(UsagePlan("silver", throttle, None, [STAGE]))
    methods = PlanStage(STAGE, {TEMPLATE: throttle})
    catalog.put_plan(UsagePlan("gold", throttle, Quota(9, "DAY"), [methods], alerts=[20], shadow="silver"))
    # One method is called what another one's bucket is called from schema 2 on.
    listed = {name: Method(throttle, key_required=name == TEMPLATE) for name in (TEMPLATE, ENCODED, METHOD)}
    catalog.put_stage(Stage(STAGE, throttle, listed))
    catalog.set_account_throttle(throttle)
    made = [catalog.create_key(f"key {at}", f"{VALUE}{at}", ["gold"]) for at in range(keys)]
    catalog.rotate_key(made[0].id, grace_s=1e6, value=VALUE)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        for _ in range(2):
            for cost, (value, method) in enumerate(
                [(VALUE, METHOD), (VALUE, TEMPLATE), (None, ENCODED), (f"{VALUE}1", TEMPLATE), (f"{VALUE}1", "GET /x")],
                1,
            ):
                assert limiter.check(value, STAGE, method, cost if value is None else 1).allowed
            clock.advance_us(DAY_US)
    catalog.remove_key_from_plan(made[2].id, "gold")
    return catalog


def as_schema_1(client):
    """Have the store be as the version before wrote it."""
    client.rename(CATALOG, OLD)
    client.hdel(OLD, "schema")
    client.rename("{ratelimit}:keys", "ratelimit:keys")
    for name in client.keys("{ratelimit}:plan:*"):
        client.rename(name, name.decode().replace("{ratelimit}", "ratelimit"))
    for name in sorted(client.keys("ratelimit:stage:*%*"), key=len):
        method = name.decode().replace("%7B", "{").replace("%7D", "}").replace("%25", "%")
        client.rename(name, method)
    for name in client.keys("ratelimit:digest:*"):
        client.set(name, client.get(name).partition(b":")[0])


def without_tokens(state):
    """A snapshot without the tokens of claims, which are random, and what the upgrade leaves at the former name."""
    claims = {name: claim.partition(b":")[0] for name, (_, claim, _) in state.items() if b":digest:" in name}
    assert all(state[name][1].count(b":") == 1 for name in claims)
    counted = {name: value for name, value in state.items() if not name.startswith(b"ratelimit:denials:")}
    return {**counted, **claims, OLD.encode(): None}


@pytest.fixture
def store(client, clock):
    """A store of schema 1, and what it is to be."""
    with_state(client, clock)
    expected = without_tokens(snapshot(client))
    as_schema_1(client)
    assert client.exists(CATALOG, "{ratelimit}:keys") == 0
    assert client.exists(*(f"ratelimit:stage:{STAGE}:{name}" for name in (TEMPLATE, ENCODED))) == 2
    return expected


def test_everything_stays(store, client, clock):
    """To the byte, but for names and tokens; what is decided and reported afterwards is what it would have been."""
    report = Catalog(client, clock=clock).upgrade()
    # Catalogue, list, one plan's set, its past, two buckets; three keys of which one has two values.
    assert report == UpgradeReport(is_needed=True, renamed=6, claims=4)
    assert client.get(OLD) == MARK
    assert without_tokens(snapshot(client)) == store
    with Limiter(client, deadline=5, clock=clock) as limiter:
        assert limiter.check(VALUE, STAGE, METHOD).allowed


def test_an_upgraded_catalogue_is_not_upgraded_again(store, client, clock):
    """It says so, and changes nothing."""
    catalog = Catalog(client, clock=clock)
    catalog.upgrade()
    before = snapshot(client)
    assert catalog.upgrade() == catalog.upgrade(dry_run=True) == UpgradeReport()
    assert snapshot(client) == before


def test_nothing_is_nothing_to_upgrade(client, clock):
    """An empty server stays empty."""
    assert Catalog(client, clock=clock).upgrade() == UpgradeReport()
    assert client.keys("*") == []


def test_a_dry_run_changes_nothing(store, client, clock):
    """And reports what there is to do."""
    before = snapshot(client)
    assert Catalog(client, clock=clock).upgrade(dry_run=True) == UpgradeReport(is_needed=True, renamed=6, claims=4)
    assert snapshot(client) == before


class Interrupted(BaseException):
    """Whoever ran it was killed."""


def interrupting(catalog, at, *, before):
    """Have a catalogue end at its `at`-th script, before or after it was run; return how many it ran."""
    store, ran = catalog._run.__self__, []
    right = store._execute

    def answer(request, *wait):
        if isinstance(request, ScriptCall):
            ran.append(request)
            if before and len(ran) == at:
                raise Interrupted
        reply = right(request, *wait)
        if not before and len(ran) == at:
            raise Interrupted
        return reply

    store._execute = answer
    return ran


@pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])
def test_an_upgrade_is_repeated_wherever_it_ended(before, store, client, clock, monkeypatch):
    """After each of its writes: the second run leaves what one would have left, and checks never go by half of it."""
    monkeypatch.setattr("ratelimit.admin.upgrade._NAMES_PER_SCAN", 1)
    given = {name: client.dump(name) for name in client.keys("*")}
    for at in range(1, 100):
        client.flushall()
        for name, value in given.items():
            client.restore(name, 0, value)
        catalog = Catalog(client, clock=clock)
        ran = interrupting(catalog, at, before=before)
        try:
            catalog.upgrade()
        except Interrupted:
            assert len(ran) == at
        else:
            break
        with Limiter(client, deadline=5, clock=clock) as limiter:
            decision = limiter.peek(VALUE, STAGE, METHOD)
        assert decision.status == (503 if before and at == 1 else 200)
        again = Catalog(client, clock=clock)
        again.upgrade()
        assert without_tokens(snapshot(client)) == store
        assert Catalog(client, clock=clock).upgrade() == UpgradeReport()
    assert at > 3


def test_gateways_decide_from_the_first_step_on(store, client, clock):
    """Those of this version, by claims with and without tokens alike."""
    catalog = Catalog(client, clock=clock)
    interrupting(catalog, 1, before=False)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        assert limiter.check(VALUE, STAGE, METHOD).status == 503
        with pytest.raises(Interrupted):
            catalog.upgrade()
        assert client.hget(CATALOG, "upgrading") == b"1"
        assert limiter.check(VALUE, STAGE, METHOD).allowed
        rotated = Catalog(client, clock=clock).rotate_key(limiter.catalog.keys("key 1")[0].id)
        assert limiter.check(rotated.value, STAGE, METHOD).allowed
        Catalog(client, clock=clock).upgrade()
        assert limiter.check(rotated.value, STAGE, METHOD).allowed


def test_a_change_between_looking_and_renaming_is_noticed(store, client, clock):
    """The names are read again: a plan that was put meanwhile, and a key that joined one."""
    catalog = Catalog(client, clock=clock)
    right, turns = catalog._run.__self__._execute, []

    def answer(request, *wait):
        if isinstance(request, ScriptCall) and len(turns) < 2:
            turns.append(1)
            client.hincrby(OLD, ("version", "members")[len(turns) - 1], 1)
            client.sadd(f"ratelimit:plan:late{len(turns)}:keys", "k1")
        return right(request, *wait)

    catalog._run.__self__._execute = answer
    catalog.upgrade()
    assert client.exists("{ratelimit}:plan:late1:keys", "{ratelimit}:plan:late2:keys") == 2
    assert client.keys("ratelimit:plan:*") == []


def test_what_is_in_the_way_is_not_overwritten(store, client, clock):
    """A key that has a new name already: nothing is renamed, and the error names it."""
    client.sadd("{ratelimit}:plan:gold:keys", "somebody")
    before = snapshot(client)
    with pytest.raises(StoreError, match=r"RATELIMIT OCCUPIED \{ratelimit\}:plan:gold:keys"):
        Catalog(client, clock=clock).upgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("where", [CATALOG, OLD])
def test_what_the_former_version_finds_is_no_empty_catalogue(where, store, client, clock):
    """It reads the former name with HGETALL and HMGET: an error, and 503, not 403."""
    Catalog(client, clock=clock).upgrade()
    if where == OLD:
        for command in (("HGETALL", OLD), ("HMGET", OLD, "epoch", "version", "stamp"), ("HSET", OLD, "plan:x", "{}")):
            with pytest.raises(Exception, match="WRONGTYPE"):
                client.execute_command(*command)
        return
    client.delete(CATALOG)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        decision = limiter.check(VALUE, STAGE, METHOD)
        assert (decision.status, "was here and is gone" in decision.error) == (503, True)
    with pytest.raises(StoreError, match="is gone"):
        Catalog(client, clock=clock).upgrade()
    Catalog(client, clock=clock).put_plan(UsagePlan("gold"))


def test_a_newer_schema_is_not_upgraded(client, clock):
    """By a version that does not know it."""
    Catalog(client, clock=clock).put_plan(UsagePlan("gold"))
    client.hset(CATALOG, "schema", "4")
    with pytest.raises(StoreError, match="is of schema '4'"):
        Catalog(client, clock=clock).upgrade()


def test_other_namespaces_stay(client, clock):
    """Also one whose name begins alike."""
    with_state(client, clock)
    as_schema_1(client)
    client.set("ratelimit2:digest:x", "k1")
    client.set("other:digest:x", "k1")
    Catalog(client, clock=clock).upgrade()
    assert client.mget("ratelimit2:digest:x", "other:digest:x") == [b"k1", b"k1"]


def test_many_keys_are_upgraded_in_batches(server, clock):
    """Entries of the index some hundreds at a time, each with a progress; none is left out."""
    with server.client() as client:
        Catalog(client, clock=clock).put_plan(UsagePlan("gold"))
        as_schema_1(client) if client.exists("{ratelimit}:keys") else client.rename(CATALOG, OLD)
        client.hdel(OLD, "schema")
        client.mset({f"ratelimit:digest:{at:022}": f"k{at}" for at in range(5000)})
        seen = []
        assert Catalog(client, clock=clock).upgrade(progress=seen.append).claims == 5000
        assert len(seen) >= 5
        assert seen == sorted(seen)
        names = client.keys("ratelimit:digest:*")
        claims = client.mget(names)
        assert len(set(claims)) == 5000
        pairs = zip(names, claims, strict=True)
        assert all(claim.startswith(b"k%d:" % int(name.split(b":")[2])) for name, claim in pairs)


LITERAL = {
    OLD: {
        "epoch": "epoch--1",
        "version": "2",
        "stamp": "stamp--2",
        "members": "1",
        "pepper": Digester(None).probes[0],
        "plan:gold": '{"name": "", "throttle_scope": "key", "stages": {"petstore/prod": {"throttles": {}}}, '
        '"throttle": {"rate": "1", "burst": 5}, "quota": {"limit": 9, "period": "DAY", "offset": 0}}',
        "stage:petstore/prod": '{"methods": {"GET /pets/{id}": {"key_required": true, "throttle": {"rate": "1", '
        '"burst": 7}}}}',
    },
    "ratelimit:{k1}": {
        "r": "epoch--10000000002stamp--1",
        "p:gold": struct.pack("<7d", 1e6, 3e6, 1772625600000000, 1376806522916, 2, 0, 2),
    },
    "ratelimit:{k1}:record": json.dumps(
        {
            "id": "k1",
            "name": "one",
            "enabled": True,
            "plans": ["gold"],
            "digests": {Digester(None)(VALUE): 0},
            "created_us": 1772625600000000,
            "expires_us": 0,
            "stamp": "stamp--1",
            "description": "",
            "owner": "",
            "tags": {},
        }
    ),
    f"ratelimit:digest:{Digester(None)(VALUE)}": "k1",
    "ratelimit:stage:petstore/prod:GET /pets/{id}": struct.pack("<3d", 1e6, 2e6, 1772625600000000),
}
"""What the version before wrote, word for word: a key that used 2 of 9, and has 3 tokens and 2 of all callers' left."""


def test_what_the_version_before_wrote_is_read(client, clock):
    """Literally: names, fields and bytes are those of schema 1."""
    for name, value in LITERAL.items():
        client.hset(name, mapping=value) if isinstance(value, dict) else client.set(name, value)
    client.zadd("ratelimit:keys", {"k1": 1772625600000000})
    client.sadd("ratelimit:plan:gold:keys", "k1")
    client.hset("ratelimit:plan:gold:past", "k2", "20500")
    catalog = Catalog(client, clock=clock)
    assert catalog.upgrade() == UpgradeReport(is_needed=True, renamed=5, claims=1)
    with Limiter(client, deadline=5, clock=clock) as limiter:
        limits = limiter.peek(VALUE, STAGE, TEMPLATE).limits
        assert {limit.name: limit.remaining for limit in limits} == {
            "plan:gold": 3,
            f"stage:{STAGE}:{TEMPLATE}": 2,
            "quota:gold": 7,
        }
    assert [key.id for key in catalog.keys("")] == ["k1"]
    assert catalog.usage("gold", "2026-03-04", "2026-03-04").items == {"k1": [(2, 7)]}


@pytest.mark.asyncio
async def test_the_twin(backend, clock):
    """Awaited, it does the same."""
    with backend.client() as client:
        with_state(client, clock)
        expected = without_tokens(snapshot(client))
        as_schema_1(client)
        async with backend.async_client() as other:
            report = await AsyncCatalog(other, clock=clock).upgrade()
        assert report.is_needed
        assert without_tokens(snapshot(client)) == expected


def test_the_command(server, clock):
    """It reports what there is to do, does it, and says that there is nothing left; as data, too."""
    with server.client() as client:
        with_state(client, clock)
        as_schema_1(client)
    options = ["--url", f"unix://{server.socket}"]
    assert run("upgrade", "--dry-run", *options).stdout == "To upgrade: 6 names in Redis, 4 key values.\n"
    assert "run `ratelimit upgrade`" in run("keys", "list", *options).output
    assert run("upgrade", *options).stdout == "Upgraded to schema 2: 6 names in Redis, 4 key values.\n"
    nothing = "Nothing to upgrade: the stored data has schema 2, or there is none.\n"
    again = run("upgrade", *options)
    assert (again.exit_code, again.stdout) == (0, nothing)
    report = {"schema": 2, "needed": False, "renamed": 0, "claims": 0, "dry_run": True}
    assert json.loads(run("upgrade", "--json", "--dry-run", *options).stdout) == report
