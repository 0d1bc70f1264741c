"""Queues of calls that wait to be sent, one for each kind: no kind waits for all of another that came before."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice, takewhile
from operator import itemgetter
from typing import Any

from ratelimit.effects import BatchableReads, TooManyLookUpsError
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import ScriptCall
from ratelimit.store.aio.exchanges import Exchange

log = logging.getLogger("ratelimit")

Call = ScriptCall | BatchableReads
Waiter = tuple[Call, "asyncio.Future[Any]"]
CALL = itemgetter(0)


class Batch:
    """Calls of one queue that leave together."""

    __slots__ = ("exchange", "queue", "waiters")

    def __init__(self, queue: CallQueue, exchange: Exchange, waiters: list[Waiter]) -> None:
        self.queue = queue
        self.exchange = exchange
        self.waiters = waiters


class CallQueue:
    """Calls of one kind that wait, in the order in which they came, and batches of them that are in flight."""

    __slots__ = ("capacity", "in_flight", "waiting")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting: deque[Waiter] = deque()
        self.in_flight = set[Batch]()

    def pending(self) -> list[asyncio.Future[Any]]:
        """Return the futures of all calls that have no reply yet."""
        lists = self.waiting, *(batch.waiters for batch in self.in_flight)
        return [future for waiters in lists for _, future in waiters if not future.done()]

    def overflow(self) -> Exception | None:
        """Return the error for a call that comes when the queue is full; None if it may wait after all."""
        return StoreUnavailable(f"{self.capacity} calls are waiting to be sent: Redis is slower than they come")

    def take(self, most: int) -> list[Waiter]:
        """Remove the first calls of one type, without those whose caller has given up."""
        waiting = self.waiting
        taken = list(islice(waiting, most))
        if len(set(map(type, map(CALL, taken)))) > 1:
            kind = type(taken[0][0])
            taken = list(takewhile(lambda waiter: type(waiter[0]) is kind, taken))
        for _ in taken:
            waiting.popleft()
        return [waiter for waiter in taken if not waiter[1].done()]


class LookUpQueue(CallQueue):
    """Look-ups of keys: anybody can cause any number of them, by sending keys that do not exist.

    When it is full, the one that has waited longest is refused. In a crowd that came at once all are alike, and a
    caller who comes after it finds room.
    """

    __slots__ = ("_has_warned", "_message")

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._message = f"{capacity} look-ups of keys are waiting to be sent: more unknown keys come than can be read"
        self._has_warned = False

    def overflow(self) -> Exception | None:
        """As `CallQueue.overflow`."""
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s; until there are fewer, those that have waited longest are refused with 503", self._message)
        _, future = self.waiting.popleft()
        if not future.done():
            future.set_exception(TooManyLookUpsError(self._message))
        return None

    def take(self, most: int) -> list[Waiter]:
        """As `CallQueue.take`."""
        taken = super().take(most)
        self._has_warned = self._has_warned and bool(self.waiting)
        return taken
