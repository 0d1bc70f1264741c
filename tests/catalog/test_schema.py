"""Other versions of this package on the same Redis: what they may add, and what only one that knows it may read."""

import io
import json
import logging

import pytest
from helpers.gateway import GET_PETS, OK, VALUES, Gateway, outcome
from helpers.redis_snapshot import snapshot_without_denials

from ratelimit import Catalog, ConfigError, Limiter, Method, Stage, StoreError, Throttle, UsagePlan
from ratelimit.registry import schema as schema_module
from ratelimit.registry import unknown_fields
from ratelimit.registry.schema import SCHEMA

CATALOG, OLD = "{ratelimit}:catalog", "ratelimit:catalog"


@pytest.fixture
def gateway(limiter, backend, clock):
    return Gateway(limiter, backend.client(), clock)


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What is warned of, as if nothing had been before."""
    monkeypatch.setattr(unknown_fields, "_warned", set())
    caplog.set_level(logging.WARNING, logger="ratelimit")
    return lambda: [record.getMessage() for record in caplog.records]


WRITES = {
    "create": lambda catalog, _: catalog.create_key(),
    "update": lambda catalog, key_id: catalog.update_key(key_id, enabled=True),
    "rotate": lambda catalog, key_id: catalog.rotate_key(key_id),
    "delete": lambda catalog, key_id: catalog.delete_key(key_id),
    "put plan": lambda catalog, _: catalog.put_plan(UsagePlan("new")),
    "delete plan": lambda catalog, _: catalog.delete_plan("gold"),
    "account": lambda catalog, _: catalog.set_account_throttle(None),
    "set remaining": lambda catalog, key_id: catalog.set_remaining("gold", key_id, 5),
    "reset shadow": lambda catalog, _: catalog.reset_shadow("gold"),
    "usage": lambda catalog, key_id: catalog.usage("gold", "2026-03-04", "2026-03-04", key_id),
    "plans": lambda catalog, _: catalog.plans(),
}


@pytest.mark.parametrize("begun_by", ["key", "plan"])
def test_a_catalogue_says_its_schema(begun_by, backend, clock):
    """From the first write on, whatever that is."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        if begun_by == "key":
            catalog.create_key()
        else:
            catalog.put_plan(UsagePlan("gold"))
        assert client.hget(CATALOG, "schema") == b"2"
        assert SCHEMA == 2


@pytest.mark.parametrize("state", ["new", "warm"])
@pytest.mark.parametrize("schema", ["4", "10", "2.1", "x", ""])
def test_a_gateway_does_not_decide_by_another_schema(schema, state, gateway):
    """503 that says so, as soon as it looks; once the catalogue is of this schema, it decides."""
    with Limiter(gateway.client, clock=gateway.clock) as new:
        if state == "new":
            gateway.limiter = new
        else:
            assert outcome(gateway.check("k1", GET_PETS)) == OK
        gateway.client.hset(CATALOG, "schema", schema)
        gateway.clock.advance(5)
        before = snapshot_without_denials(gateway.client)
        for where in (GET_PETS, ("a/prod", "GET /health"), ("b/prod", "GET /x")):
            decision = gateway.check("k1", where)
            assert (decision.status, decision.source) == (503, "fail_closed")
            assert (
                f"is of schema '{schema}', and this version knows the schemas 2 and 3 alone: upgrade this"
                in decision.error
            )
        assert snapshot_without_denials(gateway.client) == before
        gateway.client.hset(CATALOG, "schema", "2")
        assert outcome(gateway.check("k1", GET_PETS)) == OK


@pytest.mark.parametrize("write", WRITES)
def test_nobody_writes_into_another_schema(write, gateway):
    """The error says which it is, which this version knows, and what to do; nothing is written."""
    gateway.client.hset(CATALOG, "schema", "4")
    before = snapshot_without_denials(gateway.client)
    with pytest.raises(
        StoreError, match=r"is of schema '4', and this version knows the schemas 2 and 3 alone: upgrade this"
    ):
        WRITES[write](Catalog(gateway.client, clock=gateway.clock), gateway.ids["k1"])
    assert snapshot_without_denials(gateway.client) == before


@pytest.mark.parametrize("write", ["create", "update", "rotate", "delete", "put plan", "account"])
def test_an_upgrade_between_reading_and_writing_is_noticed(write, gateway):
    """A commit rests on the schema."""
    catalog = Catalog(gateway.client, clock=gateway.clock)
    right = catalog._run.__self__._execute

    def answer(request, *wait):
        if hasattr(request, "script"):
            gateway.client.hset(CATALOG, "schema", "4")
        return right(request, *wait)

    catalog._run.__self__._execute = answer
    before = snapshot_without_denials(gateway.client)
    with pytest.raises(StoreError, match="is of schema '4'"):
        WRITES[write](catalog, gateway.ids["k1"])
    gateway.client.hset(CATALOG, "schema", "2")
    assert snapshot_without_denials(gateway.client) == before


