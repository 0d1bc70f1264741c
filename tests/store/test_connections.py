"""How checks of blocking code reach Redis: on connections of our own, which a thread makes and watches."""

import contextlib
import errno
import gc
import math
import os
import signal
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis
from helpers import endpoints
from helpers.forks import run_in_child
from helpers.ports import free_port
from helpers.proxy import Proxy
from helpers.requests import reply_to
from helpers.servers import Server, binaries, make_client
from helpers.tls_proxy import TlsProxy
from helpers.waiting import wait_for

from ratelimit import Catalog, Limiter, Quota, StoreUnavailable, Throttle, UsagePlan
from ratelimit.errors import ConfigError, StoreTimeout
from ratelimit.store.blocking import connector
from ratelimit.store.blocking.connection import DirectConnection, NothingSentError, open_connection
from ratelimit.store.blocking.endpoint import Endpoint
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.resp import pack

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


def endpoint_of(limiter):
    return limiter._store._endpoint


def standing(limiter):
    return endpoint_of(limiter)._connections


def warm(limiter):
    """Have eight connections and a spare stand."""
    limiter.warm_up()
    assert standing(limiter).serving >= 8
    return standing(limiter)


def our_threads():
    gc.collect()  # others may have been forgotten by tests before
    return [thread for thread in threading.enumerate() if thread.name in ("ratelimit-connections", "ratelimit-connect")]


def lasting_threads():
    """Without those that connect, as limiters of other tests may."""
    return [thread for thread in our_threads() if thread.name == "ratelimit-connections"]


def descriptors():
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_connections_that_were_closed_are_replaced(both_ways, way):
    """Idle connections that the server closed, all of them, are noticed before anything is sent on one."""
    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        key = a_key(limiter)
        for used in range(1, 4):
            warm(limiter)
            assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - used
            admin.client_kill_filter(_type="normal", skipme=True)


def test_a_client_may_be_closed_and_its_connections_stay(server, key):
    """They are ours. Nor does the client's pool know of them."""
    with server.client() as client, Limiter(client) as limiter:
        warm(limiter)
        idle = {*standing(limiter).idle}
        client.connection_pool.disconnect()
        assert limiter.check(key, A, GET).allowed
        assert idle <= {*standing(limiter).idle}
        assert not {each._connection for each in idle} & {*client.connection_pool._available_connections}


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


@pytest.mark.parametrize("seconds", [0, -1, 60.1, 10**10, math.inf, math.nan, True, "1"])
def test_a_deadline_that_is_none(server, seconds):
    with pytest.raises(ConfigError, match=r"deadline: must be seconds above 0, at most 60, not "):
        Limiter.from_url(server.url, deadline=seconds)


def test_the_longest_deadline(server):
    with Limiter.from_url(server.url, deadline=60) as limiter:
        assert limiter.check(a_key(limiter), A, GET).allowed


@pytest.mark.parametrize(("kind", "allowed", "needed"), [(Limiter, 2, 3), (Limiter, 1, 3), (Catalog, 1, 2)], ids=str)
def test_a_pool_that_is_too_small(server, kind, allowed, needed):
    """It is refused, with the number that is needed; that number is enough."""
    with server.client(max_connections=allowed) as client, pytest.raises(ConfigError) as caught:
        kind(client)
    assert caught.value.field == "client"
    assert str(caught.value).startswith(f"client: its pool allows {allowed} connections, and {needed} are needed (for ")
    with pytest.raises(ConfigError, match="2 connections, and 3 are needed"):
        Limiter.from_url(f"{server.url}?max_connections=2")
    with server.client(max_connections=needed) as client:
        made = kind(client)
        assert (made if kind is Catalog else made.catalog).plans() == []
        if kind is Limiter:
            made.close()


@pytest.mark.parametrize(("allowed", "serving"), [(2, 1), (3, 1), (4, 2), (66, 64), (67, 64), (1000, 64)], ids=str)
def test_capacity(server, allowed, serving):
    """So many serve checks, of those that the client allows: one is the spare, and one gets the pushed changes."""
    with server.client(max_connections=allowed) as client:
        assert Endpoint(client.connection_pool)._connections.capacity == serving


def test_a_url_allows_what_64_threads_need(server):
    with Limiter.from_url(server.url) as limiter:
        assert standing(limiter).capacity == 64
    with Limiter.from_url(f"{server.url}?max_connections=10") as limiter:
        assert standing(limiter).capacity == 8


