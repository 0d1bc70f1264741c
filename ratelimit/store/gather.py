"""Checks of one event loop, gathered: all that are asked in one tick leave together on one connection.

Checks that stand together become one call of a script; what checks have to read leaves with them. While the answers of
one batch are on their way the next one is sent, so that client and server work at the same time, and meanwhile another
comes together. So a hundred tasks cost a few round trips, no task waits for a connection of its own, and a check that
is alone goes out at once.

No task stands between: the event loop calls `_flush` at the end of a tick, and the connection calls back with replies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import islice, takewhile
from operator import itemgetter
from threading import get_ident
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ratelimit.core import forks
from ratelimit.core.batch import ASK_ALONE, CheckCall, ManyChecks
from ratelimit.core.flow import Reads
from ratelimit.core.scripts import ScriptCall
from ratelimit.errors import ConfigError, StoreError, StoreUnavailable
from ratelimit.store import faults, pipeline, steps
from ratelimit.store.line import wanted_back
from ratelimit.store.pipeline import Answered, Pipeline
from ratelimit.store.steps import Steps

_MOST_IN_BATCH = 64
_MOST_IN_FLIGHT = 2
_MANY = 16
"""When as many wait, they do not wait for the batch that is on its way; twice as many are sent in two halves."""
_MOST_WAITING = 10_000

_Call = ScriptCall | Reads
_Waiter = tuple[_Call, "asyncio.Future[Any]"]
_CALL = itemgetter(0)


class _Batch:
    __slots__ = ("steps", "waiters")

    def __init__(self, steps: Steps, waiters: list[_Waiter]) -> None:
        self.steps = steps
        self.waiters = waiters


class Gatherer:
    """Sends script calls and reads in the order in which they were asked, each answered by its own reply or error."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._waiting: deque[_Waiter] = deque()
        self._in_flight = set[_Batch]()
        self._all_usual = self._awake = False
        self._pipeline: Pipeline | None = None
        self._opening: asyncio.Task[Pipeline] | None = None
        self._returning = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.start_anew()
        forks.starts_anew(self)

    def start_anew(self) -> None:
        """Have a child process look which event loop runs: the parent's seems to run on."""
        self._thread: int | None = None

    def belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse any event loop but the first: connections belong to the one in which they were made."""
        if self._loop is not loop:
            if self._loop is not None:
                raise ConfigError("was used in another event loop, to which its connections belong", field="client")
            self._loop = loop
        self._thread = get_ident()

    def call(self, call: _Call) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited. Who is cancelled gives up its own reply, nobody else's."""
        loop = self._loop
        # Tells that the running loop is still this one. Python 3.11 asks the system for the process' id to tell which.
        if loop is None or self._thread != get_ident() or not loop.is_running():
            loop = asyncio.get_running_loop()
            self.belong_to(loop)
        future = loop.create_future()
        waiting = self._waiting
        if len(waiting) >= _MOST_WAITING:
            told = f"{_MOST_WAITING} calls are waiting to be sent: Redis is slower than they come"
            future.set_exception(StoreUnavailable(told))
            return future
        waiting.append((call, future))
        if not self._awake and (not self._in_flight or len(waiting) == _MANY):
            self._wake()
        return future

    async def close(self) -> None:
        """Give the connection back to the client, once everybody is answered."""
        batches = [self._waiting, *(batch.waiters for batch in self._in_flight)]
        pending: list[asyncio.Future[Any]] = [future for batch in batches for _, future in batch if not future.done()]
        if self._opening is not None:
            pending.append(self._opening)
        if pending:
            await asyncio.wait(pending)
        if self._pipeline is not None and self._in_flight:
            self._pipeline.break_off()  # everybody has gone: nobody reads what is still to come
        elif self._pipeline is not None:
            self._give_back(self._pipeline)
        if self._returning:
            await asyncio.wait(self._returning)

    def _wake(self) -> None:
        if not self._awake and self._loop is not None:
            self._awake = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send what waits, as far as may be sent now. Called at the end of a tick in which somebody asked."""
        self._awake = False
        while self._waiting and (not self._in_flight or (len(self._waiting) >= _MANY and self._may_overlap())):
            found = self._pipeline
            if found is not None and not found.usable:
                found.break_off()
            elif found is not None and wanted_back(found.connection):
                if self._in_flight:
                    return  # their answers come first
                self._give_back(found)
            if self._pipeline is None:
                self._connect()
                return
            if waiters := self._next():
                batch = _Batch(self._steps(list(map(_CALL, waiters))), waiters)
                self._in_flight.add(batch)
                self._go_on(batch, None)

    def _may_overlap(self) -> bool:
        """Tell whether a batch may be sent before the one before it is answered.

        Not after one that left checks out, as happens when keys are new or plans changed: they are asked again first.
        """
        return self._all_usual and len(self._in_flight) < _MOST_IN_FLIGHT

    def _next(self) -> list[_Waiter]:
        """Take the first of those that wait, and who can go with it: checks with checks, everything else with its like.

        So nobody is overtaken, unless by a batch that was on its way already when this one left somebody out.
        """
        waiting = self._waiting
        most = len(waiting)
        if most >= 2 * _MANY and not self._in_flight and self._may_overlap():
            most = (most + 1) // 2
        taken = list(islice(waiting, min(most, _MOST_IN_BATCH)))
        if len(set(map(type, map(_CALL, taken)))) > 1:
            kind = type(taken[0][0])
            taken = list(takewhile(lambda waiter: type(waiter[0]) is kind, taken))
        for _ in taken:
            waiting.popleft()
        return [waiter for waiter in taken if not waiter[1].done()]

    def _go_on(self, batch: _Batch, replies: list[Any] | None) -> None:
        try:
            packets = batch.steps.send(replies)  # type: ignore[arg-type] # None to begin with
        except StopIteration as finished:
            self._answer(batch, finished.value)
        except Exception as error:  # noqa: BLE001 - every waiter has to hear of it, and those that wait still be served
            self._answer(batch, [error] * len(batch.waiters))
        else:
            self._put(packets, partial(self._go_on, batch))

    def _put(self, packets: Sequence[bytes], answered: Answered) -> None:
        """Send packets; then `answered` is called with a reply or an error for each."""
        if self._pipeline is None or not self._pipeline.usable:
            answered([StoreUnavailable("the connection was lost meanwhile")] * len(packets))
        else:
            self._pipeline.ask(b"".join(packets), len(packets), answered)

    def _answer(self, batch: _Batch, replies: list[Any]) -> None:
        self._in_flight.discard(batch)
        for (_, future), reply in zip(batch.waiters, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(faults.after_sending(reply) if isinstance(reply, RedisError) else reply)
            else:
                future.set_result(reply)
        if self._waiting:
            self._wake()

    def _steps(self, calls: list[Any]) -> Steps:
        """Ask several checks as one, and alone which that leaves out."""
        if type(calls[0]) is Reads:
            return (yield from steps.read(calls))
        if len(calls) < 2 or type(calls[0]) is not CheckCall:
            return (yield from steps.asked(calls))
        many = ManyChecks(calls)
        (found,) = yield from steps.sent([many.packet], [many])
        if isinstance(found, Exception):
            return [found] * len(calls)
        if not isinstance(found, list) or len(found) != len(calls):
            return [StoreError("Redis answered to many checks with something else")] * len(calls)
        self._all_usual = ASK_ALONE not in found
        if not self._all_usual:
            alone = [at for at, reply in enumerate(found) if reply == ASK_ALONE]
            for at, reply in zip(alone, (yield from steps.asked([calls[at] for at in alone])), strict=True):
                found[at] = reply
        return list(found)

    def _connect(self) -> None:
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="ratelimit-connect")
            self._opening.add_done_callback(self._opened)

    async def _open(self) -> Pipeline:
        if self._returning:
            await asyncio.wait(self._returning)
        return pipeline.over(await pipeline.taken(self._pool), self._lost)

    def _opened(self, opening: asyncio.Task[Pipeline]) -> None:
        self._opening = None
        error = RedisConnectionError("connecting was cancelled") if opening.cancelled() else opening.exception()
        if error is None:
            made = opening.result()
            if made.usable:
                self._pipeline = made
                self._flush()
                return
            made.break_off()
            error = RedisConnectionError("the server closed it at once")
        told = faults.before_sending(error) if isinstance(error, RedisError | OSError) else error
        while self._waiting:  # nobody waits for another attempt: it would take as long
            _, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(told)

    def _lost(self, lost: Pipeline) -> None:
        """Give a connection that failed to the client, which connects it anew when it is needed."""
        self._return(lost, disconnected=True)

    def _give_back(self, quiet: Pipeline) -> None:
        """Give a connection on which nothing is on its way to the client, which may use it as it is."""
        if quiet.give_back():
            self._return(quiet)
        else:
            quiet.break_off()

    def _return(self, given_back: Pipeline, *, disconnected: bool = False) -> None:
        if given_back is self._pipeline:
            self._pipeline = None
        returned = pipeline.returned(self._pool, given_back.connection, disconnected=disconnected)
        task = asyncio.get_running_loop().create_task(returned, name="ratelimit-return")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
