"""An event loop beside the test that uses it."""

import asyncio
import inspect
import threading


class LoopThread:
    """An event loop that runs in a thread of its own until it is closed."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True, name="event loop")
        self._thread.start()

    def _run(self):
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def run(self, coroutine, seconds=60):
        """Run a coroutine in the loop; return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)

    def call(self, function):
        """Call a function in the loop; return its result, awaited if need be."""

        async def calling():
            result = function()
            return await result if inspect.isawaitable(result) else result

        return self.run(calling())

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
