"""Checks of one event loop in batches: all that are called in one tick leave together on one connection.

Checks of a batch become one script call; what checks have to read leaves beside them. While the replies to one batch
are in flight the next one is sent, so that client and server work at the same time, and meanwhile another forms; where
the round trip is long, as many as the server could answer meanwhile. So a hundred tasks cost a few round trips, no task
waits for a connection of its own, and a check that is alone goes out at once.

No task is involved: the event loop calls `_flush` at the end of a tick, the pipeline calls back with replies, and one
timer looks for calls whose deadline has passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import partial
from math import inf
from threading import get_ident
from typing import Any, Protocol

from ratelimit.effects import BatchableReads, IndependentReads, KeyLookUps
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import LeaseCall
from ratelimit.store import error_mapping, redis_compat
from ratelimit.store.aio import exchanges, polling
from ratelimit.store.aio.endpoint import Endpoint
from ratelimit.store.aio.exchanges import Exchange, Redirected
from ratelimit.store.aio.finder import AsyncFinder
from ratelimit.store.aio.loop_clock import PUNCTUAL_S, LoopClock
from ratelimit.store.aio.pipeline.base import OnReplies
from ratelimit.store.aio.queues import CALL, Batch, Call, CallQueue, LookUpQueue, Waiter
from ratelimit.store.breaker import BreakerState

CallFunction = Callable[[Call, float | None], "asyncio.Future[Any]"]

_MAX_CHECKS = 64
"""In one script call."""
_MAX_IN_FLIGHT = 2
_OVERLAP_AT = 16
"""When as many wait, they do not wait for the batch that is in flight; twice as many are sent in two halves."""
_LONG_ROUND_TRIP_S = 0.002
"""From here on, batches in flight grow with the round trip, and few calls do not wait for the one in flight."""
_BATCH_S = 0.00025
"""What a server needs for a batch: so many more fill a long round trip."""
_PATIENCE = 8
"""The part of a long round trip after which few calls do not wait for others any more."""
_MAX_WAITING = 50_000
_MAX_LOOK_UPS_WAITING = 10_000
_MAX_LOOK_UPS = 256
"""In one command, so that it does not hold the server up for longer than a batch of checks does."""
_LOOK_UPS_BESIDE_FEW_CHECKS, _LOOK_UPS_BESIDE_CHECKS = 32, 16
"""While there are checks as well, and while more of these wait than leave at a time: to handle a look-up's reply takes
this process longer than that of a check."""
_TICK_S, _SHORTEST_TICK_S = 0.01, 0.001
"""How often calls are looked through for those whose deadline has passed, and in between if one is to pass then."""

_now_s = time.monotonic


class Rerouter(Protocol):
    """Sends to another node what this one did not carry out. None where there is one server."""

    def take_over(self, waiter: Waiter, error: Exception) -> bool:
        """Return whether it sees to it that a call gets a reply, after a server's error reply or a StoreError."""

    def on_unreachable(self) -> None:
        """The node does not reply, or cannot be connected to."""


