"""Nodes of a cluster that answer what a test wants."""

from collections import deque

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import ResponseError

from helpers.fake_server import HANG_UP, SILENCE, FakeServer

NOT_SERVED = {
    "CLUSTERDOWN": ResponseError("CLUSTERDOWN Hash slot not served"),
    "READONLY": ResponseError("READONLY You can't write against a read only replica."),
    "MASTERDOWN": ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    "LOADING": ResponseError("LOADING Redis is loading the dataset in memory"),
}
"""Error replies of a node that does not serve a slot, by their codes."""


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


class FakeNode(FakeServer):
    """Answers calls of scripts with `answers`, one after the other, then with `answer`; all else as a node does.

    Attributes:
        calls: The names of commands that are about keys, and ASKING, as they came.
        asking: What it answers to ASKING.
        is_silent: Whether it answers nothing at all.
        refreshes: How often it was sent CLUSTER SLOTS.
        old_topology: The owner and the epoch that it goes on reporting, as it is cut off from the other; None if it is
            not.
    """

    def __init__(self, cluster, answer):
        self._cluster, self.answer = cluster, answer
        self.answers, self.calls, self.refreshes, self.is_silent = deque(), [], 0, False
        self.asking, self.old_topology = "OK", None
        super().__init__()
        self.name = f"127.0.0.1:{self.address[1]}"

    def _reply(self, client, command):
        answer = self._answer_to([part.upper() for part in command])
        if answer is HANG_UP:
            return HANG_UP
        return SILENCE if self.is_silent or answer is SILENCE else encoded(answer)

    def _answer_to(self, command):
        match command:
            case [b"CLUSTER", b"SLOTS"]:
                self.refreshes += 1
                if self._cluster.hides_slots:
                    return SILENCE
                owner, _ = self.old_topology or (self._cluster.owner, None)
                return self._cluster.slots(owner)
            case [b"CLUSTER", b"INFO"]:
                _, epoch = self.old_topology or (None, self._cluster.epoch)
                return f"cluster_state:{'fail' if self.old_topology else 'ok'}\r\ncluster_current_epoch:{epoch}\r\n"
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


class FakeCluster:
    """Two nodes. The first has all slots but one, until `owner` says otherwise.

    Attributes:
        nodes: The nodes: calls are answered by 1 at the first, by 2 at the second.
        owner: The node that has them.
        epoch: Of the configuration.
        hides_slots: Whether no node answers CLUSTER SLOTS.
    """

    def __init__(self):
        self.epoch, self.hides_slots = 1, False
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
    def refreshes(self):
        """How often any node was sent CLUSTER SLOTS."""
        return sum(node.refreshes for node in self.nodes)

    def close(self):
        for node in self.nodes:
            node.close()
