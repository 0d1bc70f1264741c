"""The API keys that a process knows, by their values; the script says when a record is outdated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from threading import Lock

from ratelimit.effects import BatchableReads, KeyLookUps, Operation, text
from ratelimit.engine.cached_key import CachedKey
from ratelimit.local import fork_safety
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.model import MICROSECONDS
from ratelimit.registry.key_record import KeyRecord, claimed_by
from ratelimit.registry.namespace import Namespace

_MAX_KEYS = 100_000
_MAX_ABSENT = 10_000
_ABSENT_US = MICROSECONDS
_STAMP_AT = 18
"""In `r`: after epoch (8 characters) and version (10 digits) of the catalogue that the key was charged under."""


class KeyCache:
    """Values are kept in this process' memory only, where the caller's request has them anyway. Safe between threads.

    Only values that no key has are remembered as absent, for a second at most: a push of any key ends that at once.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._by_value: dict[str, CachedKey] = {}
        self._values_by_id: dict[str, tuple[str, ...]] = {}
        self._absent: BoundedCache[str, int] = BoundedCache(_MAX_ABSENT)
        self._changes = 0
        self._version_query = namespace.version_query()
        self._current_version: object = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)
        self.get = self._by_value.get

    def reset_after_fork(self) -> None:
        """Make the lock anew; the keys hold in a child process as well."""
        self._lock = Lock()

    def is_absent(self, value: str, now_us: int) -> bool:
        """Return whether a look-up of the last second found no key with this value."""
        asked_us = self._absent.get(value)
        return asked_us is not None and 0 <= now_us - asked_us < _ABSENT_US

    def forget_changed(self, key_id: str | None) -> None:
        """Forget a key that changed, and which values are absent; None: any key may have changed.

        A look-up that was sent before and is answered only now is not kept either.
        """
        with self._lock:
            self._changes += 1
            if len(self._absent):
                self._absent = BoundedCache(_MAX_ABSENT)
            for value in self._values_by_id.get(key_id or "", ()):
                self._forget(value)

    def look_up(self, value: str, cached: CachedKey | None) -> Operation[CachedKey | None]:
        """Read the key's record and the stored version of the catalogue, in one round trip if possible."""
        namespace, changes, asked_us = self._namespace, self._changes, self._namespace.age_us()
        digests = namespace.digest.all(value)
        mget = ("MGET", *[namespace.names.digest(digest) for digest in digests])
        if cached is None:
            version, entries = yield KeyLookUps((self._version_query, mget))
            stored: Sequence[bytes | str | None] = ()
        else:
            reads = BatchableReads((self._version_query, mget, *self._record_queries(cached.record.id)))
            version, entries, *stored = yield reads
        if version is not self._current_version:
            if namespace.matches_stored_version(version):
                self._current_version = version  # look-ups that left together get the same reply
            else:
                yield from namespace.load(or_others=True)
        for digest, entry in zip(digests, entries, strict=True):
            if entry is None:
                continue
            key_id = claimed_by(text(entry) or "")
            if cached is None or key_id != cached.record.id:
                stored = yield BatchableReads(self._record_queries(key_id))
            record = KeyRecord.from_json(text(stored[0]) or "", key_id) if stored[0] is not None else None
            if record is not None and record.is_live and digest in record.digests:
                current = self._keep(value, CachedKey(record, record.valid_until_us(digest)), changes)
                yield from self._catch_up(current, text(stored[1]) or "")
                return current
        with self._lock:
            if cached is not None:
                self._forget(value)
            if changes == self._changes and not any(entries):
                self._absent.put(value, asked_us)
        return None

    def confirm(self, value: str, cached: CachedKey) -> Operation[CachedKey | None]:
        """Return a cached key if its hash says that it is still current; else look it up.

        The catalogue is then the one that the key was charged under, or joined a plan of, or a newer one.
        """
        (reply,) = yield KeyLookUps([self._record_queries(cached.record.id)[1]])
        r = text(reply) or ""
        if not cached.is_valid or r[_STAMP_AT:] != cached.record.stamp:
            return (yield from self.look_up(value, cached))
        yield from self._catch_up(cached, r)
        return cached

    def _record_queries(self, key_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = self._namespace.names
        return ("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")

    def _catch_up(self, cached: CachedKey, r: str) -> Operation[None]:
        """Load the catalogue if the key was charged under a newer one."""
        namespace, mine = self._namespace, self._namespace.snapshot.version_token
        if r[:8] == mine[:8] and r[8:_STAMP_AT] <= mine[8:]:
            return
        if cached.caught_up != (r, namespace.snapshot):  # else a server lost what is newer
            cached.caught_up = r, (yield from namespace.load(or_others=True))

    def _keep(self, value: str, new: CachedKey, changes: int) -> CachedKey:
        """Cache a key, unless something changed since it was looked up; return the one to decide by."""
        with self._lock:
            before = self._by_value.get(value)
            if before is not None and before.record == new.record:
                return before
            self._forget(value)
            if changes != self._changes:
                new.is_valid = False
                return new
            if len(self._by_value) >= _MAX_KEYS:
                # Many at once: finding a dict's first entry walks over the gaps of all that were removed before it.
                for oldest in list(islice(self._by_value, max(1, _MAX_KEYS // 64))):
                    self._forget(oldest)
            self._by_value[value] = new
            key_id = new.record.id
            self._values_by_id[key_id] = (*self._values_by_id.get(key_id, ()), value)
            return new

    def _forget(self, value: str) -> None:
        """Forget a value, with the lock held."""
        cached = self._by_value.pop(value, None)
        if cached is None:
            return
        cached.is_valid = False
        others = tuple(other for other in self._values_by_id.pop(cached.record.id) if other != value)
        if others:
            self._values_by_id[cached.record.id] = others
