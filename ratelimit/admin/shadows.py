"""What a plan that is tried out would have denied. Counted by the script of the decision, read here. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.admin.commit import existing_plan
from ratelimit.admin.preconditions import ANYTHING, Expectation, refuse_other
from ratelimit.effects import Operation, texts
from ratelimit.errors import ConfigError
from ratelimit.model import UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import method_field, plan_field, shadow_field
from ratelimit.scripts import load

_PAGE = 500


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """Requests of one key: how many its plan's shadow saw (all that were admitted), and would have denied.

    throttled  because a bucket of the shadow was empty
    exceeded   because its quota was used up
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
    """The shadows of one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._names = namespace.names

    def shadow_counts(self, plan_id: str) -> Operation[list[ShadowCounts]]:
        """Return the counts of every key of a plan whose shadow saw anything, the most denied first."""
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        if plan.shadow is None:
            raise ConfigError(
                f"plan {plan_id!r} has no shadow: give it one (shadow = another plan's id)", field="plan_id"
            )
        (members,) = yield [("SMEMBERS", self._names.plan_keys(plan_id))]
        key_ids = sorted(texts(list(members)))
        field, script = shadow_field(plan_field(plan.shadow)), load("shadow_counts").source
        found = list[ShadowCounts]()
        for at in range(0, len(key_ids), _PAGE):
            page = key_ids[at : at + _PAGE]
            replies = yield [("EVAL", script, 1, self._names.key_hash(key_id), field) for key_id in page]
            found += [ShadowCounts(key_id, *reply) for key_id, reply in zip(page, replies, strict=True)]
        return sorted((counts for counts in found if counts.seen), key=lambda counts: (-counts.denied, counts.key_id))

    def reset_shadow(self, plan_id: str, expected: UsagePlan | Expectation = ANYTHING) -> Operation[None]:
        """Forget what a plan's shadow counted, and its buckets: the trial starts anew."""
        plan = existing_plan((yield from self._namespace.load()), plan_id)
        refuse_other(plan, expected, f"plan {plan_id!r}", "plan_id")
        if plan.shadow is None:
            raise ConfigError(f"plan {plan_id!r} has no shadow", field="plan_id")
        (members,) = yield [("SMEMBERS", self._names.plan_keys(plan_id))]
        namespace, buckets = shadow_field(plan_field(plan.shadow)), shadow_field(method_field(plan.shadow, "", ""))[:-1]
        for key_id in texts(list(members)):
            (fields,) = yield [("HKEYS", self._names.key_hash(key_id))]
            gone = [field for field in texts(list(fields)) if field == namespace or field.startswith(buckets)]
            if gone:
                yield [("HDEL", self._names.key_hash(key_id), *gone)]
