"""How checks of blocking code reach Redis: on idle connections that are kept."""

import contextlib
import errno
import gc
import math
import os
import signal
import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from helpers.proxy import Proxy
from helpers.sentinel import free_port
from helpers.servers import Server, binaries, needs_hiredis

from ratelimit import Limiter, Quota, Throttle, UsagePlan
from ratelimit.errors import ConfigError, StoreTimeout, StoreUnavailable
from ratelimit.store.blocking.connection import DirectConnection, NothingSentError
from ratelimit.store.blocking.connections import ConnectionStack
from ratelimit.store.redis_compat import get_connection
from ratelimit.store.resp import PUSH, pack

A = "petstore/prod"
GET = "GET /pets"


def a_key(limiter):
    limiter.catalog.put_plan(UsagePlan("gold", Throttle(1, 1000), Quota(10_000, "DAY"), [A]))
    return limiter.catalog.create_key(plans=["gold"]).value


@pytest.fixture
def key(server):
    with server.client() as client, Limiter(client) as limiter:
        yield a_key(limiter)


@pytest.fixture(scope="module", params=[*binaries()])
def both_ways(request):
    """Yield the URLs of one server: over a Unix socket, and over TCP."""
    port = free_port()
    server = Server(request.param, port=port, bind="127.0.0.1")
    yield server.url, f"redis://127.0.0.1:{port}"
    server.stop()


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_connections_that_were_closed_are_replaced(both_ways, way):
    """Idle connections that the server closed, all of them, are noticed before anything is sent on one."""
    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        key = a_key(limiter)
        for used in range(1, 4):
            stack = limiter._store._connections
            for direct in [stack._acquire() for _ in range(4)]:
                stack._release(direct)
            assert len(stack._idle) == 4
            assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - used
            admin.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_connections_that_their_client_closed_are_replaced(both_ways, way):
    """A client may be closed and used again: nothing was sent, and nobody hears of it."""
    with Limiter.from_url(both_ways[way], deadline=5) as limiter:
        key = a_key(limiter)
        for used in range(1, 4):
            stack = limiter._store._connections
            for direct in [stack._acquire() for _ in range(4)]:
                stack._release(direct)
            assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - used
            limiter._owned_client.connection_pool.disconnect()


@pytest.mark.skipif(
    not hasattr(redis.Connection, "update_current_socket_timeout"), reason="redis-py before 7 does not change it"
)
def test_another_time_limit_is_heeded(server, key):
    """redis-py allows more time while a server is being maintained, and less again after it."""
    with Proxy(server.socket) as proxy, Limiter.from_url(proxy.url, deadline=0.3) as limiter:
        assert limiter.check(key, A, GET).allowed
        (direct,) = limiter._store._connections._idle
        direct.connection.update_current_socket_timeout(Proxy.DELAY_S * 10)
        proxy.fault = "delay"
        assert limiter.check(key, A, GET).allowed
        direct.connection.update_current_socket_timeout(-1)
        assert limiter.check(key, A, GET).cause == "unknown"


def test_signals_do_not_prolong_a_wait(server, key):
    """A process that gets signals faster than the deadline passes, as under a profiler, waits no longer for that."""
    came = []

    def handler(_signal, _frame):
        came.append(_signal)
        assert len(came) < 2_000, "still waiting"

    with Proxy(server.socket) as proxy, Limiter.from_url(proxy.url, deadline=0.3) as limiter:
        assert limiter.check(key, A, GET).allowed
        proxy.fault = "swallow"
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
        try:
            assert limiter.check(key, A, GET).cause == "unknown"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert came


