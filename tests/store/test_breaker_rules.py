"""When a breaker doubts, opens and closes: each rule, in virtual time, and an hour of blips and stalls."""

import inspect
import types
from itertools import pairwise
from math import inf

import pytest
from helpers.breaker_simulation import Simulation

from ratelimit.store import breaker as shipped


def middle(low, high):
    """No jitter."""
    return (low + high) / 2


def made(module, jitter=middle):
    """A breaker whose endpoint has just answered, at second 100."""
    breaker = module.Breaker(jitter)
    breaker.last_arrival_s = 100.0
    return breaker


def after(breaker, now_s, *, has_spare=True):
    """What is to be done at this time, its name alone."""
    return breaker.step(now_s, has_spare=has_spare)[0].name


def opened(module, now_s=100.0, jitter=middle):
    breaker = made(module, jitter)
    breaker.open(now_s)
    assert breaker.is_open
    return breaker


def silence_alone_means_nothing(module):
    """Nobody sent anything."""
    breaker = made(module)
    assert breaker.step(10_000, has_spare=True) == (module.Step.NOTHING, inf)
    assert not breaker.is_open


def a_miss_alone_means_nothing(module):
    """Others were answered, before and after."""
    breaker = made(module)
    breaker.miss(100.04)
    assert breaker.step(100.04, has_spare=True) == (module.Step.NOTHING, pytest.approx(0.01))
    breaker.last_arrival_s = 100.045
    assert breaker.step(100.06, has_spare=True) == (module.Step.NOTHING, inf)
    assert breaker.step(101.0, has_spare=True) == (module.Step.NOTHING, inf)
    assert not breaker.is_open


def a_miss_and_silence_ask_the_spare_once(module):
    """After 50 ms of silence, not before."""
    breaker = made(module)
    breaker.miss(100.03)
    assert after(breaker, 100.049) == "NOTHING"
    assert breaker.step(100.051, has_spare=True) == (module.Step.PING_SPARE, 0.05)
    breaker.miss(100.06)
    assert breaker.step(100.061, has_spare=True) == (module.Step.NOTHING, pytest.approx(0.04))
    assert not breaker.is_open


def before_anything_arrived_the_spare_is_asked_at_once(module):
    """An endpoint that was never heard of."""
    breaker = module.Breaker(middle)
    breaker.miss(100.0)
    assert after(breaker, 100.0) == "PING_SPARE"


def a_silent_spare_opens(module):
    """After 50 ms, not before, and without a probe at once: the spare's answer is still awaited."""
    breaker = made(module)
    breaker.miss(100.05)
    assert after(breaker, 100.05 + 1e-9) == "PING_SPARE"
    assert after(breaker, 100.099) == "NOTHING"
    assert not breaker.is_open
    assert breaker.step(100.101, has_spare=True) == (module.Step.NOTHING, pytest.approx(0.1))
    assert breaker.is_open


def a_spare_that_was_lost_is_as_silent(module):
    """It was asked, and ended."""
    breaker = made(module)
    breaker.miss(100.05)
    assert after(breaker, 100.06) == "PING_SPARE"
    after(breaker, 100.111, has_spare=False)
    assert breaker.is_open


def an_answer_of_the_spare_ends_the_suspicion(module):
    """It takes another miss, and another silence, to doubt again."""
    breaker = made(module)
    breaker.miss(100.05)
    assert after(breaker, 100.06) == "PING_SPARE"
    breaker.answer(100.07)
    assert breaker.step(100.2, has_spare=True) == (module.Step.NOTHING, inf)
    breaker.miss(100.21)
    assert after(breaker, 100.21) == "PING_SPARE"
    assert after(breaker, 100.25) == "NOTHING"
    assert not breaker.is_open


def any_arrival_ends_the_suspicion(module):
    """Up to the last moment."""
    breaker = made(module)
    breaker.miss(100.05)
    assert after(breaker, 100.06) == "PING_SPARE"
    breaker.last_arrival_s = 100.109
    assert breaker.step(100.12, has_spare=True) == (module.Step.NOTHING, inf)
    breaker.miss(100.17)
    assert after(breaker, 100.17) == "PING_SPARE"
    assert not breaker.is_open


