"""`doctor`: for each check a deployment with the fault, the finding, its command carried out, and the finding gone."""

import asyncio
import json
from pathlib import Path

import pytest
import redis
from helpers.commands import run
from helpers.deployments import PASSWORD, PATIENT_S, deployment, granted, not_well, only
from helpers.ports import free_port
from helpers.servers import NAMES, Server
from helpers.waiting import wait_for

from ratelimit import AsyncCatalog, Catalog, ConfigError, Identity, Limiter, StoreUnavailable
from ratelimit.admin.doctor import checks
from ratelimit.admin.doctor.read import Doctor, wall_us

BASELINE = {"valkey": {}, "redis-system": {}, "redis6": {"version": "warning", "permissions": "unknown"}}
"""What of a deployment that is set up well is not ok: on Redis 6.2 nobody can ask after another user's permissions."""


@pytest.fixture(scope="module", params=NAMES)
def shared(request, tmp_path_factory):
    """A deployment that tests leave as it was."""
    with deployment(request.param, tmp_path_factory.mktemp("plans")) as made:
        yield made


@pytest.fixture(params=NAMES)
def own(request, tmp_path):
    """A deployment for one test."""
    with deployment(request.param, tmp_path) as made:
        yield made


def test_a_deployment_that_is_set_up_well(shared):
    """As the documents say: nothing is found but what Redis 6.2 cannot do."""
    report = shared.report()
    assert not_well(report) == BASELINE[shared.server.name]
    assert report.worst == {"redis6": "warning"}.get(shared.server.name, "ok")
    assert {finding.check for finding in report.findings} == set(checks.NAMES)


def fill(client):
    """Use nine tenths of the memory that is allowed."""
    for number in range(20):
        client.setrange(f"filler {number}", 1_000_000, "x")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))


