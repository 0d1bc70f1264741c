"""One node of Redis for one event loop: its connections, and whether it answers.

It alone connects, in tasks of its own; callers wait, and never connect. Beside the pipeline in use there is a spare one
that serves nobody, which distinguishes a connection that has got stuck from a server that does not answer: see
`Breaker`.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from math import inf
from typing import Any, Protocol

from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.store import error_mapping
from ratelimit.store.addresses import Address
from ratelimit.store.aio import polling
from ratelimit.store.aio.finder import AsyncFinder
from ratelimit.store.aio.pipeline.base import Pipeline
from ratelimit.store.aio.pipeline.factory import open_pipeline
from ratelimit.store.breaker import PROBE_INTERVAL_S, Breaker, Step
from ratelimit.store.resp import NO_OP

CONNECT_TIMEOUT_S = 5.0
"""For an attempt to connect, handshake included: patient, for the moment in which it succeeds is when Redis is back."""
_MAX_ATTEMPTS = 8
"""Under way at the same time."""
_SPARE_RETRY_S = 1.0
_LOOK_AGAIN_S = 0.005
_SHORT_LIFE_S = 1.0
"""Connections that end sooner, and have answered no call, are replaced after an interval, not at once."""

_now_s = time.monotonic


class EndpointListener(Protocol):
    """Who sends on the pipeline in use. All of these are called in the loop."""

    def on_pipeline(self) -> None:
        """There is a pipeline, or another one than before: what was sent on that stays in flight there."""

    def on_unavailable(self) -> None:
        """There is none, and none is to be expected: whoever waits gets `Endpoint.unavailable`."""


class Endpoint:
    """Keeps a pipeline and a spare connected while they are needed.

    Attributes:
        breaker: Whether Redis is to be sent anything.
        pipeline: The pipeline in use, None while there is none.
    """

    def __init__(
        self, pool: Any, listener: EndpointListener, patience_s: float, primary: AsyncFinder | None = None
    ) -> None:
        """Prepare an endpoint of the running loop; it connects when `connect` is called.

        Args:
            pool: The client's, as a configuration: no connection of its own is used.
            listener: Who sends.
            patience_s: How long callers wait for a reply on a pipeline that is not in use any more.
            primary: Finds the server to connect to; None where the pool says it.
        """
        self._pool = pool
        self._listener = listener
        self._patience_s = patience_s
        self._primary = primary
        self._loop = asyncio.get_running_loop()
        self.breaker = Breaker()
        self.pipeline: Pipeline | None = None
        self._spare: Pipeline | None = None
        self._pinged: Pipeline | None = None  # the spare, from when it is pinged until it answers
        self._retired = set[Pipeline]()
        self._attempts = set[asyncio.Task[Pipeline]]()
        self._retry: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._not_before_s = -inf
        self._useless_in_a_row = 0
        self._last_error: Exception | None = None
        self._problem = ""
        self._is_closed = False
        if primary is not None:
            primary.watch(self.move_to)

    @property
    def is_complete(self) -> bool:
        """Whether all connections stand that are to stand."""
        pipeline = self.pipeline
        return pipeline is not None and (self._spare is not None or pipeline.is_emulated)

    def unavailable(self) -> StoreUnavailable:
        """Return the error for a call that cannot be sent, with what is known about why."""
        if self._last_error is not None and self.pipeline is None:
            return error_mapping.before_sending(self._last_error)
        return StoreUnavailable(self._problem or "no connection to Redis: it is still being made")

    def connect(self) -> None:
        """Begin to connect what is missing, one connection at a time; while the breaker is open, it says when."""
        if self._is_closed or self.breaker.is_open or self._attempts or self._retry is not None or self.is_complete:
            return
        wait_s = self._not_before_s - _now_s()
        if wait_s > 0:
            self._retry = self._loop.call_later(wait_s, self._connect_again)
        else:
            self._begin_attempt()

    async def wait_complete(self, timeout_s: float) -> None:
        """Wait until all connections stand, and the breaker is closed.

        Raises:
            StoreUnavailable: They do not, within that time.
        """
        self.connect()
        end_s = _now_s() + timeout_s
        while not self.is_complete or self.breaker.is_open:
            if _now_s() >= end_s:
                raise self.unavailable()
            await asyncio.sleep(_LOOK_AGAIN_S)

    def miss(self) -> None:
        """Note that a call got no answer within its deadline."""
        self.breaker.miss(_now_s())
        self._watch()

    def move_to(self, _address: Address) -> None:
        """Leave the server, as another one is the primary now. What is in flight ends with the cause "deposed"."""
        error = StoreTimeout("another server is the primary now", cause="deposed")
        for attempt in self._attempts:
            attempt.cancel()
        self._attempts.clear()
        for pipeline in self._pipelines():
            pipeline.close(error)
        self._not_before_s = -inf
        self.connect()

    def close(self, error: StoreError | None = None) -> None:
        """Close all connections at once; what is in flight gets the error."""
        self._is_closed = True
        for timer in (self._retry, self._watch_timer):
            if timer is not None:
                timer.cancel()
        self._retry = self._watch_timer = None
        if not self._loop.is_closed():
            for attempt in self._attempts:
                attempt.cancel()
        for pipeline in self._pipelines():
            pipeline.close(error)

    async def wait_closed(self) -> None:
        """Wait until nothing of a closed endpoint is left in the loop."""
        if self._attempts:
            await asyncio.wait(self._attempts)
        await polling.next_poll()

    def _pipelines(self) -> list[Pipeline]:
        return [each for each in (self.pipeline, self._spare, *self._retired) if each is not None]

    # Connecting

    def _connect_again(self) -> None:
        self._retry = None
        self.connect()

    def _begin_attempt(self) -> None:
        opening = open_pipeline(self._pool, self._on_lost, CONNECT_TIMEOUT_S, self._primary)
        attempt = self._loop.create_task(opening, name="ratelimit-connect")
        self._attempts.add(attempt)
        attempt.add_done_callback(self._on_attempt_done)

    def _on_attempt_done(self, attempt: asyncio.Task[Pipeline]) -> None:
        is_wanted = attempt in self._attempts  # not if it leads to a server that was left
        self._attempts.discard(attempt)
        error = ConnectionError("connecting was cancelled") if attempt.cancelled() else attempt.exception()
        pipeline = attempt.result() if error is None else None
        if pipeline is not None and (self._is_closed or not is_wanted):
            pipeline.close()
        elif pipeline is not None and pipeline.is_usable:
            self._on_connected(pipeline)
        elif is_wanted and not self._is_closed:
            self._on_failed(error or ConnectionError("the server closed the connection at once"))

    def _on_connected(self, pipeline: Pipeline) -> None:
        self._last_error = None
        is_back = self.breaker.is_open or self._pinged is not None
        if is_back:
            self.breaker.answer(_now_s())
            if self._pinged is not None:
                self._pinged.close()  # it was pinged, and still does not answer
        if is_back or self.pipeline is None:
            self._use(pipeline)
        elif self._spare is None:
            self._spare = pipeline
        else:
            pipeline.close()
        self.connect()

    def _on_failed(self, error: BaseException) -> None:
        self._last_error = error if isinstance(error, Exception) else ConnectionError(repr(error))
        if isinstance(error, TimeoutError) and not str(error):
            self._last_error = TimeoutError(f"no answer within {CONNECT_TIMEOUT_S:g} s")
        if self.pipeline is not None:
            self._not_before_s = _now_s() + _SPARE_RETRY_S
            self.connect()
        elif not self.breaker.is_open:
            self.breaker.open(_now_s())
            self._listener.on_unavailable()
            self._watch()

    def _use(self, pipeline: Pipeline) -> None:
        if self.pipeline is not None:
            self._retired.add(self.pipeline)
            self._loop.call_later(self._patience_s, self.pipeline.close)
        self.pipeline = pipeline
        self._listener.on_pipeline()

    def _on_lost(self, pipeline: Pipeline) -> None:
        self._retired.discard(pipeline)
        if pipeline.is_replica and self._spare is not None and self._spare is not pipeline:
            self._spare.close()  # it leads to the same server
        if pipeline is self._pinged:
            self._pinged = None
        if pipeline is self._spare:
            self._spare = None
        elif pipeline is self.pipeline:
            self.pipeline = None
            spare = self._spare
            if spare is not None and spare is not self._pinged and spare.is_usable and not self._is_closed:
                self._spare = None
                self._use(spare)
        else:
            return
        self._pace(pipeline)
        self.connect()

    def _pace(self, lost: Pipeline) -> None:
        """Wait before connecting anew if the server hangs up on everybody: on two in a row that served for nothing."""
        if lost.has_served or lost.is_replica or _now_s() - lost.opened_s >= _SHORT_LIFE_S:
            self._useless_in_a_row = 0
            return
        self._useless_in_a_row += 1
        if self._useless_in_a_row > 1:
            self._not_before_s = max(self._not_before_s, _now_s() + PROBE_INTERVAL_S)

    # Watching

    def _watch(self) -> None:
        """Do what the breaker says, and look again when it says so."""
        if self._watch_timer is not None:
            self._watch_timer.cancel()
            self._watch_timer = None
        if self._is_closed:
            return
        breaker, now_s = self.breaker, _now_s()
        breaker.last_arrival_s = self._last_arrival_s()
        was_open = breaker.is_open
        step, wait_s = breaker.step(now_s, has_spare=self._spare is not None)
        if breaker.is_open and not was_open:
            self._problem = f"Redis does not answer: nothing came for {now_s - breaker.last_arrival_s:.2f} s"
            self._listener.on_unavailable()
        if step is Step.PING_SPARE and self._spare is not None:
            self._ping(self._spare)
        if step is not Step.NOTHING and len(self._attempts) < _MAX_ATTEMPTS:
            self._begin_attempt()
        if wait_s < inf:
            once_quiet = partial(polling.once_quiet, self._loop, self._last_arrival_s, self._watch)
            self._watch_timer = self._loop.call_later(wait_s, once_quiet)

    def _last_arrival_s(self) -> float:
        arrivals_s = [pipeline.last_arrival_s for pipeline in self._pipelines()]
        return max(self.breaker.last_arrival_s, *arrivals_s) if arrivals_s else self.breaker.last_arrival_s

    def _ping(self, spare: Pipeline) -> None:
        self._pinged = spare
        spare.send(NO_OP, 1, partial(self._on_spare_reply, spare, _now_s()))

    def _on_spare_reply(self, spare: Pipeline, pinged_s: float, replies: list[Any]) -> None:
        if isinstance(replies[0], StoreError) or spare is not self._pinged:
            return
        self._pinged = None
        is_back = self.breaker.is_open
        self.breaker.answer(_now_s())
        self._last_error = None
        if is_back or self.pipeline is None or self.pipeline.last_arrival_s < pinged_s:
            self._spare = None
            self._use(spare)
        self.connect()
