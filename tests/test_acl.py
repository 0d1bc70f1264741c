"""The permissions that suffice, exactly: with these commands nothing is refused, without any one of them something is.

Three users, all confined to names that start with the namespace: GATEWAY checks, ADMIN changes the catalogue, WATCHER
reads alerts.
"""

import contextlib
import io

import pytest
import redis
from conftest import FakeClock
from promises import snapshot
from promises_of_replicas import wait_for
from test_cli import run

from ratelimit import (
    Catalog,
    Ceilings,
    Limiter,
    Method,
    RateLimitError,
    Stage,
    StoreError,
    Throttle,
    UsagePlan,
)
from ratelimit.core.scripts import folder

STAGE, METHOD = "petstore/prod", "GET /pets"
CHECKING = ["eval", "evalsha", "time", "get", "mget", "set", "setrange", "hget", "hmget", "hset", "hgetall"]
"""A check, and what it looks up when it meets a change."""
AFTER_CHECKING = ["hkeys", "hdel", "hincrby", "expire", "xadd"]
"""Days of metering moved to the archive, refusals flushed in sums, alerts."""
LISTENING = ["subscribe"]
"""Pushed changes."""
WARNING = ["info"]
"""The warning about a server that evicts."""
GATEWAY = CHECKING + AFTER_CHECKING + LISTENING + WARNING
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
    "sismember",
    "smembers",
    "zadd",
    "zrem",
    "zrevrangebyscore",
    "persist",
    "publish",
]

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


def url_of(server, root, user, commands):
    """Let `user` do what is listed, with names of the namespace alone; return its URL."""
    confined = ["reset", "on", ">secret", "~ratelimit:*", "resetchannels", "&ratelimit:changes", "-@all"]
    root.execute_command("ACL", "SETUSER", user, *confined, *(f"+{command}" for command in commands))
    root.acl_log_reset()
    return f"unix://{user}:secret@{server.socket}"


def refused(root):
    """The commands that were refused, by the server's own log; what redis-py sends to introduce itself aside."""
    return {entry["object"] for entry in root.acl_log(count=128) if not entry["object"].startswith("client")}


def decided(limiter, *requests):
    return [limiter.check(*request).reason.value for request in requests]


def as_gateway(server, root, url, plan_file):
    """Do all that a gateway does; return what it decided. Without a denial cache: what is refused is asked, too."""
    root.flushall()
    root.script_flush()
    catalog, clock = Catalog(root), FakeClock()
    catalog.apply(plan_file)
    catalog.put_stage(Stage(STAGE, Throttle(1, 9), {"GET /health": Method(key_required=False)}))
    key, other = (catalog.create_key(plans=["gold"]) for _ in range(2))
    request = key.value, STAGE, METHOD
    with Limiter.from_url(url, deadline=5, denial_cache=False) as limiter:
        decisions = decided(limiter, *[request] * 4, (None, STAGE, "GET /health"), ("x" * 20, STAGE, METHOD))
        catalog.update_key(key.id, enabled=False)
        decisions += decided(limiter, request)
        wait_for(lambda: root.pubsub_numsub("ratelimit:changes")[0][1] == 1 or "subscribe" in refused(root))
    with Limiter.from_url(url, deadline=5, clock=clock) as limiter:
        request = other.value, STAGE, METHOD
        decisions += decided(limiter, *[request] * 2)
        clock.advance(86_400)
        decisions += decided(limiter, request)
    return decisions


