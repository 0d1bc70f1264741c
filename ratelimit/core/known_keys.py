"""The API keys that a process knows, by their values; the script tells when a record is outdated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from threading import Lock

from ratelimit.core import forks
from ratelimit.core.bounded import Bounded
from ratelimit.core.flow import Flow, LookUps, Reads, text
from ratelimit.core.found import Found
from ratelimit.core.records import KeyRecord, claimed_by
from ratelimit.core.state import Namespace
from ratelimit.model import MICROSECONDS

MOST_KEYS = 100_000
_MOST_ABSENT = 10_000
_ABSENT_US = MICROSECONDS
_STAMP_AT = 18
"""In `r`: after epoch (8 characters) and version (10 digits) of the catalogue that the key was charged under."""


class KnownKeys:
    """Values are held in this process' memory only, where the caller's request has them anyway. Safe between threads.

    Only values that no key has are remembered as such, for a second at most: a push of any key ends that at once.
    """

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self._found: dict[str, Found] = {}
        self._values: dict[str, tuple[str, ...]] = {}  # by the key's id: those that are in `_found`
        self._absent: Bounded[str, int] = Bounded(_MOST_ABSENT)
        self._changes = 0
        self._version_query = state.version_query()
        self._current_version: object = None
        self.start_anew()
        forks.starts_anew(self)
        self.get = self._found.get

    def start_anew(self) -> None:
        """Make the lock anew; what is remembered holds in a child process as well."""
        self._lock = Lock()

    def is_absent(self, key: str, now_us: int) -> bool:
        """Tell whether a look-up of the last second found no key with this value."""
        asked_us = self._absent.get(key)
        return asked_us is not None and 0 <= now_us - asked_us < _ABSENT_US

    def changed(self, key_id: str | None) -> None:
        """Forget a key that changed, and which values no key had; None: any may have changed.

        What was read before and comes only now is not kept either.
        """
        with self._lock:
            self._changes += 1
            if len(self._absent):
                self._absent = Bounded(_MOST_ABSENT)
            for value in self._values.get(key_id or "", ()):
                self._forget(value)

    def look_up(self, key: str, known: Found | None) -> Flow[Found | None]:
        """Read the key's record, and whether the book is still the one that holds, in one round trip if possible."""
        state, changes, asked_us = self._state, self._changes, self._state.age_us()
        digests = state.digest.all(key)
        mget = ("MGET", *[state.names.digest(digest) for digest in digests])
        if known is None:
            version, entries = yield LookUps((self._version_query, mget))
            stored: Sequence[bytes | str | None] = ()
        else:
            version, entries, *stored = yield Reads((self._version_query, mget, *self._of_key(known.record.id)))
        if version is not self._current_version:
            if state.is_current(version):
                self._current_version = version  # many look-ups that left together are told by the same reply
            else:
                yield from state.load(or_others=True)
        for digest, entry in zip(digests, entries, strict=True):
            if entry is None:
                continue
            key_id = claimed_by(text(entry) or "")
            if known is None or key_id != known.record.id:
                stored = yield Reads(self._of_key(key_id))
            record = KeyRecord.from_json(text(stored[0]) or "", key_id) if stored[0] is not None else None
            if record is not None and record.is_live and digest in record.digests:
                found = self._keep(key, Found(record, record.valid_until_us(digest)), changes)
                yield from self._catch_up(found, text(stored[1]) or "")
                return found
        with self._lock:
            if known is not None:
                self._forget(key)
            if changes == self._changes and not any(entries):
                self._absent.put(key, asked_us)
        return None

    def confirm(self, key: str, found: Found) -> Flow[Found | None]:
        """Return what is known of a key if its hash says that this still holds; else look it up.

        The catalogue is the one that the key was charged under, or joined a plan of, or a newer one.
        """
        (reply,) = yield LookUps([self._of_key(found.record.id)[1]])
        r = text(reply) or ""
        if not found.is_current or r[_STAMP_AT:] != found.record.stamp:
            return (yield from self.look_up(key, found))
        yield from self._catch_up(found, r)
        return found

    def _of_key(self, key_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = self._state.names
        return ("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")

    def _catch_up(self, found: Found, r: str) -> Flow[None]:
        state, mine = self._state, self._state.book.identity
        if r[:8] == mine[:8] and r[8:_STAMP_AT] <= mine[8:]:
            return
        if found.caught_up != (r, state.book):  # else a server lost what is newer
            found.caught_up = r, (yield from state.load(or_others=True))

    def _keep(self, key: str, found: Found, changes: int) -> Found:
        """Remember a key, unless something changed since it was asked for; return what is to be gone by."""
        with self._lock:
            before = self._found.get(key)
            if before is not None and before.record == found.record:
                return before
            self._forget(key)
            if changes != self._changes:
                found.is_current = False
                return found
            if len(self._found) >= MOST_KEYS:
                # Many at once: a dict's first entry is found by walking over the gaps of all that went before it.
                for oldest in list(islice(self._found, max(1, MOST_KEYS // 64))):
                    self._forget(oldest)
            self._found[key] = found
            key_id = found.record.id
            self._values[key_id] = (*self._values.get(key_id, ()), key)
            return found

    def _forget(self, key: str) -> None:
        """Forget a value, with the lock held."""
        found = self._found.pop(key, None)
        if found is None:
            return
        found.is_current = False
        others = tuple(value for value in self._values.pop(found.record.id) if value != key)
        if others:
            self._values[found.record.id] = others
