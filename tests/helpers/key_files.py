"""Plans, and files of keys to import into them."""

import io

from helpers.gateway import A, B
from ratelimit import Quota, Throttle, UsagePlan

ALPHA, BETA, GAMMA, DELTA = (f"tenant{name}Key000000001" for name in ("Alpha", "Beta-", "Gamma", "Delta"))
GOLD = UsagePlan("gold01", Throttle(10, 5), Quota(100, "DAY"), [A])
TRIAL = UsagePlan("trial7", Throttle(1, 1), Quota(10, "DAY"), [B])
ALSO_A = UsagePlan("other3", Throttle(1, 2), stages=[B, A])
PLANS = (GOLD, TRIAL, ALSO_A)
TENANTS = "".join(f"tenantNumber{i:012},tenant {i},gold01\n" for i in range(150))
MANY = "Key,Name,UsagePlanIds\n" + TENANTS


def with_plans(catalog):
    """Put three plans, of which two open the same stages."""
    for plan in PLANS:
        catalog.put_plan(plan)
    return catalog


def file(text):
    return io.BytesIO(text.encode())


def stored(catalog, report):
    """(name, enabled, plans, description) of each key of a report, in its order."""
    keys = [catalog.get_key(key_id) for key_id in report.ids]
    return [(key.name, key.enabled, key.plans, key.description) for key in keys]
