"""The URL of a server: what is accepted, and that nothing of a password is ever shown, whatever is wrong with it."""

import asyncio
import traceback

import pytest
import redis.asyncio.sentinel
import redis.sentinel
from helpers.commands import run
from helpers.servers import Server, binaries

from ratelimit import AsyncLimiter, ConfigError, Limiter, StoreError
from ratelimit.store.clients import async_client_from_url, client_from_url, enforces_slots
from ratelimit.store.urls import cluster_url, redact_url, sentinel_url

SECRET = "S3cr3tPw"
REQUEST = ("tenantUnknownKey00000001", "petstore/prod", "GET /pets")
A_HOST = "behind // or the @ must stand a host, and behind a : its port, from 1 to 65535"
A_SOCKET = "the path of the socket must be whole: a / belongs directly behind unix:// or the @"
AN_AT = "an @ stands behind a / or ?, where it must be written %40: does the user or password hold one of these"
BEGIN = "it does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://"
A_SENTINEL = "each of its Sentinels must be a host (an IPv6 address in []), and behind a : its port, from 1 to 65535"
A_SERVICE = "behind the Sentinels must stand the service, by the name that they know: /SERVICE or /SERVICE/DB"
NO_SENTINEL = "it names no Sentinel: behind // or the @ must stand at least one HOST:PORT"
NO_HOST = "in its list of Sentinels, HOST:PORT,HOST:PORT, a host is missing"
A_DATABASE = "a cluster has database 0 alone: leave the number out"
NOT_FOR_SENTINELS = "its options cluster and slots are not for Sentinels: a cluster fails over by itself"
WRONG = [
    # url, what is said of it
    (f"redis://:{SECRET}#tail@host", "it holds a #"),
    (f"redis://:{SECRET}@host/0#{SECRET}", "it holds a #"),
    (f"unix://user:{SECRET}/x@/run/redis.sock", AN_AT),
    (f"unix:///:{SECRET}@/run/redis.sock", AN_AT),
    ("redis://", "must stand a host"),
    ("redis:///0", "must stand a host"),
    ("redis://:6379", "must stand a host"),
    (f"unix://{SECRET}/run/redis.sock", A_SOCKET),
    (f"unix://user:x@/{SECRET}@/run/redis.sock", AN_AT),
    (f"unix://:{SECRET}@", "it names no socket"),
    (f"unix://:{SECRET}@/run/%1b[31m.sock", "the path of the socket holds a control character"),
    (f"redis://h/{SECRET}", "behind the / must stand the number of a database"),
    (f"redis://:x@h/{SECRET}@h", AN_AT),
    (f"redis://:@{SECRET}?client_name=x@h", AN_AT),
    (f"redis://:@{SECRET}/?x@h", AN_AT),
    (f"redis://user:{SECRET}", A_HOST),
    (f"redis://user:{SECRET}@h:port", A_HOST),
    (f"redis://user:{SECRET}@h:0", A_HOST),
    (f"redis://user:{SECRET}@h:65536", A_HOST),
    (f"redis://user:{SECRET}%40host:1", A_HOST),
    (f"redis://{SECRET}%40host:1", A_HOST),
    (f"redis://:{SECRET}/x@h", AN_AT),
    (f"redis://:[{SECRET}@h", "redis-py cannot read it"),
    (f"redis://:℀{SECRET}@h", "redis-py cannot read it"),
    (f"redis://:{SECRET}\t@h", "it holds a control character, or half a character"),
    (f"redis://:{SECRET}\udc80@h", "it holds a control character, or half a character"),
    (f"http://:{SECRET}@h", BEGIN),
    (f"{SECRET}@h", BEGIN),
    (f"redis://:?{SECRET}@h", AN_AT),
    (f"redis://h?{SECRET}=1", "it has an option that is not known here; known are db, username"),
    (f"redis://h?retry={SECRET}", "it has an option that is not known here; known are db, username"),
    ("redis://h?retry=1", "it has an option that is not known here; known are db, username"),
    ("redis://h?retry_on_timeout=true", "it has an option that is not known here; known are db, username"),
    (
        f"redis://h?ssl_password={SECRET}",
        "not known here (its options ssl_... are for rediss:// and rediss+sentinel://); known are db",
    ),
    (f"redis://h?protocol=9&password={SECRET}", "its option protocol must be 2 or 3"),
    (f"redis://h?db={SECRET}", "its option db must be a whole number"),
    (f"redis://h?db=0&db={SECRET}", "its option db must be a whole number"),
    ("redis://h?timeout=nan", "its option timeout must be seconds above 0, at most 2147482"),
    ("redis://h?socket_timeout=inf", "its option socket_timeout must be seconds above 0, at most 2147482"),
    ("redis://h?max_connections=0", "its option max_connections must be a whole number from 1 to 65535"),
    ("redis://h?max_connections=²", "its option max_connections must be a whole number from 1 to 65535"),
    ("redis+sentinel:///limits", NO_SENTINEL),
    (f"redis+sentinel://:{SECRET}@/limits/0", NO_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a:1,,b:2/limits", NO_HOST),
    (f"redis+sentinel://:{SECRET}@a:1,/limits", NO_HOST),
    (f"redis+sentinel://:{SECRET}@,a:1/limits", NO_HOST),
    (f"redis+sentinel://:{SECRET}@a,:26379/limits", NO_HOST),
    (f"redis+sentinel://user:{SECRET}", A_SENTINEL),
    (f"redis+sentinel://a:1,user:{SECRET}/limits", A_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a:0/limits", A_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a:1,b:65536/limits", A_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a:1,b:port/limits", A_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a:1,::1/limits", A_SENTINEL),
    (f"redis+sentinel://:{SECRET}@a,b", A_SERVICE),
    (f"redis+sentinel://:{SECRET}@a,b/", A_SERVICE),
    (f"redis+sentinel://:{SECRET}@a,b//0", A_SERVICE),
    (f"redis+sentinel://:{SECRET}@a,b/%20/0", A_SERVICE),
    (f"redis+sentinel://:{SECRET}@a,b/li%0amits/0", A_SERVICE),
    (f"redis+sentinel://a/limits/{SECRET}", "behind the service must stand the number of a database"),
    (f"redis+sentinel://a/limits/0/{SECRET}", "behind the service must stand the number of a database"),
    (f"redis+sentinel://:{SECRET}/x@a/limits", AN_AT),
    (f"redis+sentinel://:{SECRET}@a/limits#0", "it holds a #"),
    (f"redis+sentinel://a/limits?service={SECRET}", "it has an option that is not known here; known are db, username"),
    ("redis+sentinel://a/limits?timeout=1", "it has an option that is not known here; known are db, username"),
    (f"redis://a?sentinel_password={SECRET}", "it has an option that is not known here; known are db, username"),
    (
        f"redis+sentinel://a/limits?ssl_password={SECRET}",
        "its options ssl_... are for rediss:// and rediss+sentinel://",
    ),
    (f"redis+sentinel://a/limits?sentinel_username=%00{SECRET}", "its option sentinel_username must be a text"),
    (f"sentinel://:{SECRET}@a/limits", BEGIN),
    (f"redis://:{SECRET}@a:1,b:2", A_HOST),
    (f"redis://:{SECRET}@a:1,b:2?cluster=false", A_HOST),
    (f"redis://:{SECRET}@a:1,,b:2?cluster=true", "in its list of nodes, HOST:PORT,HOST:PORT, a host is missing"),
    (f"redis://:{SECRET}@a:1,b:port?cluster=true", "each of its nodes must be a host (an IPv6 address in [])"),
    (f"redis://:{SECRET}@?cluster=true", "it names no node: behind // or the @ must stand at least one HOST:PORT"),
    (f"redis://:{SECRET}@a/1?cluster=true", A_DATABASE),
    (f"redis://:{SECRET}@a?cluster=true&db=2", A_DATABASE),
    (f"unix://:{SECRET}@/run/redis.sock?cluster=true", "the nodes of a cluster are not behind one socket"),
    (f"redis+sentinel://:{SECRET}@a/limits?cluster=true", NOT_FOR_SENTINELS),
    (f"redis+sentinel://:{SECRET}@a/limits?slots=true", NOT_FOR_SENTINELS),
    (f"redis://:{SECRET}@a?cluster=often", "its option cluster must be true or false"),
    (f"redis://:{SECRET}@a?slots=2", "its option slots must be true or false"),
]


@pytest.mark.parametrize("kind", [Limiter, AsyncLimiter])
@pytest.mark.parametrize(("url", "problem"), WRONG)
def test_what_is_wrong_is_told_without_the_url(kind, url, problem):
    """One ConfigError of the field `url`, which says what is accepted; nothing of the URL goes along with it."""
    with pytest.raises(ConfigError) as caught:
        kind.from_url(url)
    error = caught.value
    assert error.field == "url"
    assert error.problem.startswith("cannot be used: ")
    assert problem in error.problem
    assert "write redis://USER:PASSWORD@HOST:PORT/DB" in error.problem
    assert error.__cause__ is error.__context__ is None
    assert SECRET not in "".join(traceback.format_exception(error)).replace(repr(url), "")


@pytest.mark.parametrize(("url", "problem"), WRONG)
def test_commands_tell_it_as_well(url, problem):
    """Exit code 2, and nothing of the password in either output."""
    result = run("check", *REQUEST, RATELIMIT_URL=url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
    assert SECRET not in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:S3cr3tPw@localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:a@S3cr3tPw@h", "redis://h"),
        ("redis://user:S3%2Fcr%40@[::1]:1/2?db=3", "redis://[::1]:1/2"),
        ("redis://[fe80::1%25eth0]", "redis://[fe80::1%25eth0]"),
        ("redis://h:/1/", "redis://h:/1/"),
        ("redis://h?password=S3cr3tPw&socket_keepalive=yes&health_check_interval=5", "redis://h"),
        ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false&protocol=3&ssl_min_version=772", "rediss://h"),
        ("unix:///tmp/a@b.sock?db=1&client_name=me", "unix:///tmp/a@b.sock"),
        ("unix://user:S3cr3tPw@/tmp/b.sock", "unix:///tmp/b.sock"),
        ("redis+sentinel://user:S3cr3tPw@a:1,b,[::1]:3/limits/2?db=3", "redis+sentinel://a:1,b,[::1]:3/limits/2"),
        ("redis+sentinel://a/limits?sentinel_password=S3cr3tPw&socket_timeout=1", "redis+sentinel://a/limits"),
        ("rediss+sentinel://a/limits/?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem", "rediss+sentinel://a/limits/"),
        ("redis://user:S3cr3tPw@a:1,b,[::1]:3/0?cluster=true", "redis://a:1,b,[::1]:3/0"),
        ("rediss://a:1?cluster=yes&ssl_cert_reqs=none", "rediss://a:1"),
        ("redis://h/3?slots=true", "redis://h/3"),
        ("redis://h?slots=false&cluster=0", "redis://h"),
        ("unix:///tmp/b.sock?slots=1", "unix:///tmp/b.sock"),
    ],
)
def test_what_is_right_is_taken_as_redis_py_reads_it(url, shown):
    """And shown without user, password and options."""
    with Limiter.from_url(url):
        pass
    asyncio.run(AsyncLimiter.from_url(url).aclose())
    assert redact_url(url) == shown


