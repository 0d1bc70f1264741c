"""A network between two places that can be cut: bytes wait, and go on when it is whole again, as TCP has them do."""

import asyncio
from contextlib import suppress

from helpers.loop_thread import LoopThread


class Gate:
    """Listens on a `port` of this machine and forwards to another one.

    Args:
        target: The port to forward to.
    """

    def __init__(self, target):
        self._target = target
        self._cut = frozenset()
        self._loop = LoopThread()
        self._changed = self._loop.call(asyncio.Event)
        self._tasks = set()
        self._listening = self._loop.run(asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024))
        self.port = self._listening.sockets[0].getsockname()[1]

    def cut(self, *sources):
        """Hold up what comes from these addresses, and what goes there."""
        self._loop.call(lambda: self._set(frozenset(sources)))

    def mend(self):
        """Let everything through, also what was held up."""
        self.cut()

    def _set(self, cut):
        self._cut = cut
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        source = writer.get_extra_info("peername")[0]
        with suppress(OSError, asyncio.CancelledError):
            await self._passable(source)
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ways = (self._pump(reader, server_writer, source), self._pump(server_reader, writer, source))
            pumps = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                server_writer.close()
        writer.close()
        self._tasks.discard(task)

    async def _pump(self, reader, writer, source):
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._passable(source)
                writer.write(data)
                await writer.drain()

    async def _passable(self, source):
        while source in self._cut:
            await self._changed.wait()

    async def _end(self):
        self._listening.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self):
        self._loop.run(self._end())
        self._loop.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
