"""How many identities plans have, where they are counted in other slots than they lie in. No I/O.

Nobody can compare the count and add to it in one step there, so the bound is approximate: a process compares what it
last saw, at most a second ago, with what it has added since.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from ratelimit.effects import BatchableReads, IndependentCommands, Operation, wait_briefly
from ratelimit.engine.limits import CompiledLimits, IdentityBound
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.local import fork_safety
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.windows import window_at
from ratelimit.scripts import Command

_MAX_IDENTITIES = 100_000
_COMPARED_US = MICROSECONDS
PATIENCE_S = 0.01
"""For how long a check waits for the count at most: what it is about lies on another server."""
_COUNTED_US = 30 * MICROSECONDS
"""An identity is counted anew so long after the last time. Its hash lives for longer than that after each charge."""
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class IdentityCounts:
    """What one process knows of the counts. Safe between threads, and after a fork."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._counted_us: BoundedCache[str, int] = BoundedCache(_MAX_IDENTITIES)
        self._counts: dict[str, int] = {}  # members, by Redis key
        self._next_us: dict[str, int] = {}  # when these are compared again
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Make the lock anew."""
        self._lock = Lock()

    def is_known(self, identity_id: str, now_us: int) -> bool:
        """Return whether an identity has been counted of late: it is there, and need not be counted again."""
        counted_us = self._counted_us.get(identity_id)
        return counted_us is not None and 0 <= now_us - counted_us < _COUNTED_US

    def is_beyond(self, prepared: PreparedCheck, bound: IdentityBound) -> Operation[bool]:
        """Return whether a check is of an identity that would be one more than its plan may have."""
        now_us = self._namespace.age_us()
        if self.is_known(prepared.key_id, now_us):
            return False
        with self._lock:
            is_due = now_us >= self._next_us.get(bound.redis_key, now_us)
            if is_due:
                self._next_us[bound.redis_key] = now_us + _COMPARED_US
        if is_due:
            yield from wait_briefly(self._compare(bound.redis_key), PATIENCE_S)
        if self._counts.get(bound.redis_key, 0) * bound.one_in < bound.most:
            return False
        (stamp,) = yield BatchableReads([("HGET", self._namespace.names.key_hash(prepared.key_id), "r")])
        return stamp is None

    def _compare(self, redis_key: str) -> Operation[None]:
        (count,) = yield BatchableReads([("ZCOUNT", redis_key, self._namespace.wall_us() + 1, "+inf")])
        with self._lock:
            self._counts[redis_key] = count

    def note_admitted(self, prepared: PreparedCheck, limits: CompiledLimits, bound: IdentityBound) -> list[Command]:
        """Note that an identity was admitted; return the commands that count it, none if it is counted."""
        now_us, identity_id = self._namespace.age_us(), prepared.key_id
        if self.is_known(identity_id, now_us):
            return []
        self._counted_us.put(identity_id, now_us)
        if not _is_counted(identity_id, bound.one_in):
            return []
        self._add(bound.redis_key, 1)
        member = identity_id.removeprefix("~")
        if self._namespace.clock is not None:  # nothing expires under a caller's clock
            return [("ZADD", bound.redis_key, "+inf", member)]
        server_us = prepared.limits.time_us(prepared.last_reply) if prepared.last_reply else self._namespace.wall_us()
        lifetime_us = prepared.until_us
        for at, limit in zip(limits.numbers_of, limits.limits, strict=True):
            if at.is_bucket and at.rate:
                lifetime_us = max(lifetime_us, at.full // at.rate + 2 * _COUNTED_US)
            elif not at.is_bucket:
                ends_us = window_at(limit.quota, server_us)[1]  # type: ignore[union-attr] # what is no bucket has one
                lifetime_us = max(lifetime_us, ends_us - server_us + 2 * _COUNTED_US)
        return [
            ("ZREMRANGEBYSCORE", bound.redis_key, "-inf", server_us),
            ("ZADD", bound.redis_key, server_us + lifetime_us, member),
            ("PEXPIRE", bound.redis_key, lifetime_us // 1000),
        ]

    def count(self, identity_id: str, bound: IdentityBound, commands: Sequence[Command]) -> Operation[None]:
        """Send what `note_admitted` returned. If that fails, the next check of the identity counts it."""
        added: object = None
        try:
            for command, reply in zip(commands, (yield IndependentCommands(commands)), strict=True):
                added = reply if command[0] == "ZADD" else added
        finally:
            if added != 1:  # it was counted before, or is not
                self._add(bound.redis_key, -1)
            if not isinstance(added, int):
                self._counted_us.forget(identity_id)

    def _add(self, redis_key: str, members: int) -> None:
        with self._lock:
            self._counts[redis_key] = self._counts.get(redis_key, 0) + members


def _is_counted(identity_id: str, one_in: int) -> bool:
    """Return whether an identity is one of those that are counted: chosen by bits of its digest, as the script does."""
    number = 0
    for digit in identity_id[-4:-1]:
        number = number * 64 + _DIGITS.index(digit)
    return number % one_in == 0
