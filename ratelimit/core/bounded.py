"""A cache that cannot grow without end."""

from __future__ import annotations

from itertools import islice
from threading import Lock
from typing import Generic, TypeVar

from ratelimit.core import forks

_K = TypeVar("_K")
_V = TypeVar("_V")


class Bounded(Generic[_K, _V]):
    """A dict of at most `most` entries: a new one pushes out the oldest 1/64 of them. Reads take no lock."""

    __slots__ = ("__weakref__", "_entries", "_lock", "_most", "get")

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: dict[_K, _V] = {}
        self.start_anew()
        forks.starts_anew(self)
        self.get = self._entries.get

    def start_anew(self) -> None:
        """Make the lock anew; what is remembered holds in a child process as well."""
        self._lock = Lock()

    def put(self, key: _K, value: _V) -> None:
        """Remember `value`."""
        with self._lock:
            if key not in self._entries and len(self._entries) >= self._most:
                # Many at once: a dict's first entry is found by walking over the gaps of all that went before it.
                for oldest in list(islice(self._entries, max(1, self._most // 64))):
                    del self._entries[oldest]
            self._entries[key] = value

    def forget(self, key: _K) -> None:
        """Forget what is remembered for `key`, if anything is."""
        with self._lock:
            self._entries.pop(key, None)

    def __len__(self) -> int:
        return len(self._entries)
