"""A prepared check: the call of lua/check.lua for a request, reused for identical requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from ratelimit.engine import protocol
from ratelimit.engine.batch import CheckCall
from ratelimit.engine.cached_key import CachedKey
from ratelimit.engine.limits import CompiledLimits
from ratelimit.engine.spread_limits import SpreadLimits
from ratelimit.model import UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.scripts import LeaseCall, ScriptCall, load

_NO_STAMP = "-" * 8


@final
class PreparedCheck:
    """All of a request but its time and cost. Valid while `snapshot` is in force and `cached_key` is valid.

    Attributes:
        snapshot: The catalogue under which it was prepared.
        cached_key: The caller's key; None for a request that needs no key, and of an identity.
        key_id: Id of that key, or what stands for it of an identity, or "": its states are known by it.
        denied_id: The id for which its denials are counted: "" for an identity, whose are counted by plan alone.
        plan_id: Id of the key's plan that opens the stage, or "".
        limits: The limits that apply.
        spread: The same if they are spread over slots; None if one script judges them all.
        script_limits: Those that the script in the key's slot judges.
        version_token: The catalogue's version and the key's stamp, as the script compares them: 26 bytes.
        is_leased: Whether units of its limits may be returned: nobody leases under a shadow, but some may have before.
        lease: For `local.leases` to keep its lease in.
        denial: For `local.denial_cache` to keep what it computed in.
        last_reply: The last reply that judged it; None if there was none.
        sent_us: When it was sent then, by `Namespace.age_us`.
        valid_until_us: Server time from which on the value does not identify the key; 0 for never.
        until_us: The same; of an identity, for how many microseconds its hash is kept at least.
    """

    __slots__ = (
        "_call",
        "_call_windows",
        "_redis_keys",
        "cached_key",
        "denial",
        "denied_id",
        "is_leased",
        "key_id",
        "last_reply",
        "lease",
        "limits",
        "plan_id",
        "script_limits",
        "sent_us",
        "snapshot",
        "spread",
        "until_us",
        "valid_until_us",
        "version_token",
    )

    def __init__(
        self,
        snapshot: CatalogSnapshot,
        cached_key: CachedKey | None,
        plan: UsagePlan | None,
        limits: CompiledLimits,
        redis_keys: tuple[str, ...],
        identity_id: str = "",
        least_lifetime_us: int = 0,
    ) -> None:
        self.snapshot = snapshot
        self.cached_key = cached_key
        self.key_id = cached_key.record.id if cached_key else identity_id
        self.denied_id = "" if identity_id else self.key_id
        self.plan_id = plan.id if plan else ""
        self.is_leased = bool(plan and plan.lease and cached_key)
        self.limits = limits
        self.spread = limits if isinstance(limits, SpreadLimits) else None
        # Of a request without a key no script is called where limits are spread.
        self.script_limits = (self.spread and self.spread.own) or limits
        self.version_token = f"{snapshot.version_token}{cached_key.record.stamp if cached_key else _NO_STAMP}".encode()
        self.valid_until_us = cached_key.valid_until_us if cached_key else 0
        self.until_us = self.valid_until_us or least_lifetime_us  # what the request has room for
        self.lease: Any = None
        self.denial: Any = None
        self.last_reply: protocol.Reply | None = None
        self.sent_us = 0
        self._redis_keys = redis_keys
        # The call for cost 1 by the server's clock, reused as long as the windows of `limits` are these.
        self._call: ScriptCall | None = None
        self._call_windows: object = None

    def to_script_call(self, namespace: Namespace, cost: int, flags: int = 0) -> ScriptCall:
        """Return the call of check.lua for a cost."""
        limits = self.script_limits
        if self._call_windows is limits.windows and cost == 1 and not flags and self._call is not None:
            return self._call
        args = self._args(namespace, cost, flags)
        if limits.layout is not None and not flags & protocol.PEEK:
            call: ScriptCall = CheckCall(load("check"), self._redis_keys, args, limits.layout)
        else:
            changes_nothing = bool(flags & protocol.PEEK)
            call = ScriptCall(load("check"), self._redis_keys, args, changes_nothing=changes_nothing)
        if cost == 1 and not flags and namespace.clock is None:
            self._call, self._call_windows = call, limits.windows
        return call

    def to_journal_call(
        self, namespace: Namespace, cost: int, spent_us: int, life: str, sequence: int, flags: int = 0
    ) -> ScriptCall:
        """Return the call of charge_journal.lua for units that this process admitted by itself. Safe to send again.

        Args:
            namespace: Names and clock.
            cost: How many units, at least 1.
            spent_us: The server's time, estimated, at which they were spent.
            life: 8 characters of ASCII, random, of this life of the process.
            sequence: From 1, rising within a life: an entry that is not above the highest charged one is not charged.
            flags: NOTHING_NEWER, as for a check.
        """
        limits, names = self.script_limits, namespace.names
        request = limits.journal_request(
            now_us=namespace.script_us(),
            cost=cost,
            valid_until_us=self.until_us,
            flags=flags,
            version_token=self.version_token,
            spent_us=spent_us,
        )
        if self.cached_key is not None:
            keys = (self._redis_keys[0], names.key_days(self.key_id), *self._redis_keys[1:])
        elif self.key_id:
            keys = self._redis_keys
        else:
            keys = (names.journal, *self._redis_keys)
        return ScriptCall(
            load("charge_journal"),
            keys,
            (request, *limits.journal_fields, life, protocol.pack_entry(sequence, spent_us)),
        )

    def to_lease_call(
        self, namespace: Namespace, units: int, note_fields: tuple[str, str], on_late_reply: Callable[[Any], None]
    ) -> ScriptCall:
        """Return the call of check.lua for a lease.

        Args:
            namespace: The namespace.
            units: The cost.
            note_fields: Hash fields of its note and of the note of a lease that is over, or "".
            on_late_reply: As of `LeaseCall`.
        """
        args = (*self._args(namespace, units, protocol.IS_LEASE), *note_fields)
        return LeaseCall(load("check"), self._redis_keys, args, on_late_reply)

    def _args(self, namespace: Namespace, cost: int, flags: int) -> tuple[str | bytes, ...]:
        request = self.script_limits.request(
            now_us=namespace.script_us(),
            cost=cost,
            valid_until_us=self.until_us,
            flags=flags,
            version_token=self.version_token,
            estimate_us=namespace.wall_us,
        )
        return (request, *self.script_limits.fields)