# Schema 3: as long as a stage denies the methods that are not listed

DENYING = Stage("a/prod", Throttle(50, 50), {"GET /pets": Method()}, unlisted="deny")
PLAIN = Stage("a/prod", Throttle(50, 50), {"GET /pets": Method()})


def stored_schema(client):
    return client.hget(CATALOG, "schema")


def test_a_stage_that_denies_raises_the_schema(client, clock, tmp_path):
    """With the change itself, whoever makes it, and back with the one after which none denies."""
    catalog, path, seen = Catalog(client, clock=clock), tmp_path / "plans.toml", []
    denying = '[stages."b/prod"]\nunlisted = "deny"\n'

    def apply(text):
        path.write_text(text, encoding="utf-8")
        catalog.apply(path)

    for change in (
        lambda: catalog.put_stage(PLAIN),
        lambda: catalog.put_stage(DENYING),
        lambda: catalog.put_stage(Stage("b/prod", unlisted="deny")),
        lambda: catalog.put_stage(PLAIN),
        lambda: catalog.delete_stage("b/prod"),
        lambda: apply(denying),
        lambda: catalog.put_plan(UsagePlan("gold")),
        lambda: catalog.create_key(plans=["gold"]),
        lambda: apply('[plans.gold]\n[stages."b/prod"]\n'),
        lambda: catalog.put_stage(DENYING),
        lambda: catalog.delete_stage("a/prod"),
    ):
        change()
        seen.append(int(stored_schema(client)))
    assert seen == [2, 3, 3, 3, 2, 3, 3, 3, 2, 3, 2]


def test_a_catalogue_may_begin_with_a_stage_that_denies(client, clock):
    """It has schema 3 from the first write on; a file that is applied dry writes nothing."""
    catalog = Catalog(client, clock=clock)
    catalog.put_stage(DENYING)
    assert stored_schema(client) == b"3"
    assert catalog.stages() == [DENYING]


@pytest.mark.parametrize("write", [name for name in WRITES if name not in {"delete plan", "reset shadow"}])
def test_all_goes_on_in_schema_3(write, gateway):
    """Administrators read and write, and leave the schema as it is."""
    gateway.catalog.put_stage(DENYING)
    WRITES[write](Catalog(gateway.client, clock=gateway.clock), gateway.ids["k1"])
    assert stored_schema(gateway.client) == b"3"


def test_a_change_of_schema_between_reading_and_writing_is_noticed(gateway):
    """A commit that was computed from schema 2 is computed again from schema 3."""
    catalog, committed = Catalog(gateway.client, clock=gateway.clock), []
    right = catalog._run.__self__._execute

    def answer(request, *wait):
        if hasattr(request, "script"):
            if not committed:
                gateway.catalog.put_stage(DENYING)
            committed.append(request.args[0])
        return right(request, *wait)

    catalog._run.__self__._execute = answer
    key_id = catalog.create_key().id
    assert [json.loads(guards)[0][2] for guards in committed] == ["2", "3"]
    assert stored_schema(gateway.client) == b"3"
    assert catalog.get_key(key_id).id == key_id


def test_a_version_that_does_not_know_it_decides_nothing(gateway, monkeypatch):
    """It would admit what the stage denies: 503 instead, until no stage denies."""
    assert outcome(gateway.check("k1", GET_PETS)) == OK
    gateway.catalog.put_stage(DENYING)
    with Limiter(gateway.client, clock=gateway.clock) as older:
        monkeypatch.setattr(schema_module, "_KNOWN", {"2": 2})
        gateway.limiter = older
        for _ in range(2):
            decision = gateway.check("k1", GET_PETS)
            assert (decision.status, decision.source) == (503, "fail_closed")
            assert "is of schema '3'" in decision.error
        monkeypatch.undo()
        gateway.catalog.put_stage(PLAIN)
        monkeypatch.setattr(schema_module, "_KNOWN", {"2": 2})
        gateway.clock.advance(5)
        assert outcome(gateway.check("k1", GET_PETS)) == OK