# One connection


def test_nothing_is_sent_to_another_file(server):
    """Whoever closes a limiter during a check closes no descriptor whose number another file may get."""
    with server.client() as client:
        endpoint = Endpoint(client.connection_pool)
        connection = endpoint._acquire(Wait(5))
        number = connection._socket.fileno()
        endpoint.close()
        reading, writing = os.pipe()
        try:
            assert number not in (reading, writing)
            with pytest.raises(ConnectionError):
                connection.execute(pack([("PING",)]), 1, Wait(5))
        finally:
            connection.close()
            os.close(reading)
            os.close(writing)


def pair():
    """A connection over a socket whose other end is returned as well."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    connection = redis.UnixDomainSocketConnection(path="none")
    connection._sock = ours
    theirs.settimeout(5)
    return DirectConnection(connection), theirs


def test_the_beginning_of_a_reply_too_many_ends_the_connection():
    """Its rest would else be what the next command is answered with."""
    for send in (lambda it: it.call(b"sent", 5), lambda it: it.execute(b"sent", 1, Wait(5))[0]):
        connection, theirs = pair()
        with theirs:
            theirs.sendall(b"$4\r\nmine\r\n$8\r\nnobody")
            assert send(connection) == b"mine"
            assert not connection.is_reusable
        connection.close()


def dripping(theirs, reply, every_s):
    def drip():
        with contextlib.suppress(OSError):  # nobody reads any more
            for byte in reply:
                theirs.sendall(bytes([byte]))
                time.sleep(every_s)

    thread = threading.Thread(target=drip)
    thread.start()
    return thread


def test_a_dripped_reply_is_read():
    """Byte by byte, as it comes, within the deadline."""
    connection, theirs = pair()
    with theirs:
        thread = dripping(theirs, b"*2\r\n$4\r\nmine\r\n:7\r\n", 0.001)
        assert connection.execute(b"sent", 1, Wait(5)) == [[b"mine", 7]]
        thread.join()
    connection.close()


def test_drips_do_not_prolong_a_wait():
    """A reply of which a byte comes every few milliseconds takes no longer than the deadline."""
    connection, theirs = pair()
    with theirs:
        thread = dripping(theirs, b"$400\r\n" + b"x" * 400, 0.005)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.execute(b"sent", 1, Wait(0.1))
        assert time.monotonic() - began_s < 1  # all of it takes 2 seconds
        connection.close()
        thread.join()


def test_an_administrator_may_wait_for_each_reply():
    """The time limit is that of one reply, however many there are; it is for a whole one, and not for a byte."""
    connection, theirs = pair()
    with theirs:
        thread = dripping(theirs, b":1\r\n" * 10, 0.02)
        assert connection.execute(b"sent", 10, Wait(0.5, renewed=True)) == [1] * 10
        thread.join()
        thread = dripping(theirs, b":" + b"1" * 15, 0.05)
        with pytest.raises(TimeoutError):
            connection.execute(b"sent", 1, Wait(0.2, renewed=True))
        thread.join()
    connection.close()


def test_what_has_come_counts_however_late_it_is_read():
    """A thread that is woken long after its time was over finds the reply."""
    connection, theirs = pair()
    with theirs:
        for data, reply in ((b":1\r\n", 1), (b"$4\r\nmine\r\n", b"mine")):
            theirs.sendall(data)
            assert connection.read(1, Wait(-1)) == [reply]
        with pytest.raises(TimeoutError):
            connection.read(1, Wait(0))
    connection.close()


def test_a_wait_counts_what_was_waited_and_no_work(monkeypatch):
    """A slice counts for its length at most, and for less if the process was at work meanwhile."""
    from ratelimit.store.blocking import wait as module

    now_s, worked_s = [0.0], [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(module, "process_time", lambda: worked_s[0])

    def after(seconds, work):
        wait = Wait(0.05)
        assert wait.begin() == 0.01
        now_s[0] += seconds
        worked_s[0] += work
        wait.end()
        return pytest.approx(wait.left_s)

    assert after(0.01, 0) == 0.04
    assert after(0.004, 0) == 0.046
    assert after(3, 0) == 0.04  # the process was not scheduled
    assert after(0.01, 0.005) == 0.045
    assert after(0.01, 0.01) == 0.0475
    assert after(3, 3) == 0.0475


def test_a_wait_ends():
    """Also if the process never rests."""
    wait, slices = Wait(0.05), 0
    while wait.left_s > 0:
        until_s = time.monotonic() + wait.begin()
        while time.monotonic() < until_s:
            pass
        wait.end()
        slices += 1
    assert slices < 100


def test_over_tls_connections_are_used_again(server, key, tmp_path):
    """However many records of TLS itself a connection gets between commands: the server sends tickets."""
    with TlsProxy(server.socket, tmp_path) as proxy, Limiter.from_url(proxy.url, deadline=5) as limiter:
        assert [limiter.check(key, A, GET).allowed for _ in range(50)] == [True] * 50
        wait_for(lambda: standing(limiter).spare is not None)
        assert standing(limiter).serving <= 2
        long = bytes(range(256)) * 2_000
        assert reply_to(limiter._store, [("ECHO", long), ("ECHO", "x" * 20_000)]) == [long, b"x" * 20_000]
        assert standing(limiter).serving <= 2
        client = redis.Redis.from_url(proxy.url)
        connection = open_connection(client.connection_pool, None, 5)
        connection.probe(5)
        assert not connection.has_ended()
        with server.client() as admin:
            admin.client_kill_filter(skipme=True)
        wait_for(connection.has_ended)
        connection.close()


# Who waits for one


def test_first_come_first_served(server):
    """A connection that is given back goes to who waits longest, not to who comes by."""
    with server.client(max_connections=3) as client:
        endpoint = Endpoint(client.connection_pool)
        connection, served, threads = endpoint._acquire(Wait(5)), [], []

        def caller(number):
            mine = endpoint._acquire(Wait(5))
            served.append(number)
            endpoint._release(mine)

        for number in range(8):
            threads.append(threading.Thread(target=caller, args=(number,)))
            threads[-1].start()
            wait_for(lambda: len(endpoint._waiters) == number + 1)  # noqa: B023
        endpoint._release(connection)
        for thread in threads:
            thread.join(5)
        assert served == [*range(8)]
        endpoint.close()


def test_who_waits_in_vain(server):
    """All connections are in use: nothing was sent, and the error says so."""
    with server.client(max_connections=3) as client:
        endpoint = Endpoint(client.connection_pool)
        connection = endpoint._acquire(Wait(5))
        with pytest.raises(StoreUnavailable, match="no connection to Redis: all 1 were in use") as caught:
            endpoint.execute(pack([("PING",)]), 1, Wait(0.05))
        assert caught.value.cause == "not_sent"
        assert not endpoint._waiters
        endpoint._release(connection)
        assert endpoint.execute(pack([("PING",)]), 1, Wait(5)) == [b"PONG"]
        endpoint.close()


def test_a_deadline_that_is_over_sends_nothing(server):
    with server.client() as client:
        endpoint = Endpoint(client.connection_pool)
        with pytest.raises(StoreUnavailable, match="the deadline was over"):
            endpoint.execute(pack([("PING",)]), 1, Wait(0))
        assert endpoint.connector._background._thread is None


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


@pytest.mark.slow
def test_64_threads(server, key):
    """With connections of their own, which are closed again if they are not needed for a while."""
    with Limiter.from_url(server.url, deadline=2) as limiter:
        until_s = time.monotonic() + 2

        def caller(_):
            decisions = []
            while time.monotonic() < until_s:
                decisions.append(limiter.check(key, A, GET).source)
            return {*decisions}

        with ThreadPoolExecutor(64) as pool:
            assert {each for sources in pool.map(caller, range(64)) for each in sources} <= {
                "redis",
                "denial_cache",
            }
        connections = standing(limiter)
        assert connections.serving <= 64
        connections.close_unused(time.monotonic() + 9)
        before = connections.serving

        def few_are_left():
            connections.close_unused(time.monotonic() + 11)
            return connections.serving == min(before, 8)

        wait_for(few_are_left)  # one that was begun while callers waited may come yet


def test_a_server_that_closes_each_connection_at_once(server, key, monkeypatch):
    """The check is told that nothing was sent, after one more attempt."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        warm(limiter)
        used = []

        def ended(connection, *_):
            used.append(connection)
            raise NothingSentError(32, "Broken pipe")

        assert limiter.check(key, A, GET).allowed
        with monkeypatch.context() as patched:
            patched.setattr(DirectConnection, "call", ended)
            patched.setattr(DirectConnection, "send", ended)
            assert limiter.check(key, A, GET).error == "no connection to Redis: [Errno 32] Broken pipe"
            assert len({*used}) == len(used) == 2
        assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - 2


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_the_second_attempt_is_on_a_connection_that_stands(both_ways, way, monkeypatch):
    """Of connections that the server closed, another thread may give one back while a check looks for another."""
    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        connections = warm(limiter)
        anothers, close_ended = connections.idle.popleft(), connections.close_ended
        admin.client_kill_filter(_type="normal", skipme=True)

        def close_ended_meanwhile():
            connections.release(anothers)
            close_ended()

        monkeypatch.setattr(connections, "close_ended", close_ended_meanwhile)
        assert reply_to(limiter._store, [("ECHO", "mine")]) == [b"mine"]


