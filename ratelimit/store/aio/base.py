"""What the executors for one server and for a cluster share: how an operation is run, in whichever event loop."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

from ratelimit.effects import Operation, Request, failure_of
from ratelimit.errors import StoreError

log = logging.getLogger("ratelimit")

_now_s = time.monotonic
_T = TypeVar("_T")

_SHORT_LIFE_S = 10.0
_MAX_SHORT_LIVES = 3


class AsyncExecutorBase(ABC):
    """An executor without its connections.

    Args:
        deadline_s: How long a check may wait for Redis; of no use where nothing is checked.
        on_new_loop: Called in each loop before its first check.
    """

    def __init__(self, deadline_s: float = inf, on_new_loop: Callable[[], None] = lambda: None) -> None:
        self._deadline_s = deadline_s
        self._on_new_loop = on_new_loop
        self._short_lives = 0

    @abstractmethod
    async def _reply_to(self, request: Request, started_s: float | None) -> Any:
        """Return the reply to a request; raise StoreError if there is none. `started_s` is as of `run`."""

    async def run(self, operation: Operation[_T], started_s: float | None = None) -> _T:
        """Reply to what the operation requests until it returns; return its result.

        Args:
            operation: What to run.
            started_s: When it began to wait for Redis, by the monotonic clock: it then has the deadline of a check.
                None for administrators, who wait for as long as Redis sends anything.
        """
        try:
            request = next(operation)
            while True:
                try:
                    reply = await self._reply_to(request, started_s)
                except StoreError as error:
                    replied_s = _now_s()
                    request = operation.throw(failure_of(request, error))
                else:
                    replied_s = _now_s()
                    request = operation.send(reply)
                if started_s is not None:
                    started_s += _now_s() - replied_s  # what the operation itself takes is no waiting
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            operation.close()

    def _note_ended_loop(self, lived_s: float) -> None:
        """Warn if loops that use this executor end again and again soon after they began."""
        if lived_s >= _SHORT_LIFE_S:
            return
        self._short_lives += 1
        if self._short_lives == _MAX_SHORT_LIVES:
            log.warning(
                "%d event loops that used this AsyncLimiter ended within %g s each, and their connections with them: "
                "where a loop lives for one request, Limiter serves better",
                _MAX_SHORT_LIVES,
                _SHORT_LIFE_S,
            )
