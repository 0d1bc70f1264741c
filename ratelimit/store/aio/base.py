"""What the executors of one server and of a cluster share: how operations are run, in whichever event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ratelimit.admin.doctor.read import Peer, PeerReply
from ratelimit.admin.doctor.readings import ClientSettings
from ratelimit.effects import InBackground, Operation, Sent, WaitFor, failure_of
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store.aio import peers
from ratelimit.store.aio.batcher import CallFunction
from ratelimit.store.aio.loops import LoopBound, PerLoop
from ratelimit.store.aio.queues import Call
from ratelimit.store.breaker import BreakerState, combined
from ratelimit.store.clients import PATIENCE_S, UPKEEP_S
from ratelimit.store.peers import client_settings

log = logging.getLogger("ratelimit")

_now_s = time.monotonic
_T = TypeVar("_T")

_SHORT_LIFE_S = 10.0
_MAX_SHORT_LIVES = 3


class Sender(LoopBound, Protocol):
    """What sends the checks of one event loop: to one server, or to the nodes of a cluster."""

    def call(self, call: Call, started_s: float | None = None) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited; see `CheckBatcher.call`."""

    def breaker_state(self) -> BreakerState:
        """Return whether any breaker is open, and how often any has opened."""


_S = TypeVar("_S", bound=Sender)


class AsyncExecutorBase(ABC, Generic[_S]):
    """An executor, but for what it does to carry a request out.

    Args:
        pool: Says how to connect; none of its connections is used.
        deadline_s: How long a check may wait for Redis; of no use where nothing is checked.
        on_new_loop: Called in each loop before its first check.

    Attributes:
        call: Returns the reply to a script call or small read of a check, to be awaited; see `CheckBatcher.call`.
    """

    def __init__(self, pool: Any, deadline_s: float, on_new_loop: Callable[[], None]) -> None:
        self._pool = pool
        self._deadline_s = deadline_s
        self._on_new_loop = on_new_loop
        self._short_lives = 0
        self._in_background = set[asyncio.Task[None]]()  # of all loops: a loop itself does not hold its tasks
        self._senders: PerLoop[_S] = PerLoop(self._new_sender, self._on_loop_end)
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have a child process find out which event loop runs: the parent's seems to run on."""
        self._forget_loop()
        self._ended_openings = 0  # of breakers whose loop has ended

    def _forget_loop(self) -> None:
        # `call` of the loop that called last, without a call in between: it sees whether that still runs.
        self.call: CallFunction = self._call_in_running_loop

    def _call_in_running_loop(self, call: Call, started_s: float | None) -> asyncio.Future[Any]:
        sender = self._sender_of_checks()
        self.call = sender.call
        return sender.call(call, started_s)

    @abstractmethod
    def _new_sender(self) -> _S:
        """Return a sender for the running loop."""

    @abstractmethod
    def _sender_of_checks(self) -> _S:
        """Return the running loop's sender, after a call of `on_new_loop` if this is its first check."""

    @abstractmethod
    async def _reply_to(self, request: Sent, started_s: float | None, patience_s: float | None) -> Any:
        """Return the reply to a request; raise StoreError if there is none. The times are as of `run`."""

    async def run(
        self, operation: Operation[_T], started_s: float | None = None, patience_s: float | None = None
    ) -> _T:
        """Reply to what the operation requests until it returns; return its result.

        Args:
            operation: What to run.
            started_s: When it began to wait for Redis, by the monotonic clock: it then has the deadline of a check.
                None for administrators, who wait for as long as Redis sends anything.
            patience_s: For how many seconds an administrator waits for each reply instead.
        """
        try:
            request = next(operation)
            while True:
                try:
                    reply = None
                    if isinstance(request, WaitFor):
                        await self._wait_for(request, started_s)
                    elif isinstance(request, InBackground):
                        self._start(request.operation)
                    else:
                        reply = await self._reply_to(request, started_s, patience_s)
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

    async def _wait_for(self, request: WaitFor, started_s: float | None) -> None:
        future, loop = request.future, asyncio.get_running_loop()
        if future.done():
            return
        woken = loop.create_future()

        def wake(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_resolve, woken)

        future.add_done_callback(wake)
        left_s = PATIENCE_S if started_s is None else started_s + self._deadline_s - _now_s()
        at_most_s = left_s if request.at_most_s is None else min(left_s, request.at_most_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0, at_most_s)):
                await woken
        if not future.done() and at_most_s == left_s:
            await asyncio.sleep(0)  # the loop may have been busy until now: what has arrived meanwhile counts
            if not future.done():
                raise StoreUnavailable("what it waited for did not come before its deadline; nothing was sent")

    def _start(self, operation: Operation[object]) -> None:
        task = asyncio.get_running_loop().create_task(self._run_in_background(operation))
        self._in_background.add(task)
        task.add_done_callback(self._in_background.discard)

    async def _run_in_background(self, operation: Operation[object]) -> None:
        # The deadline is that of checks; it begins so much later.
        started_s = _now_s() + max(0, UPKEEP_S - self._deadline_s)
        with contextlib.suppress(StoreError):
            await self.run(operation, started_s)

    async def _end_background(self) -> None:
        """Give up what runs in the background of the running loop."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._in_background if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _passed_deadline(self) -> StoreUnavailable:
        return StoreUnavailable(f"the deadline of {self._deadline_s * 1000:g} ms passed before it was sent")

    def breaker_state(self) -> BreakerState:
        """Return whether any breaker is open in any event loop, and how often any has opened in this process."""
        return combined((sender.breaker_state() for sender in self._senders.all_made()), self._ended_openings)

    def client_settings(self) -> ClientSettings:
        """Return the settings of the client that was passed in."""
        return client_settings(self._pool)

    async def ask(self, to_ask: Sequence[Peer]) -> dict[Peer, PeerReply | StoreError]:
        """Return what servers beside the primaries answer, or why they could not be asked."""
        return await peers.ask(self._pool, to_ask)

    async def close(self) -> None:
        """Close the connections of the running loop, once all calls have their replies; other loops close theirs."""
        self._forget_loop()
        await self._end_background()
        await self._senders.close()

    def _on_loop_end(self, sender: _S, lived_s: float) -> None:
        self._forget_loop()
        self._ended_openings += sender.breaker_state().openings
        self._warn_of_short_loops(lived_s)

    def _warn_of_short_loops(self, lived_s: float) -> None:
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


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
