"""One check, from the caller's three texts to a decision. Pure: see flow.py."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import NamedTuple

from ratelimit.core import validate, wire
from ratelimit.core.book import PlanBook
from ratelimit.core.bounded import Bounded
from ratelimit.core.denials import Denials
from ratelimit.core.digest import could_be_value
from ratelimit.core.flow import Command, Flow, text
from ratelimit.core.records import KeyRecord
from ratelimit.core.scripts import load
from ratelimit.core.state import Namespace
from ratelimit.core.windows import DAYS_KEPT, day_of
from ratelimit.decision import Decision, Reason
from ratelimit.errors import StoreError
from ratelimit.model import UsagePlan

log = logging.getLogger("ratelimit")

_MOST_LOOKS = 8
_MOST_KEYS = 100_000
_NO_STAMP = "-" * 8


class _Found(NamedTuple):
    """A key as a value opened it; `valid_until_us` is when this value ceases to, 0 for never."""

    record: KeyRecord
    valid_until_us: int


class Checker:
    """The checks of one process. Remembers the records of keys that it saw; the script tells when one is outdated."""

    def __init__(self, state: Namespace, max_age: float) -> None:
        self._state = state
        self._max_age = max_age
        self._found: Bounded[str, _Found] = Bounded(_MOST_KEYS)
        self._script = load("check")
        self.denials = Denials(state.names)
        self._server_seen = False

    def check(self, key: str | None, stage: str, method: str, cost: int) -> Flow[Decision]:
        """Decide one request of `cost` units; cost 0 tells what cost 1 would get, and consumes nothing."""
        validate.cost(cost)
        for name, value in (("key", key), ("stage", stage), ("method", method)):
            if not isinstance(value, str) and not (name == "key" and value is None):
                raise TypeError(f"{name} must be text, not {type(value).__name__}")
        if self._state.needs_look(self._max_age):
            yield from self._state.refresh()
            if not self._server_seen:
                yield from self._look_at_server()
        if not self._state.book.method(stage, method).key_required:
            return (yield from self._open_check(stage, method, cost))
        if not key:
            decision = _refused("missing")
        elif not could_be_value(key):
            decision = _refused("unknown")
        else:
            decision = yield from self._key_check(self._state.digest.all(key), stage, method, cost)
        if cost and decision.reason is Reason.INVALID_KEY:
            self.denials.add(day_of(self._state.wall_us()), "", "", decision.detail or "")
        return decision

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

    def _key_check(self, digests: list[str], stage: str, method: str, cost: int) -> Flow[Decision]:
        """Decide by what is known of the key, and look again as often as the script finds it outdated.

        `digests` are those of the value under each pepper in use: almost always one.
        """
        state = self._state
        found = next((found for found in map(self._found.get, digests) if found), None)
        just_looked = fresh_book = False
        for _ in range(_MOST_LOOKS):
            plan = self._plan(found, stage)
            if found is None or plan is None:
                if just_looked:
                    return _refused(self._why_not(found))
                # A refusal is never given from memory: the key may have been changed this very moment.
                found = yield from self._look_up(digests, found)
                just_looked = True
                continue
            call = state.book.call(plan, stage, method, state.names)
            flags = wire.CATALOG_FRESH if fresh_book else 0
            reply = yield self._request(call, state.book, found, cost, flags)
            status, now_us = reply[0], reply[1]
            if status >= wire.DENIED:
                decision = call.decision(reply)
                if cost:
                    yield from self._note(decision, plan.id, found.record.id, status, day_of(now_us))
                return decision
            if status == wire.KEY_EXPIRED:
                expires_us = found.record.expires_us
                return _refused("disabled" if expires_us and now_us >= expires_us else "unknown")
            if status == wire.KEY_CHANGED:
                found, just_looked = (yield from self._look_up(digests, found)), True
            elif status == wire.CATALOG_BEHIND:
                yield from state.load()
                fresh_book = True
            elif status == wire.WINDOWS_PAST:
                call.move_windows(now_us)
        raise StoreError(f"the key's record or the catalogue changed {_MOST_LOOKS} times during one check")

    def _note(self, decision: Decision, plan_id: str, key_id: str, status: int, today: int) -> Flow[None]:
        """Do what a decision leaves to do besides answering it."""
        if not decision.allowed:
            self.denials.add(today, plan_id, key_id, decision.reason.value)
        elif status == wire.ADMITTED_DAY_OVER:
            yield from self._archive(key_id, today)

    def _archive(self, key_id: str, today: int) -> Flow[None]:
        """Move the key's days that are over off the path of its checks: once per key and day."""
        keys = (self._state.names.key_hash(key_id), self._state.names.key_days(key_id))
        with contextlib.suppress(StoreError):  # the next day's end will move them too
            yield wire.ScriptCall(load("archive"), keys, (str(today - DAYS_KEPT),))

    def _plan(self, found: _Found | None, stage: str) -> UsagePlan | None:
        if found is None or not found.record.enabled:
            return None
        return self._state.book.plan_for(found.record.plans, stage)

    @staticmethod
    def _why_not(found: _Found | None) -> str:
        if found is None:
            return "unknown"
        return "no_plan_for_stage" if found.record.enabled else "disabled"

    def _look_up(self, digests: list[str], known: _Found | None) -> Flow[_Found | None]:
        """Read the key's record, and whether the book is still the one that holds, in one round trip if possible."""
        state = self._state
        queries: list[Command] = [state.version_query()]
        queries += [("GET", state.names.digest(digest)) for digest in digests]
        if known is not None:
            queries.append(("GET", state.names.key_record(known.record.id)))
        version, *replies = yield queries
        if not state.is_current(version):
            yield from state.load()
        for digest, reply in zip(digests, replies, strict=False):
            key_id = text(reply)
            self._found.forget(digest)
            if key_id is None:
                continue
            if known is not None and key_id == known.record.id:
                stored = text(replies[-1])
            else:
                stored = text((yield [("GET", state.names.key_record(key_id))])[0])
            record = KeyRecord.from_json(stored) if stored is not None else None
            if record is not None and digest in record.digests:
                found = _Found(record, record.valid_until_us(digest))
                self._found.put(digest, found)
                return found
        return None

    def _request(self, call: wire.Call, book: PlanBook, found: _Found | None, cost: int, flags: int) -> wire.ScriptCall:
        state = self._state
        stamp = found.record.stamp if found else _NO_STAMP
        packed = call.request(
            now_us=state.script_us(),
            cost=cost,
            valid_until_us=found.valid_until_us if found else 0,
            flags=flags,
            identity=f"{book.identity}{stamp}".encode(),
            guess=state.wall_us,
        )
        keys = (state.names.key_hash(found.record.id), *call.shared_keys) if found else call.shared_keys
        return wire.ScriptCall(self._script, keys, (packed, *call.fields))


def _refused(detail: str) -> Decision:
    return Decision(Reason.INVALID_KEY, detail=detail)


def unavailable(error: StoreError) -> Decision:
    """Return the decision for a store that does not answer: closed, until policies exist."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=f"{type(error).__name__}: {error}")
