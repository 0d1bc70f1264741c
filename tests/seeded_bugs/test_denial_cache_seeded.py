"""The tests of the denial cache fail on bugs that such caches are prone to, and on rules simpler than its own."""

import types
from inspect import signature
from pathlib import Path

import pytest
from engine import test_denial_cache as tests
from engine import test_denial_cache_exact as exact
from engine import test_denial_cache_pushes as pushes
from engine import test_denial_cache_traces as traces
from properties import test_states_exhaustively as states

from ratelimit.engine import limits
from ratelimit.limiter import aio, blocking, checker
from ratelimit.local import denial_cache
from ratelimit.local.key_cache import KeyCache

NO_DROP_WHEN_THE_CLOCK_WENT_BACK = (
    "            self._drop_all()\n            self._active_until_us = now_us + 2",
    "            self._active_until_us = now_us + 2",
)
AGES_BELOW_ZERO = "return not 0 <= now_us - sent_us <", "return not now_us - sent_us <"
RECORDS_STAY = "records", "stay"
"""With a push the record of a key is dropped as well: what is tested here goes without that."""
NEVER_EARLY = "is_late = not 0 <= now_us - sent_us <", "is_late = not now_us - sent_us <"

TRACES = [
    ("1", denial_cache, traces.charged_but_not_kept,
     ("if is_late or code != DENIED:  # a", "if is_late:  # a")),
    ("2", denial_cache, traces.raised_while_a_denial_was_on_its_way,
     ("self._by_key.forget(key_id)\n\n    def states_for",
      "(self._by_key.get(key_id) or KeyStates()).replies = ()\n\n    def states_for"),
     RECORDS_STAY),
    ("3", denial_cache, traces.admitted_behind_a_denial, NO_DROP_WHEN_THE_CLOCK_WENT_BACK, AGES_BELOW_ZERO),
    ("4", denial_cache, traces.an_hour_back_and_forth, NO_DROP_WHEN_THE_CLOCK_WENT_BACK, AGES_BELOW_ZERO),
    ("5", denial_cache, traces.the_servers_clock_an_hour_back,
     ("return not 0 <= now_us - sent_us < self._max_age_us\n\n    def _record_own",
      "return False\n\n    def _record_own")),
    ("6", denial_cache, traces.a_key_that_only_shared_limits_refuse,
     ("if prepared.key_id and not judged_us:", "if prepared.key_id and judged_us:")),
    ("7", denial_cache, traces.a_key_that_expires, ("ends_us.append(prepared.valid_until_us)", "pass")),
    ("8", checker, traces.looked_at_behind_its_time,
     ("if not flags & protocol.PEEK:", "if True:")),
    ("9", checker, traces.carried_out_for_nobody, ("denial_cache.invalidate(prepared)\n            raise", "raise")),
    ("9, blocking", blocking, traces.no_answer_to_a_usual_check,
     ("checker.abandon(begun, error)\n                    raise", "raise")),
    ("9, asyncio", aio, traces.cancelled, ("checker.abandon(begun, error)\n                    raise", "raise")),
    ("10", denial_cache, traces.a_denial_overtaken_by_an_admission,
     ("frozenset({DENIED, ADMITTED, ADMITTED_DAY_OVER})", "frozenset({DENIED})")),
    ("10, in a batch", denial_cache, traces.a_batch_with_a_denial,
     ("frozenset({DENIED, ADMITTED, ADMITTED_DAY_OVER})", "frozenset({DENIED})")),
    ("11", denial_cache, traces.later_than_max_age,
     ("if is_late or code != DENIED:  # a", "if not is_late and code != DENIED:  # a")),
    ("12", denial_cache, traces.executed_before_a_step_back, NO_DROP_WHEN_THE_CLOCK_WENT_BACK, AGES_BELOW_ZERO,
     NEVER_EARLY),
    ("13", denial_cache, tests.test_what_leases_give_back_to_a_shared_limit_admits_at_once,
     ("(prepared.snapshot.leased or prepared.spread is not None)", "False")),
]  # fmt: skip
"""Each trace, and what takes the rule out that it needs: several texts where another rule covers it as well."""


def buckets(server, _clock):
    states.test_buckets(server, "plan")


