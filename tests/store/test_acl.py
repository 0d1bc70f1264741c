"""The permissions that suffice, exactly: with these commands nothing is refused, without any one of them something is.

Three users: GATEWAY checks, and may write buckets and counts alone; ADMIN changes the catalogue, and may do so with all
names of the namespace; WATCHER reads alerts. Redis 6.2 cannot tell reading a key from writing it.
"""

import asyncio
import contextlib
import io
import json
import re
import struct

import pytest
import redis
from helpers.clock import FakeClock
from helpers.commands import run
from helpers.journal import journal_charger
from helpers.redis_snapshot import exact_snapshot
from helpers.requests import reply_to
from helpers.waiting import wait_for

from ratelimit import (
    AsyncLimiter,
    Catalog,
    Ceilings,
    Identity,
    Limiter,
    Method,
    RateLimitError,
    Stage,
    StoreError,
    Throttle,
    UsagePlan,
)
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.registry.key_values import Digester
from ratelimit.scripts import ScriptCall, folder, load

STAGE, METHOD = "petstore/prod", "GET /pets"
CHECKING = ["eval", "evalsha", "time", "get", "mget", "set", "setrange", "hget", "hmget", "hset", "hgetall"]
"""A check, and what it looks up when it meets a change."""
AFTER_CHECKING = ["hkeys", "hdel", "xadd"]
"""Days of metering moved to the archive, alerts."""
FLUSHING = ["hincrby", "expire"]
"""Refusals flushed in sums: of no use on any other key."""
EXPIRING = ["pttl", "pexpire", "zcount", "zadd", "zremrangebyscore"]
"""Expiry of identities' hashes, and their number; ids of journals without a key; processes. Of no use on a key's."""
LISTENING = ["subscribe"]
"""Pushed changes."""
WARNING = ["info"]
"""The warning about a server that evicts."""
GATEWAY = CHECKING + AFTER_CHECKING + LISTENING + WARNING
READ = [
    "~{ratelimit}:catalog",
    "~ratelimit:catalog",
    "~ratelimit:digest:*",
    "~ratelimit:{*}:record",
]
"""What a gateway reads: also whether there is a catalogue of schema 1."""
WRITTEN = [
    "~ratelimit:{*}",
    "~ratelimit:{*}:days",
    "~ratelimit:stage:*",
    "~ratelimit:account",
    "~ratelimit:alerts",
    "~ratelimit:identities:*",
    "~{ratelimit}:journal",
    "~{ratelimit}:replicas",
]
EXPIRING_NAMES = ["~ratelimit:{~*}", "~ratelimit:identities:*", "~{ratelimit}:journal", "~{ratelimit}:replicas"]
DENIALS = "~ratelimit:denials:*"
EVERYTHING = ["~ratelimit:*", "~{ratelimit}:*"]
ADMIN = [
    "persist",
    "eval",
    "evalsha",
    "time",
    "get",
    "mget",
    "set",
    "unlink",
    "hget",
    "hmget",
    "hgetall",
    "hset",
    "hdel",
    "hincrby",
    "hexists",
    "hkeys",
    "sadd",
    "srem",
    "scard",
    "sinter",
    "smembers",
    "zadd",
    "zrem",
    "zrevrangebyscore",
    "zcount",
    "pttl",
    "persist",
    "publish",
    "script|load",
    "wait",
    "info",
]
"""The last two: what waits for replicas."""

WATCHER = ["xread", "xreadgroup", "xgroup", "xack", "xrevrange"]
"""`ratelimit watch`: alerts, alone and as a member of a group."""

FILE = f"""
[plans.gold]
throttle = {{rate = 1, burst = 3}}
quota = {{limit = 4, period = "DAY"}}
alerts = [50]
shadow = "silver"
stages = ["{STAGE}"]

[plans.silver]
throttle = {{rate = 1, burst = 1}}
quota = {{limit = 9, period = "DAY"}}
stages = ["admin/prod"]

[plans.leased]
throttle = {{rate = 1, burst = 10_000}}
quota = {{limit = 10_000, period = "DAY"}}
stages = ["{STAGE}"]
lease = 1.0

[plans.free]
throttle = {{rate = 1, burst = 3}}
stages = ["{STAGE}"]
max_identities = 1
"""


@pytest.fixture
def plan_file(tmp_path):
    path = tmp_path / "plans.toml"
    path.write_text(FILE)
    return path