def test_a_shortage_of_descriptors_ends(server, monkeypatch):
    """Nobody waits for the end of the deadline; then all goes on."""
    with server.client() as client:
        endpoint = Endpoint(client.connection_pool)

        def none_left(*_):
            raise OSError(errno.EMFILE, "none is left")

        with monkeypatch.context() as patched:
            patched.setattr(connector, "open_connection", none_left)
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match=r"no connection to Redis: .*none is left"):
                    endpoint.execute(pack([("PING",)]), 1, Wait(60))
        endpoint.connect(5)
        assert endpoint.execute(pack([("ECHO", "mine")]), 1, Wait(5)) == [b"mine"]
        endpoint.close()


def test_a_shortage_of_threads(server, monkeypatch):
    """Nothing was sent, and the error says why."""
    with server.client() as client:
        endpoint = Endpoint(client.connection_pool)

        def none_left(_):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            with pytest.raises(StoreUnavailable, match="no connection to Redis: can't start new thread"):
                endpoint.execute(pack([("PING",)]), 1, Wait(5))
        assert endpoint.execute(pack([("ECHO", "mine")]), 1, Wait(5)) == [b"mine"]
        endpoint.close()


class Interrupt(BaseException):
    """As KeyboardInterrupt, which would end the tests."""


@pytest.mark.parametrize("way", [0, 1], ids=["unix", "tcp"])
def test_who_is_interrupted_leaves_no_reply_behind(both_ways, way):
    """A check that a signal ended, in the midst of its wait, had its connection closed: the next gets its own reply."""

    def interrupt(_signal, _frame):
        raise Interrupt

    with redis.Redis.from_url(both_ways[0]) as admin, Limiter.from_url(both_ways[way], deadline=5) as limiter:
        send = partial(reply_to, limiter._store)
        assert send([("ECHO", "first")]) == [b"first"]
        admin.client_pause(300)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(Interrupt):
                send([("ECHO", "mine")])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert send([("ECHO", "next")]) == [b"next"]


