"""Queues of calls that wait to be sent, one for each kind: no kind waits for all of another that came before."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice, takewhile
from math import inf
from operator import itemgetter
from typing import Any

from ratelimit.effects import BatchableReads, TooManyLookUpsError
from ratelimit.errors import StoreUnavailable
from ratelimit.scripts import ScriptCall
from ratelimit.store.aio.exchanges import Exchange, Redirected

log = logging.getLogger("ratelimit")

Call = ScriptCall | BatchableReads | Redirected
Waiter = tuple[Call, "asyncio.Future[Any]", float]
"""A call, the future that gets its reply, and when its deadline began, by the monotonic clock."""
CALL, STARTED_S = itemgetter(0), itemgetter(2)

IsLate = Callable[[float], bool]
"""Whether the deadline of what began at a time has passed."""


class Batch:
    """Calls of one queue that leave together.

    Attributes:
        started_s: When the deadline of the first of them began whose reply is still waited for; `inf` without any.
    """

    __slots__ = ("exchange", "queue", "started_s", "waiters")

    def __init__(self, queue: CallQueue, exchange: Exchange, waiters: list[Waiter]) -> None:
        self.queue = queue
        self.exchange = exchange
        self.waiters = waiters
        self.started_s = min(map(STARTED_S, waiters), default=inf)

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for its replies any more."""
        return all(future.done() for _, future, _ in self.waiters)

    def expire(self, is_late: IsLate) -> list[asyncio.Future[Any]]:
        """Return the futures of calls whose deadline has passed."""
        pending = [(future, started_s) for _, future, started_s in self.waiters if not future.done()]
        self.started_s = min((started_s for _, started_s in pending if not is_late(started_s)), default=inf)
        return [future for future, started_s in pending if is_late(started_s)]


class CallQueue:
    """Calls of one kind that wait, in the order in which they came, and batches of them that are in flight.

    Attributes:
        capacity: How many may wait.
        waiting: Those that wait.
        in_flight: Batches sent on the connection in use.
        left_behind: Batches sent on one that is not in use any more.
    """

    __slots__ = ("capacity", "in_flight", "left_behind", "waiting")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.waiting: deque[Waiter] = deque()
        self.in_flight = set[Batch]()
        self.left_behind = set[Batch]()

    def pending(self) -> list[asyncio.Future[Any]]:
        """Return the futures of all calls that have no reply yet."""
        lists = self.waiting, *(batch.waiters for batch in (*self.in_flight, *self.left_behind))
        return [future for waiters in lists for _, future, _ in waiters if not future.done()]

    def leave_behind(self) -> None:
        """Have batches that are in flight hold up none that are sent on another connection."""
        self.left_behind |= self.in_flight
        self.in_flight.clear()

    def finish(self, batch: Batch) -> None:
        """Forget a batch that has its replies."""
        self.in_flight.discard(batch)
        self.left_behind.discard(batch)

    def started_s(self) -> float:
        """Return when the first deadline began that is not over yet, `inf` if there is none."""
        first = min((batch.started_s for batch in (*self.in_flight, *self.left_behind)), default=inf)
        return min(first, min(map(STARTED_S, self.waiting), default=inf))

    def expire(self, is_late: IsLate) -> tuple[list[asyncio.Future[Any]], list[asyncio.Future[Any]]]:
        """Return the futures of late calls: of those that wait, which are removed, and of those that were sent."""
        batches = [batch for batch in (*self.in_flight, *self.left_behind) if is_late(batch.started_s)]
        sent = [future for batch in batches for future in batch.expire(is_late)]
        late = [waiter for waiter in self.waiting if is_late(waiter[2])]
        if late:
            waiting = [waiter for waiter in self.waiting if not is_late(waiter[2])]
            self.waiting.clear()
            self.waiting.extend(waiting)
        return [future for _, future, _ in late if not future.done()], sent

    def take_all(self) -> list[Waiter]:
        """Remove all calls that wait, and return those for whose reply somebody waits."""
        waiters = [waiter for waiter in self.waiting if not waiter[1].done()]
        self.waiting.clear()
        return waiters

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
        _, future, _ = self.waiting.popleft()
        if not future.done():
            future.set_exception(TooManyLookUpsError(self._message))
        return None

    def take(self, most: int) -> list[Waiter]:
        """As `CallQueue.take`."""
        taken = super().take(most)
        self._has_warned = self._has_warned and bool(self.waiting)
        return taken
