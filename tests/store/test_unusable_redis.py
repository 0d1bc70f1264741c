"""A Redis that cannot be read, may not be used, is gone or is empty: 503 with a cause, and nothing in it changes.

Once the fault is removed, the same limiter works as if nothing had been.
"""

import json
import subprocess

import pytest
from helpers.gateway import GET_PETS, VALUES, A, assert_unavailable, tokens_left, with_state
from helpers.redis_snapshot import snapshot_without_denials
from helpers.servers import NAMES, Server

from ratelimit import (
    Catalog,
    ConfigError,
    Limiter,
    PlanStage,
    Quota,
    Stage,
    StoreError,
    StoreUnavailable,
    Throttle,
    UsagePlan,
)

CATALOG, ACCOUNT, SHARED = "{ratelimit}:catalog", "ratelimit:account", "ratelimit:stage:a/prod:GET /pets"
NOT_UTF8 = b"\xff\xfe"


@pytest.fixture
def gateway(limiter, backend, clock):
    return with_state(limiter, backend.client(), clock)


def saved(client):
    keys = client.keys()
    return {key: client.dump(key) for key in keys}


def restore(client, dumps):
    client.flushall()
    for key, dump in dumps.items():
        client.restore(key, 0, dump, replace=True)  # a process that lives may have said so just now


def replaced(key, *command):
    """A fault: another value, or another type of value."""

    def fault(client, _):
        client.delete(key)
        client.execute_command(command[0], key, *command[1:])

    return fault


def record(*command):
    """A fault in the key's record, whose revision is then another, so that everybody reads it."""

    def fault(client, own):
        replaced(f"{own}:record", *command)(client, own)
        client.hset(own, "r", "revision")

    return fault


def record_with(**fields):
    def fault(client, own):
        record("SET", json.dumps({**json.loads(client.get(f"{own}:record")), **fields}))(client, own)

    return fault


def catalog(name, value=None):
    """A fault in a field of the catalogue, whose version is then another, so that everybody reads it."""

    def fault(client, _):
        client.hset(CATALOG, "version", 99)
        if value is None:
            client.hdel(CATALOG, name)
        else:
            client.hset(CATALOG, name, value)

    return fault


FAULTS = {
    "shared bucket of another type": (replaced(SHARED, "RPUSH", "x"), "WRONGTYPE"),
    "account of another type": (replaced(ACCOUNT, "HSET", "x", "y"), "WRONGTYPE"),
    "key hash of another type": (lambda client, own: replaced(own, "SET", "x")(client, own), "WRONGTYPE"),
    "record of another type": (record("RPUSH", "x"), "WRONGTYPE"),
    "record no JSON": (record("SET", "{"), "record"),
    "record no record": (record("SET", "{}"), "record"),
    "record no UTF-8": (record("SET", NOT_UTF8), "no text"),
    "record with a stamp of another type": (record_with(stamp=5), "record"),
    "record with an expiry of another type": (record_with(expires_us="soon"), "record"),
    "catalogue of another type": (replaced(CATALOG, "SET", "x"), "WRONGTYPE"),
    "catalogue without pepper": (catalog("pepper"), CATALOG),
    "catalogue without epoch": (catalog("epoch"), CATALOG),
    "catalogue without version": (catalog("version"), CATALOG),
    "version no number": (catalog("version", "many"), CATALOG),
    "version negative": (catalog("version", "-1"), CATALOG),
    "version too large": (catalog("version", str(2**64)), CATALOG),
    "plan no JSON": (catalog("plan:gold", "{"), CATALOG),
    "plan no plan": (catalog("plan:gold", "[]"), CATALOG),
    "plan no UTF-8": (catalog("plan:gold", NOT_UTF8), "no text"),
    "stage no stage": (catalog("stage:a/prod", '{"throttle": 1}'), CATALOG),
    "account no throttle": (catalog("account", '{"rate": -1, "burst": 1}'), CATALOG),
}


@pytest.mark.parametrize("state", ["new", "warm"])
@pytest.mark.parametrize("name", FAULTS)
def test_state_that_cannot_be_read(name, state, gateway):
    """Corrupt state of any kind is a 503 that names it, and is left as it was found; repaired, all goes on."""
    fault, cause = FAULTS[name]
    with Limiter(gateway.client, clock=gateway.clock, on_unavailable="closed") as new:
        if state == "new":
            gateway.limiter = new
        gateway.clock.advance(5)
        good = saved(gateway.client)
        fault(gateway.client, gateway.key_of("k1"))
        before = snapshot_without_denials(gateway.client)
        assert_unavailable(gateway, cause)
        assert snapshot_without_denials(gateway.client) == before
        restore(gateway.client, good)
        assert tokens_left(gateway) == 4


