"""A state machine for Hypothesis: whatever happens to a limiter, each of its decisions equals the exact model's.

The model is `ratelimit.engine.reference_model` for the limits; for keys, plans and usage it is what the machine did. It
never asks Redis. Two replicas take turns, a third one is asked by several tasks at once. One shares its namespace with
the catalogue that is changed, the others have to notice; these cache denials. In some runs one is asked everything.
"""

import asyncio
import os
from operator import neg

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, initialize, rule, run_state_machine_as_test
from properties.machine_inputs import (
    IDENTITIES,
    LARGE_STEPS,
    METHODS,
    NOT_TOLERATED,
    PARTS,
    PLANS,
    STAGES,
    TOLERATED,
    Key,
    costs,
    few_costs,
    memberships,
    methods,
    mostly,
    plan_changes,
    plan_entries,
    plan_ids,
    seldom,
    stage_methods,
    steps,
    throttles,
    traffic,
)
from properties.machine_model import Modelled, seconds

from ratelimit import Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.windows import DAY_US, two_windows

EXAMPLES = os.environ.get("RATELIMIT_EXAMPLES")
"""How many random histories to try, instead of as many as fit into a run; other ones each time then."""


class LimiterMachine(Modelled):
    """The rules: what can happen. Subclasses set `client` and `async_client`."""

    keys = Bundle("keys")
    callers = keys | keys | st.sampled_from(IDENTITIES)

    def __init__(self):
        super().__init__()
        self._put_plan(UsagePlan("gold", Throttle(1, 5), Quota(12, "DAY"), PLANS["gold"]))
        self._put_plan(UsagePlan("silver", Throttle(5, 20), Quota(6, "DAY"), PLANS["silver"], max_identities=2))
        self._put_plan(UsagePlan("inner", Throttle("1/3", 4), Quota(7, "WEEK", 3), PLANS["inner"]))
        self.put_stage(
            "petstore/prod", Throttle("3/2", 7), {"GET /pets": Throttle(2, 6), "GET /health": None}, denies=False
        )
        self.set_account_throttle(Throttle(3, 15))

    @initialize(alone=st.sampled_from((None, "blocking", "asyncio")))
    def who_is_asked(self, alone):
        self.alone = alone

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
        self._key_changed(key)

    @rule(key=keys, enabled=mostly, ahead=st.sampled_from((None,) * 6 + (0, 1, 1_000_000, DAY_US)))
    def switch_key(self, key, enabled, ahead):
        if not key.deleted:
            key.enabled, key.expires_us = enabled, None if ahead is None else self.now_us + ahead
            self.catalog.update_key(key.id, enabled=enabled, expires_at=seconds(key.expires_us))
            self._key_changed(key)

    @rule(key=keys, again=mostly)
    def delete_key(self, key, again):
        """Delete a key; perhaps make one of the same value, which has used nothing."""
        if not key.deleted:
            self.catalog.delete_key(key.id)
            self.reference.forget(key.id)
            self._key_changed(key)
            key.deleted = True
            key.values = dict.fromkeys(key.values, -1)
        if again and key.deleted:
            value = key.newest
            self.known_keys.append(Key(dict(key.values), key.id, (), deleted=True))
            made = self.catalog.create_key(value=value, plans=["silver"])
            key.id, key.plans, key.enabled, key.expires_us, key.deleted = made.id, ("silver",), True, None, False
            key.values[value] = 0
            self._key_changed(key)  # who was asked for the value while no key had it may remember that for a second

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
            self._key_changed(key)

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

    @rule(key=callers, part=st.sampled_from(("throttle", "quota")), method=methods, asked=traffic)
    def lift_a_limit_for_a_while(self, key, part, method, asked):
        """What was counted before is still there when the limit comes back; what came meanwhile was not limited."""
        if key.plans:
            former = self.plans[key.plans[0]]
            self.change_plan(former.id, {part: None})
            self.check(key, 0, method, asked, 0)
            self._put_plan(former)
            self.check(key, 0, method, asked, 1)

    @rule(stage=st.sampled_from(STAGES[:3]), throttle=st.none() | throttles, methods=stage_methods, denies=seldom)
    def put_stage(self, stage, throttle, methods, denies):
        """Configure a stage; remove its configuration if there is nothing to say."""
        if throttle or methods or denies:
            configured = {name: Method(own, key_required=name != "GET /health") for name, own in methods.items()}
            self.stages[stage] = Stage(stage, throttle, configured, "deny" if denies else "limit")
            self.catalog.put_stage(self.stages[stage])
        elif self.stages.pop(stage, None):
            self.catalog.delete_stage(stage)
        self._changed()

    @rule(
        key=keys,
        opened=st.integers(0, 1),
        entries=plan_entries,
        methods=stage_methods,
        denies=st.booleans(),
        turn=st.integers(0, 1),
    )
    def list_methods(self, key, opened, entries, methods, denies, turn):
        """Have a plan and a stage list methods, each by itself, and ask for every method."""
        if key.plans:
            self.change_plan(key.plans[0], {"entries": entries})
            self.put_stage(opened_by(key, opened), Throttle(1, 9), methods, denies)
            for method in METHODS:
                self._check(self.replicas[turn], key, opened_by(key, opened), method, 1)

    @rule(throttle=st.none() | throttles)
    def set_account_throttle(self, throttle):
        self.account = throttle
        self.catalog.set_account_throttle(throttle)
        self._changed()

    # Time

    @rule(step=st.sampled_from(LARGE_STEPS) | st.sampled_from(TOLERATED + NOT_TOLERATED).map(neg))
    def step(self, step):
        self._move_to(self.now_us + step)

    @rule(plan_id=plan_ids, end=st.booleans(), off=st.sampled_from((-1, 0, 1)))
    def go_to_edge_of_window(self, plan_id, end, off):
        quota = self.plans[plan_id].quota or Quota(1, "DAY")
        self._move_to(two_windows(quota, self.now_us)[end] * DAY_US + off)

    @rule(early=st.sampled_from((0, 0, 1)))
    def wait_as_told(self, early):
        if self.retry_us is not None and self.retry_us < 400 * DAY_US:
            self._move_to(self.now_us + self.retry_us - early)

    # Checks

    @rule(key=callers, opened=st.integers(0, 1), method=methods, asked=traffic, turn=st.integers(0, 1))
    def check(self, key, opened, method, asked, turn):
        """Ask at a stage that the key's plan opens."""
        self.check_anywhere(key, opened_by(key, opened), method, asked, turn)

    @rule(key=callers, stage=st.sampled_from(STAGES), method=methods, asked=traffic, turn=st.integers(0, 1))
    def check_anywhere(self, key, stage, method, asked, turn):
        for i, (step, cost) in enumerate(asked):
            self.now_us += step
            self._check(self.replicas[(turn + i) % 2], key, stage, method, cost)

    @rule(together=st.lists(st.tuples(callers, st.integers(0, 1), methods, few_costs), min_size=2, max_size=6))
    def check_together(self, together):
        """Ask in one tick of an event loop: answered as if one after the other."""
        asked = [(key, opened_by(key, opened), method, cost) for key, opened, method, cost in together]

        async def all_at_once():
            # What has to be looked up first would be asked behind the others.
            for key, stage, method, _ in asked:
                await self.gathering.peek(key.newest, stage, method)
            checks = (self.gathering.check(key.newest, stage, method, cost) for key, stage, method, cost in asked)
            return await asyncio.gather(*checks)

        if self.alone == "blocking":
            for key, stage, method, cost in asked:
                self._check(None, key, stage, method, cost)
            return
        for decision, (key, stage, method, cost) in zip(self.runner.run(all_at_once()), asked, strict=True):
            self._judge(decision, key, key.newest, stage, method, cost, is_overtaken=True)

    @rule(key=callers, opened=st.integers(0, 1), method=methods, cost=few_costs)
    def check_in_threads(self, key, opened, method, cost):
        """Ask the same four times at once: in some order each takes what those before it left."""
        if self.alone == "asyncio":
            return
        stage = opened_by(key, opened)
        # While one thread loads a changed catalogue, others go by the one that is there: it is loaded before.
        self.replicas[1].peek(key.newest, stage, method)
        asked = [self.threads.submit(self.replicas[1].check, key.newest, stage, method, cost) for _ in range(4)]
        for decision in sorted((each.result() for each in asked), key=by_what_is_left):
            self._judge(decision, key, key.newest, stage, method, cost, is_overtaken=True)

    @rule(key=callers, opened=st.integers(0, 1), method=methods, step=steps, turn=st.integers(0, 1))
    def use_up(self, key, opened, method, step, turn):
        """Ask until denied: limits are rarely met by chance."""
        for _ in range(14):
            if not self._check(self.replicas[turn], key, opened_by(key, opened), method, 1):
                return
            self.now_us += step

    @rule(
        key=callers,
        opened=st.integers(0, 1),
        method=methods,
        then=st.sampled_from(("disabled", "a while", "behind", "before", "others")),
        turn=st.integers(0, 1),
        asked=traffic,
    )
    def while_it_is_out(self, key, opened, method, then, turn, asked):
        """Ask until denied, and see what is said meanwhile: of other costs, when the key or the clock is changed."""
        self.use_up(key, opened, method, 0, turn)
        before_us = self.now_us
        if then == "disabled" and isinstance(key, Key) and key.enabled:
            self.switch_key(key, enabled=False, ahead=None)
            self.check(key, opened, method, asked[:2], turn)
            self.switch_key(key, enabled=True, ahead=None)
        elif then in {"behind", "before"}:
            self._move_to(self.now_us - (1_000_000 if then == "behind" else 3_000_000))
            self.check(key, opened, method, asked[:2], turn)
            self._move_to(max(before_us, self.now_us))
        elif then == "others":
            for other in [each for each in self.known_keys if not each.deleted][:3]:
                self.check(other, opened, method, asked[:2], turn)
        self.check(key, opened, method, asked, turn)

    @rule(key=callers, opened=st.integers(0, 1), method=methods, cost=costs, turn=st.integers(0, 1))
    def peek(self, key, opened, method, cost, turn):
        """Look at what a cost would get: nothing is taken, and nothing that is known is lost."""
        stage = opened_by(key, opened)
        decision = self._ask(self.replicas[turn], "peek", key.newest, stage, method, cost)
        self._judge(decision, key, key.newest, stage, method, cost, peek=True)

    @rule(key=callers, turn=st.integers(0, 1))
    def peek_everywhere(self, key, turn):
        for stage in STAGES[:3]:
            for method in METHODS:
                self._check(self.replicas[turn], key, stage, method, 0)

    @rule(key=keys, which=st.integers(0, 3), turn=st.integers(0, 1))
    def check_an_older_value(self, key, which, turn):
        value = list(key.values)[which % len(key.values)]
        self._check(self.replicas[turn], key, opened_by(key, 0), METHODS[1], 1, value)

    def _check(self, replica, key, stage, method, cost, value=None):
        value = value or key.newest
        if not self._limits(key, value, stage, method)[0]:
            cost = min(cost, 1000)  # what no limit bounds is still added up, and has to stay below 2^53
        decision = self._ask(replica, "check", value, stage, method, cost)
        self._judge(decision, key, value, stage, method, cost)
        return decision

    def _ask(self, replica, how, *asked):
        """Ask a replica, or the one that is asked everything."""
        if self.alone == "asyncio":
            return self.runner.run(getattr(self.gathering, how)(*asked))
        return getattr(self.replicas[1] if self.alone else replica, how)(*asked)


def opened_by(key, which):
    """A stage that the key's first plan opens; any, if it has none."""
    return PLANS[key.plans[0]][which] if key.plans else STAGES[which]


def by_what_is_left(decision):
    """Sort the answers to one prepared, asked several times at one moment, as they were made."""
    left = [(-limit.remaining, limit.reset_after or 0) for limit in decision.limits]
    return not decision.allowed, decision.source == "denial_cache", left


def run_machine(machine, backend, examples):
    """Try random histories of a machine on a backend: fewer on the emulated one, which is slow."""
    client = backend.client()
    made = type("Machine", (machine,), {"client": client, "async_client": staticmethod(backend.async_client)})
    fewer = 4 if backend.server is None else 1
    chosen = settings(
        max_examples=int(EXAMPLES or examples) // fewer,
        stateful_step_count=40,
        derandomize=EXAMPLES is None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(made, settings=chosen)
    client.close()
