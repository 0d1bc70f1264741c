"""Who is known to be out: refused in this process until the exact moment at which the limit admits again.

Kept per limit: what the plan's bucket refused to one request holds for all that meet this bucket, and what a limit that
all callers share refused to one holds for all. Nobody is refused whom Redis would admit, unless somebody raised a limit
meanwhile: such a change is pushed, and lifts what is known here; without the push it lives `max_age` at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from ratelimit.core.bounded import Bounded
from ratelimit.core.question import Question
from ratelimit.core.wire import DENIED, NEVER, Bucket, Limit, QuotaCount, Reply
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.model import MICROSECONDS

_MOST_KEYS = 100_000
_EVERYBODY = ""
_THROTTLED, _QUOTA_EXCEEDED = Reason.THROTTLED, Reason.QUOTA_EXCEEDED


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a limit said when it refused. Microseconds; `sent_us` and `until_us` by this process' clock.

    until_us   from then on the limit admits `cost`, or this is too old to go by
    server_us  the server's time of the refusal
    """

    book: object
    cost: int
    sent_us: int
    until_us: int
    server_us: int
    remaining: int
    reset_us: int
    wait_us: int

    def wait_at(self, limit: Limit, cost: int, now_us: int) -> int | None:
        """Return how long a cost at least as large has to wait; None if that cannot be told to the microsecond."""
        if self.wait_us == NEVER or cost > limit.most:
            return NEVER
        left_us = self.wait_us - (now_us - self.sent_us)
        if cost == self.cost or not isinstance(limit, Bucket):
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


class DenialCache:
    """The refusals of a process, for at most 100,000 keys. Safe between threads."""

    def __init__(self, max_age: float) -> None:
        self._max_age_us = int(max_age * MICROSECONDS)
        # By key id, and by where the limit's state is kept; what all callers share under "".
        self._refusals: Bounded[str, dict[str, Refusal]] = Bounded(_MOST_KEYS)
        self._lifted_us = -1
        self.latest_us = 0
        """When the last of them ends: from then on nobody is known to be out."""

    def lift(self, key_id: str | None, now_us: int) -> None:
        """Forget what is known of a key, of everything if it is None: somebody said that it changed."""
        self._lifted_us = now_us  # nor is kept what was asked before and is answered only now
        if key_id is None:
            self._refusals = Bounded(_MOST_KEYS)
        else:
            self._refusals.forget(key_id)

    def note(self, question: Question, reply: Reply, cost: int, sent_us: int) -> None:
        """Remember which limits refused a cost, asked at `sent_us`."""
        if isinstance(reply, bytes) or reply[0] != DENIED or sent_us <= self._lifted_us:
            return
        for at, limit in enumerate(question.call.limits):
            remaining, reset_us, wait_us = reply[2 + 3 * at : 5 + 3 * at]
            if not wait_us:
                continue
            until_us = sent_us + (self._max_age_us if wait_us == NEVER else min(wait_us, self._max_age_us))
            key_id = _EVERYBODY if limit.shared else question.key_id
            known = self._refusals.get(key_id)
            if known is None:
                known = {}
                self._refusals.put(key_id, known)
            before = known.get(limit.where)
            if before and before.book is question.book and before.cost <= cost and sent_us < before.until_us:
                continue
            known[limit.where] = Refusal(question.book, cost, sent_us, until_us, reply[1], remaining, reset_us, wait_us)
            self.latest_us = max(self.latest_us, until_us)

    def answer(self, question: Question, cost: int, now_us: int) -> tuple[Decision, int] | None:
        """Return the refusal of a request with the server's time, None if it has to be asked."""
        refusing: list[tuple[int, Refusal, int]] = []
        places, limits = question.call.places, question.call.limits
        for key_id in {question.key_id, _EVERYBODY}:
            known = self._refusals.get(key_id)
            if known is None:
                continue
            for where, refusal in tuple(known.items()):
                at = places.get(where)
                if at is None or cost < refusal.cost or refusal.book is not question.book:
                    continue
                if not refusal.sent_us <= now_us < refusal.until_us:
                    continue
                wait_us = refusal.wait_at(limits[at], cost, now_us)
                if wait_us is None:
                    return None
                refusing.append((at, refusal, wait_us))
        if not refusing:
            return None
        refusing.sort(key=itemgetter(0))
        first, refusal, longest = refusing[0]
        for _, _, wait_us in refusing[1:]:
            longest = NEVER if NEVER in (wait_us, longest) else max(longest, wait_us)
        limit = limits[first]
        decision = Decision(
            _QUOTA_EXCEEDED if isinstance(limit, QuotaCount) else _THROTTLED,
            limit.name,
            None if longest == NEVER else longest / MICROSECONDS,
            partial(_statuses, question, refusing, now_us),
            None,
            "denial_cache",
        )
        return decision, refusal.server_us + now_us - refusal.sent_us


def _statuses(question: Question, refusing: Sequence[tuple[int, Refusal, int]], now_us: int) -> tuple[LimitStatus, ...]:
    """Return the limits that refuse; of the others nothing is known."""
    call = question.call
    return tuple(
        call.status(
            at,
            refusal.server_us + now_us - refusal.sent_us,
            refusal.remaining_at(call.limits[at], now_us),
            refusal.reset_at(now_us),
            wait_us,
        )
        for at, refusal, wait_us in refusing
    )
