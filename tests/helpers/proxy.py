"""A TCP proxy in front of a server that does to replies what networks do. Requests always arrive."""

import socket
import struct
import threading
from contextlib import suppress
from time import sleep

ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends a reset."""


class Proxy:
    """Listens on a TCP `port` of this machine, and forwards to a server's unix socket.

    `fault` is what happens to replies of `commands` (EVAL: EVALSHA, too): None, or one of FAULTS. `let_through` is how
    many of them pass first. `faults` counts those that met a fault: each is the proof that the server ran a command.
    """

    FAULTS = ("swallow", "reset", "delay", "trickle")
    DELAY_S = 0.8

    def __init__(self, path, commands=b"EVAL"):
        self.fault, self.let_through, self.faults = None, 0, 0
        self._path, self._commands = path, commands
        self._changed = threading.Condition()
        self._sockets = []
        self._awaiting, self._swallowed = set(), set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def wait_for_faults(self, times):
        """Wait until that many replies met the fault: until then, the request may not have been carried out."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.faults >= times, timeout=10), "no reply came"

    def close(self):
        # An accept that is under way is not woken by closing its socket, but by shutting it down.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in self._sockets:
            end.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            self._sockets += client, server
            for target in (self._requests, self._replies):
                thread = threading.Thread(target=target, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _requests(self, client, server):
        with suppress(OSError):
            while data := client.recv(65536):
                if self._commands in data:
                    self._awaiting.add(client)
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _replies(self, client, server):
        with suppress(OSError):
            while data := server.recv(65536):
                self._deliver(client, data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _deliver(self, client, data):
        if client in self._swallowed:
            return  # a stream of which a part was swallowed does not go on
        fault = self.fault if client in self._awaiting else None
        self._awaiting.discard(client)
        if fault is not None and self.let_through:
            self.let_through -= 1
            fault = None
        if fault is None:
            client.sendall(data)
            return
        with self._changed:
            self.faults += 1
            self._changed.notify_all()
        if fault == "swallow":
            self._swallowed.add(client)
        elif fault == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            client.shutdown(socket.SHUT_RD)  # wakes the other thread, so that closing is not put off
            client.close()
        elif fault == "delay":
            sleep(self.DELAY_S)
            client.sendall(data)
        elif fault == "trickle":
            for byte in data:
                client.sendall(bytes([byte]))