def test_who_is_interrupted_while_waiting_keeps_no_connection(server):
    """The place in the line is given up, and so is a connection that came at that moment."""

    def interrupt(_signal, _frame):
        raise Interrupt

    with server.client(max_connections=3) as client:
        endpoint = Endpoint(client.connection_pool)
        connection = endpoint._acquire(Wait(5))
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(Interrupt):
                endpoint._acquire(Wait(5))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert not endpoint._waiters
        endpoint._release(connection)
        assert [*endpoint._idle] == [connection]
        endpoint.close()


def test_more_than_a_socket_takes_at_once(server):
    """A long command is sent as a whole, and its long reply read as a whole."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        send = partial(reply_to, limiter._store)
        long = bytes(range(256)) * 20_000
        assert send([("ECHO", long), ("ECHO", b"short")]) == [long, b"short"]
        assert send([("ECHO", f"{n}") for n in range(5)]) == [b"0", b"1", b"2", b"3", b"4"]
        assert endpoint_of(limiter).call(pack([("ECHO", long)]), time.monotonic(), 5) == long


def test_no_command_has_no_answer(server):
    """Who asks nothing waits for nothing."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        assert reply_to(limiter._store, []) == []


def test_a_reply_too_many_answers_no_other_command(server):
    """The connection is closed; the outcome of what was sent on it is unknown."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        for extra in (1, 2):
            with pytest.raises(StoreTimeout, match="more replies than commands"):
                endpoint_of(limiter).execute(pack([("ECHO", "mine"), *[("ECHO", "nobody's")] * extra]), 1, Wait(5))
            assert reply_to(limiter._store, [("ECHO", "next")]) == [b"next"]


def test_an_own_clients_time_limits_do_not_matter_for_checks(server, key):
    """Nor do its retries, nor RESP3: the deadline is the limiter's."""
    with Proxy(server.socket) as proxy:
        client = make_client("redis", 10, port=proxy.port, socket_timeout=0.001, protocol=3)
        with client, Limiter(client, deadline=2) as limiter:
            assert limiter.check(key, A, GET).allowed
            wait_for(lambda: limiter._without_redis.replicas.answered_us)  # so that no heartbeat is under way
            proxy.fault = "delay"  # 0.8 seconds
            assert limiter.check(key, A, GET).allowed
            assert proxy.faults == 1