class CheckBatcher:
    """Sends script calls and reads in the order in which they were made; each gets its own reply or error.

    Reads and look-ups change nothing: they do not wait for checks that were made before them. Belongs to the event loop
    in which it is made.

    Args:
        pool: The pool of the client, which says how to connect.
        deadline_s: How long a call may wait for Redis.
        primary: Finds the server to connect to; None where the pool says it.
        call_elsewhere: What takes the place of `call` in any other event loop.
        rerouter: Where there are several nodes: sends to the others.
        clock: By which all of them count deadlines.

    Attributes:
        has_slots: Whether a command may only name keys of one slot: then each check is a script call of its own, and
            reads are those of one key each.
    """

    def __init__(
        self,
        pool: Any,
        deadline_s: float,
        primary: AsyncFinder | None = None,
        call_elsewhere: CallFunction | None = None,
        rerouter: Rerouter | None = None,
        clock: LoopClock | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread: int | None = get_ident()
        self._call_elsewhere = call_elsewhere
        self._rerouter = rerouter
        self.has_slots = rerouter is not None
        self._deadline_s = deadline_s
        self.endpoint = Endpoint(pool, self, deadline_s, primary)
        self._breaker = self.endpoint.breaker
        self._scripts, self._reads = CallQueue(_MAX_WAITING), CallQueue(_MAX_WAITING)
        self._look_ups = LookUpQueue(_MAX_LOOK_UPS_WAITING)
        self._queues = self._scripts, self._reads, self._look_ups
        self._queue_by_type: dict[type, CallQueue] = {
            BatchableReads: self._reads,
            IndependentReads: self._reads,
            KeyLookUps: self._look_ups,
        }
        self._left_out: int | None = None  # of the last batch of checks
        self._flush_is_due = self._few_may_leave = False
        self._few_timer: asyncio.TimerHandle | None = None
        self._clock = LoopClock() if clock is None else clock
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._expiry_due_s = inf

    def call(
        self, call: Call, started_s: float | None = None, future: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Return the reply to a call, to be awaited. Who is cancelled gives up its own reply, nobody else's.

        Args:
            call: What to send.
            started_s: When its deadline began, by the monotonic clock; None for now.
            future: What gets the reply, if somebody awaits that already: it is a call that another node refused.
        """
        loop = self._loop
        # Whether it is the running loop: Python 3.11 asks the system for the process' id to find out.
        if (self._thread != get_ident() or not loop.is_running()) and self._call_elsewhere is not None:
            return self._call_elsewhere(call, started_s)
        if future is None:
            future = loop.create_future()
        if self._breaker.is_open:
            self._refuse((call, future, _now_s() if started_s is None else started_s), self.endpoint.unavailable())
            return future
        queue = self._queue_by_type.get(type(call)) or self._scripts
        waiting = queue.waiting
        if len(waiting) >= queue.capacity and (error := queue.overflow()) is not None:
            future.set_exception(error)
            return future
        waiting.append((call, future, _now_s() if started_s is None else started_s))
        if not self._flush_is_due:
            if not queue.in_flight or len(waiting) == _OVERLAP_AT:
                self._schedule_flush()
            elif len(waiting) == 1:
                self._schedule_flush_of_few()
        if self._expiry_timer is None:
            self._schedule_expiry(_now_s() + min(_TICK_S, self._deadline_s))
        return future

    def is_late(self, started_s: float) -> bool:
        """Return whether the deadline of what began then has passed."""
        now_s = _now_s()
        if now_s > self._expiry_due_s + PUNCTUAL_S:
            now_s = self._expiry_due_s  # the loop has been busy since then
        return self._clock.counted_s(now_s) >= self._clock.counted_s(started_s) + self._deadline_s

    def breaker_state(self) -> BreakerState:
        """Return whether the breaker of its server is open, and how often it has opened."""
        return self._breaker.state()

    async def close(self) -> None:
        """Close all connections, once all calls have their replies or are late."""
        if pending := [future for queue in self._queues for future in queue.pending()]:
            await asyncio.wait(pending)
        self.abandon()
        await self.endpoint.wait_closed()

    def abandon(self) -> None:
        """Close all connections now. What waits gets an error."""
        for timer in (self._few_timer, self._expiry_timer):
            if timer is not None:
                timer.cancel()
        if self._loop.is_closed():
            self._flush_is_due = True  # there is nobody to call back
        else:
            self._refuse_waiting(StoreUnavailable("the limiter was closed"))
        self.endpoint.close()

    # Sending

    def on_pipeline(self) -> None:
        """As `EndpointListener.on_pipeline`."""
        for queue in self._queues:
            queue.leave_behind()
        self._schedule_flush()

    def on_unavailable(self) -> None:
        """As `EndpointListener.on_unavailable`."""
        error = self.endpoint.unavailable()
        if self._rerouter is not None:
            self._rerouter.on_unreachable()
        for waiter in self.take_waiting():
            self._refuse(waiter, error)

    def take_waiting(self) -> list[Waiter]:
        """Remove the calls that wait to be sent, and return them."""
        return [waiter for queue in self._queues for waiter in queue.take_all()]

    def _refuse(self, waiter: Waiter, error: StoreError) -> None:
        """Fail a call that cannot be sent, unless another node may get it."""
        if self._rerouter is None or not self._rerouter.take_over(waiter, error):
            _fail([waiter[1]], error)

    def _refuse_waiting(self, error: StoreError) -> None:
        _fail([future for _, future, _ in self.take_waiting()], error)

    def _schedule_flush(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _schedule_flush_of_few(self) -> None:
        pipeline = self.endpoint.pipeline
        if self._few_timer is None and pipeline is not None and pipeline.round_trip_s >= _LONG_ROUND_TRIP_S:
            self._few_timer = self._loop.call_later(pipeline.round_trip_s / _PATIENCE, self._flush_few)

    def _flush_few(self) -> None:
        self._few_timer = None
        self._few_may_leave = True
        self._flush()
        self._few_may_leave = False

    def _flush(self) -> None:
        """Send what waits, as far as may be sent now. Called at the end of a tick in which a call was made."""
        self._flush_is_due = False
        while queues := [queue for queue in self._queues if queue.waiting and self._may_send(queue)]:
            pipeline = self.endpoint.pipeline
            if pipeline is not None and not pipeline.is_usable:
                pipeline.close()
                pipeline = self.endpoint.pipeline
            if pipeline is None:
                self.endpoint.connect()
                return
            self._send_batches([(queue, waiters) for queue in queues if (waiters := self._take(queue))])

    def _max_in_flight(self) -> int:
        pipeline = self.endpoint.pipeline
        if pipeline is None or pipeline.round_trip_s < _LONG_ROUND_TRIP_S:
            return _MAX_IN_FLIGHT
        return _MAX_IN_FLIGHT + int(pipeline.round_trip_s / _BATCH_S)

    def _may_send(self, queue: CallQueue) -> bool:
        if queue is not self._scripts:
            return len(queue.in_flight) < self._max_in_flight()
        if not queue.in_flight:
            return True
        return (len(queue.waiting) >= _OVERLAP_AT or self._few_may_leave) and self._may_overlap()

    def _may_overlap(self) -> bool:
        """Return whether a batch of checks may be sent before the one before it has its replies.

        Not after one that left checks out, as happens when keys are new or plans changed: they are sent again first.
        Unless the round trip is long: a burst of new keys would take two of them for each batch.
        """
        most = self._max_in_flight()
        return (self._left_out == 0 or most > _MAX_IN_FLIGHT) and len(self._scripts.in_flight) < most

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
            packets = batch.exchange.send(replies)  # type: ignore[arg-type] # None to begin with
        except StopIteration as finished:
            self._resolve(batch, finished.value)
        except Exception as error:  # noqa: BLE001 - every caller has to get it, and those that wait still be served
            self._resolve(batch, [error] * len(batch.waiters))
        else:
            if replies is None or not batch.is_given_up:
                return packets
            batch.queue.finish(batch)  # all were late: what they would send next is nobody's
        return []

    def _write(self, packets: Sequence[bytes], on_replies: OnReplies) -> None:
        """Send packets; `on_replies` is then called with a reply or an error for each."""
        pipeline = self.endpoint.pipeline
        if pipeline is None:
            on_replies([StoreUnavailable("the connection was lost meanwhile")] * len(packets))
        else:
            pipeline.send(b"".join(packets), len(packets), on_replies)

    def _resolve(self, batch: Batch, replies: list[Any]) -> None:
        batch.queue.finish(batch)
        for waiter, reply in zip(batch.waiters, replies, strict=True):
            call, future, _ = waiter
            if future.done():
                call = call.call if isinstance(call, Redirected) else call
                if isinstance(call, LeaseCall):
                    call.on_late_reply(reply)
                continue
            if isinstance(reply, Exception):
                if self._rerouter is not None and self._rerouter.take_over(waiter, reply):
                    continue
                is_clients = isinstance(reply, redis_compat.redis_errors())
                future.set_exception(error_mapping.after_sending(reply) if is_clients else reply)
            else:
                future.set_result(reply)

    def _exchange(self, queue: CallQueue, calls: list[Any]) -> Exchange:
        if self.has_slots:
            self._left_out = 0
            return exchanges.of_slots(calls)
        if queue is self._scripts:
            return exchanges.checks(calls, self._note_left_out)
        return exchanges.reads(calls) if queue is self._reads else exchanges.look_ups(calls)

    def _note_left_out(self, count: int | None) -> None:
        self._left_out = count
        if count is None:
            self.has_slots = True

    # Deadlines

    def _schedule_expiry(self, due_s: float) -> None:
        self._expiry_due_s = due_s
        self._expiry_timer = self._loop.call_later(due_s - _now_s(), self._on_expiry_timer)

    def _on_expiry_timer(self) -> None:
        now_s = _now_s()
        self._clock.on_timer(self._expiry_due_s, now_s)
        started_s = min(queue.started_s() for queue in self._queues)
        wait_s = self._clock.counted_s(started_s) + self._deadline_s - self._clock.counted_s(now_s)
        if wait_s == inf:
            self._expiry_timer, self._expiry_due_s = None, inf
        elif wait_s <= 0 and not self._is_emulated():
            polling.once_quiet(self._loop, self._last_arrival_s, self._expire)
        else:
            self._schedule_expiry(now_s + min(_TICK_S, max(wait_s, _SHORTEST_TICK_S)))

    def _is_emulated(self) -> bool:
        pipeline = self.endpoint.pipeline
        return pipeline is not None and pipeline.is_emulated

    def _last_arrival_s(self) -> float:
        pipeline = self.endpoint.pipeline
        return -inf if pipeline is None else pipeline.last_arrival_s

    def _expire(self) -> None:
        """Fail the calls whose deadline has passed. What was sent for them stays in flight, its reply is dropped."""
        latest_s = self._clock.counted_s(_now_s()) - self._deadline_s
        is_miss = False
        for queue in self._queues:
            waiting, sent = queue.expire(lambda started_s: self._clock.counted_s(started_s) <= latest_s)
            is_miss = is_miss or bool(waiting or sent)
            deadline = f"{self._deadline_s * 1000:g} ms"
            _fail(waiting, StoreUnavailable(f"it could not be sent within {deadline}: {self._why_not_sent()}"))
            _fail(sent, StoreTimeout(f"Redis sent no answer within {deadline}"))
        if is_miss:
            self.endpoint.miss()
        self._schedule_expiry(_now_s() + _SHORTEST_TICK_S)

    def _why_not_sent(self) -> str:
        if self.endpoint.pipeline is None:
            return str(self.endpoint.unavailable())
        return "calls that were sent before have no answer yet"


def _fail(futures: Iterable[asyncio.Future[Any]], error: StoreError) -> None:
    """Fail each with an error of its own: raising one adds frames to its traceback."""
    for future in futures:
        future.set_exception(copy(error))