SENTINELS = (
    f"redis+sentinel://user:{SECRET}%40@a:1,b,[::1],[fe80::1%25eth0]:4/my%20limits/2"
    "?sentinel_username=watcher&sentinel_password=Wat%26ched&client_name=me&socket_timeout=1&max_connections=7"
)


@pytest.mark.parametrize(
    ("make", "library"), [(client_from_url, redis), (async_client_from_url, redis.asyncio)], ids=["blocking", "asyncio"]
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_parts_of_a_url_of_sentinels(make, library, scheme):
    """A client as `Sentinel(...).master_for(...)` makes it: one user for the primary, another one for the Sentinels."""
    tls = "&ssl_ca_certs=/ca.pem" if scheme == "rediss" else ""
    client = make(f"{scheme}{SENTINELS.removeprefix('redis')}{tls}", 2.5)
    assert type(client) is library.Redis
    pool = client.connection_pool
    connections = [pool, *(each.connection_pool for each in pool.sentinel_manager.sentinels)]
    assert (pool.service_name, pool.is_master, pool.max_connections) == ("my limits", True, 7)
    primary, *sentinels = (each.connection_kwargs for each in connections)
    taken = ("username", "password", "db", "client_name", "socket_timeout", "socket_connect_timeout")
    assert [primary[name] for name in taken] == ["user", f"{SECRET}@", 2, "me", 1.0, 2.5]
    addresses = [("a", 1), ("b", 26379), ("::1", 26379), ("fe80::1%eth0", 4)]
    assert [(each["host"], each["port"]) for each in sentinels] == addresses
    taken = ("username", "password", "db", "socket_timeout", "socket_connect_timeout")
    assert all([each[name] for name in taken] == ["watcher", "Wat&ched", 0, 1.0, 2.5] for each in sentinels)
    for each in connections:
        assert issubclass(each.connection_class, library.SSLConnection) == (scheme == "rediss")
        assert each.connection_kwargs.get("ssl_ca_certs") == ("/ca.pem" if tls else None)
    assert SECRET not in repr(client)
    assert SECRET not in repr(sentinel_url(SENTINELS))


CLUSTER = f"redis://user:{SECRET}%40@a:1,b,[::1]?cluster=true&client_name=me&socket_timeout=1&max_connections=7"


@pytest.mark.parametrize(
    ("make", "library"), [(client_from_url, redis), (async_client_from_url, redis.asyncio)], ids=["blocking", "asyncio"]
)
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_parts_of_a_url_of_a_cluster(make, library, scheme):
    """All nodes have one user and one way to connect; those that are named are where to begin."""
    client = make(f"{scheme}{CLUSTER.removeprefix('redis')}", 2.5)
    assert client.start_nodes == (("a", 1), ("b", 6379), ("::1", 6379))
    pool = client.connection_pool
    assert issubclass(pool.connection_class, library.SSLConnection) == (scheme == "rediss")
    assert pool.max_connections == 7
    taken = ("username", "password", "client_name", "socket_timeout", "socket_connect_timeout", "host", "port")
    assert [pool.connection_kwargs[name] for name in taken] == ["user", f"{SECRET}@", "me", 1.0, 2.5, "a", 1]
    assert SECRET not in repr(client)
    assert SECRET not in repr(cluster_url(CLUSTER))


@pytest.mark.parametrize("make", [client_from_url, async_client_from_url])
@pytest.mark.parametrize(("options", "has_slots"), [("?slots=true", True), ("?slots=no&db=2", False), ("?db=2", False)])
def test_a_url_says_that_its_server_enforces_slots(make, options, has_slots):
    pool = make(f"redis://a{options}", 1).connection_pool
    assert enforces_slots(pool) is has_slots
    assert pool.connection_kwargs.get("db") == (2 if "db=2" in options else None)


@pytest.mark.parametrize(
    ("limiter", "sentinel"),
    [(Limiter, redis.sentinel.Sentinel), (AsyncLimiter, redis.asyncio.sentinel.Sentinel)],
    ids=["blocking", "asyncio"],
)
def test_a_client_of_replicas_or_of_no_sentinel(limiter, sentinel):
    """Is refused where a limiter is made, not by each check."""
    with pytest.raises(ConfigError, match=r"client: reads from replicas, which take no writes: use .*master_for"):
        limiter(sentinel([("a", 1)]).slave_for("limits"))
    with pytest.raises(ConfigError, match=r"client: its Sentinel\(\.\.\.\) names no Sentinel"):
        limiter(sentinel([]).master_for("limits"))


def test_what_cannot_be_read_is_not_shown():
    """Nor does it raise."""
    assert {redact_url(url) for url, problem in WRONG if "redis-py" not in problem} == {"the URL that was given"}


def all_that_is_told(url):
    """What checks, administrators' calls and commands say of a server that cannot be had, with all that goes along."""
    with Limiter.from_url(url, deadline=0.5) as limiter:
        decision = limiter.check(*REQUEST)
        assert decision.reason.name == "UNAVAILABLE"
        with pytest.raises(StoreError) as caught:
            limiter.catalog.plans()
    texts = [repr(decision), repr(caught.value), *traceback.format_exception(caught.value)]

    async def asked():
        async with AsyncLimiter.from_url(url, deadline=0.5) as twin:
            return await twin.check(*REQUEST)

    texts.append(repr(asyncio.run(asked())))
    for command in (("check", *REQUEST), ("plans", "list"), ("watch", "--seconds", "1")):
        result = run(*command, RATELIMIT_URL=url)
        assert result.exit_code == 3
        texts.append(result.output)
    return "\n".join(texts)


@pytest.mark.parametrize(
    "url", [f"redis://:{SECRET}@host.invalid", f"redis://:{SECRET}@host..", f"unix://user:{SECRET}@/nowhere/no.sock"]
)
def test_a_server_that_cannot_be_reached(url, caplog):
    """Says where it was looked for, not with what."""
    shown = all_that_is_told(url)
    assert SECRET not in shown + caplog.text
    assert ("host." if "host" in url else "/nowhere/no.sock") in shown


def test_a_password_that_is_wrong(server, caplog):
    """The server's own words do not repeat it."""
    shown = all_that_is_told(server.url.replace("//", f"//user:{SECRET}@"))
    assert SECRET not in shown + caplog.text
    assert "WRONGPASS" in shown or "invalid username-password pair" in shown


@pytest.mark.parametrize("name", list(binaries()))
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_server_that_knows_no_login(name, protocol, caplog):
    """It repeats the arguments of a command that it does not know, the password among them: we do not."""
    server = Server(name, rename_command=("AUTH", ""))
    try:
        with server.client() as client:
            client.ping()
        shown = all_that_is_told(server.url.replace("//", f"//user:{SECRET}@") + f"?protocol={protocol}")
    finally:
        server.stop()
    assert SECRET not in shown + caplog.text
