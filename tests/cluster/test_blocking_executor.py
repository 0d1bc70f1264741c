"""The blocking executor on real clusters: each command goes to the owner of its slot, wherever that moves."""

import threading
import time
from contextlib import closing
from itertools import cycle

import pytest
from helpers.cluster import Cluster, Node, slot_of, wait_until
from helpers.forks import run_in_child
from helpers.ports import free_port
from helpers.servers import NAMES, Server
from helpers.slot_load import SlotLoad, blocking_executor, commands, count_call, request
from helpers.waiting import wait_for

from ratelimit import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.effects import AtNode, BatchableReads, IndependentAtNode, IndependentCommands, PatientCommands, Primaries
from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.blocking.nodes import Nodes
from ratelimit.store.clients import client_from_url
from ratelimit.store.cluster.topology import QUERIES

KEYS = [f"k{number}" for number in range(120)]


@pytest.fixture
def executor(cluster):
    with closing(blocking_executor(client_from_url(cluster.url))) as made:
        made.connect(10)
        yield made


def call(executor, key):
    return executor.call(count_call(key), time.monotonic())


def values(cluster, keys):
    return {key: int(cluster.node_of(key).admin.get(key) or 0) for key in keys}


def other_than(cluster, node):
    return next(other for other in cluster.primaries if other is not node)


def refresh_count(cluster):
    """How often any node was sent the queries of a refresh."""
    stats = [node.admin.info("commandstats") for node in cluster.running]
    if any("cmdstat_cluster|slots" in each for each in stats):
        return sum(each.get("cmdstat_cluster|slots", {}).get("calls", 0) for each in stats)
    return sum(each.get("cmdstat_cluster", {}).get("calls", 0) for each in stats) // len(QUERIES)


def without_failover(cluster):
    """No node is replaced, however long it is away, or the machine is busy."""
    for node in cluster.nodes:
        node.admin.config_set("cluster-node-timeout", 30_000)


# What is sent where


def test_each_script_goes_to_the_owner_of_its_slot(cluster, executor):
    for expected in (1, 2):
        assert {call(executor, key) for key in KEYS} == {expected}
    assert values(cluster, KEYS) == dict.fromkeys(KEYS, 2)
    assert min(cluster.key_count().values()) > 20


def test_scripts_are_loaded_where_they_are_not_known(cluster, executor):
    """Each node has scripts of its own, and each learns a script when it is first needed there."""
    for node in cluster.nodes:
        node.admin.script_flush()
    assert {call(executor, key) for key in KEYS} == {1}
    for node in cluster.primaries:
        node.admin.script_flush()
    assert {call(executor, key) for key in KEYS} == {2}


def test_commands_of_one_request_are_divided_and_their_replies_joined(cluster, executor):
    executor.run(commands(*[("SET", key, number) for number, key in enumerate(KEYS)]))
    (many, none, one, moment, count, gone) = executor.run(
        commands(
            ("MGET", *KEYS, "absent"),
            ("MGET", "absent", "absent2"),
            ("GET", "k7"),
            ("TIME",),
            ("EXISTS", *KEYS, "absent"),
            ("UNLINK", *KEYS[:50], "absent"),
        )
    )
    assert many == [*(str(number).encode() for number in range(len(KEYS))), None]
    assert (none, one, count, gone) == ([None, None], b"7", 120, 50)
    assert len(moment) == 2
    assert sum(cluster.key_count().values()) == 70


def test_errors_of_independent_commands_are_in_place(executor):
    executor.run(commands(("SET", "text", "x"), ("SET", "k1", 1)))
    replies = executor.run(commands(("INCR", "text"), ("INCR", "k1"), ("MGET", "text", "k1"), kind=IndependentCommands))
    assert isinstance(replies[0], StoreError)
    assert replies[1:] == [2, [b"x", b"2"]]
    with pytest.raises(StoreError, match="not an integer"):
        executor.run(commands(("INCR", "text"), ("INCR", "k1")))


def test_primaries_and_what_is_sent_to_one_of_them(cluster, executor):
    for key in KEYS:
        call(executor, key)
    names = executor.run(request(Primaries()))
    assert set(names) == {node.address for node in cluster.primaries}
    sizes = [executor.run(request(AtNode(name, [("DBSIZE",)])))[0] for name in names]
    assert sum(sizes) == len(KEYS)
    (failed, size) = executor.run(request(IndependentAtNode(names[0], [("GET", "k1", "k2"), ("DBSIZE",)])))
    assert isinstance(failed, StoreError)
    assert size == sizes[0]
    with pytest.raises(StoreUnavailable, match="nowhere:1 is no primary of the cluster"):
        executor.run(request(AtNode("nowhere:1", [("DBSIZE",)])))


