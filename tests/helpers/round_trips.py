"""A relay in front of a server that counts round trips: how often somebody sends, having read what came before."""

import socket
import threading
from contextlib import suppress

HANDSHAKE = (
    b"HELLO",
    b"SETINFO",
    b"MAINT_NOTIFICATIONS",
    b"SUBSCRIBE",
    b"PING",
    b"AUTH",
    b"SELECT",
    b"*1\r\n$4\r\nTIME\r\n",
)


class RoundTrips:
    """Listens on a TCP port of this machine. `trips` are the requests of all connections, without handshakes."""

    def __init__(self, path):
        self._path = path
        self.trips = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}"
        self._sockets, self._threads = [], []
        self._start(self._accept)

    def _start(self, target, *args):
        self._threads.append(threading.Thread(target=target, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._path)
                self._sockets += client, server
                has_replied = threading.Event()
                has_replied.set()
                self._start(self._requests, client, server, has_replied)
                self._start(self._replies, client, server, has_replied)

    def _requests(self, client, server, has_replied):
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if not any(word in data for word in HANDSHAKE):
                    if has_replied.is_set():
                        self.trips.append(b"")
                    self.trips[-1] += data
                    has_replied.clear()
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _replies(client, server, has_replied):
        with suppress(OSError):
            while data := server.recv(1 << 20):
                has_replied.set()
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
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
