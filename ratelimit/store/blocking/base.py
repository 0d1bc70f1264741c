"""What the executors for one server and for a cluster share: how an operation is run, and how long it may wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic
from typing import Any, TypeVar

from ratelimit.effects import Operation, Request, failure_of
from ratelimit.errors import StoreError
from ratelimit.store.blocking.wait import Wait

_T = TypeVar("_T")


class BlockingExecutorBase(ABC):
    """An executor without its connections.

    Args:
        deadline: For how many seconds a check may wait for Redis, over all that it sends.
        patience_s: How long a reply may take an administrator.
    """

    def __init__(self, deadline: float, patience_s: float) -> None:
        self._deadline = deadline
        self._patience_s = patience_s

    @abstractmethod
    def _execute(self, request: Request, wait: Wait) -> Any:
        """Return the reply to a request; raise StoreError if there is none."""

    def run(self, operation: Operation[_T], started_s: float | None = None, deadline: float | None = None) -> _T:
        """Reply to what the operation requests until it returns; return its result.

        Args:
            operation: The operation.
            started_s: When its caller began to wait for Redis, by the monotonic clock, if the deadline holds for all of
                it; None if each reply may take the client's own time limit, as for an administrator.
            deadline: Seconds, instead of those of checks.
        """
        wait = self._wait(started_s, deadline)
        try:
            request = next(operation)
            while True:
                try:
                    reply = self._execute(request, wait)
                except StoreError as error:
                    request = operation.throw(failure_of(request, error))
                else:
                    request = operation.send(reply)
        except StopIteration as finished:
            result: _T = finished.value
            return result
        finally:
            operation.close()

    def _wait(self, started_s: float | None, deadline: float | None = None) -> Wait:
        if started_s is None:
            return Wait(self._patience_s, renewed=True)
        return Wait(started_s + (deadline or self._deadline) - monotonic())
