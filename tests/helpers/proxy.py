"""A proxy in front of a server that does to commands and replies what networks and overloaded servers do."""

import asyncio
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path

from helpers.loop_thread import LoopThread
from helpers.ports import free_port

ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends a reset."""

END = None
"""What a lane delivers when its sender has closed the connection."""

HANDSHAKE = {"HELLO", "CLIENT", "AUTH", "SELECT", "SUBSCRIBE", "TIME"}
"""What is sent to connect, TIME last: it shows that the server answers."""

FAULTS = ("drop", "delay", "drip", "half", "reset", "hold")


@dataclass
class Rule:
    """What happens to commands of these names (to all, if there are none), and to their replies.

    fault     drop: the reply is lost, and all later ones of its connection, as of a stream with a gap
              delay: the reply comes `seconds` later; replies behind it keep their order
              drip: the reply comes in single bytes, one each `seconds`
              half: half the reply comes, then nothing more
              reset: the command is carried out, then the connection is reset
              hold: the command does not reach the server, nor does anything behind it, until `Proxy.release`
    skip      so many commands pass first
    times     so many meet the fault, all others pass
    """

    fault: str
    commands: frozenset[str] = frozenset()
    seconds: float = 0.0
    skip: int = 0
    times: float = inf

    def applies(self, command):
        """Whether a command meets the fault. Counts it."""
        if (self.commands and command not in self.commands) or self.times <= 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Proxy:
    """Listens on a TCP `port` of this machine, or with `unix` on a socket of its own; forwards to a server's socket.

    Attributes:
        connections: How many were accepted.
        commands: How many of each name were met.
        round_trips: The commands that a client sent together, having read what came before; without handshakes.
        faults: How many commands met a fault; of replies, each is the proof that the server carried a command out.
        black_hole: Whether new connections are accepted and never answered.
    """

    FAULTS = ("swallow", "reset", "delay", "trickle")
    """What `fault` may be."""
    DELAY_S = 0.8

    def __init__(self, path, commands=b"EVAL", *, rtt=0.0, unix=False):
        """With `rtt`, each round trip takes so many seconds longer, and as many as will are under way at once."""
        self.path = path
        self.one_way_s = rtt / 2
        self.connections, self.commands, self.faults = 0, Counter(), 0
        self.round_trips = []
        self.black_hole = False
        self.rules = []
        self.links, self.to_server = set(), set()
        self.let_through = 0
        self._fault = None
        self._names = {commands.decode(), *(["EVALSHA"] if commands == b"EVAL" else [])}
        self._changed = threading.Condition()
        self._loop = LoopThread()
        self._folder = tempfile.TemporaryDirectory(prefix="rl-proxy-") if unix else None
        self.socket = str(Path(self._folder.name) / "proxy.sock") if unix else None
        self.port = 0 if unix else free_port()
        self._listening, self._accepting = None, set()
        self.accept()

    @property
    def url(self):
        return f"unix://{self.socket}" if self.socket else f"redis://127.0.0.1:{self.port}"

    def on(self, commands, fault, **options):
        """Add a rule. `commands` are names, separated by blanks; "" for all. The first rule that applies counts."""
        assert fault in FAULTS, fault
        self.rules.append(Rule(fault, frozenset(commands.split()), **options))

    def clear(self):
        """Forget all rules; what they did to connections remains."""
        self.rules = []

    def release(self):
        """Forward what is held."""
        self._loop.call(lambda: [link.release() for link in [*self.links]])

    def disconnect(self):
        """Reset all connections."""
        self._loop.call(lambda: [link.abort() for link in [*self.links]])

    def refuse(self):
        """Refuse new connections, as a port does on which nobody listens."""
        self._loop.call(self._stop_listening)

    def accept(self):
        """Accept connections, on the same port as before."""
        self._loop.call(self._listen)

    def wait_for_faults(self, times):
        """Wait until that many commands met a fault: until then, the request may not have been carried out."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.faults >= times, timeout=10), "no reply came"

    def count_fault(self):
        with self._changed:
            self.faults += 1
            self._changed.notify_all()

    @property
    def fault(self):
        """One fault for the replies of `commands`: None or one of FAULTS. `let_through` of them pass first."""
        return self._fault

    @fault.setter
    def fault(self, fault):
        self._fault = fault
        self.clear()
        if fault is not None:
            name = {"swallow": "drop", "trickle": "drip"}.get(fault, fault)
            seconds = self.DELAY_S if fault == "delay" else 0.0
            self.on(" ".join(self._names), name, seconds=seconds, skip=self.let_through)
            self.let_through = 0

    def close(self):
        self._loop.run(self._end())
        self._loop.close()
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    async def _end(self):
        self._stop_listening()
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)
        for link in [*self.links]:
            link.abort()
        for transport in [*self.to_server]:
            transport.abort()
        await asyncio.sleep(0)  # they close in the next turn

    def _listen(self):
        if self._listening is not None:
            return
        if self.socket:
            Path(self.socket).unlink(missing_ok=True)
        address, family = (self.socket, socket.AF_UNIX) if self.socket else (("127.0.0.1", self.port), socket.AF_INET)
        self._listening = socket.create_server(address, family=family, backlog=1024)
        self._listening.settimeout(0)
        self._loop.loop.add_reader(self._listening, self._accept)

    def _accept(self):
        with suppress(BlockingIOError):
            sock, _ = self._listening.accept()
            loop = self._loop.loop
            accepting = loop.create_task(loop.connect_accepted_socket(lambda: _Link(self), sock))
            self._accepting.add(accepting)
            accepting.add_done_callback(self._accepting.discard)

    def _stop_listening(self):
        if self._listening is not None:
            self._loop.loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None


