"""Warming up: everything that a first check needs is there after it, or one error says all that is not."""

import contextlib

import pytest
from helpers.proxy import Proxy
from helpers.redis_snapshot import exact_snapshot
from helpers.servers import NAMES, Server

from ratelimit import Catalog, ConfigError, Limiter, StoreError, StoreUnavailable, Throttle, UsagePlan
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.scripts import load

STAGE, METHOD = "petstore/prod", "GET /pets"


def warm_up(limiter):
    limiter._namespace.before_refresh = lambda: None
    limiter._store.run(limiter._checker.warm_up())


def with_plan(client, **options):
    catalog = Catalog(client, **options)
    catalog.put_plan(UsagePlan("gold", Throttle(1, 5), None, [STAGE]))
    return catalog.create_key(plans=["gold"]).value


def error_of(url, **options):
    with Limiter.from_url(url, deadline=5, **options) as limiter, pytest.raises(StoreError) as caught:
        warm_up(limiter)
    return caught.value


@contextlib.contextmanager
def user(server, *permissions):
    """The URL of a user who may do everything but what is said."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "warm", "reset", "on", ">secret", "~*", "&*", "+@all", *permissions)
        try:
            yield f"unix://warm:secret@{server.socket}"
        finally:
            client.acl_deluser("warm")


def test_a_check_after_it_takes_what_its_key_takes(server):
    """Entry, record, check; the scripts are there, and nothing was written."""
    with server.client() as client, Proxy(server.socket) as relay:
        key = with_plan(client)
        client.script_flush()
        before = exact_snapshot(server)
        with Limiter.from_url(relay.url, deadline=5) as limiter:
            warm_up(limiter)
            assert exact_snapshot(server) == before
            assert client.script_exists(*[load(name).sha for name in GATEWAY_SCRIPTS]) == [True] * len(GATEWAY_SCRIPTS)
            relay.round_trips.clear()
            assert limiter.check(key, STAGE, METHOD).allowed
            assert len(relay.round_trips) == 3
            warm_up(limiter)


def test_no_catalogue(server):
    error = error_of(server.url)
    assert (type(error), error.cause) == (StoreError, "lost")
    assert str(error).startswith("there is no catalogue in namespace 'ratelimit': apply a plan file")


def test_another_pepper(server):
    with server.client() as client:
        with_plan(client, pepper="salt")
    with Limiter.from_url(server.url, deadline=5, pepper="sugar") as limiter, pytest.raises(ConfigError) as caught:
        warm_up(limiter)
    assert caught.value.field == "pepper"


@pytest.mark.parametrize("command", ["evalsha", "hgetall", "mget", "hget", "set", "setrange", "hmget", "time"])
def test_a_permission_that_is_missing(command, server):
    """Its name and the remedy, whether a check sends the command or a script of its."""
    with server.client() as client:
        with_plan(client)
    with user(server, f"-{command}") as url:
        error = error_of(url)
    assert error.cause == "refused"
    assert "grant this user the permissions in lua/ACL.md" in str(error)
    if server.name != "redis6":  # which does not say which
        assert f"'{command}'" in str(error)


def test_a_permission_for_names_that_is_missing(server):
    with server.client() as client:
        with_plan(client)
    with user(server, "resetkeys", "~{ratelimit}:catalog") as url:
        error = error_of(url)
    assert "No permissions to access a key" in str(error) or "no permissions to access" in str(error).lower()


def test_scripts_that_nobody_has_loaded(server):
    """For a user who may not send them; once they are loaded, all is well."""
    with server.client() as client:
        with_plan(client)
        client.script_flush()
        with user(server, "-eval", "-script") as url:
            assert "run `ratelimit scripts load`" in str(error_of(url))
            Catalog(client).load_scripts()
            with Limiter.from_url(url, deadline=5) as limiter:
                warm_up(limiter)


def test_all_that_is_wrong_is_said_at_once(server):
    """No catalogue, no script, and two commands that are not permitted."""
    with server.client() as client:
        client.flushall()
        client.script_flush()
    with user(server, "-eval", "-script", "-set", "-mget") as url:
        error = error_of(url)
    assert error.cause == "lost"
    for part in ("there is no catalogue", "ratelimit scripts load", "mget", "'set'"):
        if server.name != "redis6" or not part.strip("'").isalpha():
            assert part in str(error)
    assert str(error).count("there is no catalogue") == 1


def test_a_server_that_evicts_is_a_warning(server, caplog):
    with server.client() as client:
        with_plan(client)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with Limiter.from_url(server.url, deadline=5) as limiter:
                warm_up(limiter)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert [record.getMessage() for record in caplog.records if "maxmemory-policy allkeys-lru" in record.getMessage()]


def test_no_server(tmp_path):
    """There is no more to say than that."""
    with Limiter.from_url(f"unix://{tmp_path}/none", deadline=1) as limiter, pytest.raises(StoreUnavailable) as caught:
        warm_up(limiter)
    assert caught.value.cause == "not_sent"
    assert str(caught.value).startswith("no connection to Redis: ")


@pytest.fixture(params=NAMES)
def own_server(request):
    server = Server(request.param)
    yield server
    server.stop()


STATES = {
    "a replica": (("REPLICAOF", "127.0.0.1", 1), "deposed", "connect to the primary"),
    "full": (("CONFIG", "SET", "maxmemory", 1), "refused", "more memory"),
    "alone": (("CONFIG", "SET", "min-replicas-to-write", 1), "refused", "min-replicas-to-write"),
    "locked": (("CONFIG", "SET", "requirepass", "secret"), "refused", "pass the user and the password"),
}


@pytest.mark.parametrize("state", STATES)
def test_a_server_that_takes_no_writes(state, own_server):
    """Checks would fail: that is said before the first one."""
    command, cause, remedy = STATES[state]
    with own_server.client() as client:
        with_plan(client)
        client.execute_command(*command)
        error = error_of(own_server.url)
        assert error.cause == cause
        assert remedy in str(error)
