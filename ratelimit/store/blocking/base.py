"""What the executors of one server and of a cluster share: how operations are run, in any thread."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any, Protocol, TypeVar

from ratelimit.admin.doctor.read import Peer, PeerReply
from ratelimit.admin.doctor.readings import ClientSettings
from ratelimit.effects import InBackground, Operation, Request, Sent, WaitFor, failure_of
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.store.blocking import peers
from ratelimit.store.blocking.background_operations import BackgroundOperations
from ratelimit.store.blocking.wait import Wait
from ratelimit.store.breaker import BreakerState
from ratelimit.store.clients import UPKEEP_S, patience_of
from ratelimit.store.peers import client_settings

_T = TypeVar("_T")


class Server(Protocol):
    """What an executor sends to: the endpoint of one server, or the nodes of a cluster."""

    def breaker_state(self) -> BreakerState:
        """Return whether any breaker is open, and how often any has opened in this process."""

    def connect(self, timeout_s: float) -> None:
        """Wait until the connections stand; raise StoreUnavailable if they do not within that time."""

    def close(self) -> None:
        """Close all connections."""


class BlockingExecutorBase(ABC):
    """An executor, but for what it does to carry a request out.

    Args:
        pool: Says how to connect. It is held here: what sends holds it only weakly.
        server: What it sends to.
        deadline: For how many seconds a check may wait for Redis, over all that it sends.
    """

    def __init__(self, pool: Any, server: Server, deadline: float) -> None:
        self._pool = pool
        self._server = server
        self._deadline = deadline
        self._patience_s = patience_of(pool)
        """For how many seconds an administrator may wait for each reply."""
        self._background = BackgroundOperations(self.run_upkeep)

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

    def run_upkeep(self, operation: Operation[object]) -> None:
        """Run what nobody waits for, within a deadline of its own. Redis may fail."""
        with contextlib.suppress(StoreError):
            self.run(operation, monotonic(), max(self._deadline, UPKEEP_S))

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker of any server is open, and how often any has opened in this process."""
        return self._server.breaker_state()

    def client_settings(self) -> ClientSettings:
        """Return the settings of the client that was passed in."""
        return client_settings(self._pool)

    def ask(self, to_ask: Sequence[Peer]) -> dict[Peer, PeerReply | StoreError]:
        """Return what servers beside the primaries answer, or why they could not be asked."""
        return peers.ask(self._pool, to_ask)

    def connect(self, timeout_s: float) -> None:
        """Wait until as many connections stand as are usually idle, to each primary.

        Raises:
            StoreUnavailable: Not to all of them is there one, and a spare; or a slot has no primary; with the reason.
        """
        self._server.connect(timeout_s)

    def close(self) -> None:
        """Close all connections. Others who share the client have theirs made anew."""
        self._background.close()
        self._server.close()


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
