"""The journal: what was admitted while Redis was away, and is charged there once it answers again. No I/O.

Each entry is charged once: it has a number, and Redis keeps, per caller, the highest number charged of each journal. So
the entries of a caller are sent one after the other, and one whose outcome is unknown is sent again as it was. What may
have been counted when it was spent is not in the journal at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from ratelimit.effects import IndependentCommands, Operation, UnknownScriptError
from ratelimit.engine import protocol
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local.local_caller import JournalEntry, LocalCaller
from ratelimit.local.local_limits import LocalLimits
from ratelimit.local.process_life import ProcessLife
from ratelimit.model import Caller
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.windows import DAY_US
from ratelimit.validation import EXACT

log = logging.getLogger("ratelimit")

BATCH = 64
"""Entries that are sent together, beside checks: the server charges them in one go."""
_MAX_ATTEMPTS = 8

Renew = Callable[[JournalEntry, int], Operation[PreparedCheck | None]]
"""Returns the check by which an entry is charged now that Redis has answered with this status; None if there is none
any more."""


class Journal:
    """The journal of one limiter. Safe between threads; a forked child has an empty one, under another name.

    Attributes:
        life: Its name, as Redis knows it.
    """

    def __init__(
        self, namespace: Namespace, local: LocalLimits, on_charged: Callable[[PreparedCheck], None] = lambda _: None
    ) -> None:
        """Begin an empty one.

        Args:
            namespace: Names and clock.
            local: What the process has of all limits.
            on_charged: Called with a check by which something was charged, or may have been: what is known of its
                limits is true no more.
        """
        self._namespace = namespace
        self._local = local
        self._on_charged = on_charged
        self.life = ProcessLife()
        self._sequence = 0
        self._warned: set[str] = set()

    def add(
        self,
        prepared: PreparedCheck,
        caller: Caller,
        stage: str,
        method: str,
        cost: int,
        spent_us: int,
        window_us: int,
    ) -> bool:
        """Add units that were spent, and that Redis has certainly not counted; return whether there is room for them.

        Args:
            prepared: The check that was admitted.
            caller: Whose it is.
            stage: Its stage.
            method: Its method.
            cost: Units.
            spent_us: The server's time, as it is estimated.
            window_us: When the window of its quota ends; 0 without a quota.
        """
        day, cost = spent_us // DAY_US, min(cost, EXACT - 1)
        with self._local.lock:
            its_caller = self._local.caller(prepared.key_id)
            if its_caller is None:
                return False
            for entry in reversed(its_caller.entries):
                if (
                    entry.prepared.limits is prepared.limits
                    and (entry.window_us, entry.day) == (window_us, day)
                    and not entry.is_sent
                    and entry.cost + cost < EXACT
                ):
                    break
            else:
                entry = JournalEntry(prepared, caller, stage, method, window_us, day, spent_us)
                its_caller.entries.append(entry)
                self._local.waiting[prepared.key_id] = its_caller
            entry.cost += cost
            return True

    def __len__(self) -> int:
        """Return how many entries wait."""
        with self._local.lock:
            return sum([len(caller.entries) for caller in self._local.waiting.values()])

    def replay(self, renew: Renew) -> Operation[bool]:
        """Charge a batch of entries; return whether there may be more that can be charged now.

        Raises:
            StoreError: Redis does not answer, or refuses: later, then.
        """
        batch = self._take()
        if not batch:
            return False
        try:
            replies = yield from self._sent(batch)
            changed: list[tuple[_Attempt, int]] = []
            failure: StoreError | None = None
            for attempt, reply in zip(batch, replies, strict=True):
                if isinstance(reply, StoreError):
                    failure = reply
                    if not reply.is_outage:
                        self._warn(f"what was admitted while Redis was away cannot be charged yet: {reply}")
                    continue
                status = protocol.status(reply)  # type: ignore[arg-type] # it says if it is none
                if status in (protocol.JOURNAL_CHARGED, protocol.JOURNAL_CHARGED_BEFORE):
                    self._remove(attempt)
                else:
                    attempt.take_back()
                    changed.append((attempt, status))
            for attempt, status in changed:
                yield from self._renew(attempt, status, renew)
        finally:
            for attempt in batch:
                self._on_charged(attempt.entry.prepared)
                attempt.entry.is_in_flight = False
        if failure is not None:
            raise failure
        return True

    def _take(self) -> list[_Attempt]:
        """Return the first entries of some callers; who is looked at now is looked at last the next time."""
        waiting, batch = self._local.waiting, list[_Attempt]()
        with self._local.lock:
            for caller_id in list(islice(waiting, BATCH)):
                caller = waiting.pop(caller_id)
                waiting[caller_id] = caller
                entry = caller.entries[0]
                if entry.is_in_flight:
                    continue
                if not entry.sequence:
                    self._sequence += 1
                    entry.sequence = self._sequence
                batch.append(_Attempt(caller_id, caller, entry, entry.is_sent))
                entry.is_sent = entry.is_in_flight = True
        return batch

    def _sent(self, batch: list[_Attempt]) -> Operation[list[object]]:
        """Send entries, each once that is carried out; return their replies, with StoreError in the place of errors."""
        namespace, life = self._namespace, self.life.name
        entries = [attempt.entry for attempt in batch]
        calls = [
            entry.prepared.to_journal_call(namespace, entry.cost, entry.spent_us, life, entry.sequence, entry.flags)
            for entry in entries
        ]
        try:
            replies: list[object] = list((yield IndependentCommands([call.by_hash() for call in calls])))
            unknown = [at for at, reply in enumerate(replies) if isinstance(reply, UnknownScriptError)]
            if unknown:
                first, *others = unknown
                commands = [calls[first].by_source(), *[calls[at].by_hash() for at in others]]
                for at, reply in zip(unknown, (yield IndependentCommands(commands)), strict=True):
                    replies[at] = reply
        except StoreUnavailable:
            for attempt in batch:
                attempt.take_back()
            raise
        for attempt, reply in zip(batch, replies, strict=True):
            if isinstance(reply, StoreUnavailable):
                attempt.take_back()
        return replies

    def _renew(self, attempt: _Attempt, status: int, renew: Renew) -> Operation[None]:
        """Prepare the next attempt to charge an entry, about which Redis says that something has changed."""
        entry = attempt.entry
        entry.attempts += 1
        prepared = yield from renew(entry, status)
        if prepared is None or entry.attempts > _MAX_ATTEMPTS:
            self._warn(
                "what was admitted while Redis was away is not charged to a key that is gone, or does not open the "
                "stage any more"
            )
            self._remove(attempt)
        else:
            entry.prepared = prepared

    def _remove(self, attempt: _Attempt) -> None:
        with self._local.lock:
            attempt.caller.entries.remove(attempt.entry)
            attempt.caller.charged_us = self._namespace.age_us()
            if not attempt.caller.entries:
                self._local.waiting.pop(attempt.caller_id, None)

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            log.warning("%s", line)


class _Attempt(NamedTuple):
    """An attempt to charge an entry.

    Attributes:
        caller_id: As of `LocalLimits.callers`.
        caller: Whose entry it is.
        entry: The entry.
        was_sent: Whether an earlier attempt may have reached Redis.
    """

    caller_id: str
    caller: LocalCaller
    entry: JournalEntry
    was_sent: bool

    def take_back(self) -> None:
        """Say that it was not carried out: unless an earlier one may have been, the entry takes units again."""
        self.entry.is_sent = self.was_sent