DECISIONS = ["ALLOWED"] * 3 + ["THROTTLED", "ALLOWED"] + ["INVALID_KEY"] * 2 + ["ALLOWED"] * 3


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
        limiter._state.before_refresh = lambda: None
        catalog = limiter.catalog
        for step in (
            lambda: catalog.apply(plan_file),
            lambda: [catalog.plans(), catalog.get_plan("gold"), catalog.stages(), catalog.get_account_throttle()],
            lambda: catalog.put_stage(Stage(STAGE, Throttle(1, 9))),
            lambda: catalog.delete_stage(STAGE),
            lambda: catalog.set_account_throttle(Throttle(1, 9)),
            create_key,
            lambda: [catalog.get_key(made[0]), catalog.keys(), catalog.keys_page()],
            lambda: catalog.update_key(made[0], name="two"),
            lambda: catalog.rotate_key(made[0], grace_s=60),
            lambda: catalog.rotate_key(made[0]),
            lambda: catalog.usage("gold", "2026-03-01", "2026-03-04"),
            lambda: catalog.set_remaining("gold", made[0], 2),
            lambda: catalog.shadow_counts("gold"),
            lambda: catalog.reset_shadow("gold"),
            add_and_remove,
            lambda: catalog.import_keys(io.StringIO(f"Name,Key,UsagePlanIds\nnew,{'k' * 20},gold\n")),
            lambda: catalog.export_keys(io.StringIO()),
            lambda: catalog.delete_plan("other"),
            lambda: catalog.delete_key(made[0]),
        ):
            with contextlib.suppress(*(RateLimitError, IndexError) if go_on else ()):
                step()


def test_a_gateway_needs_no_more(server, root, plan_file):
    """With its commands a gateway decides everything, and the server refuses it nothing."""
    url = url_of(server, root, "gateway", GATEWAY)
    assert as_gateway(server, root, url, plan_file) == DECISIONS
    assert refused(root) == set()


@pytest.mark.parametrize("command", GATEWAY)
def test_a_gateway_needs_no_less(server, root, plan_file, command):
    """Each of its commands is one that it sends, or that a script of its sends."""
    url = url_of(server, root, "gateway", [other for other in GATEWAY if other != command])
    as_gateway(server, root, url, plan_file)
    assert refused(root) == {command}


def test_a_gateway_that_may_only_check_decides_alike(server, root, plan_file):
    """What comes after a check or beside it may be refused: decisions do not depend on it, but for alerts."""
    plan_file.write_text(FILE.replace("alerts = [50]\n", ""))
    url = url_of(server, root, "gateway", CHECKING)
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
    assert command in refused(root)


@pytest.mark.parametrize("command", ["publish", "sadd", "hset"])
def test_who_may_not_do_all_of_a_change_does_nothing_of_it(server, root, command):
    """Refused before the first write, in the server's words. Redis 6.2 alone cannot tell beforehand."""
    plan = UsagePlan("gold", Throttle(1, 3), None, [STAGE])
    Catalog(root).put_plan(plan)
    key = Catalog(root).create_key()
    url = url_of(server, root, "admin", [other for other in ADMIN if other != command])
    before = snapshot(server)
    with Limiter.from_url(url, deadline=5) as limiter:
        for change in (
            lambda: limiter.catalog.add_key_to_plan(key.id, "gold"),
            lambda: limiter.catalog.create_key("other", plans=["gold"]),
        ):
            with pytest.raises(StoreError, match=r"can't run this command|no permissions to run"):
                change()
            if server.name != "redis6":
                assert snapshot(server) == before


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


@pytest.mark.parametrize(("user", "commands"), [("gateway", GATEWAY), ("admin", ADMIN)])
def test_names_outside_the_namespace_are_out_of_reach(server, root, user, commands):
    """Neither user reads what belongs to somebody else, not even by a script of its own."""
    root.set("other:secret", "1")
    with redis.Redis.from_url(url_of(server, root, user, commands)) as client, pytest.raises(redis.ResponseError):
        client.eval("return redis.call('GET', KEYS[1])", 1, "other:secret")


def test_the_contract_lists_the_same_permissions():
    """What lua/README.md tells operators to grant is what is needed here."""
    lines = (folder() / "README.md").read_text(encoding="utf-8").splitlines()
    granted = {line.split()[2]: line.split() for line in lines if line.startswith("ACL SETUSER ")}
    for user, commands in (("gateway", GATEWAY), ("admin", ADMIN), ("watcher", WATCHER)):
        told = {word[1:] for word in granted[user] if word.startswith("+")}
        assert told - {"ping"} == set(commands)  # for clients of one's own that look after their connections
    assert granted["watcher"][5:7] == ["resetkeys", "~ratelimit:alerts"]
    handbook = (folder().parent / "docs" / "operations.md").read_text(encoding="utf-8")
    assert " ".join(granted["watcher"]) in handbook.splitlines()
