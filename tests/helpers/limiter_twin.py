"""Either twin of the limiter with any client, called in one way, and timed."""

import asyncio
import threading
import time
from contextlib import contextmanager
from importlib import import_module

from helpers.loop_thread import LoopThread
from helpers.replica import METHOD, STAGE
from helpers.servers import CLIENT
from ratelimit import AsyncLimiter, Limiter

TWINS = ("blocking", "asyncio")
CLIENTS = ("url", "redis", "valkey")
"""By URL, or with a client of these libraries, which would wait for 5 s."""
CLIENT_TIMEOUT_S = 5.0


def client_of(library, url, *, is_async, **options):
    """A client that a user made, with patient time limits of its own."""
    module = f"{library}.asyncio" if is_async else library
    retry = import_module(f"{module}.retry").Retry(import_module(f"{library}.backoff").NoBackoff(), 0)
    made = getattr(import_module(module), CLIENT[library])
    limits = {"socket_timeout": CLIENT_TIMEOUT_S, "socket_connect_timeout": CLIENT_TIMEOUT_S}
    return made.from_url(url, **limits, retry=retry, **options)


class LimiterTwin:
    """A limiter that checks `key`, and says how many seconds each decision took. Its `LoopThread` runs all the time."""

    def __init__(self, limiter, key, loop=None):
        self.limiter, self.key, self._loop = limiter, key, loop

    @property
    def is_async(self):
        return self._loop is not None

    def run(self, coroutine):
        return self._loop.run(coroutine)

    def check(self):
        """Return a decision."""
        return self.timed()[0]

    def timed(self):
        """Return a decision, and the seconds that it took."""
        if self.is_async:
            return self.run(self._timed())
        began = time.monotonic()
        decision = self.limiter.check(self.key, STAGE, METHOD)
        return decision, time.monotonic() - began

    async def _timed(self):
        began = time.monotonic()
        decision = await self.limiter.check(self.key, STAGE, METHOD)
        return decision, time.monotonic() - began

    def at_once(self, callers, times=1):
        """Have so many callers check, each so many times; return the decisions, each with its seconds."""
        if self.is_async:
            return self.run(self._tasks(callers, times))
        answers, start = [], threading.Barrier(callers)

        def caller():
            start.wait()
            answers.extend(self.timed() for _ in range(times))

        threads = [threading.Thread(target=caller) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    async def _tasks(self, callers, times):
        async def caller():
            return [await self._timed() for _ in range(times)]

        return [answer for answers in await asyncio.gather(*(caller() for _ in range(callers))) for answer in answers]

    def until_healthy(self, seconds=10):
        """Check until Redis has admitted three times, and yield the decisions.

        The first ones may read the catalogue again: changes are pushed to a process only once it has subscribed.
        """
        end, admitted = time.monotonic() + seconds, 0
        while admitted < 3:
            decision = self.check()
            assert decision.allowed or time.monotonic() < end, decision
            admitted = admitted + 1 if decision.allowed else 0
            yield decision
            time.sleep(0.02)

    def wait_until_healthy(self):
        """Return once Redis has admitted three times."""
        for _ in self.until_healthy():
            pass


@contextmanager
def limiter_twin(twin, client, url, key, **options):
    """Yield a `LimiterTwin` of one of TWINS with one of CLIENTS. What Redis does not decide is 503, unless said."""
    options = {"on_unavailable": "closed"} | options
    is_async = twin == "asyncio"
    kind = AsyncLimiter if is_async else Limiter
    if not is_async:
        own = None if client == "url" else client_of(client, url, is_async=False)
        limiter = kind.from_url(url, **options) if own is None else kind(own, **options)
        try:
            yield LimiterTwin(limiter, key)
        finally:
            limiter.close()
            if own is not None:
                own.close()
        return
    loop = LoopThread()

    async def make():
        own = None if client == "url" else client_of(client, url, is_async=True)
        return own, kind.from_url(url, **options) if own is None else kind(own, **options)

    async def close():
        await limiter.aclose()
        if own is not None:
            await own.aclose()

    try:
        own, limiter = loop.run(make())
        try:
            yield LimiterTwin(limiter, key, loop)
        finally:
            loop.run(close())
    finally:
        loop.close()
