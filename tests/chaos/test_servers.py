"""The parts of the suite that break things: a clock that is moved, a network that is cut."""

import socket
import time

import pytest
from helpers.servers import NAMES

from chaos import servers
from chaos.gate import Gate
from chaos.servers import CrashableServer, NoCompilerError, ServerWithClock

HOUR_S = 3600


def offset_s(client):
    """By how much a server's clock differs from the machine's; once it has looked at it again, each millisecond."""
    time.sleep(0.01)
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6 - time.time()


@pytest.mark.parametrize("name", NAMES)
def test_a_clock_is_moved(name):
    """Of the server alone, back and on, while it runs; scripts see it."""
    try:
        server = ServerWithClock(name)
    except NoCompilerError as error:
        pytest.skip(str(error))  # `make chaos` installs one
    try:
        with server.client() as client:
            for wanted_s in (0, -HOUR_S, 0.5, 0):
                server.set_clock(wanted_s)
                assert offset_s(client) == pytest.approx(wanted_s, abs=0.2)
            server.set_clock(HOUR_S)
            time.sleep(0.01)
            in_script = int(client.eval("return redis.call('TIME')[1]", 0))
            assert in_script - time.time() == pytest.approx(HOUR_S, abs=2)
    finally:
        server.stop()


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(servers, "find_spec", lambda _name: None)
    with pytest.raises(NoCompilerError, match="pip install ziglang"):
        servers.compiler()
    monkeypatch.setattr(servers, "find_spec", lambda _name: True)
    assert servers.compiler()[1:] == ["-m", "ziglang", "cc"]


@pytest.mark.parametrize("name", NAMES)
def test_a_server_crashes_and_starts_again(name):
    """On the same socket; with what it had written."""
    server = CrashableServer(name, appendonly="yes", appendfsync="always")
    try:
        with server.client() as client:
            client.set("a", "b")
        server.crash()
        server.start_again()
        with server.client() as client:
            assert client.get("a") == b"b"
    finally:
        server.stop()


def test_a_network_is_cut_and_mended():
    """What was sent meanwhile arrives afterwards; others are not cut off."""
    with socket.create_server(("127.0.0.1", 0)) as listening, Gate(listening.getsockname()[1]) as gate:
        sender = socket.create_connection(("127.0.0.1", gate.port))
        receiver, _ = listening.accept()
        with sender, receiver:
            receiver.settimeout(0.2)
            sender.sendall(b"before")
            assert receiver.recv(100) == b"before"
            gate.cut("127.0.0.1")
            sender.sendall(b"meanwhile")
            with pytest.raises(TimeoutError):
                receiver.recv(100)
            gate.mend()
            assert receiver.recv(100) == b"meanwhile"
            gate.cut("127.0.0.2")
            sender.sendall(b"other")
            assert receiver.recv(100) == b"other"
