"""Nodes of a cluster that answer what a test wants: TCP servers on this machine."""

import contextlib
import socket
import threading
from collections import deque

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import ResponseError

from ratelimit.store.resp import INCOMPLETE, new_reader

SILENCE, HANG_UP = object(), object()
"""Instead of an answer."""


def encoded(value):
    """A reply as it goes over the wire; an exception is an error reply."""
    match value:
        case ResponseError():
            return f"-{value}\r\n".encode()
        case int():
            return f":{value}\r\n".encode()
        case list():
            return b"".join((f"*{len(value)}\r\n".encode(), *map(encoded, value)))
        case _:
            text = value if isinstance(value, bytes) else str(value).encode()
            return b"$%d\r\n%b\r\n" % (len(text), text)


class FakeNode:
    """Answers calls of scripts with `answers`, one after the other, then with `answer`; what else is asked, rightly.

    Attributes:
        address: Where it listens.
        calls: The names of commands that are about keys, and ASKING, as they came.
        asking: What it answers to ASKING.
        is_silent: Whether it answers nothing at all.
        rounds: How often it was asked for the topology.
        old_view: The owner and the epoch that it goes on telling, as it is cut off from the other; None if it is not.
    """

    def __init__(self, cluster, answer):
        self._cluster, self.answer = cluster, answer
        self.answers, self.calls, self.rounds, self.is_silent = deque(), [], 0, False
        self.asking, self.old_view = "OK", None
        self._clients = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        self.name = f"127.0.0.1:{self.address[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        reader = new_reader(ResponseError)
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not INCOMPLETE:
                    reply = self._reply([part.upper() for part in command])
                    if reply is HANG_UP:
                        client.close()
                        return
                    if reply is not SILENCE and not self.is_silent:
                        client.sendall(encoded(reply))
        client.close()

    def _reply(self, command):
        match command:
            case [b"CLUSTER", b"SLOTS"]:
                self.rounds += 1
                if self._cluster.keeps_slots_secret:
                    return SILENCE
                owner, _ = self.old_view or (self._cluster.owner, None)
                return self._cluster.slots(owner)
            case [b"CLUSTER", b"INFO"]:
                _, epoch = self.old_view or (None, self._cluster.epoch)
                return f"cluster_state:{'fail' if self.old_view else 'ok'}\r\ncluster_current_epoch:{epoch}\r\n"
            case [b"TIME"]:
                return [b"1700000000", b"0"]
            case [b"ASKING"]:
                self.calls.append("ASKING")
                return self.asking
            case [b"EVALSHA" | b"EVAL" | b"GET" as name, *_]:
                self.calls.append(name.decode())
                return self.answers.popleft() if self.answers else self.answer
            case _:
                return "OK"

    def close(self):
        """End all connections, and take no more."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # closing alone would let it take one more
        self._listening.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)


class FakeCluster:
    """Two nodes. The first has all slots but one, until `owner` says otherwise.

    Attributes:
        nodes: The nodes: calls are answered by 1 at the first, by 2 at the second.
        owner: Who has them.
        epoch: Of the configuration.
        keeps_slots_secret: Whether nobody answers who asks for that.
    """

    def __init__(self):
        self.epoch, self.keeps_slots_secret = 1, False
        self.nodes = [FakeNode(self, number) for number in (1, 2)]
        self.owner = self.nodes[0]

    def slots(self, owner):
        return [
            [first, last, [*node.address, "id"]]
            for first, last, node in ((0, 0, self.nodes[1]), (1, REDIS_CLUSTER_HASH_SLOTS - 1, owner))
        ]

    @property
    def url(self):
        return f"redis://{self.nodes[0].name}?cluster=true"

    @property
    def rounds(self):
        """How often any node was asked for the topology."""
        return sum(node.rounds for node in self.nodes)

    def close(self):
        for node in self.nodes:
            node.close()