BUGS = [
    ("smaller costs refused", limits, buckets, ("missing = cost * per - level", "missing = capacity * per - level")),
    ("refilled behind its time", limits, buckets,
     ("level + max(0, now_us - last_us) * self.rate", "level + (now_us - last_us) * self.rate")),
    ("full a microsecond too early", limits, buckets,
     ("- (refilled - self.full) // self.rate", "+ (self.full - refilled) // self.rate")),
    ("full before its time", limits, buckets, ("max(0, last_us - now_us) - (refilled", "0 - (refilled")),
    ("above the burst it is a matter of time", limits, buckets,
     ("if cost > capacity or (is_bucket and not rate):",
      "if (cost > capacity and not is_bucket) or (is_bucket and not rate):")),
    ("above the quota it is a matter of time", limits, lambda server, _: states.test_quotas(server),
     ("times.append(0 if cost <= level and not is_bucket else inf)",
      "times.append(0 if cost <= level and not is_bucket else numbers[at + 1])")),
    ("one limit is enough", limits, lambda server, _: states.test_several_limits(server),
     ("return index, us, max(admits_us)", "return index, us, us")),
    ("a microsecond too long", limits, tests.test_it_answers_until_the_exact_microsecond,
     ("- -missing // rate if missing > 0 else 0\n", "- -missing // rate + 1 if missing > 0 else 0\n")),
    ("more than full", limits, traces.executed_before_a_step_back,
     ("return min(self.full, level + max(0, now_us - last_us) * self.rate)",
      "return level + max(0, now_us - last_us) * self.rate")),
    ("the last limit is named", limits, exact.test_two_limits_and_two_costs,
     ("for index, us in enumerate(admits_us):", "for index, us in reversed(list(enumerate(admits_us))):")),
    ("it says what it always said", denial_cache, tests.test_it_answers_until_the_exact_microsecond,
     ("server_us = now_us + ahead_us\n        decision", "server_us = denial.from_us + ahead_us\n        decision")),
    ("of a window that has ended", denial_cache, tests.test_a_quota_is_waited_for_together,
     ("ends_us.append(numbers[-1])  # the quota's window ends", "pass")),
    ("keys share what is theirs", denial_cache, tests.test_what_is_known_of_one_key_is_not_told_another,
     ("own = self._by_key.get(prepared.key_id)\n        replies, states",
      "own = next(iter(self._by_key._entries.values()), None)\n        replies, states"),
     ("if reply.version_token == prepared.version_token]", "if reply.version_token]")),
    ("stages share buckets", limits, tests.test_buckets_of_one_method_in_two_stages_are_two,
     ("return self.field_or_key or self.name", "return self.name")),
    ("shared limits say nothing of a key", denial_cache,
     tests.test_a_shared_limit_answers_for_each_key_that_the_script_judged,
     ("if prepared.key_id and not judged_us:", "if prepared.key_id and judged_us:")),
    ("any value of the key will do", denial_cache,
     exact.test_a_value_that_ceases_to_open_the_key_is_refused_as_such,
     ("if reply.version_token == prepared.version_token]", "if reply.version_token]"), RECORDS_STAY),
    ("leases that go are forgotten at once", denial_cache, tests.test_what_leases_that_went_give_back_admits_at_once,
     ("or now_us - self._namespace.leases_ended_us < self._max_age_us", "")),
    ("leases stop everything", denial_cache, tests.test_beside_leases_own_limits_still_refuse,
     ("and not _own_limits_deny(limits, numbers, server_us, cost)", "")),
    ("a push lifts nothing", denial_cache,
     lambda *world: tests.test_a_push_lifts_it(*world, tests.raised, "key:{}"),
     ("self._by_key.forget(key_id)\n\n    def states_for", "pass\n\n    def states_for"), RECORDS_STAY),
    ("another plan lifts nothing", denial_cache,
     lambda *world: tests.test_what_may_be_anything_lifts_everything(*world, "keys"),
     ("if key_id is None:\n                self._drop_all()", "if key_id is None:\n                pass")),
    ("late denials are kept", denial_cache, tests.test_a_denial_asked_before_a_push_is_not_kept,
     ("if key_id is None:\n                self._drop_all()",
      "if key_id is None:\n                for own in self._by_key._entries.values(): own.replies = ()")),
    ("it lives for ever", denial_cache, tests.test_without_a_push_it_lives_max_age,
     ("return tuple(numbers), ahead_us, oldest_us + self._max_age_us", "return tuple(numbers), ahead_us, 2**62"),
     ("return not 0 <= now_us - sent_us < self._max_age_us\n\n    def _record_own",
      "return False\n\n    def _record_own")),
    ("a microsecond longer than max_age", denial_cache, tests.test_without_a_push_it_lives_max_age,
     ("return tuple(numbers), ahead_us, oldest_us + self._max_age_us",
      "return tuple(numbers), ahead_us, oldest_us + self._max_age_us + 1")),
    ("kept from the start", denial_cache, tests.test_nothing_is_kept_before_a_first_denial,
     ("self.is_active = False\n        self._active_until_us = self._latest_us = 0",
      "self.is_active = is_on\n        self._active_until_us, self._latest_us = 2**62, 0")),
    ("kept for ever", denial_cache, tests.test_keeping_ends_when_nobody_is_denied,
     ("if now_us >= self._active_until_us:\n            self.is_active = False",
      "if False:\n            self.is_active = False")),
    ("it cannot be switched off", denial_cache, tests.test_it_can_be_switched_off,
     ("if not self._is_on:", "if False:")),
    ("threads disturb each other", denial_cache, tests.test_threads_look_at_the_clock_in_any_order,
     ("if not self._is_injected:\n                return", "if False:\n                return")),
    ("no end of keys", denial_cache, tests.test_it_cannot_grow_without_end,
     ("BoundedCache(_MAX_KEYS)", "BoundedCache(100)")),
    ("no end of methods", denial_cache, exact.test_a_key_of_many_methods,
     ("if len(others) >= _MAX_RECORDED:", "if False:")),
    ("one method at a time", denial_cache, exact.test_methods_with_buckets_of_their_own,
     ("own.replies = (new, *others)", "own.replies = (new,)")),
    ("the first that tells of a limit is believed", denial_cache, exact.test_what_had_room_and_has_less_now_counts_too,
     ("latest is None or _is_newer(reply.server_us, level, latest)",
      "latest is None or (reply.server_us, level) > (latest.server_us, latest.level)")),
    ("what others are told of shared limits is theirs", denial_cache,
     exact.test_what_others_are_told_of_a_shared_limit_counts_at_once,
     ("or _is_newer(server_us, level, before)", "")),
    ("403 is 429", denial_cache,
     lambda *world: pushes.test_a_key_that_opens_nothing_is_refused_as_such(*world, pushes.disabled, "disabled"),
     ("if prepared.key_id and not judged_us:", "if prepared.key_id and judged_us:")),
]  # fmt: skip


