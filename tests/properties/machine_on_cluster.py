"""The state machine on a cluster: a key's own limits are the exact model's, those that callers share keep their bound.

There a check is one script at its key's slot. Limits of a stage or of the account lie in other slots, so that each
process prepays units of them: one machine is without these; in the other they never change, and the clock never goes
back, as their bound is one over time.
"""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import ClassVar

from chaos.checker import worst_excess
from helpers.slot_gateway import do_at_once
from hypothesis import strategies as st
from hypothesis.stateful import rule
from properties.machine import LimiterMachine
from properties.machine_inputs import LARGE_STEPS, STAGES, few_costs, methods, seldom, stage_methods

from ratelimit import Reason, Throttle

TERM_S = Fraction(1, 10)
"""For how long what is prepaid of a shared limit may be spent."""


class ClusterMachine(LimiterMachine):
    """Without what is approximate on a cluster: how many identities a plan has."""

    def __init__(self):
        super().__init__()
        do_at_once(self.replicas[0])
        do_at_once(self.replicas[1])

    def _put_plan(self, plan):
        super()._put_plan(replace(plan, max_identities=None))

    def _judge(self, decision, *request, **options):
        """As on one server; but without a limit, and without a key that may be disabled, no script is asked."""
        if decision.allowed and decision.time_us is None and not decision.limits:
            assert self._limits(*request[:-1]) == ((), None, None)
            return
        super()._judge(decision, *request, **options)


class OwnLimits(ClusterMachine):
    """All limits are a key's own: every field of every decision is the model's."""

    def set_account_throttle(self, throttle):
        """Leave the account without one."""

    @rule(stage=st.sampled_from(STAGES[:3]), methods=stage_methods, denies=seldom)
    def put_stage(self, stage, throttle=None, methods=(), denies=False):
        """Configure a stage, without throttles."""
        super().put_stage(stage, None, dict.fromkeys(methods), denies)


class SharedLimits(ClusterMachine):
    """Beside a key's own limits, which are the model's, those of a stage and the account: their bound holds.

    Attributes:
        seen: How often decisions of each kind were made in all runs.
    """

    seen: ClassVar = Counter()
    list_methods = None
    """Without it, as it changes a stage."""

    def __init__(self):
        self.admitted = {}  # shared limit -> (time, cost) of each admission
        super().__init__()

    def set_account_throttle(self, throttle):
        """Have one that is often met; it stays."""
        super().set_account_throttle(Throttle(3, 15))

    def put_stage(self, stage, throttle=None, methods=(), denies=False):
        """Configure a stage, at the beginning alone."""
        super().put_stage(stage, throttle, methods, denies)

    @rule(
        together=st.lists(
            st.tuples(LimiterMachine.callers, st.integers(0, 1), methods, few_costs),
            min_size=2,
            max_size=6,
            unique_by=lambda each: each[0].id,
        )
    )
    def check_together(self, together):
        """Check different keys: of one key, who has to wait for units of a shared limit is overtaken."""
        super().check_together(together)

    @rule(step=st.sampled_from(LARGE_STEPS))
    def step(self, step):
        self._move_to(self.now_us + step)

    def _move_to(self, now_us):
        super()._move_to(max(now_us, self.now_us))

    def _limits(self, *request):
        limits, plan_id, refusal = super()._limits(*request)
        return tuple(limit for limit in limits if not is_shared(limit.name)), plan_id, refusal

    def _judge(self, decision, key, value, stage, method, cost, *, peek=False, is_overtaken=False):
        """Hold what is said of a key's own limits against the model; note what shared ones admitted."""
        limits = super()._limits(key, value, stage, method)[0]
        assert [limit.name for limit in decision.limits] == [limit.name for limit in limits]
        self.seen["shared" if is_shared(decision.limited_by) else decision.reason] += 1
        if is_shared(decision.limited_by):
            assert decision.reason is Reason.THROTTLED
            return
        own = SimpleNamespace(**{name: getattr(decision, name) for name in FIELDS})
        own.limits = tuple(limit for limit in decision.limits if not is_shared(limit.name))
        own.retry_after = longest_wait(own.limits)  # that of the decision counts the shared ones, too
        super()._judge(own, key, value, stage, method, cost, peek=peek, is_overtaken=is_overtaken)
        if decision.allowed and not peek:
            for limit in limits:
                if is_shared(limit.name):
                    self.admitted.setdefault((limit.name, limit.throttle), []).append((self.now_us, self.now_us, cost))

    def teardown(self):
        super().teardown()
        for (_, throttle), spans in self.admitted.items():
            assert worst_excess(spans, throttle.rate, throttle.burst) <= throttle.rate * TERM_S


FIELDS = ("allowed", "reason", "detail", "limited_by", "source", "time_us")


def longest_wait(limits):
    """After how many seconds all of these limits admit, None for never or now."""
    waits = [limit.retry_after for limit in limits]
    return None if None in waits else max(waits, default=0) or None


def is_shared(limit_name):
    """Whether a limit is one that all callers share."""
    return (limit_name or "").startswith(("stage:", "account"))
