"""Redis over blocking sockets: executor, connections. May import what the store may, nothing of `aio`."""