@pytest.fixture
def root(server):
    """The user who may do anything. The others are gone afterwards."""
    with server.client() as client:
        yield client
        client.acl_deluser("gateway", "admin", "watcher")


def url_of(server, root, user, commands, names=EVERYTHING):
    """Let `user` do what is listed, with some names alone; return its URL."""
    confined = ["reset", "on", ">secret", *names, "resetchannels", "&ratelimit:changes", "-@all"]
    root.execute_command("ACL", "SETUSER", user, *confined, *(f"+{command}" for command in commands))
    root.acl_log_reset()
    return f"unix://{user}:secret@{server.socket}"


def gateway_of(server, root, without=""):
    """Let the gateway do what it may, but for one command or name; return its URL."""
    commands, flushing, expiring, read, written, denials, expiring_names = (
        [item for item in items if item != without]
        for items in (GATEWAY, FLUSHING, EXPIRING, READ, WRITTEN, [DENIALS], EXPIRING_NAMES)
    )
    if server.name == "redis6":
        return url_of(server, root, "gateway", commands + flushing + expiring, read + written + denials)
    url = url_of(server, root, "gateway", commands, [f"%R{name}" for name in read] + written)
    for names, allowed in ((denials, flushing), (expiring_names, expiring)):
        root.execute_command("ACL", "SETUSER", "gateway", f"({' '.join([*names, *(f'+{item}' for item in allowed)])})")
    return url


def refused(root):
    """The commands and keys that were refused, by the server's own log; how redis-py introduces itself aside."""
    return {entry["object"] for entry in root.acl_log(count=128) if not entry["object"].startswith("client")}


def decided(limiter, *requests):
    return [limiter.check(*request).reason.value for request in requests]


def as_gateway(server, root, url, plan_file):
    """Do all that a gateway does; return what it decided. Without a denial cache: what is refused is asked, too."""
    root.flushall()
    root.script_flush()
    with Limiter.from_url(url, deadline=5) as limiter:
        decisions = decided(limiter, ("x" * 20, STAGE, METHOD))
    catalog, clock = Catalog(root), FakeClock()
    catalog.apply(plan_file)
    catalog.put_stage(Stage(STAGE, Throttle(1, 9), {"GET /health": Method(key_required=False)}))
    catalog.set_account_throttle(Throttle(1, 99))
    key, other = (catalog.create_key(plans=["gold"]) for _ in range(2))
    request = key.value, STAGE, METHOD
    with Limiter.from_url(url, deadline=5, denial_cache=False) as limiter:
        identities = [(Identity(subject, "free"), STAGE, METHOD) for subject in ("one", "another")]
        with contextlib.suppress(StoreError):
            journal_charger(limiter, None, STAGE, "GET /health")()
        with contextlib.suppress(StoreError):
            reply_to(limiter._store, ScriptCall(load("heartbeat"), ("{ratelimit}:replicas",), ("0", "life---1")))
        decisions += decided(
            limiter, *identities, *[request] * 4, (None, STAGE, "GET /health"), ("x" * 20, STAGE, METHOD)
        )
        catalog.update_key(key.id, enabled=False)
        decisions += decided(limiter, request)
        wait_for(lambda: root.pubsub_numsub("ratelimit:changes")[0][1] == 1 or "subscribe" in refused(root))
    with Limiter.from_url(url, deadline=5, clock=clock) as limiter:
        request = other.value, STAGE, METHOD
        decisions += decided(limiter, *[request] * 2)
        clock.advance(86_400)
        decisions += decided(limiter, request)
        root.delete(f"ratelimit:{{{other.id}}}")
        decisions += decided(limiter, *[request] * 2)  # the hash is lost, and made anew
    return decisions


def lease_spent(server, root, url):
    """Have a gateway lease units, spend some and give the rest back; return what it decided, and what was counted."""
    catalog = Catalog(root)
    catalog.put_stage(Stage(STAGE, Throttle(1, 10_000)))
    key = catalog.create_key(plans=["leased"])
    with Limiter.from_url(url, deadline=5) as limiter:
        decisions = [limiter.check(key.value, STAGE, METHOD) for _ in range(50)]
    assert "lease" in {decision.source for decision in decisions}
    own = f"ratelimit:{{{key.id}}}"
    (used,) = struct.unpack_from("<d", root.hget(own, "p:leased"), 32)
    bucket = struct.unpack("<3d", root.get(f"ratelimit:stage:{STAGE}:*"))
    return [decision.allowed for decision in decisions], used, bucket[1] // bucket[0]