def test_one_server_is_its_own_primary(slots):
    with closing(blocking_executor(client_from_url(slots.url))) as made:
        assert made.run(request(Primaries())) == ("",)
        assert made.run(request(AtNode("", [("DBSIZE",)]))) == [0]


@pytest.mark.parametrize("is_said_by_url", [True, False])
def test_one_server_that_enforces_slots(slots, is_said_by_url):
    """Commands are divided there as well: at once if the URL says so, else from the first refusal on."""
    with closing(blocking_executor(client_from_url(f"{slots.url}{'?slots=true' * is_said_by_url}"))) as made:
        assert made.has_slots is is_said_by_url
        if not is_said_by_url:
            with pytest.raises(StoreUnavailable, match=r"CROSSSLOT.*\?slots=true"):
                made.run(commands(("MGET", "a", "b")))
        assert made.has_slots
        made.run(commands(("SET", "a", 1), ("SET", "b", 2)))
        assert made.run(commands(("MGET", "a", "b", "c"), ("UNLINK", "a", "b"))) == [[b"1", b"2", None], 2]


def test_patient_commands_go_where_their_key_is(cluster, executor):
    replies = executor.run(request(PatientCommands([("SET", "k3", 1), ("WAIT", 1, 2000)], 2)))
    assert replies == [b"OK", 1]
    assert values(cluster, ["k3"]) == {"k3": 1}


# What moves


def test_totals_are_exact_while_slots_move(cluster):
    """Nothing is lost, nothing is counted twice, and nobody sees an error: also what names two keys of a slot."""
    keys = [f"{{moving}}{number}" for number in range(40)] + KEYS[:20]
    slot = slot_of("{moving}")
    with SlotLoad(client_from_url(cluster.url), keys) as load:
        for _ in range(6):
            target = other_than(cluster, cluster.owner_of(slot))
            for _ in cluster.migration(slot, target, batch=4):
                time.sleep(0.01)
            time.sleep(0.05)
    assert load.errors == []
    cluster.wait_agreed()
    assert values(cluster, keys) == load.counted


def test_several_keys_of_a_slot_that_moves(cluster, executor):
    """TRYAGAIN: repeated until all have moved."""
    slot, keys = slot_of("{pair}"), [f"{{pair}}{number}" for number in range(20)]
    executor.run(commands(*[("SET", key, 1) for key in keys]))
    source = cluster.owner_of(slot)
    migration = cluster.migration(slot, other_than(cluster, source), batch=5)
    replies = []
    for _ in range(4):
        next(migration)
    reading = threading.Thread(target=lambda: replies.extend(executor.run(commands(("MGET", *keys)))))
    reading.start()
    time.sleep(0.1)
    assert not replies
    assert list(migration)[-1] == "assigned"
    reading.join(10)
    assert replies == [[b"1"] * 20]
    cluster.wait_agreed()


def test_a_key_of_a_slot_that_moves(cluster, executor):
    """ASK: what is not at the source any more, or not there at all, is at the target. Scripts are loaded there, too."""
    slot = slot_of("{ask}")
    call(executor, "{ask}old")
    source = cluster.owner_of(slot)
    target = other_than(cluster, source)
    migration = cluster.migration(slot, target)
    assert [next(migration), next(migration)] == ["importing", "migrating"]
    before = refresh_count(cluster)
    target.admin.script_flush()
    assert [call(executor, "{ask}old"), call(executor, "{ask}new")] == [2, 1]
    assert executor.run(commands(("INCR", "{ask}old"), ("INCR", "{ask}new"), ("TIME",)))[:2] == [3, 2]
    assert refresh_count(cluster) == before  # it says nothing of who owns the slot
    assert target.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot) == 1
    assert list(migration) == [1, "assigned"]
    assert [call(executor, "{ask}old"), call(executor, "{ask}new")] == [4, 3]
    cluster.wait_agreed()


