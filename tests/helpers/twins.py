"""Either twin of the catalogue and the limiter, called in one way."""

import asyncio

from helpers.loop_thread import LoopThread
from ratelimit import AsyncCatalog, AsyncLimiter, Catalog, Limiter


class CatalogTwin:
    """The blocking catalogue or, with `is_async`, its twin, called as if it were the blocking one."""

    def __init__(self, backend, is_async, **options):
        self.backend, self.is_async, self.options = backend, is_async, options

    def __getattr__(self, name):
        def call(*args, **keywords):
            if not self.is_async:
                with self.backend.client() as client:
                    return getattr(Catalog(client, **self.options), name)(*args, **keywords)

            async def awaiting():
                async with self.backend.async_client() as client:
                    return await getattr(AsyncCatalog(client, **self.options), name)(*args, **keywords)

            return asyncio.run(awaiting())

        return call


class RunningLimiter:
    """What `make` returns when called with `Limiter`; or its twin, in an event loop that runs all the time."""

    def __init__(self, make, is_async):
        self._loop = LoopThread() if is_async else None
        self.limiter = self.run(lambda: make(AsyncLimiter if is_async else Limiter))

    def run(self, call):
        """Call something where the limiter lives; return its result, awaited if need be."""
        return call() if self._loop is None else self._loop.call(call)

    def check(self, *args):
        return self.run(lambda: self.limiter.check(*args))

    def warm_up(self, timeout=5.0):
        return self.run(lambda: self.limiter.warm_up(timeout))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._loop is None:
            self.limiter.close()
            return
        self.run(self.limiter.aclose)
        self._loop.close()
