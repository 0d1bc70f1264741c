"""What the blocking executor does about each answer of a node: a test for each row of the table of reactions.

The nodes are made up. Each call is sent by a check, as a read of one, and as a command of an administrator.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count

import pytest
from helpers.fake_cluster import NOT_SERVED
from helpers.fake_server import HANG_UP, SILENCE
from helpers.slot_load import blocking_executor, count_call, request
from helpers.waiting import wait_for
from redis.exceptions import ResponseError

from ratelimit import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.effects import BatchableReads, IndependentReads, PatientCommands
from ratelimit.store.blocking import connector
from ratelimit.store.blocking.nodes import Node
from ratelimit.store.clients import client_from_url
from ratelimit.store.cluster import topology
from ratelimit.store.cluster.client import ClusterClient
from ratelimit.store.cluster.reactions import MAX_ATTEMPTS
from ratelimit.store.cluster.slots import slot_of

pytestmark = pytest.mark.cluster

KEY = "key"
UPKEEP_INTERVAL_S = 5


def check(executor):
    return executor.call(count_call(KEY), time.monotonic())


def read(executor):
    (reply,) = executor.run(request(BatchableReads([("GET", KEY)])), time.monotonic())
    return reply if isinstance(reply, int) else int(reply)


def command(executor):
    (reply,) = executor.run(request([("GET", KEY)]))
    return reply


def script(executor):
    return executor.run(request(count_call(KEY)))


@pytest.fixture(params=[check, read, command, script])
def send(request):
    return request.param


@contextmanager
def open_executor(fakes, deadline=1.0, client=None):
    with closing(blocking_executor(client or client_from_url(fakes.url, 1.0), deadline)) as executor:
        executor.connect(10)
        yield executor


def test_moved(fakes, first, second, send):
    """It goes to the node that is named, and so does the next one; the topology is refreshed once, for all."""
    with open_executor(fakes) as executor, ThreadPoolExecutor(8) as threads:
        refreshes = fakes.refreshes
        first.answer = ResponseError(f"MOVED 1 {second.name}")
        fakes.owner, fakes.epoch = second, 2
        assert [*threads.map(send, [executor] * 50)] == [2] * 50
        assert send(executor) == 2
        assert len(first.calls) <= 8  # those that were on their way
        time.sleep(0.3)
        assert 1 <= fakes.refreshes - refreshes <= 3


def test_ask(fakes, first, second, send):
    """It goes to the node that is named behind ASKING; the next one to the owner. The topology is not refreshed."""
    with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answers.append(ResponseError(f"ASK 1 {second.name}"))
        assert send(executor) == 2
        assert second.calls[0] == "ASKING"
        assert len(second.calls) == 2
        assert send(executor) == 1
        time.sleep(0.2)
        assert fakes.refreshes == refreshes


def test_ask_of_a_node_that_does_not_know_the_script(fakes, first, second):
    """Sent by its source, it is redirected anew."""
    with open_executor(fakes) as executor:
        first.answers += [ResponseError(f"ASK 1 {second.name}")] * 2
        second.answers.append(ResponseError("NOSCRIPT No matching script. Please use EVAL."))
        assert check(executor) == 2
        assert second.calls == ["ASKING", "EVALSHA", "ASKING", "EVAL"]


def test_tryagain(fakes, first, second, send):
    """It goes to the same node once more, after a pause."""
    with open_executor(fakes) as executor:
        first.answers.extend([ResponseError("TRYAGAIN Multiple keys request during rehashing of slot")] * 3)
        assert send(executor) == 1
        assert len(first.calls) == 4
        assert second.calls == []


@pytest.mark.parametrize("code", NOT_SERVED)
def test_a_node_that_serves_the_slot_no_longer(fakes, first, second, code, send):
    """The topology is refreshed, though it was just before; another owner gets the call."""
    with open_executor(fakes) as executor:
        first.answer = NOT_SERVED[code]
        fakes.owner, fakes.epoch = second, 2
        assert send(executor) == 2
        assert len(first.calls) == 1


def test_a_former_owner_that_is_cut_off_from_the_others(fakes, first, second, send):
    """It goes on reporting that it owns the slot, and that the cluster is down: another node reports the failover."""
    with open_executor(fakes) as executor:
        first.answer, first.old_topology = NOT_SERVED["CLUSTERDOWN"], (first, 1)
        fakes.owner, fakes.epoch = second, 2
        assert send(executor) == 2
        assert executor._nodes.find() == second.address


@pytest.mark.parametrize("code", NOT_SERVED)
def test_without_another_owner_it_fails_with_the_error_of_the_node(fakes, first, second, code, send):
    with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answer = NOT_SERVED[code]
        with pytest.raises(StoreUnavailable, match=code) as caught:
            send(executor)
        assert caught.value.cause == ("deposed" if code in ("READONLY", "MASTERDOWN") else "refused")
        assert len(first.calls) == 1
        assert second.calls == []
        time.sleep(0.2)
        assert fakes.refreshes > refreshes


def test_a_node_that_is_gone_before_anything_was_sent(fakes, first, second, send):
    """Its successor gets the call."""
    with open_executor(fakes) as executor:
        fakes.owner, fakes.epoch = second, 2
        first.close()
        time.sleep(0.1)
        assert send(executor) == 2


def fail_all(first, failure):
    """Have the first node carry nothing out, in the way that is named."""
    if failure == "closed":
        first.close()
        wait_for(lambda: first.open_count == 0)
    else:
        first.answer = NOT_SERVED[failure]


@pytest.mark.parametrize("failure", ["closed", "CLUSTERDOWN"])
def test_a_node_that_fails_just_after_a_refresh(fakes, first, second, failure, send, monkeypatch):
    """The topology is refreshed at once, and no call fails: those that come meanwhile wait for it."""
    monkeypatch.setattr(topology, "REQUESTED_INTERVAL_S", 60.0)
    monkeypatch.setattr(topology, "UNREACHABLE_INTERVAL_S", 60.0)
    with open_executor(fakes) as executor, ThreadPoolExecutor(8) as threads:
        fakes.owner, fakes.epoch = second, 2
        refreshes = fakes.refreshes
        fail_all(first, failure)
        assert [*threads.map(send, [executor] * 50)] == [2] * 50
        assert fakes.refreshes - refreshes <= 2  # of a node that failed before and after its breaker opened


@pytest.mark.parametrize("failure", ["closed", "CLUSTERDOWN"])
def test_a_node_that_is_away_and_stays_the_owner(fakes, first, failure, send):
    """Once a refresh has said so, its callers fail without waiting, also while no other refresh ends."""
    with open_executor(fakes, 10.0) as executor:
        fail_all(first, failure)
        began_s = time.monotonic()
        for _ in range(2):  # an idle connection, and the breaker
            with pytest.raises(StoreUnavailable):
                send(executor)
        fakes.hides_slots = True
        for _ in range(100):
            with pytest.raises(StoreUnavailable):
                send(executor)
        assert time.monotonic() - began_s < 0.9 * topology.FRESH_S


def test_a_node_that_is_gone_without_a_successor(fakes, first, second, send):
    with open_executor(fakes) as executor:
        first.close()
        time.sleep(0.02)
        with pytest.raises(StoreUnavailable) as caught:
            send(executor)
        assert caught.value.cause == "not_sent"
        assert second.calls == []


@pytest.mark.parametrize("end", [HANG_UP, SILENCE], ids=["hung up", "silent"])
def test_what_was_sent_and_not_answered_is_never_sent_again(fakes, first, second, end):
    with open_executor(fakes, 0.3) as executor:
        first.answers.append(end)
        fakes.owner, fakes.epoch = second, 2
        with pytest.raises(StoreTimeout) as caught:
            check(executor)
        assert caught.value.cause == "unknown"
        assert first.calls == ["EVALSHA"]
        assert second.calls == []


def test_what_has_no_answer_stays_unknown_where_the_topology_cannot_be_refreshed(fakes, first, monkeypatch):
    """As there can be no more threads: what was sent does not depend on it."""
    with open_executor(fakes, 0.3) as executor:

        def wake():
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(executor._nodes._background, "wake", wake)
        first.answers.append(HANG_UP)
        with pytest.raises(StoreTimeout) as caught:
            check(executor)
        assert caught.value.cause == "unknown"


def test_a_refresh_that_raises_is_followed_by_others(fakes, first, second, monkeypatch):
    """No caller has to request them."""
    with open_executor(fakes) as executor:
        nodes, rounds = executor._nodes, []

        def refresh(redirected_to, refresh=nodes._refresh):
            rounds.append(redirected_to)
            if len(rounds) == 1:
                raise KeyError("of a listener")
            return refresh(redirected_to)

        monkeypatch.setattr(nodes, "_refresh", refresh)
        monkeypatch.setattr(nodes, "_is_unreachable", lambda: True)  # so the next one comes in a moment
        before = nodes._refreshes
        nodes.request_refresh()
        wait_for(lambda: nodes._refreshes >= before + 2)
        assert check(executor) == 1


def test_a_silent_node_does_not_use_up_the_time_of_the_others(fakes, first, second):
    """It comes first in the order of nodes, and has no idle connection: those of others are not kept waiting."""
    with open_executor(fakes, 0.2) as executor:
        silent, other = sorted([first, second], key=lambda node: node.address)
        silent.is_silent = True
        executor._nodes._by_address[silent.address]._idle.clear()
        in_slot_0 = next(key for key in map(str, count()) if slot_of(key) == 0)
        reads = IndependentReads([("GET", KEY), ("GET", in_slot_0)])
        replies = executor.run(request(reads), time.monotonic())
        assert replies[other is second] == (2 if other is second else 1)
        assert isinstance(replies[silent is second], StoreUnavailable)


def test_a_cluster_that_is_gone_is_not_probed_for_ever(fakes, monkeypatch):
    """Without a caller the threads that connect to its nodes end; the next caller connects to those that are back."""
    assert UPKEEP_INTERVAL_S < Node.PROBES_UNUSED_S < 60
    monkeypatch.setattr(Node, "PROBES_UNUSED_S", 0.5)
    attempts = []

    def open_connection(*arguments, open_connection=connector.open_connection):
        attempts.append(time.monotonic())
        return open_connection(*arguments)

    with open_executor(fakes) as executor:
        nodes = [*executor._nodes._by_address.values()]
        monkeypatch.setattr(connector, "open_connection", open_connection)
        for fake in fakes.nodes:
            fake.close()
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:  # as long as it has callers, it is probed
            with pytest.raises(StoreUnavailable):
                check(executor)
            time.sleep(0.02)
        assert len(attempts) > 8
        assert executor._nodes.owners[slot_of(KEY)].breaker_state() == (True, 1)  # it has not begun anew
        wait_for(lambda: not any(node.connector._background._thread for node in nodes))
        assert not executor.breaker_state().is_open
        attempts.clear()
        time.sleep(0.5)  # nothing happens: there is no other way to see that
        assert attempts == []
        for fake in fakes.nodes:
            fake.listen_again()
        assert [check(executor), check(executor)] == [1, 1]


def test_patient_commands_follow_redirections(fakes, first, second):
    """On their own connection, also behind ASKING; nodes that redirect them to each other end that."""
    patient = PatientCommands([("GET", KEY), ("WAIT", 1, 1000)], 1.0)
    with open_executor(fakes) as executor:
        first.answers += [ResponseError(f"ASK 1 {second.name}"), ResponseError(f"MOVED 1 {second.name}")]
        assert executor.run(request(patient))[0] == 2
        assert executor.run(request(patient))[0] == 2
        assert second.calls == ["ASKING", "GET", "GET"]
        first.answer = ResponseError(f"MOVED 1 {second.name}")
        second.answer = ResponseError(f"MOVED 1 {first.name}")
        failed, _ = executor.run(request(patient))
        assert isinstance(failed, StoreUnavailable)
        assert "to each other" in str(failed)


def test_the_error_of_a_node_is_not_its_own_cause(fakes, first):
    """Whoever looks for the origin of an error would never find an end."""
    with open_executor(fakes) as executor:
        first.close()
        time.sleep(0.02)
        with pytest.raises(StoreUnavailable) as caught:
            executor.run(request([("GET", KEY)]))
        assert caught.value.__cause__ is not caught.value


def test_all_else_fails_as_on_one_server(fakes, first, second, send):
    with open_executor(fakes) as executor:
        refreshes = fakes.refreshes
        first.answer = ResponseError("OOM command not allowed when used memory > 'maxmemory'.")
        with pytest.raises(StoreUnavailable, match="OOM"):
            send(executor)
        first.answer = ResponseError("ERR something else")
        with pytest.raises(StoreError, match="something else"):
            send(executor)
        assert len(first.calls) == 2
        assert second.calls == []
        time.sleep(0.2)
        assert fakes.refreshes == refreshes


def test_nodes_that_redirect_a_call_to_each_other_end_it(fakes, first, second, send):
    """It is sent few times, within its deadline."""
    with open_executor(fakes, 0.2) as executor:
        first.answer = ResponseError(f"MOVED 1 {second.name}")
        second.answer = ResponseError(f"MOVED 1 {first.name}")
        began_s = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"redirect slot \d+ to each other"):
            send(executor)
        assert time.monotonic() - began_s < 2
        assert len(first.calls) + len(second.calls) <= MAX_ATTEMPTS


def test_addresses_of_redirections_are_mapped(fakes, first, second):
    """As the client that was passed in maps those that the cluster reports."""
    inside = {("10.0.0.1", 7000): first.address, ("10.0.0.2", 7000): second.address}
    by_url = client_from_url(fakes.url, 1.0)
    client = ClusterClient(by_url.connection_pool, by_url.start_nodes, lambda address: inside.get(address, address))
    with open_executor(fakes, client=client) as executor:
        first.answers.append(ResponseError("ASK 1 10.0.0.2:7000"))
        assert check(executor) == 2