@pytest.mark.parametrize("broken", [b"", b"7", "shorter", "longer"])
def test_packed_state_of_a_wrong_length(broken, gateway):
    """Each packed value, of the key and of all that callers share, is refused by name if its length is wrong."""
    plan = UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), [PlanStage(A, {"GET /pets": Throttle(10, 5)})])
    gateway.catalog.put_plan(plan)
    assert tokens_left(gateway) == 4
    states = [(gateway.key_of("k1"), field) for field in gateway.hash_of("k1") if field != b"r"]
    assert len(states) == 2
    for key, field in [*states, (SHARED, None), (ACCOUNT, None)]:
        good = saved(gateway.client)
        state = gateway.client.hget(key, field) if field else gateway.client.get(key)
        value = {"shorter": state[:-1], "longer": state + b"x"}.get(broken, broken)
        if field:
            gateway.client.hset(key, field, value)
        else:
            gateway.client.set(key, value)
        before = snapshot_without_denials(gateway.client)
        assert_unavailable(gateway, f"RATELIMIT CORRUPT {field.decode() if field else key}")
        assert snapshot_without_denials(gateway.client) == before
        restore(gateway.client, good)
    assert tokens_left(gateway) == 3


@pytest.mark.parametrize("pepper", [None, "other", b"salt\n"], ids=repr)
def test_a_wrong_pepper(pepper, backend, clock):
    """Who has another pepper is told so, by every call, instead of finding all keys unknown; nothing is written."""
    client = backend.client()
    with Limiter(client, pepper="salt", clock=clock) as right, Limiter(client, pepper=pepper, clock=clock) as wrong:
        gateway = with_state(right, client, clock)
        before = snapshot_without_denials(client)
        calls = [
            lambda: wrong.check(VALUES["k1"], *GET_PETS),
            lambda: wrong.peek(None, *GET_PETS),
            lambda: wrong.check("x", *GET_PETS),
            wrong.catalog.create_key,
            lambda: wrong.catalog.put_stage(Stage("c/prod")),
            Catalog(client, pepper=pepper).plans,
        ]
        for a_call in 2 * calls:
            with pytest.raises(ConfigError) as caught:
                a_call()
            assert caught.value.field == "pepper"
            assert "salt" not in str(caught.value)
            assert "other" not in str(caught.value)
        assert snapshot_without_denials(client) == before
        assert tokens_left(gateway) == 3


def test_an_erased_catalogue(gateway):
    """Redis without the catalogue that was there is a fault, not a thousand unknown keys, and stays empty."""
    good = saved(gateway.client)
    gateway.client.flushall()
    assert_unavailable(gateway, "was here and is gone")
    assert snapshot_without_denials(gateway.client) == {}
    restore(gateway.client, good)
    assert tokens_left(gateway) == 3


def test_an_erased_catalogue_alone(gateway):
    """Keys without their catalogue are a fault too, from the next look at it on."""
    good = saved(gateway.client)
    gateway.client.delete(CATALOG)
    before = snapshot_without_denials(gateway.client)
    gateway.clock.advance(5)
    assert_unavailable(gateway, "was here and is gone")
    assert snapshot_without_denials(gateway.client) == before
    restore(gateway.client, good)
    assert tokens_left(gateway) == 4


@pytest.mark.parametrize("by", ["the same", "another"])
def test_an_erased_catalogue_is_applied_again(by, gateway, tmp_path):
    """What the error advises works: the plan file is applied again, by this process or another, and checks go on."""
    plans = tmp_path / "plans.toml"
    plans.write_text('[plans.gold]\nthrottle = { rate = 10, burst = 5 }\nstages = ["a/prod"]\n')
    gateway.client.flushall()
    assert_unavailable(gateway, "apply the plan file again")
    catalog_of = {"the same": gateway.catalog, "another": Catalog(gateway.client, clock=gateway.clock)}[by]
    catalog_of.apply(plans)
    catalog_of.create_key(value=VALUES["k1"], plans=["gold"])
    assert tokens_left(gateway) == 4


# Servers that may not be used, cannot run scripts, or are gone


