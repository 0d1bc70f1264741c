"""What the executors for one server and for a cluster share: how an operation is run in a thread."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from concurrent.futures import Future
from time import monotonic
from typing import Any, TypeVar

from ratelimit.effects import InBackground, Operation, Request, Sent, WaitFor, failure_of
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.store.blocking.background_operations import BackgroundOperations
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.clients import UPKEEP_S

_T = TypeVar("_T")


class BlockingExecutorBase(ABC):
    """An executor without its connections.

    Args:
        deadline: For how many seconds a check may wait for Redis, over all that it sends.
        patience_s: For how many an administrator may wait for each reply.
    """

    def __init__(self, deadline: float, patience_s: float) -> None:
        self._deadline = deadline
        self._patience_s = patience_s
        self._background = BackgroundOperations(self._run_in_background)

    @abstractmethod
    def _execute(self, request: Sent, wait: Wait) -> Any:
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
                    reply = self._reply_to(request, wait)
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

    def _reply_to(self, request: Request, wait: Wait) -> Any:
        if isinstance(request, WaitFor):
            _wait_for(request.future, request.at_most_s, wait)
        elif isinstance(request, InBackground):
            self._background.start(request.operation)
        else:
            return self._execute(request, wait)
        return None

    def _run_in_background(self, operation: Operation[object]) -> None:
        with contextlib.suppress(StoreError):
            self.run(operation, monotonic(), max(self._deadline, UPKEEP_S))


def _wait_for(future: Future[Any], at_most_s: float | None, wait: Wait) -> None:
    wait.renew()
    ends_s = None if at_most_s is None else monotonic() + at_most_s
    while not future.done():
        if wait.left_s <= 0:
            raise StoreUnavailable("what it waited for did not come before its deadline; nothing was sent")
        left_s = wait.begin()
        if ends_s is not None:
            left_s = min(left_s, max(0, ends_s - monotonic()))
        with contextlib.suppress(TimeoutError):
            future.exception(left_s)
        wait.end()
        if ends_s is not None and monotonic() >= ends_s:
            return
