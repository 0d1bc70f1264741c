"""Amounts of work that `growth` compares: limits judged per check, keys stored, plans in the catalogue."""

from dataclasses import dataclass
from functools import cached_property, partial

import loading
from contenders import AMPLE
from ours import METHOD, STAGE

from ratelimit import Catalog, PlanStage, Quota, Stage, Throttle, UsagePlan

KEYS = 50
"""Keys that are checked in a round."""
FEW_KEYS = 1000
_THROTTLE = Throttle(AMPLE.rate, AMPLE.burst)
_QUOTA = Quota(AMPLE.window, "DAY")
MOST_LIMITS = 6
"""Of one check: the plan's bucket or that of the method in its place, the stage's, the account's and the quota, which
can refuse; the bucket and the quota of the plan's shadow, which are judged as well. The model has no more."""


@dataclass(frozen=True)
class Point:
    """One amount of work. `work` is None for what has no place on the axis: then `label` says what it is."""

    series: str
    label: str
    work: int | None
    keys: int
    namespace: str
    prepare: object

    plans: int = 1
    apart: bool = False

    @cached_property
    def numbers(self):
        """Keys to check, all over those that are stored; the last one is to warm up."""
        return [at * (self.keys - 1) // KEYS for at in range(KEYS + 1)]

    def plan_of(self, number):
        """Where a key is. Those that are checked share a plan, unless they are `apart`."""
        return f"plan{number % self.plans if self.apart or number not in self.numbers else 0}"

    def load(self, client):
        """Write its plans and keys."""
        self.prepare(client, self.namespace)
        loading.load_keys(client, self.namespace, self.keys, self.plan_of)

    def values(self):
        """Values of the keys to check; the last one is to warm up."""
        return [loading.value(number) for number in self.numbers]


def _plan(name="plan0", quota=_QUOTA, stages=(STAGE,), **options):
    return UsagePlan(name, _THROTTLE, quota, stages, **options)


def _with_limits(limits, client, namespace, by_method=False, alerts=()):
    """Put a plan whose checks are judged by so many limits."""
    catalog = Catalog(client, namespace=namespace)
    if limits >= 3:
        catalog.put_stage(Stage(STAGE, _THROTTLE))
    if limits >= 4:
        catalog.set_account_throttle(_THROTTLE)
    if limits >= 5:
        catalog.put_plan(_plan("shadow", _QUOTA if limits >= 6 else None))
    stage = PlanStage(STAGE, {METHOD: _THROTTLE} if by_method else {})
    shadow = "shadow" if limits >= 5 else None
    catalog.put_plan(_plan(quota=_QUOTA if limits >= 2 else None, stages=[stage], alerts=alerts, shadow=shadow))


def _with_plans(plans, client, namespace):
    Catalog(client, namespace=namespace).put_plan(_plan())
    loading.load_plans(client, namespace, [_plan(f"plan{number}") for number in range(plans)])


def points(full=False):
    """All series; each begins with the least work and ends with the most."""
    found = [
        Point("limits", f"{n}", n, FEW_KEYS, f"limits{n}", partial(_with_limits, n)) for n in range(1, MOST_LIMITS + 1)
    ]
    found += [
        Point("limits", label, None, FEW_KEYS, namespace, partial(_with_limits, limits, **options))
        for label, namespace, limits, options in (
            ("4, the plan's bucket is one of the method", "method", 4, {"by_method": True}),
            ("6, and 10 alerts", "alerts", 6, {"alerts": range(10, 101, 10)}),
        )
    ]
    most = 6 if full else 4
    for n in (10**power for power in range(2, most + 1)):
        found.append(Point("keys", f"{n:,}", n, n, "keys", partial(_with_plans, 1)))
    for n in (10**power for power in range(5 if full else 4)):
        found.append(Point("plans", f"{n:,}", n, max(n, FEW_KEYS), f"plans{n}", partial(_with_plans, n), n))
    label = f"{n:,}, each key of another plan"
    found.append(Point("plans", label, None, max(n, FEW_KEYS), "apart", partial(_with_plans, n), n, apart=True))
    return found
