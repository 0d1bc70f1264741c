"""A network between servers that can be cut: bytes wait at the cut, and connections stay, as when packets are lost."""

import asyncio
import contextlib

from helpers.loop_thread import LoopThread


class Cable:
    """Forwards TCP connections to a port of this machine, from a port of its own."""

    def __init__(self):
        self._loop = LoopThread()
        self._whole = self._loop.call(asyncio.Event)
        self._tasks = set()
        self._listening = None
        self.mend()

    def to(self, port):
        """Lead to this port; return the cable's own."""

        async def forward(reader, writer):
            self._tasks.add(asyncio.current_task())
            try:
                await self._whole.wait()
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer))
            except OSError:
                writer.close()
            finally:
                self._tasks.discard(asyncio.current_task())

        self._listening = self._loop.run(asyncio.start_server(forward, "127.0.0.1", 0))
        return self._listening.sockets[0].getsockname()[1]

    async def _pump(self, reader, writer):
        try:
            while piece := await reader.read(65_536):
                await self._whole.wait()
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        await self._whole.wait()  # nor does anybody hear of the end of a connection
        with contextlib.suppress(OSError):
            writer.close()

    def cut(self):
        """Forward nothing from now on."""
        self._loop.call(self._whole.clear)

    def mend(self):
        """Forward what has waited, and all that comes."""
        self._loop.call(self._whole.set)

    async def _end(self):
        self._listening.close()
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run(self._end())
        self._loop.close()
