"""A state machine for Hypothesis: whatever happens to a limiter, each of its decisions equals the exact model's.

The model is `ratelimit.core.reference` for the limits; for keys, plans and usage it is what the machine was told to do.
It never asks Redis. Two replicas take turns: one shares its state with the catalogue that is changed, the other has to
notice.
"""

from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from operator import neg

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from ratelimit import Limiter, Method, PlanStage, Quota, Reason, Stage, Throttle, UsagePlan
from ratelimit.core.book import PlanBook
from ratelimit.core.reference import Reference
from ratelimit.core.windows import DAY_US, two_windows
from ratelimit.core.wire import Bucket

START_US = 1_772_625_600_000_000
"""Wednesday 2026-03-04 12:00:00 UTC."""

PLANS = {
    "gold": ("petstore/prod", "petstore/test"),
    "silver": ("petstore/prod", "petstore/test"),
    "inner": ("admin/prod", "admin/test"),
}
STAGES = ("petstore/prod", "petstore/test", "admin/prod", "nowhere/prod")
METHODS = ("GET /pets", "POST /pets", "GET /health", "GET /whatever")


BURSTS = (2, 3, 5, 10, 1, 100, 0)
RATES = (1, 10, "3/2", "1/3", "2/3", "0.1", "7/86400", "1/86400", 999_983, "1000000/7", 1_000_000, 3_000_000, 0)
AT_THE_EDGE = (
    Throttle("1/1000000", 9007),  # 9007 * 10^12 is just below 2^53
    Throttle(1_000_000, 2**53 - 3),
    Throttle(Fraction(2**52 * 10**6), 2**51),
    Throttle("1/3000000", 3002),
)
throttles = st.one_of(
    st.builds(Throttle, st.sampled_from(RATES), st.sampled_from(BURSTS)),
    st.sampled_from(AT_THE_EDGE),
)
quotas = st.one_of(
    st.builds(Quota, st.sampled_from((0, 1, 2, 5, 20, 10**12)), st.just("DAY")),
    st.builds(Quota, st.sampled_from((1, 3, 20)), st.just("WEEK"), st.integers(0, 6)),
    st.builds(Quota, st.sampled_from((1, 3, 20)), st.just("MONTH"), st.integers(0, 27)),
)
costs = st.sampled_from((1,) * 16 + (0, 2, 2, 3, 3, 5, 6, 10, 11, 101, 3002, 9007, 9008, 2**53 - 1, 2**53, 10**30))
SMALL_STEPS = (1, 2, 7, 999, 1000, 66_667, 100_000, 333_333, 333_334, 500_000, 1_000_000, 1_500_000)
steps = st.sampled_from((0,) * 6 + SMALL_STEPS)
LARGE_STEPS = (3_000_000, 10_000_000, 60_000_000, 3_600_000_000, DAY_US // 2, DAY_US, 7 * DAY_US, 31 * DAY_US)
TOLERATED = (1, 1000, 50_000, 1_000_000, 1_999_999, 2_000_000)
NOT_TOLERATED = (2_000_001, 3_000_000, 60_000_000, 3_600_000_000, DAY_US, 8 * DAY_US, 40 * DAY_US)


PARTS = ("throttle", "quota", "stages", "throttle_scope", "shadow", "alerts")

memberships = st.sampled_from((("gold",), ("silver",), ("gold", "inner"), ("silver", "inner"), ()))
methods = st.sampled_from(METHODS)
plan_ids = st.sampled_from(tuple(PLANS))
plan_changes = st.one_of(
    st.fixed_dictionaries({"throttle": throttles}),
    st.fixed_dictionaries({"quota": quotas}),
    st.sampled_from(({"throttle": None}, {"quota": None}, {"throttle_scope": "key"}, {"throttle_scope": "key_method"})),
    st.sampled_from(({"shadow": "other"}, {"shadow": None}, {"alerts": (50, 100)})),
    st.fixed_dictionaries({"entries": st.dictionaries(st.sampled_from(METHODS[:2]), throttles, max_size=2)}),
)
mostly = st.sampled_from((True, True, True, False))
stage_methods = st.dictionaries(st.sampled_from(METHODS[:3]), st.none() | throttles, max_size=3)
traffic = st.lists(st.tuples(steps, costs), min_size=1, max_size=8)


@dataclass
class Key:
    """What the machine knows of one API key."""

    values: dict[str, int]
    """Each value that was ever its: until when it opens the key in microseconds since 1970, 0 for ever."""
    id: str
    plans: tuple[str, ...]
    enabled: bool = True
    expires_us: int | None = None
    deleted: bool = False


class LimiterMachine(RuleBasedStateMachine):
    """Subclasses set `client`: a client of an empty server that nobody else uses."""

    client = None
    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.client.flushall()
        self.now_us = START_US
        first = Limiter(self.client, clock=lambda: self.now_us)
        second = Limiter(self.client, clock=lambda: self.now_us)
        self.replicas, self.catalog = (first, second), first.catalog
        for replica in self.replicas:
            replica._state.before_refresh = do_nothing  # pushes are delivered by hand: the same run each time
        self.reference = Reference()
        self.plans, self.stages, self.account = {}, {}, None
        self.book = PlanBook()
        self.metered = {}
        self.known_keys = []
        self.retry_us = None
        self._put_plan(UsagePlan("gold", Throttle(1, 5), Quota(12, "DAY"), PLANS["gold"]))
        self._put_plan(UsagePlan("silver", Throttle(5, 20), Quota(6, "DAY"), PLANS["silver"]))
        self._put_plan(UsagePlan("inner", Throttle("1/3", 4), Quota(7, "WEEK", 3), PLANS["inner"]))
        self.put_stage("petstore/prod", Throttle("3/2", 7), {"GET /pets": Throttle(2, 6), "GET /health": None})
        self.set_account_throttle(Throttle(3, 15))

    def teardown(self):
        """Compare what was metered on the last 90 days: earlier ones are forgotten."""
        for key_id in {at[0] for at in self.metered}:
            if not any(key.id == key_id and key.deleted for key in self.known_keys):
                last = max(at[2] for at in self.metered if at[0] == key_id)
                days = range(last - 89, last + 1)
                for plan_id in PLANS:
                    usage = self.catalog.usage(plan_id, *map(_date, (days[0], days[-1])), key_id=key_id)
                    told = [used for used, _ in usage.items[key_id]]
                    assert told == [self.metered.get((key_id, plan_id, day), 0) for day in days]

    # Keys

    @initialize(target=keys)
    def first_key(self):
        return self._create(("gold", "inner"))

    @rule(target=keys, plans=memberships)
    def create_key(self, plans):
        return self._create(plans)

    @rule(key=keys, plans=memberships)
    def move_key(self, key, plans):
        if key.deleted:
            return
        for plan in key.plans:
            if plan not in plans:
                self.catalog.remove_key_from_plan(key.id, plan)
        for plan in plans:
            if plan not in key.plans:
                self.catalog.add_key_to_plan(key.id, plan)
        key.plans = plans

    @rule(key=keys, enabled=mostly, ahead=st.sampled_from((None,) * 6 + (0, 1, 1_000_000, DAY_US)))
    def switch_key(self, key, enabled, ahead):
        if not key.deleted:
            key.enabled, key.expires_us = enabled, None if ahead is None else self.now_us + ahead
            self.catalog.update_key(key.id, enabled=enabled, expires_at=_seconds(key.expires_us))

    @rule(key=keys, again=mostly)
    def delete_key(self, key, again):
        """Delete a key; perhaps make one of the same value, which has used nothing."""
        if not key.deleted:
            self.catalog.delete_key(key.id)
            self.reference.forget(key.id)
            key.deleted = True
            key.values = dict.fromkeys(key.values, -1)
        if again and key.deleted:
            value = list(key.values)[-1]
            self.known_keys.append(Key(dict(key.values), key.id, (), deleted=True))
            made = self.catalog.create_key(value=value, plans=["silver"])
            key.id, key.plans, key.enabled, key.expires_us, key.deleted = made.id, ("silver",), True, None, False
            key.values[value] = 0

    @rule(key=keys, grace_s=st.sampled_from((0, 1, 86_400)))
    def rotate_key(self, key, grace_s):
        """Give a key a new value; those that still work go on for a while, at most."""
        if not key.deleted:
            ends_us = self.now_us + grace_s * 1_000_000
            for value, until_us in key.values.items():
                if until_us == 0:
                    key.values[value] = ends_us if grace_s else -1
                elif until_us > self.now_us:
                    key.values[value] = min(until_us, ends_us)
                if 0 < key.values[value] <= self.now_us:
                    key.values[value] = -1  # taken away for good, whatever the clock does
            key.values[self.catalog.rotate_key(key.id, grace_s=grace_s).value] = 0

    # Plans, stages, account

    @rule(plan_id=plan_ids, change=plan_changes)
    def change_plan(self, plan_id, change):
        (part, value), *_ = change.items()
        if value == "other":
            change = {part: "inner" if plan_id != "inner" else "gold"}
        old = self.plans[plan_id]
        if part == "entries":
            value = [PlanStage(stage, value) for stage in PLANS[plan_id]]
            change = {"stages": value, "throttle": old.throttle or Throttle(1, 3)}
        parts = {name: getattr(old, name) for name in PARTS} | change
        if parts["throttle"] is None:
            parts["stages"] = PLANS[plan_id]  # entries need a throttle beside them
        if parts["quota"] is None:
            parts["alerts"] = ()
        self._put_plan(UsagePlan(plan_id, **parts))

    @rule(key=keys, part=st.sampled_from(("throttle", "quota")), method=methods, asked=traffic)
    def lift_a_limit_for_a_while(self, key, part, method, asked):
        """What was counted before is still there when the limit comes back; what came meanwhile was not limited."""
        if key.plans:
            former = self.plans[key.plans[0]]
            self.change_plan(former.id, {part: None})
            self.check(key, 0, method, asked, 0)
            self._put_plan(former)
            self.check(key, 0, method, asked, 1)

    @rule(stage=st.sampled_from(STAGES[:3]), throttle=st.none() | throttles, methods=stage_methods)
    def put_stage(self, stage, throttle, methods):
        """Configure a stage; remove its configuration if there is nothing to say."""
        if throttle or methods:
            configured = {name: Method(own, key_required=name != "GET /health") for name, own in methods.items()}
            self.stages[stage] = Stage(stage, throttle, configured)
            self.catalog.put_stage(self.stages[stage])
        elif self.stages.pop(stage, None):
            self.catalog.delete_stage(stage)
        self._changed()

    @rule(throttle=st.none() | throttles)
    def set_account_throttle(self, throttle):
        self.account = throttle
        self.catalog.set_account_throttle(throttle)
        self._changed()

    # Time

    @rule(step=st.sampled_from(LARGE_STEPS) | st.sampled_from(TOLERATED + NOT_TOLERATED).map(neg))
    def step(self, step):
        self.now_us += step

    @rule(plan_id=plan_ids, end=st.booleans(), off=st.sampled_from((-1, 0, 1)))
    def go_to_edge_of_window(self, plan_id, end, off):
        quota = self.plans[plan_id].quota or Quota(1, "DAY")
        self.now_us = two_windows(quota, self.now_us)[end] * DAY_US + off

    @rule(early=st.sampled_from((0, 0, 1)))
    def wait_as_told(self, early):
        if self.retry_us is not None and self.retry_us < 400 * DAY_US:
            self.now_us += self.retry_us - early

    # Checks

    @rule(key=keys, opened=st.integers(0, 1), method=methods, asked=traffic, turn=st.integers(0, 1))
    def check(self, key, opened, method, asked, turn):
        """Ask at a stage that the key's plan opens."""
        self.check_anywhere(key, PLANS[key.plans[0]][opened] if key.plans else STAGES[opened], method, asked, turn)

    @rule(key=keys, stage=st.sampled_from(STAGES), method=methods, asked=traffic, turn=st.integers(0, 1))
    def check_anywhere(self, key, stage, method, asked, turn):
        for i, (step, cost) in enumerate(asked):
            self.now_us += step
            self._check(self.replicas[(turn + i) % 2], key, stage, method, cost)

    @rule(key=keys, opened=st.integers(0, 1), method=methods, step=steps, turn=st.integers(0, 1))
    def use_up(self, key, opened, method, step, turn):
        """Ask until denied: limits are rarely met by chance."""
        stage = PLANS[key.plans[0]][opened] if key.plans else STAGES[opened]
        for _ in range(14):
            if not self._check(self.replicas[turn], key, stage, method, 1):
                return
            self.now_us += step

    @rule(key=keys, turn=st.integers(0, 1))
    def peek_everywhere(self, key, turn):
        for stage in STAGES[:3]:
            for method in METHODS:
                self._check(self.replicas[turn], key, stage, method, 0)

    @rule(key=keys, which=st.integers(0, 3), turn=st.integers(0, 1))
    def check_an_older_value(self, key, which, turn):
        value = list(key.values)[which % len(key.values)]
        self._check(self.replicas[turn], key, PLANS[key.plans[0]][0] if key.plans else STAGES[0], METHODS[1], 1, value)

    def _check(self, replica, key, stage, method, cost, value=None):
        value = value or list(key.values)[-1]
        limits, plan_id, refusal = self._limits(key, value, stage, method)
        if not limits:
            cost = min(cost, 1000)  # what no limit bounds is still added up, and has to stay below 2^53
        decision = replica.check(value, stage, method, cost)
        if refusal:
            assert (decision.reason, decision.detail, decision.limits) == (Reason.INVALID_KEY, refusal, ())
            return decision
        if decision.allowed and plan_id and cost:
            self._meter(key, plan_id, cost)
        verdict = self.reference.check(key.id, limits, cost, self.now_us)
        assert decision.time_us == self.now_us
        assert as_told(decision) == as_modelled(verdict, limits, self.now_us)
        self.retry_us = verdict.retry_us
        return decision

    def _limits(self, key, value, stage, method):
        """Return the limits of a request, the plan it is charged to, and why it is refused outright."""
        names = self.catalog._plans._names
        if not self.book.method(stage, method).key_required:
            return self.book.call(None, stage, method, names).limits, None, None
        plan = self.book.plan_for(key.plans, stage)
        until_us = key.values[value]
        if key.deleted or until_us == -1:
            return (), None, "unknown"
        if not key.enabled:
            return (), None, "disabled"
        if plan is None:
            return (), None, "no_plan_for_stage"
        if key.expires_us is not None and self.now_us >= key.expires_us:
            return (), None, "disabled"
        if until_us and self.now_us >= until_us:
            return (), None, "unknown"
        return self.book.call(plan, stage, method, names).limits, plan.id, None

    def _meter(self, key, plan_id, cost):
        """Days only roll forward: what comes after a step back counts for the latest day."""
        days = [at[2] for at in self.metered if at[:2] == (key.id, plan_id)]
        at = (key.id, plan_id, max([self.now_us // DAY_US, *days]))
        self.metered[at] = self.metered.get(at, 0) + cost

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
        self.book = PlanBook(plans=self.plans, stages=self.stages, account=self.account)
        self.replicas[1]._state.changed()


def _date(day):
    return date.fromordinal(date(1970, 1, 1).toordinal() + day)


def _seconds(us):
    return None if us is None else us / 1_000_000


def as_told(decision):
    """Return what a decision says, to be compared with `as_modelled`."""
    return decision.allowed, decision.limited_by, decision.retry_after, [tuple(told) for told in decision.limits]


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
        times = _seconds(judged.reset_us), _seconds(judged.retry_us), window
        statuses.append((judged.name, most, judged.remaining, *times))
    return verdict.allowed, verdict.limited_by, _seconds(verdict.retry_us), statuses


def do_nothing():
    """Instead of listening for pushes."""