def break_save(client):
    """Have a snapshot fail: there is a folder of its file's name."""
    folder = Path(client.config_get("dir")["dir"]) / "dump.rdb"
    folder.mkdir()
    client.bgsave()
    wait_for(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    folder.rmdir()


def slow(client):
    """Hold the server up for longer than a deadline."""
    client.eval("for n = 1, 2e7 do end", 0)


def unknown_scripts(client):
    for _ in range(61):
        with pytest.raises(redis.exceptions.NoScriptError):
            client.evalsha("0" * 40, 0)


def settings(**values):
    return lambda client: [client.config_set(name.replace("_", "-"), value) for name, value in values.items()]


FAULTS = {
    "eviction": ("eviction", "error", 2, settings(maxmemory_policy="allkeys-lru")),
    "full": ("memory", "error", None, settings(maxmemory=1)),
    "nearly full": ("memory", "warning", None, fill),
    "nothing on disk": ("persistence", "error", 5, settings(appendonly="no")),
    "snapshots alone": ("persistence", "warning", 5, settings(appendonly="no", save="3600 1")),
    "no fsync": ("appendfsync", "warning", 5, settings(appendfsync="no")),
    "a failed snapshot": ("last-write", "warning", 5, break_save),
    "a failed snapshot that stops writes": (
        "last-write",
        "error",
        None,
        lambda client: [settings(save="3600 1000")(client), break_save(client)],
    ),
    "too few replicas": ("min-replicas", "error", None, settings(min_replicas_to_write=1, min_replicas_max_lag=2)),
    "idle connections": ("idle-connections", "warning", None, settings(timeout=30)),
    "dead connections": ("idle-connections", "warning", None, settings(tcp_keepalive=0)),
    "unknown scripts": ("script-flushes", "warning", None, unknown_scripts),
    "slow commands": ("slow-commands", "warning", None, slow),
    "an open default user": (
        "default-user", "warning", 5, lambda client: client.execute_command("ACL", "SETUSER", "default", "on", "nopass")
    ),
    "an interrupted upgrade": ("schema", "warning", None, lambda client: client.hset(CATALOG, "upgrading", "1")),
    "a lost catalogue": ("catalogue", "error", 5, lambda client: client.delete(CATALOG)),
    "a broken catalogue": ("catalogue", "error", None, lambda client: client.hdel(CATALOG, "epoch")),
    "an unreadable plan": ("catalogue", "error", None, lambda client: client.hset(CATALOG, "plan:gold", "{")),
    "an empty server": ("catalogue", "warning", None, lambda client: client.flushall()),
    "gateways of the future": (
        "gateways", "warning", 2, lambda client: client.zadd("{ratelimit}:replicas", {"a": wall_us() + 60_000_000})
    ),
}  # fmt: skip
CATALOG = "{ratelimit}:catalog"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_and_its_command(own, fault, monkeypatch):
    """The finding, alone; it says how bad it is and which promise it would break; its command mends it."""
    check, severity, promise, make = FAULTS[fault]
    make(own.root)
    options = {"deadline": 0.05} if check == "slow-commands" else {}
    finding = only(own.report(**options), check)
    assert (finding.severity, finding.promise) == (severity, promise)
    own.carry_out(finding.mend, monkeypatch)
    wait_for(lambda: only(own.report(**options), check).severity == "ok")
    assert not_well(own.report()).items() <= (BASELINE[own.server.name] | {"persistence": "warning"}).items()


def test_scripts_that_gateways_may_not_send(own, monkeypatch):
    """A server without them, and a gateway without EVAL."""
    words = [word for word in granted("gateway", is_redis_6=own.is_redis_6) if word != "+eval"]
    own.grant(own.root, words)
    own.root.script_flush()
    as_user = {"user": "gateway", "gateway_user": None} if own.is_redis_6 else {}
    finding = only(own.report(**as_user), "scripts")
    assert (finding.severity, finding.mend) == ("error", "ratelimit scripts load")
    own.carry_out(finding.mend, monkeypatch)
    assert only(own.report(**as_user), "scripts").severity == "ok"
    own.root.script_flush()
    own.grant(own.root, [*words, "+eval"])
    assert only(own.report(**as_user), "scripts").severity == "ok"


OPTIONAL = {"+ping", "+info", "+eval"}
"""What a gateway's user may lack: they serve a client's own upkeep, a warning, and scripts that are not loaded."""


def test_each_word_of_a_gateways_user_is_missed(own, monkeypatch):
    """Whatever of its line in lua/ACL.md is left out: the finding, alone; its command gives it back."""
    words = granted("gateway", is_redis_6=own.is_redis_6)
    as_user = {"user": "gateway", "gateway_user": None} if own.is_redis_6 else {}
    needed = [word for word in words if word[0] in "+~%&(" and word not in OPTIONAL]
    assert len(needed) == (35 if own.is_redis_6 else 29)
    for word in needed:
        own.grant(own.root, [each for each in words if each != word])
        if own.is_redis_6 and word == "+evalsha":  # whoever reads, and cannot run scripts, is no gateway
            assert only(own.report(**as_user), "permissions").severity == "unknown"
            continue
        if own.is_redis_6 and word in {"+subscribe", "&ratelimit:changes"}:
            finding = only(own.report(**as_user), "permissions")
            assert (finding.severity, "SUBSCRIBE, which cannot be tried" in finding.message) == ("ok", True)
            continue
        finding = only(own.report(**as_user), "permissions")
        assert finding.severity == "error", word
        own.carry_out(finding.mend, monkeypatch)
        assert only(own.report(**as_user), "permissions").severity == "ok", word


def test_a_gateway_that_may_do_too_much(own):
    """The user of an administrator, whom a gateway uses; then the gateway's own again."""
    own.grant(own.root, ["gateway", "on", f">{PASSWORD}", "~*", "&*", "+@all"])
    finding = only(own.report(), "excess-permissions")
    assert (finding.severity, finding.promise) == ("warning", 5)
    assert "erase everything" in finding.message
    own.grant(own.root, granted("gateway", is_redis_6=own.is_redis_6))
    assert only(own.report(), "excess-permissions").severity == "ok"


@pytest.mark.parametrize("schema", ["9", "x" * 99])
def test_a_schema_that_is_not_known(own, schema):
    """Written by a newer version."""
    own.root.hset(CATALOG, "schema", schema)
    finding = only(own.report(), "schema")
    assert (finding.severity, finding.mend) == ("error", "pip install --upgrade ratelimit-redis")
    own.root.hset(CATALOG, "schema", "2")
    assert only(own.report(), "schema").severity == "ok"


def test_what_an_earlier_version_stored(own, monkeypatch):
    """Schema 1: the catalogue under its former name; the upgrade mends it."""
    own.root.rename(CATALOG, "ratelimit:catalog")
    own.root.hdel("ratelimit:catalog", "schema", "stamp")
    own.root.rename("{ratelimit}:keys", "ratelimit:keys")
    finding = only(own.report(), "schema")
    assert (finding.severity, finding.mend) == ("error", "ratelimit upgrade")
    own.carry_out(finding.mend, monkeypatch)
    assert not_well(own.report()) == BASELINE[own.server.name]


def test_a_lost_record_and_a_lost_hash(own):
    """Of sampled keys. The hash comes back with the next check."""
    name = f"ratelimit:{{{own.key.id}}}"
    own.root.delete(name)
    finding = only(own.report(), "keys")
    assert (finding.severity, finding.promise) == ("warning", 2)
    with own.client("root") as client, Limiter(client, deadline=5) as limiter:
        for _ in range(2):
            limiter.check(own.key.value, "petstore/prod", "GET /pets")
    assert only(own.report(), "keys").severity == "ok"
    own.root.delete(f"{name}:record")
    finding = only(own.report(), "keys")
    assert (finding.severity, finding.promise) == ("error", 5)


def test_another_pepper(shared):
    """Of this process; the one that keys were stored with is none."""
    finding = only(shared.report(pepper="another"), "pepper")
    assert finding.severity == "error"
    assert only(shared.report(), "pepper").severity == "ok"


def test_identities_without_a_bound(own, monkeypatch):
    """Somebody checks identities under a plan that does not bound them; with the bound in the file, it is gone."""
    bounded = own.plan_file.read_text()
    own.plan_file.write_text(bounded.replace("max_identities = 10", ""))
    with own.client("root") as client, Limiter(client, deadline=5) as limiter:
        limiter.catalog.apply(own.plan_file)
        assert only(own.report(), "identities").severity == "ok"
        assert limiter.check(Identity("someone", "gold"), "petstore/prod", "GET /pets").allowed
    finding = only(own.report(), "identities")
    assert finding.severity == "warning"
    assert "'gold'" in finding.message
    own.plan_file.write_text(bounded)
    own.carry_out(finding.mend, monkeypatch)
    assert only(own.report(), "identities").severity == "ok"


def test_identities_that_are_nearly_too_many(own, monkeypatch):
    """Nine of ten; with a greater bound in the file, it is gone."""
    with own.client("root") as client, Limiter(client, deadline=5) as limiter:
        for number in range(9):
            assert only(own.report(), "identities").severity == "ok"
            assert limiter.check(Identity(f"user {number}", "gold"), "petstore/prod", "GET /pets").allowed
    finding = only(own.report(), "identities")
    assert (finding.severity, "9 identities of 10" in finding.message) == ("warning", True)
    own.plan_file.write_text(own.plan_file.read_text().replace("= 10\n", "= 20\n"))
    own.carry_out(finding.mend, monkeypatch)
    finding = only(own.report(), "identities")
    assert (finding.severity, finding.message) == ("ok", "9 of 20 (gold): 0.0 MB at most")


def test_identities_that_do_not_fit(own, monkeypatch):
    """As many as a plan allows would take more than there is."""
    own.root.config_set("maxmemory", 100_000_000)
    assert only(own.report(), "identities").severity == "ok"
    own.plan_file.write_text(own.plan_file.read_text().replace("= 10\n", "= 1_000_000\n"))
    own.carry_out("ratelimit apply plans.toml", monkeypatch)
    finding = only(own.report(), "identities")
    assert (finding.severity, finding.mend) == ("warning", "redis-cli CONFIG SET maxmemory 400000000")
    own.carry_out(finding.mend, monkeypatch)
    assert only(own.report(), "identities").severity == "ok"


def test_a_deadline_that_is_too_short(shared):
    """Five round trips and 50 ms are the least."""
    finding = only(shared.report(deadline=0.04), "latency")
    assert (finding.severity, finding.mend) == ("warning", "Limiter(..., deadline=0.05)")
    assert only(shared.report(deadline=0.000_001), "latency").severity == "error"
    assert only(shared.report(deadline=0.05), "latency").severity == "ok"


def test_a_client_that_repeats(shared):
    """By itself, after a lost reply."""
    with shared.client("doctor", retries=3) as client:
        finding = only(Catalog(client).doctor(gateway_user="gateway"), "client-retries")
    assert (finding.severity, finding.promise, finding.where) == ("warning", 4, "client")
    assert "3 times" in finding.message
    assert only(shared.report(), "client-retries").severity == "ok"


def test_connections_that_run_out(own, monkeypatch):
    """Nine of ten are in use."""
    own.root.config_set("maxclients", 40)
    clients = [own.client("root") for _ in range(34)]
    try:
        for client in clients:
            client.ping()
        finding = only(own.report(), "max-clients")
        assert (finding.severity, finding.mend) == ("warning", "redis-cli CONFIG SET maxclients 80")
        own.carry_out(finding.mend, monkeypatch)
        assert only(own.report(), "max-clients").severity == "ok"
    finally:
        for client in clients:
            client.close()


def test_a_clock_that_differs(shared):
    """This machine's is five seconds behind; with another one, the finding is gone."""
    with shared.client("doctor") as client:
        catalog = Catalog(client)
        for ahead_us, severity in ((5_000_000, "warning"), (-5_000_000, "warning"), (0, "ok")):
            settings_ = catalog._store.client_settings()
            doctor = Doctor(
                catalog._namespace,
                settings_,
                gateway_user=None,
                deadline=0.05,
                clock=lambda ahead_us=ahead_us: wall_us() - ahead_us,
            )
            finding = only(doctor.report(catalog._run(doctor.read()), {}), "clocks")
            assert finding.severity == severity
            assert ("5.0" in finding.message) == (severity == "warning")


def test_an_injected_clock_is_no_difference(shared):
    """It replaces the server's."""
    with shared.client("doctor") as client:
        finding = only(Catalog(client, clock=lambda: 1).doctor(), "clocks")
    assert (finding.severity, finding.message) == ("ok", "a clock of one's own replaces the server's")


@pytest.mark.parametrize("user", ["doctor", "gateway", "root"])
def test_nothing_is_written(shared, user):
    """Whoever asks: each name keeps its content and its expiry; settings and users stay."""
    backend = shared.server

    def everything():
        client = shared.root
        names = sorted(client.keys("*"))
        users = sorted(client.execute_command("ACL", "LIST"))
        held = {name: (client.type(name), client.pttl(name), client.object("encoding", name)) for name in names}
        return held, client.hgetall(CATALOG), client.config_get("*"), users, client.script_exists("0" * 40)

    before = everything()
    shared.report(user, gateway_user=None)
    shared.report(user)
    assert everything() == before
    assert backend.process.poll() is None


def test_a_user_without_permissions_sees_what_to_permit(own, monkeypatch):
    """Each "unknown" says how; with all that permitted, as the reader of lua/ACL.md, nothing is unknown any more."""
    own.grant(own.root, ["doctor", "on", f">{PASSWORD}", "-@all"])
    report = own.report()
    assert {finding.severity for finding in report.findings if finding.check not in EXCEPT_FOR_DATA} == {"unknown"}
    for _ in range(40):
        report = own.report()
        mends = {finding.mend for finding in report.findings if finding.severity == "unknown"}
        mends = {mend for mend in mends if mend.startswith("redis-cli ACL SETUSER doctor ")}
        if not mends:
            break
        for mend in mends:
            own.carry_out(mend, monkeypatch)
    assert not_well(report) == BASELINE[own.server.name]


EXCEPT_FOR_DATA = {"client-retries", "sentinels"}
"""What is not read from the server."""


def test_the_user_of_the_documents_may_read_everything(own, monkeypatch):
    """Nothing is refused to it; without any of its words something is unknown, or cannot be read."""
    own.plan_file.write_text(own.plan_file.read_text().replace("max_identities = 10", ""))
    own.carry_out("ratelimit apply plans.toml", monkeypatch)
    own.root.hset("ratelimit:{~someone}", "r", "x")
    own.root.execute_command("ACL", "LOG", "RESET")
    assert not_well(own.report()) == BASELINE[own.server.name]
    assert own.root.acl_log() == []
    words = granted("doctor", is_redis_6=own.is_redis_6)
    # The client knows its user, unless a credential provider does. Without a catalogue, its former name is read.
    optional = {"+acl|whoami", "+hmget"}
    for word in words:
        if word[0] == "+" and word not in optional:
            own.grant(own.root, [each for each in words if each != word])
            assert "unknown" in not_well(own.report()).values(), word
    own.root.delete(CATALOG)
    own.grant(own.root, words)
    assert only(own.report(), "schema").severity == "ok"
    own.grant(own.root, [word for word in words if word != "+hmget"])
    assert only(own.report(), "schema").severity == "unknown"


def test_nothing_secret_is_shown(own):
    """No password, no value of a key, no URL, whatever is found."""
    for user in ("doctor", "gateway", "root"):
        shown = json.dumps(own.report(user, gateway_user=None).as_dict())
        assert PASSWORD not in shown
        assert own.key.value not in shown
        assert own.server.socket not in shown


def test_a_server_that_does_not_answer(tmp_path):
    """StoreUnavailable, as of every method; the command ends with 3 and says where it looked."""
    url = f"unix://{tmp_path}/no.sock"
    with redis.Redis.from_url(url) as client, pytest.raises(StoreUnavailable):
        Catalog(client).doctor()
    assert run("doctor", RATELIMIT_URL=url).exit_code == 3


@pytest.mark.parametrize(
    ("options", "field"),
    [({"gateway_user": 3}, "gateway_user"), ({"gateway_user": "a\n"}, "gateway_user"), ({"deadline": 0}, "deadline")],
)
def test_bad_input_names_the_field(shared, options, field):
    """Before anything is asked."""
    with pytest.raises(ConfigError) as caught:
        shared.report(**options)
    assert caught.value.field == field


def test_twins_find_the_same(shared):
    """The same checks, places and severities."""

    async def awaited():
        url = shared.url("doctor")
        async with redis.asyncio.Redis.from_url(url) as client:
            return await AsyncCatalog(client).doctor(gateway_user="gateway", deadline=PATIENT_S)

    pairs = [
        [(finding.check, finding.where, finding.severity, finding.promise) for finding in report.findings]
        for report in (shared.report(), asyncio.run(awaited()))
    ]
    assert pairs[0] == pairs[1]


def test_a_node_of_a_cluster(tmp_path):
    """Without a slot: checks of all keys have no answer."""
    server = Server(NAMES[0], port=free_port(), cluster_enabled="yes", bind="127.0.0.1")
    try:
        with server.client() as client:
            report = Catalog(client).doctor()
        assert only(report, "topology").severity == "ok"
        finding = only(report, "slots")
        assert finding.severity == "error"
        assert "16,384 of 16,384 slots have no owner" in finding.message
    finally:
        server.stop()
