"""One check, from the caller's three texts to a decision. Pure: see flow.py."""

from __future__ import annotations

import contextlib
import logging
import re
from weakref import WeakMethod

from ratelimit.core import validate, wire
from ratelimit.core.bounded import Bounded
from ratelimit.core.denial_cache import DenialCache
from ratelimit.core.denials import Denials
from ratelimit.core.digest import could_be_value
from ratelimit.core.flow import Flow, TooManyLookUpsError, text
from ratelimit.core.found import Found
from ratelimit.core.known_keys import MOST_KEYS, KnownKeys
from ratelimit.core.leases import Lease, Leases
from ratelimit.core.names import OTHERS
from ratelimit.core.question import Question
from ratelimit.core.scripts import ScriptCall, load
from ratelimit.core.state import Namespace
from ratelimit.core.windows import DAY_US, DAYS_KEPT, day_of
from ratelimit.decision import Decision, Reason
from ratelimit.errors import StoreError, StoreUnavailable
from ratelimit.model import MICROSECONDS

log = logging.getLogger("ratelimit")

_MOST_LOOKS = 8


class Checker:
    """The checks of one process. Remembers the records of keys that it saw; the script tells when one is outdated."""

    def __init__(self, state: Namespace, max_age: float, denial_cache: bool) -> None:
        self._state = state
        self._max_age_us = int(max_age * MICROSECONDS)
        self.cache = DenialCache(state, max_age, is_on=denial_cache)
        state.on_change = WeakMethod(self._lift)
        self._known = KnownKeys(state)
        self._asked: Bounded[tuple[str | None, str, str], Question] = Bounded(MOST_KEYS)
        self.leases = Leases(state)
        self.denials = Denials(state.names)
        self._server_seen = False

    def check(self, key: str | None, stage: str, method: str, cost: int, *, peek: bool = False) -> Flow[Decision]:
        """Decide one request of `cost` units. `peek`, or a cost of 0 (for one of 1), consumes nothing."""
        validate.cost(cost)
        validate.texts(key, stage, method)
        if cost == 0:
            cost, peek = 1, True
        state = self._state
        now_us = state.age_us()
        if state.needs_look(self._max_age_us, now_us):
            yield from state.refresh()
            if not self._server_seen:
                yield from self._look_at_server()
        if not state.book.method(stage, method).key_required:
            return (yield from self._open_check(stage, method, cost, peek=peek))
        if not key:
            return self._refused("missing", peek=peek)
        if not could_be_value(key) or self._known.is_absent(key, now_us):
            return self._refused("unknown", peek=peek)
        known = self._known.get(key)
        asked = None if known is None else self.asked(key, stage, method)
        if asked is not None and asked.lease and asked.book is state.book and asked.found is known:
            leased = asked.lease.spend(cost, state.age_us(), peek=peek)
            if leased is not None:
                return leased
            if not peek:
                reply = yield from self.leases.check(asked, asked.lease, cost, self._send)
                return (yield from self.go_on(key, stage, method, cost, asked, reply))
        return (yield from self.go_on(key, stage, method, cost, peek=peek))

    def upkeep(self, *, last: bool = False) -> Flow[None]:
        """Do what is to be done now and then, or at the end: tell denials, give back what leases ended with."""
        yield from self.leases.give_back(all_of_it=last)
        yield from self.denials.flush()

    def at_hand(self, key: str | None, stage: str, method: str, cost: int, now_us: int) -> Question | Decision | None:
        """Return the decision if this process knows it, or the question if the same was asked before.

        That is the usual case, and the quickest: the question is put to the script, which knows whether all still
        holds. A reply in bytes admits; any other goes to `go_on`. None goes to `check`.
        """
        state = self._state
        book = state.book
        try:
            listed = book.methods_of.get(stage)  # as `asked`, without a call for each check
            asked = self._asked.get((key, stage, OTHERS if listed is None or method not in listed else method))
        except TypeError:
            return None  # no text: `check` says so
        if asked is None or type(cost) is not int or cost <= 0:
            return None
        loaded_us = state.loaded_us  # as `Namespace.needs_look`
        if asked.book is not book or loaded_us is None or not 0 <= now_us - loaded_us < self._max_age_us:
            return None
        if asked.found is not None and not asked.found.is_current:
            return None
        if asked.lease is not None:
            return asked.lease.spend(cost, now_us) if asked.lease.held else None
        if self.cache.keeps and (refused := self._refusal(asked, cost, now_us)) is not None:
            return refused
        return asked

    def asked(self, key: str, stage: str, method: str) -> Question | None:
        """Return what was asked before, of this method or of another that nobody lists either."""
        return self._asked.get((key, stage, self._state.book.placed(stage, method)))

    def _refusal(self, asked: Question, cost: int, now_us: int) -> Decision | None:
        """Return the refusal of a request if it is known in this process; now is `Namespace.age_us`."""
        refused = self.cache.answer(asked, cost, now_us)
        if refused is None:
            return None
        decision, server_us = refused
        self.denials.add(server_us // DAY_US, asked.plan_id, asked.key_id, decision.reason)
        return decision

    def _lift(self, key_id: str | None) -> None:
        self.cache.forget(key_id)
        self.leases.end(key_id)
        self._known.changed(key_id)

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

    def _open_check(self, stage: str, method: str, cost: int, *, peek: bool) -> Flow[Decision]:
        """A method that needs no key: only the limits that all callers share."""
        state = self._state
        call = state.book.call(None, stage, method, state.names)
        asked = Question(state.book, None, None, call, call.shared_keys)
        if self.cache.keeps and not peek and (refused := self._refusal(asked, cost, state.age_us())) is not None:
            return refused
        reply = yield from self._send(asked, cost, wire.PEEK if peek else 0)
        return (yield from self._answer(asked, reply, cost, peek=peek))

    def _send(self, asked: Question, cost: int, flags: int = 0) -> Flow[wire.Reply]:
        """Put a question to the script, and keep what its reply says of limits."""
        state, cache = self._state, self.cache
        if flags & wire.PEEK:
            reply: wire.Reply = yield asked.put(state, cost, flags)
            return reply
        sent_us = state.age_us()
        places = cache.take(asked, sent_us) if cache.keeps else None
        try:
            reply = yield asked.put(state, cost, flags)
        except BaseException:
            cache.lose(asked)
            raise
        cache.note(asked, places, reply, sent_us)
        return reply

    def go_on(
        self,
        key: str,
        stage: str,
        method: str,
        cost: int,
        asked: Question | None = None,
        reply: wire.Reply | None = None,
        *,
        peek: bool = False,
    ) -> Flow[Decision]:
        """Decide by what is known of the key, and look again as often as the script finds it outdated.

        `asked` and `reply` are a question that was asked already, and what the script said to it.
        """
        state = self._state
        found = self._known.get(key)
        just_looked = nothing_newer = False
        for _ in range(_MOST_LOOKS):
            if reply is None or asked is None:
                asked = self._question(key, found, stage, method)
                if asked is None:
                    if just_looked:
                        return self._refused(self._why_not(found, stage), peek=peek)
                    # A refusal is never given from memory: the key may have been changed this very moment.
                    look = self._known.confirm(key, found) if found else self._known.look_up(key, None)
                    try:
                        found = yield from look
                    except TooManyLookUpsError as error:
                        return unavailable(StoreUnavailable(str(error)))  # no warning that Redis does not answer
                    just_looked = True
                    continue
                flags = (wire.NOTHING_NEWER if nothing_newer else 0) | (wire.PEEK if peek else 0)
                reply = yield from self._send(asked, cost, flags)
            status, now_us = wire.status(reply), asked.call.time_us(reply)
            if status >= wire.DENIED:
                self._asked.put((key, stage, self._state.book.placed(stage, method)), asked)
                return (yield from self._answer(asked, reply, cost, peek=peek))
            reply = None
            if status == wire.KEY_EXPIRED and asked.found is not None:
                self._asked.forget((key, stage, state.book.placed(stage, method)))
                return self._refused(asked.found.end(now_us, state.age_us()), peek=peek)
            if status == wire.CATALOG_BEHIND:
                # A key that was charged under something newer, and nothing newer there now: a server lost it.
                nothing_newer = (yield from state.load()) is asked.book
            elif status == wire.WINDOWS_PAST:
                asked.call.move_windows(now_us)
            else:
                found, just_looked = (yield from self._known.look_up(key, found)), True
        raise StoreError(f"the key's record or the catalogue changed {_MOST_LOOKS} times during one check")

    def _question(self, key: str, found: Found | None, stage: str, method: str) -> Question | None:
        """Return what to ask of the script, None if the key does not open the stage as far as is known."""
        if found is None or self._closed(found):
            return None
        book, names = self._state.book, self._state.names
        before = self.asked(key, stage, method)
        if before is not None and before.book is book and before.found is found:
            return before  # with the lease that it may hold
        plan = book.plan_for(found.record.plans, stage)
        if plan is None:
            return None
        call = book.call(plan, stage, method, names)
        keys = (names.key_hash(found.record.id), *call.shared_keys)
        question = Question(book, found, plan, call, keys)
        if plan.lease and plan.shadow is None:  # a shadow judges requests one by one
            question.lease = Lease(plan.lease)
        return question

    def denied(self, asked: Question, reply: wire.Reply, cost: int) -> Decision | None:
        """Return the decision of a reply that denies, as quickly as can be; None of any other."""
        if wire.status(reply) != wire.DENIED:
            return None
        decision = asked.call.decision(reply, cost)
        self.denials.add(day_of(asked.call.time_us(reply)), asked.plan_id, asked.key_id, decision.reason)
        return decision

    def _answer(self, asked: Question, reply: wire.Reply, cost: int, *, peek: bool) -> Flow[Decision]:
        """Return the decision of a reply, and do what it leaves to do besides."""
        denied = None if peek else self.denied(asked, reply, cost)
        if denied is not None:
            return denied
        if wire.status(reply) == wire.ADMITTED_DAY_OVER:
            yield from self._archive(asked.key_id, day_of(asked.call.time_us(reply)))
        return asked.call.decision(reply, cost)

    def _archive(self, key_id: str, today: int) -> Flow[None]:
        """Move the key's days that are over off the path of its checks: once per key and day."""
        keys = (self._state.names.key_hash(key_id), self._state.names.key_days(key_id))
        with contextlib.suppress(StoreError):  # the next day's end will move them too
            yield ScriptCall(load("archive"), keys, (str(today - DAYS_KEPT),))

    def _closed(self, found: Found) -> str | None:
        return found.closed(self._state.age_us(), self._max_age_us)

    def _why_not(self, found: Found | None, stage: str) -> str:
        """Return why a key does not open a stage: the same whatever was asked about it before."""
        if found is None:
            return "unknown"
        if found.record.enabled and self._state.book.plan_for(found.record.plans, stage) is None:
            return "no_plan_for_stage"
        return self._closed(found) or "unknown"

    def _refused(self, detail: str, *, peek: bool) -> Decision:
        if not peek:
            self.denials.add(day_of(self._state.wall_us()), "", "", detail)
        return Decision(Reason.INVALID_KEY, detail=detail)


def unavailable(error: StoreError) -> Decision:
    """Return the decision for a store that does not answer: closed, until policies exist."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=f"{type(error).__name__}: {error}")