def a_suspicion_of_before_does_not_count(module):
    """Nobody stepped between an arrival and the next miss."""
    breaker = made(module)
    breaker.miss(100.05)
    assert after(breaker, 100.06) == "PING_SPARE"
    breaker.last_arrival_s = 100.07
    breaker.miss(100.08)
    assert after(breaker, 100.115) == "NOTHING"
    assert not breaker.is_open
    assert after(breaker, 100.121) == "PING_SPARE"


def without_a_spare_five_misses_and_longer_silence_open(module):
    """Neither four of them nor less than 100 ms."""
    breaker = made(module)
    for number in range(4):
        breaker.miss(100.05 + number / 100)
    assert breaker.step(100.2, has_spare=False) == (module.Step.NOTHING, inf)
    assert not breaker.is_open
    breaker.miss(100.21)
    after(breaker, 100.21, has_spare=False)
    assert breaker.is_open
    breaker = made(module)
    for _ in range(5):
        breaker.miss(100.06)
    assert breaker.step(100.07, has_spare=False) == (module.Step.NOTHING, pytest.approx(0.03))
    assert not breaker.is_open
    after(breaker, 100.101, has_spare=False)
    assert breaker.is_open


def misses_count_in_a_row(module):
    """What arrives between them begins the count anew."""
    breaker = made(module)
    for number in range(20):
        now_s = 100.05 + number / 20
        breaker.miss(now_s)
        if number % 4 == 3:
            breaker.last_arrival_s = now_s + 0.001
        after(breaker, now_s + 0.002, has_spare=False)
        assert not breaker.is_open


def probes_are_paced(module):
    """The first after an interval, then one each, however often somebody steps."""
    breaker = opened(module)
    probes = [now_ms for now_ms in range(1001) if after(breaker, 100 + now_ms / 1000) == "PROBE"]
    assert len(probes) in {9, 10}
    assert probes[0] in {100, 101}
    assert all(second - first in {100, 101} for first, second in pairwise(probes))


def probes_of_replicas_are_not_in_step(module):
    """A quarter of the interval to both sides."""
    asked_of_jitter = []

    def jitter(low, high):
        asked_of_jitter.append((low, high))
        return high

    breaker = opened(module, jitter=jitter)
    assert after(breaker, 100.124) == "NOTHING"
    assert breaker.step(100.126, has_spare=True) == (module.Step.PROBE, pytest.approx(0.125))
    assert asked_of_jitter == [(0.75, 1.25)] * 2


def probes_wait_for_ever(module):
    """The first one may be what is answered, much later; it closes, and nothing more is to be done."""
    breaker = opened(module)
    for second in range(101, 200):
        assert after(breaker, second) == "PROBE"
        assert breaker.is_open
    breaker.answer(200.0)
    assert not breaker.is_open
    assert breaker.step(300.0, has_spare=True) == (module.Step.NOTHING, inf)


def misses_of_before_do_not_open_again(module):
    """Who closed it has answered all doubts."""
    breaker = made(module)
    for _ in range(10):
        breaker.miss(100.05)
    after(breaker, 100.06)
    after(breaker, 100.12)
    assert breaker.is_open
    breaker.answer(100.13)
    assert breaker.step(105.0, has_spare=False) == (module.Step.NOTHING, inf)
    breaker.miss(105.0)
    assert breaker.step(105.0, has_spare=False) == (module.Step.NOTHING, inf)
    assert not breaker.is_open


def opening_twice_delays_no_probe(module):
    """Each connection that fails says that there is none."""
    breaker = opened(module)
    for now_ms in range(0, 99, 10):
        breaker.open(100 + now_ms / 1000)
    assert after(breaker, 100.101) == "PROBE"


def an_answer_is_an_arrival(module):
    """The latest one counts, in whatever order they are noted."""
    breaker = opened(module)
    breaker.answer(150.0)
    assert breaker.last_arrival_s == 150.0
    breaker.answer(140.0)
    assert breaker.last_arrival_s == 150.0
    breaker.miss(150.04)
    assert after(breaker, 150.04) == "NOTHING"


RULES = [
    rule for rule in vars().values() if inspect.isfunction(rule) and "module" in inspect.signature(rule).parameters
]
RULES = [rule for rule in RULES if rule not in {made, opened}]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    """Each by the breaker that is shipped."""
    rule(shipped)


