"""A server that answers with an error: refusals follow the policy, and what cannot be judged by is 503 in any case."""

import json
import threading
from contextlib import contextmanager

import pytest
import redis
from helpers.outages import OutageGateway
from helpers.replica import STAGE
from helpers.servers import NAMES, Server
from helpers.waiting import wait_for

from ratelimit import ConfigError, Quota, Throttle, UsagePlan

POLICIES = ("local", "open", "closed")
SOURCES = {"local": "local", "open": "fail_open", "closed": "fail_closed"}
CATALOG = "{ratelimit}:catalog"


@contextmanager
def gateway_of(server, policy, is_async=False, **options):
    """A gateway that has met a key, whose plan leaves it 19 of 20 tokens."""
    with OutageGateway(server, is_async, on_unavailable=policy, deadline=5, denial_cache=False, **options) as gateway:
        plan = UsagePlan("gold", Throttle("1/1000", 20), Quota(100, "DAY"), [STAGE])
        gateway.catalog.put_plan(plan)
        gateway.begin()
        gateway.key = gateway.catalog.create_key(plans=["gold"])
        gateway.meet(gateway.key)
        assert gateway.checks(1, gateway.key.value) == [(200, "redis")]
        yield gateway


@contextmanager
def without_memory(client, _):
    client.config_set("maxmemory", 1)
    yield "OOM"
    client.config_set("maxmemory", 0)


@contextmanager
def without_replicas(client, _):
    client.config_set("min-replicas-to-write", 1)
    yield "NOREPLICAS"
    client.config_set("min-replicas-to-write", 0)


@contextmanager
def a_replica(client, _):
    client.replicaof("127.0.0.1", 1)
    yield "READONLY"
    client.replicaof("NO", "ONE")


@contextmanager
def busy(client, server):
    client.config_set("lua-time-limit", 1)
    with server.client() as other:

        def run_long():
            with pytest.raises(redis.ResponseError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=run_long)
        thread.start()
        yield "BUSY"
        client.script_kill()
        thread.join(10)
    client.config_set("lua-time-limit", 5000)


@contextmanager
def without_permission(client, _):
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    yield "NOPERM"
    client.execute_command("ACL", "SETUSER", "default", "+@all")


REFUSALS = (without_memory, without_replicas, a_replica, busy, without_permission)


@pytest.fixture(params=NAMES)
def own_server(request):
    """A server that a test may break."""
    made = Server(request.param)
    yield made
    made.stop()


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.__name__)
@pytest.mark.parametrize("is_async", [False, True], ids=["blocking", "asyncio"])
def test_a_refusal_follows_the_policy(is_async, refusal, own_server):
    """By each policy; what is admitted is charged once the server takes commands again, since it counted nothing."""
    for policy in POLICIES:
        with gateway_of(own_server, policy, is_async) as gateway:
            with refusal(gateway.client, own_server) as word:
                if word == "BUSY":  # soon; all others are at once
                    wait_for(lambda gateway=gateway: gateway.peek(gateway.key.value).source != "redis")
                decisions = [gateway.check(gateway.key.value) for _ in range(4)]
                assert [decision.source for decision in decisions] == [SOURCES[policy]] * 4
                assert {decision.cause for decision in decisions} == {"deposed" if word == "READONLY" else "refused"}
                assert word in decisions[0].error
                assert gateway.owed == (0 if policy == "closed" else 4)
            wait_for(lambda gateway=gateway: not gateway.waiting)
            assert gateway.used("gold", gateway.key) == (1 if policy == "closed" else 5)


def another_type(client, key):
    name = f"ratelimit:{{{key.id}}}"
    client.delete(name)
    client.set(name, "x")


def corrupt_state(client, key):
    client.hset(f"ratelimit:{{{key.id}}}", "p:gold", b"x" * 56)


def unreadable_record(client, key):
    client.set(f"ratelimit:{{{key.id}}}:record", "{")
    client.hset(f"ratelimit:{{{key.id}}}", "r", "x" * 26)


def lost_record(client, key):
    client.delete(f"ratelimit:{{{key.id}}}:record")
    client.hset(f"ratelimit:{{{key.id}}}", "r", "x" * 26)


def newer_schema(client, _):
    client.hset(CATALOG, mapping={"schema": "99", "version": "77"})
    client.publish("ratelimit:changes", "77")


def lost_catalogue(client, _):
    client.delete(CATALOG)
    client.publish("ratelimit:changes", "77")


def unreadable_plan(client, _):
    client.hset(CATALOG, mapping={"plan:gold": json.dumps([]), "version": "77"})
    client.publish("ratelimit:changes", "77")


LOSSES = (another_type, corrupt_state, unreadable_record, lost_record, newer_schema, lost_catalogue, unreadable_plan)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("policy", POLICIES)
def test_what_cannot_be_judged_by_is_503_by_every_policy(policy, loss, server):
    with gateway_of(server, policy) as gateway:
        loss(gateway.client, gateway.key)
        wait_for(lambda: gateway.check(gateway.key.value).source != "redis")
        decision = gateway.check(gateway.key.value)
        assert (decision.status, decision.source) == (503, "fail_closed")
        assert decision.cause in ("refused", "lost")
        assert gateway.waiting == 0


def test_a_wrong_pepper_is_raised_as_ever(server):
    with gateway_of(server, "open") as gateway:
        gateway.client.hset(CATALOG, mapping={"pepper": "another", "version": "77"})
        gateway.client.publish("ratelimit:changes", "77")
        with pytest.raises(ConfigError, match="pepper"):
            wait_for(lambda: not gateway.check(gateway.key.value))
