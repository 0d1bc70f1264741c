"""The API keys that a process knows, by their values; the script says when a record is outdated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from threading import Lock
from typing import Any, final

from ratelimit.effects import BatchableReads, KeyLookUps, Operation, text
from ratelimit.engine.cached_key import CachedKey
from ratelimit.errors import StoreError
from ratelimit.local import fork_safety
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.model import MICROSECONDS
from ratelimit.registry.key_record import STAMP_LENGTH, VERSION_TOKEN_LENGTH, KeyRecord, claimed_by
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import Command, ScriptCall, load

_MAX_KEYS = 100_000
_MAX_ABSENT = 10_000
_MAX_UNFINISHED = 10_000
_ABSENT_US = _UNFINISHED_US = MICROSECONDS
_MAX_ROUNDS = 4
_STAMP_AT = VERSION_TOKEN_LENGTH - STAMP_LENGTH
"""In `r`: after epoch and version of the catalogue that the key was charged under."""


@final
class IndexLookUp:
    """A look-up in the index: which key has a value.

    Attributes:
        digests: Of the value, one for each pepper.
        queries: The commands that read their entries: one, or one for each where they may lie in different slots.
        entries: What these replied.
        changes: How many changes of keys had been pushed when it was sent.
        sent_us: When it was sent, by `Namespace.age_us`.
        is_resumed: Whether it was read for an earlier check, whose deadline was then over.
    """

    __slots__ = ("changes", "digests", "entries", "is_resumed", "queries", "sent_us")

    def __init__(self, digests: Sequence[str], queries: tuple[Command, ...], changes: int, sent_us: int) -> None:
        self.digests = digests
        self.queries = queries
        self.entries: Sequence[bytes | str | None] = ()
        self.changes = changes
        self.sent_us = sent_us
        self.is_resumed = False

    def note(self, replies: Sequence[Any]) -> None:
        """Note the replies to `queries`.

        Raises:
            StoreError: It is among them.
        """
        for reply in replies:
            if isinstance(reply, StoreError):
                raise reply
        self.entries = replies if self.queries[0][0] == "GET" else replies[0]

    def found(self) -> Iterator[tuple[str, bytes | str]]:
        """Return digests that have an entry, with it."""
        return ((digest, entry) for digest, entry in zip(self.digests, self.entries, strict=True) if entry is not None)


class KeyCache:
    """Values are kept in this process' memory only, where the caller's request has them anyway. Safe between threads.

    Only values that no key has are remembered as absent, for a second at most: a push of any key ends that at once.
    """

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._by_value: dict[str, CachedKey] = {}
        self._values_by_id: dict[str, tuple[str, ...]] = {}
        self._absent: BoundedCache[str, int] = BoundedCache(_MAX_ABSENT)
        self._unfinished: BoundedCache[str, IndexLookUp] = BoundedCache(_MAX_UNFINISHED)
        self._former_ids: BoundedCache[str, str] = BoundedCache(
            _MAX_KEYS
        )  # of keys that changed, where there are slots
        self._changes = 0
        self._version_query = namespace.version_query()
        self._current_version: object = None
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)
        self.get = self._by_value.get

    def reset_after_fork(self) -> None:
        """Make the lock anew; the keys hold in a child process as well."""
        self._lock = Lock()

    def is_absent(self, value: str, now_us: int, max_age_us: int = _ABSENT_US) -> bool:
        """Return whether a look-up that is no older, by default of the last second, found no key with this value."""
        asked_us = self._absent.get(value)
        return asked_us is not None and 0 <= now_us - asked_us < max_age_us

    def values_of(self, key_id: str) -> tuple[str, ...]:
        """Return the values of a key that are cached."""
        return self._values_by_id.get(key_id, ())

    def forget_changed(self, key_id: str | None) -> None:
        """Forget a key that changed, and which values are absent; None: any key may have changed.

        A look-up that was sent before and is answered only now is not kept either.
        """
        with self._lock:
            self._changes += 1
            if len(self._absent):
                self._absent = BoundedCache(_MAX_ABSENT)
            for value in self._values_by_id.get(key_id or "", ()):
                if key_id and self._namespace.has_slots:
                    self._former_ids.put(value, key_id)
                self._forget(value)

    def index_look_up(self, value: str) -> IndexLookUp:
        """Return what looks up which key has a value; its `queries` may be sent with other reads."""
        names, digests = self._namespace.names, self._namespace.digest.all(value)
        entries = [names.digest(digest) for digest in digests]
        # Until it is known whether there are slots, none is asked for names in several.
        is_one = self._namespace.is_checked_for_slots and not self._namespace.has_slots
        queries = (("MGET", *entries),) if is_one else tuple([("GET", name) for name in entries])
        return IndexLookUp(digests, queries, self._changes, self._namespace.age_us())

    def look_up(
        self, value: str, cached: CachedKey | None, index: IndexLookUp | None = None, *, may_repair: bool = True
    ) -> Operation[CachedKey | None]:
        """Read the key's record and the stored version of the catalogue, in one round trip if possible.

        Where index, record and catalogue may lie on different servers, one of a key that was met before is its record
        alone, and that of any other its index and its record: the catalogue is read if the key was charged under a
        newer one.

        Args:
            value: The key's value.
            cached: The key as it was read before; None if it was not.
            index: A look-up of this value in the index, with its reply, which came with the catalogue.
            may_repair: Whether what was lost may be written anew.

        Raises:
            StoreError: Redis has lost what it should hold of the key, among others.
        """
        if self._namespace.has_slots and index is None:
            current = yield from self._look_up_by_record(value, cached, may_repair=may_repair)
            if current is not None:
                return current
        return (yield from self._look_up_by_index(value, cached, index, may_repair=may_repair))

    def _look_up_by_index(
        self, value: str, cached: CachedKey | None, index: IndexLookUp | None, *, may_repair: bool
    ) -> Operation[CachedKey | None]:
        absent: bytes | str | None = None  # an entry whose record is absent: a deletion may just have come between
        index = index or self._unfinished_look_up(value)
        for _ in range(_MAX_ROUNDS):
            stored: Sequence[bytes | str | None] = ()
            if index is None:
                index = self.index_look_up(value)
                stored = yield from self._read_index(index, cached)
            for digest, entry in index.found():
                key_id = claimed_by(text(entry) or "")
                if not stored or cached is None or key_id != cached.record.id:
                    stored = yield from self._read_record(value, key_id, index)
                record_text = stored[0]
                if record_text is None:
                    if entry == absent:
                        raise _lost_record(self._namespace, key_id)
                    absent = entry
                    break
                record = KeyRecord.from_json(text(record_text) or "", key_id)
                if not record.is_live or digest not in record.digests:
                    continue
                current = yield from self._accept(value, digest, record, stored, index.changes, may_repair=may_repair)
                if current is None:
                    break
                return current
            else:
                if not index.is_resumed:
                    self._note_absence(value, cached, index)
                    return None
            index = None
        raise StoreError(f"the key changed {_MAX_ROUNDS} times while it was read")

    def _look_up_by_record(
        self, value: str, cached: CachedKey | None, *, may_repair: bool
    ) -> Operation[CachedKey | None]:
        """Return a key that was met before by its record, None if the index has to say who has the value.

        A record that names a digest is the key's that its value opens: the index may be away.
        """
        key_id = cached.record.id if cached else self._former_ids.get(value)
        if key_id is None:
            return None
        changes = self._changes
        stored = yield BatchableReads(self._record_queries(key_id))
        if stored[0] is None:
            return None
        record = KeyRecord.from_json(text(stored[0]) or "", key_id)
        if record.is_live:
            for digest in self._namespace.digest.all(value):
                if digest in record.digests:
                    return (yield from self._accept(value, digest, record, stored, changes, may_repair=may_repair))
        return None

    def _accept(
        self,
        value: str,
        digest: str,
        record: KeyRecord,
        stored: Sequence[bytes | str | None],
        changes: int,
        *,
        may_repair: bool,
    ) -> Operation[CachedKey | None]:
        """Cache and return a key whose record names the digest of a value; None if it changed while it was read."""
        record_text, r = stored
        if record.enabled and (r is None or len(r) != VERSION_TOKEN_LENGTH):
            yield from self._repair_hash(record, record_text or "", may_repair=may_repair)
            return None
        current = self._keep(value, CachedKey(record, record.valid_until_us(digest)), changes)
        yield from self._catch_up(current, text(r) or "")
        return current

    def _read_index(self, index: IndexLookUp, cached: CachedKey | None) -> Operation[Sequence[bytes | str | None]]:
        """Send a look-up, and load the catalogue if a newer one is stored; return record and `r` of a cached key."""
        namespace = self._namespace
        stored: Sequence[bytes | str | None] = ()
        if namespace.has_slots:
            index.note((yield KeyLookUps(index.queries)))
            return stored
        count = len(index.queries)
        if cached is None:
            version, *entries = yield KeyLookUps((self._version_query, *index.queries))
        else:
            record_queries = self._record_queries(cached.record.id)
            version, *entries = yield BatchableReads((self._version_query, *index.queries, *record_queries))
            stored = entries[count:]
        index.note(entries[:count])
        if version is not self._current_version:
            if namespace.matches_stored_version(version):
                self._current_version = version  # look-ups that left together get the same reply
            else:
                yield from namespace.load(or_others=True)
        return stored

    def _unfinished_look_up(self, value: str) -> IndexLookUp | None:
        """Return a look-up of the last second whose record could not be read, if no key has changed since.

        Where a deadline has time for one round trip and not for two, each check of a new key so gets one further.
        """
        index = self._unfinished.get(value)
        if index is None:
            return None
        self._unfinished.forget(value)
        is_recent = 0 <= self._namespace.age_us() - index.sent_us < _UNFINISHED_US
        return index if is_recent and index.changes == self._changes else None

    def _read_record(self, value: str, key_id: str, index: IndexLookUp) -> Operation[Sequence[bytes | str | None]]:
        """Read the record and `r` of the key that a look-up found; keep the look-up if that fails."""
        try:
            stored: Sequence[bytes | str | None] = yield BatchableReads(self._record_queries(key_id))
        except StoreError:
            index.is_resumed = True
            self._unfinished.put(value, index)
            raise
        return stored

    def _note_absence(self, value: str, cached: CachedKey | None, index: IndexLookUp) -> None:
        """Forget a value that no key has; remember that, unless a key has changed since it was looked up."""
        with self._lock:
            if cached is not None:
                self._forget(value)
            if index.changes == self._changes and not any(index.found()):
                self._absent.put(value, index.sent_us)

    def _repair_hash(self, record: KeyRecord, record_text: bytes | str, *, may_repair: bool) -> Operation[None]:
        """Write the version token of a key whose hash is lost; return if the key has changed since it was read.

        Raises:
            StoreError: The hash was lost. The next check finds it, with nothing used.
        """
        name, outcome = self._namespace.names.key_hash(record.id), "the next check makes it anew, with nothing used"
        if may_repair:
            token = f"{self._namespace.snapshot.version_token}{record.stamp}"
            try:
                if not (yield ScriptCall(load("repair"), (name,), (record_text, token))):
                    return
            except StoreError as error:
                outcome = f"it cannot be made anew: {error}"
            else:
                outcome = "it was made anew, with nothing used"
        lost = f"Redis has lost the hash {name!r} of a key, and what was counted in it"
        raise StoreError(f"{lost}; {outcome}", cause="lost")

    def confirm(self, value: str, cached: CachedKey, *, may_repair: bool = True) -> Operation[CachedKey | None]:
        """Return a cached key if its hash says that it is still current; else look it up.

        The catalogue is then the one that the key was charged under, or joined a plan of, or a newer one.
        """
        (reply,) = yield KeyLookUps([self._record_queries(cached.record.id)[1]])
        r = text(reply) or ""
        if not cached.is_valid or r[_STAMP_AT:] != cached.record.stamp:
            return (yield from self.look_up(value, cached, may_repair=may_repair))
        yield from self._catch_up(cached, r)
        return cached

    def by_id(self, key_id: str) -> Operation[CachedKey | None]:
        """Read the record of a key, whatever its values are; None if it is gone. It is not kept."""
        (record_text,) = yield BatchableReads([("GET", self._namespace.names.key_record(key_id))])
        if record_text is None:
            return None
        record = KeyRecord.from_json(text(record_text) or "", key_id)
        return CachedKey(record, 0) if record.is_live else None

    def _record_queries(self, key_id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = self._namespace.names
        return ("GET", names.key_record(key_id)), ("HGET", names.key_hash(key_id), "r")

    def _catch_up(self, cached: CachedKey, r: str) -> Operation[None]:
        """Load the catalogue if the key was charged under a newer one."""
        namespace, mine = self._namespace, self._namespace.snapshot.version_token
        if r[:8] == mine[:8] and r[8:_STAMP_AT] <= mine[8:]:
            return
        if cached.caught_up != (r, namespace.snapshot):  # else a server lost what is newer
            cached.caught_up = r, (yield from namespace.load_newer(or_others=True))

    def _keep(self, value: str, new: CachedKey, changes: int) -> CachedKey:
        """Cache a key, unless something changed since it was looked up; return the one to decide by."""
        with self._lock:
            before = self._by_value.get(value)
            if before is not None and before.record == new.record:
                return before
            self._forget(value)
            if changes != self._changes:
                new.is_valid = False
                if self._namespace.has_slots:
                    self._former_ids.put(value, new.record.id)  # it was met: the next look-up needs its record alone
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


def _lost_record(namespace: Namespace, key_id: str) -> StoreError:
    return StoreError(
        f"Redis has lost the record {namespace.names.key_record(key_id)!r} of a key that its index names: restore it, "
        "or create the key again",
        cause="lost",
    )
