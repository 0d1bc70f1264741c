"""Deployments that cannot work: the command line and a limiter name the remedy, and nothing is written."""

import contextlib

import pytest
from helpers.cluster import Node
from helpers.commands import run
from helpers.ports import free_port
from helpers.servers import Server

from ratelimit import Catalog, ConfigError, Limiter, StoreError, Throttle, UsagePlan
from ratelimit.admin.doctor.checks import NAMES
from ratelimit.store.clients import client_from_url

KEY, STAGE, METHOD = "rl_live_nobody", "petstore/prod", "GET /pets"
PLANS = '[plans.gold]\nthrottle = {rate = 1, burst = 3}\nstages = ["petstore/prod"]\n'
CATALOG = "{ratelimit}:catalog"


def words(text):
    return " ".join(text.split())


@pytest.fixture
def plans(tmp_path):
    """A plan file."""
    path = tmp_path / "plans.toml"
    path.write_text(PLANS)
    return str(path)


def assert_remedy(url, remedy, plans):
    """Whatever is tried ends with the remedy: checks, changes, the doctor and a limiter."""
    for arguments in (("check", KEY, STAGE, METHOD), ("apply", plans), ("keys", "create", "Acme"), ("doctor",)):
        result = run(*arguments, RATELIMIT_URL=url)
        assert result.exit_code == (1 if "Findings" in result.output else 3), (arguments, result.output)
        assert remedy in words(result.output), arguments
        assert "Is a server running" not in result.output
    with Limiter.from_url(url, deadline=2) as limiter:
        decision = limiter.check(KEY, STAGE, METHOD)
        assert (decision.status, remedy in decision.error) == (503, True)
        with pytest.raises(StoreError) as raised:
            limiter.warm_up()
        assert remedy in str(raised.value)


@pytest.fixture
def lonely_node():
    """A node that has not joined a cluster."""
    node = Node("valkey")
    yield node
    node.stop()


def test_a_node_that_owns_no_slots(lonely_node, plans):
    """It has not joined yet: create the cluster, or name a node of it."""
    assert_remedy(f"redis://{lonely_node.address}?cluster=true", "`redis-cli --cluster create`", plans)
    assert lonely_node.admin.dbsize() == 0


def test_a_server_that_is_no_node(plans):
    """Its URL has too much."""
    server = Server("valkey", port=free_port())
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        client = stack.enter_context(server.client())
        assert_remedy(f"redis://127.0.0.1:{server.port}?cluster=true", "leave ?cluster=true out", plans)
        assert client.dbsize() == 0


def test_a_cluster_under_the_url_of_one_server(cluster, plans):
    """Its URL lacks something; not even what that node could take is written."""
    others = [node for node in cluster.primaries if node is not cluster.node_of(CATALOG)]
    assert_remedy(f"redis://{others[0].address}", "?cluster=true", plans)
    assert sum(cluster.key_count().values()) == 0


def test_a_replica_as_the_only_address(cluster):
    """The primaries are read from it."""
    replica = cluster.replicas_of(cluster.primaries[0])[0]
    with contextlib.closing(client_from_url(f"redis://{replica.address}?cluster=true", 2)) as client:
        catalog = Catalog(client)
        catalog.put_plan(UsagePlan("gold", Throttle(1, 1), None, [STAGE]))
        key = catalog.create_key("Acme", plans=["gold"])
        with Limiter(client, deadline=2) as limiter:
            assert [limiter.check(key.value, STAGE, METHOD).status for _ in range(2)] == [200, 429]


def test_a_user_without_cluster_slots(valkey_cluster, plans):
    """Nothing can be sent to anywhere: the permission is named."""
    with users(valkey_cluster.nodes, "~*", "&*", "+@all", "-cluster"):
        assert_remedy(url_of(valkey_cluster.primaries[0]), "+cluster|slots", plans)
    assert sum(valkey_cluster.key_count().values()) == 0


def test_a_user_who_is_missing_on_one_node(valkey_cluster):
    """The doctor names the node, and examines the others."""
    first, *others = valkey_cluster.primaries
    catalogued = valkey_cluster.node_of(CATALOG)
    missing = next(node for node in (first, *others) if node is not catalogued)
    with users([node for node in valkey_cluster.nodes if node is not missing], "~*", "&*", "+@all"):
        result = run("doctor", RATELIMIT_URL=url_of(catalogued))
    assert result.exit_code == 1
    said = words(result.output)
    assert f"error slots (primary {missing.address}) it does not answer" in said
    assert "invalid username-password pair" in said
    assert "create the user on that node" in said
    assert f"primary {catalogued.address}" in said


@pytest.mark.parametrize("is_catalogue", [True, False])
def test_a_node_that_is_down(patient_cluster, is_catalogue):
    """The doctor names it, whichever it is, and examines the others."""
    catalogued = patient_cluster.node_of(CATALOG)
    node, *others = sorted(patient_cluster.primaries, key=lambda each: (each is catalogued) is not is_catalogue)
    patient_cluster.kill(node)
    url = f"redis://{','.join(each.address for each in others)}?cluster=true"
    said = words(run("doctor", "--all", RATELIMIT_URL=url).output)
    assert f"error slots (primary {node.address}) it does not answer" in said
    assert all(f"primary {each.address}" in said for each in others)


def test_slots_without_a_primary(patient_cluster):
    """What is on other slots goes on; the doctor and `warm_up` say how many are missing."""
    for node in patient_cluster.nodes:
        node.admin.execute_command("CLUSTER", "DELSLOTS", *range(16_000, 16_384))
    result = run("doctor", RATELIMIT_URL=patient_cluster.url)
    assert "384 of 16,384 slots have no owner" in words(result.output)
    assert "redis-cli --cluster fix" in result.output
    message = r"384 of .* no primary \(16000-16383\).*redis-cli --cluster fix"
    with Limiter.from_url(patient_cluster.url) as limiter, pytest.raises(StoreError, match=message):
        limiter.warm_up()
    assert sum(patient_cluster.key_count().values()) == 0


def test_the_doctor_prints_once_what_is_wrong_on_every_node(valkey_cluster):
    """With the command for each of them."""
    only = [part for name in NAMES if name != "min-replicas" for part in ("--ignore", name)]
    result = run("doctor", *only, RATELIMIT_URL=valkey_cluster.url)
    assert result.output.count("min-replicas-to-write is 0") == 1
    for node in valkey_cluster.nodes:
        assert f"redis-cli -h 127.0.0.1 -p {node.port} CONFIG SET min-replicas-to-write 1" in result.output


def test_the_number_of_a_database(valkey_cluster):
    """A cluster has but one."""
    with pytest.raises(ConfigError, match="a cluster has database 0 alone: leave the number out"):
        Limiter.from_url(f"redis://{valkey_cluster.primaries[0].address}/1?cluster=true")


@contextlib.contextmanager
def users(nodes, *rules):
    """A user `low` on these nodes for a `with` block."""
    for node in nodes:
        node.admin.execute_command("ACL", "SETUSER", "low", "on", ">pw", *rules)
    try:
        yield
    finally:
        for node in nodes:
            node.admin.execute_command("ACL", "DELUSER", "low")


def url_of(node):
    return f"redis://low:pw@{node.address}?cluster=true"
