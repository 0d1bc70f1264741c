"""What was admitted without Redis is charged as the exact model charges it, among everything else that can happen.

The machine of `test_properties`, with journals: entries that are charged once, charged again, or come too late, of
several lives, spent at any time. Levels fall below zero, and every decision after that equals the model's.
"""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule
from properties.machine import EXAMPLES, LimiterMachine, opened_by, run_machine
from properties.machine_inputs import IDENTITIES, Key, methods

from ratelimit.engine.protocol import JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE
from ratelimit.registry.windows import DAY_US

LIVES = ("life---1", "life---2", "life---3")
HOUR_US = 3_600_000_000
AGO = (0, 0, 1, 1_000_000, 2_000_001, HOUR_US, DAY_US // 2, DAY_US // 2 + 1, DAY_US, 3 * DAY_US, 8 * DAY_US)
AHEAD = (-1, -1_000_000, -HOUR_US, -DAY_US // 2, -2 * DAY_US)
spent_ago = st.sampled_from(AGO * 3 + AHEAD)
costs = st.sampled_from((1, 1, 1, 2, 3, 5, 10, 101, 3002, 9008))
numbers = st.sampled_from((1, 1, 1, 1, 2, 5, 0, 0, -1, -3))
"""How far the number of an entry is above the last one that was sent: 0 is the same entry again."""


class JournalMachine(LimiterMachine):
    """The rules of `LimiterMachine`, and entries of journals between them."""

    def __init__(self):
        super().__init__()
        self.sequences = {}

    @rule(
        key=LimiterMachine.keys | st.sampled_from(IDENTITIES),
        opened=st.integers(0, 1),
        method=methods,
        entries=st.lists(st.tuples(costs, spent_ago, st.sampled_from(LIVES), numbers), min_size=1, max_size=5),
        times=st.integers(1, 3),
        ask=st.booleans(),
    )
    def charge(self, key, opened, method, entries, times, ask):
        """Charge entries, each so many times; perhaps see at once what is left, and wait as long as it says."""
        stage = opened_by(key, opened)
        for cost, ago_us, life, number in entries:
            prepared, owner, limits, plan_id = self._prepared(key, stage, method)
            if prepared is None:
                return
            last = self.sequences.get((owner, life), 0)
            sequence = max(1, last + number)
            self.sequences[owner, life] = max(last, sequence)
            spent_us = self.now_us - ago_us
            for _ in range(times):
                entry = {"spent_us": spent_us, "life": life, "sequence": sequence}
                self._charge(prepared, key, owner, limits, plan_id, cost, entry)
        for replica in self.others:
            replica._checker.denial_cache.forget(None)  # as who charges it does
        if ask:
            for early in (0, 1, 0):
                self._check(self.replicas[early], key, stage, method, 1)
                self.wait_as_told(early)

    def _charge(self, prepared, key, owner, limits, plan_id, cost, entry):
        call = prepared.to_journal_call(self.catalog._namespace, cost, **entry)
        bound = self._bound(key, plan_id)
        charged = self.reference.charge_journal(
            owner, limits, cost, self.now_us, **entry, plan_id=bound[0] if bound else ""
        )
        reply = self.client.execute_command(*call.by_source())
        assert reply == [JOURNAL_CHARGED if charged else JOURNAL_CHARGED_BEFORE, self.now_us]
        if charged and plan_id:
            self._meter_spent(key, plan_id, cost, entry["spent_us"])

    def _meter_spent(self, key, plan_id, cost, spent_us):
        """Units count for the day on which they were spent; an identity has only its last day."""
        last = max((at[2] for at in self.metered if at[:2] == (key.id, plan_id)), default=0)
        day = spent_us // DAY_US
        if day > last:
            day = min(day, max(last, self.now_us // DAY_US))
        if day >= last or isinstance(key, Key):
            at = (key.id, plan_id, day)
            self.metered[at] = self.metered.get(at, 0) + cost

    def _prepared(self, key, stage, method):
        """The prepared check of a request, who is charged, the limits, and the plan; no check if it is refused."""
        limits, plan_id, refusal = self._limits(key, key.newest, stage, method)
        if refusal:
            return None, None, None, None
        first = self.replicas[0]
        first.peek(key.newest, stage, method)  # the newest catalogue, and the key's record
        if plan_id is not None:
            return first._checker.prepared(key.newest, stage, method), key.id, limits, plan_id
        return first._checker.prepare_without_key(stage, method), "", limits, None


@pytest.mark.timeout(0 if EXAMPLES else 240)
def test_every_charge_of_a_journal_equals_the_model(backend):
    """Each reply, and all that limits say afterwards: levels below zero, waits, quotas, days."""
    run_machine(JournalMachine, backend, 60)