DECISIONS = (
    ["UNAVAILABLE"]
    + ["ALLOWED", "THROTTLED"]
    + ["ALLOWED"] * 3
    + ["THROTTLED", "ALLOWED"]
    + ["INVALID_KEY"] * 2
    + ["ALLOWED"] * 3
    + ["UNAVAILABLE", "ALLOWED"]
)


def as_admin(url, plan_file, *, go_on=False):
    """Do all that an administrator does. `go_on` after what is refused."""
    made = []

    def create_key():
        made.append(catalog.create_key("one", plans=["gold"]).id)

    def add_and_remove():
        catalog.add_key_to_plan(made[0], "silver")
        catalog.put_plan(UsagePlan("other", None, None, ["other/prod"]))
        catalog.add_key_to_plan(made[0], "other")
        catalog.put_plan(UsagePlan("other", None, None, ["other/prod", "another/prod"]))
        with pytest.raises(RateLimitError):
            catalog.put_plan(UsagePlan("other", None, None, [STAGE]))
        catalog.remove_key_from_plan(made[0], "other")

    with Limiter.from_url(url, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None
        catalog = limiter.catalog
        for step in (
            lambda: catalog.apply(plan_file),
            lambda: [catalog.plans(), catalog.get_plan("gold"), catalog.stages(), catalog.get_account_throttle()],
            lambda: catalog.put_stage(Stage(STAGE, Throttle(1, 9))),
            lambda: catalog.delete_stage(STAGE),
            lambda: catalog.set_account_throttle(Throttle(1, 9)),
            create_key,
            lambda: [catalog.get_key(made[0]), catalog.keys(), catalog.list_keys()],
            lambda: catalog.update_key(made[0], name="two"),
            lambda: catalog.rotate_key(made[0], grace_s=60),
            lambda: catalog.update_key(made[0], enabled=True, durable=True),
            lambda: catalog.rotate_key(made[0]),
            lambda: catalog.usage("gold", "2026-03-01", "2026-03-04"),
            lambda: catalog.set_remaining("gold", made[0], 2),
            lambda: catalog.shadow_counts("gold"),
            lambda: [catalog.identity_usage(Identity("one", "free")), catalog.identity_count("free")],
            lambda: catalog.reset_shadow("gold"),
            add_and_remove,
            lambda: catalog.import_keys(io.StringIO(f"Name,Key,UsagePlanIds\nnew,{'k' * 20},gold\n")),
            lambda: catalog.export_keys(io.StringIO()),
            lambda: catalog.delete_plan("other"),
            catalog.load_scripts,
            lambda: catalog.delete_key(made[0]),
        ):
            with contextlib.suppress(*(RateLimitError, IndexError) if go_on else ()):
                step()


def test_a_gateway_needs_no_more(server, root, plan_file):
    """With its commands a gateway decides everything, and the server refuses it nothing."""
    url = gateway_of(server, root)
    assert as_gateway(server, root, url, plan_file) == DECISIONS
    allowed, used, left = lease_spent(server, root, url)
    assert (allowed, used) == ([True] * 50, 50)
    assert left in (9_950, 9_951)  # a token a second comes back meanwhile
    assert refused(root) == set()


@pytest.mark.parametrize("command", [*GATEWAY, *FLUSHING, *EXPIRING])
def test_a_gateway_needs_no_less(server, root, plan_file, command):
    """Each of its commands is one that it sends, or that a script of its sends."""
    as_gateway(server, root, gateway_of(server, root, command), plan_file)
    assert refused(root) == {command}


@pytest.mark.parametrize("name", [*READ, *WRITTEN, DENIALS])
def test_a_gateway_needs_no_fewer_names(server, root, plan_file, name):
    """Each of them is one that it reads or writes."""
    as_gateway(server, root, gateway_of(server, root, name), plan_file)
    left_out = re.compile(re.escape(name[1:]).replace(r"\*", ".*"))
    # What a script is called with is not told one by one; Redis 6.2 tells the command's name.
    refusals = refused(root)
    assert refusals
    assert all(left_out.fullmatch(key) or not key.startswith(("ratelimit", "{ratelimit")) for key in refusals)


def test_a_gateway_lets_no_key_expire(server, root):
    """It may let identities expire; Redis 6.2 cannot tell these from keys."""
    for name in ("ratelimit:{k1}", "ratelimit:{~x}"):
        root.hset(name, "r", "x")
    with redis.Redis.from_url(gateway_of(server, root)) as client:
        assert client.pexpire("ratelimit:{~x}", 60_000)
        if server.name == "redis6":
            assert client.pexpire("ratelimit:{k1}", 60_000)
        else:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.pexpire("ratelimit:{k1}", 60_000)


def test_a_gateway_that_may_only_check_decides_alike(server, root, plan_file):
    """What comes after a check or beside it may be refused: decisions do not depend on it, but for alerts."""
    plan_file.write_text(FILE.replace("alerts = [50]\n", ""))
    url = url_of(server, root, "gateway", CHECKING + EXPIRING, READ + WRITTEN)
    assert as_gateway(server, root, url, plan_file) == DECISIONS
    assert refused(root) == {"info", "subscribe", "hkeys", "hincrby"}


def test_an_administrator_needs_no_more(server, root, plan_file):
    """With its commands an administrator does everything, and the server refuses nothing."""
    as_admin(url_of(server, root, "admin", ADMIN), plan_file)
    assert refused(root) == set()


@pytest.mark.parametrize("command", ADMIN)
def test_an_administrator_needs_no_less(server, root, plan_file, command):
    """Each of the commands is one that is sent, or that a script sends."""
    url = url_of(server, root, "admin", [other for other in ADMIN if other != command])
    as_admin(url, plan_file, go_on=True)
    # Redis 6.2 tells of a command, whatever the subcommand.
    assert {command, command.partition("|")[0]} & refused(root)


@pytest.mark.parametrize("command", ["publish", "sadd", "hset"])
def test_who_may_not_do_all_of_a_change_does_nothing_of_it(server, root, command):
    """Refused before the first write, in the server's words. Redis 6.2 alone cannot tell beforehand."""
    plan = UsagePlan("gold", Throttle(1, 3), None, [STAGE])
    Catalog(root).put_plan(plan)
    key = Catalog(root).create_key()
    url = url_of(server, root, "admin", [other for other in ADMIN if other != command])
    before = exact_snapshot(server)
    with Limiter.from_url(url, deadline=5) as limiter:
        for change in (
            lambda: limiter.catalog.add_key_to_plan(key.id, "gold"),
            lambda: limiter.catalog.create_key("other", plans=["gold"]),
        ):
            with pytest.raises(StoreError, match=r"can't run this command|no permissions to run"):
                change()
            if server.name != "redis6":
                assert exact_snapshot(server) == before


def as_watcher(server, root, commands):
    """Watch what is kept, what is new, and as a member of a group; return what was refused."""
    url = url_of(server, root, "watcher", commands)
    root.execute_command("ACL", "SETUSER", "watcher", "resetkeys", "~ratelimit:alerts", "resetchannels")
    root.flushall()
    numbers = {"percent": 50, "used": 2, "limit": 4, "window_day": 20_516, "time_us": 1}
    root.xadd("ratelimit:alerts", {"key": "k1", "plan": "gold", **numbers})
    whole = ["--from-start", "--count", "1"]
    for options in (whole, ["--seconds", "0.02"], ["--group", "ops", *whole]):
        run("watch", "--url", url, "--seconds", "2", *options)
    return refused(root)


def test_a_watcher_needs_no_more(server, root):
    """With its commands the server refuses it nothing."""
    assert as_watcher(server, root, WATCHER) == set()


@pytest.mark.parametrize("command", WATCHER)
def test_a_watcher_needs_no_less(server, root, command):
    """Each of its commands is one that it sends."""
    assert command in {
        name.partition("|")[0] for name in as_watcher(server, root, [other for other in WATCHER if other != command])
    }


def test_a_ceiling_on_keys_has_them_counted(server, root):
    """An administrator who has one needs ZCARD as well, and nothing else."""
    for commands, missing in ((ADMIN, {"zcard"}), ([*ADMIN, "zcard"], set())):
        with redis.Redis.from_url(url_of(server, root, "admin", commands)) as client:
            catalog = Catalog(client, ceilings=Ceilings(keys=9))
            with contextlib.suppress(RateLimitError):
                catalog.create_key()
            with contextlib.suppress(RateLimitError):
                catalog.import_keys(io.StringIO(f"Name,Key\nnew,{'k' * 20}\n"))
        assert refused(root) == missing


@pytest.mark.parametrize("user", ["gateway", "admin"])
def test_names_outside_the_namespace_are_out_of_reach(server, root, user):
    """Neither user reads what belongs to somebody else, not even by a script of its own."""
    root.set("other:secret", "1")
    url = gateway_of(server, root) if user == "gateway" else url_of(server, root, user, ADMIN)
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ResponseError):
        client.eval("return redis.call('GET', KEYS[1])", 1, "other:secret")


