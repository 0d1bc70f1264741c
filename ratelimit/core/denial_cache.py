"""Who is known to be out: refused in this process until the exact moment at which the limit admits again.

Kept per limit: what the plan's bucket refused to one request holds for all that meet this bucket, and what a limit that
all callers share refused to one holds for all. Nobody is refused whom Redis would admit, unless somebody raised a limit
meanwhile: such a change is pushed, and lifts what is known here; without the push it lives `max_age` at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from math import inf
from threading import Lock
from typing import NamedTuple

from ratelimit.core import forks
from ratelimit.core.bounded import Bounded
from ratelimit.core.question import Question
from ratelimit.core.windows import DAY_US
from ratelimit.core.wire import DENIED, NEVER, Bucket, Call, Limit, Reply
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.model import MICROSECONDS

_MOST_KEYS = 100_000
_MOST_COSTS = 4
_THROTTLED, _QUOTA_EXCEEDED = Reason.THROTTLED, Reason.QUOTA_EXCEEDED


class Refusal:
    """What a limit said when it refused. Microseconds; `sent_us` and `until_us` by this process' clock.

    until_us   from then on the limit admits `cost`, or this is too old to go by
    most       the largest cost for which all other limits of the same request had room; at least `cost`
    ahead_us   how far the server's clock is ahead of this process'
    """

    __slots__ = (
        "ahead_us",
        "book",
        "call",
        "cost",
        "key_id",
        "most",
        "remaining",
        "reset_us",
        "sent_us",
        "until_us",
        "wait_us",
    )

    def __init__(
        self,
        question: Question,
        cost: int,
        most: float,
        sent_us: int,
        server_us: int,
        told: Sequence[int],
        max_age_us: int,
    ) -> None:
        self.book = question.book
        self.call = question.call
        self.key_id = question.key_id
        self.cost = cost
        self.most = most
        self.sent_us = sent_us
        self.ahead_us = server_us - sent_us
        self.remaining, self.reset_us, self.wait_us = told
        self.until_us = sent_us + (max_age_us if self.wait_us == NEVER else min(self.wait_us, max_age_us))

    def holds(self, book: object, now_us: int) -> bool:
        """Tell whether this is something to go by under a book."""
        return self.book is book and self.sent_us <= now_us < self.until_us

    def wait_at(self, limit: Limit, cost: int, now_us: int) -> int | None:
        """Return how long a cost at least as large has to wait; None if that cannot be told to the microsecond."""
        wait_us = self.wait_us
        if cost == self.cost and wait_us != NEVER:
            return wait_us - (now_us - self.sent_us)
        if wait_us == NEVER or cost > limit.most:
            return NEVER
        left_us = wait_us - (now_us - self.sent_us)
        if not isinstance(limit, Bucket):
            return left_us
        rate, per = limit.throttle.ratio
        more, rest = divmod((cost - self.cost) * per, rate)
        return None if rest else left_us + more

    def reset_at(self, now_us: int) -> int:
        """Return how long it is until the limit is whole again; NEVER for a rate of 0."""
        return NEVER if self.reset_us == NEVER else max(0, self.reset_us - (now_us - self.sent_us))

    def remaining_at(self, limit: Limit, now_us: int) -> int:
        """Return what is left by then, never more than there is."""
        if not isinstance(limit, Bucket) or self.wait_us == NEVER:
            return self.remaining
        rate, per = limit.throttle.ratio
        level = self.cost * per - (self.wait_us - (now_us - self.sent_us)) * rate
        return max(self.remaining, level // per)


_Known = Mapping[str, tuple[Refusal, ...]]
"""By where a limit's state is kept: what it refused, by cost, the latest first."""


class Refused(NamedTuple):
    """A decision from what is known, and the server's day on which it was made."""

    decision: Decision
    day: int


