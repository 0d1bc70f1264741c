"""Ports of this machine at which nobody listens."""

import contextlib
import secrets
import socket

BUS_OFFSET = 10_000
"""How far a cluster node's port for the other nodes is from that for clients. Redis 6.2 cannot be told another."""
PORTS = range(12_000, 22_000)
"""Like their bus ports below those that systems give to connections: one that is closed for a while stays free."""


def free_port():
    """A port that is free, and so is the bus port that belongs to it."""
    while True:
        port = secrets.choice(PORTS)  # whatever seeds the random numbers of tests
        with contextlib.suppress(OSError), contextlib.ExitStack() as sockets:
            for number in (port, port + BUS_OFFSET):
                sockets.enter_context(socket.create_server(("127.0.0.1", number)))
            return port
