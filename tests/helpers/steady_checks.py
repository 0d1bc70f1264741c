"""Checks of both twins, one after the other without a pause, each decision noted with the time."""

import asyncio
import time
from typing import NamedTuple

from helpers.background import Background

STAGE, METHOD = "petstore/prod", "GET /pets"


class Timed(NamedTuple):
    """A decision, and when it was there."""

    at_s: float
    decision: object


class SteadyChecks(Background):
    """Checks a key in a thread, until it is left.

    Attributes:
        timed: All decisions.
    """

    def __init__(self, make_limiter, key, pause_s=0.002):
        super().__init__()
        self._make_limiter, self._key, self._pause_s = make_limiter, key, pause_s
        self.timed = []

    def _run(self):
        with self._make_limiter() as limiter:
            while not self._stopped:
                self._note(limiter.check(self._key, STAGE, METHOD))
                time.sleep(self._pause_s)

    def _note(self, decision):
        self.timed.append(Timed(time.monotonic(), decision))

    def last(self, condition):
        """When a decision last fulfilled a condition."""
        return max((timed.at_s for timed in self.timed if condition(timed.decision)), default=0.0)


class AsyncSteadyChecks(SteadyChecks):
    """The twin, in an event loop of its own."""

    def _run(self):
        asyncio.run(self._check())

    async def _check(self):
        async with self._make_limiter() as limiter:
            while not self._stopped:
                self._note(await limiter.check(self._key, STAGE, METHOD))
                await asyncio.sleep(self._pause_s)