SECRET = "a-pepper-of-these-tests"
DEEDS = {
    "rewrite a plan": ("HSET", "{ratelimit}:catalog", "plan:gold", "{}"),
    "take a plan away": ("HDEL", "{ratelimit}:catalog", "plan:gold"),
    "raise the version": ("HINCRBY", "{ratelimit}:catalog", "version", "1"),
    "give another pepper": ("HSET", "{ratelimit}:catalog", "pepper", "another"),
    "give another schema": ("HSET", "{ratelimit}:catalog", "schema", "3"),
    "have a value open another key": ("SET", "ratelimit:digest:{digest}", "k1:token--1"),
    "make a record": ("SET", "ratelimit:{k1}:record", "{}"),
    "enable a key again": ("SET", "ratelimit:{id}:record", "{}"),
    "change a part of a record": ("SETRANGE", "ratelimit:{id}:record", "0", "{}"),
    "remove a record": ("UNLINK", "ratelimit:{id}:record"),
    "remove a hash": ("DEL", "ratelimit:{id}"),
    "have a hash expire": ("EXPIRE", "ratelimit:{id}", "1"),
    "list all keys": ("ZRANGE", "{ratelimit}:keys", "0", "-1"),
    "list keys of a plan": ("SMEMBERS", "{ratelimit}:plan:gold:keys"),
    "list keys that were denied": ("HGETALL", "ratelimit:denials:20516"),
    "list all names": ("SCAN", "0"),
    "read alerts": ("XRANGE", "ratelimit:alerts", "-", "+"),
    "tell of changes": ("PUBLISH", "ratelimit:changes", "1"),
    "read the configuration": ("CONFIG", "GET", "*"),
    "run what is no script of ours later": ("SCRIPT", "LOAD", "return 1"),
    "make itself an administrator": ("ACL", "SETUSER", "gateway", "+@all"),
    "erase all": ("FLUSHALL",),
}
ALSO_ON_REDIS_6 = [
    "remove a record", "remove a hash", "list all keys", "list keys of a plan", "list all names", "read alerts",
    "tell of changes", "read the configuration", "run what is no script of ours later", "make itself an administrator",
    "erase all",
]  # fmt: skip


