"""What Redis holds of identities: how much one used, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from ratelimit.admin.commit import existing_plan
from ratelimit.effects import Operation
from ratelimit.engine.limits import IdentityBound
from ratelimit.errors import ConfigError
from ratelimit.model import Identity
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.windows import EPOCH_ORDINAL, packed_window
from ratelimit.scripts import load
from ratelimit.validation import shown


@dataclass(frozen=True, slots=True)
class IdentityUsage:
    """What an identity used under its plan, as far as Redis still holds it: its days are not stored.

    Attributes:
        day: The last day (UTC) on which a request was admitted; None if nothing is held of it.
        used: Units that were admitted on that day; of a day in whose course its hash expired, since then.
        remaining: Units left of the quota now; None for a plan without a quota.
        expires_after: Seconds after which Redis holds nothing of it any more, unless a request is admitted; None if
            nothing is held, or for a hash that does not expire, under an injected clock.
    """

    day: date | None
    used: int
    remaining: int | None
    expires_after: float | None


def identity_usage(namespace: Namespace, identity: Identity) -> Operation[IdentityUsage]:
    """Return what an identity used, as its hash says."""
    if not isinstance(identity, Identity):
        raise ConfigError(f"must be an Identity, not {shown(type(identity).__name__)}", field="identity")
    plan = existing_plan((yield from namespace.load()), identity.plan)
    names, own_id = namespace.names, namespace.identity_id(identity)
    now_us = yield from namespace.server_us()
    query = ("EVAL", load("usage").source, 2, names.key_hash(own_id), names.key_days(own_id), plan.id)
    reply, milliseconds = yield [query, ("PTTL", names.key_hash(own_id))]
    window, window_used, granted, day, day_used, *_ = reply
    remaining = None
    if plan.quota is not None:
        is_current = window == packed_window(plan.quota, now_us)
        remaining = max(0, plan.quota.limit + (granted - window_used if is_current else 0))
    return IdentityUsage(
        date.fromordinal(day + EPOCH_ORDINAL) if day else None,
        day_used,
        remaining,
        milliseconds / 1000 if milliseconds > 0 else None,
    )


def identity_count(namespace: Namespace, plan_id: str) -> Operation[int | None]:
    """Return about how many identities of a plan have a state; None for a plan whose identities are not counted."""
    bound = IdentityBound.of(existing_plan((yield from namespace.load()), plan_id), namespace.names)
    if bound is None:
        return None
    now_us = yield from namespace.server_us()
    (counted,) = yield [("ZCOUNT", bound.redis_key, now_us + 1, "+inf")]
    return int(counted) * bound.one_in
