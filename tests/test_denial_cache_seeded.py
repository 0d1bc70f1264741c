"""The tests of the denial cache fail on bugs that such caches are prone to."""

import types
from pathlib import Path

import pytest
import test_denial_cache as tests
import test_denial_cache_exact as exact

from ratelimit.core import checking, denial_cache, refusals

BUGS = [
    ("smaller costs refused", "if cost < refusal.cost:", "if False:", tests.test_higher_costs_wait_longer, ()),
    ("higher costs wait no longer", "left_us + more", "left_us", tests.test_higher_costs_wait_longer, ()),
    ("a microsecond too long", "min(self.wait_us, max_age_us)", "min(self.wait_us + 1, max_age_us)",
     tests.test_it_answers_until_the_exact_microsecond, ()),
    ("keys share what is theirs", "self._own.get(question.key_id), self._shared\n        if",
     "next(iter(self._own._entries.values()), None), self._shared\n        if",
     tests.test_what_is_known_of_one_key_is_not_told_another, ()),
    ("stages share buckets", "limit.where", "limit.name", tests.test_buckets_of_one_method_in_two_stages_are_two, ()),
    ("leases forgotten", "book.has_leases", "False",
     tests.test_what_leases_give_back_to_a_shared_limit_admits_at_once, ()),
    ("another plan lifts nothing", "self._own, self._shared = Bounded(_MOST_KEYS), {}\n            else",
     "pass\n            else", tests.test_what_may_be_anything_lifts_everything, ("keys",)),
    ("late denials are kept", "sent_us <= self._lifted_us", "sent_us < 0",
     tests.test_a_denial_asked_before_a_push_is_not_kept, ()),
    ("other limits forgotten", "cost <= refusal.most:", "True:", exact.test_what_another_limit_never_admits, ()),
    ("what is charged does not count", "if not any(_meets(one, key_id, met) for one in kept)", "if where",
     exact.test_what_was_admitted_meanwhile, ()),
    ("an admission forgets everything", "if not any(_meets(one, key_id, met) for one in kept)", "if not where",
     exact.test_an_admission_elsewhere_leaves_what_it_did_not_touch, ()),
    ("what had room does not count", "for _, limit, where in refusal.call.places",
     "for _, limit, where in refusal.call.places[:1]", exact.test_what_had_room_and_has_less_now_is_asked, ()),
    ("one limit is answer enough", "len(refusing) == len(call.places)", "True",
     exact.test_a_limit_that_refused_another_method_is_no_answer_where_others_are_met, ()),
    ("one cost alone is known", "islice(others, _MOST_COSTS - 1)", "()", exact.test_costs_in_turn, ()),
    ("what a later time said is kept", "kept[0].sent_us <= sent_us and ", "",
     exact.test_a_clock_that_went_back_voids_what_it_had_said, ()),
    ("keys do not expire", "0 < question.valid_until_us <=", "0 < 0 <=",
     exact.test_a_key_that_expires_is_refused_as_such, ()),
    ("told again for another cost", "return cost == self.cost and self", "return self",
     tests.test_higher_costs_wait_longer, ()),
    ("told again when it is over", "self.from_us <= now_us < self.until_us", "self.from_us <= now_us",
     exact.test_what_was_told_ends_when_it_ends, ()),
    ("told again although more is known", "told.own is not own or ", "",
     exact.test_what_is_learnt_of_another_limit_counts_at_once, ()),
    ("told again whatever others were told", "told.shared is not shared or ", "",
     exact.test_what_others_are_told_of_a_shared_limit_counts_at_once, ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong", "test", "arguments"), [bug[1:] for bug in BUGS], ids=[bug[0] for bug in BUGS]
)
def test_a_seeded_bug_is_found(backend, clock, monkeypatch, right, wrong, test, arguments):
    """With the bug the test fails; that it passes without is for the test itself to show."""
    texts = {module: Path(module.__file__).read_text(encoding="utf-8") for module in (denial_cache, refusals)}
    places = [module for module, source in texts.items() if right in source]
    if len(places) != 1:
        raise ValueError(f"{right!r} is in {len(places)} modules: adapt the seeded bug")
    mutated = types.ModuleType("ratelimit.core.mutated")
    monkeypatch.setitem(__import__("sys").modules, mutated.__name__, mutated)
    exec(compile(texts[places[0]].replace(right, wrong), "mutated", "exec"), vars(mutated))
    user = checking if places == [denial_cache] else denial_cache
    for name in vars(user).keys() & vars(mutated).keys():
        if getattr(vars(mutated)[name], "__module__", None) == mutated.__name__:
            monkeypatch.setattr(user, name, vars(mutated)[name])
    with pytest.raises(AssertionError):
        test(backend, clock, *arguments)