class DenialCache:
    """The refusals of a process, for at most 100,000 keys. Safe between threads."""

    def __init__(self, max_age: float) -> None:
        self._max_age_us = int(max_age * MICROSECONDS)
        self.start_anew()
        forks.starts_anew(self)
        # By where a limit's state is kept: of each key's own limits, and of those that all callers share.
        # What is in here is replaced and never changed: it is read without the lock.
        self._own: Bounded[str, _Known] = Bounded(_MOST_KEYS)
        self._shared: _Known = {}
        self._lifted_us = -1
        self.latest_us = 0
        """When the last of them ends: from then on nobody is known to be out."""

    def start_anew(self) -> None:
        """Make the lock anew; what is known holds in a child process as well."""
        self._lock = Lock()

    def lift(self, key_id: str | None, now_us: int) -> None:
        """Forget what is known of a key, of everything if it is None: somebody said that it changed."""
        with self._lock:
            self._lifted_us = max(self._lifted_us, now_us)  # nor is kept what was asked before and is answered only now
            if key_id is None:
                self._own, self._shared = Bounded(_MOST_KEYS), {}
            else:
                self._own.forget(key_id)

    def note(self, question: Question, reply: Reply, cost: int, sent_us: int) -> None:
        """Remember which limits refused a cost, asked at `sent_us`."""
        if isinstance(reply, bytes) or reply[0] != DENIED:
            return
        book, key_id = question.book, question.key_id
        room = (left for left, wait_us in zip(reply[2::3], reply[4::3], strict=True) if not wait_us)
        most = min(room, default=inf)
        with self._lock:
            # What was refused later than this is void: the clock went back, and limits may have been re-anchored.
            own, shared = (
                {where: kept for where, kept in known.items() if kept[0].sent_us <= sent_us and kept[0].book is book}
                for known in (self._own.get(key_id) or {}, self._shared)
            )
            for at, limit in enumerate(question.call.limits):
                told = reply[2 + 3 * at : 5 + 3 * at]
                if not told[2] or sent_us <= self._lifted_us:
                    continue
                if limit.shared and book.has_leases:
                    continue  # what leases of other keys give back may admit at any time
                known = shared if limit.shared else own
                refusal = Refusal(question, cost, most, sent_us, reply[1], told, self._max_age_us)
                self.latest_us = max(self.latest_us, refusal.until_us)
                # Of other costs, too: how long they wait may depend on a fraction that only a reply of theirs tells.
                before = known.get(limit.where, ())
                others = (kept for kept in before if kept.cost != cost and kept.holds(book, sent_us))
                known[limit.where] = refusal, *islice(others, _MOST_COSTS - 1)
            self._put(key_id, own, shared)

    def _put(self, key_id: str, own: _Known, shared: _Known) -> None:
        self._shared = shared
        if own:
            self._own.put(key_id, own)
        else:
            self._own.forget(key_id)

    def admitted(self, question: Question) -> None:
        """Forget what limits refused that have less left now: they refuse it for longer."""
        if not self._own.get(question.key_id) and not self._shared:
            return
        met = {where for _, _, where in question.call.places}
        with self._lock:
            own, shared = (
                {where: kept for where, kept in known.items() if where not in met}
                for known in (self._own.get(question.key_id) or {}, self._shared)
            )
            self._put(question.key_id, own, shared)

    def answer(self, question: Question, cost: int, now_us: int) -> Refused | None:
        """Return the refusal of a request, None if it has to be asked."""
        own, shared = self._own.get(question.key_id), self._shared
        if not own and not shared:
            return None
        book, call = question.book, question.call
        refusing: list[tuple[int, Refusal, int]] = []
        longest, is_whole = 0, False
        for at, limit, where in call.places:
            known = shared if limit.shared else own
            if not known or (refusals := known.get(where)) is None:
                continue
            refusal = refusals[0] if len(refusals) == 1 else _best(refusals, limit, cost, now_us)
            if cost < refusal.cost or not refusal.holds(book, now_us):
                continue
            wait_us = refusal.wait_at(limit, cost, now_us)
            if wait_us is None:
                return None
            # About this very request, the script said which other limits had less room: none.
            if refusal.call is call and refusal.key_id == question.key_id and cost <= refusal.most:
                is_whole = True
            refusing.append((at, refusal, wait_us))
            if longest != NEVER:
                longest = wait_us if wait_us == NEVER or wait_us > longest else longest
        if not refusing or not (is_whole or _may_be_all(refusing, call, cost)):
            return None
        at, refusal, _ = refusing[0]
        limit = call.limits[at]
        if 0 < question.valid_until_us <= now_us + refusal.ahead_us:
            return None  # the key has expired: another answer, which is not for memory to give
        decision = Decision(
            _THROTTLED if isinstance(limit, Bucket) else _QUOTA_EXCEEDED,
            limit.name,
            None if longest == NEVER else longest / MICROSECONDS,
            partial(_statuses, question, refusing, now_us),
            None,
            "denial_cache",
        )
        return Refused(decision, (now_us + refusal.ahead_us) // DAY_US)


def _best(refusals: Sequence[Refusal], limit: Limit, cost: int, now_us: int) -> Refusal:
    """Return the refusal that tells most about a cost: of the same one, else one that tells how long it has to wait."""
    fitting = [refusal for refusal in refusals if refusal.cost <= cost and now_us < refusal.until_us]
    same = (refusal for refusal in fitting if refusal.cost == cost)
    telling = (refusal for refusal in fitting if refusal.wait_at(limit, cost, now_us) is not None)
    return next(same, None) or next(telling, None) or (fitting or refusals)[0]


def _may_be_all(refusing: Sequence[tuple[int, Refusal, int]], call: Call, cost: int) -> bool:
    """Tell whether a refusal of other requests answers this one: of what else it meets, nothing speaks against it."""
    known = {at for at, _, _ in refusing}
    if len(known) == len(call.places):
        return True
    is_same = any(refusal.cost == cost for _, refusal, _ in refusing)
    return is_same and all(cost <= limit.most for at, limit, _ in call.places if at not in known)


def _statuses(question: Question, refusing: Sequence[tuple[int, Refusal, int]], now_us: int) -> tuple[LimitStatus, ...]:
    """Return the limits that refuse; of the others nothing is known."""
    call = question.call
    return tuple(
        call.status(
            at,
            now_us + refusal.ahead_us,
            refusal.remaining_at(call.limits[at], now_us),
            refusal.reset_at(now_us),
            wait_us,
        )
        for at, refusal, wait_us in refusing
    )
