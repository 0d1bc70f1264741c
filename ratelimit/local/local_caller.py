"""What a process has of one caller's limits while Redis is away, and what it owes Redis for them. No I/O."""

from __future__ import annotations

from typing import NamedTuple, final

from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.model import Caller


@final
class JournalEntry:
    """Units that a caller was admitted with and that Redis has not counted: of one kind of request, window and day.

    Attributes:
        prepared: The check by which they are charged.
        caller: Who was admitted, as it was passed to `check`.
        stage: The stage.
        method: The method.
        window_us: When the quota's window ends in which they were spent; 0 without a quota.
        day: On which they were spent, since 1970.
        spent_us: The server's time of the first of them, as it was estimated.
        cost: How many.
        sequence: Of the attempts to charge them, the same for all; 0 as long as none was made.
        is_sent: Whether an attempt may have reached Redis: it takes no more units then.
        is_in_flight: Whether an attempt is under way.
        flags: With which it is sent.
        attempts: How often Redis has said that something changed.
    """

    __slots__ = (
        "attempts",
        "caller",
        "cost",
        "day",
        "flags",
        "is_in_flight",
        "is_sent",
        "method",
        "prepared",
        "sequence",
        "spent_us",
        "stage",
        "window_us",
    )

    def __init__(
        self, prepared: PreparedCheck, caller: Caller, stage: str, method: str, window_us: int, day: int, spent_us: int
    ) -> None:
        self.prepared, self.caller, self.stage, self.method = prepared, caller, stage, method
        self.window_us, self.day, self.spent_us = window_us, day, spent_us
        self.cost = self.sequence = self.flags = self.attempts = 0
        self.is_sent = self.is_in_flight = False


class LocalBucket(NamedTuple):
    """This process' part of a bucket.

    Attributes:
        level: In units of 1/(`per` * `replicas`) token.
        at_us: When it had that level, by this process' clock.
        per: P of the bucket's throttle.
        replicas: N0.
        outage: Number of the outage in which it was last begun.
        full_us: When it is full, if nothing is spent: then it is as one that was never begun.
    """

    level: int
    at_us: int
    per: int
    replicas: int
    outage: int
    full_us: int


class LocalQuota(NamedTuple):
    """This process' part of a quota.

    Attributes:
        left: Units.
        until_us: The server's time at which the window ends.
        unknown: Units spent in this window of which nobody knows whether Redis counted them.
        outage: Number of the outage in which it was last begun.
    """

    left: int
    until_us: int
    unknown: int
    outage: int


class LocalCaller:
    """What this process has of a caller's limits, and what of it is still to be charged in Redis.

    Attributes:
        states: By `state_id`.
        entries: Of the journal, in the order in which they are charged.
        charged_us: When the last of them was charged, by this process' clock: older states do not know of it.
    """

    __slots__ = ("charged_us", "entries", "states")

    def __init__(self) -> None:
        self.states: dict[str, LocalBucket | LocalQuota] = {}
        self.entries: list[JournalEntry] = []
        self.charged_us = -1
