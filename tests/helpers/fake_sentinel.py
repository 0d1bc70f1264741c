"""A Sentinel that names the primary that a test wants, or none."""

import time

from helpers.fake_server import SILENCE, FakeServer
from ratelimit.store.resp import pack


class FakeSentinel(FakeServer):
    """Names `primary`, by a configuration of `epoch`; as long as `is_silent`, it takes connections and answers nothing.
    Each reply takes `delay_s`.

    Attributes:
        commands: What came, each a list of bytes.
    """

    def __init__(self, primary, epoch=1):
        self.primary, self.epoch, self.is_silent, self.delay_s = primary, epoch, False, 0
        self.commands, self._subscribers = [], set()
        super().__init__()

    def _reply(self, client, command):
        self.commands.append(command)
        time.sleep(self.delay_s)
        return SILENCE if self.is_silent else self._answer_to(client, command)

    def _answer_to(self, client, command):
        match [part.upper() for part in command]:
            case [b"SENTINEL", b"MASTER", _]:
                return pack([("name", "limits", "config-epoch", self.epoch, "num-other-sentinels", 0)])
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", _]:
                return b"*-1\r\n" if self.primary is None else pack([self.primary])
            case [b"SUBSCRIBE", _]:
                self._subscribers.add(client)
                return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(command[1]), command[1])
        return b"+OK\r\n"

    def _on_end(self, client):
        self._subscribers.discard(client)

    def count(self, word):
        """How many commands with this word in them came."""
        return sum(word in command for command in self.commands)

    def switch(self, primary):
        """Name another primary from now on, after a failover, and publish that."""
        self.primary, self.epoch = primary, self.epoch + 1
        self.publish()

    def publish(self):
        """Publish a failover."""
        for client in list(self._subscribers):
            client.sendall(pack([("message", "+switch-master", "limits 127.0.0.1 1 127.0.0.1 2")]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
