"""The TLS end of a connection: takes it on a TCP port and forwards to a server's unix socket."""

import asyncio
import contextlib
import ssl

import trustme

from helpers.loop_thread import LoopThread


class TlsProxy:
    """Listens on `port` of this machine, with a certificate for "localhost" of an authority in the file `authority`."""

    def __init__(self, path, folder):
        self._path = path
        self.authority = str(folder / "authority.pem")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._issue("localhost")

    def _issue(self, host):
        made = trustme.CA()
        made.cert_pem.write_to_path(self.authority)
        made.issue_cert(host).configure_cert(self._context)

    def renew(self, host="localhost"):
        """Have a certificate of another authority from now on, and break all connections off."""
        self._issue(host)
        self._loop.run(self._break_off())

    @property
    def url(self):
        return f"rediss://localhost:{self.port}?ssl_ca_certs={self.authority}"

    async def _listen(self):
        self._forwarding = {}
        self._server = await asyncio.start_server(self._take, "localhost", 0, ssl=self._context)
        return self._server.sockets[0].getsockname()[1]

    async def _take(self, reader, writer):
        self._forwarding[asyncio.current_task()] = writer
        server_reader, server_writer = await asyncio.open_unix_connection(self._path)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(_forward(reader, server_writer), _forward(server_reader, writer))
        for end in (server_writer, writer):
            end.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await end.wait_closed()

    async def _break_off(self):
        for task, writer in self._forwarding.items():
            with contextlib.suppress(AttributeError):  # Python 3.11.2, if it is closed
                writer.transport.abort()  # its other end need not answer
            task.cancel()
        await asyncio.gather(*self._forwarding, return_exceptions=True)
        self._forwarding.clear()

    async def _stop(self):
        self._server.close()
        await self._break_off()
        await asyncio.sleep(0.01)  # a task that is cancelled before its first step would not close what was just taken
        handshakes = asyncio.all_tasks() - {asyncio.current_task()}
        for task in handshakes:
            task.cancel()
        await asyncio.gather(*handshakes, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports close their sockets in the next turns of the loop

    def __enter__(self):
        self._loop = LoopThread()
        self.port = self._loop.run(self._listen())
        return self

    def __exit__(self, *_):
        self._loop.run(self._stop())
        self._loop.close()


async def _forward(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof() if writer.can_write_eof() else writer.close()
