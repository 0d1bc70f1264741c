"""An endpoint and its checks in virtual time: what a breaker decides in an hour, within seconds."""

import heapq
import random
from itertools import count, pairwise
from math import inf, log

from ratelimit.store.breaker import Breaker, Step

DEADLINE_S = 0.05
BLIP_S = (0.06, 0.3)
NEVER = inf, inf
TICK_S = 1e-6
"""Time moves by so much at least."""


class Simulation:
    """Checks at a steady rate, of which few are held up: blips of the network. A reply takes no time otherwise.

    pipelined   all checks share one connection, so that a blip holds up what is behind it; else each has its own
    blips       share of the requests that are held up, those of the spare connection and probes included
    stalls      (from, until): times in which the server answers nobody
    blip_spare  whether the spare connection and the probes meet blips as well
    """

    def __init__(self, seed, *, pipelined, rate=1000, blips=0.001, stalls=(), has_spare=True, blip_spare=True):
        self._random = random.Random(seed)
        self.breaker = Breaker(self._random.uniform)
        self._pipelined, self._rate, self._blips, self._stalls = pipelined, rate, blips, [*stalls, NEVER]
        self._has_spare, self._blip_spare = has_spare, blip_spare
        self._events, self._numbers = [], count()
        self._now_s = self._held_until_s = 0.0
        self._next_step = None
        self.openings, self.closings, self.waited, self.pings, self.probes = [], [], 0, 0, 0

    def run(self, seconds):
        """Let time pass."""
        number, end = 0, round(seconds * self._rate)
        next_blip = self._until_blip()
        while number < end:
            if not self._events and not self._is_held() and not self._in_stall(number):
                # Nothing happens but answers until the next blip or stall.
                number = min(next_blip, end - 1, self._stall_number())
                self.breaker.last_arrival_s = (number - 1) / self._rate
            self._pass_until(number / self._rate)
            if not self.breaker.is_open:
                self._check(is_blip=number >= next_blip)
            if number >= next_blip:
                next_blip = number + self._until_blip()
            number += 1
        assert self._times_are_in_order()
        return self

    def open_for(self):
        """Seconds for which the breaker was open, each time."""
        return [closed - opened for opened, closed in zip(self.openings, self.closings, strict=True)]

    def _times_are_in_order(self):
        return all(a < b for a, b in pairwise(sorted([*self.openings, *self.closings])))

    def _until_blip(self):
        return 1 + int(log(1 - self._random.random()) / log(1 - self._blips)) if self._blips else inf

    def _is_held(self):
        return self._held_until_s > self._now_s or self.breaker.is_open

    def _in_stall(self, number):
        self._stalls = [stall for stall in self._stalls if stall[1] > number / self._rate]
        return self._stalls[0][0] <= number / self._rate

    def _stall_number(self):
        return inf if self._stalls[0] == NEVER else int(self._stalls[0][0] * self._rate) + 1

    def _pass_until(self, until_s):
        while self._events and self._events[0][0] <= until_s:
            self._now_s, _, function = heapq.heappop(self._events)
            function()
        self._now_s = until_s

    def _at(self, when_s, function):
        heapq.heappush(self._events, (when_s, next(self._numbers), function))

    def _answered_s(self, *, is_blip):
        answered_s = self._now_s + (self._random.uniform(*BLIP_S) if is_blip else 0)
        for start, end in self._stalls:
            if start <= answered_s < end:
                return end
        return answered_s

    def _check(self, *, is_blip):
        answered_s = self._answered_s(is_blip=is_blip)
        if self._pipelined:
            answered_s = self._held_until_s = max(answered_s, self._held_until_s)
        if answered_s == self._now_s:
            self.breaker.last_arrival_s = self._now_s
            return
        if answered_s - self._now_s >= DEADLINE_S:
            self.waited += 1
            self._at(self._now_s + DEADLINE_S, self._miss)
            if not self._pipelined:
                return  # the connection is closed: nothing arrives
        self._at(answered_s, self._arrived)

    def _arrived(self):
        self.breaker.last_arrival_s = self._now_s

    def _miss(self):
        self.breaker.miss(self._now_s)
        self._step()

    def _step(self):
        was_open = self.breaker.is_open
        step, wait_s = self.breaker.step(self._now_s, has_spare=self._has_spare)
        if self.breaker.is_open and not was_open:
            self.openings.append(self._now_s)
        if step is not Step.NOTHING:
            self.pings += step is Step.PING_SPARE
            self.probes += step is Step.PROBE
            for _ in range(2 if step is Step.PING_SPARE else 1):  # a new connection is tried beside the spare
                is_blip = self._blip_spare and self._random.random() < self._blips
                self._at(self._answered_s(is_blip=is_blip), self._answer)
        if wait_s < inf:
            when_s = self._now_s + max(wait_s, TICK_S)
            if self._next_step is None or when_s < self._next_step:
                self._next_step = when_s
                self._at(when_s, self._step_in_time)

    def _step_in_time(self):
        if self._next_step == self._now_s:
            self._next_step = None
            self._step()

    def _answer(self):
        if self.breaker.is_open:
            self.closings.append(self._now_s)
        self.breaker.answer(self._now_s)
        self._held_until_s = 0.0  # to the connection that answered
