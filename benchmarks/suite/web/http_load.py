"""A load generator for HTTP: a fixed number of requests over connections that stay open, each sent on an answer.

It runs in a process of its own, waits for sockets alone, and parses by httptools. So one request costs it far less than
any web server in Python, and whoever is measured is always busy.
"""

import os
import select
import socket
import time
from collections import Counter
from contextlib import ExitStack
from itertools import cycle

_SILENT_S = 10


class _Connection:
    """One at a time is under way on it; httptools calls its `on_` methods."""

    def __init__(self, port):
        import httptools  # noqa: PLC0415 - of the group bench-frameworks; who measures other parts needs none of it

        self.status = None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_SILENT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)

    def send(self, request):
        self.status = None
        self.socket.sendall(request)

    def receive(self):
        """Read what has come; `status` is set when the answer is complete."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError("the web server closed a connection")
        self._parser.feed_data(data)
        return self.status

    def on_message_complete(self):
        self.status = self._parser.get_status_code()


def run(port, requests, number, connections):
    """Send `number` requests, going round `requests`. Return how often each status came, and the seconds taken."""
    statuses, round_, sent = Counter(), cycle(requests), 0
    with ExitStack() as stack:
        poll = stack.enter_context(select.epoll())
        opened = {}
        for _ in range(min(connections, number)):
            connection = _Connection(port)
            stack.enter_context(connection.socket)
            opened[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
        began = time.perf_counter()
        for connection in opened.values():
            connection.send(next(round_))
            sent += 1
        while statuses.total() < number:
            ready = poll.poll(_SILENT_S)
            if not ready:
                raise TimeoutError(f"the web server is silent: {statuses.total()} of {number} requests were answered")
            for descriptor, _ in ready:
                connection = opened[descriptor]
                status = connection.receive()
                if status is None:
                    continue
                statuses[status] += 1
                if sent < number:
                    connection.send(next(round_))
                    sent += 1
        seconds = time.perf_counter() - began
    return dict(statuses), seconds


def serve(pipe):
    """For `workers`: run what is asked for, on the cores that are named, until there is nothing more."""
    while (job := pipe.recv()) is not None:
        cores, *arguments = job
        os.sched_setaffinity(0, cores)
        try:
            pipe.send(run(*arguments))
        except OSError as error:  # also of time
            pipe.send(error)
