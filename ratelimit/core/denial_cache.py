"""Who is known to be out: refused in this process until the exact moment at which the limit admits again.

Kept per limit: what the plan's bucket refused to one request holds for all that meet this bucket, and what a limit that
all callers share refused to one holds for all. Nobody is refused whom Redis would admit, unless somebody raised a limit
meanwhile: such a change is pushed, and lifts what is known here; without the push it lives `max_age` at most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from itertools import islice
from math import inf
from threading import Lock
from typing import NamedTuple

from ratelimit.core import forks
from ratelimit.core.bounded import Bounded
from ratelimit.core.question import Question
from ratelimit.core.refusals import Refusal, Refusing, best, statuses
from ratelimit.core.windows import DAY_US
from ratelimit.core.wire import DENIED, NEVER, Bucket, Reply
from ratelimit.decision import Decision, Reason
from ratelimit.model import MICROSECONDS

_MOST_KEYS = 100_000
_MOST_COSTS = 4
_NO_END = 2**63
_THROTTLED, _QUOTA_EXCEEDED = Reason.THROTTLED, Reason.QUOTA_EXCEEDED


_Known = Mapping[str, tuple[Refusal, ...]]
"""By where a limit's state is kept: what it refused, by cost, the latest first."""


class Told(NamedTuple):
    """What was worked out for a question, to be told again: for the same cost, from then on until `until_us`.

    own, shared  what it was worked out from: what is known is replaced and never changed
    end_us       when the last of the limits that refuse admits, by this process' clock; NEVER if none does
    """

    own: _Known | None
    shared: _Known
    cost: int
    from_us: int
    until_us: int
    reason: Reason
    limited_by: str
    end_us: int
    refusing: Refusing

    def holds(self, cost: int, now_us: int) -> bool:
        """Tell whether this is still the answer, for a cost."""
        return cost == self.cost and self.from_us <= now_us < self.until_us


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
        if shared != self._shared:  # what was told may be told again as long as this is the same
            self._shared = shared
        if own:
            self._own.put(key_id, own)
        else:
            self._own.forget(key_id)

    def admitted(self, question: Question) -> None:
        """Forget what was refused to requests that meet a limit which has less left now.

        That limit refuses for longer if it did, and may refuse as well if it had room.
        """
        key_id, call = question.key_id, question.call
        if not self._own.get(key_id) and not self._shared:
            return
        met = {where for _, _, where in call.places}
        with self._lock:
            own, shared = (
                {where: kept for where, kept in known.items() if not any(_meets(one, key_id, met) for one in kept)}
                for known in (self._own.get(key_id) or {}, self._shared)
            )
            self._put(key_id, own, shared)

    def answer(self, question: Question, cost: int, now_us: int) -> tuple[Decision, int] | None:
        """Return the refusal of a request and the server's day on which it is made; None if it has to be asked."""
        own, shared = self._own.get(question.key_id), self._shared
        if not own and not shared:
            return None
        told = question.told
        if told is None or told.own is not own or told.shared is not shared or not told.holds(cost, now_us):
            told = _worked_out(question, own, shared, cost, now_us)
            if told is None:
                return None
            question.told = told
        server_us = now_us + told.refusing[0][1].ahead_us
        if 0 < question.valid_until_us <= server_us:
            return None  # the key has expired: another answer, which is not for memory to give
        decision = Decision(
            told.reason,
            told.limited_by,
            None if told.end_us == NEVER else (told.end_us - now_us) / MICROSECONDS,
            partial(statuses, question, told.refusing, now_us),
            None,
            "denial_cache",
        )
        return decision, server_us // DAY_US


def _meets(refusal: Refusal, key_id: str, met: Collection[str]) -> bool:
    """Tell whether a refused request meets one of these limits; limits of its own are those of its key."""
    return any(where in met and (limit.shared or refusal.key_id == key_id) for _, limit, where in refusal.call.places)


def _worked_out(question: Question, own: _Known | None, shared: _Known, cost: int, now_us: int) -> Told | None:
    book, call = question.book, question.call
    refusing: list[tuple[int, Refusal, int]] = []
    last_us, is_whole, until_us = 0, False, _NO_END
    for at, limit, where in call.places:
        known = shared if limit.shared else own
        if not known or (refusals := known.get(where)) is None:
            continue
        if len(refusals) > 1:
            until_us = now_us  # which of them tells most depends on the time
        refusal = refusals[0] if len(refusals) == 1 else best(refusals, limit, cost, now_us)
        if cost < refusal.cost:
            continue
        if not refusal.holds(book, now_us):
            until_us = now_us
            continue
        wait_us = refusal.wait_at(limit, cost, now_us)
        if wait_us is None:
            return None
        # About this very request, the script said which other limits had less room: none.
        if refusal.call is call and refusal.key_id == question.key_id and cost <= refusal.most:
            is_whole = True
        end_us = NEVER if wait_us == NEVER else now_us + wait_us
        refusing.append((at, refusal, end_us))
        until_us = min(until_us, refusal.until_us)
        if last_us != NEVER:
            last_us = end_us if end_us == NEVER or end_us > last_us else last_us
    if not refusing or not (is_whole or len(refusing) == len(call.places)):
        return None
    limit = call.limits[refusing[0][0]]
    reason = _THROTTLED if isinstance(limit, Bucket) else _QUOTA_EXCEEDED
    return Told(own, shared, cost, now_us, until_us, reason, limit.name, last_us, refusing)
