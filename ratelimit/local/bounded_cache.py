"""A cache of bounded size."""

from __future__ import annotations

from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

from ratelimit.local import fork_safety

_K = TypeVar("_K")
_V = TypeVar("_V")


class BoundedCache(Generic[_K, _V]):
    """A dict of at most `max_entries`: a new one evicts the oldest 1/64 of them. Reads take no lock."""

    __slots__ = ("__weakref__", "_entries", "_lock", "_max_entries", "get")

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: dict[_K, _V] = {}
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)
        self.get = self._entries.get

    def reset_after_fork(self) -> None:
        """Make the lock anew; the entries hold in a child process as well."""
        self._lock = Lock()

    def put(self, key: _K, value: _V) -> None:
        """Store `value` under `key`."""
        with self._lock:
            if key not in self._entries and len(self._entries) >= self._max_entries:
                # Many at once: finding a dict's first entry walks over the gaps of all that were removed before it.
                for oldest in list(islice(self._entries, max(1, self._max_entries // 64))):
                    del self._entries[oldest]
            self._entries[key] = value

    def forget(self, key: _K) -> None:
        """Remove the entry of `key`, if there is one."""
        with self._lock:
            self._entries.pop(key, None)

    def values(self) -> list[_V]:
        """Return all values."""
        with self._lock:
            return list(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