class _Lane:
    """One direction of a connection: delivers in order, each piece when it is due."""

    def __init__(self, latency_s):
        self._latency_s, self._last_due_s = latency_s, 0.0
        self._pieces, self._timer = deque(), None
        self._loop = asyncio.get_running_loop()
        self.transport = None
        self.is_silent = self.is_held = False

    def put(self, piece, after_s=0.0):
        """Deliver bytes, or call a function, `after_s` later than they would be."""
        if self.is_silent:
            return
        due = max(self._last_due_s, self._loop.time() + self._latency_s + after_s)
        self._last_due_s = due
        self._pieces.append((due, piece))
        if self._timer is None:
            self.deliver()

    def deliver(self):
        """Deliver all that is due."""
        self._timer = None
        while self._pieces and not self.is_held and self.transport is not None:
            due, piece = self._pieces[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.deliver)
                return
            self._pieces.popleft()
            if callable(piece):
                piece()
            elif piece is END:
                self.transport.close()
            elif not self.transport.is_closing():
                self.transport.write(piece)


class _Link(asyncio.Protocol):
    """One connection of a client, and with `_ServerEnd` the one to the server that belongs to it."""

    def __init__(self, proxy):
        self._proxy = proxy
        self._unparsed = bytearray()
        self.awaiting = deque()
        self.is_subscribed = False
        self.has_received = True

    def connection_made(self, transport):
        self._proxy.connections += 1
        self._proxy.links.add(self)
        self._client = transport
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests, self.replies = _Lane(self._proxy.one_way_s), _Lane(self._proxy.one_way_s)
        self.replies.transport = transport
        self._is_black_hole = self._proxy.black_hole
        if not self._is_black_hole:
            self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self):
        try:
            server, _ = await asyncio.get_running_loop().create_unix_connection(
                lambda: _ServerEnd(self, self._proxy), self._proxy.path
            )
        except OSError:
            self._client.abort()
            return
        self._requests.transport = server
        self._requests.deliver()

    def data_received(self, data):
        if self._is_black_hole:
            return
        self._unparsed += data
        at = 0
        while at < len(self._unparsed) and (end := _end_of_value(self._unparsed, at)) >= 0:
            request = bytes(self._unparsed[at:end])
            at = end
            self._forward(request)
        del self._unparsed[:at]

    def _forward(self, request):
        command = _name_of(request)
        self._proxy.commands[command] += 1
        if command not in HANDSHAKE:
            if self.has_received:
                self._proxy.round_trips.append([])
            self._proxy.round_trips[-1].append(command)
            self.has_received = False
        self.is_subscribed = self.is_subscribed or command.endswith("SUBSCRIBE")
        rule = next((rule for rule in self._proxy.rules if rule.applies(command)), None)
        if rule is not None and rule.fault == "hold":
            self._requests.is_held = True
            self._proxy.count_fault()
            rule = None
        self.awaiting.append(rule)
        self._requests.put(request)

    def connection_lost(self, _error):
        self._proxy.links.discard(self)
        if not self._is_black_hole:
            self._requests.put(END)

    def release(self):
        self._requests.is_held = False
        self._requests.deliver()

    def abort(self):
        """Reset the connection of the client. What it sent arrives."""
        with suppress(OSError):
            self._client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.replies.is_silent = True
        self._client.abort()


