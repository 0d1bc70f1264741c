"""Clients of clusters: how they connect to nodes is taken from them, and nothing else."""

import ssl
from importlib import import_module

import pytest

from ratelimit import ConfigError
from ratelimit.store import redis_compat
from ratelimit.store.clients import cluster_client, patience_of, place_of, validate_async_client, validate_client

KINDS = {"redis": "RedisCluster", "valkey": "ValkeyCluster"}
NODE = {"host": "10.0.0.1", "port": 7000}
SETTINGS = {"username": "me", "password": "S3cr3tPw", "socket_timeout": 2.5}


@pytest.fixture(params=["redis", "valkey", "redis.asyncio", "valkey.asyncio"])
def kind(request, monkeypatch):
    """Each class of clients of a cluster; none connects."""
    library = request.param.partition(".")[0]
    for module, name in (("cluster", "NodesManager"), ("_parsers.commands", "CommandsParser")):
        monkeypatch.setattr(getattr(import_module(f"{library}.{module}"), name), "initialize", lambda *_, **__: None)
    return getattr(import_module(request.param), KINDS[library])


def connection_to_another_node(client):
    """What connects to a node that the client has never heard of."""
    pool = redis_compat.pool_at(cluster_client(client).connection_pool, ("10.0.0.9", 7009))
    return redis_compat.new_connection(pool, 1.0)


def test_how_nodes_are_connected_to(kind):
    """Each has the client's user, password and time limit, at its own address."""
    client = kind(**NODE, **SETTINGS)
    taken = cluster_client(client)
    assert taken is cluster_client(client)
    assert taken.start_nodes == (("10.0.0.1", 7000),)
    assert patience_of(taken.connection_pool) == 2.5
    connection = connection_to_another_node(client)
    assert (connection.host, connection.port, connection.username) == ("10.0.0.9", 7009, "me")
    assert connection.password == "S3cr3tPw"
    # Neither asks to read from replicas, nor reads by the cluster client's own parser.
    assert getattr(connection, "redis_connect_func", None) is getattr(connection, "valkey_connect_func", None) is None


def test_nodes_are_connected_to_with_tls(kind):
    connection = connection_to_another_node(kind(**NODE, ssl=True, ssl_ca_certs="/ca.pem", ssl_cert_reqs="required"))
    assert "SSLConnection" in {each.__name__ for each in type(connection).__mro__}
    assert connection.ca_certs == "/ca.pem"
    assert connection.cert_reqs == ssl.CERT_REQUIRED


def test_a_url_of_the_client(kind):
    scheme = "valkeys" if kind.__module__.startswith("valkey") else "rediss"
    connection = connection_to_another_node(kind.from_url(f"{scheme}://me:S3cr3tPw@10.0.0.1:7000"))
    assert "SSLConnection" in {each.__name__ for each in type(connection).__mro__}
    assert (connection.host, connection.port, connection.username) == ("10.0.0.9", 7009, "me")


def test_addresses_are_mapped_as_the_client_maps_them(kind):
    taken = cluster_client(kind(**NODE, address_remap=lambda address: ("localhost", address[1] + 1)))
    assert taken.remap(("10.0.0.1", 7000)) == ("localhost", 7001)
    assert cluster_client(kind(**NODE)).remap is None


def test_limiters_of_one_cluster_know_that_it_is_one(kind):
    assert place_of(kind(**NODE)) == place_of(kind(**NODE))
    assert place_of(kind(**NODE)) != place_of(kind(host="10.0.0.1", port=7001))


def test_too_few_connections_to_a_node(kind):
    """As with one server: refused where it is passed in."""
    client = kind(**NODE, max_connections=2)
    validate = validate_async_client if ".asyncio." in kind.__module__ else validate_client
    validate(client, ("checks", "a spare one"))
    with pytest.raises(ConfigError, match="its pool allows 2 connections, and 3 are needed"):
        validate(client, ("checks", "a spare one", "pushed changes"))
