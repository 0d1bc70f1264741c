"""Changes that wait for the replicas of Redis: how many acknowledged them is reported, exactly, and never too many."""

import copy
import json
import pickle
import re
import threading
import time
from types import SimpleNamespace

import pytest
from helpers.commands import run
from helpers.replicas import ReplicatedServer
from helpers.servers import NAMES
from helpers.twins import CatalogTwin, RunningLimiter
from helpers.waiting import wait_for

from ratelimit import Catalog, ConfigError, NotFound, Replication, StoreUnavailable, Throttle, UsagePlan
from ratelimit.admin import durability

STAGE = "petstore/prod"
NOBODY, ALL, NONE_OF_TWO, ONE_OF_TWO = (
    Replication(acknowledged, replicas, has_min_replicas=False)
    for acknowledged, replicas in ((0, 0), (2, 2), (0, 2), (1, 2))
)


@pytest.fixture(scope="module", params=NAMES)
def replicated(request):
    with ReplicatedServer(request.param, replicas=2) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def catalog(replicated, request):
    """Either catalogue of a primary with two replicas."""
    return CatalogTwin(replicated.primary, request.param)


@pytest.fixture
def key(replicated):
    with replicated.primary.client() as client:
        catalog = Catalog(client)
        for plan_id in ("gold", "silver"):
            catalog.put_plan(UsagePlan(plan_id, Throttle(1, 5), stages=[STAGE]))
        return catalog.create_key(plans=["gold"])


def test_all_replicas(catalog, key):
    """Each change that revokes reports it; without `durable`, and of a key that is read, nothing is reported."""
    assert catalog.update_key(key.id, enabled=False).replication is None
    assert catalog.update_key(key.id, enabled=False, durable=True).replication == ALL
    rotated = catalog.rotate_key(key.id, durable=True)
    assert (rotated.replication, len(rotated.value)) == (ALL, len(key.value))
    assert catalog.move_key(key.id, "gold", "silver", durable=True).replication == ALL
    changed = catalog.remove_key_from_plan(key.id, "silver", durable=True)
    assert (changed.replication, changed.plans) == (ALL, ())
    assert catalog.get_key(key.id) == changed
    assert catalog.get_key(key.id).replication is None
    assert catalog.delete_key(key.id, durable=True) == ALL
    assert catalog.delete_key(catalog.create_key().id) is None


def test_replicas_that_do_not_answer(catalog, key, replicated):
    """They are counted as connected: none of two, then one of two acknowledge. The change is made either way."""
    one, other = replicated.replicas
    with one.stopped():
        with other.stopped():
            began_s = time.monotonic()
            changed = catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=0.2)
            assert time.monotonic() - began_s >= 0.2
        assert (changed.replication, changed.enabled) == (NONE_OF_TWO, False)
        replicated.wait_acknowledged(1)
        assert catalog.update_key(key.id, name="x", durable=True, durable_timeout=0.3).replication == ONE_OF_TWO
        assert catalog.delete_key(key.id, durable=True, durable_timeout=0.3) == ONE_OF_TWO
    with pytest.raises(NotFound):
        catalog.get_key(key.id)


def test_a_server_that_needs_replicas(catalog, key, replicated):
    """Only then is a change safe: it says so itself that it must have one."""
    assert not catalog.update_key(key.id, enabled=False, durable=True).replication.is_safe
    with replicated.configured(min_replicas_to_write=1, min_replicas_max_lag=10):
        changed = catalog.update_key(key.id, enabled=False, durable=True)
        assert changed.replication == Replication(2, 2, has_min_replicas=True)
        assert changed.replication.is_safe
    with replicated.configured(min_replicas_to_write=1, min_replicas_max_lag=0):  # which switches it off
        assert catalog.update_key(key.id, enabled=False, durable=True).replication == ALL


def test_what_is_safe():
    """All that are connected, at least one, and a server that needs one."""
    cases = {(0, 0, True): False, (1, 1, False): False, (1, 2, True): False, (1, 1, True): True, (2, 2, True): True}
    assert {case: Replication(*case).is_safe for case in cases} == cases
    assert [Replication(*case).is_complete for case in cases] == [False, True, False, True, True]


