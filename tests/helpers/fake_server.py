"""A TCP server on this machine that answers what a test wants."""

import contextlib
import socket
import threading

from redis.exceptions import ResponseError

from helpers.ports import free_port
from ratelimit.store.resp import INCOMPLETE, new_reader

SILENCE, HANG_UP = object(), object()
"""Instead of a reply: none, and the end of the connection."""


class FakeServer:
    """Answers each command with what `_reply` of its class returns.

    Attributes:
        address: Where it listens.
        connection_count: How many connections it took.
        open_count: How many of them are open.
    """

    def __init__(self):
        self.connection_count = 0
        self._clients = set()
        self.address = "127.0.0.1", free_port()
        self.listen_again()

    def listen_again(self):
        """Take connections at the same address, once closed."""
        self._listening = socket.create_server(self.address)
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    @property
    def open_count(self):
        return len(self._clients)

    def _reply(self, client, command):
        """The reply to a command, a list of bytes, as it goes over the wire; or SILENCE, or HANG_UP."""
        raise NotImplementedError

    def _on_end(self, client):
        """A client has ended its connection."""

    def _accept(self, listening):
        with contextlib.suppress(OSError):
            while True:
                client, _ = listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connection_count += 1
                self._clients.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.suppress(OSError):
            self._answer(client)
        self._clients.discard(client)
        self._on_end(client)
        client.close()

    def _answer(self, client):
        reader = new_reader(ResponseError)
        while data := client.recv(65536):
            reader.feed(data)
            while (command := reader.gets()) is not INCOMPLETE:
                reply = self._reply(client, command)
                if reply is HANG_UP:
                    return
                if reply is not SILENCE:
                    client.sendall(reply)

    def drop(self):
        """Break all connections off."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End all connections, and take no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # closing alone would let it take one more
        self._listening.close()
        self.drop()