def test_an_own_clients_time_limit_is_an_administrators(server, key):
    """Of each reply; without one, it is five seconds. So it is by URL, whatever the deadline is."""
    for options, seconds in (({"socket_timeout": 1.5}, 1.5), ({"socket_timeout": None}, 5)):
        with server.client(**options) as client:
            assert Limiter(client)._store._patience_s == seconds
    for deadline, query, seconds in ((0.05, "", 5), (20, "", 20), (0.05, "?socket_timeout=0.3", 0.3)):
        with Limiter.from_url(server.url + query, deadline=deadline) as limiter:
            assert limiter._store._patience_s == seconds
    with Proxy(server.socket, commands=b"EVAL") as proxy, Limiter.from_url(proxy.url) as limiter:
        limiter.catalog.plans()
        proxy.fault = "delay"
        limiter.catalog.create_key()
        assert proxy.faults


# When Redis does not answer


@pytest.fixture
def own(request):
    server = Server("valkey")
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


def connections_received(client):
    return client.info("stats")["total_connections_received"]


def test_a_stopped_server_costs_nothing(own):
    """Few checks wait, few connections are attempted; when it is back, so are the checks."""
    with own.client() as admin, Limiter.from_url(own.url, deadline=0.2) as limiter:
        key = a_key(limiter)
        assert limiter.check(key, A, GET).allowed
        limiter.warm_up()
        before = connections_received(admin)
        own.process.send_signal(signal.SIGSTOP)
        decisions = [limiter.check(key, A, GET)]
        while not endpoint_of(limiter)._breaker.is_open:
            decisions.append(limiter.check(key, A, GET))
        assert len(decisions) <= 5
        assert {decision.cause for decision in decisions} <= {"unknown", "not_sent"}
        began_s = time.monotonic()
        for _ in range(1000):
            decision = limiter.check(key, A, GET)
        assert time.monotonic() - began_s < 1
        assert (decision.cause, decision.error) == ("not_sent", "no connection to Redis: it does not answer")
        time.sleep(1.2)  # nothing happens: there is no other way to see that
        own.process.send_signal(signal.SIGCONT)
        wait_for(lambda: limiter.check(key, A, GET).allowed)
        assert connections_received(admin) - before <= 8 + len(decisions) + 2


def test_a_server_that_comes_back(own):
    """Connections are refused: the first one says so at once, with the reason; then it is tried again now and then."""
    with Limiter.from_url(own.url, deadline=5) as limiter:
        key = a_key(limiter)
        assert limiter.check(key, A, GET).allowed
        socket_, hidden = Path(own.socket), Path(f"{own.socket}.hidden")
        socket_.rename(hidden)
        with redis.Redis(unix_socket_path=str(hidden)) as admin:
            admin.client_kill_filter(skipme=True)
            began_s = time.monotonic()
            decision = limiter.check(key, A, GET)
            assert time.monotonic() - began_s < 4  # the deadline is 5 seconds
            assert decision.cause == "not_sent"
            assert "No such file" in decision.error
            assert endpoint_of(limiter)._breaker.is_open
        hidden.rename(socket_)
        wait_for(lambda: limiter.check(key, A, GET).allowed)


def test_it_comes_back_without_a_check(own):
    """A probe finds out, and not the first of those who check."""
    with Limiter.from_url(own.url, deadline=1) as limiter:
        key = a_key(limiter)
        own.process.send_signal(signal.SIGSTOP)
        while not endpoint_of(limiter)._breaker.is_open:
            limiter.check(key, A, GET)
        own.process.send_signal(signal.SIGCONT)
        wait_for(lambda: not endpoint_of(limiter)._breaker.is_open)
        assert limiter.check(key, A, GET).allowed


