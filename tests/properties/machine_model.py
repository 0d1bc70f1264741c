"""The two sides that the state machine compares: limiters on a server, and what they should say by the exact model."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from math import inf

from hypothesis.stateful import RuleBasedStateMachine
from properties.machine_inputs import IDENTITIES, PLANS, START_US, IdentityCaller, Key

from ratelimit import AsyncLimiter, Limiter, Reason
from ratelimit.engine.compile import compile_limits
from ratelimit.engine.limits import Bucket
from ratelimit.engine.reference_model import Reference
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import DAY_US, two_windows


class Modelled(RuleBasedStateMachine):
    """The state of both sides, and how they are compared.

    Subclasses set `client`, of a server that nobody else uses, and `async_client`, which makes one of the same.
    """

    client = None
    async_client = None

    def __init__(self):
        super().__init__()
        self.client.flushall()
        self.now_us = START_US
        self.runner = asyncio.Runner()
        self.own_async_client = type(self).async_client()
        # The one that changes the catalogue asks Redis each time. What the others say from memory is the model's too:
        # of one that is `alone`, which then is asked everything, in every field; else it is never too strict.
        options = {"clock": lambda: self.now_us, "deadline": 5.0}
        first = Limiter(self.client, **options, denial_cache=False)
        second = Limiter(self.client, **options)
        self.gathering = AsyncLimiter(self.own_async_client, **options)
        self.alone = None
        self.threads = ThreadPoolExecutor(3)
        self.replicas, self.others, self.catalog = (first, second), (second, self.gathering), first.catalog
        for replica in (first, *self.others):
            replica._namespace.before_refresh = do_nothing  # pushes are delivered by hand: the same run each time
        self.reference = Reference()
        self.plans, self.stages, self.account = {}, {}, None
        self.snapshot = CatalogSnapshot()
        self.metered = {}
        self.known_keys = []
        self.retry_us = None

    def teardown(self):
        try:
            self._compare_usage()
        finally:
            self.threads.shutdown()
            self.runner.run(self.gathering.aclose())
            self.runner.run(self.own_async_client.aclose())
            self.runner.close()

    def _compare_usage(self):
        """Compare what was metered on the last 90 days: earlier ones are forgotten."""
        for identity in IDENTITIES:
            days = [day for owner, plan, day in self.metered if (owner, plan) == (identity.id, identity.newest.plan)]
            usage = self.catalog.identity_usage(identity.newest)
            metered = self.metered.get((identity.id, identity.newest.plan, max(days, default=0)), 0)
            assert (usage.day, usage.used) == (_date(max(days)) if days else None, metered)
        for key_id in {at[0] for at in self.metered if not at[0].startswith("~")}:
            if not any(key.id == key_id and key.deleted for key in self.known_keys):
                last = max(at[2] for at in self.metered if at[0] == key_id)
                days = range(last - 89, last + 1)
                for plan_id in PLANS:
                    usage = self.catalog.usage(plan_id, *map(_date, (days[0], days[-1])), key_id=key_id)
                    metered = [used for used, _ in usage.items[key_id]]
                    assert metered == [self.metered.get((key_id, plan_id, day), 0) for day in days]

    def _judge(self, decision, key, value, stage, method, cost, *, peek=False, is_overtaken=False):
        """Hold a decision against the model, in which it is made now.

        is_overtaken  whether others of the same process were on their way when it was made
        """
        limits, plan_id, refusal = self._limits(key, value, stage, method)
        bound = self._bound(key, plan_id)
        if refusal:
            assert (decision.reason, decision.detail, decision.limits) == (Reason.INVALID_KEY, refusal, ())
            return
        if decision.source == "denial_cache":
            assert cost
            assert not peek
            verdict = would(self.reference, key.id, limits, cost, self.now_us, identity_bound=bound)
            assert decision.time_us is None
            if is_overtaken or not self.alone:
                assert not verdict.allowed
                assert is_not_stricter(decision, verdict), (decision, verdict)
                return
        else:
            if decision.allowed and plan_id and cost and not peek:
                self._meter(key, plan_id, cost)
            ask = would if peek else Reference.check
            verdict = ask(self.reference, key.id, limits, cost, self.now_us, identity_bound=bound)
            assert decision.time_us == self.now_us, decision
        decided, expected = as_told(decision), as_modelled(verdict, limits, self.now_us)
        assert decided == expected, (decided, expected, decision)
        self.retry_us = verdict.retry_us

    def _limits(self, key, value, stage, method):
        """Return the limits of a request, the plan it is charged to, and why it is refused outright."""
        names = self.catalog._plans._names
        at_stage = counted_as(method, self._listed(stage))
        if not self.snapshot.method(stage, at_stage).key_required:
            return compile_limits(self.snapshot, None, stage, at_stage, names).limits, None, None
        plan = self.snapshot.plan_for(key.plans, stage)
        refusal = self._refusal(key, value, plan, stage, method)
        if refusal:
            return (), None, refusal
        own, is_identity = counted_as(method, plan.stage(stage).throttles), isinstance(key, IdentityCaller)
        limits = compile_limits(self.snapshot, plan, stage, own, names, is_identity=is_identity).limits
        if own != at_stage:
            limits = [limit for limit in limits if not limit.name.startswith("stage:")]
            limits += compile_limits(self.snapshot, None, stage, at_stage, names).limits
            limits = {limit.name: limit for limit in sorted(limits, key=layer)}.values()
        return tuple(limits), plan.id, None

    def _listed(self, stage):
        return self.stages[stage].methods if stage in self.stages else {}

    def _refusal(self, key, value, plan, stage, method):
        """Return why a request that needs a key is refused outright, if it is."""
        is_identity = isinstance(key, IdentityCaller)
        until_us = 0 if is_identity else key.values[value]
        if not is_identity and (key.deleted or until_us == -1):
            return "unknown"
        if not is_identity and not key.enabled:
            return "disabled"
        if plan is None:
            return "no_plan_for_stage"
        if self._denies(plan, stage, method):
            return "method_not_listed"
        if not is_identity and key.expires_us is not None and self.now_us >= key.expires_us:
            return "disabled"
        return "unknown" if until_us and self.now_us >= until_us else None

    def _denies(self, plan, stage, method):
        if stage not in self.stages or self.stages[stage].unlisted == "limit":
            return False
        lists = (self._listed(stage), plan.stage(stage).throttles)
        return all(counted_as(method, listed) not in listed for listed in lists)

    def _bound(self, key, plan_id):
        """How many identities there may be of the plan that a request is charged to, if an identity makes it."""
        if plan_id is None or not isinstance(key, IdentityCaller) or self.plans[plan_id].max_identities is None:
            return None
        return plan_id, self.plans[plan_id].max_identities

    def _meter(self, key, plan_id, cost):
        """Days only roll forward: what comes after a step back counts for the latest day."""
        days = [at[2] for at in self.metered if at[:2] == (key.id, plan_id)]
        at = (key.id, plan_id, max([self.now_us // DAY_US, *days]))
        self.metered[at] = self.metered.get(at, 0) + cost

    def _move_to(self, now_us):
        """Set the clock. That it went back, several processes notice only in time: here they are told."""
        if now_us < self.now_us and not self.alone:
            for replica in self.others:
                replica._namespace.on_change_message(None)
        self.now_us = now_us

    def _key_changed(self, key):
        for replica in self.others:
            replica._namespace.on_change_message(f"key:{key.id}")

    def _create(self, plans):
        made = self.catalog.create_key(plans=plans)
        key = Key({made.value: 0}, made.id, plans)
        self.known_keys.append(key)
        return key

    def _put_plan(self, plan):
        self.plans[plan.id] = plan
        self.catalog.put_plan(plan)
        self._changed()

    def _changed(self):
        self.snapshot = CatalogSnapshot(plans=self.plans, stages=self.stages, account=self.account)
        for replica in self.others:
            replica._namespace.on_change_message(None)


def counted_as(method, listed):
    """The method as which a plan or a stage counts one that lists these: HEAD as GET, unless it lists HEAD."""
    return method.replace("HEAD", "GET") if method not in listed else method


def layer(limit):
    """The rank of a limit among those of a request."""
    return ("plan", "stage", "account", "quota").index(limit.name.partition(":")[0])


def _date(day):
    return date.fromordinal(date(1970, 1, 1).toordinal() + day)


def seconds(us):
    return None if us is None else us / 1_000_000


def would(reference, owner, limits, cost, now_us, **bound):
    """Return what the model would say to a cost, of which nothing is charged."""
    twin = Reference()
    twin._states = dict(reference._states)
    twin._identities = {plan: set(identities) for plan, identities in reference._identities.items()}
    verdict = twin.check(owner, limits, cost, now_us, **bound)
    return reference.check(owner, limits, 0, now_us, **bound) if verdict.allowed else verdict


def is_not_stricter(decision, verdict):
    """Tell whether a denial tells no longer wait, and no less that is left, than the model's verdict."""

    def never(value, right):
        return (inf if value is None else value) <= (inf if right is None else right / 1_000_000)

    return never(decision.retry_after, verdict.retry_us) and all(
        (limit.name, limit.remaining >= right.remaining, never(limit.reset_after, right.reset_us))
        == (right.name, True, True)
        for limit, right in zip(decision.limits, verdict.limits, strict=True)
    )


def as_told(decision):
    """Return what a decision says, to be compared with `as_modelled`."""
    return decision.allowed, decision.limited_by, decision.retry_after, [tuple(limit) for limit in decision.limits]


def as_modelled(verdict, limits, now_us):
    """Return what a decision has to say."""
    statuses = []
    for judged, limit in zip(verdict.limits, limits, strict=True):
        if isinstance(limit, Bucket):
            most, rate = limit.throttle.burst, limit.throttle.rate
            window = float(most / rate) if rate else None
        else:
            most = limit.quota.limit
            first, second, _ = two_windows(limit.quota, now_us + judged.reset_us - 1)
            window = (second - first) * 86_400.0
        times = seconds(judged.reset_us), seconds(judged.retry_us), window
        statuses.append((judged.name, most, judged.remaining, *times))
    return verdict.allowed, verdict.limited_by, seconds(verdict.retry_us), statuses


def do_nothing():
    """Instead of listening for pushes."""
