"""What waits to be sent, by kind: nobody of one kind waits for all of another that came before."""

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
from ratelimit.store.aio.steps import Steps

log = logging.getLogger("ratelimit")

Call = ScriptCall | BatchableReads
Waiter = tuple[Call, "asyncio.Future[Any]"]
CALL = itemgetter(0)


class Batch:
    """Calls that left together, with what is asked for them."""

    __slots__ = ("lane", "steps", "waiters")

    def __init__(self, lane: Lane, steps: Steps, waiters: list[Waiter]) -> None:
        self.lane = lane
        self.steps = steps
        self.waiters = waiters


class Lane:
    """Calls of one kind that wait, in the order in which they came, and the batches of them that are on their way."""

    __slots__ = ("in_flight", "most_waiting", "waiting")

    def __init__(self, most_waiting: int) -> None:
        self.most_waiting = most_waiting
        self.waiting: deque[Waiter] = deque()
        self.in_flight = set[Batch]()

    def pending(self) -> list[asyncio.Future[Any]]:
        """Return what is not answered yet."""
        lists = self.waiting, *(batch.waiters for batch in self.in_flight)
        return [future for waiters in lists for _, future in waiters if not future.done()]

    def no_room(self) -> Exception | None:
        """Return the error for a call that comes when as many wait as may; None if it may wait after all."""
        return StoreUnavailable(f"{self.most_waiting} calls are waiting to be sent: Redis is slower than they come")

    def take(self, most: int) -> list[Waiter]:
        """Take the first of those that wait, with who can go with it, and leave out who has given up."""
        waiting = self.waiting
        taken = list(islice(waiting, most))
        if len(set(map(type, map(CALL, taken)))) > 1:
            kind = type(taken[0][0])
            taken = list(takewhile(lambda waiter: type(waiter[0]) is kind, taken))
        for _ in taken:
            waiting.popleft()
        return [waiter for waiter in taken if not waiter[1].done()]


class LookUpLane(Lane):
    """Look-ups: whoever sends keys that do not exist can cause as many as he likes.

    When as many wait as may, it is the one who has waited longest that is refused. Of a crowd that came at once all
    are alike, and a caller who comes after it finds room.
    """

    __slots__ = ("_refusal", "_told")

    def __init__(self, most_waiting: int) -> None:
        super().__init__(most_waiting)
        self._refusal = (
            f"{most_waiting} look-ups of keys are waiting to be sent: more unknown keys come than can be read"
        )
        self._told = False

    def no_room(self) -> Exception | None:
        """As of `Lane`."""
        if not self._told:
            self._told = True
            log.warning("%s; until there are fewer, those that have waited longest are refused with 503", self._refusal)
        _, future = self.waiting.popleft()
        if not future.done():
            future.set_exception(TooManyLookUpsError(self._refusal))
        return None

    def take(self, most: int) -> list[Waiter]:
        """As of `Lane`."""
        taken = super().take(most)
        self._told = self._told and bool(self.waiting)
        return taken
