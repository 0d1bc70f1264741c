"""Checks of one event loop in batches: all that are called in one tick leave together on one connection.

Checks of a batch become one script call; what checks have to read leaves beside them. While the replies to one batch
are in flight the next one is sent, so that client and server work at the same time, and meanwhile another forms. So a
hundred tasks cost a few round trips, no task waits for a connection of its own, and a check that is alone goes out at
once.

No task is involved: the event loop calls `_flush` at the end of a tick, and the pipeline calls back with replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from threading import get_ident
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from ratelimit.effects import BatchableReads, IndependentReads, KeyLookUps
from ratelimit.errors import ConfigError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio import connections, exchanges
from ratelimit.store.aio.exchanges import Exchange
from ratelimit.store.aio.pipeline import factory
from ratelimit.store.aio.pipeline.base import OnReplies, Pipeline
from ratelimit.store.aio.queues import CALL, Batch, Call, CallQueue, LookUpQueue, Waiter

_MAX_CHECKS = 64
"""In one script call."""
_MAX_IN_FLIGHT = 2
_OVERLAP_AT = 16
"""When as many wait, they do not wait for the batch that is in flight; twice as many are sent in two halves."""
_MAX_WAITING = 10_000
_MAX_LOOK_UPS = 256
"""In one command, so that it does not hold the server up for longer than a batch of checks does."""
_LOOK_UPS_BESIDE_FEW_CHECKS, _LOOK_UPS_BESIDE_CHECKS = 32, 16
"""While there are checks as well, and while more of these wait than leave at a time: to handle a look-up's reply takes
this process longer than that of a check."""


class CheckBatcher:
    """Sends script calls and reads in the order in which they were made; each gets its own reply or error.

    Reads and look-ups change nothing: they do not wait for checks that were made before them.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._scripts, self._reads = CallQueue(_MAX_WAITING), CallQueue(_MAX_WAITING)
        self._look_ups = LookUpQueue(_MAX_WAITING)
        self._queues = self._scripts, self._reads, self._look_ups
        self._queue_by_type: dict[type, CallQueue] = {
            BatchableReads: self._reads,
            IndependentReads: self._reads,
            KeyLookUps: self._look_ups,
        }
        self._left_out: int | None = None  # of the last batch of checks
        self._flush_is_due = False
        self._pipeline: Pipeline | None = None
        self._connecting: asyncio.Task[Pipeline] | None = None
        self._releasing = set[asyncio.Task[None]]()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Have a child process find out which event loop runs: the parent's seems to run on."""
        self._thread: int | None = None

    def bind_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refuse any event loop but the first: connections belong to the one in which they were made."""
        if self._loop is not loop:
            if self._loop is not None:
                raise ConfigError("was used in another event loop, to which its connections belong", field="client")
            self._loop = loop
        self._thread = get_ident()

    def call(self, call: Call) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited. Who is cancelled gives up its own reply, nobody else's."""
        loop = self._loop
        # Whether the running loop is still this one: Python 3.11 asks the system for the process' id to find out.
        if loop is None or self._thread != get_ident() or not loop.is_running():
            loop = asyncio.get_running_loop()
            self.bind_to(loop)
        future = loop.create_future()
        queue = self._queue_by_type.get(type(call)) or self._scripts
        waiting = queue.waiting
        if len(waiting) >= queue.capacity and (error := queue.overflow()) is not None:
            future.set_exception(error)
            return future
        waiting.append((call, future))
        if not self._flush_is_due and (not queue.in_flight or len(waiting) == _OVERLAP_AT):
            self._schedule_flush()
        return future

    async def close(self) -> None:
        """Return the connection to the client, once all calls have their replies."""
        pending: list[asyncio.Future[Any]] = [future for queue in self._queues for future in queue.pending()]
        if self._connecting is not None:
            pending.append(self._connecting)
        if pending:
            await asyncio.wait(pending)
        if self._pipeline is not None and self._has_in_flight():
            self._pipeline.disconnect()  # all callers have gone: nobody reads what is still to come
        elif self._pipeline is not None:
            self._release(self._pipeline)
        if self._releasing:
            await asyncio.wait(self._releasing)

    def _schedule_flush(self) -> None:
        if not self._flush_is_due and self._loop is not None:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _has_in_flight(self) -> bool:
        return any(queue.in_flight for queue in self._queues)

    def _flush(self) -> None:
        """Send what waits, as far as may be sent now. Called at the end of a tick in which a call was made."""
        self._flush_is_due = False
        while queues := [queue for queue in self._queues if queue.waiting and self._may_send(queue)]:
            pipeline = self._pipeline
            if pipeline is not None and not pipeline.is_usable:
                pipeline.disconnect()
            elif pipeline is not None and redis_compat.must_be_released(pipeline.connection):
                if self._has_in_flight():
                    return  # their replies come first
                self._release(pipeline)
            if self._pipeline is None:
                self._connect()
                return
            self._send_batches([(queue, waiters) for queue in queues if (waiters := self._take(queue))])

    def _may_send(self, queue: CallQueue) -> bool:
        if queue is not self._scripts:
            return len(queue.in_flight) < _MAX_IN_FLIGHT
        return not queue.in_flight or (len(queue.waiting) >= _OVERLAP_AT and self._may_overlap())

    def _may_overlap(self) -> bool:
        """Return whether a batch of checks may be sent before the one before it has its replies.

        Not after one that left checks out, as happens when keys are new or plans changed: they are sent again first.
        """
        return self._left_out == 0 and len(self._scripts.in_flight) < _MAX_IN_FLIGHT

    def _take(self, queue: CallQueue) -> list[Waiter]:
        """Take the calls that leave next: of scripts checks with checks, everything else with its like.

        So nobody is overtaken, unless by a batch that was in flight already when this one left somebody out.
        """
        scripts, most = self._scripts, _MAX_CHECKS
        if queue is self._look_ups:
            most = _MAX_LOOK_UPS
            if scripts.waiting or scripts.in_flight:
                most = _LOOK_UPS_BESIDE_CHECKS if len(scripts.waiting) >= _MAX_CHECKS else _LOOK_UPS_BESIDE_FEW_CHECKS
        elif queue is scripts:
            waiting = len(queue.waiting)
            if waiting >= 2 * _OVERLAP_AT and not queue.in_flight and self._may_overlap():
                most = min(most, (waiting + 1) // 2)
        return queue.take(most)

    def _send_batches(self, taken: list[tuple[CallQueue, list[Waiter]]]) -> None:
        """Send a batch of each queue, all in one packet."""
        batches = [Batch(queue, self._exchange(queue, list(map(CALL, waiters))), waiters) for queue, waiters in taken]
        for batch in batches:
            batch.queue.in_flight.add(batch)
        self._send([(batch, packets) for batch in batches if (packets := self._advance(batch, None))])

    def _send(self, packets_of: list[tuple[Batch, list[bytes]]]) -> None:
        if packets_of:
            packets = (
                packets_of[0][1] if len(packets_of) == 1 else [one for _, packets in packets_of for one in packets]
            )
            reply_counts = [(batch, len(packets)) for batch, packets in packets_of]
            self._write(packets, partial(self._on_replies, reply_counts))

    def _on_replies(self, reply_counts: list[tuple[Batch, int]], replies: list[Any]) -> None:
        """Hand the replies to batches that were sent together, and send what these send next."""
        at, next_packets = 0, []
        for batch, count in reply_counts:
            if packets := self._advance(batch, replies[at : at + count]):
                next_packets.append((batch, packets))
            at += count
        self._send(next_packets)
        if any(queue.waiting for queue in self._queues):
            self._schedule_flush()

    def _advance(self, batch: Batch, replies: list[Any] | None) -> list[bytes]:
        """Return the packets that a batch sends next; none if all its calls have their replies."""
        try:
            return batch.exchange.send(replies)  # type: ignore[arg-type] # None to begin with
        except StopIteration as finished:
            self._resolve(batch, finished.value)
        except Exception as error:  # noqa: BLE001 - every caller has to get it, and those that wait still be served
            self._resolve(batch, [error] * len(batch.waiters))
        return []

    def _write(self, packets: Sequence[bytes], on_replies: OnReplies) -> None:
        """Send packets; `on_replies` is then called with a reply or an error for each."""
        if self._pipeline is None or not self._pipeline.is_usable:
            on_replies([StoreUnavailable("the connection was lost meanwhile")] * len(packets))
        else:
            self._pipeline.send(b"".join(packets), len(packets), on_replies)

    def _resolve(self, batch: Batch, replies: list[Any]) -> None:
        batch.queue.in_flight.discard(batch)
        for (_, future), reply in zip(batch.waiters, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                is_clients = isinstance(reply, redis_compat.redis_errors())
                future.set_exception(error_mapping.after_sending(reply) if is_clients else reply)
            else:
                future.set_result(reply)

    def _exchange(self, queue: CallQueue, calls: list[Any]) -> Exchange:
        if queue is self._scripts:
            return exchanges.checks(calls, partial(setattr, self, "_left_out"))
        return exchanges.reads(calls) if queue is self._reads else exchanges.look_ups(calls)

    def _connect(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._open(), name="ratelimit-connect")
            self._connecting.add_done_callback(self._on_connected)

    async def _open(self) -> Pipeline:
        if self._releasing:
            await asyncio.wait(self._releasing)
        return factory.pipeline_for(await connections.acquire(self._pool), self._on_lost)

    def _on_connected(self, connecting: asyncio.Task[Pipeline]) -> None:
        self._connecting = None
        error = RedisConnectionError("connecting was cancelled") if connecting.cancelled() else connecting.exception()
        if error is None:
            pipeline = connecting.result()
            if pipeline.is_usable:
                self._pipeline = pipeline
                self._flush()
                return
            pipeline.disconnect()
            error = RedisConnectionError("the server closed it at once")
        if isinstance(error, redis_compat.client_errors()):
            error = error_mapping.before_sending(error)
        for queue in self._queues:
            while queue.waiting:  # nobody waits for another attempt: it would take as long
                _, future = queue.waiting.popleft()
                if not future.done():
                    future.set_exception(error)

    def _on_lost(self, lost: Pipeline) -> None:
        """Return a connection that failed to the client, which connects it anew when it is needed."""
        self._return_to_pool(lost, disconnect=True)

    def _release(self, pipeline: Pipeline) -> None:
        """Return a connection on which nothing is in flight to the client, which may use it as it is."""
        if pipeline.detach():
            self._return_to_pool(pipeline)
        else:
            pipeline.disconnect()

    def _return_to_pool(self, pipeline: Pipeline, *, disconnect: bool = False) -> None:
        if pipeline is self._pipeline:
            self._pipeline = None
        release = connections.release(self._pool, pipeline.connection, disconnect=disconnect)
        task = asyncio.get_running_loop().create_task(release, name="ratelimit-release")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)
