"""What a limit said when it refused, and what that tells of later requests."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.core.question import Question
from ratelimit.core.wire import NEVER, Bucket, Limit
from ratelimit.decision import LimitStatus


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


Refusing = Sequence[tuple[int, Refusal, int]]
"""The limits that refuse a request: the place in its call, what is known, and when by this process' clock it ends."""


def best(refusals: Sequence[Refusal], limit: Limit, cost: int, now_us: int) -> Refusal:
    """Return the refusal that tells most about a cost: of the same one, else one that tells how long it has to wait."""
    fitting = [refusal for refusal in refusals if refusal.cost <= cost and now_us < refusal.until_us]
    same = (refusal for refusal in fitting if refusal.cost == cost)
    telling = (refusal for refusal in fitting if refusal.wait_at(limit, cost, now_us) is not None)
    return next(same, None) or next(telling, None) or (fitting or refusals)[0]


def statuses(question: Question, refusing: Refusing, now_us: int) -> tuple[LimitStatus, ...]:
    """Return the limits that refuse; of the others nothing is known."""
    call = question.call
    return tuple(
        call.status(
            at,
            now_us + refusal.ahead_us,
            refusal.remaining_at(call.limits[at], now_us),
            refusal.reset_at(now_us),
            NEVER if end_us == NEVER else end_us - now_us,
        )
        for at, refusal, end_us in refusing
    )
