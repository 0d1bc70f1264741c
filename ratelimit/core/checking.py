"""One check, from the caller's three texts to a decision. Pure: see flow.py."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import NamedTuple, cast

from ratelimit.core import validate, wire
from ratelimit.core.batch import CheckCall
from ratelimit.core.book import PlanBook
from ratelimit.core.bounded import Bounded
from ratelimit.core.denials import Denials
from ratelimit.core.digest import could_be_value
from ratelimit.core.flow import Flow, text
from ratelimit.core.records import KeyRecord
from ratelimit.core.scripts import Command, ScriptCall, load
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


class _Asked(NamedTuple):
    """A question to the script, but for time and cost. Holds as long as `book` is the one in force."""

    book: PlanBook
    found: _Found | None
    plan: UsagePlan | None
    call: wire.Call
    keys: tuple[str, ...]
    identity: bytes


class Checker:
    """The checks of one process. Remembers the records of keys that it saw; the script tells when one is outdated."""

    def __init__(self, state: Namespace, max_age: float) -> None:
        self._state = state
        self._max_age = max_age
        # By the key's value: in this process' memory only, where the caller's request has it anyway.
        self._found: Bounded[str, _Found] = Bounded(_MOST_KEYS)
        self._asked: Bounded[tuple[str | None, str, str], _Asked] = Bounded(_MOST_KEYS)
        self._script = load("check")
        self.denials = Denials(state.names)
        self._server_seen = False

    def check(self, key: str | None, stage: str, method: str, cost: int) -> Flow[Decision]:
        """Decide one request of `cost` units; cost 0 tells what cost 1 would get, and consumes nothing."""
        validate.cost(cost)
        _must_be_texts(key, stage, method)
        state = self._state
        if state.needs_look(self._max_age):
            yield from state.refresh()
            if not self._server_seen:
                yield from self._look_at_server()
        decision = yield from self._decide(key, stage, method, cost)
        if cost and decision.reason is Reason.INVALID_KEY:
            self.denials.add(day_of(state.wall_us()), "", "", decision.detail or "")
        return decision

    def _decide(self, key: str | None, stage: str, method: str, cost: int) -> Flow[Decision]:
        state = self._state
        asked = self._asked.get((key, stage, method))
        if asked is not None and asked.book is state.book:
            # The usual case: the same was asked before. Whether it still holds is for the script to say.
            reply = yield self._request(asked, cost, flags=0)
            if isinstance(reply, bytes):
                return asked.call.decision(reply)
            return (yield from self._key_check(cast("str", key), stage, method, cost, asked, reply))
        if not state.book.method(stage, method).key_required:
            return (yield from self._open_check(stage, method, cost))
        if not key:
            return _refused("missing")
        if not could_be_value(key):
            return _refused("unknown")
        return (yield from self._key_check(key, stage, method, cost))

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
        asked = _Asked(state.book, None, None, call, call.shared_keys, f"{state.book.identity}{_NO_STAMP}".encode())
        reply = yield self._request(asked, cost, flags=0)
        decision = call.decision(reply)
        if cost and not decision.allowed:
            self.denials.add(day_of(call.time_us(reply)), "", "", decision.reason.value)
        return decision

    def _key_check(
        self,
        key: str,
        stage: str,
        method: str,
        cost: int,
        asked: _Asked | None = None,
        reply: wire.Reply | None = None,
    ) -> Flow[Decision]:
        """Decide by what is known of the key, and look again as often as the script finds it outdated.

        `asked` and `reply` are a question that was asked already, and what the script said to it.
        """
        state = self._state
        found = self._found.get(key)
        just_looked = fresh_book = False
        for _ in range(_MOST_LOOKS):
            if reply is None or asked is None:
                asked = self._question(found, stage, method)
                if asked is None:
                    if just_looked:
                        return _refused(self._why_not(found))
                    # A refusal is never given from memory: the key may have been changed this very moment.
                    found = yield from self._look_up(key, found)
                    just_looked = True
                    continue
                reply = yield self._request(asked, cost, flags=wire.CATALOG_FRESH if fresh_book else 0)
            status, now_us = wire.status(reply), asked.call.time_us(reply)
            if status >= wire.DENIED:
                self._asked.put((key, stage, method), asked)
                decision = asked.call.decision(reply)
                if cost:
                    yield from self._note(decision, asked, status, day_of(now_us))
                return decision
            reply = None
            if status == wire.KEY_EXPIRED and found is not None:
                expires_us = found.record.expires_us
                return _refused("disabled" if expires_us and now_us >= expires_us else "unknown")
            if status == wire.CATALOG_BEHIND:
                yield from state.load()
                fresh_book = True
            elif status == wire.WINDOWS_PAST:
                asked.call.move_windows(now_us)
            else:
                found, just_looked = (yield from self._look_up(key, found)), True
        raise StoreError(f"the key's record or the catalogue changed {_MOST_LOOKS} times during one check")

    def _question(self, found: _Found | None, stage: str, method: str) -> _Asked | None:
        """Return what to ask of the script, None if the key does not open the stage as far as is known."""
        if found is None or not found.record.enabled:
            return None
        book, names = self._state.book, self._state.names
        plan = book.plan_for(found.record.plans, stage)
        if plan is None:
            return None
        call = book.call(plan, stage, method, names)
        keys = (names.key_hash(found.record.id), *call.shared_keys)
        return _Asked(book, found, plan, call, keys, f"{book.identity}{found.record.stamp}".encode())

    def _note(self, decision: Decision, asked: _Asked, status: int, today: int) -> Flow[None]:
        """Do what a decision leaves to do besides answering it."""
        if asked.plan is None or asked.found is None:
            return
        key_id = asked.found.record.id
        if not decision.allowed:
            self.denials.add(today, asked.plan.id, key_id, decision.reason.value)
        elif status == wire.ADMITTED_DAY_OVER:
            yield from self._archive(key_id, today)

    def _archive(self, key_id: str, today: int) -> Flow[None]:
        """Move the key's days that are over off the path of its checks: once per key and day."""
        keys = (self._state.names.key_hash(key_id), self._state.names.key_days(key_id))
        with contextlib.suppress(StoreError):  # the next day's end will move them too
            yield ScriptCall(load("archive"), keys, (str(today - DAYS_KEPT),))

    @staticmethod
    def _why_not(found: _Found | None) -> str:
        if found is None:
            return "unknown"
        return "no_plan_for_stage" if found.record.enabled else "disabled"

    def _look_up(self, key: str, known: _Found | None) -> Flow[_Found | None]:
        """Read the key's record, and whether the book is still the one that holds, in one round trip if possible."""
        state = self._state
        digests = state.digest.all(key)
        queries: list[Command] = [state.version_query()]
        queries += [("GET", state.names.digest(digest)) for digest in digests]
        if known is not None:
            queries.append(("GET", state.names.key_record(known.record.id)))
        version, *replies = yield queries
        if not state.is_current(version):
            yield from state.load()
        self._found.forget(key)
        for digest, reply in zip(digests, replies, strict=False):
            key_id = text(reply)
            if key_id is None:
                continue
            if known is not None and key_id == known.record.id:
                stored = text(replies[-1])
            else:
                stored = text((yield [("GET", state.names.key_record(key_id))])[0])
            record = KeyRecord.from_json(stored) if stored is not None else None
            if record is not None and digest in record.digests:
                found = _Found(record, record.valid_until_us(digest))
                self._found.put(key, found)
                return found
        return None

    def _request(self, asked: _Asked, cost: int, flags: int) -> ScriptCall:
        state, call = self._state, asked.call
        packed = call.request(
            now_us=state.script_us(),
            cost=cost,
            valid_until_us=asked.found.valid_until_us if asked.found else 0,
            flags=flags,
            identity=asked.identity,
            guess=state.wall_us,
        )
        args: tuple[str | bytes, ...] = (packed, *call.fields)
        if call.layout is not None and cost:
            return CheckCall(self._script, asked.keys, args, call.layout)
        return ScriptCall(self._script, asked.keys, args)


def _must_be_texts(key: object, stage: object, method: object) -> None:
    for name, value in (("key", key), ("stage", stage), ("method", method)):
        if not isinstance(value, str) and not (name == "key" and value is None):
            raise TypeError(f"{name} must be text, not {type(value).__name__}")


def _refused(detail: str) -> Decision:
    return Decision(Reason.INVALID_KEY, detail=detail)


def unavailable(error: StoreError) -> Decision:
    """Return the decision for a store that does not answer: closed, until policies exist."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=f"{type(error).__name__}: {error}")
