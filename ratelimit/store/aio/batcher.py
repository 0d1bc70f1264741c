"""Checks of one event loop, gathered: all that are asked in one tick leave together on one connection.

Checks that stand together become one call of a script; what checks have to read leaves beside them. While the answers
of one batch are on their way the next one is sent, so that client and server work at the same time, and meanwhile
another comes together. So a hundred tasks cost a few round trips, no task waits for a connection of its own, and a
check that is alone goes out at once.

No task stands between: the event loop calls `_flush` at the end of a tick, and the connection calls back with replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from ratelimit.effects import BatchableReads, KeyLookUps
from ratelimit.errors import ConfigError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping
from ratelimit.store.aio import steps
from ratelimit.store.aio.pipeline import factory
from ratelimit.store.aio.pipeline.base import Answered, Pipeline
from ratelimit.store.aio.queues import CALL, Batch, Call, Lane, LookUpLane, Waiter
from ratelimit.store.aio.steps import Steps
from ratelimit.store.blocking.connection import wanted_back

_MOST_IN_BATCH = 64
_MOST_IN_FLIGHT = 2
_MANY = 16
"""When as many wait, they do not wait for the batch that is on its way; twice as many are sent in two halves."""
_MOST_WAITING = 10_000
_MOST_LOOKED_UP = 256
"""In one command, so that it does not hold the server up for longer than a batch of checks does."""
_BESIDE_FEW_CHECKS, _BESIDE_CHECKS = 32, 16
"""While there are checks as well, and while more of these wait than leave at a time: to answer a look-up takes this
process longer than to answer a check."""


class CheckBatcher:
    """Sends script calls and reads in the order in which they were asked, each answered by its own reply or error.

    Reads and look-ups change nothing: they do not wait for the checks that were asked before them.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._scripts, self._reads = Lane(_MOST_WAITING), Lane(_MOST_WAITING)
        self._lookups = LookUpLane(_MOST_WAITING)
        self._lanes = self._scripts, self._reads, self._lookups
        self._lane_of: dict[type, Lane] = {BatchableReads: self._reads, KeyLookUps: self._lookups}
        self._all_usual = self._awake = False
        self._pipeline: Pipeline | None = None
        self._opening: asyncio.Task[Pipeline] | None = None
        self._returning = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have a child process look which event loop runs: the parent's seems to run on."""
        self._thread: int | None = None

    def belong_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse any event loop but the first: connections belong to the one in which they were made."""
        if self._loop is not loop:
            if self._loop is not None:
                raise ConfigError("was used in another event loop, to which its connections belong", field="client")
            self._loop = loop
        self._thread = get_ident()

    def call(self, call: Call) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited. Who is cancelled gives up its own reply, nobody else's."""
        loop = self._loop
        # Tells that the running loop is still this one. Python 3.11 asks the system for the process' id to tell which.
        if loop is None or self._thread != get_ident() or not loop.is_running():
            loop = asyncio.get_running_loop()
            self.belong_to(loop)
        future = loop.create_future()
        lane = self._lane_of.get(type(call)) or self._scripts
        waiting = lane.waiting
        if len(waiting) >= lane.most_waiting and (error := lane.no_room()) is not None:
            future.set_exception(error)
            return future
        waiting.append((call, future))
        if not self._awake and (not lane.in_flight or len(waiting) == _MANY):
            self._wake()
        return future

    async def close(self) -> None:
        """Give the connection back to the client, once everybody is answered."""
        pending: list[asyncio.Future[Any]] = [future for lane in self._lanes for future in lane.pending()]
        if self._opening is not None:
            pending.append(self._opening)
        if pending:
            await asyncio.wait(pending)
        if self._pipeline is not None and self._is_asking():
            self._pipeline.break_off()  # everybody has gone: nobody reads what is still to come
        elif self._pipeline is not None:
            self._give_back(self._pipeline)
        if self._returning:
            await asyncio.wait(self._returning)

    def _wake(self) -> None:
        if not self._awake and self._loop is not None:
            self._awake = True
            self._loop.call_soon(self._flush)

    def _is_asking(self) -> bool:
        return any(lane.in_flight for lane in self._lanes)

    def _flush(self) -> None:
        """Send what waits, as far as may be sent now. Called at the end of a tick in which somebody asked."""
        self._awake = False
        while lanes := [lane for lane in self._lanes if lane.waiting and self._may_leave(lane)]:
            found = self._pipeline
            if found is not None and not found.usable:
                found.break_off()
            elif found is not None and wanted_back(found.connection):
                if self._is_asking():
                    return  # their answers come first
                self._give_back(found)
            if self._pipeline is None:
                self._connect()
                return
            self._begin([(lane, waiters) for lane in lanes if (waiters := self._next(lane))])

    def _may_leave(self, lane: Lane) -> bool:
        if lane is not self._scripts:
            return len(lane.in_flight) < _MOST_IN_FLIGHT
        return not lane.in_flight or (len(lane.waiting) >= _MANY and self._may_overlap())

    def _may_overlap(self) -> bool:
        """Tell whether a batch of checks may be sent before the one before it is answered.

        Not after one that left checks out, as happens when keys are new or plans changed: they are asked again first.
        """
        return self._all_usual and len(self._scripts.in_flight) < _MOST_IN_FLIGHT

    def _next(self, lane: Lane) -> list[Waiter]:
        """Take who leaves next: of scripts checks with checks, everything else with its like.

        So nobody is overtaken, unless by a batch that was on its way already when this one left somebody out.
        """
        scripts, most = self._scripts, _MOST_IN_BATCH
        if lane is self._lookups:
            most = _MOST_LOOKED_UP
            if scripts.waiting or scripts.in_flight:
                most = _BESIDE_CHECKS if len(scripts.waiting) >= _MOST_IN_BATCH else _BESIDE_FEW_CHECKS
        elif lane is scripts:
            waiting = len(lane.waiting)
            if waiting >= 2 * _MANY and not lane.in_flight and self._may_overlap():
                most = min(most, (waiting + 1) // 2)
        return lane.take(most)

    def _begin(self, taken: list[tuple[Lane, list[Waiter]]]) -> None:
        """Send what was taken, all of it as one."""
        batches = [Batch(lane, self._steps(lane, list(map(CALL, waiters))), waiters) for lane, waiters in taken]
        for batch in batches:
            batch.lane.in_flight.add(batch)
        self._send([(batch, packets) for batch in batches if (packets := self._step(batch, None))])

    def _send(self, asked: list[tuple[Batch, list[bytes]]]) -> None:
        if asked:
            packets = asked[0][1] if len(asked) == 1 else [packet for _, each in asked for packet in each]
            self._put(packets, partial(self._go_on, [(batch, len(each)) for batch, each in asked]))

    def _go_on(self, asked: list[tuple[Batch, int]], replies: list[Any]) -> None:
        """Hand out the replies to batches that were sent as one, and send what is to be asked next."""
        at, again = 0, []
        for batch, many in asked:
            if packets := self._step(batch, replies[at : at + many]):
                again.append((batch, packets))
            at += many
        self._send(again)
        if any(lane.waiting for lane in self._lanes):
            self._wake()

    def _step(self, batch: Batch, replies: list[Any] | None) -> list[bytes]:
        """Return what is to be sent next; nothing if the batch is answered."""
        try:
            return batch.steps.send(replies)  # type: ignore[arg-type] # None to begin with
        except StopIteration as finished:
            self._answer(batch, finished.value)
        except Exception as error:  # noqa: BLE001 - every waiter has to hear of it, and those that wait still be served
            self._answer(batch, [error] * len(batch.waiters))
        return []

    def _put(self, packets: Sequence[bytes], answered: Answered) -> None:
        """Send packets; then `answered` is called with a reply or an error for each."""
        if self._pipeline is None or not self._pipeline.usable:
            answered([StoreUnavailable("the connection was lost meanwhile")] * len(packets))
        else:
            self._pipeline.ask(b"".join(packets), len(packets), answered)

    def _answer(self, batch: Batch, replies: list[Any]) -> None:
        batch.lane.in_flight.discard(batch)
        for (_, future), reply in zip(batch.waiters, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(error_mapping.after_sending(reply) if isinstance(reply, RedisError) else reply)
            else:
                future.set_result(reply)

    def _steps(self, lane: Lane, calls: list[Any]) -> Steps:
        if lane is self._scripts:
            return steps.check(calls, partial(setattr, self, "_all_usual"))
        return steps.read(calls) if lane is self._reads else steps.look_up(calls)

    def _connect(self) -> None:
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(), name="ratelimit-connect")
            self._opening.add_done_callback(self._opened)

    async def _open(self) -> Pipeline:
        if self._returning:
            await asyncio.wait(self._returning)
        return factory.over(await factory.taken(self._pool), self._lost)

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
        told = error_mapping.before_sending(error) if isinstance(error, RedisError | OSError) else error
        for lane in self._lanes:
            while lane.waiting:  # nobody waits for another attempt: it would take as long
                _, future = lane.waiting.popleft()
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
        returned = factory.returned(self._pool, given_back.connection, disconnected=disconnected)
        task = asyncio.get_running_loop().create_task(returned, name="ratelimit-return")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
