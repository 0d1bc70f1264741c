"""Denials, counted in this process and added to Redis in sums: a denied check itself writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import compress
from threading import Lock
from typing import Any

from ratelimit.effects import IndependentCommands, Operation, pairs
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.local import fork_safety
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.validation import shown

_RETENTION_S = 91 * 86_400
_MAX_ENTRIES = 10_000
_COUNT = re.compile("-?[0-9]{1,19}")


def denials_of_day(name: str, reply: Any) -> Iterator[tuple[str, str, str, int]]:
    """Yield plan, key, reason and requests from a reply of HGETALL `name`; fields of another form are skipped.

    The plan and the key are "" where they are not known.

    Raises:
        StoreError: A count is no number.
    """
    for entry, count in pairs(reply).items():
        if _COUNT.fullmatch(count) is None:
            raise StoreError(f"{name!r} in Redis cannot be read: {shown(entry)} is {shown(count)}, and no count")
        if len(parts := entry.split("|")) == 3:
            plan_id, key_id, reason = parts
            yield plan_id, key_id, reason, int(count)


class DenialCounters:
    """Counts per day, plan, key and reason. Bounded: beyond, denials are counted without their key."""

    def __init__(self, names: RedisKeys) -> None:
        self._names = names
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Start from zero: the parent adds its own counts to Redis."""
        self._lock = Lock()
        self._counts: dict[tuple[int, str, str, str], int] = {}

    def add(self, day: int, plan_id: str, key_id: str, reason: str) -> None:
        """Count one denied request."""
        entry = day, plan_id, key_id, reason
        with self._lock:
            requests = self._counts.get(entry)
            if requests is None:
                self._count(entry, 1)
            else:
                self._counts[entry] = requests + 1

    def _count(self, entry: tuple[int, str, str, str], requests: int) -> None:
        if len(self._counts) >= _MAX_ENTRIES and entry not in self._counts:
            day, plan_id, _, reason = entry
            entry = day, plan_id, "", reason
        self._counts[entry] = self._counts.get(entry, 0) + requests

    def flush(self) -> Operation[None]:
        """Add the counts to Redis. Those that may have arrived there are not sent again."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        days = {day: self._names.denials(day) for day, *_ in counts}
        try:
            replies = yield IndependentCommands(
                ("HINCRBY", days[day], f"{plan_id}|{key_id}|{reason}", requests)
                for (day, plan_id, key_id, reason), requests in counts.items()
            )
        except StoreUnavailable as error:
            replies = [error] * len(counts)
        unsent = [isinstance(reply, StoreUnavailable) for reply in replies]
        with self._lock:
            for entry, requests in compress(counts.items(), unsent):
                self._count(entry, requests)
        if not all(unsent):
            yield [("EXPIRE", name, _RETENTION_S) for name in days.values()]
