"""One check, from the caller's three texts to a decision. Pure: see flow.py."""

from __future__ import annotations

import logging
import re

from ratelimit.core import validate, wire
from ratelimit.core.book import PlanBook
from ratelimit.core.bounded import Bounded
from ratelimit.core.digest import could_be_value
from ratelimit.core.flow import Command, Flow, text
from ratelimit.core.records import KeyRecord
from ratelimit.core.scripts import load
from ratelimit.core.state import Namespace
from ratelimit.decision import Decision, Reason
from ratelimit.errors import StoreError
from ratelimit.model import UsagePlan

log = logging.getLogger("ratelimit")

_MOST_LOOKS = 8
_MOST_RECORDS = 100_000
_NO_STAMP = "-" * 8


class Checker:
    """The checks of one process. Remembers the records of keys that it saw; the script tells when one is outdated."""

    def __init__(self, state: Namespace, max_age: float) -> None:
        self._state = state
        self._max_age = max_age
        self._records: Bounded[str, KeyRecord] = Bounded(_MOST_RECORDS)
        self._script = load("check")
        self._server_seen = False

    def check(self, key: str | None, stage: str, method: str, cost: int) -> Flow[Decision]:
        """Decide one request of `cost` units; cost 0 tells what cost 1 would get, and consumes nothing."""
        validate.cost(cost)
        for name, value in (("key", key or ""), ("stage", stage), ("method", method)):
            if not isinstance(value, str):
                raise TypeError(f"{name} must be text, not {type(value).__name__}")
        if self._state.needs_look(self._max_age):
            yield from self._state.refresh()
            if not self._server_seen:
                yield from self._look_at_server()
        if not self._state.book.method(stage, method).key_required:
            return (yield from self._open_check(stage, method, cost))
        if not key:
            return _refused("missing")
        if not could_be_value(key):
            return _refused("unknown")
        return (yield from self._key_check(self._state.digest(key), stage, method, cost))

    def _look_at_server(self) -> Flow[None]:
        """Warn, once, of a server that may throw counts and keys away."""
        self._server_seen = True
        try:
            (reply,) = yield [("INFO", "memory")]
        except StoreError:
            return  # not permitted, or not known to this server: nothing can be said
        policy = re.search(r"maxmemory_policy:(\S+)", text(reply) or "")
        if policy and policy[1] != "noeviction":
            log.warning(
                "this Redis may evict keys under memory pressure (maxmemory-policy %s), and with them limits, counts "
                "and API keys: set maxmemory-policy noeviction",
                policy[1],
            )

    def _open_check(self, stage: str, method: str, cost: int) -> Flow[Decision]:
        """A method that needs no key: only the limits that all callers share."""
        state = self._state
        call = state.book.call(None, stage, method, state.names)
        reply = yield self._request(call, state.book, None, cost, flags=0)
        return call.decision(reply)

    def _key_check(self, digest: str, stage: str, method: str, cost: int) -> Flow[Decision]:
        state = self._state
        record = self._records.get(digest)
        just_looked = fresh_book = False
        for _ in range(_MOST_LOOKS):
            plan = self._plan(record, stage)
            if record is None or plan is None:
                if just_looked:
                    return _refused(self._why_not(record))
                # A refusal is never given from memory: the key may have been changed this very moment.
                record = yield from self._look_up(digest, record)
                just_looked = True
                continue
            call = state.book.call(plan, stage, method, state.names)
            flags = wire.HAS_KEY | (wire.CATALOG_FRESH if fresh_book else 0)
            reply = yield self._request(call, state.book, record, cost, flags)
            status, now_us = reply[0], reply[1]
            if status >= wire.DENIED:
                return call.decision(reply)
            if status == wire.KEY_EXPIRED:
                return _refused("disabled")
            if status == wire.KEY_CHANGED:
                record, just_looked = (yield from self._look_up(digest, record)), True
            elif status == wire.CATALOG_BEHIND:
                yield from state.load()
                fresh_book = True
            elif status == wire.WINDOWS_PAST:
                call.move_windows(now_us)
        raise StoreError(f"the key's record or the catalogue changed {_MOST_LOOKS} times during one check")

    def _plan(self, record: KeyRecord | None, stage: str) -> UsagePlan | None:
        if record is None or not record.enabled:
            return None
        return self._state.book.plan_for(record.plans, stage)

    @staticmethod
    def _why_not(record: KeyRecord | None) -> str:
        if record is None:
            return "unknown"
        return "no_plan_for_stage" if record.enabled else "disabled"

    def _look_up(self, digest: str, known: KeyRecord | None) -> Flow[KeyRecord | None]:
        """Read the key's record, and whether the book is still the one that holds, in one round trip if possible."""
        state = self._state
        queries: list[Command] = [("GET", state.names.digest(digest)), state.version_query()]
        if known is not None:
            queries.append(("GET", state.names.key_record(known.id)))
        key_id, version, *records = yield queries
        if not state.is_current(version):
            yield from state.load()
        found = text(key_id)
        if found is None:
            self._records.forget(digest)
            return None
        if known is None or found != known.id:
            records = yield [("GET", state.names.key_record(found))]
        stored = text(records[0])
        record = KeyRecord.from_json(stored) if stored is not None else None
        if record is None or digest not in record.digests:
            self._records.forget(digest)
            return None
        self._records.put(digest, record)
        return record

    def _request(
        self, call: wire.Call, book: PlanBook, record: KeyRecord | None, cost: int, flags: int
    ) -> wire.ScriptCall:
        state = self._state
        stamp = record.stamp if record else _NO_STAMP
        packed = call.request(
            now_us=state.script_us(),
            cost=cost,
            valid_until_us=record.expires_us if record else 0,
            flags=flags,
            identity=f"{book.identity}{stamp}".encode(),
            guess=state.wall_us,
        )
        keys = (state.names.key_hash(record.id), *call.shared_keys) if record else call.shared_keys
        return wire.ScriptCall(self._script, keys, (packed, *call.fields))


def _refused(detail: str) -> Decision:
    return Decision(Reason.INVALID_KEY, detail=detail)


def unavailable(error: StoreError) -> Decision:
    """Return the decision for a store that does not answer: closed, until policies exist."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=f"{type(error).__name__}: {error}")
