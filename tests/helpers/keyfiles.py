"""Files of keys, and either twin of the catalogue to import them into."""

import asyncio
import io

from helpers.gateway import A, B
from ratelimit import AsyncCatalog, Catalog, Quota, Throttle, UsagePlan
from ratelimit.scripts import ScriptCall

ALPHA, BETA, GAMMA, DELTA = (f"tenant{name}Key000000001" for name in ("Alpha", "Beta-", "Gamma", "Delta"))
GOLD = UsagePlan("gold01", Throttle(10, 5), Quota(100, "DAY"), [A])
TRIAL = UsagePlan("trial7", Throttle(1, 1), Quota(10, "DAY"), [B])
ALSO_A = UsagePlan("other3", Throttle(1, 2), stages=[B, A])
PLANS = (GOLD, TRIAL, ALSO_A)
TENANTS = "".join(f"tenantNumber{i:012},tenant {i},gold01\n" for i in range(150))
MANY = "Key,Name,UsagePlanIds\n" + TENANTS


class Twins:
    """The catalogue of either kind, called as if it were the blocking one."""

    def __init__(self, backend, awaited, **options):
        self.backend, self.awaited, self.options = backend, awaited, options

    def __getattr__(self, name):
        def call(*args, **keywords):
            if not self.awaited:
                with self.backend.client() as client:
                    return getattr(Catalog(client, **self.options), name)(*args, **keywords)

            async def awaiting():
                async with self.backend.async_client() as client:
                    return await getattr(AsyncCatalog(client, **self.options), name)(*args, **keywords)

            return asyncio.run(awaiting())

        return call


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


class Watched:
    """A blocking catalogue whose requests are seen, and during which others can act before a script is run."""

    def __init__(self, catalog, before_script=lambda number: None):
        self.catalog, self.requests, self.scripts = catalog, [], 0
        self.before_script = before_script
        self.answer = catalog._run.__self__._execute
        catalog._run.__self__._execute = self.watch

    def watch(self, request):
        self.requests.append(request)
        if isinstance(request, ScriptCall):
            self.scripts += 1
            self.before_script(self.scripts)
        return self.answer(request)


def once(action, at=2):
    """Have `action` happen before the `at`-th script."""
    return lambda number: action() if number == at else None