class _ServerEnd(asyncio.Protocol):
    def __init__(self, link, proxy):
        self._link, self._proxy = link, proxy
        self._unparsed = bytearray()

    def connection_made(self, transport):
        self._transport = transport
        self._proxy.to_server.add(transport)

    def data_received(self, data):
        self._unparsed += data
        at = 0
        while at < len(self._unparsed) and (end := _end_of_value(self._unparsed, at)) >= 0:
            reply = bytes(self._unparsed[at:end])
            at = end
            self._deliver(reply)
        del self._unparsed[:at]

    def _deliver(self, reply):
        link, replies = self._link, self._link.replies
        link.has_received = True
        is_push = reply[:1] == b">" or (link.is_subscribed and not link.awaiting)
        rule = None if is_push or not link.awaiting else link.awaiting.popleft()
        if rule is None:
            replies.put(reply)
            return
        if rule.fault == "drop":
            replies.is_silent = True
        elif rule.fault == "delay":
            replies.put(reply, rule.seconds)
        elif rule.fault == "drip":
            for number, byte in enumerate(reply):
                replies.put(bytes([byte]), rule.seconds * (number + 1))
        elif rule.fault == "half":
            replies.put(reply[: len(reply) // 2])
            replies.is_silent = True
        elif rule.fault == "reset":
            replies.put(link.abort)
        self._proxy.count_fault()

    def connection_lost(self, _error):
        self._proxy.to_server.discard(self._transport)
        self._link.replies.put(END)


_WITH_BYTES, _WITH_VALUES, _WITH_PAIRS = b"$=!", b"*~>", b"%|"


def _end_of_value(data, at):
    """Return where the value of RESP that begins at `at` ends; -1 if not all of it is there."""
    values = 1
    while values:
        end = data.find(b"\r\n", at)
        if end < 0:
            return -1
        kind, line, at = data[at], at + 1, end + 2
        values -= 1
        if kind in _WITH_BYTES:
            size = int(data[line:end])
            at += size + 2 if size >= 0 else 0
            if at > len(data):
                return -1
        elif kind in _WITH_VALUES:
            values += max(int(data[line:end]), 0)
        elif kind in _WITH_PAIRS:
            values += 2 * int(data[line:end])
    return at


def _name_of(request):
    """Return the name of the command that a request of RESP begins with."""
    _, _, name, _ = request.split(b"\r\n", 3)
    return name.decode().upper()


@contextmanager
def distant(path, rtt, *, unix=False):
    """Yield the URL of a proxy with this round trip. It is a process of its own: it takes no time of this one."""
    command = [sys.executable, "-m", "helpers.proxy", path, str(rtt), *(["unix"] if unix else [])]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


if __name__ == "__main__":
    with Proxy(sys.argv[1], rtt=float(sys.argv[2]), unix="unix" in sys.argv) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        sys.stdin.read()
