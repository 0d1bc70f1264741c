"""An embedded server ends with the process that made it, however that ends, and its folder goes with it."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from ratelimit import Limiter, StoreUnavailable
from ratelimit.store import embedded
from ratelimit.store.embedded import EmbeddedServer

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc, which Linux has"
)

MADE = """
import json, os, signal, sys, threading, time
import redis
from ratelimit import Limiter

def say(limiter):
    client = redis.Redis.from_url(limiter.url)
    print(json.dumps([limiter.server.socket, client.info("server")["process_id"]]), flush=True)
    return client
"""
ENDS = {
    "at its last line": "",
    "by an exception": "raise RuntimeError('on purpose')",
    "by os._exit": "os._exit(7)",
    "by SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "by SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "by SIGHUP to its session": "os.killpg(0, signal.SIGHUP)",
    "by another program in its place": "os.execv(sys.executable, [sys.executable, '-c', ''])",
}


def started(code):
    """A process that runs `code` behind MADE. Returns it with the socket and the id of the server that it tells of."""
    process = subprocess.Popen(
        [sys.executable, "-c", MADE + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    socket, pid = json.loads(process.stdout.readline())
    return process, socket, pid


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_of(socket):
    """The id of the server on a socket."""
    with redis.Redis(unix_socket_path=socket) as client:
        return client.info("server")["process_id"]


def wait_until(happened):
    """Wait until it has, or fail."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def all_gone(socket, pid):
    """Wait until a server and its folder are gone."""
    wait_until(lambda: not is_running(pid) and not Path(socket).parent.exists())


def end(process):
    """Kill a process, and close what led to it."""
    process.kill()
    process.communicate()


@pytest.mark.parametrize("ending", ENDS.values(), ids=ENDS)
def test_it_ends_with_the_process_that_made_it(ending):
    """Nobody closed it."""
    process, socket, pid = started(f"limiter = Limiter.embedded()\nsay(limiter)\nsys.stdin.readline()\n{ending}")
    assert is_running(pid)
    process.communicate("now\n", timeout=10)
    all_gone(socket, pid)


def test_it_outlives_the_thread_that_made_it():
    """And ends with the process nevertheless."""
    process, socket, pid = started(
        "made = []\n"
        "thread = threading.Thread(target=lambda: made.append(Limiter.embedded()))\n"
        "thread.start(); thread.join()\n"
        "say(made[0]); sys.stdin.readline()\n"
        "print(made[0].check('k' * 20, 'a/b', 'GET /').cause, flush=True); sys.stdin.readline()"
    )
    with redis.Redis(unix_socket_path=socket) as client:
        for _ in range(50):
            client.ping()
            time.sleep(0.002)
    process.stdin.write("now\n")
    process.stdin.flush()
    assert process.stdout.readline() == "lost\n"
    assert is_running(pid)
    end(process)
    all_gone(socket, pid)


def test_a_ctrl_c_is_for_the_process_alone():
    """It goes to all processes of the terminal; while ours tidies up, the server still answers."""
    process, socket, pid = started(
        "limiter, interrupt = Limiter.embedded(), [signal.SIGINT]\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, interrupt); client = say(limiter)\n"
        "try: signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupt); time.sleep(60)\n"
        "except KeyboardInterrupt: print(client.ping(), flush=True); limiter.close(); print('closed')"
    )
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=10)
    assert (output, errors, process.returncode) == ("True\nclosed\n", "", 0)
    all_gone(socket, pid)


def test_it_keeps_no_output_open():
    """Who reads a program's output sees its end, though the server runs on."""
    process, socket, pid = started(
        "limiter = Limiter.embedded(); say(limiter); os.close(1); os.close(2); sys.stdin.readline(); os._exit(0)"
    )
    assert (process.stdout.read(), process.stderr.read()) == ("", "")
    assert is_running(pid)
    end(process)
    all_gone(socket, pid)


def test_a_child_that_was_forked_may_go_on_using_it():
    """It ends neither with the child nor with the parent, but with the last of both."""
    process, socket, pid = started(
        "limiter = Limiter.embedded(); client = say(limiter)\n"
        "if not os.fork(): limiter.close(); sys.exit()\n"
        "os.wait(); print(client.ping(), flush=True)\n"
        "if os.fork(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.stdin.readline(); print(client.ping(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert process.stdout.readline() == "True\n"
    process.wait(10)
    assert is_running(pid)
    assert process.communicate("now\n", timeout=10)[0] == "True\n"
    all_gone(socket, pid)


def test_stop_does_not_wait_for_a_child_that_was_forked():
    """Though it holds what the parent holds."""
    process, socket, pid = started(
        "limiter = Limiter.embedded(); say(limiter)\n"
        "if not os.fork(): os.close(1); time.sleep(60)\n"
        "limiter.close(); print('closed', flush=True); time.sleep(60)"
    )
    assert process.stdout.readline() == "closed\n"
    all_gone(socket, pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_stop_can_be_repeated():
    """And nothing is left when it returns."""
    server = EmbeddedServer()
    pid = pid_of(server.socket)
    server.stop()
    assert not is_running(pid)
    assert not Path(server.socket).parent.exists()
    server.stop()


def test_it_ends_when_nobody_has_it_any_more():
    """Its url alone keeps no server."""
    server = EmbeddedServer()
    pid, socket = pid_of(server.socket), server.socket
    del server
    gc.collect()
    all_gone(socket, pid)


def test_a_server_that_was_shut_down_leaves_nothing():
    """Stopping it then is no error."""
    with EmbeddedServer() as server:
        pid = pid_of(server.socket)
        with redis.Redis.from_url(server.url) as client, contextlib.suppress(redis.ConnectionError):
            client.shutdown(nosave=True)
        all_gone(server.socket, pid)


def test_a_server_that_does_not_start(monkeypatch, tmp_path):
    """Says why, and leaves nothing."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(embedded.tempfile, "tempdir", str(folder))
    with pytest.raises(StoreUnavailable, match=r"the embedded server did not start: .*[Ss]ocket") as caught:
        Limiter.embedded()
    assert caught.value.__cause__ is None
    assert list(folder.iterdir()) == []