def test_a_server_without_replicas(server):
    with server.client() as client:
        catalog = Catalog(client)
        changed = catalog.update_key(catalog.create_key().id, enabled=False, durable=True)
    assert changed.replication == NOBODY
    assert not changed.replication.is_complete


def test_copies_keep_it(catalog, key):
    """But for the value, as ever."""
    rotated = catalog.rotate_key(key.id, durable=True)
    for made in (pickle.loads(pickle.dumps(rotated)), copy.copy(rotated)):
        assert (made.replication, made.value, made) == (ALL, None, rotated)


@pytest.mark.parametrize("durable", [1, "yes", None])
def test_durable_is_true_or_false(catalog, key, durable):
    with pytest.raises(ConfigError, match=r"^durable: must be true or false, not "):
        catalog.update_key(key.id, enabled=False, durable=durable)
    assert catalog.get_key(key.id).enabled


@pytest.mark.parametrize("timeout", [0, -1, 61, float("nan"), "1", True, None])
def test_the_timeout_is_a_number_of_seconds(catalog, key, timeout):
    with pytest.raises(ConfigError, match=r"^durable_timeout: must be seconds above 0, at most 60, not "):
        catalog.delete_key(key.id, durable=True, durable_timeout=timeout)
    assert catalog.get_key(key.id).enabled


@pytest.mark.parametrize("missing", ["wait", "info"])
def test_without_permission_nothing_is_changed(catalog, key, replicated, missing):
    """The error comes first, and names the command and the remedy; what need not be durable is done."""
    with replicated.primary.client() as root:
        root.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", f"-{missing}")
        try:
            options = {"username": "limited", "password": "secret"}
            server = SimpleNamespace(
                client=lambda: replicated.primary.client(**options),
                async_client=lambda: replicated.primary.async_client(**options),
            )
            limited = CatalogTwin(server, catalog.is_async)
            with pytest.raises(StoreUnavailable) as raised:
                limited.update_key(key.id, enabled=False, durable=True)
            for words in ("nothing was changed", "WAIT and INFO", f"'{missing}'", "lua/ACL.md"):
                assert words in str(raised.value)
            assert raised.value.cause == "refused"
            assert catalog.get_key(key.id).revision == key.revision
            assert not limited.update_key(key.id, enabled=False).enabled
        finally:
            root.acl_deluser("limited")


def test_the_connection_of_wait_has_written(replicated, key, monkeypatch):
    """Seeded: without a write before it on its connection, WAIT counts replicas at once, whatever they have."""
    commands_of = durability.PatientCommands
    with replicated.primary.client() as client:
        catalog = Catalog(client)
        with replicated.replicas[0].stopped(), replicated.replicas[1].stopped():
            assert catalog.update_key(key.id, durable=True, durable_timeout=0.1).replication == NONE_OF_TWO
            monkeypatch.setattr(
                durability, "PatientCommands", lambda commands, patience_s: commands_of(commands[1:], patience_s)
            )
            assert catalog.update_key(key.id, durable=True, durable_timeout=0.1).replication == ALL


def test_a_replica_that_was_not_connected(replicated, key):
    """It undoes what is safe with all others. A server that needs as many replicas as there are refuses the change."""
    apart = replicated.replicas[1]
    with replicated.primary.client() as client, apart.client() as promoted:
        promoted.replicaof("NO", "ONE")
        try:
            wait_for(lambda: client.info("replication")["connected_slaves"] == 1)
            with replicated.configured(min_replicas_to_write=1, min_replicas_max_lag=10):
                changed = Catalog(client).update_key(key.id, enabled=False, durable=True)
            assert changed.replication == Replication(1, 1, has_min_replicas=True)
            assert changed.replication.is_safe
            assert Catalog(promoted).get_key(key.id).enabled
            with (
                replicated.configured(min_replicas_to_write=2, min_replicas_max_lag=10),
                pytest.raises(StoreUnavailable, match="NOREPLICAS"),
            ):
                Catalog(client).update_key(key.id, enabled=False, durable=True)
        finally:
            replicated.attach(apart)


