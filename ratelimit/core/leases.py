"""Leases: units of every limit of a request, paid for in one check and spent in this process.

What is spent was charged before, so no total is ever exceeded. Units can be spent up to the term after their charge:
over any interval W at most burst + rate * (W + term) pass a bucket. What a lease ends with is given back, but for what
the bucket has refilled meanwhile: without the charge it might have been full by then; and not to a bucket whose plan
may have changed: without the charge it would have been cut to its new burst.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from threading import Lock
from typing import NamedTuple

from ratelimit.core import forks
from ratelimit.core.book import PlanBook
from ratelimit.core.flow import Flow, Reads
from ratelimit.core.names import closed_day_field
from ratelimit.core.question import Question
from ratelimit.core.scripts import ScriptCall, load
from ratelimit.core.state import Namespace
from ratelimit.core.windows import DAY_US, day_of, two_windows
from ratelimit.core.wire import DENIED, Bucket, Reply, status
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS

_SHARE = 8
"""No lease is larger than this part of what a limit has left: near a limit, checks are exact."""

_ALLOWED = Reason.ALLOWED
_NO_WINDOW = -1
_HEAD = Struct("<9d")

Send = Callable[[Question, int], Flow[Reply]]
"""Puts a question of a cost to the script."""


class Unspent(NamedTuple):
    """Units that a lease ended with.

    charged_us  the server's time at which they were charged
    waited_us   by this process' clock since they were asked for: holds also where the server's was set back
    """

    units: int
    charged_us: int
    waited_us: int


class Lease:
    """What this process holds of one question. Microseconds of this process' clock. Safe between threads."""

    __slots__ = (
        "__weakref__",
        "_asking",
        "_charged_us",
        "_ends_us",
        "_limits",
        "_lock",
        "_room",
        "_seen",
        "_since_us",
        "_size",
        "_starts_us",
        "_term_us",
        "held",
    )

    def __init__(self, term: float) -> None:
        self._term_us = round(term * MICROSECONDS)
        self._size = 1
        self.start_anew()
        forks.starts_anew(self)

    def start_anew(self) -> None:
        """Hold nothing: after a fork the parent spends it, and gives it back."""
        self._lock = Lock()
        self._asking = False
        self.held = 0
        self._starts_us = self._ends_us = self._charged_us = 0
        self._limits: tuple[LimitStatus, ...] = ()
        self._room = 0
        # Units that were asked for since the last grant, which tell the rate.
        self._seen, self._since_us = 0, 0

    def spend(self, cost: int, now_us: int, *, peek: bool = False) -> Decision | None:
        """Admit a request from what is held, and take it off unless it is only asked about; None if not enough is."""
        with self._lock:
            left = self.held - cost
            if left < 0 or not self._starts_us <= now_us < self._ends_us:
                return None
            if peek:
                left = self.held
            else:
                self.held = left
                self._seen += cost
            limits = self._limits
        return Decision(_ALLOWED, None, None, partial(_with, limits, left), None, "lease")

    def wanted(self, cost: int, now_us: int) -> tuple[int, bool]:
        """Return how many units to ask for, and whether the caller is the one who may ask for more than its cost."""
        with self._lock:
            self._seen += cost
            if self._asking or self.held:
                return cost, False
            elapsed_us = max(1, now_us - self._since_us)
            self._size = max(1, min(2 * self._size, self._seen * self._term_us // elapsed_us))
            self._asking = True
            return max(cost, min(self._size, self._room)), True

    def asked_in_vain(self) -> None:
        """Let others ask: what was asked for was refused, or nobody knows."""
        with self._lock:
            self._asking, self._room, self._size = False, 0, 1

    def grant(self, question: Question, units: int, cost: int, reply: Reply, sent_us: int) -> None:
        """Hold what was admitted beyond `cost`, and learn how much there is to ask for next time."""
        call = question.call
        server_us, limits = call.time_us(reply), call.decision(reply, units).limits
        # The server judged after `sent_us`: counted from there, all of these end rather too early than too late.
        lasts = [self._term_us, DAY_US - server_us % DAY_US]
        lasts += [question.valid_until_us - server_us] if question.valid_until_us else []
        lasts += [
            round((told.reset_after or 0) * MICROSECONDS)
            for limit, told in zip(call.limits, limits, strict=True)
            if not isinstance(limit, Bucket)
        ]
        with self._lock:
            self._asking = False
            self._room = min((each.remaining for each in limits), default=0) // _SHARE
            self._seen, self._since_us = 0, sent_us
            if units > cost:
                self.held, self._limits, self._charged_us = units - cost, limits, server_us
                self._starts_us, self._ends_us = sent_us, sent_us + min(lasts)

    def end(self) -> None:
        """Spend no more of it: something changed, or this is the end."""
        with self._lock:
            self._ends_us = 0

    def unspent(self, now_us: int) -> Unspent | None:
        """Take out what a lease that is over ended with."""
        with self._lock:
            if not self.held or self._starts_us <= now_us < self._ends_us:
                return None
            held, self.held = self.held, 0
            return Unspent(held, self._charged_us, max(0, now_us - self._starts_us))


class Leases:
    """The leases of one limiter."""

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self.start_anew()
        forks.starts_anew(self)

    def start_anew(self) -> None:
        """Know of no lease."""
        self._lock = Lock()
        self._holding: dict[Lease, Question] = {}
        self._ended_us: int | None = None

    def check(self, question: Question, lease: Lease, cost: int, send: Send) -> Flow[Reply]:
        """Ask for a request that nothing held could pay, and for a lease if that pays.

        Return the reply: to `cost` alone, or to more where that was admitted.
        """
        state = self._state
        yield from self._give_back(question, lease)
        sent_us = state.age_us()
        units, may_hold = lease.wanted(cost, sent_us)
        try:
            reply = yield from send(question, units)
            if units > cost and status(reply) == DENIED:
                # More than there is: what matters is the request.
                units, sent_us = cost, state.age_us()
                reply = yield from send(question, units)
        except BaseException:
            if may_hold:
                lease.asked_in_vain()
            raise
        if may_hold:
            if status(reply) > DENIED:
                lease.grant(question, units, cost, reply, sent_us)
            else:
                lease.asked_in_vain()
        if lease.held:
            with self._lock:
                self._holding[lease] = question
                overtaken = self._ended_us is not None and sent_us <= self._ended_us
            if overtaken:
                lease.end()  # by a change, which may be later than the answer
        return reply

    def end(self, key_id: str | None) -> None:
        """Spend no more of what is held for a key, or for any if it is None."""
        with self._lock:
            self._ended_us = self._state.age_us()
            ended = [lease for lease, question in self._holding.items() if key_id in (None, question.key_id)]
        for lease in ended:
            lease.end()

    def give_back(self, *, all_of_it: bool = False) -> Flow[None]:
        """Give back what leases that are over ended with, or end them all first."""
        if all_of_it:
            self.end(None)
        with self._lock:
            holding = list(self._holding.items())
        for lease, question in holding:
            if question.book is not self._state.book:
                lease.end()
            yield from self._give_back(question, lease)

    def _give_back(self, question: Question, lease: Lease) -> Flow[None]:
        unspent = lease.unspent(self._state.age_us())
        with self._lock:
            if not lease.held:  # asked under the lock: another thread notes a grant here, once it is held
                self._holding.pop(lease, None)
        if unspent is not None:
            with contextlib.suppress(StoreError):  # sent once: what was lost on the way is lost
                is_current = yield from _is_current(question.book, self._state)
                yield _giving_back(question, unspent, self._state, is_current=is_current)


def _is_current(book: PlanBook, state: Namespace) -> Flow[bool]:
    """Tell whether no other catalogue is known of: others may have charged a shared bucket under it.

    What this key itself was charged under, the script sees.
    """
    if book is not state.book or state.loaded_us is not None:
        return book is state.book
    return state.is_current((yield Reads([state.version_query()]))[0])


def _giving_back(question: Question, unspent: Unspent, state: Namespace, *, is_current: bool) -> ScriptCall:
    call, book, (units, charged_us, waited_us) = question.call, question.book, unspent
    own = [bucket for bucket in call.further if not bucket.shared]
    shared = [bucket for bucket in call.further if bucket.shared]
    bucket, quota = call.plan
    first, second, _ = two_windows(quota, charged_us) if quota else (0, 0, 0)
    window = first * 64 + second - first if quota else _NO_WINDOW
    plan = (bucket.burst, *bucket.ratio) if bucket else (0, 0, 0)
    packed = _HEAD.pack(state.script_us(), units, charged_us, waited_us, *plan, window, day_of(charged_us))
    packed += call.further_packed
    fields = (call.fields[0], closed_day_field(call.fields[0], day_of(charged_us)), *(each.place for each in own))
    names = state.names
    keys = (names.key_hash(question.key_id), names.key_days(question.key_id))
    keys_of_all = (each.place for each in shared) if is_current else ()
    return ScriptCall(load("return_lease"), (*keys, *keys_of_all), (packed, book.identity, *fields))


def _with(limits: Sequence[LimitStatus], held: int) -> tuple[LimitStatus, ...]:
    """Return limits as they were told at the grant, with what is held still as part of what remains."""
    return tuple(limit._replace(remaining=limit.remaining + held) for limit in limits)
