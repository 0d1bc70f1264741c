"""One check, from the caller's three texts to a decision. No I/O: it returns what is to be sent, and takes the reply.

The usual check is `begin`, one script call, `finish`. All else is an `Operation` (see effects.py): a key that this
process has not met, a catalogue that may be outdated, a reply that says so.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Protocol
from weakref import WeakMethod

from ratelimit import validation
from ratelimit.decision import Decision, Detail, Reason
from ratelimit.effects import (
    BatchableReads,
    KeyLookUps,
    Operation,
    UnknownScriptError,
    info_fields,
    text,
)
from ratelimit.engine import protocol
from ratelimit.engine.cached_key import CachedKey
from ratelimit.engine.lazy_decision import LazyAdmission
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.engine.spread_limits import JoinedReply
from ratelimit.errors import OnUnavailable, StoreError
from ratelimit.limiter.catalog_refresh import CatalogRefresh
from ratelimit.limiter.slot_checks import SharedVerdict, SlotChecks
from ratelimit.limiter.warm_up import warm_up
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.local.compiled_limits import CompiledLimitsCache
from ratelimit.local.denial_cache import DenialCache, KnownStates
from ratelimit.local.denial_counters import DenialCounters
from ratelimit.local.key_cache import IndexLookUp, KeyCache
from ratelimit.local.leases import Lease, Leases
from ratelimit.local.replicas import Replicas
from ratelimit.local.unmatched_methods import UnmatchedMethods
from ratelimit.model import MICROSECONDS, Caller, Identity
from ratelimit.registry.key_values import could_be_value
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.windows import DAY_US, DAYS_KEPT, day_of
from ratelimit.scripts import ScriptCall, load
from ratelimit.validation import shown

log = logging.getLogger("ratelimit")

_new = object.__new__
_JUDGED = frozenset({protocol.DENIED, protocol.ADMITTED, protocol.ADMITTED_DAY_OVER, protocol.WOULD_ADMIT})
_MAX_ATTEMPTS = 8
_MAX_PREPARED = 100_000
_MAX_WARNED = 100
_MIN_LIFETIME_US, _MAX_LIFETIME_US = 60 * MICROSECONDS, validation.EXACT // 2

PendingCheck = tuple[ScriptCall, PreparedCheck, KnownStates | None, int, int, Caller, str, str, SharedVerdict | None]
"""A check to be sent: its call first, the rest is for `Checker.finish`. A tuple, for one is made for each check."""


class JudgeCaller(Protocol):
    """Decides a check that Redis gave no answer to."""

    def __call__(
        self, error: StoreError, key: Caller, stage: str, method: str, cost: int, *, peek: bool = False
    ) -> Decision:
        """Return the decision."""


class Checker:
    """Decides requests. Safe between threads, and after a fork.

    Attributes:
        keys: The keys that this process has met.
        limits: The limits that were compiled.
        denial_cache: The last states seen, by which callers that are known to be out of limit are denied locally.
        denials: Counts denials until they are added to Redis.
        leases: The leases that this process holds.
        slots: Sends checks whose limits are spread over slots.
        unmatched: Counts checks whose method is none.
        judge_caller: Decides a check, or a peek, that gets no answer.
    """

    def __init__(
        self,
        namespace: Namespace,
        max_age: float,
        replicas: Replicas,
        *,
        denial_cache: bool,
        on_unavailable: OnUnavailable,
        stale_catalogue_s: float,
    ) -> None:
        self._namespace = namespace
        self._catalog_refresh = CatalogRefresh(namespace, stale_catalogue_s)
        self._on_unavailable = on_unavailable
        self._replicas = replicas
        self._max_age_us = int(max_age * MICROSECONDS)
        self.keys = KeyCache(namespace)
        self.limits = CompiledLimitsCache(namespace)
        self._prepared: BoundedCache[tuple[Caller, str, str], PreparedCheck] = BoundedCache(_MAX_PREPARED)
        # Of an identity's hash: no replica has a catalogue older than `max_age`, and it is put off each half minute.
        self._least_lifetime_us = min(max(_MIN_LIFETIME_US, 2 * self._max_age_us), _MAX_LIFETIME_US)
        self._warned_plans: set[str] = set()
        self._server_checked = self._is_script_unknown = False
        self.denial_cache = DenialCache(namespace, max_age, is_on=denial_cache)
        self.denials = DenialCounters(namespace.names)
        self.leases = Leases(namespace)
        self.slots = SlotChecks(namespace)
        self.unmatched = UnmatchedMethods()
        self._unlisted_methods = self.unmatched.methods
        self.judge_caller: JudgeCaller = _closed
        namespace.on_change = WeakMethod(self._forget_changed)

    def begin(self, key: Caller, stage: str, method: str, cost: int) -> Decision | PendingCheck | Operation[Decision]:
        """Start a check.

        Returns:
            The decision, if this process can make it; a check that is to be sent, whose reply goes to `finish` (or
            which goes to `abandon`, if none comes); or else an operation that is to be run.
        """
        namespace = self._namespace
        now_us = namespace.age_us()
        snapshot = namespace.snapshot
        try:
            bucket_method = snapshot.bucket_methods[stage].get(method, OTHERS)
            if bucket_method is OTHERS and method not in self._unlisted_methods:
                self.unmatched.add(method)
            prepared = self._prepared.get((key, stage, bucket_method))
        except TypeError:
            prepared = None  # no text: `check` says so
        if prepared is None or type(cost) is not int or cost <= 0 or prepared.snapshot is not snapshot:
            return self.check(key, stage, method, cost)
        loaded_us = namespace.loaded_us  # as `Namespace.is_stale`
        if loaded_us is None or not 0 <= now_us - loaded_us < self._max_age_us:
            return self.check(key, stage, method, cost)
        if prepared.cached_key is not None and not prepared.cached_key.is_valid:
            return self.check(key, stage, method, cost)
        if prepared.spread is not None:
            return self._begin_spread(prepared, key, stage, method, cost, now_us)
        if prepared.lease is not None:
            leased: Decision | None = prepared.lease.spend(cost, now_us) if prepared.lease.units else None
            return self.check(key, stage, method, cost) if leased is None else leased
        denial_cache = self.denial_cache
        states = None
        if denial_cache.is_active:
            denial = self._known_denial(prepared, cost, now_us)
            if denial is not None:
                return denial
            states = denial_cache.states_for(prepared, now_us)
        call = prepared.to_script_call(namespace, cost)
        return call, prepared, states, now_us, cost, key, stage, method, None

    def _begin_spread(
        self, prepared: PreparedCheck, key: Caller, stage: str, method: str, cost: int, now_us: int
    ) -> Decision | PendingCheck | Operation[Decision]:
        """Start a check whose limits are spread over slots."""
        spread, denial_cache, states = prepared.spread, self.denial_cache, None
        if spread is None or spread.own is None or prepared.lease is not None:
            return self.check(key, stage, method, cost)
        if denial_cache.is_active:
            denial = self._known_denial(prepared, cost, now_us)
            if denial is not None:
                return denial
        if spread.bound is not None and not self.slots.identities.is_known(prepared.key_id, now_us):
            return self.check(key, stage, method, cost)
        if denial_cache.is_active:
            states = denial_cache.states_for(prepared, now_us)
        verdict = self.slots.take(spread, cost, now_us)
        if verdict is None:
            return self._check_spread(prepared, key, stage, method, cost, None)
        if verdict.denying is not None:
            latest = self.denial_cache.numbers(prepared, now_us)
            shared_denial = latest and self.slots.known_denial(prepared, verdict, *latest, cost)
            if shared_denial is None:
                return self._check_spread(prepared, key, stage, method, cost, verdict)
            return self._counted(prepared, *shared_denial)
        call = prepared.to_script_call(self._namespace, cost)
        return call, prepared, states, now_us, cost, key, stage, method, verdict

    def finish(self, pending: PendingCheck, reply: protocol.Reply) -> Decision | Operation[Decision]:
        """Return the decision in the reply to a pending check, or an operation that is to be run for it."""
        prepared, denial_cache = pending[1], self.denial_cache
        if prepared.spread is not None:
            return self._finish_spread(pending, reply)
        if type(reply) is bytes and len(reply) == prepared.limits.states_size:
            if denial_cache.is_active:
                denial_cache.record(prepared, pending[2], reply, pending[3])
            limits = prepared.limits
            prepared.last_reply = limits.last_reply = reply
            prepared.sent_us = limits.sent_us = pending[3]
            # As LazyAdmission(prepared.limits, reply), without a call of its __init__: most checks end here.
            admission = _new(LazyAdmission)
            admission._decoder, admission._reply, admission._statuses = limits, reply, None
            return admission
        _, _, states, sent_us, cost, key, stage, method, _ = pending
        denial_cache.record(prepared, states, reply, sent_us)
        _note(prepared, reply, sent_us)
        denied = self._denied(prepared, reply, cost)
        return self._decide_request(key, stage, method, cost, prepared, reply) if denied is None else denied

    def _finish_spread(self, pending: PendingCheck, reply: protocol.Reply) -> Decision | Operation[Decision]:
        """As `finish`, of a check whose limits are spread over slots."""
        _, prepared, states, sent_us, cost, key, stage, method, verdict = pending
        if verdict is not None:
            reply = self.slots.settle(prepared, reply, cost, verdict)
        self.denial_cache.record(prepared, states, reply, sent_us)
        _note(prepared, reply, sent_us)
        denied = self._denied(prepared, reply, cost)
        if denied is not None:
            return denied
        if self.slots.is_all_done(reply):
            return _decision(prepared, reply, cost)
        return self._decide_request(key, stage, method, cost, prepared, reply)

    def _check_spread(
        self,
        prepared: PreparedCheck,
        key: Caller,
        stage: str,
        method: str,
        cost: int,
        verdict: SharedVerdict | None,
    ) -> Operation[Decision]:
        """Decide a check whose shared limits deny it from memory, or have to be asked: that is known already."""
        reply = yield from self._recorded(prepared, self.slots.send(prepared, cost, verdict=verdict))
        return (yield from self._decide_request(key, stage, method, cost, prepared, reply))

    def _decide_request(
        self, key: Caller, stage: str, method: str, cost: int, prepared: PreparedCheck, reply: protocol.Reply
    ) -> Operation[Decision]:
        """Decide a request of which an attempt was made."""
        if isinstance(key, Identity):
            return self._decide_identity(key, stage, method, cost, prepared, reply)
        return self._decide(key or "", stage, method, cost, prepared, reply)

    def abandon(self, pending: PendingCheck, error: BaseException) -> None:
        """Say that no reply to a pending check will come: unless it was not sent, it may have been charged.

        Raises:
            StoreError: As of `SlotChecks.abandon`.
        """
        prepared, verdict = pending[1], pending[-1]
        self.denial_cache.invalidate(prepared)
        if verdict is not None:
            self.slots.abandon(prepared, verdict, error)

    def check(self, key: Caller, stage: str, method: str, cost: int, *, peek: bool = False) -> Operation[Decision]:
        """Decide one request of `cost` units. `peek`, or a cost of 0 (for one of 1), consumes nothing."""
        validation.cost(cost)
        value = None if isinstance(key, Identity) else key
        validation.texts(value, stage, method)
        if cost == 0:
            cost, peek = 1, True
        namespace = self._namespace
        now_us = namespace.age_us()
        index = yield from self._refresh(value, now_us)
        if not namespace.snapshot.method(stage, method).key_required:
            return (yield from self._check_without_key(stage, method, cost, peek=peek))
        if isinstance(key, Identity):
            return (yield from self._decide_identity(key, stage, method, cost, peek=peek))
        if not key:
            return self.forbidden("missing", peek=peek)
        if not could_be_value(key) or self.keys.is_absent(key, now_us):
            return self.forbidden("unknown", peek=peek)
        prepared = self._with_lease(key, stage, method)
        if prepared is None:
            return (yield from self._decide(key, stage, method, cost, index=index, peek=peek))
        return (yield from self._check_leased(prepared, key, stage, method, cost, peek=peek))

    def check_shared(self, key: Caller, stage: str, cost: int, *, key_required: bool) -> Operation[Decision]:
        """Decide a request that matched no route by what all callers share: the stage's bucket "*" and the account.

        Args:
            key: Who calls, as for `check`.
            stage: The stage.
            cost: Units to consume; 0 is a peek.
            key_required: Whether the caller has to be one that opens the stage. Its plan and quota are charged nothing.
        """
        if key_required:
            try:
                decision = yield from self.check(key, stage, OTHERS, cost, peek=True)
            except StoreError as error:
                if not self._namespace.has_slots:
                    raise
                return (yield from self._check_shared_of_unanswered(error, key, stage, cost))
            if decision.detail is not None:
                return self.forbidden(decision.detail, peek=not cost)
        else:
            validation.cost(cost)
            validation.texts(None if isinstance(key, Identity) else key, stage, OTHERS)
            yield from self._refresh(None, self._namespace.age_us())
        return (yield from self._check_without_key(stage, OTHERS, cost or 1, peek=not cost))

    def _check_shared_of_unanswered(self, error: StoreError, key: Caller, stage: str, cost: int) -> Operation[Decision]:
        """As `check_shared`, for a caller whose own server gave no answer: what callers share may lie at others."""
        caller = self.judge_caller(error, key, stage, OTHERS, cost, peek=True)
        if caller.detail is not None or caller.reason is Reason.UNAVAILABLE:
            return caller
        decision = yield from self._check_without_key(stage, OTHERS, cost or 1, peek=not cost)
        if not decision.degraded:
            decision.source, decision.cause, decision.error = "local", error.cause, str(error)
        return decision

    def warm_up(self) -> Operation[None]:
        """Do what precedes the first check: load the catalogue and the scripts, and try what checks do.

        Raises:
            StoreError: With all that is wrong, and what to do about each.
            ConfigError: The pepper is not the one that the keys were stored with.
        """
        for memory in (yield from warm_up(self._namespace)):
            self._warn_of_eviction(memory)
        yield from self._replicas.renew()

    def upkeep(self, *, last: bool = False) -> Operation[None]:
        """Do what is due now and then, or at the end: return leases that are over, add denials to Redis."""
        yield from self.leases.return_unspent(all_of_them=last)
        yield from self.slots.shared.upkeep(last=last)
        yield from self.denials.flush()

    def prepared(self, key: Caller, stage: str, method: str) -> PreparedCheck | None:
        """Return the prepared check for this method, or for another unlisted one if it is unlisted."""
        return self._prepared.get((key, stage, self._namespace.snapshot.bucket_method(stage, method)))

    def prepared_checks(
        self, callers: Iterable[Caller], stage: str, methods: Collection[str]
    ) -> Iterator[PreparedCheck]:
        """Yield the prepared checks of some callers for some methods as `CatalogSnapshot.bucket_method` names them."""
        for key, method in product(callers, methods):
            prepared = self._prepared.get((key, stage, method))
            if prepared is not None:
                yield prepared

    def configured_names(self, key: Caller, stage: str, method: str) -> tuple[str, str, str]:
        """Return plan, stage and method of a request that was checked, as far as they are configured.

        The plan is "" if none applied, the others are "*" for what is configured nowhere: they are few, whoever calls.
        """
        snapshot = self._namespace.snapshot
        prepared = self.prepared(key, stage, method)
        plan_id = "" if prepared is None else prepared.plan_id
        return plan_id, snapshot.bucket_stage(stage), snapshot.bucket_method(stage, method)

    def _with_lease(self, key: str, stage: str, method: str) -> PreparedCheck | None:
        """Return the prepared check of a request if it is valid and may hold a lease."""
        cached_key, prepared = self.keys.get(key), self.prepared(key, stage, method)
        if cached_key is None or prepared is None or prepared.lease is None:
            return None
        is_valid = prepared.snapshot is self._namespace.snapshot and prepared.cached_key is cached_key
        return prepared if is_valid else None

    def _check_leased(
        self, prepared: PreparedCheck, key: str, stage: str, method: str, cost: int, *, peek: bool
    ) -> Operation[Decision]:
        """Decide from units that are held, else by Redis, which may be requested to prepay some."""
        lease: Lease = prepared.lease
        if prepared.spread is not None:
            leased = None if peek else (yield from self.slots.spend_lease(prepared, lease, cost))
        else:
            leased = lease.spend(cost, self._namespace.age_us(), peek=peek)
        if leased is not None:
            return leased
        if peek:
            return (yield from self._decide(key, stage, method, cost, peek=True))
        denies_unknown = (
            self._namespace.snapshot.on_unavailable(stage, prepared.plan_id, self._on_unavailable) == "closed"
        )
        send = partial(self._send_leased, cost)
        reply = yield from self.leases.check(prepared, lease, cost, send, denies_unknown=denies_unknown)
        return (yield from self._decide(key, stage, method, cost, prepared, reply))

    def _known_denial(self, prepared: PreparedCheck, cost: int, now_us: int) -> Decision | None:
        """Return the denial of a request if it is certain in this process; `now_us` is `Namespace.age_us`."""
        denial = self.denial_cache.deny(prepared, cost, now_us)
        return None if denial is None else self._counted(prepared, *denial)

    def _counted(self, prepared: PreparedCheck, denial: Decision, server_us: int) -> Decision:
        """Count a denial, and return it."""
        self.denials.add(server_us // DAY_US, prepared.plan_id, prepared.denied_id, denial.reason)
        return denial

    def _forget_changed(self, key_id: str | None) -> None:
        self.denial_cache.forget(key_id)
        self.leases.end(key_id)
        self.keys.forget_changed(key_id)

    def _refresh(self, key: str | None, now_us: int) -> Operation[IndexLookUp | None]:
        """Load the catalogue if it may be outdated; before the first check return the look-up of its key as well."""
        namespace = self._namespace
        if not namespace.is_refreshed:
            return (yield from self._first_reads(key))
        if namespace.is_stale(self._max_age_us, now_us):
            yield from self._catalog_refresh.refresh(now_us) if namespace.has_slots else namespace.refresh()
        return None

    def _first_reads(self, key: str | None) -> Operation[IndexLookUp | None]:
        """Read all that the first check needs to know, in one round trip; return the look-up of its key."""
        namespace, index = self._namespace, None
        if key and could_be_value(key):
            index = self.keys.index_look_up(key)
        queries = list(index.queries) if index else []
        if namespace.is_first_load_under_way:
            # Another caller is loading the catalogue. Where replies come in order, it arrives before this one.
            reads = KeyLookUps if index else BatchableReads
            _, *entries = yield reads((namespace.version_query(), *queries))
            if not namespace.is_refreshed:
                yield from namespace.first_load()
        else:
            check = load("check")
            further = [*queries, ("INFO", "memory"), ("EVALSHA", check.sha, 0), self._replicas.command()]
            *entries, memory, probe, count = yield from namespace.first_load(further)
            self._replicas.note(count)
            self._warn_of_eviction(memory)
            self._is_script_unknown = isinstance(probe, UnknownScriptError)
        if index is None:
            return None
        index.note(entries)
        return index

    def _warn_of_eviction(self, memory: bytes | str | StoreError) -> None:
        """Warn, once, of a server that may evict counts and keys; `memory` is the reply to INFO."""
        if self._server_checked or isinstance(memory, StoreError):  # not permitted, or not known to this server
            return
        self._server_checked = True
        policy = info_fields(text(memory) or "").get("maxmemory_policy") or "noeviction"
        if policy != "noeviction":
            log.warning(
                "this Redis may evict keys under memory pressure (maxmemory-policy %s), and with them limits, counts "
                "and API keys: set maxmemory-policy noeviction",
                policy,
            )

    def _check_without_key(self, stage: str, method: str, cost: int, *, peek: bool) -> Operation[Decision]:
        """A method that needs no key: only the limits that all callers share."""
        for _ in range(_MAX_ATTEMPTS):
            prepared = self.prepare_without_key(stage, method)
            if self.denial_cache.is_active and not peek:
                denial = self._known_denial(prepared, cost, self._namespace.age_us())
                if denial is not None:
                    return denial
            reply = yield from self._send(prepared, cost, protocol.PEEK if peek else 0)
            if protocol.status(reply) != protocol.CATALOG_BEHIND:  # else the newer one is known by now
                return (yield from self._judged(prepared, reply, cost, peek=peek))
        raise StoreError(f"the catalogue changed {_MAX_ATTEMPTS} times during one check")

    def _send(self, prepared: PreparedCheck, cost: int, flags: int = 0) -> Operation[protocol.Reply]:
        """Send a prepared check, or a peek; `flags` are those of the script."""
        if prepared.spread is None:
            sending = self._send_to_one(prepared.to_script_call(self._namespace, cost, flags))
        elif flags & protocol.PEEK:
            sending = self.slots.peek(prepared, cost, flags)
        else:
            sending = self.slots.send(prepared, cost, flags)
        if not flags & protocol.PEEK:
            return (yield from self._recorded(prepared, sending))
        sent_us = self._namespace.age_us()
        reply = yield from sending
        _note(prepared, reply, sent_us)
        return reply

    def _send_leased(
        self, shared_cost: int, prepared: PreparedCheck, cost: int, *, call: ScriptCall | None = None
    ) -> Operation[protocol.Reply]:
        """Send a prepared check that requests a lease, of a request of `shared_cost`; see `leases.Send`.

        What all callers share is not part of a key's lease where it lies in another slot.
        """
        if prepared.spread is None:
            sending = self._send_to_one(call or prepared.to_script_call(self._namespace, cost))
        else:
            # What it demands was counted by `SlotChecks.spend_lease`.
            sending = self.slots.send(prepared, cost, call=call, shared_cost=shared_cost, is_counted=True)
        return self._recorded(prepared, sending)

    def _recorded(self, prepared: PreparedCheck, sending: Operation[protocol.Reply]) -> Operation[protocol.Reply]:
        """Send a check, and record the states in its reply."""
        denial_cache, sent_us = self.denial_cache, self._namespace.age_us()
        states = denial_cache.states_for(prepared, sent_us) if denial_cache.is_active else None
        try:
            reply = yield from sending
        except BaseException:
            denial_cache.invalidate(prepared)
            raise
        denial_cache.record(prepared, states, reply, sent_us)
        _note(prepared, reply, sent_us)
        return reply

    def _send_bounded(self, prepared: PreparedCheck, cost: int, flags: int) -> Operation[protocol.Reply]:
        """Send a check of an identity, which is denied if its plan has as many as it may have: the script says so.

        But not where they are counted in another slot: then this process compares.
        """
        bound = prepared.spread and prepared.spread.bound
        if bound is None or not (yield from self.slots.identities.is_beyond(prepared, bound)):
            return (yield from self._send(prepared, cost, flags))
        reply = yield from self._send(prepared, cost, flags | protocol.PEEK)
        if isinstance(reply, list) and protocol.status(reply) == protocol.WOULD_ADMIT:
            reply[0] = protocol.TOO_MANY_IDENTITIES
        return reply

    def _send_to_one(self, call: ScriptCall) -> Operation[protocol.Reply]:
        """Send the call of a check that one script judges."""
        if self._is_script_unknown:
            self._is_script_unknown, call = False, call.with_source()
        reply: protocol.Reply = yield call
        return reply

    def _decide(
        self,
        key: str,
        stage: str,
        method: str,
        cost: int,
        prepared: PreparedCheck | None = None,
        reply: protocol.Reply | None = None,
        *,
        index: IndexLookUp | None = None,
        peek: bool = False,
    ) -> Operation[Decision]:
        """Decide by the cached key, and read it and the catalogue anew as often as the script calls them outdated.

        `prepared` and `reply` are of an attempt that was made already, `index` is a look-up that was made already.
        """
        namespace = self._namespace
        cached_key = self.keys.get(key)
        just_read = nothing_newer = False
        for _ in range(_MAX_ATTEMPTS):
            if reply is None or prepared is None:
                prepared = self.prepare_key(key, cached_key, stage, method)
                if prepared is None:
                    if just_read:
                        return self.forbidden(self.key_detail(cached_key, stage, method), peek=peek)
                    # 403 is never answered from memory: the key may have been changed this very moment.
                    if cached_key is None or index is not None:
                        look_up = self.keys.look_up(key, cached_key, index, may_repair=not peek)
                    else:
                        look_up = self.keys.confirm(key, cached_key, may_repair=not peek)
                    cached_key, just_read, index = (yield from look_up), True, None
                    continue
                flags = (protocol.NOTHING_NEWER if nothing_newer else 0) | (protocol.PEEK if peek else 0)
                reply = yield from self._send(prepared, cost, flags)
            status, now_us = protocol.status(reply), prepared.limits.time_us(reply)
            if status >= protocol.DENIED:
                self._prepared.put((key, stage, namespace.snapshot.bucket_method(stage, method)), prepared)
                return (yield from self._judged(prepared, reply, cost, peek=peek))
            reply = None
            if status == protocol.KEY_EXPIRED and prepared.cached_key is not None:
                self._prepared.forget((key, stage, namespace.snapshot.bucket_method(stage, method)))
                return self.forbidden(prepared.cached_key.expire(now_us, namespace.age_us()), peek=peek)
            if status == protocol.CATALOG_BEHIND:
                # The key was charged under a newer catalogue. If there is nothing newer now, the server lost it.
                nothing_newer = (yield from namespace.load_newer()) is prepared.snapshot
            elif status == protocol.WINDOWS_PAST:
                prepared.script_limits.update_windows(now_us)
            else:
                look_up = self.keys.look_up(key, cached_key, may_repair=not peek)
                cached_key, just_read = (yield from look_up), True
        raise StoreError(f"the key's record or the catalogue changed {_MAX_ATTEMPTS} times during one check")

    def _decide_identity(
        self,
        identity: Identity,
        stage: str,
        method: str,
        cost: int,
        prepared: PreparedCheck | None = None,
        reply: protocol.Reply | None = None,
        *,
        peek: bool = False,
    ) -> Operation[Decision]:
        """Decide by the catalogue, as `_decide`: an identity has no record that could be outdated.

        Whether its plan opens the stage is answered from memory: what widens its rights is pushed.
        """
        namespace, nothing_newer = self._namespace, False
        for _ in range(_MAX_ATTEMPTS):
            if reply is None or prepared is None:
                prepared = self.prepare_identity(identity, stage, method)
                if prepared is None:
                    return self.forbidden(self.identity_detail(identity, stage), peek=peek)
                flags = (protocol.NOTHING_NEWER if nothing_newer else 0) | (protocol.PEEK if peek else 0)
                reply = yield from self._send_bounded(prepared, cost, flags)
            status, now_us = protocol.status(reply), prepared.limits.time_us(reply)
            if status >= protocol.DENIED:
                self._prepared.put((identity, stage, namespace.snapshot.bucket_method(stage, method)), prepared)
                return (yield from self._judged(prepared, reply, cost, peek=peek))
            reply = None
            if status == protocol.CATALOG_BEHIND:
                nothing_newer = (yield from namespace.load_newer()) is prepared.snapshot
            elif status == protocol.WINDOWS_PAST:
                prepared.script_limits.update_windows(now_us)
            else:
                raise StoreError("Redis holds something else where an identity's hash belongs: delete it")
        raise StoreError(f"the catalogue changed {_MAX_ATTEMPTS} times during one check")

    def prepare_key(self, key: str, cached_key: CachedKey | None, stage: str, method: str) -> PreparedCheck | None:
        """Return the prepared check of a request, None if the key does not open the method as far as is known."""
        if cached_key is None or self._denial_detail(cached_key):
            return None
        snapshot = self._namespace.snapshot
        former = self.prepared(key, stage, method)
        if former is not None and former.snapshot is snapshot and former.cached_key is cached_key:
            return former  # with the lease that it may hold
        prepared = self.prepare_by_record(cached_key, stage, method)
        plan = None if prepared is None else snapshot.plans[prepared.plan_id]
        if prepared is not None and plan is not None and plan.lease and plan.shadow is None:
            prepared.lease = Lease(plan.lease)  # a shadow judges requests one by one
        return prepared

    def prepare_by_record(self, cached_key: CachedKey, stage: str, method: str) -> PreparedCheck | None:
        """Return a prepared check of a key; None if its plans do not open the method."""
        snapshot = self._namespace.snapshot
        plan = snapshot.plan_for(cached_key.record.plans, stage)
        if plan is None or snapshot.denies(plan, stage, method):
            return None
        limits = self.limits.get(snapshot, plan, stage, method)
        keys = limits.script_keys(self._namespace.names.key_hash(cached_key.record.id))
        return PreparedCheck(snapshot, cached_key, plan, limits, keys)

    def prepare_without_key(self, stage: str, method: str) -> PreparedCheck:
        """Return a prepared check by what all callers share."""
        snapshot = self._namespace.snapshot
        limits = self.limits.get(snapshot, None, stage, method)
        return PreparedCheck(snapshot, None, None, limits, limits.shared_keys)

    def prepare_identity(self, identity: Identity, stage: str, method: str) -> PreparedCheck | None:
        """Return the prepared check of a request, None if the identity's plan does not open the method."""
        namespace, snapshot = self._namespace, self._namespace.snapshot
        former = self.prepared(identity, stage, method)
        if former is not None and former.snapshot is snapshot:
            return former
        plan = snapshot.plan_for([identity.plan], stage)
        if plan is None or snapshot.denies(plan, stage, method):
            return None
        limits = self.limits.get(snapshot, plan, stage, method, is_identity=True)
        own_id = namespace.identity_id(identity)
        keys = limits.script_keys(namespace.names.key_hash(own_id))
        return PreparedCheck(snapshot, None, plan, limits, keys, own_id, self._least_lifetime_us)

    def _denied(self, prepared: PreparedCheck, reply: protocol.Reply, cost: int) -> Decision | None:
        """Return the decision in a reply that denies, and count it; None for any other reply."""
        if protocol.status(reply) not in (protocol.DENIED, protocol.TOO_MANY_IDENTITIES):
            return None
        decision = _decision(prepared, reply, cost)
        day = day_of(prepared.limits.time_us(reply))
        self.denials.add(day, prepared.plan_id, prepared.denied_id, decision.reason)
        return decision

    def _judged(self, prepared: PreparedCheck, reply: protocol.Reply, cost: int, *, peek: bool) -> Operation[Decision]:
        """Return the decision in a reply that judged, and do what else is due with it."""
        denied = None if peek else self._denied(prepared, reply, cost)
        if denied is not None:
            return denied
        if protocol.status(reply) == protocol.ADMITTED_DAY_OVER:
            yield from self._archive(prepared.key_id, day_of(prepared.limits.time_us(reply)))
        if prepared.spread is not None:
            yield from self.slots.after(prepared, reply)
        return _decision(prepared, reply, cost)

    def _archive(self, key_id: str, today: int) -> Operation[None]:
        """Move the key's days that are over off the path of its checks: once per key and day."""
        keys = (self._namespace.names.key_hash(key_id), self._namespace.names.key_days(key_id))
        with contextlib.suppress(StoreError):  # the next day's end will move them too
            yield ScriptCall(load("archive"), keys, (str(today - DAYS_KEPT),))

    def _warn_of_plan(self, plan_id: str, stage: str) -> None:
        """Warn, once for each plan, of identities that it opens nothing for: nobody manages these one by one."""
        if plan_id in self._warned_plans or len(self._warned_plans) >= _MAX_WARNED:
            return
        self._warned_plans.add(plan_id)
        is_known = plan_id in self._namespace.snapshot.plans
        problem = f"that plan does not open the stage {shown(stage)}" if is_known else "there is no such plan"
        log.warning("identities of plan %r are denied with 403 (no_plan_for_stage): %s", plan_id, problem)

    def _denial_detail(self, cached_key: CachedKey) -> Detail | None:
        return cached_key.denial_detail(self._namespace.age_us(), self._max_age_us)

    def key_detail(self, cached_key: CachedKey | None, stage: str, method: str) -> Detail:
        """Return why a key does not open a method: the same in whatever order things are asked about it."""
        if cached_key is None:
            return "unknown"
        snapshot, record = self._namespace.snapshot, cached_key.record
        if record.enabled:
            plan = snapshot.plan_for(record.plans, stage)
            if plan is None:
                return "no_plan_for_stage"
            if snapshot.denies(plan, stage, method):
                return "method_not_listed"
        return self._denial_detail(cached_key) or "unknown"

    def identity_detail(self, identity: Identity, stage: str) -> Detail:
        """Return why an identity does not open a method; warn of a plan that opens nothing."""
        if self._namespace.snapshot.opens(identity.plan, stage):
            return "method_not_listed"
        self._warn_of_plan(identity.plan, stage)
        return "no_plan_for_stage"

    def forbidden(self, detail: Detail, *, peek: bool) -> Decision:
        """Return the decision about a key that is not accepted, and count it unless it is a peek."""
        if not peek:
            self.denials.add(day_of(self._namespace.wall_us()), "", "", detail)
        return Decision(Reason.INVALID_KEY, detail=detail)


def _decision(prepared: PreparedCheck, reply: protocol.Reply, cost: int) -> Decision:
    """Return the decision in a reply."""
    decision = prepared.limits.decision(reply, cost)
    return reply.mark(decision) if isinstance(reply, JoinedReply) else decision


def _note(prepared: PreparedCheck, reply: protocol.Reply, sent_us: int) -> None:
    """Note a reply that judged a check: should Redis go away, its states are the last that are known."""
    if isinstance(reply, JoinedReply) and not reply.is_timed and reply.source != "lease":
        return  # this process' own word, by what it knew before: no server has answered
    if protocol.status(reply) in _JUDGED:
        prepared.last_reply = prepared.limits.last_reply = reply
        prepared.sent_us = prepared.limits.sent_us = sent_us


def unavailable(error: StoreError) -> Decision:
    """Return the decision that closes, for a store that gives no answer to go by."""
    return Decision(Reason.UNAVAILABLE, source="fail_closed", cause=error.cause, error=str(error))


def _closed(error: StoreError, *_: object, **__: object) -> Decision:
    return unavailable(error)
