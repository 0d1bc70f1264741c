"""The proxy of the tests does what it says: else a test of a fault would pass without one."""

import socket
import time
from contextlib import contextmanager

import pytest
from helpers.proxy import Proxy
from helpers.waiting import wait_for


@contextmanager
def connected(proxy):
    """A plain socket; what does not come within a second does not come."""
    with socket.socket(socket.AF_UNIX if proxy.socket else socket.AF_INET) as sock:
        sock.settimeout(1)
        sock.connect(proxy.socket or ("127.0.0.1", proxy.port))
        yield sock


def command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in map(str.encode, words))


def read(sock, size):
    data = b""
    while len(data) < size:
        data += (piece := sock.recv(size - len(data)))
        assert piece, "the end"
    return data


def is_silent(sock):
    sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    return True


@pytest.fixture(params=["tcp", "unix"])
def proxy(request, valkey):
    with Proxy(valkey.socket, unix=request.param == "unix") as made:
        yield made


def test_commands_and_connections_are_counted(proxy):
    """However they are cut on their way."""
    with connected(proxy) as sock:
        for byte in command("PING"):
            sock.sendall(bytes([byte]))
        sock.sendall(command("ECHO", "a\r\n$1") + command("PING") + command("MGET", "x", "y") + command("HGETALL", "z"))
        assert read(sock, 43) == b"+PONG\r\n$5\r\na\r\n$1\r\n+PONG\r\n*2\r\n$-1\r\n$-1\r\n*0\r\n"
    assert proxy.commands == {"PING": 2, "ECHO": 1, "MGET": 1, "HGETALL": 1}
    assert (proxy.connections, proxy.faults) == (1, 0)


def test_a_rule_meets_its_command_alone(proxy):
    """Of several in one write, after as many as are to pass, and no more than it is to meet."""
    proxy.on("ECHO GET", "delay", seconds=0.2, skip=1, times=1)
    with connected(proxy) as sock:
        began = time.monotonic()
        sock.sendall(command("PING") + command("ECHO", "1") + command("ECHO", "2") + command("ECHO", "3"))
        assert read(sock, 14) == b"+PONG\r\n$1\r\n1\r\n"
        assert time.monotonic() - began < 0.2
        assert read(sock, 14) == b"$1\r\n2\r\n$1\r\n3\r\n"
        assert time.monotonic() - began >= 0.2
    assert proxy.faults == 1


def test_lost_and_half_replies(proxy, valkey):
    """They are carried out, and the connection is silent from then on; others are not."""
    for fault, rest in (("drop", b""), ("half", b"$4\r\nte")):
        proxy.clear()
        proxy.on("GETSET", fault, times=1)
        with connected(proxy) as sock, connected(proxy) as other, valkey.client() as client:
            sock.sendall(command("SET", "a", "text"))
            assert read(sock, 5) == b"+OK\r\n"
            sock.sendall(command("GETSET", "a", fault) + command("PING"))
            assert read(sock, len(rest) - 1 if rest else 0) == rest[:-1]
            proxy.wait_for_faults(1)
            sock.settimeout(0.1)
            with pytest.raises(TimeoutError):
                read(sock, 3)
            assert client.get("a") == fault.encode()
            other.sendall(command("PING"))
            assert read(other, 7) == b"+PONG\r\n"


def test_a_dripped_reply(proxy):
    """A byte at a time: the whole takes as many times as long."""
    proxy.on("ECHO", "drip", seconds=0.02)
    with connected(proxy) as sock:
        began = time.monotonic()
        sock.sendall(command("ECHO", "long"))
        assert read(sock, 1) == b"$"
        assert read(sock, 9) == b"4\r\nlong\r\n"
        assert time.monotonic() - began >= 0.2


def test_a_reset(proxy, valkey):
    """After the command was carried out."""
    proxy.on("INCR", "reset")
    with connected(proxy) as sock, valkey.client() as client:
        sock.sendall(command("INCR", "n"))
        if proxy.socket:
            assert sock.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert client.get("n") == b"1"


def test_what_is_held_comes_later(proxy, valkey):
    """Not before it is released, and then all of it, in order."""
    proxy.on("INCR", "hold", times=1)
    with connected(proxy) as sock, valkey.client() as client:
        sock.sendall(command("INCR", "n") + command("INCR", "n"))
        proxy.wait_for_faults(1)
        assert is_silent(sock)
        assert client.get("n") is None
        proxy.release()
        assert read(sock, 8) == b":1\r\n:2\r\n"


def test_who_refuses_and_who_never_answers(proxy):
    """New connections alone."""
    with connected(proxy) as sock:
        proxy.refuse()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)), connected(proxy):
            pass
        proxy.accept()
        proxy.black_hole = True
        with connected(proxy) as other:
            other.sendall(command("PING"))
            assert is_silent(other)
        sock.sendall(command("PING"))
        assert read(sock, 7) == b"+PONG\r\n"
        proxy.disconnect()
        wait_for(lambda: not proxy.links)
    assert proxy.connections == 2


def test_round_trips_take_longer_and_none_waits_for_another(valkey):
    """A hundred at once take as long as one."""
    with Proxy(valkey.socket, rtt=0.1) as proxy, connected(proxy) as sock:
        began = time.monotonic()
        for _ in range(100):
            sock.sendall(command("PING"))
            time.sleep(0.0005)
        assert read(sock, 7) == b"+PONG\r\n"
        assert time.monotonic() - began >= 0.1
        read(sock, 7 * 99)
        assert time.monotonic() - began < 1