def test_too_many_clients(own):
    """A connection that is refused at once does not stand; those that stand are used."""
    with own.client() as admin, Limiter.from_url(own.url, deadline=5) as limiter:
        key = a_key(limiter)
        assert limiter.check(key, A, GET).allowed
        wait_for(lambda: standing(limiter).spare is not None)
        admin.config_set("maxclients", 1)
        before = connections_received(admin)
        began_s = time.monotonic()
        endpoint_of(limiter).connector.stand(64, 0.5)
        took_s = time.monotonic() - began_s
        assert "max number of clients" in str(endpoint_of(limiter).connector.unavailable())
        assert connections_received(admin) - before <= 8 + 8 * took_s / 0.1
        assert limiter.check(key, A, GET).allowed
        admin.config_set("maxclients", 100)
        warm(limiter)


def test_warm_up(server, key):
    """As many connections stand as are usually idle, and a spare one; the catalogue is loaded."""
    with Limiter.from_url(server.url) as limiter:
        limiter.warm_up()
        wait_for(lambda: standing(limiter).serving == len(standing(limiter).idle) == 8)  # one is perhaps just released
        assert standing(limiter).spare is not None
        assert "gold" in limiter._namespace.snapshot.plans
    with Limiter.from_url(f"{server.url}?max_connections=3") as limiter:
        limiter.warm_up()
        assert standing(limiter).serving == 1


def test_warm_up_says_what_is_wrong(server):
    with (
        Limiter.from_url("unix:///nowhere/redis.sock") as limiter,
        pytest.raises(StoreUnavailable, match=r"no connection to Redis: .*No such file"),
    ):
        limiter.warm_up(0.2)
    with (
        Limiter.from_url(f"unix://nobody:secret@{server.socket}") as limiter,
        pytest.raises(StoreUnavailable, match=r"no connection to Redis: .*username-password") as caught,
    ):
        limiter.warm_up(0.2)
    assert "secret" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"


def test_warm_up_waits_for_a_server_that_starts(own):
    with Limiter.from_url(own.url) as limiter:
        a_key(limiter)
    own.process.send_signal(signal.SIGSTOP)
    with Limiter.from_url(own.url) as limiter:
        continuing = threading.Timer(0.3, own.process.send_signal, (signal.SIGCONT,))
        continuing.start()
        limiter.warm_up()
        continuing.join()


# Whose connections they are


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


def test_a_child_starts_its_own_thread(server, key):
    """And closes its parent's connections, for itself alone."""
    with Limiter.from_url(server.url, deadline=5) as limiter:
        connections = warm(limiter)
        limiter._listener.stop()
        before = descriptors()

        def check():
            assert our_threads() == []
            assert descriptors() <= before - 9
            assert limiter.check(key, A, GET).allowed
            wait_for(lambda: standing(limiter).spare is not None)
            return len(our_threads()) >= 1 and standing(limiter).serving >= 1

        assert run_in_child(check) == 0
        assert connections.serving == 8
        assert limiter.check(key, A, GET).allowed


def test_closing_leaves_nothing_behind(server, key):
    """No thread and no descriptor; whoever checks once more has both made anew."""
    endpoints.close_all()  # that of `key` may be about to make its spare connection
    client = server.client()
    others, before = our_threads(), descriptors()
    limiter = Limiter(client)
    for _ in range(2):
        warm(limiter)
        assert limiter.check(key, A, GET).allowed
        assert {*our_threads()} - {*others}
        limiter.close()
        wait_for(lambda: {*our_threads()} <= {*others})
        client.close()
        assert descriptors() <= before


def test_what_is_forgotten_leaves_nothing_behind(server):
    """An endpoint that nobody has any more, with its pool or without."""
    client = server.client()
    others, before = our_threads(), descriptors()
    endpoint = Endpoint(client.connection_pool)
    endpoint.connect(5)
    assert {*our_threads()} - {*others}
    del endpoint
    wait_for(lambda: gc.collect() >= 0 and {*lasting_threads()} <= {*others})  # its thread may hold it for a moment
    assert descriptors() <= before
    catalog = Catalog(client)
    catalog.plans()
    endpoint = weakref.ref(Endpoint.of(client.connection_pool))
    del catalog
    client.close()
    del client
    wait_for(lambda: gc.collect() >= 0 and {*lasting_threads()} <= {*others})  # its thread may hold it for a moment
    assert endpoint() is None


