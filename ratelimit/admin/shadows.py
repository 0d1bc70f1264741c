"""Shadow plans: what a plan on trial would have denied, as the check script counted it."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.admin.commit import existing_plan
from ratelimit.admin.preconditions import NO_PRECONDITION, NoPrecondition, check_precondition
from ratelimit.admin.reading import records_of
from ratelimit.effects import Operation, texts
from ratelimit.errors import ConfigError
from ratelimit.model import UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import method_field, plan_field, shadow_field
from ratelimit.scripts import load

_KEYS_PER_READ = 500


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """What the shadow of a plan counted for one key, in requests.

    Attributes:
        key_id: The key.
        seen: Requests that the shadow judged: all that the plan itself admitted.
        throttled: Those that it would have denied because a bucket of the shadow was empty.
        exceeded: Those that it would have denied because the shadow's quota was used up.
    """

    key_id: str
    seen: int
    throttled: int
    exceeded: int

    @property
    def denied(self) -> int:
        """Requests that the shadow would have denied."""
        return self.throttled + self.exceeded


class ShadowAdmin:
    """Reads and resets the shadows of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def shadow_counts(self, plan_id: str) -> Operation[list[ShadowCounts]]:
        """Return the counts of each key of a plan for which the shadow saw a request, the most denied first."""
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        if plan.shadow is None:
            raise ConfigError(
                f"plan {plan_id!r} has no shadow: give it one (shadow = another plan's id)", field="plan_id"
            )
        key_ids = yield from self._members(plan_id)
        field, script = shadow_field(plan_field(plan.shadow)), load("shadow_counts").source
        counts = list[ShadowCounts]()
        for start in range(0, len(key_ids), _KEYS_PER_READ):
            page = key_ids[start : start + _KEYS_PER_READ]
            replies = yield [("EVAL", script, 1, self._names.key_hash(key_id), field) for key_id in page]
            counts += [ShadowCounts(key_id, *reply) for key_id, reply in zip(page, replies, strict=True)]
        return sorted((each for each in counts if each.seen), key=lambda each: (-each.denied, each.key_id))

    def _members(self, plan_id: str) -> Operation[list[str]]:
        """Return the keys of a plan. Where one script cannot change set and record, the set may name others as well."""
        (members,) = yield [("SMEMBERS", self._names.plan_keys(plan_id))]
        key_ids = sorted(texts(list(members)))
        yield from self._namespace.find_slots()
        if not self._namespace.has_slots:
            return key_ids
        verified = list[str]()
        for start in range(0, len(key_ids), _KEYS_PER_READ):
            records = yield from records_of(self._namespace, key_ids[start : start + _KEYS_PER_READ])
            verified += (record.id for record in records if record and record.is_live and plan_id in record.plans)
        return verified

    def reset_shadow(self, plan_id: str, expected: UsagePlan | NoPrecondition = NO_PRECONDITION) -> Operation[None]:
        """Delete what a plan's shadow counted, and its buckets."""
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        check_precondition(plan, expected, f"plan {plan_id!r}", "plan_id")
        if plan.shadow is None:
            raise ConfigError(f"plan {plan_id!r} has no shadow: there is nothing to reset", field="plan_id")
        (members,) = yield [("SMEMBERS", self._names.plan_keys(plan_id))]
        counts, buckets = shadow_field(plan_field(plan.shadow)), shadow_field(method_field(plan.shadow, "", ""))[:-1]
        for key_id in texts(list(members)):
            (fields,) = yield [("HKEYS", self._names.key_hash(key_id))]
            stale = [field for field in texts(list(fields)) if field == counts or field.startswith(buckets)]
            if stale:
                yield [("HDEL", self._names.key_hash(key_id), *stale)]