def mutate(monkeypatch, module, *changes):
    """Replace texts in a module, in memory: what they change of its functions, methods and constants is what runs."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    if RECORDS_STAY in changes:
        monkeypatch.setattr(KeyCache, "forget_changed", lambda *_: None)
    for right, wrong in (change for change in changes if change is not RECORDS_STAY):
        # No AssertionError: a bug that is not there must not pass for one found.
        if source.count(right) != 1:
            raise ValueError(f"{right!r} is not there, or not once: adapt the seeded bug")
        source = source.replace(right, wrong)
    mutated = types.ModuleType(module.__name__)
    exec(compile(source, module.__file__, "exec"), vars(mutated))
    for name, made in vars(mutated).items():
        right = vars(module).get(name)
        if isinstance(made, frozenset) and made != right:
            monkeypatch.setattr(module, name, made)
        elif isinstance(made, type) and made.__module__ == module.__name__:
            for attribute, method in vars(made).items():
                if _differs(method, vars(right)[attribute]):
                    monkeypatch.setattr(right, attribute, method)
        elif _differs(made, right):
            monkeypatch.setattr(module, name, made)


def _differs(made, right):
    made, right = (getattr(each, "fget", each) for each in (made, right))  # what a property calls
    codes = [getattr(each, "__code__", None) for each in (made, right)]
    return None not in codes and len({(code.co_code, code.co_consts, code.co_names) for code in codes}) > 1


@pytest.mark.parametrize(
    ("module", "test", "changes"),
    [(module, test, changes) for _, module, test, *changes in TRACES + BUGS],
    ids=[f"trace {name}" for name, *_ in TRACES] + [name for name, *_ in BUGS],
)
def test_a_seeded_bug_is_found(server, clock, monkeypatch, module, test, changes):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    mutate(monkeypatch, module, *changes)
    takes = {"monkeypatch": monkeypatch} if "monkeypatch" in signature(test).parameters else {}
    with pytest.raises(AssertionError):
        test(server, clock, **takes)
