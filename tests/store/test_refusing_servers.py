"""Servers that answer with an error: checks are 503, refused, with the server's word and what to do about it."""

import threading

import pytest
import redis
from helpers.ports import free_port
from helpers.servers import NAMES, Server

from ratelimit import Catalog, Limiter, Throttle, UsagePlan

STAGE, METHOD = "petstore/prod", "GET /pets"


@pytest.fixture(params=NAMES)
def start(request):
    """Starts a server that a test may break, with options."""
    started = []

    def start(**options):
        started.append(Server(request.param, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def key_of(client):
    catalog = Catalog(client)
    catalog.put_plan(UsagePlan("gold", Throttle(1, 5), None, [STAGE]))
    return catalog.create_key(plans=["gold"]).value


def assert_refused(limiter, key, *words):
    decision = limiter.check(key, STAGE, METHOD)
    assert (decision.status, decision.cause) == (503, "refused"), decision
    for word in words:
        assert word in decision.error
    assert key not in decision.error


def test_a_node_of_a_cluster(start):
    """That serves no slot yet."""
    server = start(port=free_port(), cluster_enabled="yes")
    with Limiter.from_url(server.url, deadline=5, on_unavailable="closed") as limiter:
        assert_refused(limiter, "x" * 30, "CLUSTERDOWN", "redis-cli --cluster check")


def test_a_server_that_is_busy(start):
    server = start(lua_time_limit=1)
    with (
        server.client() as client,
        server.client() as other,
        Limiter.from_url(server.url, deadline=5, on_unavailable="closed") as limiter,
    ):
        key = key_of(client)
        limiter._namespace.before_refresh = lambda: None
        assert limiter.check(key, STAGE, METHOD).allowed

        def run_long():
            with pytest.raises(redis.ResponseError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=run_long)
        thread.start()
        try:
            while (decision := limiter.check(key, STAGE, METHOD)).allowed or decision.status == 429:
                pass
            assert_refused(limiter, key, "BUSY")
        finally:
            client.script_kill()
            thread.join(10)


def test_a_server_that_cannot_save(start):
    """Its disk is gone: it takes no writes until that is repaired."""
    server = start(save="1 1")
    with server.client() as client, Limiter.from_url(server.url, deadline=5, on_unavailable="closed") as limiter:
        key = key_of(client)
        client.config_set("save", "3600 1")
        (server.folder / "dump.rdb").mkdir()  # it cannot be replaced by a file
        with pytest.raises(redis.RedisError):
            client.save()
        client.bgsave()
        while client.info("persistence")["rdb_bgsave_in_progress"]:
            pass
        assert client.info("persistence")["rdb_last_bgsave_status"] == "err"
        assert_refused(limiter, key, "MISCONF")
        client.config_set("save", "")  # or it would not end