@pytest.fixture
def stolen(server, root, plan_file):
    """A client of the gateway's user in the wrong hands, on a server with a key, and that key's id and digest."""
    catalog = Catalog(root, pepper=SECRET)
    catalog.apply(plan_file)
    key = catalog.create_key(plans=["gold"])
    catalog.update_key(key.id, enabled=False)
    with redis.Redis.from_url(gateway_of(server, root), protocol=2) as client:
        yield client, {"{id}": f"{{{key.id}}}", "{digest}": Digester(SECRET)(key.value)}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("way", ["by itself", "by a script"])
def test_a_stolen_gateway_changes_no_rights(deed, way, server, stolen):
    """No plan, no key, no record, not by a script of its own either. On Redis 6.2 it could: lua/ACL.md says so."""
    client, names = stolen
    command = [re.sub(r"\{(id|digest)\}", lambda match: names[match[0]], part) for part in DEEDS[deed]]
    before = exact_snapshot(server)
    if way == "by a script":
        script = "return redis.call(ARGV[1], unpack(ARGV, 2))"
        command = ["EVAL", script, "0", *command]
    if server.name != "redis6" or deed in ALSO_ON_REDIS_6:
        with pytest.raises(
            redis.ResponseError, match=r"permission|NOPERM|can't run this command|not allowed from script"
        ):
            client.execute_command(*command)
        assert exact_snapshot(server) == before
    else:
        client.execute_command(*command)


def test_a_stolen_gateway_reads_no_pepper(stolen):
    """What it may read tells peppers apart, and does not tell them."""
    client, _ = stolen
    assert SECRET not in repr(client.hgetall("{ratelimit}:catalog"))


@pytest.fixture
def hardened(server, root, plan_file):
    """The URL of a gateway without EVAL, on a server that knows no script."""
    Catalog(root).apply(plan_file)
    root.script_flush()
    return gateway_of(server, root, "eval")


@pytest.mark.parametrize("command", [("EVAL", "return 1", 0), ("SCRIPT", "LOAD", "return 1")])
def test_a_hardened_gateway_runs_no_lua_of_its_own(command, hardened):
    """The scripts that the administrator has loaded, and no other one."""
    with redis.Redis.from_url(hardened, protocol=2) as client, pytest.raises(redis.ResponseError, match="permission"):
        client.execute_command(*command)


