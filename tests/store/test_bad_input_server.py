"""A Redis that may not be used, cannot run scripts or is gone: 503 with a cause, and nothing in it changes.

Once the fault is removed, the same limiter works as if nothing had been.
"""

import subprocess

import pytest
from helpers.gateway import GET_PETS, assert_unavailable, tokens_left, with_state
from helpers.redis_snapshot import snapshot_without_denials
from helpers.servers import NAMES, Server

from ratelimit import Limiter, StoreError, StoreUnavailable


@pytest.mark.parametrize("denied", ["eval evalsha", "evalsha", "eval", "hmget", "get"])
def test_commands_that_may_not_be_used(denied, server, clock):
    """A user who may not call scripts, or what they call, gets a 503 with Redis' words; once allowed, all works."""
    commands = denied.split()
    with server.client() as admin, Limiter(admin, clock=clock) as limiter:
        gateway = with_state(limiter, admin, clock)
        admin.acl_setuser("gateway", enabled=True, nopass=True, keys="*", commands=["+@all"], reset=True)
        try:
            with server.client(username="gateway", password="any") as client, Limiter(client, clock=clock) as limited:
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
    with own_server.client() as client, Limiter(client, clock=clock) as limiter:
        gateway = with_state(limiter, client, clock)
        before = snapshot_without_denials(client)
        client.execute_command(*begin)
        assert_unavailable(gateway, "StoreUnavailable: Redis refused the command: ", message, peek=False)
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
    with own_server.client() as client, Limiter(client, clock=clock) as limiter:
        gateway = with_state(limiter, client, clock)
        plain = own_server.process.args
        stop(own_server)
        start(own_server, "--include", str(settings))
        before = snapshot_without_denials(client)
        assert_unavailable(gateway, "StoreUnavailable: ", "unknown command")
        with pytest.raises(StoreError, match="unknown command"):
            gateway.catalog.create_key()
        assert snapshot_without_denials(client) == before
        stop(own_server)
        own_server.process.args = plain
        start(own_server)
        assert tokens_left(gateway) == 3


def test_a_dead_server(own_server, clock):
    """Without a server checks are 503, not sent to anybody; when it is back, the same limiter goes on where it was."""
    with own_server.client() as client, Limiter(client, clock=clock) as limiter:
        gateway = with_state(limiter, client, clock)
        before = snapshot_without_denials(client)
        stop(own_server)
        assert_unavailable(gateway, "StoreUnavailable: no connection to Redis")
        with pytest.raises(StoreError, match="no connection to Redis"):
            gateway.catalog.create_key()
        start(own_server)
        assert snapshot_without_denials(client) == before
        assert tokens_left(gateway) == 3