def test_a_catalogue_of_schema_3_is_not_read_again_and_again(gateway):
    """A gateway that looks whether it is up to date finds that it is."""
    gateway.limiter._namespace.before_refresh = lambda: None  # a subscription that begins has it read once more
    gateway.catalog.put_stage(DENYING)
    assert outcome(gateway.check("k1", GET_PETS)) == OK
    loads = gateway.limiter._namespace._loads
    for _ in range(3):
        gateway.clock.advance(5)
        assert outcome(gateway.check("k1", GET_PETS)) == OK
    assert gateway.limiter._namespace._loads == loads


@pytest.mark.parametrize("unlisted", ["queue", 1, None, ["deny"]])
def test_a_stage_that_says_something_else_is_not_decided_by(unlisted, gateway):
    """A value that nobody writes may stand for anything: 503."""
    with_fields(gateway.client, "stage:a/prod", lambda data: data.update(unlisted=unlisted))
    gateway.clock.advance(60)
    decision = gateway.check("k1", GET_PETS)
    assert decision.status == 503
    assert "stage 'a/prod': unlisted: must be one of limit, deny" in decision.error


def test_a_stage_written_by_others_may_say_limit(gateway):
    """What is the default here may be spelled out."""
    with_fields(gateway.client, "stage:a/prod", lambda data: data.update(unlisted="limit"))
    gateway.clock.advance(60)
    assert outcome(gateway.check("k1", ("a/prod", "GET /whatever"))) == OK


def of_schema_1(client):
    """Rename the catalogue as it was."""
    client.rename(CATALOG, OLD)
    client.hdel(OLD, "schema")


@pytest.mark.parametrize("state", ["new", "warm"])
def test_a_catalogue_of_schema_1_is_not_an_empty_one(state, gateway):
    """Its keys are not unknown: 503, and the remedy."""
    with Limiter(gateway.client, clock=gateway.clock) as new:
        if state == "new":
            gateway.limiter = new
        of_schema_1(gateway.client)
        gateway.clock.advance(5)
        before = snapshot_without_denials(gateway.client)
        for who, where in (("k1", GET_PETS), (None, GET_PETS), ("x" * 20, GET_PETS)):
            decision = gateway.check(who, where)
            assert decision.status == 503
            assert (
                "'ratelimit:catalog' is of schema 1, and this version knows the schemas 2 and 3 alone" in decision.error
            )
            assert "run `ratelimit upgrade`" in decision.error
        assert snapshot_without_denials(gateway.client) == before


@pytest.mark.parametrize("write", WRITES)
def test_nobody_begins_a_catalogue_beside_one_of_schema_1(write, gateway):
    """Nothing is written, and the error says what to do."""
    of_schema_1(gateway.client)
    before = snapshot_without_denials(gateway.client)
    with pytest.raises(StoreError, match="run `ratelimit upgrade`"):
        WRITES[write](Catalog(gateway.client, clock=gateway.clock), gateway.ids["k1"])
    assert snapshot_without_denials(gateway.client) == before


FURTHER = {"meter": "tokens", "zone": {"name": "UTC"}}


def with_fields(client, name, change):
    """Change a document of the catalogue by hand, as a newer version may have written it."""
    data = json.loads(client.hget(CATALOG, name))
    change(data)
    client.hset(CATALOG, mapping={name: json.dumps(data), "stamp": "another1"})


ADDITIONS = {
    "plan": ("plan:gold", lambda data: data.update(FURTHER), "a plan"),
    "throttle of a plan": ("plan:gold", lambda data: data["throttle"].update(FURTHER), "a plan"),
    "quota": ("plan:gold", lambda data: data["quota"].update(FURTHER), "a plan"),
    "stage of a plan": ("plan:gold", lambda data: data["stages"]["a/prod"].update(FURTHER), "a plan"),
    "stage": ("stage:a/prod", lambda data: data.update(FURTHER), "a stage"),
    "method": ("stage:a/prod", lambda data: data["methods"]["GET /health"].update(FURTHER), "a stage"),
    "account": ("account", lambda data: data.update(FURTHER), "a throttle"),
}


@pytest.mark.parametrize("place", ADDITIONS)
def test_a_field_that_is_not_known_is_ignored(place, gateway, warnings):
    """Of documents in Redis, at any depth: decisions are as before, and the log has one warning for each field."""
    name, change, kind = ADDITIONS[place]
    plans, stages = gateway.catalog.plans(), gateway.catalog.stages()
    with_fields(gateway.client, name, change)
    gateway.clock.advance(60)
    for _ in range(3):
        assert outcome(gateway.check("k1", GET_PETS)) == OK
        gateway.clock.advance(60)
    assert (gateway.catalog.plans(), gateway.catalog.stages()) == (plans, stages)
    messages = [message for message in warnings() if "does not know" in message]
    assert sorted(messages) == [
        f"{kind} in Redis has a field that this version does not know, and ignores: {field!r} "
        "(a newer version wrote it: upgrade this one)"
        for field in FURTHER
    ]


