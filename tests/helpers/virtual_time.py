"""Operations in virtual time: a loop of events, and what stands between an operation and a server in it."""

import heapq
import itertools

from ratelimit.effects import InBackground, WaitFor
from ratelimit.errors import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.scripts import LeaseCall, ScriptCall


class EventLoop:
    """What is due at which microsecond, in that order."""

    def __init__(self):
        self.now = 0
        self._due = []
        self._numbers = itertools.count()

    def at(self, time_us, event):
        heapq.heappush(self._due, (max(self.now, time_us), next(self._numbers), event))

    def run(self, until_us=None):
        """Do what is due until a time, or until nothing is."""
        while self._due and (until_us is None or self._due[0][0] <= until_us):
            self.now, _, event = heapq.heappop(self._due)
            event()
        if until_us is not None:
            self.now = max(self.now, until_us)


class Trip:
    """How a call travels: microseconds to the server and back; None for one that does not arrive."""

    def __init__(self, there_us, back_us, *, is_refused=False):
        self.there_us, self.back_us, self.is_refused = there_us, back_us, is_refused
        self.sent_us = None


class Running:
    """An operation that runs, as the executors run one: a call that has no reply by the deadline is given up.

    `send(call)` returns its `Trip`, `execute(call, trip)` what the server replies: both are the world's.
    """

    def __init__(self, loop, world, operation, deadline_us, on_end=lambda running: None):
        self.loop, self.world, self.operation, self.on_end = loop, world, operation, on_end
        self.deadline_us = loop.now + deadline_us
        self.is_over = False
        self._step = 0
        self.resume(lambda: next(operation))

    def resume(self, advance):
        if self.is_over:
            return None
        self._step += 1
        while True:
            try:
                request = advance()
            except StopIteration:
                return self._end()
            except StoreError:
                return self._end()
            if isinstance(request, InBackground):
                Running(self.loop, self.world, request.operation, 1_000_000)
                advance = lambda: self.operation.send(None)  # noqa: E731
                continue
            if isinstance(request, WaitFor):
                return self._wait(request)
            if isinstance(request, ScriptCall):
                return self._call(request)
            return self.world.other_request(self, request)

    def _end(self):
        self.is_over = True
        self.on_end(self)

    def cancel(self):
        """Its caller goes away."""
        if not self.is_over:
            self.is_over = True
            self.operation.close()
            self.on_end(self)

    def reply(self, value):
        if isinstance(value, Exception):
            self.resume(lambda: self.operation.throw(value))
        else:
            self.resume(lambda: self.operation.send(value))

    def _once(self, event):
        """The event, if by then nothing else has made this operation go on."""
        step = self._step
        return lambda: event() if step == self._step and not self.is_over else None

    def _wait(self, request):
        go_on = self._once(lambda: self.reply(None))
        request.future.add_done_callback(lambda _: self.loop.at(self.loop.now, go_on))
        if request.at_most_s is not None:
            self.loop.at(self.loop.now + round(request.at_most_s * 1e6), go_on)
        self.loop.at(self.deadline_us, self._once(lambda: self.reply(StoreUnavailable("too late"))))

    def _call(self, call):
        trip = self.world.send(call)
        if trip.is_refused:
            self.loop.at(self.loop.now, self._once(lambda: self.reply(StoreUnavailable("refused"))))
            return
        step = self._step

        def arrive():
            reply = self.world.execute(call, trip)
            if trip.back_us is not None:
                self.loop.at(self.loop.now + trip.back_us, lambda: come(reply))

        def come(reply):
            if step == self._step and not self.is_over:
                self.reply(reply)
            elif isinstance(call, LeaseCall) and self.world.has_late_replies:
                call.on_late_reply(reply)

        if trip.there_us is not None:
            self.loop.at(self.loop.now + trip.there_us, arrive)
        self.loop.at(self.deadline_us, self._once(lambda: self.reply(StoreTimeout("no answer"))))
