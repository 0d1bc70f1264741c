"""A Sentinel that says what a test wants, or nothing: a TCP server on this machine."""

import contextlib
import socket
import threading
import time

from redis.exceptions import ResponseError

from ratelimit.store.resp import INCOMPLETE, new_reader, pack


class FakeSentinel:
    """Names `primary`, by a configuration of `epoch`; as long as `is_silent`, it takes connections and says
    nothing. Each reply takes `delay_s`.

    Attributes:
        address: Where it listens.
        commands: What came, each a list of bytes.
        connection_count: How many connections it took.
    """

    def __init__(self, primary, epoch=1):
        self.primary, self.epoch, self.is_silent, self.delay_s = primary, epoch, False, 0
        self.commands, self.connection_count = [], 0
        self._clients, self._subscribers = set(), set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connection_count += 1
                self._clients.add(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        reader = new_reader(ResponseError)
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not INCOMPLETE:
                    self.commands.append(command)
                    time.sleep(self.delay_s)
                    if not self.is_silent:
                        client.sendall(self._reply(client, command))
        self._clients.discard(client)
        self._subscribers.discard(client)
        client.close()

    def _reply(self, client, command):
        match [part.upper() for part in command]:
            case [b"SENTINEL", b"MASTER", _]:
                return pack([("name", "limits", "config-epoch", self.epoch, "num-other-sentinels", 0)])
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", _]:
                return b"*-1\r\n" if self.primary is None else pack([self.primary])
            case [b"SUBSCRIBE", _]:
                self._subscribers.add(client)
                return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(command[1]), command[1])
        return b"+OK\r\n"

    def count(self, word):
        """How many commands with this word in them came."""
        return sum(word in command for command in self.commands)

    def switch(self, primary):
        """Name another primary from now on, after a failover; tell those who listen."""
        self.primary, self.epoch = primary, self.epoch + 1
        self.publish()

    def publish(self):
        """Tell those who listen of a failover."""
        for client in list(self._subscribers):
            client.sendall(pack([("message", "+switch-master", "limits 127.0.0.1 1 127.0.0.1 2")]))

    @property
    def open_count(self):
        """How many connections are open."""
        return len(self._clients)

    def drop(self):
        """Break all connections off."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.drop()