def test_a_hardened_gateway_says_what_to_do(server, root, hardened):
    """Until an administrator has loaded the scripts, the answer is 503 with the remedy; then all works, leases too."""
    key = Catalog(root).create_key(plans=["leased"])
    with Limiter.from_url(hardened, deadline=5) as limiter:
        decision = limiter.check(key.value, STAGE, METHOD)
        assert decision.cause == "refused"
        assert decision.error.startswith("Redis refused the command: ")
        assert decision.error.endswith(": run `ratelimit scripts load`)")
        ran = run("scripts", "load", "--url", url_of(server, root, "admin", ADMIN))
        assert ran.exit_code == 0
        shas = {name: load(name).sha for name in GATEWAY_SCRIPTS}
        assert ran.stdout == "".join(f"{sha}  {name}\n" for name, sha in shas.items())
        assert root.script_exists(*shas.values()) == [True] * len(shas)
        assert limiter.check(key.value, STAGE, METHOD).allowed
    root.acl_log_reset()
    assert lease_spent(server, root, hardened)[:2] == ([True] * 50, 50)
    assert refused(root) == set()


@pytest.mark.asyncio
@pytest.mark.parametrize("checks", [1, 3])
async def test_a_hardened_gateway_says_what_to_do_under_asyncio(root, hardened, checks):
    """One check alone, and several that leave together."""
    key = Catalog(root).create_key(plans=["leased"])
    async with AsyncLimiter.from_url(hardened, deadline=5) as limiter:
        calls = (limiter.check(key.value, STAGE, METHOD) for _ in range(checks))
        decisions = await asyncio.gather(*calls)
        assert [decision.error.endswith(": run `ratelimit scripts load`)") for decision in decisions] == [True] * checks
        Catalog(root).load_scripts()
        assert (await limiter.check(key.value, STAGE, METHOD)).allowed


def test_scripts_are_told_as_data_as_well(server):
    """`--json` for whoever compares them."""
    ran = run("scripts", "load", "--json", "--url", f"unix://{server.socket}")
    assert json.loads(ran.stdout)["check"] == load("check").sha


def granted(title):
    """By user, the words of the line that grants it what it may, in a part of the page."""
    text = (folder() / "ACL.md").read_text(encoding="utf-8").split(title)[1]
    lines = re.search(r"```text\n(.*?)```", text, re.DOTALL)[1].splitlines()
    return {line.split()[2]: line.split()[3:] for line in lines}


def test_the_contract_lists_the_same_permissions():
    """What lua/ACL.md tells operators to grant is what is needed here."""
    new, old = granted("# Permissions"), granted("## Redis 6.2")
    confined = ["resetchannels", "&ratelimit:changes", "-@all"]
    begin = ["on", ">change-me", "resetkeys"]
    gateway = {f"+{command}" for command in [*GATEWAY, "ping"]}  # for clients of one's own that look after connections
    flushing = [f"+{command}" for command in FLUSHING]
    expiring = [f"+{command}" for command in EXPIRING]
    groups = [f"({DENIALS}", flushing[0], f"{flushing[1]})"]
    groups += [f"({EXPIRING_NAMES[0]}", *EXPIRING_NAMES[1:], *expiring[:-1]]
    assert old.keys() == {"gateway"}
    for words, names, rest in (
        (new["gateway"], [f"%R{name}" for name in READ] + WRITTEN, [*groups, f"{expiring[-1]})"]),
        (old["gateway"], READ + WRITTEN + [DENIALS], flushing + expiring),
    ):
        fixed = begin + names + confined
        assert words[: len(fixed)] == fixed
        assert words[-len(rest) :] == rest
        assert sorted(words[len(fixed) : -len(rest)]) == sorted(gateway)
    admin = begin + EVERYTHING + confined
    assert new["admin"][: len(admin)] == admin
    assert sorted(new["admin"][len(admin) :]) == sorted(f"+{command}" for command in set(ADMIN))
    watcher = ["on", ">change-me", "resetkeys", "~ratelimit:alerts", "-@all", *(f"+{command}" for command in WATCHER)]
    assert new["watcher"] == watcher
    handbook = (folder().parent / "docs" / "operations.md").read_text(encoding="utf-8")
    assert " ".join(["ACL SETUSER watcher", *watcher]) in handbook.splitlines()