@pytest.mark.parametrize("seconds", [2**31 // 1000, 10**10, math.inf, math.nan])
def test_no_longer_time_limit_than_there_is(server, seconds):
    """Python takes more for a wait of some milliseconds, or for none."""
    with Limiter.from_url(server.url, deadline=2**31 // 1000 - 1) as limiter:
        assert limiter.check(a_key(limiter), A, GET).allowed
    with pytest.raises(ConfigError, match=r"deadline: must be seconds above 0, at most 2147482 \(24 days\)"):
        Limiter.from_url(server.url, deadline=seconds)


def test_nothing_is_sent_to_another_file(server):
    """A number of a descriptor is given to the next file as soon as the client is closed, even during a check."""
    with server.client() as client:
        direct = DirectConnection(get_connection(client.connection_pool))
        number = direct.connection._sock.fileno()
        direct.connection.disconnect()
        reading, writing = os.pipe()
        try:
            assert number in (reading, writing)
            with pytest.raises(NothingSentError):
                direct.execute(pack([("PING",)]), 1)
            os.set_blocking(reading, False)
            with pytest.raises(BlockingIOError):
                os.read(reading, 1)
        finally:
            os.close(reading)
            os.close(writing)


def test_connections_leave_no_descriptor_behind(server, monkeypatch):
    """Whether they go back to redis-py, end, or are a parent's in a child of a fork."""
    opened, dup, close = set(), os.dup, os.close

    def counted(number):
        opened.add(duplicate := dup(number))
        return duplicate

    def discounted(number):
        opened.discard(number)
        close(number)

    monkeypatch.setattr(os, "dup", counted)
    monkeypatch.setattr(os, "close", discounted)
    with server.client() as client:
        stack = ConnectionStack(client.connection_pool)

        def fill():
            for direct in [stack._acquire() for _ in range(12)]:
                stack._release(direct)

        fill()
        assert len(opened) == 8  # the idle ones
        held = [*stack._idle]  # as an error that somebody keeps may hold them
        stack.disconnect()
        assert (len(opened), len(held)) == (0, 8)
        fill()
        assert len(opened) == 8
        stack.close()
        assert not opened
        fill()
        assert len(opened) == 8
        stack.reset_after_fork()
        assert not opened


def test_a_server_that_closes_each_connection_at_once(server, key, monkeypatch):
    """The check is told that nothing was sent, after one more attempt."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        assert limiter.check(key, A, GET).allowed
        lines_used = []

        def ended(direct, packet, replies):
            lines_used.append(direct)
            raise NothingSentError(32, "Broken pipe")

        with monkeypatch.context() as patched:
            patched.setattr(DirectConnection, "execute", ended)
            assert limiter.check(key, A, GET).error == "no connection to Redis: [Errno 32] Broken pipe"
        assert len(set(lines_used)) == len(lines_used) == 2
        assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - 2


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_the_second_attempt_is_on_a_new_connection(both_ways, way):
    """Of connections that the server closed, another thread may give one back while a check looks for another."""
    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        stack, store = limiter._store._connections, limiter._store
        mine, anothers = stack._acquire(), stack._acquire()
        stack._release(mine)
        admin.client_kill_filter(_type="normal", skipme=True)
        disconnect = stack.disconnect

        def disconnect_meanwhile():
            disconnect()
            stack._release(anothers)

        stack.disconnect = disconnect_meanwhile
        assert store._send([("ECHO", "mine")]) == [b"mine"]


def test_a_shortage_of_descriptors_ends(server, monkeypatch):
    """A connection to which none is left goes back to the pool, which has no other here."""
    with server.client(max_connections=1) as client:
        stack = ConnectionStack(client.connection_pool)

        def none_left(_number):
            raise OSError(errno.EMFILE, "none is left")

        with monkeypatch.context() as patched:
            patched.setattr(os, "dup", none_left)
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="none is left"):
                    stack.execute(pack([("PING",)]), 1)
        assert stack.execute(pack([("ECHO", "mine")]), 1) == [b"mine"]


@needs_hiredis
def test_the_beginning_of_a_reply_too_many_ends_the_connection():
    """Its rest would else be what the next command is answered with."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    connection = redis.UnixDomainSocketConnection(path="none")
    connection._sock = ours
    direct = DirectConnection(connection)
    theirs.settimeout(5)
    with theirs:
        theirs.sendall(b"$4\r\nmine\r\n$8\r\nnobody")
        assert direct.execute(b"asked", 1) == [b"mine"]
        assert (theirs.recv(100), theirs.recv(100), direct.is_reusable) == (b"asked", b"", False)


class Interrupt(BaseException):
    """As KeyboardInterrupt, which would end the tests."""


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_who_is_interrupted_leaves_no_reply_behind(both_ways, way):
    """A check that a signal ended, in the midst of its wait, had its connection closed: the next gets its own reply."""

    def interrupt(_signal, _frame):
        raise Interrupt

    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        store = limiter._store
        assert store._send([("ECHO", "first")]) == [b"first"]
        admin.client_pause(300)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(Interrupt):
                store._send([("ECHO", "mine")])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert store._send([("ECHO", "next")]) == [b"next"]


def test_more_than_a_socket_takes_at_once(server):
    """A long command is sent as a whole, and its long reply read as a whole."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        long = bytes(range(256)) * 20_000
        assert limiter._store._send([("ECHO", long), ("ECHO", b"short")]) == [long, b"short"]
        assert limiter._store._send([("ECHO", f"{n}") for n in range(5)]) == [b"0", b"1", b"2", b"3", b"4"]


def test_no_command_has_no_answer(server):
    """Who asks nothing waits for nothing."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        assert limiter._store._send([]) == []


def test_a_reply_too_many_answers_no_other_command(server):
    """The connection is closed. With hiredis, the outcome of what was sent on it is unknown."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        store = limiter._store
        for extra in (1, 2):
            with (
                pytest.raises(StoreTimeout, match="more replies than commands")
                if PUSH is not None
                else contextlib.nullcontext()
            ):
                store._connections.execute(pack([("ECHO", "mine"), *[("ECHO", "nobody's")] * extra]), 1)
            assert store._send([("ECHO", "next")]) == [b"next"]


def test_redis_py_gets_its_connections_back_as_they_were(server, key):
    """With their time limits, whether they go back one by one or at the end."""
    with server.client(socket_timeout=1.5) as client, Limiter(client) as limiter:
        assert limiter.check(key, A, GET).allowed
        pool, stack = client.connection_pool, ConnectionStack.of(client.connection_pool)
        for direct in [stack._acquire() for _ in range(12)]:
            stack._release(direct)
        limiter.close()
        limits = [connection._sock.gettimeout() for connection in pool._available_connections if connection._sock]
        assert (len(limits), set(limits)) == (12, {1.5})


def test_more_threads_than_connections(server, key):
    """Twenty threads on a pool of three connections are all answered."""
    pool = redis.BlockingConnectionPool(
        connection_class=redis.UnixDomainSocketConnection, path=server.socket, max_connections=4, timeout=20
    )
    with redis.Redis.from_pool(pool) as client, Limiter(client) as limiter:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.extend(limiter.check(key, A, GET).allowed for _ in range(20)))
            for _ in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [True] * 400


def test_a_child_has_connections_of_its_own(server, key):
    """After a fork, parent and child check at the same time without taking each other's replies."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        assert limiter.check(key, A, GET).allowed
        child = os.fork()
        if child == 0:
            right = all(limiter.check(key, A, GET).allowed for _ in range(50))
            os._exit(0 if right else 1)
        assert all(limiter.check(key, A, GET).allowed for _ in range(50))
        assert os.waitpid(child, 0)[1] == 0
        assert limiter.peek(key, A, GET).limits[1].remaining == 10_000 - 101


def test_limiters_of_one_client_share_few_connections(server, key):
    """However many limiters a client has, it keeps few connections for them."""
    with server.client(max_connections=5) as client:
        limiters = [Limiter(client) for _ in range(30)]
        for limiter in limiters:
            limiter._namespace.before_refresh = lambda: None  # no listeners: they hold a connection each
            assert limiter.check(key, A, GET).allowed
        assert len(ConnectionStack.of(client.connection_pool)._idle) == 1


def test_a_pool_is_left_as_it_was(server, key):
    """Its connections are kept in a map of our own, which ends with the pool."""
    client = server.client()
    pool = client.connection_pool
    attributes = set(vars(pool))
    limiter = Limiter(client)
    assert limiter.check(key, A, GET).allowed
    stack = weakref.ref(ConnectionStack.of(pool))
    limiter.close()
    assert set(vars(pool)) == attributes
    client.close()
    del client, pool, limiter
    gc.collect()
    assert stack() is None


def test_threads_that_come_at_once_share_a_stack(server):
    """Whoever comes first to a pool: there is one for all."""
    with server.client() as client, ThreadPoolExecutor(8) as executor:
        start = threading.Barrier(8)
        stacks = executor.map(lambda _: start.wait() * 0 or ConnectionStack.of(client.connection_pool), range(8))
        assert len(set(stacks)) == 1


def test_an_unknown_outcome_is_not_kept(server, key):
    """A connection whose reply is late is closed: the next check gets its own reply."""
    with Proxy(server.socket) as proxy, Limiter.from_url(proxy.url, deadline=0.2) as limiter:
        assert limiter.check(key, A, GET).allowed
        proxy.fault = "swallow"
        assert limiter.check(key, A, GET).cause == "unknown"
        proxy.fault = None
        assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - 3


def test_connections_to_a_server_that_became_a_replica_are_left(server, key):
    """The next check connects anew: to the new primary, if a name leads there."""
    with server.client() as client, server.client() as admin, Limiter(client) as limiter:
        assert limiter.check(key, A, GET).allowed
        stack = ConnectionStack.of(client.connection_pool)
        assert len(stack._idle) == 1
        admin.replicaof("127.0.0.1", "1")
        try:
            assert "read only replica" in limiter.check(key, A, GET).error
            assert not stack._idle
        finally:
            admin.replicaof("NO", "ONE")
        assert limiter.check(key, A, GET).allowed


@pytest.mark.parametrize(("connections", "most_idle"), [(1, 1), (4, 1), (8, 2), (31, 7), (32, 8), (1000, 8)])
def test_of_a_small_pool_little_is_kept(server, key, connections, most_idle):
    """A fourth of the client's connections at most: the application may use the client as well."""
    with server.client(max_connections=connections) as client:
        stack = ConnectionStack(client.connection_pool)
        taken = [stack._acquire() for _ in range(min(connections, 12))]
        for direct in taken:
            stack._release(direct)
        assert len(stack._idle) == most_idle
        stack.close()