BUGS = {
    "a miss opens": ("self._misses += 1", "self._misses += 1; self.is_open = True"),
    "silence counts from the first miss": ("now_s - self.last_arrival_s\n", "now_s - self._suspected_s\n"),
    "the silence is shorter": ("SILENCE_S = 0.05\n", "SILENCE_S = 0.02\n"),
    "the silence is longer": ("SILENCE_S = 0.05\n", "SILENCE_S = 0.2\n"),
    "the spare has less time": ("SPARE_PATIENCE_S = 0.05", "SPARE_PATIENCE_S = 0.02"),
    "the spare has more time": ("SPARE_PATIENCE_S = 0.05", "SPARE_PATIENCE_S = 0.5"),
    "the spare is pinged again and again": ("            self._pinged_s = now_s\n", ""),
    "the spare is never pinged": ("self._pinged_s == inf and has_spare", "False"),
    "a spare is pinged that is none": ("self._pinged_s == inf and has_spare", "self._pinged_s == inf"),
    "a lost spare is pinged no more": ("if self._pinged_s < inf:", "if False:"),
    "four misses are enough": ("LONE_MISSES = 5", "LONE_MISSES = 4"),
    "six misses are needed": ("LONE_MISSES = 5", "LONE_MISSES = 6"),
    "without a spare the silence is as short": ("LONE_SILENCE_S = 0.1", "LONE_SILENCE_S = 0.05"),
    "misses add up": ("        self._misses = 0\n\n    def _schedule", "\n    def _schedule"),
    "an arrival does not end the suspicion": ("if self.last_arrival_s > self._suspected_s:", "if False:"),
    "a suspicion of before counts": ("if self._suspected_s < self.last_arrival_s:", "if False:"),
    "an answer does not close": ("        self.is_open = False\n        self._next", "        self._next"),
    "an answer is no arrival": ("max(self.last_arrival_s, now_s)", "self.last_arrival_s"),
    "an older answer counts": ("max(self.last_arrival_s, now_s)", "now_s"),
    "opening again delays the probe": ("        if not self.is_open:\n", "        if True:\n"),
    "a probe at once": ("self._schedule_probe(now_s)\n\n    def step", "self._next_probe_s = now_s\n\n    def step"),
    "one probe": ("self._schedule_probe(now_s)\n            return", "self._next_probe_s = inf\n            return"),
    "a probe at each step": ("if now_s < self._next_probe_s:", "if False:"),
    "no jitter": ("self._jitter(1 - PROBE_JITTER, 1 + PROBE_JITTER)", "1"),
    "probes are rarer": ("PROBE_INTERVAL_S = 0.1", "PROBE_INTERVAL_S = 0.2"),
}  # fmt: skip
"""What is wrong -> (text of the breaker, what stands there instead)."""


def with_bug(name):
    before, instead = BUGS[name]
    source = inspect.getsource(shipped)
    assert source.count(before) == 1
    module = types.ModuleType("breaker")
    exec(compile(source.replace(before, instead), "breaker", "exec"), vars(module))
    return module


def is_broken(rule, module):
    try:
        rule(module)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_breaks_a_rule(name):
    """Each one that is put in on purpose."""
    module = with_bug(name)
    assert any(is_broken(rule, module) for rule in RULES)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("pipelined", [True, False], ids=["one connection", "one connection each"])
def test_an_hour_of_blips_opens_nothing(pipelined, seed):
    """One request in a thousand is held up for 60 to 300 ms: with asyncio, with all that are behind it.

    No-ops on the spare connection meet blips as well, and so do new connections.
    """
    hour = Simulation(seed, pipelined=pipelined).run(3600)
    assert hour.openings == []
    assert hour.waited > 3000  # there were blips
    assert (hour.pings > 3000) == pipelined


STALLS = [(start, start + 1 + start % 5) for start in range(10, 1790, 20)]


@pytest.mark.parametrize("rate", [1000, 100, 20])
@pytest.mark.parametrize("pipelined", [True, False], ids=["one connection", "one connection each"])
def test_real_stalls_open_in_time(pipelined, rate):
    """Of a second and more: within 200 ms, and closed at the moment at which the server answers again."""
    run = Simulation(3, pipelined=pipelined, rate=rate, stalls=STALLS, blip_spare=False).run(1800)
    assert len(run.openings) == len(run.closings) == len(STALLS)
    for (start, end), opened_s, closed_s in zip(STALLS, run.openings, run.closings, strict=True):
        assert start < opened_s <= start + 0.2
        assert closed_s == end
    seconds = sum(end - start for start, end in STALLS)
    assert run.probes <= seconds * 1000 / 75
