"""Refusals, counted in this process and added to Redis in sums: a denied check itself writes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import compress
from threading import Lock
from typing import Any

from ratelimit.core import forks
from ratelimit.core.flow import Each, Flow, pairs
from ratelimit.core.names import Names
from ratelimit.core.validate import shown
from ratelimit.errors import StoreError, StoreUnavailable

_KEPT_S = 91 * 86_400
_MOST_ENTRIES = 10_000
_COUNT = re.compile("-?[0-9]{1,19}")


def denials_of_day(name: str, reply: Any) -> Iterator[tuple[str, str, str, int]]:
    """Yield plan, key, reason and requests from the hash of this name; fields that are named otherwise are passed over.

    The plan and the key are "" where they are not known. Raises StoreError for a count that is no number.
    """
    for entry, count in pairs(reply).items():
        if _COUNT.fullmatch(count) is None:
            raise StoreError(f"{name!r} in Redis cannot be read: {shown(entry)} is {shown(count)}, and no count")
        if len(parts := entry.split("|")) == 3:
            plan_id, key_id, reason = parts
            yield plan_id, key_id, reason, int(count)


class Denials:
    """Counts per day, plan, key and reason. Bounded: beyond, refusals are counted without telling the key."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.start_anew()
        forks.starts_anew(self)

    def start_anew(self) -> None:
        """Have counted nothing: after a fork, what was counted is the parent's to tell."""
        self._lock = Lock()
        self._counts: dict[tuple[int, str, str, str], int] = {}

    def add(self, day: int, plan_id: str, key_id: str, reason: str) -> None:
        """Count one refused request."""
        entry = day, plan_id, key_id, reason
        with self._lock:
            counted = self._counts.get(entry)
            if counted is None:
                self._count(entry, 1)
            else:
                self._counts[entry] = counted + 1

    def _count(self, entry: tuple[int, str, str, str], requests: int) -> None:
        if len(self._counts) >= _MOST_ENTRIES and entry not in self._counts:
            day, plan_id, _, reason = entry
            entry = day, plan_id, "", reason
        self._counts[entry] = self._counts.get(entry, 0) + requests

    def flush(self) -> Flow[None]:
        """Add what was counted to Redis. What may have arrived there is not sent again."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        days = {day: self._names.denials(day) for day, *_ in counts}
        try:
            replies = yield Each(
                ("HINCRBY", days[day], f"{plan_id}|{key_id}|{reason}", requests)
                for (day, plan_id, key_id, reason), requests in counts.items()
            )
        except StoreUnavailable as error:
            replies = [error] * len(counts)
        refused = [isinstance(reply, StoreUnavailable) for reply in replies]
        with self._lock:
            for entry, requests in compress(counts.items(), refused):
                self._count(entry, requests)
        if not all(refused):
            yield [("EXPIRE", name, _KEPT_S) for name in days.values()]