def test_a_document_that_is_not_put_keeps_what_is_not_known(gateway):
    """Another plan, a stage and the account may be put: what nobody put is as it was, to the byte."""
    with_fields(gateway.client, "plan:gold", ADDITIONS["plan"][1])
    gateway.client.hset(CATALOG, mapping={"replicas": "7", "further:x": "y"})
    before = gateway.client.hgetall(CATALOG)
    gateway.catalog.put_plan(UsagePlan("other"))
    gateway.catalog.set_account_throttle(Throttle(1, 1))
    after = gateway.client.hgetall(CATALOG)
    same = {name for name, value in before.items() if after[name] == value}
    assert before.keys() - same == {b"version", b"stamp", b"account"}
    assert after.keys() - before.keys() == {b"plan:other"}


def test_a_plan_file_is_strict(gateway, tmp_path):
    """There a field that is not known is a mistake in writing."""
    path = tmp_path / "plans.toml"
    path.write_text('[plans.gold]\nthrotle = {rate = 1, burst = 1}\nstages = ["a/prod"]\n')
    with pytest.raises(ConfigError, match="did you mean 'throttle'"):
        gateway.catalog.apply(path)


CHANGES = {
    "update": lambda catalog, key_id: catalog.update_key(key_id, name="new"),
    "rotate": lambda catalog, key_id: catalog.rotate_key(key_id),
    "leave": lambda catalog, key_id: catalog.remove_key_from_plan(key_id, "gold"),
    "import": lambda catalog, _: catalog.import_keys(_csv(f"Key,Name\n{VALUES['k1']},new\n")),
}


def _csv(text):
    return io.StringIO(text)


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_keeps_what_is_not_known(change, gateway, warnings):
    """Whoever rewrites it; checks go on, with one warning for each field."""
    name = f"{gateway.key_of('k1')}:record"
    record = json.loads(gateway.client.get(name))
    gateway.client.set(name, json.dumps({**record, **FURTHER}))
    with Limiter(gateway.client, clock=gateway.clock) as new:
        for _ in range(2):
            assert new.check(VALUES["k1"], *GET_PETS).allowed
    CHANGES[change](gateway.catalog, gateway.ids["k1"])
    assert {field: json.loads(gateway.client.get(name))[field] for field in FURTHER} == FURTHER
    assert sum("a key's record in Redis has a field" in message for message in warnings()) == len(FURTHER)


def test_warnings_of_fields_are_bounded(gateway, warnings):
    """A thousand fields are a hundred warnings."""
    with_fields(gateway.client, "plan:gold", lambda data: data.update({f"f{at}": 1 for at in range(1000)}))
    gateway.clock.advance(60)
    assert outcome(gateway.check("k1", GET_PETS)) == OK
    assert len([message for message in warnings() if "does not know" in message]) == 100


def test_what_is_reserved_disturbs_nothing(gateway):
    """Fields and keys that later versions will write: checks, usage, archive and deletion go on beside them."""
    client, own = gateway.client, gateway.key_of("k1")
    client.hset(own, mapping={"j:replica-1": "7", "x:later": b"\x00\xff"})
    client.hset(f"{own}:days", mapping={"j:replica-1": "7", "later": "x"})
    client.zadd("{ratelimit}:replicas", {"one": 1})
    client.hset("{ratelimit}:intents", mapping={gateway.ids["k1"]: "{}"})
    assert outcome(gateway.check("k1", GET_PETS)) == OK
    gateway.clock.advance(86_400)
    assert outcome(gateway.check("k1", GET_PETS)) == OK  # archives the first day
    gateway.clock.advance(86_400)
    assert outcome(gateway.check("k1", GET_PETS)) == OK
    usage = gateway.catalog.usage("gold", "2026-03-04", "2026-03-06", gateway.ids["k1"])
    assert [used for used, _ in usage.items[gateway.ids["k1"]]] == [1, 1, 1]
    gateway.catalog.set_remaining("gold", gateway.ids["k1"], 3)
    assert client.hget(own, "j:replica-1") == b"7"
    assert client.hmget(f"{own}:days", "j:replica-1", "later") == [b"7", b"x"]
    assert client.exists("{ratelimit}:replicas", "{ratelimit}:intents") == 2
    gateway.catalog.delete_key(gateway.ids["k1"])
    assert client.exists(own, f"{own}:days") == 0