def test_a_replica_makes_no_changes(replicated, key):
    """It says so in its own words, though WAIT is another error there."""
    with replicated.replicas[0].client() as client, pytest.raises(StoreUnavailable, match="READONLY") as raised:
        Catalog(client).update_key(key.id, enabled=False, durable=True)
    assert raised.value.cause == "deposed"


@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
def test_nobody_else_waits(replicated, key, is_async):
    """Neither checks nor other changes, though the client allows no more connections than are needed anyway."""
    primary = replicated.primary
    with (
        RunningLimiter(
            lambda kind: kind((primary.async_client if is_async else primary.client)(max_connections=4), deadline=1),
            is_async,
        ) as limiter,
        primary.client() as root,
    ):
        limiter.warm_up()
        catalog = limiter.limiter.catalog
        replications = []

        def disable():
            changed = limiter.run(lambda: catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=60))
            replications.append(changed.replication)

        waiting = [threading.Thread(target=disable) for _ in range(5)]
        with replicated.replicas[0].stopped(), replicated.replicas[1].stopped():
            for thread in waiting:
                thread.start()
            wait_for(lambda: root.info("clients")["blocked_clients"] == len(waiting), 20)
            assert limiter.check(key.value, STAGE, "GET /pets").detail == "disabled"
            assert not limiter.run(lambda: catalog.get_key(key.id)).enabled
            assert limiter.run(lambda: catalog.update_key(key.id, name="x")).name == "x"
            assert replications == []
        for thread in waiting:
            thread.join(20)
        assert replications == [ALL] * len(waiting)
        assert root.info("clients")["blocked_clients"] == 0


class TestCommands:
    """`ratelimit keys`: it says what became of the change, and exits with 1 if not all replicas have it."""

    @pytest.fixture
    def keys(self, replicated):
        return lambda *arguments: run("keys", *arguments, RATELIMIT_URL=replicated.primary.url)

    def test_all_replicas(self, keys, key):
        commands = (
            ("disable", key.id),
            ("rotate", key.id, "--yes"),
            ("move", key.id, "gold", "silver"),
            ("remove", key.id, "silver"),
            ("delete", key.id, "--yes"),
        )
        for command in commands:
            result = keys(*command, "--durable")
            assert (result.exit_code, result.exception) == (0, None), result.output
            assert "2 of 2 connected replicas have acknowledged it" in " ".join(result.output.split())

    def test_fewer(self, keys, key, replicated):
        with replicated.replicas[0].stopped():
            result = keys("disable", key.id, "--durable", "--durable-timeout", "0.3")
            assert result.exit_code == 1
            assert f"Key {key.id} is disabled." in result.output
            assert "1 of 2 connected replicas have acknowledged it" in " ".join(result.output.split())

    def test_what_was_done_already_can_be_repeated(self, keys, key, replicated):
        """Those that did not have it then acknowledge it."""
        commands = (("move", key.id, "gold", "silver"), ("remove", key.id, "silver"), ("disable", key.id))
        for command in commands:
            with replicated.replicas[0].stopped():
                assert keys(*command, "--durable", "--durable-timeout", "0.05").exit_code == 1
            again = keys(*command, "--durable")
            assert again.exit_code == 0
            assert re.search(r" was (already moved to|not in|disabled already)", again.output)
            assert "2 of 2 connected replicas have acknowledged it" in " ".join(again.output.split())

    def test_as_json(self, keys, key, replicated):
        expected = {"acknowledged": 2, "replicas": 2, "has_min_replicas": False}
        result = keys("disable", key.id, "--durable", "--json")
        assert json.loads(result.stdout)["replication"] == expected
        assert "replication" not in json.loads(keys("disable", key.id, "--json").stdout)
        result = keys("delete", key.id, "--durable", "--json", "--yes")
        assert json.loads(result.stdout) == {"deleted": key.id, "replication": expected}

    def test_the_timeout_needs_the_other(self, keys, key):
        result = keys("disable", key.id, "--durable-timeout", "1")
        assert (result.exit_code, "--durable-timeout" in result.stderr) == (2, True)