def test_the_topology_is_refreshed_once_for_all(cluster, executor):
    """However many callers were redirected."""
    keys = [f"{{once}}{number}" for number in range(8)]
    cluster.migrate_slot(slot_of("{once}"), other_than(cluster, cluster.node_of("{once}")))
    cluster.wait_agreed()
    before = refresh_count(cluster)
    threads = [threading.Thread(target=call, args=(executor, key)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: refresh_count(cluster) > before)
    time.sleep(0.3)
    assert refresh_count(cluster) - before <= 2  # one more if it was requested again during a refresh
    before = refresh_count(cluster)
    for _ in range(100):
        executor._nodes.request_refresh()
        time.sleep(0.003)
    assert 1 <= refresh_count(cluster) - before <= 8  # at most each 0.1 s, however long this took


def test_a_redirection_is_remembered_at_once(cluster, executor, monkeypatch):
    """Before the topology is refreshed, the next call goes to the new owner."""
    monkeypatch.setattr(executor._nodes, "request_refresh", lambda failing: None)
    cluster.migrate_slot(slot_of("{next}"), other_than(cluster, cluster.node_of("{next}")))
    cluster.wait_agreed()
    before = redirections(cluster)
    assert [call(executor, "{next}") for _ in range(5)] == [1, 2, 3, 4, 5]
    assert redirections(cluster) == before + 1


def redirections(cluster):
    stats = [node.admin.info("errorstats") for node in cluster.running]
    return sum(each.get("errorstat_MOVED", {}).get("count", 0) for each in stats)


BUSY = Script("""
redis.call('INCR', KEYS[1])
for _ = 1, 3e7 do end
return 'done'
""")


def in_flight(executor, key):
    """A thread that waits for a script that takes long, and what it has of it in the end."""
    outcome = []

    def act():
        try:
            outcome.append(executor.call(ScriptCall(BUSY, [key], []), time.monotonic()))
        except StoreError as error:
            outcome.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    time.sleep(0.1)
    assert not outcome
    return thread, outcome


def test_a_node_that_leaves_answers_what_was_sent_to_it(cluster, executor):
    """Its connections are closed afterwards, at once those that nobody uses."""
    node = executor._nodes.owners[slot_of("k1")]
    thread, outcome = in_flight(executor, "k1")
    node.retire()
    thread.join(10)
    assert outcome == [b"done"]
    wait_for(lambda: node._connections.are_none)


def test_a_call_without_an_answer_is_sent_once(cluster, executor):
    """Though time is left: nobody knows what became of it."""
    node = executor._nodes.owners[slot_of("k1")]
    thread, outcome = in_flight(executor, "k1")
    with node._connections.lock:
        node._connections.break_off()
    thread.join(10)
    assert isinstance(outcome[0], StoreTimeout)
    assert outcome[0].cause == "unknown"
    assert call(executor, "k1") == 2  # behind it


def test_callers_that_need_several_nodes_never_wait_in_a_ring(cluster):
    """With one connection to each node, and requests that name the nodes in different orders."""
    keys = [next(key for key in KEYS if cluster.node_of(key) is node) for node in cluster.primaries]
    errors = []

    def read(executor, order):
        try:
            for _ in range(100):
                executor.run(commands(*[("GET", key) for key in order]))
        except StoreError as error:
            errors.append(error)

    with closing(blocking_executor(client_from_url(f"{cluster.url}&max_connections=3"), deadline=1)) as executor:
        executor.connect(10)
        orders = [keys, keys[::-1], keys[1:] + keys[:1]]
        threads = [threading.Thread(target=read, args=(executor, order)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_planned_failover(valkey_cluster):
    """The replica takes over with all it has; the former primary's connections are closed."""
    cluster = valkey_cluster
    old = cluster.primaries[0]
    with SlotLoad(client_from_url(cluster.url), KEYS) as load:
        time.sleep(0.1)
        cluster.fail_over(old)
        time.sleep(0.5)
        wait_until(lambda: _load_connections(old) == 0, "nobody of us is connected to what is a replica now")
    assert load.errors == []
    assert values(cluster, KEYS) == load.counted


def _load_connections(node):
    clients = node.admin.client_list()
    return sum(client.get("cmd", "").startswith(("evalsha", "eval", "time")) for client in clients)


def test_nodes_that_join_and_leave(own_cluster):
    """A node comes, gets slots, gives them back and goes, under load: nothing lost, no error, nothing left open."""
    cluster = own_cluster
    without_failover(cluster)
    client = client_from_url(cluster.url)
    slots = sorted({slot_of(key) for key in KEYS})[:6]
    with SlotLoad(client, KEYS) as load:
        before = cluster.primaries
        node = cluster.add_node()
        cluster.wait_agreed()
        for slot in slots:
            cluster.migrate_slot(slot, node)
        time.sleep(0.3)
        for slot in slots:
            cluster.migrate_slot(slot, before[0])
        cluster.wait_agreed()
        wait_for(lambda: len(Nodes.of(client)._by_address) == 3)
        cluster.remove_node(node)
        time.sleep(0.2)
    assert load.errors == []
    assert values(cluster, KEYS) == load.counted


def test_a_node_that_left_by_reset_is_ignored(own_cluster):
    """It was the one that is queried first, and reports no slots: the next one is queried."""
    cluster = own_cluster
    without_failover(cluster)
    with closing(blocking_executor(client_from_url(cluster.url))) as executor:
        executor.connect(10)
        replica = cluster.replicas_of(cluster.primaries[1])[0]
        with executor._nodes._refreshed:
            executor._nodes._contact = "127.0.0.1", replica.port
        for other in cluster.nodes:
            if other is not replica:
                other.admin.execute_command("CLUSTER", "FORGET", replica.id)
        replica.admin.execute_command("CLUSTER", "RESET", "SOFT")
        before = executor._nodes._refreshes
        executor._nodes.request_refresh()
        wait_for(lambda: executor._nodes._refreshes > before)
        assert {call(executor, key) for key in KEYS} == {1}
        assert executor._nodes._contact != ("127.0.0.1", replica.port)


# What is away


def test_a_stopped_node_fails_its_own_keys_alone(own_cluster):
    """Those of the others lose nothing, and wait no longer. Its own have the deadline once, then microseconds."""
    cluster = own_cluster
    without_failover(cluster)
    stopped = cluster.primaries[1]
    own = [key for key in KEYS if cluster.node_of(key) is stopped]
    others = [key for key in KEYS if key not in own]
    with SlotLoad(client_from_url(cluster.url), KEYS, deadline=0.1, threads=3, pause_s=0.002) as load:
        time.sleep(1)
        began_s = time.monotonic()
        stopped.pause()
        time.sleep(3)
        stopped.resume()
        ended_s = time.monotonic()
        time.sleep(1)
    meanwhile = [attempt for attempt in load.attempts if began_s < attempt.at_s < ended_s]
    of_others = [attempt for attempt in load.attempts if attempt.key in others]
    assert [attempt for attempt in of_others if attempt.error] == []
    assert values(cluster, others) == {key: load.counted[key] for key in others}
    during = sorted(attempt.took_s for attempt in meanwhile if attempt.key in others)
    usual = sorted(attempt.took_s for attempt in of_others if attempt.at_s < began_s)
    assert during[len(during) * 9 // 10] < max(3 * usual[len(usual) * 9 // 10], 0.005)
    failed = [attempt for attempt in meanwhile if attempt.key in own and attempt.error]
    assert len(failed) > 100
    assert sorted(attempt.took_s for attempt in failed)[len(failed) // 2] < 0.001
    assert sum(attempt.took_s for attempt in failed) < 2
    unknown = [attempt for attempt in load.attempts if isinstance(attempt.error, StoreTimeout)]
    assert len(unknown) < 20
    recovered = [attempt for attempt in load.attempts if attempt.at_s > ended_s + 0.5]
    assert [attempt for attempt in recovered if attempt.error] == []
    assert 0 <= sum(values(cluster, own).values()) - sum(load.counted[key] for key in own) <= len(unknown)


def test_a_primary_that_dies(own_cluster):
    """The others' keys are not affected; its own go on within a second of the cluster's decision."""
    cluster = own_cluster
    client = client_from_url(cluster.url)
    dead = cluster.primaries[2]
    own = [key for key in KEYS if cluster.node_of(key) is dead]
    with SlotLoad(client, KEYS, deadline=0.5, threads=3, pause_s=0.001) as load:
        time.sleep(0.3)
        cluster.kill(dead)
        cluster.wait_failed_over(dead)
        agreed_s = time.monotonic()
        time.sleep(2)
    failed = [attempt for attempt in load.attempts if attempt.error]
    assert {attempt.key for attempt in failed} <= {*own}
    assert failed
    assert max(attempt.at_s for attempt in failed) < agreed_s + 1
    assert {attempt.key for attempt in load.attempts if attempt.at_s > agreed_s + 1} == {*KEYS}
    assert not Nodes.of(client).breaker_state().is_open


def test_all_nodes_stopped_and_back(own_cluster):
    """No call waits for a topology that no node reports: it costs the deadline once, then microseconds."""
    cluster = own_cluster
    without_failover(cluster)
    with closing(blocking_executor(client_from_url(cluster.url), deadline=0.1)) as executor:
        executor.connect(10)
        assert {call(executor, key) for key in KEYS} == {1}
        for node in cluster.nodes:
            node.pause()
        took = []
        until_s = time.monotonic() + 3
        while time.monotonic() < until_s:
            started_s = time.monotonic()
            with pytest.raises(StoreError):
                call(executor, KEYS[len(took) % len(KEYS)])
            took.append(time.monotonic() - started_s)
        assert sum(took[-100:]) < 0.2
        assert executor.breaker_state().is_open
        for node in cluster.nodes:
            node.resume()
        wait_for(lambda: not executor.breaker_state().is_open)
        cluster.wait_agreed()
        assert all(call(executor, key) >= 2 for key in KEYS)


def test_a_child_process_goes_on_by_itself(cluster, executor):
    """It has connections of its own, and refreshes the topology itself."""
    assert call(executor, "k1") == 1

    def act():
        nodes = executor._nodes
        before = nodes._refreshes
        nodes.request_refresh()
        wait_for(lambda: nodes._refreshes > before, seconds=2)
        return call(executor, "k1") == 2 and executor.run(commands(("MGET", "k1", "k2"))) == [[b"2", None]]

    assert run_in_child(act) == 0
    assert call(executor, "k1") == 3


# Bad input


def refused_connection(url, match):
    with closing(blocking_executor(client_from_url(url))) as executor:
        with pytest.raises(StoreUnavailable, match=match):
            executor.connect(1)
        with pytest.raises(StoreUnavailable, match=match):
            call(executor, "k1")


def test_slots_without_a_primary(own_cluster):
    """What is missing is reported at the start; slots with a primary are served, keys of the others fail at once."""
    cluster = own_cluster
    lost = slot_of("k1")
    owner = cluster.owner_of(lost)
    owner.admin.execute_command("CLUSTER", "DELSLOTS", lost)
    for node in cluster.nodes:
        if node is not owner:
            node.admin.execute_command("CLUSTER", "DELSLOTS", lost)
    wait_until(lambda: all(sum(b - a + 1 for a, b in n.slots()) == 16383 for n in cluster.nodes), "it is lost")
    refused_connection(
        cluster.url, rf"1 of the cluster's 16384 slots have no primary \({lost}\): .*redis-cli --cluster fix"
    )
    with closing(blocking_executor(client_from_url(cluster.url))) as executor:
        assert call(executor, "k2") == 1
        owner.own([lost])
        wait_for(lambda: _is_served(executor, "k1"))


def _is_served(executor, key):
    try:
        return call(executor, key) > 0
    except StoreUnavailable:
        return False


def test_a_slot_that_its_owner_does_not_serve(own_cluster):
    """CLUSTERDOWN: it fails, with the remedy, and is counted as soon as the slot is served again."""
    cluster = own_cluster
    owner, slot = cluster.node_of("k1"), slot_of("k1")
    with closing(blocking_executor(client_from_url(cluster.url), deadline=0.2)) as executor:
        executor.connect(10)
        assert call(executor, "k1") == 1
        owner.admin.execute_command("CLUSTER", "DELSLOTS", slot)
        with pytest.raises(StoreUnavailable, match=r"CLUSTERDOWN.*redis-cli --cluster check"):
            call(executor, "k1")
        assert call(executor, "k2") == 1
        owner.own([slot])
        assert call(executor, "k1") >= 1


def test_a_replica_as_the_only_address(cluster):
    """It names the primaries, and nothing else is sent to it but the queries for them."""
    replica = cluster.replicas_of(cluster.primaries[0])[0]
    with closing(blocking_executor(client_from_url(f"redis://{replica.address}?cluster=true"))) as executor:
        executor.connect(10)
        assert {call(executor, key) for key in KEYS} == {1}


@pytest.mark.parametrize("name", NAMES)
def test_a_server_that_is_no_node(name):
    """It was started without cluster mode."""
    server = Server(name, port=free_port(), bind="127.0.0.1")
    try:
        refused_connection(f"redis://127.0.0.1:{server.port}?cluster=true", "leave \\?cluster=true out")
    finally:
        server.stop()


def test_no_node_answers():
    """Two addresses: each is named with what is wrong with it."""
    refused_connection(
        "redis://127.0.0.1:1,127.0.0.1:2?cluster=true",
        r"no node of the cluster reports its slots \(127\.0\.0\.1:1: .*refused.*; 127\.0\.0\.1:2: .*refused",
    )


def test_a_user_without_permission(cluster):
    """The remedy names the permission, and nothing was written."""
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-cluster")
    url = cluster.url.replace("redis://", "redis://gateway:secret@")
    refused_connection(url, r"grant this user \+cluster\|slots")
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "gateway", "+cluster|slots")
    with closing(blocking_executor(client_from_url(url))) as executor:
        executor.connect(10)
        assert call(executor, "k1") == 1


def test_the_permissions_that_a_cluster_takes(cluster):
    """Three commands more than one server, also while a slot moves; without ASKING that is said."""
    few = "-@all +eval +evalsha +incr +time +cluster|slots +cluster|info"
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", *few.split())
    slot = slot_of("{few}")
    migration = cluster.migration(slot, other_than(cluster, cluster.owner_of(slot)))
    client = client_from_url(cluster.url.replace("redis://", "redis://few:secret@"))
    with closing(blocking_executor(client)) as executor:
        executor.connect(10)
        assert [next(migration), next(migration)] == ["importing", "migrating"]
        with pytest.raises(StoreUnavailable, match=r"(?i)NOPERM.*asking.*lua/ACL\.md"):
            call(executor, "{few}1")
        for node in cluster.nodes:
            node.admin.execute_command("ACL", "SETUSER", "few", "+asking")
        assert call(executor, "{few}1") == 1
        assert list(migration) == ["assigned"]
        assert call(executor, "{few}1") == 2
    cluster.wait_agreed()


def test_a_plain_client_of_a_node(cluster):
    """Keys of the node's own slots would do: the first other one says what to write."""
    url = cluster.url.removesuffix("?cluster=true")
    with closing(blocking_executor(client_from_url(url))) as executor:
        key = next(key for key in KEYS if cluster.node_of(key) is not cluster.primaries[0])
        with pytest.raises(StoreUnavailable, match=r"MOVED.*\?cluster=true"):
            call(executor, key)


# Clients that are passed in


def test_a_cluster_client_is_a_configuration_only(cluster, monkeypatch):
    """User, password and addresses are its; nothing is sent through it."""
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all")
    client = cluster.client(username="me", password="secret", socket_timeout=3)
    monkeypatch.setattr(type(client), "execute_command", None)
    with closing(blocking_executor(client)) as executor, closing(blocking_executor(client)) as another:
        executor.connect(10)
        assert [call(executor, "k1"), call(another, "k1")] == [1, 2]
        assert executor._nodes is another._nodes
        assert executor._patience_s == 3
        users = {each["user"] for node in cluster.primaries for each in node.admin.client_list() if each["cmd"] != ""}
        assert "me" in users
        client.close()
        assert call(executor, "k1") == 3


def test_another_address_than_the_cluster_reports(cluster):
    """As with containers whose ports are mapped."""
    reported = []

    def remap(address):
        reported.append(address)
        return "localhost", address[1]

    client = cluster.client(address_remap=remap)
    with closing(blocking_executor(client)) as executor:
        executor.connect(10)
        assert {call(executor, key) for key in KEYS} == {1}
        assert {node.address[0] for node in executor._nodes._by_address.values()} == {"localhost"}


def test_reads_that_change_nothing_are_not_unknown(cluster, executor):
    """As with one server: a read without an answer was not counted."""
    assert executor.run(request(BatchableReads([("MGET", "k1", "k2")]))) == [[None, None]]
    assert executor.run(request(ScriptCall(Script("return 7"), [], []))) == 7


@pytest.mark.cluster
def test_nodes_of_different_servers():
    """As during an upgrade: what is sent to each is what all versions know."""
    with MixedCluster("both", primaries=2, replicas=0) as cluster:
        assert {node.name for node in cluster.primaries} == {"redis6", "valkey"}
        for node in cluster.primaries:
            with closing(blocking_executor(client_from_url(f"redis://{node.address}?cluster=true"))) as made:
                made.connect(10)
                assert {call(made, key) for key in KEYS} in ({1}, {2})
        assert values(cluster, KEYS) == dict.fromkeys(KEYS, 2)


class MixedCluster(Cluster):
    """Nodes of both servers in turn."""

    _names = cycle(["redis6", "valkey"])

    def _start(self):
        return Node(next(self._names), **self._options)