@pytest.mark.parametrize("denied", ["eval evalsha", "evalsha", "eval", "hmget", "get"])
def test_commands_that_may_not_be_used(denied, server, clock):
    """A user who may not call scripts, or what they call, gets a 503 with Redis' words; once allowed, all works."""
    commands = denied.split()
    with server.client() as admin, Limiter(admin, clock=clock, on_unavailable="closed") as limiter:
        gateway = with_state(limiter, admin, clock)
        admin.acl_setuser("gateway", enabled=True, nopass=True, keys="*", commands=["+@all"], reset=True)
        try:
            with (
                server.client(username="gateway", password="any") as client,
                Limiter(client, clock=clock, on_unavailable="closed") as limited,
            ):
                gateway.limiter = limited
                admin.acl_setuser("gateway", enabled=True, commands=[f"-{name}" for name in commands])
                admin.script_flush()
                before = snapshot_without_denials(admin)
                assert_unavailable(gateway, "permission")
                assert snapshot_without_denials(admin) == before
                admin.acl_setuser("gateway", enabled=True, commands=[f"+{name}" for name in commands])
                assert tokens_left(gateway) == 3
        finally:
            admin.acl_deluser("gateway")


@pytest.fixture(params=NAMES)
def own_server(request):
    """A server that a test may break."""
    server = Server(request.param)
    yield server
    server.stop()


def stop(server):
    """Kill a server, as a crash would; what it holds is on disk."""
    with server.client() as client:
        client.save()
    server.process.kill()
    server.process.wait(10)


def start(server, *options):
    server.process = subprocess.Popen([*server.process.args, *options], stdout=subprocess.DEVNULL)
    server._wait()


NO_WRITES = {
    "full": (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), "maxmemory"),
    "a replica": (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), "read only replica"),
    "alone": (
        ("CONFIG", "SET", "min-replicas-to-write", 1),
        ("CONFIG", "SET", "min-replicas-to-write", 0),
        "good replicas",
    ),
}


@pytest.mark.parametrize("state", NO_WRITES)
def test_a_server_that_takes_no_writes(state, own_server, clock):
    """Checks are 503 and known not to be counted, on each server; changes of the catalogue fail alike."""
    begin, end, message = NO_WRITES[state]
    with own_server.client() as client, Limiter(client, clock=clock, on_unavailable="closed") as limiter:
        gateway = with_state(limiter, client, clock)
        before = snapshot_without_denials(client)
        client.execute_command(*begin)
        assert_unavailable(gateway, "Redis refused the command: ", message, peek=False)
        assert gateway.peek("k1", GET_PETS).allowed
        with pytest.raises(StoreUnavailable, match=message):
            gateway.catalog.create_key()
        client.execute_command(*end)
        assert snapshot_without_denials(client) == before
        assert tokens_left(gateway) == 3


def test_a_server_without_eval(own_server, clock):
    """Where EVAL and EVALSHA are renamed away, checks are 503 with Redis' words; once they are back, all works."""
    settings = own_server.folder / "renamed.conf"
    settings.write_text('rename-command EVAL ""\nrename-command EVALSHA ""\n')
    with own_server.client() as client, Limiter(client, clock=clock, on_unavailable="closed") as limiter:
        gateway = with_state(limiter, client, clock)
        plain = own_server.process.args
        stop(own_server)
        start(own_server, "--include", str(settings))
        before = snapshot_without_denials(client)
        with pytest.raises(StoreError, match="unknown command"):
            limiter.warm_up()
        assert_unavailable(gateway, "unknown command")
        with pytest.raises(StoreError, match="unknown command"):
            gateway.catalog.create_key()
        assert snapshot_without_denials(client) == before
        stop(own_server)
        own_server.process.args = plain
        start(own_server)
        limiter.warm_up()
        assert tokens_left(gateway) == 3


def test_a_dead_server(own_server, clock):
    """Without a server checks are 503, not sent to anybody; when it is back, the same limiter goes on where it was."""
    with own_server.client() as client, Limiter(client, clock=clock, on_unavailable="closed") as limiter:
        gateway = with_state(limiter, client, clock)
        before = snapshot_without_denials(client)
        stop(own_server)
        assert_unavailable(gateway, "no connection to Redis")
        with pytest.raises(StoreError, match="no connection to Redis"):
            gateway.catalog.create_key()
        start(own_server)
        limiter.warm_up()
        assert snapshot_without_denials(client) == before
        assert tokens_left(gateway) == 3