def test_closing_during_a_check(server, key):
    """Its connection is broken off, not closed under its hands; the outcome is unknown."""
    with server.client() as admin, Limiter.from_url(server.url, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None  # no listener, whose start makes a check look once more
        assert limiter.check(key, A, GET).allowed
        admin.client_pause(1000)
        with ThreadPoolExecutor(1) as pool:
            decision = pool.submit(limiter.check, key, A, GET)
            wait_for(lambda: not endpoint_of(limiter)._idle)
            time.sleep(0.05)
            endpoint_of(limiter).close()
            assert decision.result(0.9).cause == "unknown"


def test_moving_to_another_server(server, own, key):
    """Who waits for the old one is told that it is deposed; what follows goes to the new one."""
    with own.client() as theirs, Limiter.from_url(server.url, deadline=5) as limiter:
        limiter._namespace.before_refresh = lambda: None  # as above
        Catalog(theirs).put_plan(UsagePlan("silver"))
        limiter.warm_up()
        assert limiter.check(key, A, GET).allowed
        endpoint = endpoint_of(limiter)
        with server.client() as admin, ThreadPoolExecutor(1) as pool:
            admin.client_pause(1000)
            decision = pool.submit(limiter.check, key, A, GET)
            wait_for(lambda: len(endpoint._idle) < 8)
            time.sleep(0.05)
            endpoint.connector._pool().connection_kwargs["path"] = own.socket
            endpoint.connector.move_to(("another", 6379))
            assert decision.result(0.9).cause == "deposed"
        assert [plan.id for plan in limiter.catalog.plans()] == ["silver"]


def test_limiters_of_one_client_share_few_connections(server, key):
    """However many limiters a client has, it keeps few connections for them."""
    with server.client(max_connections=5) as client:
        limiters = [Limiter(client) for _ in range(30)]
        for limiter in limiters:
            limiter._namespace.before_refresh = lambda: None  # no listeners: they hold a connection each
            assert limiter.check(key, A, GET).allowed
        assert len({endpoint_of(limiter) for limiter in limiters}) == 1
        assert standing(limiters[0]).serving <= 2
        limiters[0].close()
        assert limiters[1].check(key, A, GET).allowed
        limiters[1].close()


def test_a_pool_is_left_as_it_was(server, key):
    """Our connections are in a map of our own, which ends with the pool."""
    client = server.client()
    pool = client.connection_pool
    attributes = set(vars(pool))
    limiter = Limiter(client)
    assert limiter.check(key, A, GET).allowed
    endpoint = weakref.ref(Endpoint.of(pool))
    limiter.close()
    assert set(vars(pool)) == attributes
    client.close()
    del client, pool, limiter
    wait_for(lambda: gc.collect() >= 0 and endpoint() is None)  # its thread may hold it for this very moment


def test_threads_that_come_at_once_share_an_endpoint(server):
    """Whoever comes first to a pool: there is one for all."""
    with server.client() as client, ThreadPoolExecutor(8) as executor:
        start = threading.Barrier(8)
        endpoints = executor.map(lambda _: start.wait() * 0 or Endpoint.of(client.connection_pool), range(8))
        assert len(set(endpoints)) == 1


def test_an_unknown_outcome_is_not_kept(server, key):
    """A connection whose reply is late is closed: the next check gets its own reply."""
    with Proxy(server.socket) as proxy, Limiter.from_url(proxy.url, deadline=0.2) as limiter:
        assert limiter.check(key, A, GET).allowed
        proxy.fault = "swallow"
        assert limiter.check(key, A, GET).cause == "unknown"
        proxy.fault = None
        assert limiter.check(key, A, GET).limits[1].remaining == 10_000 - 3


def test_connections_to_a_server_that_became_a_replica_are_left(server, key):
    """The next check connects anew: to the new primary, if a name leads there. Not at each check, however."""
    with server.client() as client, server.client() as admin, Limiter(client, deadline=5) as limiter:
        assert limiter.check(key, A, GET).allowed
        limiter.warm_up()
        connections = {*standing(limiter).idle}
        admin.replicaof("127.0.0.1", "1")
        try:
            before = connections_received(admin)
            assert "read only replica" in limiter.check(key, A, GET).error
            assert not connections & {*standing(limiter).idle}
            for _ in range(50):
                assert "read only replica" in limiter.check(key, A, GET).error
            assert connections_received(admin) - before < 50
        finally:
            admin.replicaof("NO", "ONE")
        assert limiter.check(key, A, GET).allowed
