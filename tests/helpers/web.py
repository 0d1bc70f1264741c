"""Requests over plain sockets to a server in a thread of its own: what is sent is exactly what a test says."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from dataclasses import dataclass, field

PATIENCE_S = 20
STAGE = "petstore/prod"
ITEM = "GET /v1/items/{item_id}"
"""The method that has a limit of its own; see tests/integrations/conftest.py."""


@dataclass
class Reply:
    """A response. `fields` are by lower-case name, the values of one name joined."""

    status: int
    fields: dict[str, str]
    body: bytes = b""
    pairs: list[tuple[str, str]] = field(default_factory=list)

    def names(self):
        return [name.lower() for name, _ in self.pairs]


def connect(address):
    """A connection to a port of this machine, or to a unix socket by its path."""
    if isinstance(address, int):
        return socket.create_connection(("127.0.0.1", address), PATIENCE_S)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE_S)
    connection.connect(str(address))
    return connection


def send(address, request, verb="GET"):
    """Send bytes as they are, and return the reply to them."""
    with connect(address) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method=verb)
        response.begin()
        try:
            body = response.read()
        except http.client.IncompleteRead as error:  # of a stream that breaks
            body = error.partial
        pairs = response.getheaders()
        fields = {}
        for name, value in pairs:
            fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
        return Reply(response.status, fields, body, pairs)


def request_bytes(verb, path, fields=(), body=b""):
    """A request; `fields` is a dict or a list of pairs, values may be bytes."""
    lines = [f"{verb} {path} HTTP/1.1".encode("latin-1"), b"Host: 127.0.0.1", b"Connection: close"]
    pairs = list(fields.items() if isinstance(fields, dict) else fields)
    if "host" in {name.lower() for name, _ in pairs}:
        del lines[1]
    for name, value in pairs:
        lines.append(name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else value.encode("latin-1")))
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ask(address, verb, path, fields=(), body=b""):
    """Send a request, and return the reply."""
    return send(address, request_bytes(verb, path, fields, body), verb)


@contextlib.contextmanager
def uvicorn_server(app, **options):
    """Serve an application in a thread; yield the port, or the path of the unix socket `uds`."""
    import uvicorn

    config = uvicorn.Config(app, **{"port": 0, "log_level": "error", "access_log": False, **options})
    server = uvicorn.Server(config)

    def run():
        with contextlib.suppress(SystemExit):  # of one that does not start
            asyncio.run(server.serve())

    thread = threading.Thread(target=run, name="uvicorn", daemon=True)
    thread.start()
    try:
        end = time.monotonic() + PATIENCE_S
        while not server.started:
            assert thread.is_alive(), "it has not started"
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.002)
        yield options.get("uds") or server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        server.force_exit = True  # requests that it waits for are not waited for any longer
        assert not thread.is_alive(), "it does not end"


@contextlib.contextmanager
def wsgi_server(app):
    """Serve a WSGI application in threads; yield the port."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, name="wsgi")
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join(PATIENCE_S)
        server.server_close()
        assert not thread.is_alive(), "it does not end"


def talk(url, fields):
    """Say something to a websocket; return status and fields of the handshake, and what came back or refused it."""
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect as open_socket

    try:
        with open_socket(url, additional_headers=fields, proxy=None) as opened:
            try:
                opened.send("hello")
                said = opened.recv()
            except ConnectionClosed:
                said = None
            return opened.response.status_code, opened.response.headers, said
    except InvalidStatus as error:
        return error.response.status_code, error.response.headers, error.response.body


class Used:
    """How much of its limits a key has used, by their names."""

    def __init__(self, limiter):
        self._limiter = limiter

    def __call__(self, fields, method="GET /other"):
        decision = self._limiter.peek(fields["x-api-key"], STAGE, method)
        return {limit.name: limit.limit - limit.remaining for limit in decision.limits}
