"""The API keys that a process knows, by their values; the script tells when a record is outdated."""

from __future__ import annotations

from ratelimit.core.bounded import Bounded
from ratelimit.core.flow import Flow, Reads, text
from ratelimit.core.question import Found
from ratelimit.core.records import KeyRecord, claimed_by
from ratelimit.core.scripts import Command
from ratelimit.core.state import Namespace

MOST_KEYS = 100_000


class KnownKeys:
    """Values are held in this process' memory only, where the caller's request has them anyway."""

    def __init__(self, state: Namespace) -> None:
        self._state = state
        self._found: Bounded[str, Found] = Bounded(MOST_KEYS)
        self.get = self._found.get

    def look_up(self, key: str, known: Found | None) -> Flow[Found | None]:
        """Read the key's record, and whether the book is still the one that holds, in one round trip if possible."""
        state = self._state
        digests = state.digest.all(key)
        queries: list[Command] = [state.version_query()]
        queries += [("GET", state.names.digest(digest)) for digest in digests]
        if known is not None:
            queries.append(("GET", state.names.key_record(known.record.id)))
        version, *replies = yield Reads(queries)
        if not state.is_current(version):
            yield from state.load()
        self._found.forget(key)
        for digest, reply in zip(digests, replies, strict=False):
            claim = text(reply)
            if claim is None:
                continue
            key_id = claimed_by(claim)
            if known is not None and key_id == known.record.id:
                stored = text(replies[-1])
            else:
                stored = text((yield Reads([("GET", state.names.key_record(key_id))]))[0])
            record = KeyRecord.from_json(stored, key_id) if stored is not None else None
            if record is not None and record.is_live and digest in record.digests:
                found = Found(record, record.valid_until_us(digest))
                self._found.put(key, found)
                return found
        return None
